/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bench [WORK ...]: times the works of the table in doc/speed.md, prints it, writes build/bench.json.
 *
 *   --reps N     repetitions, of which the median is taken (5)      --threads N      (2)
 *   --cpu        processor time / threads instead of wall time, for a machine that others use too
 *   --level N    highest CPU level of ours (5: the best; 3: AVX-512, whose i8 is VNNI)
 *   --dir DIR    where weights and inputs lie (build/bench)         --python PATH    of the peers
 *   --src DIR    the tree                                           --ffmpeg PATH    with the filter inside
 *   --precision f32|bf16|int8|both    ours, and the peers' (autocast); both where the CPU runs bf16 faster, with what it gains. The transformer's
 *                                layers in int8 as well, but with f32 or bf16 alone
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/thread.h"
#include "bench.h"
#include "config.h"
#include "test.h"

#define LONG_MS 15e3                    // a pass that takes longer is not repeated
#define PEAK_SIZE 2048                  // of the product that the machine's peak is measured with

static const struct {
    const char *name;
    int (*run)(Bench *b);
} works[] = {
    { "dit", work_dit }, { "vae", work_vae }, { "wav2vec2", work_wav2vec2 }, { "umt5", work_umt5 },
    { "open", work_open }, { "block", work_block }, { "film", work_film },
};
enum { NB_WORKS = sizeof(works) / sizeof(works[0]) };

static double clock_of(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double bench_now(const Bench *b)
{
    return b->cpu ? clock_of(CLOCK_PROCESS_CPUTIME_ID) / b->threads : clock_of(CLOCK_MONOTONIC);
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(double *v, int nb)
{
    qsort(v, (size_t)nb, sizeof(*v), ascending);
    return nb ? (v[(nb - 1) / 2] + v[nb / 2]) / 2 : 0;
}

const char *bench_path(const Bench *b, const char *fmt, ...)
{
    static char buf[4][1024];
    static int next;
    char *p = buf[next = (next + 1) % 4];
    va_list ap;
    int n = snprintf(p, sizeof(buf[0]), "%s/", b->dir);

    va_start(ap, fmt);
    vsnprintf(p + n, sizeof(buf[0]) - (size_t)n, fmt, ap);
    va_end(ap);
    return p;
}

int bench_begin(Bench *b, size_t weights, size_t scratch)
{
    avt_arena_close(&b->weights);
    avt_arena_close(&b->scratch);
    if (avt_arena_open(&b->weights, b->be, "weights", weights) < 0)
        return -1;
    return avt_arena_open(&b->scratch, b->be, "scratch", scratch);
}

int bench_write(const Bench *b, const char *name, const float *v, int64_t nb)
{
    FILE *f = fopen(bench_path(b, "%s", name), "wb");
    float *own = NULL;
    size_t n = 0;

    if (!v) {
        own = malloc((size_t)nb * sizeof(*own));
        test_random(own, nb, 5);
        v = own;
    }
    if (f)
        n = fwrite(v, sizeof(*v), (size_t)nb, f);
    free(own);
    return !f || fclose(f) || n != (size_t)nb ? -1 : 0;
}

/* ---- rows --------------------------------------------------------------------------------------------------------- */

Row *bench_row(Bench *b, const char *work, const char *title, const char *goal)
{
    Row *r = &b->row[b->nb_rows++];

    *r = (Row){ .work = work, .title = title, .goal = goal, .apart = -1, .act = b->act, .product = b->product };
    return r;
}

static double share(const Bench *b, const Row *r)
{
    return r->ms > 0 && b->peak > 0 ? r->flops / (1e-3 * r->ms) / b->peak : 0;
}

static const char *precision_of(const Row *r)
{
    return r->product == DT_I8 ? "int8" : avt_dtype_name(r->act);
}

/* Time of the same work in f32, or 0. */
static double of_f32(const Bench *b, const Row *r)
{
    for (int i = 0; i < b->nb_rows && strcmp(precision_of(r), "f32"); i++)
        if (!strcmp(precision_of(&b->row[i]), "f32") && !strcmp(b->row[i].work, r->work))
            return b->row[i].ms;
    return 0;
}

void bench_say(const Bench *b, const Row *r)
{
    char peer[32] = "", apart[32] = "", flops[48] = "", gain[40] = "";
    const double f32_ms = of_f32(b, r);

    if (r->flops > 0)
        snprintf(flops, sizeof(flops), "%7.1f %5.0f%%", 1e-6 * r->flops / r->ms, 100 * share(b, r));
    if (r->peer)
        snprintf(peer, sizeof(peer), r->peer_ms > 0 ? "%.1f" : "none here", r->peer_ms);
    if (r->apart >= 0)
        snprintf(apart, sizeof(apart), "  results differ by %.1e", r->apart);
    if (f32_ms > 0 && r->ms > 0)
        snprintf(gain, sizeof(gain), "  %.2f x f32", f32_ms / r->ms);
    printf("%-44s %-4s %10.2f %14s %10s %8.2f  %-22s %s%s%s\n", r->title, precision_of(r), r->ms, flops, peer, r->value, r->goal, r->note,
           apart, gain);
    fflush(stdout);
}

static void write_json(const Bench *b, const char *path)
{
    FILE *f = fopen(path, "w");

    if (!f)
        return;
    fprintf(f, "[\n");
    for (int i = 0; i < b->nb_rows; i++) {
        const Row *r = &b->row[i];

        fprintf(f, "  {\"work\": \"%s\", \"precision\": \"%s\", \"what\": \"%s\", \"ms\": %.3f, \"gflops\": %.2f, \"share_of_peak\": %.4f, ", r->work, precision_of(r), r->title, r->ms,
                r->ms > 0 ? 1e-6 * r->flops / r->ms : 0, share(b, r));
        if (r->peer_ms > 0)
            fprintf(f, "\"peer\": \"%s\", \"peer_ms\": %.3f, ", r->peer, r->peer_ms);
        else
            fprintf(f, "\"peer\": null, \"peer_ms\": null, ");
        if (r->value > 0)
            fprintf(f, "\"ratio\": %.3f, ", r->value);
        else
            fprintf(f, "\"ratio\": null, ");
        fprintf(f, "\"goal\": \"%s\", \"clock\": \"%s\", \"threads\": %d, \"note\": \"%s\"}%s\n", r->goal, b->cpu ? "processor / threads" : "wall",
                b->threads, r->note, i + 1 < b->nb_rows ? "," : "");
    }
    fprintf(f, "]\n");
    fclose(f);
}

/* ---- timing ------------------------------------------------------------------------------------------------------- */

static double sum_flops(const Backend *be)
{
    double f = 0;

    for (int i = 0; i < OP_NB; i++)
        f += be->stat[i].flops;
    return f;
}

/* Relative L2 between our result and the peer's file. */
static double compare(const Bench *b, Tensor result, const char *peer)
{
    const int64_t nb = avt_numel(result);
    float *ours = malloc((size_t)nb * 4), *theirs = malloc((size_t)nb * 4);
    FILE *f = fopen(bench_path(b, "%s.out.f32", peer), "rb");
    double max, l2 = -1;

    if (f && fread(theirs, 4, (size_t)nb, f) == (size_t)nb && avt_download(b->be, ours, result) >= 0)
        test_distance(ours, theirs, nb, &max, &l2);
    if (f)
        fclose(f);
    free(ours);
    free(theirs);
    return l2;
}

static int run_ours(const Bench *b, const Task *t, double *ms)
{
    double start;
    int ret = t->before ? t->before(t->arg) : 0;

    start = bench_now(b);
    if (ret >= 0)
        ret = t->run(t->arg);
    *ms = 1e3 * (bench_now(b) - start);
    return ret;
}

static int ask(const Bench *b, const char *word, double *ms)
{
    double wall, cpu;

    if (peer_ask(b->peer, word, &wall, &cpu) < 0)
        return -1;
    *ms = 1e3 * (b->cpu ? cpu / b->threads : wall);
    return 0;
}

/* What takes long is not run once more only to be warm. */
int bench_measure(Bench *b, Row *r, const Task *t, const char *peer)
{
    double ours[64], theirs[64], before = sum_flops(b->be);
    const int reps = b->reps < 64 ? b->reps : 64;
    char word[64];
    int ret = run_ours(b, t, &ours[0]), nb = ours[0] > LONG_MS ? 1 : reps, nb_peer, with_peer = peer && b->peer;

    if (ret < 0)
        return ret;
    r->flops = sum_flops(b->be) - before;
    snprintf(word, sizeof(word), "open %s", peer ? peer : "");
    if (with_peer && (ask(b, word, &theirs[0]) < 0 || ask(b, "first", &theirs[0]) < 0))
        with_peer = 0;
    nb_peer = with_peer && theirs[0] > LONG_MS ? 1 : nb;
    if (with_peer && t->result)
        r->apart = compare(b, *t->result, peer);
    for (int i = 0; i < reps && ret >= 0; i++) {
        if (nb > 1)
            ret = run_ours(b, t, &ours[i]);
        if (with_peer && nb_peer > 1 && ret >= 0)
            with_peer = ask(b, "run", &theirs[i]) >= 0;
    }
    r->ms = bench_median(ours, nb);
    if (with_peer) {
        r->peer_ms = bench_median(theirs, nb_peer);
        r->value = r->peer_ms / r->ms;
    }
    return ret;
}

static void measure_peak(Bench *b)
{
    Product *p = product_open(PEAK_SIZE, PEAK_SIZE, PEAK_SIZE, b->threads);
    double best = 1e9, start;

    for (int i = 0; p && i < 12; i++) {
        start = bench_now(b);
        product_run(p);
        best = bench_now(b) - start < best ? bench_now(b) - start : best;
    }
    if (p)
        b->peak = 2.0 * PEAK_SIZE * PEAK_SIZE * PEAK_SIZE / best;
    product_close(p);
}

/* ---- main --------------------------------------------------------------------------------------------------------- */

static void log_line(void *opaque, int level, const char *text)
{
    (void)opaque;
    (void)level;
    fprintf(stderr, "bench: %s\n", text);
}

/* Options of main; what is left are names of works. @return number of them, or -1 */
enum { OF_F32 = 1, OF_BF16 = 2, OF_INT8 = 4 };

static unsigned precisions_of(const char *v)
{
    return !strcmp(v, "f32") ? OF_F32 : !strcmp(v, "bf16") ? OF_BF16 : !strcmp(v, "int8") ? OF_INT8 : !strcmp(v, "both") ? OF_F32 | OF_BF16 | OF_INT8 : 0;
}

static int read_options(Bench *b, int argc, char **argv, const char **names, unsigned *which)
{
    int nb = 0;

    for (int i = 1; i < argc; i++) {
        const char *o = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";

        if (!strcmp(o, "--precision") && ++i && (*which = precisions_of(v)))
            continue;
        if (!strcmp(o, "--cpu"))
            b->cpu = 1;
        else if (o[0] != '-' && nb < NB_WORKS)
            names[nb++] = o;
        else if (i++, !strcmp(o, "--reps"))
            b->reps = atoi(v);
        else if (!strcmp(o, "--threads"))
            b->threads = atoi(v);
        else if (!strcmp(o, "--level"))
            b->level = (CpuLevel)atoi(v);
        else if (!strcmp(o, "--dir"))
            b->dir = v;
        else if (!strcmp(o, "--python"))
            b->python = v;
        else if (!strcmp(o, "--src"))
            b->src = v;
        else if (!strcmp(o, "--ffmpeg"))
            b->ffmpeg = v;
        else
            return -1;
    }
    return b->reps > 0 && b->threads > 0 && b->level <= CPU_AUTO ? nb : -1;
}

static int wanted(const char *name, const char **names, int nb)
{
    for (int i = 0; i < nb; i++)
        if (!strcmp(name, names[i]))
            return 1;
    return !nb;
}

/* A work on a backend of its own; the peer is told the precision. */
static int run_work(Bench *b, int (*run)(Bench *b))
{
    const BackendOptions opt = { .level = b->level, .log = b->log, .threads = b->threads, .act = b->act, .product = b->product };
    char word[32];
    double none;
    int ret = avt_backend_open(&b->be, "cpu", &opt);

    snprintf(word, sizeof(word), "precision %s", avt_dtype_name(b->act));
    if (ret >= 0 && b->peer)
        ret = peer_ask(b->peer, word, &none, &none);
    if (ret >= 0)
        ret = run(b);
    avt_arena_close(&b->weights);
    avt_arena_close(&b->scratch);
    avt_backend_close(&b->be);
    return ret;
}

int main(int argc, char **argv)
{
    static const Log log = { .write = log_line, .level = LOG_WARNING };
    Bench b = { .dir = "build/bench", .python = "build/bench/venv/bin/python", .src = AVT_SRCDIR, .ffmpeg = "build/ffmpeg/bin/ffmpeg",
                .threads = 2, .reps = 5, .level = CPU_AUTO, .log = &log };
    const char *names[NB_WORKS];
    unsigned which = OF_F32 | OF_INT8 | (avt_device_act("cpu", CPU_AUTO) == DT_BF16 ? OF_BF16 : 0);
    const int nb = read_options(&b, argc, argv, names, &which);
    const DType fast = avt_device_act("cpu", b.level);
    int ret = 0;

    if (nb < 0)
        return fprintf(stderr, "usage: bench [WORK ...] [--reps N] [--threads N] [--level N] [--cpu] [--dir DIR] [--python PATH] [--src DIR] [--ffmpeg PATH]\n"
                               "             [--precision f32|bf16|int8|both]\n"), 2;
    mkdir(b.dir, 0777);
    avt_thread_flush_denormals();
    if (peer_open(&b.peer, &b) < 0)
        printf("no peers: %s has no torch, diffusers and transformers (make bench gets them from PyPI when there is a network)\n", b.python);
    measure_peak(&b);
    printf("%d threads, peak %.1f GFLOP/s (f32, oneDNN, packed product of %d), medians of %d, %s\n", b.threads, 1e-9 * b.peak, PEAK_SIZE, b.reps,
           b.cpu ? "processor time / threads" : "wall time");
    printf("%-44s %-4s %10s %14s %10s %8s  %s\n", "work", "", "ms", "GFLOP/s  peak", "peer ms", "value", "goal");
    for (int i = 0; i < NB_WORKS; i++)
        for (unsigned p = OF_F32; p <= OF_INT8 && wanted(works[i].name, names, nb); p *= 2) {       // in turn: a machine's speed changes with time
            if (!(which & p) || (p == OF_INT8 && strcmp(works[i].name, "dit")))
                continue;
            b.act = p == OF_F32 ? DT_F32 : p == OF_BF16 ? DT_BF16 : fast;
            b.product = p == OF_INT8 ? DT_I8 : b.act;
            if (run_work(&b, works[i].run) < 0) {
                fprintf(stderr, "bench: %s failed\n", works[i].name);
                ret = 1;
            }
        }
    write_json(&b, bench_path(&b, "../bench.json"));
    peer_close(&b.peer);
    return ret;
}
