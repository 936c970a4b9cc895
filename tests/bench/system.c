/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is more than one network: opening a large file, one block of the small model by stages, a film through ffmpeg. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "chance.h"
#include "draw.h"
#include "engine/rank.h"
#include "files/modeldir.h"
#include "test.h"

static double wall(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- a checkpoint of 5 GB -------------------------------------------------------------------------------------------- */

/* 1000 tensors of bf16 [1250, 2000]; a sparse file: pages of zeros cost no disk. */
static int write_large(const char *path)
{
    enum { NB = 1000, ROWS = 1250, COLUMNS = 2000 };
    const long long size = 2LL * ROWS * COLUMNS;
    char *head = malloc(NB * 128 + 16);
    uint64_t n = (uint64_t)sprintf(head, "{");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666), bad;

    for (int i = 0; i < NB; i++)
        n += (uint64_t)sprintf(head + n, "%s\"blocks.%d.weight\":{\"dtype\":\"BF16\",\"shape\":[%d,%d],\"data_offsets\":[%lld,%lld]}", i ? "," : "",
                               i, ROWS, COLUMNS, size * i, size * (i + 1));
    n += (uint64_t)sprintf(head + n, "}");
    while (n % 8)
        head[n++] = ' ';
    bad = fd < 0 || write(fd, &n, 8) != 8 || write(fd, head, n) != (ssize_t)n || ftruncate(fd, (off_t)(8 + n) + size * NB);
    free(head);
    return fd < 0 || close(fd) || bad ? -1 : 0;
}

int work_open(Bench *b)
{
    Row *r = bench_row(b, "open", "opening a checkpoint of 5 GB", "< 1 s");
    const char *path = bench_path(b, "large.safetensors");
    double ms[64];
    const int reps = b->reps < 64 ? b->reps : 64;
    int64_t copied = 0;
    int ret = write_large(path);

    for (int i = 0; i < reps && ret >= 0; i++) {
        const double start = bench_now(b);
        const int64_t before = avt_mem_bytes(MEM_NB);
        Ckpt *c;

        ret = avt_ckpt_open(&c, path, b->log);
        ms[i] = 1e3 * (bench_now(b) - start);
        copied = avt_mem_bytes(MEM_NB) - before;
        if (ret >= 0)
            avt_ckpt_close(&c);
    }
    unlink(path);
    if (ret < 0)
        return ret;
    r->ms = bench_median(ms, reps);
    snprintf(r->note, sizeof(r->note), "%lld kB of names and shapes, no weight is copied", (long long)(copied / 1000));
    bench_say(b, r);
    return 0;
}

/* ---- a block of the small model ------------------------------------------------------------------------------------------ */

enum { PRODUCTS, ATTENTION, REST, VAE_CONV, VAE_REST, PIXELS, OUTSIDE, NB_STAGES };
static const char *const stage_names[NB_STAGES] = { "DiT: products", "DiT: attention", "DiT: norms, positions, ...", "VAE: convolutions",
                                                    "VAE: norms, ...", "pixels", "outside the kernels" };

/* A spy in front of the backend's table: seconds by stage. The VAE's part lies between two ops that only it has. */
static struct {
    BackendClass cls;
    const BackendClass *real;
    int in_vae;
    double seconds[NB_STAGES];
} spy;

static int stage_of(OpId op)
{
    if (op == OP_PIXELS)
        return PIXELS;
    if (spy.in_vae)
        return op == OP_CONV3D ? VAE_CONV : VAE_REST;
    return op == OP_LINEAR || op == OP_LINEAR_GROUP ? PRODUCTS : op == OP_ATTENTION ? ATTENTION : REST;
}

static int spy_run(Backend *be, const OpCall *c)
{
    const double start = wall();
    const int ret = spy.real->run(be, c);

    spy.in_vae |= c->op == OP_COUNT_NONFINITE;
    spy.seconds[stage_of(c->op)] += wall() - start;
    spy.in_vae &= c->op != OP_PIXELS;
    return ret;
}

static void spy_start(Backend *be)
{
    memset(&spy, 0, sizeof(spy));
    spy.real = be->cls;
    spy.cls = *be->cls;
    spy.cls.run = spy_run;
    be->cls = &spy.cls;
}

/* The embedded model, or random weights of its size. */
static const char *small_model(const Bench *b)
{
    static char dir[1024];
    TestModel m;

    snprintf(dir, sizeof(dir), "%s/model/nano/config.json", b->src);
    if (!access(dir, R_OK))
        snprintf(dir, sizeof(dir), "%s/model/nano", b->src);
    else {
        snprintf(dir, sizeof(dir), "%s", bench_path(b, "nano"));
        test_model_nano(&m);
        if (access(bench_path(b, "nano/config.json"), R_OK) && test_model_write(&m, dir) < 0)
            return NULL;
    }
    return dir;
}

typedef struct Small {                  // a rank that has all of the model
    Chance chance;
    ModelDir dir;
    Ckpt *dit, *vae, *t5;
    PlanSizes sizes;
    Plan plan;
    RankSetup set;
    RankWeights w;
    Rank rank;
    PlanMemory memory;
} Small;

static int small_open(Small *s, const Bench *b, const char *dir, int64_t size)
{
    const BackendOptions opt = { .threads = b->threads, .level = CPU_AUTO, .act = b->act, .log = b->log };
    int ret = avt_modeldir_open(&s->dir, dir, b->log);

    if (ret < 0 || (ret = avt_ckpt_open(&s->dit, s->dir.dit, b->log)) < 0 || (ret = avt_ckpt_open(&s->vae, s->dir.vae, b->log)) < 0
        || (ret = avt_ckpt_open(&s->t5, s->dir.t5, b->log)) < 0 || (ret = avt_dit_config(&s->sizes.dit, s->dir.config, s->dit, b->log)) < 0
        || (ret = avt_wav2vec2_config(&s->sizes.wav2vec2, s->dir.wav2vec2_config, s->dir.wav2vec2_preprocessor, b->log)) < 0
        || (ret = avt_umt5_config(&s->sizes.umt5, s->t5, b->log)) < 0)
        return ret;
    s->sizes.vae_width = avt_vae_width(s->vae, b->log);
    s->sizes.dtype = avt_ckpt_find(s->dit, "blocks.0.self_attn.q.weight")->dtype;
    ret = avt_plan_make(&s->plan, &(PlanOptions){ .plan = "sequential", .steps = 4, .nb_layers = s->sizes.dit.nb_layers, .cpu_threads = b->threads },
                        b->log);
    s->set = (RankSetup){ .plan = &s->plan, .shape = avt_dit_shape(size / 8, size / 8), .format = PIX_YUV420P, .text_len = s->sizes.dit.text_len,
                          .log = b->log };
    if (ret >= 0)
        ret = avt_schedule(&s->set.schedule, 4, 3);
    if (ret >= 0)
        ret = avt_rank_measure(&s->memory, &s->set, 0, &s->sizes, &opt, NULL, NULL);
    if (ret >= 0)
        ret = avt_rank_weights_open(&s->w, &s->plan, 0, &s->sizes, &(ModelFiles){ .dit = s->dit, .vae = s->vae }, &opt, "cpu", s->memory.weights, b->log);
    if (ret >= 0)
        ret = chance_open(&s->chance, (int64_t)(s->memory.scratch / sizeof(float)), b->log);     // more than any message has
    return ret < 0 ? ret : avt_rank_open(&s->rank, &s->set, 0, &s->w, &s->chance.comm, &opt, "cpu", &s->memory);
}

static void small_close(Small *s)
{
    avt_rank_close(&s->rank);
    avt_free(s->chance.numbers);
    avt_rank_weights_close(&s->w);
    avt_ckpt_close(&s->dit);
    avt_ckpt_close(&s->vae);
    avt_ckpt_close(&s->t5);
    avt_modeldir_close(&s->dir);
}

static int small_block(Rank *r, int64_t block)
{
    int ret = 0;

    for (int step = 0; step < r->set->plan->steps && ret >= 0; step++)
        ret = avt_rank_obey(r, &(Cmd){ .kind = CMD_WAVE, .new_block = step ? -1 : block, .nb_items = 1,
                                       .item = { { .block = block, .step = step, .seed = 7 } } });
    return ret;
}

/* A stream up to where its ring is full */
static int small_start(Small *s)
{
    int ret = avt_rank_prepare(&s->rank);

    if (ret >= 0)
        ret = avt_rank_obey(&s->rank, &(Cmd){ .kind = CMD_PICTURE, .prime = 1 });
    if (ret >= 0)
        ret = avt_rank_obey(&s->rank, &(Cmd){ .kind = CMD_TEXT, .rows = s->set.text_len });
    if (ret >= 0)
        ret = avt_rank_obey(&s->rank, &(Cmd){ .kind = CMD_SINK });
    for (int64_t g = 0; g < 5 && ret >= 0; g++)
        ret = small_block(&s->rank, g);
    return ret;
}

static int time_blocks(Bench *b, Small *s, Row *whole, Row *outside)
{
    enum { BLOCKS = 12 };
    Bar stage[NB_STAGES];
    double ms[BLOCKS], flops = 0, inside = 0, total = 0;
    const double first = wall();
    const int64_t calls = avt_mem_calls();
    int ret = 0;

    spy_start(s->rank.be);
    for (int i = 0; i < OP_NB; i++)
        flops -= s->rank.be->stat[i].flops;
    for (int i = 0; i < BLOCKS && ret >= 0; i++) {
        const double start = bench_now(b);

        ret = small_block(&s->rank, 5 + i);
        ms[i] = 1e3 * (bench_now(b) - start);
    }
    total = wall() - first;
    s->rank.be->cls = spy.real;
    for (int i = 0; i < OP_NB; i++)
        flops += s->rank.be->stat[i].flops;
    for (int i = 0; i < OUTSIDE; i++)
        inside += spy.seconds[i];
    spy.seconds[OUTSIDE] = total - inside;
    for (int i = 0; i < NB_STAGES; i++)
        stage[i] = (Bar){ stage_names[i], spy.seconds[i] / BLOCKS };
    whole->flops = flops / BLOCKS;
    whole->ms = bench_median(ms, BLOCKS);
    outside->ms = 1e3 * stage[OUTSIDE].seconds;
    outside->value = 100 * stage[OUTSIDE].seconds / (total / BLOCKS);
    snprintf(outside->note, sizeof(outside->note), "%% of a block's time; %lld allocations in %d blocks", (long long)(avt_mem_calls() - calls), BLOCKS);
    return ret < 0 ? ret : draw_bars(bench_path(b, "../block.svg"), "A block of the embedded model (12 frames, 128x128, 4 steps) by stage",
                                     stage, NB_STAGES);
}

int work_block(Bench *b)
{
    Row *whole = bench_row(b, "block", "embedded model: a block, 12 frames", "");
    Row *outside = bench_row(b, "overhead", "  outside its kernels", "< 2 %");
    const char *dir = small_model(b);
    Small s = { 0 };
    int ret = dir ? small_open(&s, b, dir, 128) : -1;

    if (ret >= 0)
        ret = small_start(&s);
    if (ret >= 0)
        ret = time_blocks(b, &s, whole, outside);
    snprintf(whole->note, sizeof(whole->note), "frames a second without sound, text and ffmpeg");
    whole->value = whole->ms > 0 ? 12e3 / whole->ms : 0;
    if (ret >= 0)
        bench_say(b, whole), bench_say(b, outside);
    small_close(&s);
    return ret;
}

/* ---- a film ----------------------------------------------------------------------------------------------------------------- */

enum { FILM_SECONDS = 20 };

/* Seconds by the bench's clock, or -1. */
static double run_child(const Bench *b, char *const argv[])
{
    const double start = wall();
    struct rusage u;
    int status;
    pid_t pid = fork();

    if (!pid) {
        setenv("OMP_WAIT_POLICY", "passive", 1);
        execv(argv[0], argv);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, &u) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
        return -1;
    if (!b->cpu)
        return wall() - start;
    return ((double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec)) / b->threads;
}

/* Noise that comes and goes like speech, 16 kHz s16 mono. */
static int write_sound(const char *path)
{
    enum { NB = FILM_SECONDS * 16000 };
    const uint32_t head[11] = { 0x46464952, 36 + 2 * NB, 0x45564157, 0x20746d66, 16, 1 | 1 << 16, 16000, 32000, 2 | 16 << 16, 0x61746164, 2 * NB };
    float *v = malloc(NB * sizeof(*v));
    int16_t *s = (int16_t *)v;
    FILE *f = fopen(path, "wb");
    int bad;

    test_random(v, NB, 2);
    for (int i = 0; i < NB; i++)
        s[i] = (int16_t)(6000 * v[i] * (float)(i / 1600 % 3) / 2);
    bad = !f || fwrite(head, sizeof(head), 1, f) != 1 || fwrite(s, 2, NB, f) != NB;
    free(v);
    return (f && fclose(f)) || bad ? -1 : 0;
}

int work_film(Bench *b)
{
    Row *r = bench_row(b, "film", "embedded model end to end through ffmpeg", ">= 50 frames a second");
    const char *dir = small_model(b);
    const char *sound = bench_path(b, "sound.wav");
    char graph[2048];
    double ms[64];
    const int reps = b->reps < 64 ? b->reps : 64;

    if (!dir)
        return -1;
    if (access(b->ffmpeg, X_OK)) {
        snprintf(r->note, sizeof(r->note), "no ffmpeg with the filter here: make ffmpeg");
        bench_say(b, r);
        return 0;
    }
    if (write_sound(sound) < 0)
        return -1;
    snprintf(graph, sizeof(graph), "[0:a]avatar=model=%s:image=%s/model/nano/faces/anna.png:seed=1:precision=%s:cpu_threads=%d[v]", dir, b->src,
             avt_dtype_name(b->act), b->threads);
    for (int i = 0; i < reps; i++) {
        char *argv[] = { (char *)b->ffmpeg, "-nostdin", "-v", "error", "-i", (char *)sound, "-filter_complex", graph, "-map", "[v]",
                         "-c:v", "rawvideo", "-f", "null", "-", NULL };

        ms[i] = 1e3 * run_child(b, argv);
        if (ms[i] < 0)
            return fprintf(stderr, "bench: %s failed\n", b->ffmpeg), -1;
    }
    r->ms = bench_median(ms, reps);
    r->value = 25e3 * FILM_SECONDS / r->ms;
    snprintf(r->note, sizeof(r->note), "%d frames%s, opening the model and the picture included", 25 * FILM_SECONDS,
             strstr(dir, "bench/nano") ? " on random weights of its size" : "");
    bench_say(b, r);
    return 0;
}
