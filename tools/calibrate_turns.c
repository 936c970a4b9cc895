/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages between two ranks on the CPU, for calibrate.h: two threads with a comm, as ranks have it. A hop wakes up who has nothing else to
 * do; a turn is an exchange, in which both send and then receive, as the parts of a layer do.
 */
#include <stdio.h>

#include "base/thread.h"
#include "calibrate.h"
#include "comm/comm.h"

#define SECONDS 0.1                     // for each kind of message

typedef struct Side {
    Comm *comm;
    Backend *be;
    Arena *own, *boxes;
    Tensor sent, received;              // [size] u8
    int rank, swaps;
    int64_t end, nb;                    // avt_now_ns(), of the first side; messages that it got
    pthread_t thread;
} Side;

static int one(Side *s)
{
    int ret = 0;

    if (s->rank && !s->swaps)
        ret = avt_comm_recv(s->comm, s->be, 0, TAG_TEAM, s->received);
    if (ret >= 0)
        ret = avt_comm_send(s->comm, s->be, !s->rank, TAG_TEAM, s->sent);
    return ret < 0 || (s->rank && !s->swaps) ? ret : avt_comm_recv(s->comm, s->be, !s->rank, TAG_TEAM, s->received);
}

/* Until the first side has had enough: its abort ends the other's wait. */
static void *play(void *arg)
{
    Side *s = arg;

    while (one(s) >= 0 && (s->rank || avt_now_ns() < s->end))
        s->nb++;
    avt_comm_abort(s->comm, AVT_ERR(ECANCELED));
    return NULL;
}

static void close_sides(Side side[2], Comm *comm[2])
{
    for (int i = 0; i < 2; i++) {
        if (side[i].boxes)
            avt_comm_detach(comm[i]);
        avt_arena_close(&side[i].boxes);
        avt_arena_close(&side[i].own);
        avt_backend_close(&side[i].be);
    }
    avt_comm_close(comm, 2);
}

static int open_side(Side *s, const CommOptions *opt, Comm *comm, size_t size)
{
    int ret = avt_backend_open(&s->be, "cpu", &(BackendOptions){ .threads = 1, .log = opt->log });

    s->comm = comm;
    if (ret >= 0)
        ret = avt_arena_open(&s->own, s->be, "tensors", 2 * size + 4096);
    if (ret >= 0)
        ret = avt_arena_open(&s->boxes, s->be, "messages", avt_comm_message_bytes(opt, s->rank));
    if (ret >= 0)
        ret = avt_comm_attach(comm, s->boxes);
    if (ret >= 0) {
        s->sent = avt_new(s->own, DT_U8, (int64_t)size);
        s->received = avt_new(s->own, DT_U8, (int64_t)size);
        ret = s->be->status;
    }
    return ret;
}

/* Seconds of a message of `size` bytes there and of one back. */
static int measure(double *seconds, size_t size, int swaps, const Log *log)
{
    static const char *const cpus[2] = { "cpu", "cpu" };
    const CommRoute routes[2] = { { 0, 1, TAG_TEAM, 1, size }, { 1, 0, TAG_TEAM, 1, size } };
    const CommOptions opt = { .kind = COMM_THREADS, .nb = 2, .device = cpus, .route = routes, .nb_routes = 2, .log = log };
    Side side[2] = { { .rank = 0, .swaps = swaps }, { .rank = 1, .swaps = swaps } };
    Comm *comm[2] = { NULL };
    int64_t start = 0;
    int ret = avt_comm_open(comm, &opt);

    for (int i = 0; i < 2 && ret >= 0; i++)
        ret = open_side(&side[i], &opt, comm[i], size);
    if (ret >= 0) {
        start = avt_now_ns();
        side[0].end = start + (int64_t)(1e9 * SECONDS);
        ret = avt_thread_start(&side[1].thread, play, &side[1]) ? AVT_ERR(ENOMEM) : 0;
    }
    if (ret >= 0) {
        play(&side[0]);
        *seconds = 1e-9 * (double)(avt_now_ns() - start) / (double)(side[0].nb + 1);
        pthread_join(side[1].thread, NULL);
    }
    close_sides(side, comm);
    return ret;
}

int calibration_measure_turns(Calibration *c, const Log *log)
{
    static const struct {
        const char *key;
        size_t size;
        int swaps;
    } kinds[] = { { CALIBRATION_HOP, CALIBRATION_SMALL, 0 }, { CALIBRATION_TURN, CALIBRATION_SMALL, 1 }, { CALIBRATION_FULL, CALIBRATION_LARGE, 1 } };
    int ret = 0;

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && ret >= 0; i++) {
        Calibrated call = { .op = OP_NB, .threads = 1, .level = c->level, .bytes = (double)kinds[i].size };

        snprintf(call.key, sizeof(call.key), "%s", kinds[i].key);
        ret = measure(&call.seconds, kinds[i].size, kinds[i].swaps, log);
        call.seconds /= kinds[i].swaps ? 1 : 2;                     // there and back are two hops
        call.together = call.seconds;
        if (ret >= 0)
            calibration_keep(c, &call);
    }
    return ret;
}
