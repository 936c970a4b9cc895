/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The model folder, laid out as published (doc/model.md, "Files of a model folder"): which file is which, and what avatar.json adds.
 * Finds and checks; opens nothing large.
 */
#ifndef AVT_MODELDIR_H
#define AVT_MODELDIR_H

#include <stdint.h>

#include "base/log.h"

#define MODELDIR_MAX_STEPS 100          // as many as the sampler takes (nets/sampler.h)

typedef struct ModelDir {
    char *dir;
    char *config;                       // config.json
    char *dit;                          // diffusion_pytorch_model.safetensors.index.json, the one .safetensors, or any .gguf
    char *vae;                          // Wan2.1_VAE.pth or .safetensors
    char *t5;                           // models_t5_umt5-xxl-enc-bf16.pth or .safetensors, or a .gguf whose name begins with umt5
    char *spiece;                       // google/umt5-xxl/spiece.model
    char *wav2vec2;                     // wav2vec2-large-xlsr-53-english/model.safetensors
    char *wav2vec2_config, *wav2vec2_preprocessor;
    char *lora;                         // liveavatar.safetensors in the folder or in lora/, or NULL
    /* avatar.json, all optional */
    char *name;
    char *prompt;                       // or NULL
    int steps;                          // 0: not said
    int width, height;                  // 0: not said
    int64_t area;                       // 0: not said
    int lora_rule;                      // LORA_*
    double lora_alpha;                  // 0: not said
    int motion;                         // levels by which its films change where they change most: engine/motion.h; 0: not said
} ModelDir;

enum { LORA_UNSAID, LORA_REQUIRED, LORA_NONE, LORA_MERGED };       // merged: the weights have it, by avatar convert

/** @return 0; ENOENT naming the first missing file and what the folder should hold; AVT_INVALID for a bad avatar.json, or two files of
 *  which either could be meant */
int  avt_modeldir_open(ModelDir *m, const char *dir, const Log *log);
/** The same, but a file that is missing stays NULL. */
int  avt_modeldir_look(ModelDir *m, const char *dir, const Log *log);
/** i-th file that the folder must hold: its name in the folder, and its path or NULL. @return 0: there is no i-th */
int  avt_modeldir_part(const ModelDir *m, int i, const char **name, const char **path);
/** Does a file of this name hold weights, which avt_ckpt_open() reads? */
int  avt_modeldir_has_weights(const char *name);
/**
 * A number made of name, size, inode and times of every file that may be read: the folder's parts, avatar.json, all
 * *.safetensors beside them (shards), the LoRA. Another number: something was changed, added or taken away since.
 * @param lora  a file outside of the folder, or NULL
 */
uint64_t avt_modeldir_stamp(const ModelDir *m, const char *lora);
/**
 * A number made of what the transformer, the VAE and the LoRA hold: name, shape and type of each tensor, all of a small one, of a large one eight
 * pieces from its beginning to its end. Equal for copies on two hosts, whatever their names and times. Another model, another training of one and another
 * precision of one have other numbers; one of which somebody has changed single values in the middle of a matrix may not.
 * @param lora  the LoRA in use, or NULL   @param alpha  its option, or 0
 * @return 0 or an error of reading (logged)
 */
int avt_modeldir_print(uint64_t *sum, const ModelDir *m, const char *lora, double alpha, const Log *log);
/** One sentence on the i-th file, which is not there: the likely reason when the folder shows one.
 *  @return ENOENT; EISDIR, or why it cannot be looked at (EACCES, ELOOP) */
int  avt_modeldir_missing(const ModelDir *m, int i, const Log *log);
void avt_modeldir_close(ModelDir *m);

#endif
