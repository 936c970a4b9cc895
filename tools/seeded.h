/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A model folder in the published layout, with seeded random weights of any size: made from what the networks ask of a Binder, so it
 * cannot disagree with them. The same seed gives the same bits on every machine. For avatar verify, for tests, for trying plans.
 */
#ifndef AVT_TOOL_SEEDED_H
#define AVT_TOOL_SEEDED_H

#include "engine/plan.h"

typedef struct SeededGain {
    const char *part;                   // of a tensor's name
    float gain;
} SeededGain;

typedef struct SeededModel {
    PlanSizes sizes;                    // sizes.dtype: storage of the transformer's matrices
    DType t5_dtype;                     // storage of the text encoder's matrices
    uint64_t seed;
    const SeededGain *gain;             // what is larger than drawn, ended by a NULL part; or NULL
    int lora_rank;                      // 0: no LoRA
    const char *avatar_json;            // text of avatar.json, or NULL
    const char *spiece;                 // tokenizer to copy
    int (*stop)(void);                  // asked before each tensor, 1: writing ends with ECANCELED; or NULL
} SeededModel;

/** nb numbers in [-1, 1). */
void seeded_random(float *v, int64_t nb, uint64_t seed);
/** Write the folder (made when absent), a tensor at a time. @return 0 or a negative error, said on stderr */
int  seeded_write(const SeededModel *m, const char *dir);
/** One network's file: "dit", "vae", "wav2vec2", "umt5". @return 0 or a negative error */
int  seeded_network(const SeededModel *m, const char *network, const char *path);
/** Remove what seeded_write() makes, and the folder. */
void seeded_remove(const char *dir);
/** The published model's shapes, cut to two layers of so many heads, 40 of 128 as published: with these its encoders have the published
 *  width, too, two layers and one of them; with fewer heads they are small. @param spiece  a tokenizer of at most 2048 pieces */
void seeded_published(SeededModel *m, int heads, const char *spiece);

/** Such a model in a folder of its own, in TMPDIR or /var/tmp, with the embedded model's tokenizer: 3.5 GB with 40 heads.
 *  @param heads  1 to 40  @param models  as in AvatarOptions  @param stop  as in SeededModel
 *  @return 0 or a negative error, said on stderr; seeded_remove(folder) is due in any case where folder[0] */
int  seeded_open(char *folder, size_t size, int heads, const char *models, int (*stop)(void));

#endif
