/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Text and sound in front of the transformer. Each call opens a backend and a scratch arena of the size that the same call
 * needed on `dry`, and closes both: nothing of it stays.
 */
#include <math.h>
#include <string.h>

#include "engine/front.h"

#define BLOCK_SAMPLES 7680              // 12 frames of 640 samples
#define LOOKAHEAD 80                    // so that a block's last row is a whole window

typedef struct Task {                   // one of the two computations; run on `dry` first, then for good
    const Core *core;
    const Wav2Vec2 *wav2vec2;           // the core's, or a rehearsal's
    const Log *log;
    const int32_t *ids;                 // text
    int64_t nb_ids;
    const float *pcm;                   // sound: normalized, padded
    int64_t n, rows;
    int64_t block, row0;                // live: the one block, and the window's first 50 Hz row
    float *out;                         // host result, or NULL on `dry`
} Task;

static int text_task(Task *t, Backend *be, Arena *scratch)
{
    const Umt5Config *cfg = &t->core->sizes.umt5;
    const Tensor out = avt_new(scratch, DT_F32, t->nb_ids, cfg->dim);
    int ret = avt_umt5_encode(be, scratch, cfg, t->out ? t->core->t5 : NULL, out, t->ids, t->nb_ids, t->nb_ids);

    return ret < 0 || !t->out ? ret : avt_download(be, t->out, out);
}

static int sound_task(Task *t, Backend *be, Arena *scratch)
{
    const Core *c = t->core;
    const Wav2Vec2Config *cfg = &c->sizes.wav2vec2;
    const int64_t frames = avt_wav2vec2_frames(t->n), layers = cfg->nb_layers + 1;
    const Tensor hidden = avt_new(scratch, DT_F32, layers, frames, cfg->dim);
    int ret = avt_wav2vec2_encode(be, scratch, t->wav2vec2, hidden, t->pcm, t->n);

    for (int64_t i = 0; i < t->rows && ret >= 0; i += BLOCK_FRAMES) {
        const size_t mark = avt_arena_mark(scratch);
        const Tensor rows = avt_new(scratch, DT_F32, BLOCK_FRAMES, layers, cfg->dim);

        ret = avt_features_pick(be, scratch, rows, hidden, i, c->compat ? FEATURES_UPSTREAM : FEATURES_PRODUCT);
        if (ret >= 0 && t->out)
            ret = avt_download(be, t->out + i * layers * cfg->dim, rows);
        avt_arena_release(scratch, mark);
        if (!t->out)
            break;                                                  // every piece takes the same room
    }
    return ret;
}

/* One block out of a window. */
static int window_task(Task *t, Backend *be, Arena *scratch)
{
    const Wav2Vec2Config *cfg = &t->core->sizes.wav2vec2;
    const int64_t layers = cfg->nb_layers + 1;
    const Tensor hidden = avt_new(scratch, DT_F32, layers, avt_wav2vec2_frames(t->n), cfg->dim);
    const Tensor rows = avt_new(scratch, DT_F32, BLOCK_FRAMES, layers, cfg->dim);
    int ret = avt_wav2vec2_encode(be, scratch, t->wav2vec2, hidden, t->pcm, t->n);

    if (ret >= 0)
        ret = avt_features_pick_window(be, scratch, rows, hidden, t->block * BLOCK_FRAMES, t->row0);
    return ret < 0 || !t->out ? ret : avt_download(be, t->out, rows);
}

static int run_on(Task *t, int (*task)(Task *, Backend *, Arena *), const char *device, const BackendOptions *opt, size_t *bytes,
                  const int *cancel)
{
    Backend *be;
    Arena *scratch = NULL;
    int ret = avt_backend_open(&be, device, opt);

    if (ret < 0)
        return ret;
    be->cancel = cancel;
    ret = avt_arena_open(&scratch, be, "front scratch", *bytes);
    if (ret >= 0)
        ret = task(t, be, scratch);
    if (ret >= 0)
        ret = avt_sync(be);
    if (scratch)
        *bytes = avt_arena_peak(scratch);
    avt_arena_close(&scratch);
    avt_backend_close(&be);
    return ret;
}

/* The weights of wav2vec2 sit on the front's device: a rehearsal of it needs weights of its own, on `dry`. */
static int measure_sound(const Task *t, int (*task)(Task *, Backend *, Arena *), BackendOptions *dry, size_t *bytes)
{
    Task rehearsal = *t;
    Wav2Vec2 w;
    Backend *be;
    Arena *arena = NULL;
    Binder b;
    int ret = avt_backend_open(&be, "dry", dry);

    if (ret < 0)
        return ret;
    ret = avt_arena_open(&arena, be, "weights", ARENA_UNLIMITED);
    if (ret >= 0)
        ret = avt_binder_open(&b, NULL, NULL, arena, "wav2vec2", DT_F32, t->log);
    if (ret >= 0) {
        ret = avt_wav2vec2_open(&w, &t->core->sizes.wav2vec2, &b);
        avt_binder_close(&b);
    }
    if (ret >= 0) {
        rehearsal.wav2vec2 = &w;
        ret = run_on(&rehearsal, task, "dry", dry, bytes, NULL);
        avt_wav2vec2_close(&w);
    }
    avt_arena_close(&arena);
    avt_backend_close(&be);
    return ret;
}

static int check_room(size_t bytes, size_t result, const char *what, const Log *log)
{
    const int64_t left = avt_host_memory_left();

    if ((int64_t)(bytes + result) <= left)
        return 0;
    return avt_fail(log, AVT_ERR(ENOMEM), "%s: needs %.2f GB of host memory, %.2f GB are free", what, (double)(bytes + result) / 1e9,
                    (double)left / 1e9);
}

static int encode_ids(const Core *c, float **context, int64_t *rows, const int32_t *ids, int nb, const int *cancel, const Log *log)
{
    BackendOptions opt = avt_core_backend(c, c->cpu_threads, log), dry = opt;
    Task t = { .core = c, .log = log, .ids = ids, .nb_ids = nb };
    size_t bytes = ARENA_UNLIMITED;
    int ret;

    dry.plan_for = c->front_device;
    ret = run_on(&t, text_task, "dry", &dry, &bytes, NULL);
    if (ret >= 0)
        ret = check_room(bytes, 0, "the text encoder", log);
    if (ret < 0)
        return ret;
    t.out = avt_malloc(MEM_SESSION, sizeof(float) * (size_t)nb * (size_t)c->sizes.umt5.dim);
    if (!t.out)
        return AVT_ERR(ENOMEM);
    ret = run_on(&t, text_task, c->front_device, &opt, &bytes, cancel);
    if (ret < 0) {
        avt_free(t.out);
        return ret;
    }
    *context = t.out;
    *rows = nb;
    return 0;
}

int avt_front_text(const Core *c, float **context, int64_t *rows, const char *prompt, const int *cancel, const Log *log)
{
    const int max = c->sizes.dit.text_len;
    int32_t *ids = avt_malloc(MEM_SESSION, sizeof(*ids) * (size_t)max);
    char *clean = NULL;
    int64_t left_out = 0;
    int ret = ids ? avt_text_clean(&clean, prompt, log) : AVT_ERR(ENOMEM);

    if (ret >= 0)
        ret = avt_ckpt_unchanged(c->t5, log);                       // it is mapped for as long as the engine lives
    if (ret >= 0)
        ret = avt_tokenizer_encode(c->tokenizer, ids, max, clean, &left_out);
    if (ret >= 0 && left_out)
        avt_log(log, LOG_WARNING, "prompt: the model reads %d tokens; the last %lld of %lld are left out", max, (long long)left_out,
                (long long)(max + left_out));
    if (ret >= 0)
        ret = encode_ids(c, context, rows, ids, ret, cancel, log);
    avt_free(clean);
    avt_free(ids);
    return ret;
}

/* Frames of the original for n samples, a multiple of 48: as many clips as it would make, the silent last one included. */
static int64_t upstream_rows(int64_t n)
{
    return 48 * avt_features_clips(avt_features_len30(avt_wav2vec2_frames(n)), 48, AVATAR_FPS);
}

int avt_front_sound(const Core *c, float **features, int64_t *rows, const float *pcm, int64_t n, const int *cancel, const Log *log)
{
    BackendOptions opt = avt_core_backend(c, c->cpu_threads, log), dry = opt;
    const int64_t blocks = (n + BLOCK_SAMPLES - 1) / BLOCK_SAMPLES;
    const int64_t padded = c->compat ? n : blocks * BLOCK_SAMPLES + LOOKAHEAD;
    Task t = { .core = c, .wav2vec2 = &c->wav2vec2, .log = log, .n = padded };
    size_t bytes = ARENA_UNLIMITED, result;
    float *sound;
    int ret;

    if (c->compat && n < 400)
        return avt_fail(log, AVT_ERR(EINVAL), "compat=upstream: %lld samples are fewer than the 400 that the original needs", (long long)n);
    sound = avt_calloc(MEM_SESSION, (size_t)padded, sizeof(*sound));
    if (!sound)
        return AVT_ERR(ENOMEM);
    memcpy(sound, pcm, (size_t)n * sizeof(*sound));
    avt_wav2vec2_normalize(sound, sound, padded, n);
    t.pcm = sound;
    t.rows = c->compat ? upstream_rows(n) : blocks * BLOCK_FRAMES;
    result = sizeof(float) * (size_t)(t.rows * (c->sizes.wav2vec2.nb_layers + 1) * c->sizes.wav2vec2.dim);
    dry.plan_for = c->front_device;
    ret = measure_sound(&t, sound_task, &dry, &bytes);
    if (ret >= 0)
        ret = check_room(bytes, result, "the audio encoder (the sound is taken whole)", log);
    if (ret >= 0 && !(t.out = avt_malloc(MEM_SESSION, result)))
        ret = AVT_ERR(ENOMEM);
    if (ret >= 0)
        ret = run_on(&t, sound_task, c->front_device, &opt, &bytes, cancel);
    avt_free(sound);
    if (ret < 0) {
        avt_free(t.out);
        return ret;
    }
    *features = t.out;
    *rows = t.rows;
    return 0;
}

/* ---- live ------------------------------------------------------------------------------------------------------------------ */

int avt_window_open(Window *w, const Core *c, int64_t lookahead, const int *cancel, const Log *log)
{
    BackendOptions opt = avt_core_backend(c, c->cpu_threads, log), dry = opt;
    Task t = { .core = c, .wav2vec2 = &c->wav2vec2, .log = log, .n = LIVE_LEFT + BLOCK_SAMPLES + (lookahead > LOOKAHEAD ? lookahead : LOOKAHEAD) };
    size_t bytes = ARENA_UNLIMITED;
    int ret;

    dry.plan_for = c->front_device;
    w->room = t.n;
    ret = measure_sound(&t, window_task, &dry, &bytes);
    if (ret >= 0)
        ret = check_room(bytes, (size_t)t.n * sizeof(float), "the audio encoder's window", log);
    if (ret >= 0 && !(w->pcm = avt_malloc(MEM_SESSION, (size_t)w->room * sizeof(float))))
        ret = AVT_ERR(ENOMEM);
    if (ret >= 0)
        ret = avt_backend_open(&w->be, c->front_device, &opt);
    if (ret >= 0)
        ret = avt_arena_open(&w->scratch, w->be, "audio window", bytes);
    if (ret >= 0)
        w->be->cancel = cancel;
    else
        avt_window_close(w);
    return ret;
}

void avt_window_close(Window *w)
{
    avt_arena_close(&w->scratch);
    avt_backend_close(&w->be);
    avt_freep(&w->pcm);
}

int avt_window_rows(Window *w, const Core *c, float *out, int64_t block, int64_t row0, int64_t n)
{
    Task t = { .core = c, .wav2vec2 = &c->wav2vec2, .n = n, .pcm = w->pcm, .block = block, .row0 = row0, .out = out };
    const size_t mark = avt_arena_mark(w->scratch);
    int ret = window_task(&t, w->be, w->scratch);

    avt_arena_release(w->scratch, mark);
    return ret;
}

#define PIECE 320                       // 20 ms
#define PIECES_A_SECOND 50

void avt_loudness_init(Loudness *l)
{
    *l = (Loudness){ .var = 0.07 * 0.07, .voiced = PIECES_A_SECOND };       // speech at -23 dBFS, until more is known
}

/* The average over what was voiced so far, over its last 10 s when it is longer; silence (below -50 dBFS), with or without a DC
 * offset, changes nothing. */
void avt_loudness_add(Loudness *l, const float *pcm)
{
    double mean = 0, var = 0, share;

    for (int i = 0; i < PIECE; i++)
        mean += (double)pcm[i] / PIECE;
    for (int i = 0; i < PIECE; i++)
        var += ((double)pcm[i] - mean) * ((double)pcm[i] - mean) / PIECE;
    if (var < 1e-5)
        return;
    l->voiced++;
    share = l->voiced < 10 * PIECES_A_SECOND ? 1.0 / (double)l->voiced : 1.0 / (10 * PIECES_A_SECOND);
    l->mean += share * (mean - l->mean);
    l->var += share * (var - l->var);
}

void avt_loudness_normalize(const Loudness *l, float *pcm, int64_t n)
{
    const double gain = 1 / sqrt((l->var > 1e-4 ? l->var : 1e-4) + 1e-7);

    for (int64_t i = 0; i < n; i++)
        pcm[i] = (float)(((double)pcm[i] - l->mean) * gain);
}
