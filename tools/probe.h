/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two blocks through the whole chain, or some more, and what is seen inside of it: for avatar verify and avatar doctor. */
#ifndef AVT_TOOL_PROBE_H
#define AVT_TOOL_PROBE_H

#include <stddef.h>

#include "base/log.h"
#include "options.h"

#define PROBE_BLOCKS 2

typedef struct Probe {
    AvatarInfo info;
    float *latents;                     // [PROBE_BLOCKS][nb]
    int64_t nb;
    float *px, *back;                   // [nb_px]: the picture as the VAE took it and gave it back, [H, W, 3] in [-1, 1]; or NULL
    int64_t nb_px;
    int got;                            // blocks
    double moved;                       // share of frames in which the film's liveliest place changes (engine/motion.h); < 0: nobody has seen
} Probe;

typedef struct ProbeVoice {
    const float *pcm;                   // 16 kHz mono
    int nb;                             // samples: PROBE_BLOCKS of them or more
} ProbeVoice;

/** Open the model, compute the blocks, close it. Of o->look the picture is used, or a drawn face when there is none; the seed is 7.
 *  @param voice  NULL: one that is made up, PROBE_BLOCKS of it
 *  @return 0 or an error (logged by o->engine.log); probe_free() is due in any case */
int  probe_run(Probe *p, const ToolOptions *o, const ProbeVoice *voice);
void probe_free(Probe *p);
#define PROBE_FACE 256                              // pixels of the face, each way
/** The face, [PROBE_FACE][PROBE_FACE][3], and nb samples of the voice: of other questions, too. */
void probe_face(uint8_t *rgb);
void probe_voice(float *pcm, int nb);

typedef struct Likeness {
    AvatarInfo info;
    double distance, worst, limit;      // relative L2 of all latents, of the worst block; what may be
    int same;
} Likeness;

/** verify.c: compute what was recorded in `path`, at its size and steps, and compare. @return 0 or an error (logged) */
int  verify_model(Likeness *l, const ToolOptions *o, const char *path, const Log *log);
/** Where the answer of the model lies. */
void verify_path(char *path, size_t size, const ToolOptions *o);

#endif
