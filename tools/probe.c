/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See probe.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/session.h"
#include "probe.h"
#include "stop.h"

#define FACE    PROBE_FACE
#define SAMPLES ((PROBE_BLOCKS * AVATAR_BLOCK_FRAMES + 6) * AVATAR_SAMPLE_RATE / AVATAR_FPS)

/* ---- the question -------------------------------------------------------------------------------------------------- */

/* A head on a ground, with eyes and a mouth: anything that the encoder sees something in. */
void probe_face(uint8_t *rgb)
{
    for (int y = 0; y < FACE; y++)
        for (int x = 0; x < FACE; x++) {
            const double u = (x + 0.5) / FACE - 0.5, v = (y + 0.5) / FACE - 0.5;
            const int head = u * u / 0.10 + v * v / 0.17 < 1, eye = (fabs(u) - 0.12) * (fabs(u) - 0.12) + (v + 0.08) * (v + 0.08) < 0.0016;
            const int mouth = u * u / 0.014 + (v - 0.2) * (v - 0.2) / 0.0012 < 1;
            uint8_t *p = rgb + 3 * (y * FACE + x);

            p[0] = (uint8_t)(mouth ? 150 : eye ? 40 : head ? 214 - 50 * u : 70 + 60 * v);
            p[1] = (uint8_t)(mouth ? 60 : eye ? 34 : head ? 168 - 50 * u : 96 + 60 * v);
            p[2] = (uint8_t)(mouth ? 64 : eye ? 40 : head ? 140 - 40 * u : 130);
        }
}

/* A buzz of 120 Hz that opens and closes three times a second. */
void probe_voice(float *pcm, int nb)
{
    for (int i = 0; i < nb; i++) {
        const double t = i / (double)AVATAR_SAMPLE_RATE, open = fmax(0, sin(2 * M_PI * 3 * t));
        double v = 0;

        for (int k = 1; k <= 12; k++)
            v += sin(2 * M_PI * 120 * k * t) / k * exp(-fabs(120 * k - 700 * (0.6 + 0.4 * open)) / 400);
        pcm[i] = (float)(0.3 * open * v);
    }
}

/* ---- what is seen -------------------------------------------------------------------------------------------------- */

static void take_latents(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Probe *p = opaque;

    if (block >= PROBE_BLOCKS)
        return;
    if (!p->latents) {
        p->latents = calloc((size_t)nb * PROBE_BLOCKS, sizeof(*p->latents));
        p->nb = nb;
    }
    if (!p->latents || nb != p->nb)
        return;
    memcpy(p->latents + block * nb, v, sizeof(*v) * (size_t)nb);
    p->got++;
}

static void take_returned(void *opaque, const float *px, const float *back, int64_t nb)
{
    Probe *p = opaque;

    if (p->px)
        return;
    p->px = malloc(sizeof(*px) * (size_t)nb);
    p->back = malloc(sizeof(*back) * (size_t)nb);
    if (!p->px || !p->back)
        return;
    memcpy(p->px, px, sizeof(*px) * (size_t)nb);
    memcpy(p->back, back, sizeof(*back) * (size_t)nb);
    p->nb_px = nb;
}

static void take_motion(void *opaque, double share)
{
    ((Probe *)opaque)->moved = share;
}

static int run_session(Probe *p, AvatarEngine *e, const AvatarLook *look, const ProbeVoice *voice)
{
    const SessionHooks hooks = { .rank = { .opaque = p, .latents = take_latents, .returned = take_returned }, .moved = take_motion };
    float pcm[SAMPLES];
    AvatarSession *s = NULL;
    AvatarFrame frame;
    int ret = avt_session_open(&s, e, look, &hooks);

    stop_session(s);
    probe_voice(pcm, SAMPLES);
    if (ret >= 0) {
        avatar_session_info(s, &p->info);
        ret = avatar_session_send(s, voice ? voice->pcm : pcm, voice ? voice->nb : SAMPLES);
    }
    if (ret >= 0)
        ret = avatar_session_send(s, NULL, 0);
    while (ret >= 0)
        ret = avatar_session_receive(s, &frame, AVATAR_WAIT);
    stop_session(NULL);
    avatar_session_close(&s);
    return ret == AVATAR_EOF ? 0 : ret;
}

int probe_run(Probe *p, const ToolOptions *o, const ProbeVoice *voice)
{
    AvatarEngine *e = NULL;
    AvatarLook look = o->look;
    uint8_t *face = malloc(3 * FACE * FACE);
    int ret = face ? avatar_engine_open(&e, &o->engine) : AVATAR_ERR(ENOMEM);

    *p = (Probe){ .moved = -1 };
    if (face)
        probe_face(face);
    if (!look.rgb) {
        look.rgb = face;
        look.width = look.height = FACE;
    }
    look.seed = 7;
    look.mode = AVATAR_OFFLINE;                                     // all of it, however late
    if (ret >= 0)
        ret = run_session(p, e, &look, voice);
    avatar_engine_close(&e);
    avatar_engine_flush();
    free(face);
    return ret >= 0 && p->got != PROBE_BLOCKS ? AVATAR_ERR(ENOMEM) : ret;
}

void probe_free(Probe *p)
{
    free(p->latents);
    free(p->px);
    free(p->back);
    memset(p, 0, sizeof(*p));
}
