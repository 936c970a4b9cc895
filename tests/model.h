/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tiny model folders with seeded random weights, for tests: tools/seeded.h.
 */
#ifndef AVT_TEST_MODEL_H
#define AVT_TEST_MODEL_H

#include "tools/seeded.h"

typedef SeededModel TestModel;
typedef SeededGain TestGain;

/** D 48, 3 heads, 4 layers, audio after 0 and 2, VAE width 4, wav2vec2 of 3 layers. */
void test_model_default(TestModel *m);
/** The sizes of the embedded model. */
void test_model_nano(TestModel *m);
/** Write the folder (made when absent). @return 0 or a negative error, said on stderr */
int  test_model_write(const TestModel *m, const char *dir);
/** One network's file: "dit", "vae", "wav2vec2", "umt5". @return 0 or a negative error */
int  test_network_write(const TestModel *m, const char *network, const char *path);

#endif
