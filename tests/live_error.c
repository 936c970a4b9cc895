/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * live_error [--level] [--svg FILE] MODEL WAV...: how far live features are from those of the whole sound, over the look-ahead.
 * live_error --windows MODEL WAV...: how far those of a long sound, which is the files one after another, are from one pass over it.
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
#include "engine/sound.h"
#include "kernels.h"

#define ROW_SAMPLES 320
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

static int open_front(Front *f, const Measure *m, int64_t samples)
{
    const Core *c = m->e->core;
    const FrontSetup set = { .sizes = &c->sizes, .samples = samples, .log = &m->e->log };
    const BackendOptions opt = avt_core_backend(c, c->plan.front_threads, &m->e->log);
    PlanMemory planned;
    const int ret = avt_front_measure(&planned, &set, c->plan.front_device, &opt, NULL);

    return ret < 0 ? ret : avt_front_open(f, &set, &c->front, &opt, c->plan.front_device, &planned);
}

/* Features of block `g` as a live session gets them: `left` bounded, silence behind the end. */
static int live_rows(const Measure *m, Front *f, Loudness *l, int64_t *heard, float *rows, const float *pcm, int64_t n, int64_t g, int64_t la)
{
    const int64_t want = g * BLOCK_SAMPLES - LIVE_LEFT, begin = want > 0 ? want / ROW_SAMPLES * ROW_SAMPLES : 0;
    const int64_t hears = (g + 1) * BLOCK_SAMPLES + la, end = hears < n ? hears : n;
    const Piece p = { .begin = begin, .n = (g + 1) * BLOCK_SAMPLES + (la > 80 ? la : 80) - begin, .first = g * BLOCK_FRAMES, .nb = BLOCK_FRAMES };
    float *piece = calloc((size_t)p.n, sizeof(*piece));
    int ret = piece ? 0 : AVATAR_ERR(ENOMEM);

    for (; !m->use_level && *heard + ROW_SAMPLES <= end; *heard += ROW_SAMPLES)
        avt_loudness_add(l, pcm + *heard);
    if (ret >= 0) {
        memcpy(piece, pcm + begin, (size_t)(end - begin) * sizeof(float));
        avt_loudness_normalize(l, piece, p.n);
        ret = avt_front_rows(f, &p, piece, rows, BLOCK_FRAMES);
    }
    free(piece);
    return ret;
}

/* One pass over the whole sound, as if it were short: rows of whole blocks. */
static int whole_rows(const Measure *m, float **rows, const float *pcm, int64_t n)
{
    const int64_t blocks = (n + BLOCK_SAMPLES - 1) / BLOCK_SAMPLES, padded = blocks * BLOCK_SAMPLES + FRONT_SILENCE;
    const Piece p = { .n = padded, .nb = blocks * BLOCK_FRAMES };
    float *piece = calloc((size_t)padded, sizeof(*piece));
    Front f = { 0 };
    int ret = piece ? open_front(&f, m, padded) : AVATAR_ERR(ENOMEM);

    *rows = malloc(sizeof(float) * (size_t)(p.nb * m->states * m->dim));
    if (ret >= 0) {
        memcpy(piece, pcm, (size_t)n * sizeof(*piece));
        avt_wav2vec2_normalize(piece, piece, padded, n);
        ret = *rows ? avt_front_rows(&f, &p, piece, *rows, p.nb) : AVATAR_ERR(ENOMEM);
    }
    avt_front_close(&f);
    free(piece);
    return ret;
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
    Front f = { 0 };
    Loudness l;
    int64_t n = 0, heard = 0;
    float *pcm = read_wav(path, &n), *whole = NULL, *rows = malloc(sizeof(float) * (size_t)(BLOCK_FRAMES * m->states * m->dim));
    int ret = pcm && rows ? whole_rows(m, &whole, pcm, n) : AVATAR_ERR(EIO);

    avt_loudness_init(&l);
    if (m->use_level && ret >= 0) {
        l.mean = l.var = 0;
        for (int64_t i = 0; i < n; i++)
            l.mean += pcm[i] / (double)n;
        for (int64_t i = 0; i < n; i++)
            l.var += (pcm[i] - l.mean) * (pcm[i] - l.mean) / (double)n;
    }
    if (ret >= 0)
        ret = open_front(&f, m, avt_sound_piece(1, la));
    for (int64_t g = 0; g * BLOCK_SAMPLES < n && ret >= 0; g++) {
        ret = live_rows(m, &f, &l, &heard, rows, pcm, n, g, la);
        if (ret >= 0)
            compare(m, s, rows, whole + g * BLOCK_FRAMES * m->states * m->dim);
    }
    avt_front_close(&f);
    free(whole);
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

/* ---- windows ------------------------------------------------------------------------------------------------------------------ */

static float *join_files(char **files, int nb, int64_t *n)
{
    float *all = NULL;

    *n = 0;
    for (int i = 0; i < nb; i++) {
        int64_t len = 0;
        float *pcm = read_wav(files[i], &len), *more = pcm ? realloc(all, sizeof(float) * (size_t)(*n + len)) : NULL;

        if (more) {
            memcpy(more + *n, pcm, sizeof(float) * (size_t)len);
            all = more;
            *n += len;
        }
        free(pcm);
    }
    return all;
}

/* What is measured of a window: frames `from` .. `to` - 1. */
static void print_window(const Measure *m, const Sums *s, int64_t from, int64_t to)
{
    double worst = 0, error = 0, norm = 0, mix_error = 0, mix_norm = 0;

    for (int k = 0; k < m->states; k++) {
        const double e = sqrt(s->state_error[k] / s->state_norm[k]);

        worst = e > worst ? e : worst;
        error += s->state_error[k];
        norm += s->state_norm[k];
    }
    for (int i = 0; i < 3; i++) {
        mix_error += s->error[i];
        mix_norm += s->norm[i];
    }
    printf("| %6.2f - %6.2f | %6.2f | %6.2f | %6.2f |\n", (double)from / 25, (double)to / 25, 100 * sqrt(error / norm), 100 * worst,
           100 * sqrt(mix_error / mix_norm));
}

static void add_sums(Sums *all, const Sums *s)
{
    for (int k = 0; k < MAX_STATES; k++) {
        all->state_error[k] += s->state_error[k];
        all->state_norm[k] += s->state_norm[k];
    }
    for (int i = 0; i < 3; i++) {
        all->error[i] += s->error[i];
        all->norm[i] += s->norm[i];
    }
}

/* Take the blocks of a sound that was sent whole, and compare. A window's last block may be half the next one's. */
static int compare_windows(Measure *m, Sound *o, const float *whole, int64_t n)
{
    const int64_t nb = (n + BLOCK_SAMPLES - 1) / BLOCK_SAMPLES, step = SOUND_STEP / 640, first = (SOUND_WINDOW - SOUND_RIGHT) / 640;
    Sums s = { 0 }, after = { 0 };
    int64_t from = 0;
    int ret = 0;

    printf("| seconds | all states, %% | worst state, %% | mix, %% |\n|---|---|---|---|\n");
    for (int64_t g = 0; g < nb && ret >= 0; g++) {
        const float *rows;

        ret = avt_sound_rows(o, &rows);
        if (ret >= 0)
            compare(m, &s, rows, whole + g * BLOCK_FRAMES * o->row_size);
        const int64_t to = (g + 1) * BLOCK_FRAMES, last = from ? from + step : first;
        if (to + BLOCK_FRAMES > last || g + 1 == nb) {
            print_window(m, &s, from, to);
            if (from)
                add_sums(&after, &s);
            s = (Sums){ 0 };
            from = to;
        }
    }
    if (ret >= 0) {
        printf("after the first window:\n");
        print_window(m, &after, first, nb * BLOCK_FRAMES);
    }
    return ret;
}

static void *listen_to(void *sound)
{
    avt_sound_listen(sound);
    return NULL;
}

static int measure_windows(Measure *m, char **files, int nb_files)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t change = PTHREAD_COND_INITIALIZER;
    const int cancel = 0;
    Front f = { 0 };
    Sound o = { .lock = &lock, .change = &change, .cancel = &cancel, .log = &m->e->log, .front = &f, .row_size = (int64_t)m->states * m->dim };
    pthread_t listener;
    float *whole = NULL, *pcm;
    int64_t n;
    int ret, listening = 0;

    pcm = join_files(files, nb_files, &n);
    ret = pcm && n > SOUND_WINDOW ? whole_rows(m, &whole, pcm, n) : AVATAR_ERR(EINVAL);
    if (ret >= 0)
        ret = open_front(&f, m, avt_sound_piece(0, 0));
    if (ret >= 0)
        ret = avt_sound_open(&o);
    if (ret >= 0)
        ret = (listening = !pthread_create(&listener, NULL, listen_to, &o)) ? 0 : AVATAR_ERR(ENOMEM);
    if (ret >= 0) {
        pthread_mutex_lock(&lock);
        ret = avt_sound_append(&o, pcm, n);
        o.closed = 1;
        pthread_cond_broadcast(&change);
        pthread_mutex_unlock(&lock);
    }
    if (ret >= 0)
        ret = compare_windows(m, &o, whole, n);
    if (listening) {
        avt_sound_stop(&o);
        pthread_join(listener, NULL);
    }
    avt_sound_close(&o);
    avt_front_close(&f);
    free(whole);
    free(pcm);
    return ret;
}

int main(int argc, char **argv)
{
    Measure m = { 0 };
    AvatarOptions opt;
    const char *svg = NULL;
    int ret, windows = 0, i = 1;

    for (; i < argc && argv[i][0] == '-'; i++)
        if (!strcmp(argv[i], "--level"))
            m.use_level = 1;
        else if (!strcmp(argv[i], "--windows"))
            windows = 1;
        else if (!strcmp(argv[i], "--svg") && i + 1 < argc)
            svg = argv[++i];
        else
            break;
    if (argc < i + 2 || argv[i][0] == '-')
        return fprintf(stderr, "usage: live_error [--level] [--svg FILE] | --windows MODEL WAV...\n"), 2;
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
        ret = windows ? measure_windows(&m, argv + i + 1, argc - i - 1) : measure_all(&m, argv + i + 1, argc - i - 1, svg);
    if (ret < 0)
        fprintf(stderr, "live_error: %s\n", avatar_error_text(ret));
    free(m.mixed[0]);
    free(m.mixed[1]);
    avatar_engine_close(&m.e);
    avatar_engine_flush();
    return ret < 0;
}
