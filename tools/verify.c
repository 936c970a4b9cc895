/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar verify: does this machine, driver, plan compute what was computed where the answer was recorded?
 *
 * The question is always the same: a drawn face, a made-up voice, seed 7, the model's own prompt, two blocks. The answer is the latents of
 * both, in f32 (those that are shipped: rounded to bf16), in a safetensors file beside the model (verify.safetensors) that names size and steps. They go through
 * every network but the decoder; the encoder of the picture is in them. Where there is no model of the published width, one of random weights
 * is made for as long as it takes (seeded.h); its answer is shipped, too.
 */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "engine/engine.h"
#include "file.h"
#include "files/ckpt.h"
#include "json_out.h"
#include "options.h"
#include "probe.h"
#include "seeded.h"
#include "speak.h"
#include "stop.h"

#define ANSWER  "verify.safetensors"
#define SEEDED  "seeded.safetensors"                // beside the embedded model: of --seeded 40
#define SEEDED_HEADS 40

/* Relative L2: what other orders of summing give, and what the other precisions do; tests/e2e/precision holds those. */
#define SAME_F32  4e-3                              // an answer that is rounded to bf16 is 1.6e-3 off itself
#define SAME_BF16 3e-2
#define SAME_INT8 3e-2
#define SAME_FP8  8e-2

/* ---- the file ------------------------------------------------------------------------------------------------------ */

static int write_answer(const char *path, const Probe *l)
{
    const int64_t nb = PROBE_BLOCKS * l->nb;
    char head[512];
    uint64_t len;
    FILE *f = file_stream(path);
    int fine;

    len = (uint64_t)snprintf(head, sizeof(head), "{\"__metadata__\": {\"size\": \"%dx%d\", \"steps\": \"%d\"}, \"latents\": {\"dtype\": \"F32\", "
                             "\"shape\": [%d, %lld], \"data_offsets\": [0, %lld]}, \"frame\": {\"dtype\": \"I64\", \"shape\": [3], "
                             "\"data_offsets\": [%lld, %lld]}}", l->info.width, l->info.height, l->info.steps, PROBE_BLOCKS, (long long)l->nb,
                             (long long)(4 * nb), (long long)(4 * nb), (long long)(4 * nb + 24));
    while (len % 8)
        head[len++] = ' ';
    fine = f && fwrite(&len, 8, 1, f) == 1 && fwrite(head, 1, len, f) == len && fwrite(l->latents, 4, (size_t)nb, f) == (size_t)nb &&
           fwrite((const int64_t[]){ l->info.width, l->info.height, l->info.steps }, 8, 3, f) == 3;
    if (f && fclose(f)) {
        fprintf(stderr, "avatar: %s: %s\n", file_shown(path), strerror(errno));
        fine = 0;
    }
    return fine ? 0 : -1;
}

/* Of a recorded answer: its latents as f32 and frame = width, height, steps. @return 0 or an error (logged) */
static int read_answer(Probe *l, int64_t frame[3], const char *path, const Log *log)
{
    Ckpt *c = NULL;
    int ret = avt_ckpt_open(&c, path, log);
    const CkptTensor *t = ret >= 0 ? avt_ckpt_find(c, "latents") : NULL, *g = t ? avt_ckpt_find(c, "frame") : NULL;
    void *raw = NULL;

    if (ret >= 0 && (!t || !g || (t->dtype != DT_F32 && t->dtype != DT_BF16) || t->nd != 2 || t->dim[0] != PROBE_BLOCKS || g->dtype != DT_I64 || g->size != 24))
        ret = avt_fail(log, AVATAR_INVALID, "%s is no answer that avatar verify --record has written", path);
    if (ret >= 0) {
        l->nb = t->dim[1];
        l->latents = calloc((size_t)(PROBE_BLOCKS * l->nb), sizeof(*l->latents));
        raw = malloc(t->size);
        ret = l->latents && raw ? avt_ckpt_read(t, raw, 0, t->size, log) : AVATAR_ERR(ENOMEM);
    }
    if (ret >= 0)
        ret = avt_ckpt_read(g, frame, 0, g->size, log);
    if (ret >= 0)
        avt_to_f32(l->latents, t->dtype, raw, 0, PROBE_BLOCKS * l->nb);
    free(raw);
    avt_ckpt_close(&c);
    return ret;
}

/* ---- comparing ----------------------------------------------------------------------------------------------------- */

static double limit_of(const char *precision)
{
    return !strcmp(precision, "f32") ? SAME_F32 : !strcmp(precision, "bf16") ? SAME_BF16 : !strcmp(precision, "int8") ? SAME_INT8 : SAME_FP8;
}

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

static void compare(Likeness *l, const Probe *got, const Probe *want)
{
    l->info = got->info;
    l->limit = limit_of(got->info.precision);
    l->distance = distance(got->latents, want->latents, PROBE_BLOCKS * got->nb);
    l->worst = 0;
    for (int b = 0; b < PROBE_BLOCKS; b++) {
        const double d = distance(got->latents + b * got->nb, want->latents + b * got->nb, got->nb);

        l->worst = isnan(l->worst) || d <= l->worst ? l->worst : d;     // a NaN stays the worst
    }
    l->same = l->worst <= l->limit;
}

int verify_model(Likeness *l, const ToolOptions *o, const char *path, const Log *log)
{
    Probe want = { .nb = 0 }, got = { .nb = 0 };
    ToolOptions asked = *o;
    int64_t frame[3];
    int ret = read_answer(&want, frame, path, log);

    if (ret >= 0) {
        asked.look.rgb = NULL;
        asked.look.out_width = (int)frame[0];
        asked.look.out_height = (int)frame[1];
        asked.engine.steps = (int)frame[2];
        ret = probe_run(&got, &asked, NULL);
    }
    if (ret >= 0 && got.nb != want.nb)
        ret = avt_fail(log, AVATAR_INVALID, "%s: its latents have another size than %dx%d gives", path, got.info.width, got.info.height);
    if (ret >= 0)
        compare(l, &got, &want);
    probe_free(&want);
    probe_free(&got);
    return ret;
}

void verify_path(char *path, size_t size, const ToolOptions *o)
{
    char folder[PATH_MAX];

    avt_options_folder(folder, &o->engine);
    snprintf(path, size, "%s/%s", folder, o->seeded ? SEEDED : ANSWER);
}

/* ---- the command --------------------------------------------------------------------------------------------------- */

static void print_json(const Likeness *l)
{
    printf("{\"verdict\": \"%s\", \"distance\": ", l->same ? "good" : "bad");
    json_number(stdout, l->distance, 3);
    printf(", \"worst_block\": ");
    json_number(stdout, l->worst, 3);
    printf(", \"limit\": %.3g, \"precision\": \"%s\", \"plan\": \"%s\"}\n", l->limit, l->info.precision, l->info.plan);
}

static int check(const ToolOptions *o, const char *path, const Log *log)
{
    Likeness l;

    if (verify_model(&l, o, path, log) < 0)
        return 1;
    if (o->json)
        print_json(&l);
    else
        printf("%s, %s, %dx%d, %d steps: relative L2 %.2g, worst of %d blocks %.2g, limit %.2g: %s\n", l.info.plan, l.info.precision, l.info.width,
               l.info.height, l.info.steps, l.distance, PROBE_BLOCKS, l.worst, l.limit, l.same ? "the same" : "NOT what was recorded");
    return l.same ? 0 : 2;
}

static int record(ToolOptions *o, const char *path)
{
    Probe got = { .nb = 0 };
    int ret = probe_run(&got, o, NULL);

    if (!avt_ends_with(path, ANSWER))                               // which belongs there
        tool_protect(o);
    if (ret >= 0)
        ret = write_answer(path, &got);
    if (ret >= 0 && !o->quiet)
        printf("%s: %d blocks of %dx%d in %d steps, %s, %s\n", file_shown(path), PROBE_BLOCKS, got.info.width, got.info.height, got.info.steps, got.info.plan, got.info.precision);
    probe_free(&got);
    return ret < 0;
}

static int answer(ToolOptions *o, const char *path, const Log *log)
{
    return o->record ? record(o, path) : check(o, path, log);
}

static int answer_seeded(ToolOptions *o, const char *path, const Log *log)
{
    char folder[PATH_MAX] = "";
    int ret = stop_watch() < 0;

    stop_removes(seeded_remove, folder);
    if (!ret)
        ret = seeded_open(folder, sizeof(folder), o->seeded, o->engine.models, stop_asked) < 0;
    o->engine.model = folder;
    if (!ret)
        ret = answer(o, path, log);
    if (folder[0])
        seeded_remove(folder);
    stop_removes(NULL, NULL);
    if (stop_asked())
        return fprintf(stderr, "avatar: interrupted\n"), 1;
    return ret;
}

/* Size and steps of a comparison are the answer's. */
static int takes(const ToolOptions *o)
{
    if (o->record)
        return tool_takes(o, "verify --record", TAKES_MODEL TAKES_FRAMES TAKES_RUN " prompt compat seeded record quiet");
    return tool_takes(o, "verify", TAKES_MODEL TAKES_RUN " preset prompt compat seeded json");
}

int cmd_verify(int argc, char **argv)
{
    const Log log = { .write = tool_log_line, .level = LOG_ERROR };
    char path[PATH_MAX + 32];
    ToolOptions o;
    int ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional > 1) {
        fprintf(o.help ? stdout : stderr, "usage: avatar verify [FILE] [--model DIR | --seeded 40] [--record] [--devices LIST] [--plan PLAN] [--precision P] [--json]\n"
                "Computes two blocks of a fixed question and compares them with FILE, MODEL/" ANSWER " when none is named; --record writes it.\n"
                "--seeded 40: random weights of the published shapes, cut to two layers, instead of a model: what a card computes at that width.\n"
                "Exit code: 0 the same, 2 not the same, 1 an error.\n");
        return o.help ? 0 : 2;
    }
    if (takes(&o))
        return 2;
    verify_path(path, sizeof(path), &o);
    if (o.seeded && o.engine.model)
        return fprintf(stderr, "avatar: verify: --seeded makes its own model; leave --model away\n"), 2;
    if (o.seeded && o.seeded != SEEDED_HEADS && !o.nb_positional)
        return fprintf(stderr, "avatar: verify: --seeded %d: the answer that is shipped is that of %d; name the FILE of yours\n", o.seeded, SEEDED_HEADS), 2;
    o.engine.log = tool_log_line;
    o.engine.log_level = AVATAR_LOG_ERROR;
    return (o.seeded ? answer_seeded : answer)(&o, o.nb_positional ? o.positional[0] : path, &log);
}
