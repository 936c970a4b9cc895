/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tiny random model folders. See model.h. */
#include <string.h>

#include "config.h"
#include "model.h"

void test_model_default(TestModel *m)
{
    memset(m, 0, sizeof(*m));
    m->sizes = (PlanSizes){
        .dit = { .dim = 48, .nb_heads = 3, .nb_layers = 4, .ffn_dim = 96, .freq_dim = 32, .text_dim = 24, .text_len = 16, .audio_dim = 32,
                 .nb_audio_layers = 4, .nb_audio_tokens = 4, .nb_inject = 2, .inject = { 0, 2 }, .eps = 1e-6f },
        .wav2vec2 = { 32, 3, 4, 64, { 16, 16, 16, 16, 16, 16, 16 }, 4, 16 },
        .umt5 = { .dim = 24, .attn_dim = 32, .ffn_dim = 48, .nb_heads = 4, .nb_layers = 2, .nb_buckets = 32, .vocab = 512, .dtype = DT_F32 },
        .vae_width = 4, .dtype = DT_F32,
    };
    m->t5_dtype = DT_F32;
    m->seed = 1;
    m->spiece = AVT_SRCDIR "/tests/gold/spiece.model";
}

void test_model_nano(TestModel *m)
{
    test_model_default(m);
    m->sizes.dit = (DitConfig){ .dim = 192, .nb_heads = 3, .nb_layers = 4, .ffn_dim = 768, .freq_dim = 64, .text_dim = 64, .text_len = 32,
                                .audio_dim = 128, .nb_audio_layers = 5, .nb_audio_tokens = 4, .nb_inject = 3, .inject = { 0, 1, 2 },
                                .eps = 1e-6f };
    m->sizes.wav2vec2 = (Wav2Vec2Config){ 128, 4, 4, 256, { 64, 64, 64, 64, 64, 64, 64 }, 8, 32 };
    m->sizes.umt5 = (Umt5Config){ .dim = 64, .attn_dim = 64, .ffn_dim = 128, .nb_heads = 4, .nb_layers = 2, .nb_buckets = 32, .vocab = 512,
                                  .dtype = DT_F32 };
    m->sizes.vae_width = 16;
    m->sizes.dtype = DT_BF16;
    m->lora_rank = 4;
    m->avatar_json = "{\"name\": \"random weights at nano's sizes\", \"size\": \"128x128\"}\n";
}

int test_model_write(const TestModel *m, const char *dir)
{
    return seeded_write(m, dir);
}

int test_network_write(const TestModel *m, const char *network, const char *path)
{
    return seeded_network(m, network, path);
}
