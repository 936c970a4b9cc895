/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * soak SECONDS [MODEL]: that much live sound through one session, as fast as it goes, in pieces of 20 ms. Memory must stay flat
 * after block 20, every block must come with the sample that completes it, the count of frames must be exact; in a long run the
 * time of a block must stay flat too. Sharpness and colour of an early and a late block are shown: a model that drifts is seen.
 *
 * Without MODEL: the tiny one of random weights, whose pictures mean nothing but whose memory and time do.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "avatar.h"
#include "model.h"
#include "test.h"

#define RATE 16000
#define PIECE 320
#define FRAME 640
#define BLOCK 7680
#define LATENCY 2560
#define SETTLED 20                      // blocks
#define FLAT_FROM 2000                  // blocks: shorter runs do not judge time

typedef struct Look {                   // of one block
    double sharpness, y, u, v;
} Look;

typedef struct Soak {
    AvatarEngine *e;
    AvatarSession *s;
    AvatarInfo info;
    int64_t blocks, nb_frames, taken;   // blocks to come in all; frames; whole blocks
    int64_t sent;                       // samples
    double *cpu;                        // [blocks] seconds of CPU
    double cpu_before;
    long rss;                           // pages at SETTLED
    long most;
    int64_t early, late;                // blocks that are looked at
    Look look[2];
    int bad;
} Soak;

static double now(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static long resident_pages(void)
{
    long size, pages = -1;
    FILE *f = fopen("/proc/self/statm", "r");

    if (f && fscanf(f, "%ld %ld", &size, &pages) != 2)
        pages = -1;
    if (f)
        fclose(f);
    return pages;
}

static void complain(Soak *k, const char *what, double have, double want)
{
    if (k->bad++ < 10)
        printf("FAIL %s: %.6g, wanted %.6g (block %lld)\n", what, have, want, (long long)k->taken);
}

/* Something like speech: syllables of a gliding voice with pauses, never the same. */
static void speak(float *pcm, int64_t at)
{
    for (int64_t i = 0; i < PIECE; i++) {
        const double t = (double)(at + i) / RATE, syllable = sin(2 * M_PI * 2.3 * t) * (0.7 + 0.3 * sin(0.37 * t));
        const double pitch = 2 * M_PI * (120 * t + 6 * sin(1.9 * t));
        const double voice = sin(pitch) + 0.5 * sin(2 * pitch) + 0.3 * sin(7 * pitch + sin(11 * t));

        pcm[i] = syllable > 0 ? (float)(0.2 * syllable * voice) : 0;
    }
}

static double mean(const uint8_t *p, int stride, int w, int h)
{
    double sum = 0;

    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            sum += p[y * stride + x];
    return sum / w / h;
}

/* Mean step from pixel to pixel, and mean colour. */
static Look look_at(const AvatarFrame *f)
{
    Look l = { 0, mean(f->data[0], f->linesize[0], f->width, f->height), mean(f->data[1], f->linesize[1], f->width / 2, f->height / 2),
               mean(f->data[2], f->linesize[2], f->width / 2, f->height / 2) };

    for (int y = 1; y < f->height; y++)
        for (int x = 1; x < f->width; x++) {
            const uint8_t *p = f->data[0] + y * f->linesize[0] + x;

            l.sharpness += abs(p[0] - p[-1]) + abs(p[0] - p[-f->linesize[0]]);
        }
    l.sharpness /= 2.0 * (f->width - 1) * (f->height - 1);
    return l;
}

static void add_look(Look *to, const Look *l)
{
    to->sharpness += l->sharpness / 12;
    to->y += l->y / 12;
    to->u += l->u / 12;
    to->v += l->v / 12;
}

static void end_of_block(Soak *k)
{
    const double cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    const long rss = resident_pages();

    k->cpu[k->taken++] = cpu - k->cpu_before;
    k->cpu_before = cpu;
    if (k->taken == SETTLED)
        k->rss = rss;
    if (k->taken >= SETTLED && rss > k->most)
        k->most = rss;
}

/* Frames that are there: none, or one block exactly when its sound and the look-ahead are complete. */
static int take(Soak *k)
{
    AvatarFrame f;
    int ret;

    while ((ret = avatar_session_receive(k->s, &f, AVATAR_WAIT)) >= 0) {
        if (f.index != k->nb_frames || f.block != k->nb_frames / 12)
            complain(k, "frame number", (double)f.index, (double)k->nb_frames);
        if (f.block == k->early || f.block == k->late) {
            const Look l = look_at(&f);

            add_look(&k->look[f.block == k->late], &l);
        }
        k->nb_frames++;
        if (k->nb_frames % 12 == 0)
            end_of_block(k);
    }
    return ret;
}

static void show_progress(const Soak *k, double start)
{
    static int shown = -1;
    const int tty = isatty(2), percent = (int)(100 * k->taken / k->blocks);
    const double s = now(CLOCK_MONOTONIC) - start;

    if (percent == shown || (!tty && percent / 10 == shown / 10))
        return;
    shown = percent;
    fprintf(stderr, "%s%3d %%  block %lld of %lld  %.1f x real time  %.1f MB%s", tty ? "\r\033[K" : "", percent, (long long)k->taken,
            (long long)k->blocks, (double)k->taken * BLOCK / RATE / s, (double)resident_pages() * (double)sysconf(_SC_PAGESIZE) / 1e6,
            tty ? "" : "\n");
}

static int run(Soak *k, int64_t n)
{
    const double start = now(CLOCK_MONOTONIC);
    float pcm[PIECE];
    int ret = AVATAR_EAGAIN;

    k->cpu_before = now(CLOCK_PROCESS_CPUTIME_ID);
    while (k->sent < n && ret == AVATAR_EAGAIN) {
        const int64_t had = k->nb_frames, due = k->sent + PIECE - LATENCY;

        speak(pcm, k->sent);
        ret = avatar_session_send(k->s, pcm, PIECE);
        if (ret < 0)
            return ret;
        k->sent += PIECE;
        ret = take(k);
        if (k->nb_frames != (due < 0 ? 0 : due / BLOCK * 12))
            complain(k, "frames out with this sound", (double)k->nb_frames, (double)(due < 0 ? 0 : due / BLOCK * 12));
        if (k->nb_frames != had)
            show_progress(k, start);
    }
    if (ret != AVATAR_EAGAIN)
        return ret;
    ret = avatar_session_send(k->s, NULL, 0);
    ret = ret < 0 ? ret : take(k);
    fprintf(stderr, isatty(2) ? "\r\033[K" : "");
    printf("%.0f s of sound in %.0f s: %.1f x real time, %lld frames\n", (double)n / RATE, now(CLOCK_MONOTONIC) - start,
           (double)n / RATE / (now(CLOCK_MONOTONIC) - start), (long long)k->nb_frames);
    return ret;
}

static int by_value(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* CPU time that nine of ten blocks need at least: other work on the machine makes blocks slower, hardly ever faster. */
static double low_tenth(const double *cpu, int64_t nb)
{
    double *v = malloc(sizeof(*v) * (size_t)nb), low;

    if (!v)
        return 0;
    memcpy(v, cpu, sizeof(*v) * (size_t)nb);
    qsort(v, (size_t)nb, sizeof(*v), by_value);
    low = v[nb / 10];
    free(v);
    return low;
}

static void judge(Soak *k, int64_t n)
{
    const double mb = (double)sysconf(_SC_PAGESIZE) / 1e6;
    const int64_t part = (k->taken - SETTLED) / 10;
    double first, last;

    if (k->nb_frames != (n + FRAME - 1) / FRAME)
        complain(k, "frames", (double)k->nb_frames, (double)((n + FRAME - 1) / FRAME));
    if (k->taken <= SETTLED)
        return;
    printf("memory: %.2f MB at block %d, at most %.2f MB later (%+.2f)\n", (double)k->rss * mb, SETTLED, (double)k->most * mb,
           (double)(k->most - k->rss) * mb);
    if ((double)(k->most - k->rss) * mb > 1)
        complain(k, "growth of memory in MB", (double)(k->most - k->rss) * mb, 1);
    if (part) {
        first = low_tenth(k->cpu + SETTLED, part);
        last = low_tenth(k->cpu + k->taken - part, part);
        printf("CPU time of a block (low tenth): %.3f ms in the first tenth, %.3f ms in the last (%+.2f %%)%s\n", 1e3 * first, 1e3 * last,
               100 * (last / first - 1), k->taken < FLAT_FROM ? "; too short a run to judge" : "");
        if (k->taken >= FLAT_FROM && last > 1.02 * first)
            complain(k, "growth of a block's time in %", 100 * (last / first - 1), 2);
    }
    for (int i = 0; i < 2; i++)
        printf("block %lld: sharpness %.3f, colour Y %.2f U %.2f V %.2f\n", (long long)(i ? k->late : k->early), k->look[i].sharpness,
               k->look[i].y, k->look[i].u, k->look[i].v);
}

static void say(void *opaque, int level, const char *text)
{
    (void)opaque;
    if (level <= AVATAR_LOG_WARNING)
        fprintf(stderr, "%s\n", text);
}

static int open_all(Soak *k, const char *model)
{
    static uint8_t rgb[64 * 64 * 3];
    AvatarOptions opt;
    AvatarLook look;
    int ret;

    for (int i = 0; i < 64 * 64 * 3; i++)
        rgb[i] = (uint8_t)(i * 7 + i / 192 * 3);
    avatar_options_default(&opt);
    opt.model = model;
    opt.log = say;
    opt.cpu_threads = 1;
    avatar_look_default(&look);
    look.rgb = rgb;
    look.width = look.height = 64;
    look.seed = 1;
    look.mode = AVATAR_LIVE;
    look.latency_ms = LATENCY * 1000 / RATE;
    ret = avatar_engine_open(&k->e, &opt);
    if (ret >= 0)
        ret = avatar_session_open(&k->s, k->e, &look);
    return ret;
}

int main(int argc, char **argv)
{
    const int64_t seconds = argc > 1 ? atoll(argv[1]) : 10000, n = seconds * RATE;
    char dir[] = "/tmp/avatar-soak-XXXXXX", cmd[64];
    Soak k = { .blocks = (n + BLOCK - 1) / BLOCK };
    TestModel m;
    int ret = 0;

    if (seconds < 1 || (argc < 3 && !mkdtemp(dir)))
        return fprintf(stderr, "usage: soak SECONDS [MODEL]\n"), 2;
    test_model_default(&m);
    m.avatar_json = "{\"lora\": \"none\", \"size\": \"64x64\"}";
    k.early = k.blocks > 100 ? 100 : SETTLED;
    k.late = k.blocks > 10000 ? 10000 : k.blocks - 2;
    k.cpu = calloc((size_t)k.blocks + 1, sizeof(*k.cpu));
    if (argc < 3)
        ret = test_model_write(&m, dir);
    if (ret >= 0 && k.cpu)
        ret = open_all(&k, argc < 3 ? dir : argv[2]);
    if (ret >= 0)
        ret = run(&k, n);
    if (ret == AVATAR_EOF)
        judge(&k, n);
    else
        complain(&k, avatar_error_text(ret), ret, AVATAR_EOF);
    avatar_session_close(&k.s);
    avatar_engine_close(&k.e);
    avatar_engine_flush();
    free(k.cpu);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    if (argc < 3 && system(cmd))
        k.bad++;
    printf("%d passed, %d failed\n", !k.bad, !!k.bad);
    return !!k.bad;
}
