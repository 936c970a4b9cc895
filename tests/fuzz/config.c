/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzzer entry: the configuration files of a model folder. The first byte says which one the rest is: config.json, those of
 * wav2vec2, or avatar.json. The tiny model's tensors stand beside them.
 */
#include <string.h>

#include "file.h"
#include "files/modeldir.h"
#include "model.h"

enum { DIT, WAV2VEC2, PREPROCESSOR, AVATAR, NB_KINDS };

static Ckpt *dit;
static char wav2vec2[512], preprocessor[512];

static void open_model(const uint8_t *data, size_t size)
{
    TestModel m;

    fuzz_make_folder();
    test_model_default(&m);
    if (test_model_write(&m, fuzz_folder) < 0 || avt_ckpt_open(&dit, fuzz_path("diffusion_pytorch_model.safetensors"), NULL) < 0)
        abort();
    snprintf(wav2vec2, sizeof(wav2vec2), "%s", fuzz_path("wav2vec2-large-xlsr-53-english/config.json"));
    snprintf(preprocessor, sizeof(preprocessor), "%s", fuzz_path("wav2vec2-large-xlsr-53-english/preprocessor_config.json"));
    if (symlink(fuzz_file(data, size), fuzz_path("avatar.json")))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int kind = size ? data[0] % NB_KINDS : 0;
    const char *path;
    Wav2Vec2Config w;
    DitConfig d;
    ModelDir dir;

    if (!size)
        return 0;
    if (!dit)
        open_model(data, size);
    path = fuzz_file(data + 1, size - 1);
    if (kind == DIT)
        avt_dit_config(&d, path, dit, NULL);
    else if (kind == WAV2VEC2)
        avt_wav2vec2_config(&w, path, preprocessor, NULL);
    else if (kind == PREPROCESSOR)
        avt_wav2vec2_config(&w, wav2vec2, path, NULL);
    else if (avt_modeldir_open(&dir, fuzz_folder, NULL) >= 0)
        avt_modeldir_close(&dir);
    return 0;
}
