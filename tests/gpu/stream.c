/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stream [--device D] [--precision P] [--tiny] [--repeats N] [--forward]: a model of the published sizes on one GPU, with random weights that are made
 * there, run as a session runs it; what it takes and how long, as JSON on stdout. For tests/gpu/check.sh.
 *
 *   memory    planned by arena, and what the device has less of when all is open
 *   forward   one block at one step, in mid-stream: its time, and by op with a wait behind each (which adds up to more)
 *   block     four steps, decoded, in host memory: frames a second, waits of the host, allocations
 *   repeats   the first step of one block again and again: equal bits
 *
 * --forward: the forward alone, few runs of it, for a precision in which blocks would take minutes. Exit code 77: the model has no room here.
 * --tiny: the tests' model at 32x32, a short stream, so that the emulated GPU goes through all of it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "chance.h"
#include "engine/rank.h"
#include "model.h"

#define POOL (1 << 22)                  // random values that all weights are filled from
#define FULL_RING 5                     // blocks until a ring is full

typedef struct Stream {
    Chance chance;
    PlanSizes sizes;
    Plan plan;
    RankSetup set;
    RankWeights w;
    Rank rank;
    PlanMemory memory;
    BackendOptions opt;
    const char *device;
    int tiny, forward;
    int no_room;                        // the device has less than is planned
} Stream;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void say(void *opaque, int level, const char *text)
{
    (void)opaque, (void)level;
    fprintf(stderr, "stream: %s\n", text);
}

static const Log stream_log = { .write = say, .level = LOG_ERROR };

/* ---- weights ---------------------------------------------------------------------------------------------------------------- */

/* In front of the backend's table: a weight without a source is filled from the pool. */
static struct {
    BackendClass cls;
    const BackendClass *real;
    Tensor pool[DT_BF16 + 1];
} fill;

static int put_random(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const int ret = fill.real->weight_put(be, dst, use, dtype, src);
    const int64_t nb = avt_numel(*dst);

    for (int64_t i = 0, n; i < nb && ret >= 0; i += n) {
        Tensor part = { .be = be, .dtype = dst->dtype, .nd = 1, .data = (char *)dst->data + (size_t)i * avt_dtype_size(dst->dtype) };

        part.dim[0] = n = nb - i < POOL ? nb - i : POOL;
        avt_copy(be, part, avt_rows(fill.pool[dst->dtype], 0, n));
    }
    return ret;
}

static void fill_start(Backend *be, Arena *pool)
{
    float *v = malloc(POOL * sizeof(*v));

    test_random(v, POOL, 11);
    for (int i = 0; i < POOL; i++)
        v[i] *= 0.02f;
    fill.pool[DT_F32] = avt_new(pool, DT_F32, POOL);
    fill.pool[DT_BF16] = avt_new(pool, DT_BF16, POOL);
    avt_upload(be, fill.pool[DT_F32], v);
    avt_copy(be, fill.pool[DT_BF16], fill.pool[DT_F32]);
    free(v);
    fill.real = be->cls;
    fill.cls = *be->cls;
    fill.cls.weight_put = put_random;
    be->cls = &fill.cls;
}

/* As avt_rank_weights_open() without files. */
static int weights_open(Stream *s)
{
    RankWeights *w = &s->w;
    Arena *pool = NULL;
    Binder b;
    int ret = avt_backend_open(&w->be, s->device, &s->opt);

    if (ret >= 0)
        ret = avt_arena_open(&w->arena, w->be, "weights", s->memory.weights);
    if (ret >= 0)
        ret = avt_arena_open(&pool, w->be, "random numbers", POOL * (sizeof(float) + sizeof(uint16_t)));
    if (ret < 0)
        return ret;
    fill_start(w->be, pool);
    ret = avt_binder_open(&b, NULL, NULL, w->arena, "dit", s->sizes.dtype, s->opt.log);
    if (ret >= 0)
        ret = avt_dit_open(&w->dit, &s->sizes.dit, &b, 0, s->sizes.dit.nb_layers);
    avt_binder_close(&b);
    if (ret >= 0)
        ret = avt_binder_open(&b, NULL, NULL, w->arena, "vae", DT_F32, s->opt.log);
    if (ret >= 0)
        ret = avt_vae_open(&w->vae, &b, s->sizes.vae_width, VAE_ENCODER | VAE_DECODER);
    avt_binder_close(&b);
    if (ret >= 0)
        ret = avt_sync(w->be);
    w->be->cls = fill.real;
    avt_arena_close(&pool);
    return ret;
}

/* Speed of weights through weight_put(), bytes a second, of bf16 as the published files have it. */
static double time_put(Stream *s, int64_t rows)
{
    const int64_t dim[2] = { rows, 4096 };
    const size_t size = (size_t)rows * 4096 * 2;
    void *src = calloc(size, 1);
    Arena *a = NULL;
    double start = 0;

    memset(src, 1, size);
    if (avt_arena_open(&a, s->w.be, "a weight", size) >= 0) {
        avt_sync(s->w.be);
        start = now();
        avt_weight_put(a, WEIGHT_LINEAR, DT_BF16, DT_BF16, 2, dim, src);
        avt_sync(s->w.be);
        start = now() - start;
    }
    avt_arena_close(&a);
    free(src);
    return start > 0 ? (double)size / start : 0;
}

/* And of a plain copy from pinned memory. */
static double time_fetch(Stream *s, int64_t rows)
{
    const size_t size = (size_t)rows * 4096 * 2;
    void *src = avt_host_alloc(s->w.be, size);
    Arena *a = NULL;
    double start = 0;

    if (src && avt_arena_open(&a, s->w.be, "a copy", size) >= 0) {
        memset(src, 1, size);
        avt_sync(s->w.be);
        start = now();
        avt_fetch(s->w.be, avt_new(a, DT_BF16, rows, 4096), src);
        avt_sync(s->w.be);
        start = now() - start;
    }
    avt_arena_close(&a);
    avt_host_free(s->w.be, src, size);
    return start > 0 ? (double)size / start : 0;
}

/* ---- the rank --------------------------------------------------------------------------------------------------------------- */

static void choose_sizes(Stream *s)
{
    TestModel m;

    if (s->tiny) {
        test_model_default(&m);
        s->sizes = m.sizes;
        s->sizes.width = s->sizes.height = 32;
        return;
    }
    avt_plan_sizes_published(&s->sizes);
}

/* left: bytes that the device has, or -1 */
static int has_room(Stream *s, int64_t left)
{
    const double wanted = (double)avt_plan_sum(&s->memory);

    s->no_room = left >= 0 && wanted > (double)left;
    if (s->no_room)
        fprintf(stderr, "%.1f GB are wanted, %s has %.1f free\n", wanted / 1e9, s->device, (double)left / 1e9);
    return s->no_room ? AVT_ERR(ENOMEM) : 0;
}

static int stream_open(Stream *s, int64_t left)
{
    int ret = avt_plan_make(&s->plan, &(PlanOptions){ .plan = "sequential", .devices = s->device, .steps = 4,
                                                      .nb_layers = s->sizes.dit.nb_layers }, s->opt.log);

    s->set = (RankSetup){ .plan = &s->plan, .shape = avt_dit_shape(s->sizes.height / 8, s->sizes.width / 8), .format = PIX_YUV420P,
                          .text_len = s->sizes.dit.text_len, .log = s->opt.log };
    if (ret >= 0)
        ret = avt_schedule(&s->set.schedule, 4, 3);
    if (ret >= 0)
        ret = avt_rank_measure(&s->memory, &s->set, 0, &s->sizes, &s->opt, NULL, NULL);
    if (ret >= 0)
        ret = has_room(s, left);
    if (ret >= 0)
        ret = weights_open(s);
    if (ret >= 0)
        ret = chance_open(&s->chance, (int64_t)s->sizes.width * s->sizes.height * 3 + 12 * 25 * 1024 + 512 * 4096, s->opt.log);
    return ret < 0 ? ret : avt_rank_open(&s->rank, &s->set, 0, &s->w, &s->chance.comm, &s->opt, s->device, &s->memory);
}

static void stream_close(Stream *s)
{
    if (s->rank.set)
        avt_rank_close(&s->rank);
    avt_free(s->chance.numbers);
    avt_rank_weights_close(&s->w);
}

static int step(Rank *r, int64_t block, int at)
{
    return avt_rank_obey(r, &(Cmd){ .kind = CMD_WAVE, .new_block = at ? -1 : block, .nb_items = 1,
                                    .item = { { .block = block, .step = at, .seed = 7 } } });
}

static int steps_of(Rank *r, int64_t block, int nb)
{
    int ret = 0;

    for (int i = 0; i < nb && ret >= 0; i++)
        ret = step(r, block, i);
    return ret < 0 ? ret : avt_sync(r->be);
}

static int whole_block(Rank *r, int64_t block)
{
    return steps_of(r, block, r->set->plan->steps);
}

static int start(Stream *s)
{
    int ret = avt_rank_prepare(&s->rank);

    if (ret >= 0)
        ret = avt_rank_obey(&s->rank, &(Cmd){ .kind = CMD_PICTURE, .prime = 1 });
    if (ret >= 0)
        ret = avt_rank_obey(&s->rank, &(Cmd){ .kind = CMD_TEXT, .rows = s->set.text_len });
    if (ret >= 0)
        ret = avt_rank_obey(&s->rank, &(Cmd){ .kind = CMD_SINK });
    return ret < 0 ? ret : whole_block(&s->rank, 0);
}

/* ---- what is measured ---------------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Step 1 of a block, again and again: median. The time between its submission's end and its own is what the host had to spare. */
static int time_forward(Rank *r, int reps, double *ms, double *submit_ms)
{
    double v[64], w[64];
    int ret = step(r, FULL_RING, 0);

    for (int i = 0; i < reps && ret >= 0; i++) {
        const double before = now();

        ret = step(r, FULL_RING, 1);
        w[i] = 1e3 * (now() - before);
        ret = ret < 0 ? ret : avt_sync(r->be);
        v[i] = 1e3 * (now() - before);
    }
    qsort(v, (size_t)reps, sizeof(*v), by_size);
    qsort(w, (size_t)reps, sizeof(*w), by_size);
    *ms = v[reps / 2];
    *submit_ms = w[reps / 2];
    return ret;
}

/* Milliseconds of each op in one step; with `decode`, of those that a block's decoding adds. */
static int print_ops(Rank *r, int at, const char *name)
{
    int ret, nb = 0;

    memset(r->be->stat, 0, sizeof(r->be->stat));
    r->be->profile = 1;
    ret = step(r, FULL_RING, at);
    r->be->profile = 0;
    printf(", \"%s\": {", name);
    for (int i = 0; i < OP_NB && ret >= 0; i++) {
        const OpStat *o = &r->be->stat[i];

        if (o->calls)
            printf("%s\"%s\": {\"calls\": %" PRId64 ", \"ms\": %.4f, \"flops\": %.0f, \"bytes\": %.0f}", nb++ ? ", " : "", avt_op_name((OpId)i),
                   o->calls, 1e3 * o->seconds, o->flops, o->bytes);
    }
    printf("}");
    return ret;
}

static int time_blocks(Rank *r, int reps, double forward)
{
    const int64_t stops = r->be->queue.stops;
    double v[64];
    int64_t calls = avt_mem_calls();
    int ret = 0;

    for (int i = 0; i < reps && ret >= 0; i++) {
        const double before = now();

        ret = whole_block(r, FULL_RING + 1 + i);
        v[i] = 1e3 * (now() - before);
    }
    calls = avt_mem_calls() - calls;
    qsort(v, (size_t)reps, sizeof(*v), by_size);
    if (ret >= 0)
        printf(", \"block_ms\": %.3f, \"fps\": %.3f, \"waits_a_block\": %.2f, \"allocations_in_blocks\": %" PRId64, v[reps / 2], 12e3 / v[reps / 2],
               (double)(r->be->queue.stops - stops) / reps - 1, calls);             // one of them is whole_block()'s own
    if (ret >= 0)
        printf(", \"decode_ms\": %.3f", v[reps / 2] - r->set->plan->steps * forward);
    return ret;
}

/* The same step of the same numbers: how often the result had other bits. */
static int repeat(Rank *r, int repeats, int *other)
{
    const Tensor x = avt_at(r->latent, 0);
    const size_t size = avt_nbytes(x);
    char *first = malloc(size), *again = malloc(size);
    int ret = 0;

    *other = 0;
    for (int i = 0; i < repeats && ret >= 0; i++) {
        ret = step(r, 40, 0);
        if (ret >= 0)
            ret = avt_download(r->be, i ? again : first, x);
        *other += ret >= 0 && i && memcmp(first, again, size);
    }
    free(first);
    free(again);
    return ret;
}

static int measure(Stream *s, int reps, int repeats, int64_t left)
{
    const PlanMemory *m = &s->memory;
    double forward = 0, submit = 0;
    int other, ret = 0;

    for (int i = 1; i < (s->tiny ? 1 : FULL_RING) && ret >= 0; i++)
        ret = steps_of(&s->rank, i, s->forward ? 2 : s->plan.steps);            // the ring of the step that is timed is full
    if (ret >= 0)
        ret = time_forward(&s->rank, reps, &forward, &submit);
    if (ret >= 0)
        printf(", \"forward_ms\": %.3f, \"submit_ms\": %.3f", forward, submit);
    if (ret >= 0 && !s->forward)
        ret = time_blocks(&s->rank, reps, forward);
    if (ret >= 0)
        ret = print_ops(&s->rank, 1, "forward");
    if (ret >= 0 && !s->forward)
        ret = print_ops(&s->rank, s->plan.steps - 1, "forward_and_decode");
    if (ret >= 0)
        ret = repeat(&s->rank, repeats, &other);
    if (ret >= 0)
        printf(", \"repeats\": %d, \"other_bits\": %d", repeats, other);
    printf(", \"planned\": %zu, \"measured\": %" PRId64 ", \"workspace_planned\": %zu, \"workspace_used\": %zu, \"scratch_planned\": %zu, "
           "\"scratch_used\": %zu", avt_plan_sum(m), left < 0 ? -1 : left - s->rank.be->cls->memory_left(s->rank.be), m->workspace,
           s->rank.be->workspace_peak, m->scratch, avt_arena_peak(s->rank.scratch));
    return ret;
}

static int run(Stream *s, int repeats)
{
    const double begin = now();
    Backend *be = NULL;
    int64_t left = -1;
    double opened = 0;
    int ret = avt_backend_open(&be, s->device, &s->opt);        // the device's context is there before memory is looked at

    if (ret >= 0)
        left = be->cls->memory_left(be);
    if (ret >= 0)
        ret = stream_open(s, left);
    opened = now();
    if (ret >= 0)
        ret = start(s);
    if (ret >= 0)
        printf("{\"device\": \"%s\", \"precision\": \"%s\", \"width\": %d, \"height\": %d, \"layers\": %d, \"open_s\": %.3f, \"first_block_s\": %.3f",
               s->device, avt_dtype_name(s->opt.act), s->sizes.width, s->sizes.height, s->sizes.dit.nb_layers, opened - begin, now() - opened);
    if (ret >= 0)
        ret = measure(s, s->tiny ? 1 : s->forward ? 3 : 9, s->forward ? 2 : repeats, left);
    if (ret >= 0)
        printf(", \"weights_gb_s\": %.3f, \"copy_gb_s\": %.3f}\n", time_put(s, s->tiny ? 64 : 131072) / 1e9, time_fetch(s, s->tiny ? 64 : 131072) / 1e9);
    stream_close(s);
    avt_backend_close(&be);
    return ret;
}

int main(int argc, char **argv)
{
    Stream s = { .device = "cuda0", .opt = { .level = CPU_AUTO, .act = DT_BF16, .log = &stream_log } };
    int repeats = 200, ret;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        s.tiny |= !strcmp(argv[i], "--tiny");
        s.forward |= !strcmp(argv[i], "--forward");
        if (!strcmp(argv[i], "--device"))
            s.device = value;
        if (!strcmp(argv[i], "--precision"))
            s.opt.act = strcmp(value, "f32") ? DT_BF16 : DT_F32;
        if (!strcmp(argv[i], "--repeats"))
            repeats = atoi(value);
    }
    setvbuf(stdout, NULL, _IONBF, 0);                                   // what is measured is told, whatever comes then
    choose_sizes(&s);
    ret = run(&s, repeats);
    if (s.no_room)
        return 77;
    if (ret < 0)
        fprintf(stderr, "stream: failed (%d)\n", ret);
    return ret < 0;
}
