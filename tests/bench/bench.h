/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The benchmark: work of the published networks' shapes on random weights, ours and a peer's in turn, medians of both.
 *
 * A peer is tests/bench/peers.py in a process of its own, which reads the same weights and inputs from the folder of the bench and
 * leaves its result there, so that it is also seen that both computed the same.
 */
#ifndef AVT_TESTS_BENCH_H
#define AVT_TESTS_BENCH_H

#include "base/log.h"
#include "kernels.h"
#include "model.h"

typedef struct Peer Peer;

typedef struct Row {                    // a line of the table
    const char *work, *title;
    double ms, flops;                   // ours: median, operations done in it
    const char *peer;                   // NULL: none
    double peer_ms;                     // 0: could not be measured
    double value;                       // what the goal is about: the ratio, frames a second, ...
    const char *goal;
    double apart;                       // relative L2 of the two results, or -1
    DType act, product;
    double gain;                        // bf16, int8: f32's time over this one's; 0: not known
    char note[160];
} Row;

typedef struct Bench {
    const char *dir, *python, *src, *ffmpeg;
    int threads, reps;
    CpuLevel level;
    int cpu;                            // time is processor time / threads: for a machine that others use too
    double peak;                        // FLOP/s of a large product
    DType act, product;                 // precision of the works that run now: Backend.act, .product
    Backend *be;
    Arena *weights, *scratch;
    Peer *peer;                         // NULL: there is none on this machine
    const Log *log;
    Row row[48];
    int nb_rows;
} Bench;

/** Seconds by the bench's clock. */
double bench_now(const Bench *b);
double bench_median(double *v, int nb);
/** Path of a file in the bench's folder; a few static buffers in turn. */
const char *bench_path(const Bench *b, const char *fmt, ...) AVT_PRINTF(2, 3);
/** Fresh arenas of a work; what it allocated before is gone. */
int  bench_begin(Bench *b, size_t weights, size_t scratch);
/** Write a file of f32 values, random when v is NULL. */
int  bench_write(const Bench *b, const char *name, const float *v, int64_t nb);
Row *bench_row(Bench *b, const char *work, const char *title, const char *goal);
void bench_say(const Bench *b, const Row *r);

/**
 * Time run(arg) and the peer's, in turn. `before` (opt) is not timed. The first call of each is not counted unless it takes long;
 * `result` is compared with what the peer leaves after its first.
 */
typedef struct Task {
    int (*before)(void *arg), (*run)(void *arg);
    void *arg;
    Tensor *result;                     // or NULL
} Task;
int bench_measure(Bench *b, Row *r, const Task *t, const char *peer);

/* ---- peer.c ---- */
int  peer_open(Peer **p, const Bench *b);
void peer_close(Peer **p);
/** Ask the peer to do "<word>"; its answer's two numbers, wall and processor seconds. @return 0, or -1: the reason is on stderr */
int  peer_ask(Peer *p, const char *word, double *wall, double *cpu);

/* ---- the works; each adds its rows ---- */
int work_dit(Bench *b);
int work_vae(Bench *b);
int work_wav2vec2(Bench *b);
int work_umt5(Bench *b);
int work_open(Bench *b);
int work_block(Bench *b);
int work_film(Bench *b);

/* ---- onednn.c ---- */
typedef struct Product Product;
/** A product [m, k] x [k, n] with bias, in the orders that oneDNN likes best. NULL: no oneDNN. */
Product *product_open(int64_t m, int64_t n, int64_t k, int threads);
void product_run(Product *p);
void product_close(Product *p);

#endif
