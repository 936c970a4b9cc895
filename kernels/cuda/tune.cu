/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A contest between several ways of computing a call: each is run some times between two events, the fastest is told to be->tuned, where the
 * engine's other queues and, by its file, later runs find it.
 *
 *     table --has it--> the choice, if it still can be had
 *           --has not-> one run of each entrant, which makes its plan; ROUNDS x REPEATS timed ones; the least round counts. Who takes more
 *                       than HOPELESS times the best one's time is not run again
 *
 * Entrants add in other orders, so the table's answer is a matter of bits: whoever comes second to a shape takes what he finds there.
 * Trap: what other queues do on the card meanwhile is in the times, so nobody wins by less than 3 %.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/plans.h"

enum { ROUNDS = 3, REPEATS = 3 };

#define BETTER   0.97f                  // of the first one's time
#define HOPELESS 2

/* The driver's number is that of the CUDA it was made for. */
int avt_cuda_device_name(Backend *be, char *name, size_t size)
{
    const Cuda *cuda = avt_cuda(be);
    cudaDeviceProp card;
    int driver = 0, ret = avt_cuda_check(be, cudaGetDeviceProperties(&card, cuda->index), "asking for the card's name");

    if (ret >= 0)
        ret = avt_cuda_check(be, cudaDriverGetVersion(&driver), "asking for the driver's version");
    if (ret >= 0)
        snprintf(name, size, "%.100s, sm_%d, driver for CUDA %d.%d, cuBLASLt %zu, cuDNN %zu", card.name, cuda->arch, driver / 1000,
                 driver % 1000 / 10, cublasLtGetVersion(), cudnnGetVersion());
    return ret;
}

static void write_choice(char text[TUNED_CHOICE], const CudaChoice *c)
{
    memset(text, 0, TUNED_CHOICE);
    if (c->library == BY_HAND)
        snprintf(text, TUNED_CHOICE, "our own");
    else if (c->number < -1)
        snprintf(text, TUNED_CHOICE, "cuDNN place %d", -1 - c->number);
    else if (c->number < 0)
        snprintf(text, TUNED_CHOICE, "cuDNN");
    else
        snprintf(text, TUNED_CHOICE, "%s %d", c->library == BY_DNN ? "cuDNN" : "cuBLASLt", c->number);
}

/* The entrant that a text names, or NULL. */
static const CudaChoice *read_choice(const char *text, const Contest *c)
{
    char name[TUNED_CHOICE];

    for (int i = 0; i < c->nb; i++) {
        write_choice(name, &c->entrant[i]);
        if (!strcmp(name, text))
            return &c->entrant[i];
    }
    return NULL;
}

/* Milliseconds of a run; INFINITY: it cannot. best: the least so far */
static int time_of(Backend *be, float *ms, float best, const Contest *c, const CudaChoice *by, cudaEvent_t from, cudaEvent_t to)
{
    const cudaStream_t stream = avt_cuda(be)->stream;
    int ret = c->run(be, c->again, by);

    *ms = INFINITY;
    for (int round = 0; ret >= 0 && round < ROUNDS && !(round && *ms > HOPELESS * best); round++) {
        float t = 0;

        ret = avt_cuda_check(be, cudaEventRecord(from, stream), "timing");
        for (int i = 0; ret >= 0 && i < REPEATS; i++)
            ret = c->run(be, c->again, by);
        if (ret >= 0)
            ret = avt_cuda_check(be, cudaEventRecord(to, stream), "timing");
        be->queue.stops++;
        if (ret >= 0)
            ret = avt_cuda_check(be, cudaEventSynchronize(to), "timing");
        if (ret >= 0)
            ret = avt_cuda_check(be, cudaEventElapsedTime(&t, from, to), "timing");
        if (ret >= 0)
            *ms = fminf(*ms, t / REPEATS);
    }
    return ret == AVT_ERR(ENOSYS) ? 0 : ret;
}

static int time_all(Backend *be, CudaChoice *won, const Contest *c)
{
    cudaEvent_t from = NULL, to = NULL;
    char name[TUNED_CHOICE];
    float best = INFINITY, ms;
    int ret = avt_cuda_check(be, cudaEventCreate(&from), "making an event");

    if (ret >= 0)
        ret = avt_cuda_check(be, cudaEventCreate(&to), "making an event");
    *won = c->entrant[0];
    for (int i = 0; ret >= 0 && i < c->nb; i++) {
        ret = time_of(be, &ms, best, c, &c->entrant[i], from, to);
        write_choice(name, &c->entrant[i]);
        avt_log(be->log, LOG_DEBUG, "%s: %s: %s %s%.4f ms", be->device, c->shape, name, isinf(ms) ? "cannot, " : "", ms);
        if (ret >= 0 && ms < best * (isinf(best) ? 1 : BETTER)) {
            best = ms;
            *won = c->entrant[i];
        }
    }
    if (from)
        cudaEventDestroy(from);
    if (to)
        cudaEventDestroy(to);
    return ret;
}

/* Who was the fastest, as the table has it. @return 1, 0: not known, or an error */
static int known(Backend *be, CudaChoice *won, const Contest *c)
{
    char device[256], text[TUNED_CHOICE];
    const CudaChoice *found = NULL;
    const int ret = avt_cuda_device_name(be, device, sizeof(device));

    if (ret >= 0 && avt_tuned_get(be->tuned, device, c->shape, text))
        found = read_choice(text, c);
    if (found)
        *won = *found;
    return ret < 0 ? ret : found != NULL;
}

static int hold(Backend *be, CudaChoice *won, const Contest *c)
{
    char device[256], seen[TUNED_CHOICE], found[TUNED_CHOICE];
    const CudaChoice *kept;
    int ret = avt_cuda_device_name(be, device, sizeof(device));

    if (ret < 0)
        return ret;
    avt_tuned_get(be->tuned, device, c->shape, seen);
    ret = time_all(be, won, c);
    if (ret < 0)
        return ret;
    write_choice(found, won);
    ret = avt_tuned_put(be->tuned, device, c->shape, seen, found);
    kept = read_choice(found, c);
    if (ret >= 0 && kept)                                           // another queue's, which came first
        *won = *kept;
    return ret;
}

static int keep(Backend *be, const Contest *c, const CudaChoice *won)
{
    CudaChoice *kept = (CudaChoice *)avt_calloc(MEM_BACKEND, 1, sizeof(*kept));
    int ret = AVT_ERR(ENOMEM);

    if (kept) {
        *kept = *won;
        ret = avt_cuda_plan_put(avt_cuda(be)->plans, c->key, c->size, kept, avt_free);
    }
    if (ret < 0)
        avt_free(kept);
    return ret;
}

const CudaChoice *avt_cuda_choice(Backend *be, const void *key, size_t size)
{
    return (const CudaChoice *)avt_cuda_plan_get(avt_cuda(be)->plans, key, size);
}

int avt_cuda_contend(Backend *be, const Contest *c)
{
    CudaChoice won;
    int ret = known(be, &won, c);

    if (ret >= 0)
        ret = ret ? c->run(be, c->call, &won) : AVT_ERR(ENOSYS);
    if (ret == AVT_ERR(ENOSYS)) {
        ret = hold(be, &won, c);
        if (ret >= 0)
            ret = c->run(be, c->call, &won);
    }
    return ret < 0 ? ret : keep(be, c, &won);
}
