/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does the sound move the picture? A VAE gives a face back as well as any although the film that is made of it stands still, as where the face
 * is larger in the frame than those that the model knows. So a film is made, of as much of the sound as it takes, and the session's own measure
 * of motion is taken (engine/motion.h).
 */
#include "doctor.h"
#include "engine/engine.h"
#include "engine/loudness.h"
#include "engine/motion.h"
#include "probe.h"

#define BLOCK (AVATAR_BLOCK_FRAMES * AVATAR_SAMPLE_RATE / AVATAR_FPS)      // samples
#define MOST  (2 * MOTION_BLOCKS)       // blocks that the film may have
#define LARGE 4                         // times as many pixels as the model's own frames have: their film is left to the filter
#define STILL 0.1                       // of frames: half of what is asked for

/* From block `from` on: how many blocks it takes until enough have speech; 0: too many. As the session counts them. */
static int run_of_speech(const Heard *h, int64_t from)
{
    int spoken = 0;

    for (int i = 0; i < MOST && (from + i + 1) * BLOCK <= h->nb; i++) {
        spoken += avt_loudness_speaks(h->pcm + (from + i) * BLOCK, BLOCK / LOUDNESS_PIECE);
        if (spoken == MOTION_BLOCKS)
            return i + 1;
    }
    return 0;
}

/* What stands in the way, whatever the sound, or NULL. */
static const char *obstacle(const ToolOptions *o)
{
    ModelDir m = { .dir = NULL };
    AvatarLook own = o->look;
    int w, h, own_w, own_h, motion;

    own.out_width = own.out_height = 0;
    avt_options_model(&m, &o->engine, NULL);
    motion = m.motion;
    avt_settle_size(&w, &h, &m, o->engine.compat, &o->look, NULL);
    avt_settle_size(&own_w, &own_h, &m, o->engine.compat, &own, NULL);
    avt_modeldir_close(&m);
    if (!motion)
        return "the model's avatar.json has no `motion` to judge it by";
    return w * h > LARGE * own_w * own_h ? "frames of this size would take too long; the film will tell" : NULL;
}

int doctor_speech(const float **pcm, const char **why, const ToolOptions *o, const Heard *h)
{
    const int64_t last = h->nb / BLOCK - MOTION_BLOCKS;
    int best = 0;

    *why = obstacle(o);
    if (*why || !h->pcm) {
        *why = *why ? *why : "name the sound as well";
        return 0;
    }
    *why = "there is no 8 s with 4 s of speech in the first minute of the sound";
    for (int64_t b = 0; b <= last && best != MOTION_BLOCKS; b++) {
        const int nb = run_of_speech(h, b);

        if (nb && (!best || nb < best)) {
            best = nb;
            *pcm = h->pcm + b * BLOCK;
        }
    }
    return best * BLOCK;
}

void doctor_motion(Findings *f, const char *why, double moved)
{
    if (moved < 0)
        doctor_words(f, "picture", "moves with the sound", GOOD, "not judged: %s", why);
    else
        doctor_number(f, "picture", "moves with the sound", 100 * moved, "% of frames", doctor_judge(moved, MOTION_SHARE, STILL),
                      "its film hardly moves although there is speech: take a face as large in the frame as those that the model knows");
}
