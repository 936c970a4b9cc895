/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Carriers: see comm_nccl.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"
#include "comm/comm_nccl.h"
#include "comm/link.h"

#define CONNECT_MS 30000                // all directions, from the first to the last
#define SUBMIT_MS  10000                // NCCL's own part of a message, until it is in the queue
#define FIRST_SIZE 64                   // bytes of the first message, whatever they are

typedef struct Job {
    int box, k;
    size_t size;
} Job;

typedef struct Carrier {                // one direction, its end here
    Group *group;
    int src, dst, sends;
    int peer;                           // the other process
    int box;                            // the direction's first
    Backend *queue;
    CudaWay *way;
    char name[CUDA_NAME];
    int named;
    pthread_t thread;
    int running, closing;
    Job *job;                           // [room], a ring
    int first, nb, room;
} Carrier;

struct Carriers {
    int nb;
    Carrier carrier[];
};

static int is_direct(const Box *b)
{
    return b->place == BOX_DEVICE && (b->way == WAY_OUT || b->way == WAY_IN);
}

static const CudaDirect *direct(void)
{
    return avt_cuda_direct();
}

/* ---- one message ----------------------------------------------------------------------------- */

static void pause_for(int64_t since)
{
    const int64_t spent = avt_now_ns() - since;
    const struct timespec moment = { 0, spent < 2000000 ? 50000 : 1000000 };

    nanosleep(&moment, NULL);
}

static int status_of(Group *g)
{
    int status;

    pthread_mutex_lock(&g->lock);
    status = g->status;
    pthread_mutex_unlock(&g->lock);
    return status;
}

static int fail_way(const Carrier *c, int ret, const char *what)
{
    const WorldCard *card = avt_world_card(c->group->link->world, c->peer);

    return avt_fail(c->group->log, ret, "NCCL between %s and process %d on %s (%s): %s", c->queue->device, c->peer, card->host, card->devices, what);
}

/* Until NCCL has done what it was told: what comes next in the queue may follow (still: EINPROGRESS), or, `whole`, the message has moved. */
static int wait_for_way(Carrier *c, int whole, int within_ms)
{
    const int64_t begin = avt_now_ns();

    for (;;) {
        const int ret = direct()->poll(c->way), status = status_of(c->group);

        if (ret == 0 || (ret == AVT_ERR(EINPROGRESS) && !whole))
            return 0;
        if (ret != AVT_ERR(EAGAIN) && ret != AVT_ERR(EINPROGRESS))
            return status < 0 ? status : fail_way(c, ret, direct()->why(c->way));
        if (status < 0)
            return status;
        if (avt_now_ns() - begin > within_ms * INT64_C(1000000))
            return fail_way(c, AVT_ERR(ETIMEDOUT), "it does not get on; start again with NCCL_DEBUG=WARN to see why, or without libnccl.so.2, where messages go through the host");
        pause_for(begin);
    }
}

static void *place_of(const Box *b, int k)
{
    return (char *)b->tensor.data + (size_t)k * b->stride;
}

/* Into or out of a place of the box, behind who used it before. */
static int move(Carrier *c, const Job *j)
{
    Group *g = c->group;
    Box *b = &g->box[j->box];
    Letter *l = &b->letter[j->k];
    int ret;

    avt_wait(c->queue, c->sends ? l->sent : l->taken);
    ret = direct()->move(c->way, place_of(b, j->k), j->size);
    if (ret < 0)
        return fail_way(c, ret, direct()->why(c->way));
    ret = wait_for_way(c, 0, SUBMIT_MS);
    if (ret < 0)
        return ret;
    pthread_mutex_lock(&g->lock);
    *(c->sends ? &l->taken : &l->sent) = avt_mark(c->queue);
    l->busy = 0;
    if (!c->sends) {
        l->size = j->size;
        b->coming--;
        b->nb++;
    }
    pthread_cond_broadcast(&b->change);
    pthread_mutex_unlock(&g->lock);
    return c->queue->status < 0 ? c->queue->status : wait_for_way(c, 1, INT32_MAX);
}

/* ---- threads --------------------------------------------------------------------------------- */

/* The next message; 0: there is none any more. */
static int next_job(Carrier *c, Job *j)
{
    Group *g = c->group;
    int there;

    pthread_mutex_lock(&g->lock);
    while (!c->nb && !c->closing && g->status >= 0)
        pthread_cond_wait(&g->change, &g->lock);
    there = c->nb && g->status >= 0;
    if (there) {
        *j = c->job[c->first];
        c->first = (c->first + 1) % c->room;
        c->nb--;
    }
    pthread_mutex_unlock(&g->lock);
    return there;
}

/* After a failure the way is torn off at once: ranks' queues may wait for what will never come. */
static void *carrier_thread(void *arg)
{
    Carrier *c = arg;
    Job j;
    int ret = 0;

    while (ret >= 0 && next_job(c, &j))
        ret = move(c, &j);
    if (ret < 0 && avt_group_fail(c->group, ret))
        avt_link_abort(c->group);
    direct()->close(&c->way, status_of(c->group) < 0);
    return NULL;
}

void avt_carriers_take(Group *g, int i, int k, size_t size)
{
    const CommRoute *r = &g->box[i].route;

    pthread_mutex_lock(&g->lock);
    for (int n = 0; n < g->carriers->nb; n++) {
        Carrier *c = &g->carriers->carrier[n];

        if (c->src == r->src && c->dst == r->dst && c->nb < c->room)
            c->job[(c->first + c->nb++) % c->room] = (Job){ i, k, size };
    }
    pthread_cond_broadcast(&g->change);
    pthread_mutex_unlock(&g->lock);
}

/* ---- connecting ------------------------------------------------------------------------------ */

int avt_carriers_named(Group *g, int i, const void *name)
{
    int ret = AVT_ERR(EINVAL);

    pthread_mutex_lock(&g->lock);
    for (int n = 0; g->carriers && n < g->carriers->nb; n++) {
        Carrier *c = &g->carriers->carrier[n];

        if (c->box != i || c->sends)
            continue;
        memcpy(c->name, name, CUDA_NAME);
        c->named = 1;
        ret = 0;
    }
    pthread_cond_broadcast(&g->change);
    pthread_mutex_unlock(&g->lock);
    return ret;
}

/* The sender names the way. */
static int tell_name(Carrier *c)
{
    const Link *l = c->group->link;
    const Frame f = { FRAME_NAME, l->id, c->box, 0, CUDA_NAME };

    if (direct()->name(c->name) < 0)
        return fail_way(c, AVT_ERR(EIO), "it gives no name for a way");
    return avt_world_write(l->world, c->peer, &f, c->name) < 0 ? AVT_ERR(ETIMEDOUT) : 0;
}

static int wait_for_name(Carrier *c, const struct timespec *end)
{
    Group *g = c->group;
    int ret;

    pthread_mutex_lock(&g->lock);
    while (!c->named && g->status >= 0)
        if (pthread_cond_timedwait(&g->change, &g->lock, end) == ETIMEDOUT)
            break;
    ret = g->status < 0 ? g->status : c->named ? 0 : AVT_ERR(ETIMEDOUT);
    pthread_mutex_unlock(&g->lock);
    return ret == AVT_ERR(ETIMEDOUT) && status_of(g) >= 0 ? fail_way(c, ret, "the other side does not connect") : ret;
}

typedef int (*Step)(Carrier *c, const struct timespec *end);

static int begin_name(Carrier *c, const struct timespec *end)
{
    (void)end;
    return c->sends ? tell_name(c) : 0;
}

static int begin_way(Carrier *c, const struct timespec *end)
{
    int ret = c->sends ? 0 : wait_for_name(c, end);

    if (ret >= 0 && (ret = direct()->open(&c->way, c->queue, c->sends, c->name)) < 0)
        ret = fail_way(c, ret, c->way ? direct()->why(c->way) : "no memory");
    return ret;
}

static int end_way(Carrier *c, const struct timespec *end)
{
    (void)end;
    return wait_for_way(c, 1, CONNECT_MS);
}

static int begin_first(Carrier *c, const struct timespec *end)
{
    const Box *b = &c->group->box[c->box];
    const int ret = direct()->move(c->way, place_of(b, 0), FIRST_SIZE < b->stride ? FIRST_SIZE : b->stride);

    (void)end;
    return ret < 0 ? fail_way(c, ret, direct()->why(c->way)) : 0;
}

static int start(Carrier *c, const struct timespec *end)
{
    (void)end;
    if (avt_thread_start(&c->thread, carrier_thread, c))
        return avt_fail(c->group->log, AVT_ERR(ENOMEM), "the system gives no thread for what goes to process %d; raise its limit (ulimit -u, pids.max)",
                        c->peer);
    c->running = 1;
    return 0;
}

/* Each step for all directions before the next: both sides of each are at it at the same time. */
int avt_carriers_connect(Group *g)
{
    static const Step steps[] = { begin_name, begin_way, end_way, begin_first, end_way, start };
    const int64_t end = avt_now_ns() + CONNECT_MS * INT64_C(1000000);
    const struct timespec until = { end / 1000000000, end % 1000000000 };
    int ret = 0;

    for (size_t s = 0; g->carriers && s < sizeof(steps) / sizeof(steps[0]); s++)
        for (int i = 0; i < g->carriers->nb && ret >= 0; i++)
            ret = steps[s](&g->carriers->carrier[i], &until);
    return ret;
}

/* ---- opening --------------------------------------------------------------------------------- */

static Carrier *carrier_of(const Group *g, const CommRoute *r)
{
    for (int i = 0; i < g->carriers->nb; i++)
        if (g->carriers->carrier[i].src == r->src && g->carriers->carrier[i].dst == r->dst)
            return &g->carriers->carrier[i];
    return NULL;
}

int avt_carriers_open(Group *g, const CommOptions *opt)
{
    int most = 0, room = 0;
    Job *job;

    for (int i = 0; i < g->nb_boxes; i++)
        if (is_direct(&g->box[i])) {
            most++;
            room += g->box[i].route.room;
        }
    if (!most)
        return 0;
    g->carriers = avt_calloc(MEM_COMM, 1, sizeof(*g->carriers) + sizeof(Carrier) * (size_t)most + sizeof(Job) * (size_t)(room * most));
    if (!g->carriers)
        return AVT_ERR(ENOMEM);
    job = (Job *)(g->carriers->carrier + most);
    for (int i = 0; i < g->nb_boxes; i++) {
        const Box *b = &g->box[i];

        if (!is_direct(b) || carrier_of(g, &b->route))
            continue;
        g->carriers->carrier[g->carriers->nb++] = (Carrier){ .group = g, .src = b->route.src, .dst = b->route.dst, .sends = b->way == WAY_OUT,
                                                             .peer = b->peer, .box = i, .job = job, .room = room };
        job += room;
    }
    (void)opt;
    return 0;
}

int avt_carriers_attach(Group *g, int rank, Backend *be)
{
    const BackendOptions opt = { .threads = 1, .act = be->act, .log = be->log };
    int ret = 0;

    for (int i = 0; g->carriers && i < g->carriers->nb && ret >= 0; i++) {
        Carrier *c = &g->carriers->carrier[i];

        if ((c->sends ? c->src : c->dst) == rank)
            ret = avt_backend_open(&c->queue, be->device, &opt);
    }
    return ret;
}

/* Its thread has closed the way, if there was one. */
static void carrier_close(Carrier *c)
{
    Group *g = c->group;

    pthread_mutex_lock(&g->lock);
    c->closing = 1;
    pthread_cond_broadcast(&g->change);
    pthread_mutex_unlock(&g->lock);
    if (c->running)
        pthread_join(c->thread, NULL);
    c->running = 0;
    if (c->way)
        direct()->close(&c->way, 1);
    avt_backend_close(&c->queue);
}

void avt_carriers_detach(Group *g, int rank)
{
    for (int i = 0; g->carriers && i < g->carriers->nb; i++) {
        Carrier *c = &g->carriers->carrier[i];

        if ((c->sends ? c->src : c->dst) == rank)
            carrier_close(c);
    }
}

void avt_carriers_close(Group *g)
{
    for (int i = 0; g->carriers && i < g->carriers->nb; i++)
        carrier_close(&g->carriers->carrier[i]);
    avt_freep(&g->carriers);
}
