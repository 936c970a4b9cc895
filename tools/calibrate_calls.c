/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Measuring for calibrate.h. Calls are taken from a rehearsal of each rank on `dry` and made on the CPU with operands of the same forms, one
 * after another in rounds, so that each finds the caches as the others leave them; convolutions more than once in a row, as a decoder makes
 * them. First by one rank alone, then by as many as share the cores at a time. The median of a call's times counts: what another program
 * takes once, for milliseconds, would be a call's share of a second otherwise.
 */
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "calibrate.h"
#include "kernels.h"

#define SAMPLES 256                      // of a call, the last ones
#define IN_A_ROW 3                      // most times: what follows finds the caches alike

typedef struct Wanted {                 // calls of all ranks with so many threads, each form once
    DryCall *own[2 * PLAN_MAX_RANKS];   // lists that they lie in
    int nb_own;
    const OpCall *call[512];
    int in_row[512];                    // times that it is made one after another
    int nb;
} Wanted;

typedef struct Trial {                  // a call with operands
    OpCall call;
    Tensor *operand[OP_MAX_IN + OP_MAX_OUT];
    int nb_operands, in_row;
    double seconds[SAMPLES];            // of the rounds
    int64_t nb;
} Trial;

typedef struct Bed {                    // what one rank's thread does
    const BackendOptions *opt;
    Trial *trial;
    int nb, ret, back;                  // back: makes them from the last to the first, so that ranks do not do the same at the same time
    int64_t end;                        // avt_now_ns()
    Backend *be;
    Arena *own, *scratch;               // weights and indices of each call; what all of them write and read, as in a forward
    pthread_t thread;
} Bed;

static WeightUse use_of(OpId op)
{
    return op == OP_CONV3D ? WEIGHT_CONV3D : op == OP_CONV1D ? WEIGHT_CONV1D : WEIGHT_LINEAR;
}

/* Storage that a packed weight may have come from. */
static DType stored(const Tensor *t)
{
    return avt_is_code(t->act) ? t->act : t->dtype == DT_BF16 || t->dtype == DT_F16 ? t->dtype : DT_F32;
}

/* Indices must be ones: zeros that nobody overwrites. */
static int is_own(const Tensor *t)
{
    return t->packed || t->dtype == DT_I32 || t->dtype == DT_I64;
}

static size_t room_of(Backend *be, const OpCall *c, const Tensor *t)
{
    return !t->be ? 0 : 256 + 4 * (size_t)avt_rows_of(*t) +
           (t->packed ? avt_weight_bytes(be, use_of(c->op), t->act, stored(t), t->nd, t->dim) : avt_nbytes(*t));
}

static int put_weight(Bed *b, OpId op, Tensor *o)
{
    void *zeros = calloc((size_t)avt_numel(*o) + (size_t)o->dim[0], 4);

    if (!zeros)
        return AVT_ERR(ENOMEM);
    *o = avt_is_code(o->act) ? avt_weight_put_codes(b->own, o->act, o->dim[0], o->dim[1], zeros, zeros) :
         avt_weight_put(b->own, use_of(op), o->act, stored(o), o->nd, o->dim, zeros);
    free(zeros);
    return o->be ? 0 : AVT_ERR(ENOMEM);
}

static int make_operand(Bed *b, OpId op, Tensor *o)
{
    Arena *a = is_own(o) ? b->own : b->scratch;

    if (o->packed)
        return put_weight(b, op, o);
    *o = (o->scale ? avt_new_codes : avt_new_dims)(a, o->dtype, o->nd, o->dim);
    return o->be ? 0 : AVT_ERR(ENOMEM);
}

static void open_trial(Trial *t, const OpCall *c, int in_row)
{
    t->call = *c;
    t->in_row = in_row;
    for (int i = -OP_MAX_OUT; i < OP_MAX_IN; i++) {
        Tensor *o = i >= 0 ? &t->call.in[i] : i + OP_MAX_OUT ? &t->call.more[i + OP_MAX_OUT - 1] : &t->call.out;

        if (o->be)
            t->operand[t->nb_operands++] = o;
    }
}

/* Two arenas that hold the operands of all calls, and a workspace for the largest. */
static int open_memory(Bed *b)
{
    size_t own = 4096, scratch = 4096;
    int64_t workspace = 0;
    int ret;

    for (int i = 0; i < b->nb; i++) {
        const OpCall *c = &b->trial[i].call;
        size_t passing = 4096;

        for (int k = 0; k < b->trial[i].nb_operands; k++) {
            const Tensor *o = b->trial[i].operand[k];

            *(is_own(o) ? &own : &passing) += room_of(b->be, c, o);
        }
        scratch = passing > scratch ? passing : scratch;
        workspace = b->be->cls->workspace(b->be, c) > workspace ? b->be->cls->workspace(b->be, c) : workspace;
    }
    ret = avt_arena_open(&b->own, b->be, "weights", own);
    if (ret >= 0)
        ret = avt_arena_open(&b->scratch, b->be, "scratch", scratch);
    return ret < 0 ? ret : avt_workspace_open(b->be, (size_t)workspace);
}

static int open_bed(Bed *b, const Wanted *w)
{
    int ret = avt_backend_open(&b->be, "cpu", b->opt);

    b->trial = calloc((size_t)w->nb, sizeof(*b->trial));
    b->nb = b->trial ? w->nb : 0;
    for (int i = 0; i < b->nb; i++)
        open_trial(&b->trial[i], w->call[i], w->in_row[i]);
    if (ret >= 0)
        ret = b->trial ? open_memory(b) : AVT_ERR(ENOMEM);
    for (int i = 0; i < b->nb && ret >= 0; i++) {
        const size_t mark = avt_arena_mark(b->scratch);

        for (int k = 0; k < b->trial[i].nb_operands && ret >= 0; k++)
            ret = make_operand(b, w->call[i]->op, b->trial[i].operand[k]);
        avt_arena_release(b->scratch, mark);
    }
    return ret;
}

static void close_bed(Bed *b)
{
    if (b->be) {
        avt_arena_close(&b->scratch);
        avt_arena_close(&b->own);
    }
    free(b->trial);
    avt_backend_close(&b->be);
}

static void make_calls(Bed *b, Trial *t, int counts)
{
    for (int k = 0; k < t->in_row; k++) {
        const int64_t start = avt_now_ns();

        avt_backend_run(b->be, &t->call);
        t->seconds[t->nb % SAMPLES] = 1e-9 * (double)(avt_now_ns() - start);
        t->nb += counts;
    }
}

/* One round warms up. */
static void *run_bed(void *arg)
{
    Bed *b = arg;

    for (int i = 0; i < b->nb; i++)
        b->trial[i].nb = 0;
    avt_thread_flush_denormals();
    b->ret = avt_thread_team(b->opt->threads, b->opt->log);
    for (int round = 0; b->ret >= 0 && (round < 2 || avt_now_ns() < b->end); round++)
        for (int i = 0; i < b->nb; i++)
            make_calls(b, &b->trial[b->back ? b->nb - 1 - i : i], round > 0);
    if (b->ret >= 0)
        b->ret = avt_sync(b->be);
    return NULL;
}

/* By the first `nb` at a time. */
static int run_beds(Bed *bed, int nb, double seconds)
{
    int ret = 0, started = 0;

    for (; started < nb && ret >= 0; started++) {
        bed[started].end = avt_now_ns() + (int64_t)(1e9 * seconds);
        ret = avt_thread_start(&bed[started].thread, run_bed, &bed[started]) ? AVT_ERR(ENOMEM) : 0;
    }
    for (int i = 0; i < started - (ret < 0); i++) {
        pthread_join(bed[i].thread, NULL);
        ret = ret < 0 ? ret : bed[i].ret;
    }
    return ret;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The mean over `nb` beds of their medians of call k. */
static double time_of(Bed *bed, int nb, int k)
{
    double sum = 0;

    for (int i = 0; i < nb; i++) {
        Trial *t = &bed[i].trial[k];
        const int known = t->nb < SAMPLES ? (int)t->nb : SAMPLES;

        qsort(t->seconds, (size_t)known, sizeof(*t->seconds), by_size);
        sum += t->seconds[known / 2];
    }
    return sum / nb;
}

/* As one rank alone, then as many as the cores hold, each with so many threads, make the same calls. */
static int measure_beds(Calibrated *call, Bed *bed, int beds, int nb, double seconds)
{
    int ret = run_beds(bed, 1, beds > 1 ? seconds / 2 : seconds);

    for (int k = 0; k < nb && ret >= 0; k++)
        call[k].seconds = call[k].together = time_of(bed, 1, k);
    if (ret >= 0 && beds > 1)
        ret = run_beds(bed, beds, seconds / 2);
    for (int k = 0; k < nb && ret >= 0; k++)
        call[k].together = time_of(bed, beds, k);
    return ret;
}

static int measure_calls(Calibration *c, const Wanted *w, int threads, const BackendOptions *be, double seconds)
{
    BackendOptions opt = *be;
    const int beds = avt_nb_cores() / threads > 1 ? avt_nb_cores() / threads : 1;
    Bed *bed = calloc((size_t)beds, sizeof(*bed));
    Calibrated *call = calloc((size_t)w->nb, sizeof(*call));
    int ret = bed && call ? 0 : AVT_ERR(ENOMEM);

    opt.threads = threads;
    for (int i = 0; i < beds && ret >= 0; i++) {
        bed[i].opt = &opt;
        bed[i].back = i % 2;
        ret = open_bed(&bed[i], w);
    }
    if (ret >= 0)
        ret = measure_beds(call, bed, beds, w->nb, seconds);
    for (int k = 0; k < w->nb && ret >= 0; k++) {
        call[k].op = w->call[k]->op;
        call[k].threads = threads;
        call[k].level = c->level;
        calibration_key(call[k].key, sizeof(call[k].key), w->call[k]);
        avt_op_cost(w->call[k], &call[k].flops, &call[k].bytes);
        calibration_keep(c, &call[k]);
    }
    for (int i = 0; bed && i < beds; i++)
        close_bed(&bed[i]);
    free(call);
    free(bed);
    return ret;
}

/* Of all that a network repeats, a decoder's convolutions alone find what they need nearer than the calls between them left it. */
static void want(Wanted *w, const DryCall *d)
{
    const OpCall *c = &d->first;
    char key[sizeof(((Calibrated *)0)->key)], other[sizeof(key)];

    calibration_key(key, sizeof(key), c);
    for (int i = 0; i < w->nb; i++) {
        calibration_key(other, sizeof(other), w->call[i]);
        if (!strcmp(key, other))
            return;
    }
    if (w->nb == (int)(sizeof(w->call) / sizeof(w->call[0])))
        return;
    w->in_row[w->nb] = c->op != OP_CONV3D ? 1 : d->calls < IN_A_ROW ? (int)d->calls : IN_A_ROW;
    w->call[w->nb++] = c;
}

static int want_rank(Wanted *w, const RankSetup *set, int r, const PlanSizes *sizes, const BackendOptions *be)
{
    int ret = 0;

    for (int item = 0; item < (set->plan->rank[r].pipe >= 0 ? 2 : 1) && ret >= 0; item++) {
        int64_t nb = 0;

        ret = (item ? avt_rank_item : avt_rank_wave)(&w->own[w->nb_own], &nb, set, r, sizes, be);
        for (int64_t i = 0; i < nb && ret >= 0; i++)
            want(w, &w->own[w->nb_own][i]);
        w->nb_own += ret >= 0;
    }
    return ret;
}

/* Ranks with other numbers of threads: how many kinds there are. */
static int first_of_kind(const Plan *p, int r)
{
    for (int i = 0; i < r; i++)
        if (p->rank[i].threads == p->rank[r].threads)
            return 0;
    return 1;
}

int calibration_measure(Calibration *c, const Plan *plan, const PlanSizes *sizes, const BackendOptions *be, double seconds)
{
    RankSetup set;
    int kinds = 0, ret = avt_search_setup(&set, plan, sizes);

    for (int r = 0; r < plan->nb_ranks; r++)
        kinds += first_of_kind(plan, r);
    for (int r = 0; r < plan->nb_ranks && ret >= 0; r++) {
        Wanted *w = first_of_kind(plan, r) ? calloc(1, sizeof(*w)) : NULL;

        for (int i = r; w && i < plan->nb_ranks && ret >= 0; i++)
            if (plan->rank[i].threads == plan->rank[r].threads)
                ret = want_rank(w, &set, i, sizes, be);
        if (w && ret >= 0)
            ret = measure_calls(c, w, plan->rank[r].threads, be, seconds / kinds);
        for (int i = 0; w && i < w->nb_own; i++)
            avt_free(w->own[i]);
        free(w);
    }
    if (ret >= 0)
        ret = calibration_measure_turns(c, be->log);
    return ret < 0 ? ret : calibration_write(c, be->log);
}
