/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tiny model folder in the published layout, with seeded random weights: made from what the networks ask of a Binder, so it
 * cannot disagree with them. For tests and for trying plans at any size.
 */
#ifndef AVT_TEST_MODEL_H
#define AVT_TEST_MODEL_H

#include "engine/plan.h"

typedef struct TestGain {
    const char *part;                   // of a tensor's name
    float gain;
} TestGain;

typedef struct TestModel {
    PlanSizes sizes;                    // sizes.dtype: storage of the transformer's matrices
    DType t5_dtype;                     // storage of the text encoder's matrices
    uint64_t seed;
    const TestGain *gain;               // what is larger than drawn, ended by a NULL part; or NULL
    int lora_rank;                      // 0: no LoRA
    const char *avatar_json;            // text of avatar.json, or NULL
    const char *spiece;                 // tokenizer to copy
} TestModel;

/** D 48, 3 heads, 4 layers, audio after 0 and 2, VAE width 4, wav2vec2 of 3 layers. */
void test_model_default(TestModel *m);
/** The sizes of the embedded model. */
void test_model_nano(TestModel *m);
/** Write the folder (made when absent). @return 0 or a negative error, said on stderr */
int  test_model_write(const TestModel *m, const char *dir);
/** One network's file: "dit", "vae", "wav2vec2", "umt5". @return 0 or a negative error */
int  test_network_write(const TestModel *m, const char *network, const char *path);

#endif
