/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* mkmodel DIR [tiny|nano] [SEED]: a model folder with seeded random weights, for trying things by hand and for scripts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

int main(int argc, char **argv)
{
    TestModel m;

    if (argc < 2 || argv[1][0] == '-')
        return fprintf(stderr, "usage: mkmodel DIR [tiny|nano] [SEED]\n"), 2;
    test_model_default(&m);
    m.avatar_json = "{\"name\": \"tiny random weights\", \"lora\": \"none\", \"size\": \"64x64\"}\n";
    if (argc > 2 && !strcmp(argv[2], "nano")) {                     // the embedded model's sizes
        m.sizes.dit = (DitConfig){ .dim = 192, .nb_heads = 3, .nb_layers = 6, .ffn_dim = 768, .freq_dim = 64, .text_dim = 64, .text_len = 32,
                                   .audio_dim = 96, .nb_audio_layers = 5, .nb_audio_tokens = 4, .nb_inject = 3, .inject = { 0, 2, 4 },
                                   .eps = 1e-6f };
        m.sizes.wav2vec2 = (Wav2Vec2Config){ 96, 4, 4, 192, { 64, 64, 64, 64, 64, 64, 64 }, 8, 32 };
        m.sizes.umt5 = (Umt5Config){ .dim = 64, .attn_dim = 64, .ffn_dim = 128, .nb_heads = 4, .nb_layers = 2, .nb_buckets = 32, .vocab = 512,
                                     .dtype = DT_F32 };
        m.sizes.vae_width = 16;
        m.sizes.dtype = DT_BF16;
        m.lora_rank = 4;
        m.avatar_json = "{\"name\": \"random weights at nano's sizes\", \"size\": \"128x128\"}\n";
    }
    if (argc > 3)
        m.seed = strtoull(argv[3], NULL, 10);
    return test_model_write(&m, argv[1]) < 0;
}
