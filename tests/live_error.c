/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * live_error [--level] [--svg FILE] MODEL WAV...: how far live features are from those of the whole sound, over the look-ahead.
 * WAV: 16 kHz mono s16. FILE: the curve of the mix's error.
 *
 * Three columns of relative L2 in %: the hidden state that is furthest off, the mean over all, and the mix that the transformer
 * takes (its learned weights of the states), by frames 0-3, 4-7, 8-11 of a block and in all; then the mix's cosine. With
 * `--level` live windows are normalized by the whole sound's own mean and variance, so that what is left is the window's error.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "draw.h"
#include "engine/engine.h"
#include "engine/front.h"
#include "kernels.h"

#define ROW_SAMPLES 320
#define BLOCK 7680
#define MAX_STATES 64

static const int lookahead_ms[] = { 0, 40, 80, 160, 320, 640, 1280 };

typedef struct Sums {                   // of squares
    double state_error[MAX_STATES], state_norm[MAX_STATES];
    double error[3], norm[3], live[3], dot[3];
} Sums;

typedef struct Measure {
    AvatarEngine *e;
    int states, dim, use_level;
    float weights[MAX_STATES], *mixed[2];
} Measure;

static float *read_wav(const char *path, int64_t *n)
{
    FILE *f = fopen(path, "rb");
    int16_t *raw = NULL;
    float *pcm = NULL;
    long size = 0;

    if (f && !fseek(f, 0, SEEK_END) && (size = ftell(f)) > 44 && !fseek(f, 44, SEEK_SET)) {
        *n = (size - 44) / 2;
        raw = malloc((size_t)*n * 2);
        pcm = malloc((size_t)*n * sizeof(*pcm));
        if (raw && pcm && fread(raw, 2, (size_t)*n, f) == (size_t)*n)
            for (int64_t i = 0; i < *n; i++)
                pcm[i] = (float)raw[i] / 32768;
    }
    if (f)
        fclose(f);
    free(raw);
    return pcm;
}

/* Features of block `g` as a live session gets them: `left` bounded, silence behind the end. */
static int live_rows(const Measure *m, Window *w, Loudness *l, int64_t *heard, float *rows, const float *pcm, int64_t n, int64_t g, int64_t la)
{
    const int64_t want = g * BLOCK - LIVE_LEFT, row0 = want > 0 ? want / ROW_SAMPLES : 0, begin = row0 * ROW_SAMPLES;
    const int64_t size = (g + 1) * BLOCK + (la > 80 ? la : 80) - begin, end = (g + 1) * BLOCK + la < n ? (g + 1) * BLOCK + la : n;

    memset(w->pcm, 0, (size_t)size * sizeof(float));
    memcpy(w->pcm, pcm + begin, (size_t)(end - begin) * sizeof(float));
    for (; !m->use_level && *heard + ROW_SAMPLES <= end; *heard += ROW_SAMPLES)
        avt_loudness_add(l, pcm + *heard);
    avt_loudness_normalize(l, w->pcm, size);
    return avt_window_rows(w, m->e->core, rows, g, row0, size);
}

static void compare(Measure *m, Sums *s, const float *live, const float *whole)
{
    for (int i = 0; i < BLOCK_FRAMES; i++) {
        const int part = i / 4;

        memset(m->mixed[0], 0, sizeof(float) * (size_t)m->dim);
        memset(m->mixed[1], 0, sizeof(float) * (size_t)m->dim);
        for (int k = 0; k < m->states; k++)
            for (int d = 0; d < m->dim; d++) {
                const double a = live[(i * m->states + k) * m->dim + d], b = whole[(i * m->states + k) * m->dim + d];

                s->state_error[k] += (a - b) * (a - b);
                s->state_norm[k] += b * b;
                m->mixed[0][d] += (float)(m->weights[k] * a);
                m->mixed[1][d] += (float)(m->weights[k] * b);
            }
        for (int d = 0; d < m->dim; d++) {
            const double a = m->mixed[0][d], b = m->mixed[1][d];

            s->error[part] += (a - b) * (a - b);
            s->norm[part] += b * b;
            s->live[part] += a * a;
            s->dot[part] += a * b;
        }
    }
}

static int measure_file(Measure *m, Sums *s, const char *path, int64_t la)
{
    const Core *c = m->e->core;
    Window w = { 0 };
    Loudness l;
    int64_t n = 0, nb_rows, heard = 0;
    float *pcm = read_wav(path, &n), *whole = NULL, *rows = malloc(sizeof(float) * (size_t)(BLOCK_FRAMES * m->states * m->dim));
    int ret = pcm && rows ? avt_front_sound(c, &whole, &nb_rows, pcm, n, NULL, &m->e->log) : AVATAR_ERR(EIO);

    avt_loudness_init(&l);
    if (m->use_level && ret >= 0) {
        l.mean = l.var = 0;
        for (int64_t i = 0; i < n; i++)
            l.mean += pcm[i] / (double)n;
        for (int64_t i = 0; i < n; i++)
            l.var += (pcm[i] - l.mean) * (pcm[i] - l.mean) / (double)n;
    }
    if (ret >= 0)
        ret = avt_window_open(&w, c, la, NULL, &m->e->log);
    for (int64_t g = 0; g * BLOCK < n && ret >= 0; g++) {
        ret = live_rows(m, &w, &l, &heard, rows, pcm, n, g, la);
        if (ret >= 0)
            compare(m, s, rows, whole + g * BLOCK_FRAMES * m->states * m->dim);
    }
    avt_window_close(&w);
    avt_free(whole);
    free(rows);
    free(pcm);
    return ret;
}

/* @return the mix's error in all, % */
static double print_line(const Measure *m, const Sums *s, int ms)
{
    double worst = 0, sum = 0, error = 0, norm = 0, live = 0, dot = 0;

    for (int k = 0; k < m->states; k++) {
        const double e = sqrt(s->state_error[k] / s->state_norm[k]);

        worst = e > worst ? e : worst;
        sum += e / m->states;
    }
    for (int i = 0; i < 3; i++) {
        error += s->error[i];
        norm += s->norm[i];
        live += s->live[i];
        dot += s->dot[i];
    }
    printf("| %4d | %6.2f | %6.2f | %6.2f | %6.2f | %6.2f | %6.2f | %.5f |\n", ms, 100 * worst, 100 * sum, 100 * sqrt(s->error[0] / s->norm[0]),
           100 * sqrt(s->error[1] / s->norm[1]), 100 * sqrt(s->error[2] / s->norm[2]), 100 * sqrt(error / norm), dot / sqrt(norm * live));
    return 100 * sqrt(error / norm);
}

/* The mix's weights, as the transformer's audio part uses them: w_k = silu(v_k) / sum silu(v). */
static int read_weights(Measure *m)
{
    const Core *c = m->e->core;
    double sum = 0;

    for (int r = 0; r < c->plan.nb_ranks; r++)
        if (c->plan.rank[r].pipe >= 0) {
            const int ret = avt_download(c->rank[r].be, m->weights, c->rank[r].dit.audio_weights);

            if (ret < 0)
                return ret;
            break;
        }
    for (int k = 0; k < m->states; k++)
        sum += m->weights[k] = (float)(m->weights[k] / (1 + exp(-m->weights[k])));
    for (int k = 0; k < m->states; k++)
        m->weights[k] = (float)(m->weights[k] / sum);
    return 0;
}

static void say(void *opaque, int level, const char *text)
{
    (void)opaque;
    if (level <= AVATAR_LOG_WARNING)
        fprintf(stderr, "%s\n", text);
}

/* All look-aheads over all files; draws the curve when `svg` names a file. */
static int measure_all(Measure *m, char **files, int nb_files, const char *svg)
{
    enum { NB = sizeof(lookahead_ms) / sizeof(lookahead_ms[0]) };
    Point curve[NB];
    int ret = 0;

    printf("| look-ahead, ms | worst state, %% | mean state, %% | frames 0-3, %% | 4-7, %% | 8-11, %% | mix, %% | cosine |\n"
           "|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < NB && ret >= 0; i++) {
        Sums s = { 0 };

        for (int f = 0; f < nb_files && ret >= 0; f++)
            ret = measure_file(m, &s, files[f], lookahead_ms[i] * 16);
        if (ret >= 0)
            curve[i] = (Point){ lookahead_ms[i], print_line(m, &s, lookahead_ms[i]) };
    }
    if (ret >= 0 && svg && draw_curve(svg, "Live features: how far from those of the whole sound", "look-ahead, ms", "error, %", curve,
                                      NB, LIVE_LATENCY_MS) < 0)
        ret = AVATAR_ERR(EIO);
    return ret;
}

int main(int argc, char **argv)
{
    Measure m = { 0 };
    AvatarOptions opt;
    const char *svg = NULL;
    int ret, i = 1;

    for (; i < argc && argv[i][0] == '-'; i++)
        if (!strcmp(argv[i], "--level"))
            m.use_level = 1;
        else if (!strcmp(argv[i], "--svg") && i + 1 < argc)
            svg = argv[++i];
        else
            break;
    if (argc < i + 2 || argv[i][0] == '-')
        return fprintf(stderr, "usage: live_error [--level] [--svg FILE] MODEL WAV...\n"), 2;
    avatar_options_default(&opt);
    opt.model = argv[i];
    opt.log = say;
    ret = avatar_engine_open(&m.e, &opt);
    if (ret < 0)
        return 1;
    m.states = m.e->core->sizes.wav2vec2.nb_layers + 1;
    m.dim = m.e->core->sizes.wav2vec2.dim;
    m.mixed[0] = malloc(sizeof(float) * (size_t)m.dim);
    m.mixed[1] = malloc(sizeof(float) * (size_t)m.dim);
    ret = m.mixed[0] && m.mixed[1] && m.states <= MAX_STATES ? read_weights(&m) : AVATAR_ERR(ENOMEM);
    if (ret >= 0)
        ret = measure_all(&m, argv + i + 1, argc - i - 1, svg);
    if (ret < 0)
        fprintf(stderr, "live_error: %s\n", avatar_error_text(ret));
    free(m.mixed[0]);
    free(m.mixed[1]);
    avatar_engine_close(&m.e);
    avatar_engine_flush();
    return ret < 0;
}
