/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar verify: does this machine, driver, plan compute what was computed where the answer was recorded?
 *
 * The question is always the same: a drawn face, a made-up voice, seed 7, the model's own prompt, two blocks. The answer is the latents of
 * both, rounded to bf16, in a safetensors file beside the model (verify.safetensors) that names size and steps. They go through
 * every network but the decoder; the encoder of the picture is in them.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/mem.h"
#include "engine/session.h"
#include "files/ckpt.h"
#include "options.h"
#include "speak.h"

#define BLOCKS  2
#define FACE    256                                 // pixels, each way
#define SAMPLES ((BLOCKS * AVATAR_BLOCK_FRAMES + 6) * AVATAR_SAMPLE_RATE / AVATAR_FPS)
#define ANSWER  "verify.safetensors"

/* Relative L2: what other orders of summing give, and what bf16 does; tests/e2e/precision holds the second. */
#define SAME_F32  4e-3                              // the answer itself is rounded to bf16: 1.6e-3
#define SAME_BF16 3e-2

typedef struct Latents {
    float *v;                           // [BLOCKS][nb]
    int64_t nb;                         // of a block
    int got;
} Latents;

/* ---- the question -------------------------------------------------------------------------------------------------- */

/* A head on a ground, with eyes and a mouth: anything that the encoder sees something in. */
static void draw_face(uint8_t *rgb)
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
static void make_voice(float *pcm)
{
    for (int i = 0; i < SAMPLES; i++) {
        const double t = i / (double)AVATAR_SAMPLE_RATE, open = fmax(0, sin(2 * M_PI * 3 * t));
        double v = 0;

        for (int k = 1; k <= 12; k++)
            v += sin(2 * M_PI * 120 * k * t) / k * exp(-fabs(120 * k - 700 * (0.6 + 0.4 * open)) / 400);
        pcm[i] = (float)(0.3 * open * v);
    }
}

/* ---- the answer of this machine ------------------------------------------------------------------------------------- */

static void take_latents(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Latents *l = opaque;

    if (block >= BLOCKS)
        return;
    if (!l->v) {
        l->v = calloc((size_t)nb * BLOCKS, sizeof(*l->v));
        l->nb = nb;
    }
    if (!l->v || nb != l->nb)
        return;
    memcpy(l->v + block * nb, v, sizeof(*v) * (size_t)nb);
    l->got++;
}

static int run_session(AvatarEngine *e, const AvatarLook *look, Latents *l, AvatarInfo *info)
{
    const SessionHooks hooks = { .rank = { .opaque = l, .latents = take_latents } };
    float pcm[SAMPLES];
    AvatarSession *s = NULL;
    AvatarFrame frame;
    int ret = avt_session_open(&s, e, look, &hooks);

    make_voice(pcm);
    if (ret >= 0) {
        avatar_session_info(s, info);
        ret = avatar_session_send(s, pcm, SAMPLES);
    }
    if (ret >= 0)
        ret = avatar_session_send(s, NULL, 0);
    while (ret >= 0)
        ret = avatar_session_receive(s, &frame, AVATAR_WAIT);
    avatar_session_close(&s);
    return ret == AVATAR_EOF ? 0 : ret;
}

static int answer(Latents *l, AvatarInfo *info, ToolOptions *o)
{
    AvatarEngine *e = NULL;
    uint8_t *face = malloc(3 * FACE * FACE);
    int ret = face ? avatar_engine_open(&e, &o->engine) : AVATAR_ERR(ENOMEM);

    if (face)
        draw_face(face);
    o->look.rgb = face;
    o->look.width = o->look.height = FACE;
    o->look.seed = 7;
    if (ret >= 0)
        ret = run_session(e, &o->look, l, info);
    avatar_engine_close(&e);
    avatar_engine_flush();
    free(face);
    if (ret >= 0 && l->got != BLOCKS)
        ret = AVATAR_ERR(ENOMEM);
    return ret;
}

/* ---- the file ------------------------------------------------------------------------------------------------------ */

static int write_answer(const char *path, const Latents *l, const AvatarInfo *info)
{
    const int64_t nb = BLOCKS * l->nb;
    uint16_t *v = malloc(sizeof(*v) * (size_t)nb);
    char head[512];
    uint64_t len;
    FILE *f = v ? fopen(path, "wb") : NULL;
    int fine;

    for (int64_t i = 0; v && i < nb; i++)
        v[i] = avt_f32_bf16(l->v[i]);
    len = (uint64_t)snprintf(head, sizeof(head), "{\"__metadata__\": {\"size\": \"%dx%d\", \"steps\": \"%d\"}, \"latents\": {\"dtype\": \"BF16\", "
                             "\"shape\": [%d, %lld], \"data_offsets\": [0, %lld]}, \"frame\": {\"dtype\": \"I64\", \"shape\": [3], "
                             "\"data_offsets\": [%lld, %lld]}}", info->width, info->height, info->steps, BLOCKS, (long long)l->nb,
                             (long long)(2 * nb), (long long)(2 * nb), (long long)(2 * nb + 24));
    while (len % 8)
        head[len++] = ' ';
    fine = f && fwrite(&len, 8, 1, f) == 1 && fwrite(head, 1, len, f) == len && fwrite(v, 2, (size_t)nb, f) == (size_t)nb &&
           fwrite((const int64_t[]){ info->width, info->height, info->steps }, 8, 3, f) == 3;
    if (f && fclose(f))
        fine = 0;
    free(v);
    return fine ? 0 : -1;
}

/* Of a recorded answer: its latents as f32 and frame = width, height, steps. @return 0 or an error (logged) */
static int read_answer(Latents *l, int64_t frame[3], const char *path, const Log *log)
{
    Ckpt *c = NULL;
    int ret = avt_ckpt_open(&c, path, log);
    const CkptTensor *t = ret >= 0 ? avt_ckpt_find(c, "latents") : NULL, *g = t ? avt_ckpt_find(c, "frame") : NULL;
    void *raw = NULL;

    if (ret >= 0 && (!t || !g || t->dtype != DT_BF16 || t->nd != 2 || t->dim[0] != BLOCKS || g->dtype != DT_I64 || g->size != 24))
        ret = avt_fail(log, AVATAR_INVALID, "%s is no answer that avatar verify --record has written", path);
    if (ret >= 0) {
        l->nb = t->dim[1];
        l->v = calloc((size_t)(BLOCKS * l->nb), sizeof(*l->v));
        raw = malloc(t->size);
        ret = l->v && raw ? avt_ckpt_read(t, raw, 0, t->size, log) : AVATAR_ERR(ENOMEM);
    }
    if (ret >= 0)
        ret = avt_ckpt_read(g, frame, 0, g->size, log);
    if (ret >= 0)
        avt_to_f32(l->v, DT_BF16, raw, 0, BLOCKS * l->nb);
    free(raw);
    avt_ckpt_close(&c);
    return ret;
}

/* ---- the command --------------------------------------------------------------------------------------------------- */

/* |a - b| / |b| of some values; a NaN stays one. */
static double distance(const float *a, const float *b, int64_t nb)
{
    double d = 0, n = 0;

    for (int64_t i = 0; i < nb; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        n += (double)b[i] * b[i];
    }
    return sqrt(d / n);
}

static int compare(const Latents *got, const Latents *want, const AvatarInfo *info, const ToolOptions *o)
{
    const double all = distance(got->v, want->v, BLOCKS * got->nb), limit = !strcmp(info->precision, "f32") ? SAME_F32 : SAME_BF16;
    double worst = 0;

    for (int b = 0; b < BLOCKS; b++) {
        const double d = distance(got->v + b * got->nb, want->v + b * got->nb, got->nb);

        worst = d <= worst ? worst : d;
    }
    if (o->json)
        printf("{\"verdict\": \"%s\", \"distance\": %.3g, \"worst_block\": %.3g, \"limit\": %.3g, \"precision\": \"%s\", \"plan\": \"%s\"}\n",
               worst <= limit ? "good" : "bad", all, worst, limit, info->precision, info->plan);
    else
        printf("%s, %s, %dx%d, %d steps: relative L2 %.2g, worst of %d blocks %.2g, limit %.2g: %s\n", info->plan, info->precision, info->width,
               info->height, info->steps, all, BLOCKS, worst, limit, worst <= limit ? "the same" : "NOT what was recorded");
    return worst <= limit ? 0 : 2;
}

/* What was recorded says size and steps; the plan, devices and precision are the caller's. */
static int check(ToolOptions *o, const char *path, const Log *log)
{
    Latents want = { .v = NULL }, got = { .v = NULL };
    AvatarInfo info;
    int64_t frame[3];
    int ret = read_answer(&want, frame, path, log);

    if (ret >= 0) {
        o->look.out_width = (int)frame[0];
        o->look.out_height = (int)frame[1];
        o->engine.steps = (int)frame[2];
        ret = answer(&got, &info, o);
    }
    if (ret >= 0 && got.nb != want.nb)
        ret = avt_fail(log, AVATAR_INVALID, "%s: its latents have another size than %dx%d gives", path, info.width, info.height);
    ret = ret < 0 ? 1 : compare(&got, &want, &info, o);
    free(want.v);
    free(got.v);
    return ret;
}

static int record(ToolOptions *o, const char *path)
{
    Latents got = { .v = NULL };
    AvatarInfo info;
    int ret = answer(&got, &info, o);

    if (ret >= 0 && write_answer(path, &got, &info) < 0) {
        perror(path);
        ret = -1;
    }
    if (ret >= 0 && !o->quiet)
        printf("%s: %d blocks of %dx%d in %d steps, %s, %s\n", path, BLOCKS, info.width, info.height, info.steps, info.plan, info.precision);
    free(got.v);
    return ret < 0;
}

static void log_line(void *opaque, int level, const char *text)
{
    (void)opaque, (void)level;
    fprintf(stderr, "avatar: %s\n", text);
}

int cmd_verify(int argc, char **argv)
{
    const Log log = { .write = log_line, .level = LOG_ERROR };
    char folder[PATH_MAX], path[PATH_MAX + 32];
    ToolOptions o;
    int ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional > 1) {
        fprintf(o.help ? stdout : stderr, "usage: avatar verify [FILE] [--model DIR] [--record] [--devices LIST] [--plan PLAN] [--precision P] [--json]\n"
                "Computes two blocks of a fixed question and compares them with FILE, MODEL/" ANSWER " when none is named; --record writes it.\n"
                "Exit code: 0 the same, 2 not the same, 1 an error.\n");
        return o.help ? 0 : 2;
    }
    avt_options_folder(folder, &o.engine);
    snprintf(path, sizeof(path), "%s/" ANSWER, folder);
    o.engine.log = log_line;
    o.engine.log_level = AVATAR_LOG_ERROR;
    return o.record ? record(&o, o.nb_positional ? o.positional[0] : path) : check(&o, o.nb_positional ? o.positional[0] : path, &log);
}
