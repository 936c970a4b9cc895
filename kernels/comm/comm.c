/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Comm: opening by kind, the memory of mailboxes, and what every class has in common: see
 * comm.h. */
#include <string.h>

#include "base/thread.h"
#include "comm/threads.h"

#define ALIGN 64

static const char *const tag_names[TAG_NB] = {
    "COMMAND", "IMAGE", "TEXT", "SOUND", "PICTURE", "REFERENCE", "TIME", "TOKENS", "LATENTS",
    "RESULT", "FRAMES", "TEAM",
};

const char *avt_comm_tag_name(CommTag tag)
{
    return tag_names[tag];
}

/* "cuda0" and "cuda1" are devices of one class. */
static int same_class(const char *a, const char *b)
{
    const size_t len = strcspn(a, "0123456789");

    return len == strcspn(b, "0123456789") && !strncmp(a, b, len);
}

BoxWay avt_comm_box_way(const CommOptions *opt, const CommRoute *r)
{
    const int out = opt->process && opt->process[r->dst] != opt->own, in = opt->process && opt->process[r->src] != opt->own;

    return out && in ? WAY_ELSEWHERE : out ? WAY_OUT : in ? WAY_IN : WAY_HERE;
}

const char *avt_comm_box_end(const CommOptions *opt, const CommRoute *r)
{
    return opt->device[r->dst] ? opt->device[r->dst] : opt->receiver;
}

static int is_gpu(const char *device)
{
    return device && avt_device_kind(device, strlen(device)) == DEVICE_CUDA;
}

BoxPlace avt_comm_box_place(const CommOptions *opt, const CommRoute *r)
{
    const BoxWay way = avt_comm_box_way(opt, r);
    const char *src = opt->device[r->src], *dst = way == WAY_HERE ? avt_comm_box_end(opt, r) : opt->device[r->dst];

    if (way == WAY_ELSEWHERE)
        return BOX_NONE;
    if (way != WAY_HERE)
        return opt->direct && is_gpu(src) && is_gpu(dst) ? BOX_DEVICE : BOX_HOST;
    if (!src || !dst || !same_class(src, dst))
        return BOX_HOST;
    if (!avt_device_reaches(dst, src))
        return opt->kind == COMM_STRICT ? BOX_HOST : BOX_PINNED;
    return opt->kind == COMM_STRICT ? BOX_NONE : BOX_DEVICE;
}

int avt_comm_box_owner(const CommOptions *opt, const CommRoute *r)
{
    const BoxWay way = avt_comm_box_way(opt, r);

    return way == WAY_OUT || (way == WAY_HERE && strcmp(opt->device[r->src], avt_comm_box_end(opt, r))) ? r->src : r->dst;
}

size_t avt_comm_box_stride(const CommRoute *r)
{
    return (r->size + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t room_bytes(const CommRoute *r)
{
    return (size_t)r->room * avt_comm_box_stride(r);
}

size_t avt_comm_message_bytes(const CommOptions *opt, int rank)
{
    size_t bytes = 0;

    for (int i = 0; i < opt->nb_routes; i++)
        if (avt_comm_box_place(opt, &opt->route[i]) == BOX_DEVICE && avt_comm_box_owner(opt, &opt->route[i]) == rank)
            bytes += room_bytes(&opt->route[i]);
    return bytes;
}

size_t avt_comm_host_bytes(const CommOptions *opt)
{
    size_t bytes = 0;

    for (int i = 0; i < opt->nb_routes; i++) {
        const BoxPlace place = avt_comm_box_place(opt, &opt->route[i]);

        if (place == BOX_HOST || place == BOX_PINNED)
            bytes += room_bytes(&opt->route[i]);
    }
    return bytes;
}

int avt_comm_open(Comm **comm, const CommOptions *opt)
{
    static int (*const open[COMM_NB])(Comm **, const CommOptions *) = {
        [COMM_THREADS] = avt_comm_threads_open, [COMM_STRICT] = avt_comm_strict_open,
    };

    int ret;

    memset(comm, 0, sizeof(*comm) * (size_t)opt->nb);
    ret = open[opt->kind](comm, opt);
    for (int i = 0; i < opt->nb && ret >= 0; i++)
        if (comm[i])
            comm[i]->timed = opt->timed && opt->device[i];          // a host's end may be of several threads
    return ret;
}

void avt_comm_close(Comm **comm, int nb)
{
    for (int i = 0; i < nb; i++)
        if (comm[i]) {
            comm[i]->cls->close(comm[i]);
            comm[i] = NULL;
        }
}

int avt_comm_attach(Comm *c, Arena *mailboxes)
{
    return c->cls->attach ? c->cls->attach(c, mailboxes) : 0;
}

int avt_comm_connect(Comm *c)
{
    return c->cls->connect ? c->cls->connect(c) : 0;
}

void avt_comm_detach(Comm *c)
{
    if (c->cls->detach)
        c->cls->detach(c);
}

static CommData tensors(Backend *be, const Tensor *t, int nb)
{
    CommData d = { .be = be, .t = t, .nb = nb };

    for (int i = 0; i < nb; i++)
        d.size += avt_nbytes(t[i]);
    return d;
}

typedef int (*Move)(Comm *c, int peer, CommTag tag, const CommData *d);

/* A class's function, whose copies are the message's and none of the rank's ops: a profile leaves them out. */
static int move_timed(Comm *c, Move f, int peer, CommTag tag, const CommData *d)
{
    const int64_t start = avt_now_ns(), start_cpu = avt_thread_cpu_ns(), idle = c->idle;
    const int profile = d->be ? d->be->profile : 0;
    int64_t cpu;
    int ret;

    if (d->be)
        d->be->profile = 0;
    ret = f(c, peer, tag, d);
    if (d->be)
        d->be->profile = profile;
    cpu = avt_thread_cpu_ns() - start_cpu - (c->idle - idle);
    c->moved += cpu;
    c->waited += avt_now_ns() - start - cpu;
    return ret;
}

static int move(Comm *c, Move f, int peer, CommTag tag, const CommData *d)
{
    return c->timed ? move_timed(c, f, peer, tag, d) : f(c, peer, tag, d);
}

static int send(Comm *c, int dst, CommTag tag, const CommData *d)
{
    const int ret = move(c, c->cls->send, dst, tag, d);

    if (ret >= 0)
        __atomic_fetch_add(&c->bytes_to[dst], (int64_t)d->size, __ATOMIC_RELAXED);
    return ret;
}

int avt_comm_send_all(Comm *c, Backend *be, int dst, CommTag tag, const Tensor *t, int nb)
{
    const CommData d = tensors(be, t, nb);

    return be->status < 0 ? be->status : send(c, dst, tag, &d);
}

int avt_comm_recv_all(Comm *c, Backend *be, int src, CommTag tag, const Tensor *t, int nb)
{
    const CommData d = tensors(be, t, nb);
    const int ret = be->status < 0 ? be->status : move(c, c->cls->recv, src, tag, &d);

    return ret < 0 ? ret : be->status;
}

int avt_comm_expect_all(Comm *c, Backend *be, int src, CommTag tag, const Tensor *t, int nb)
{
    CommData d;

    if (be->status < 0 || !c->cls->expect)
        return be->status < 0 ? be->status : 0;
    d = tensors(be, t, nb);
    return move(c, c->cls->expect, src, tag, &d);
}

int avt_comm_send(Comm *c, Backend *be, int dst, CommTag tag, Tensor t)
{
    return avt_comm_send_all(c, be, dst, tag, &t, 1);
}

int avt_comm_recv(Comm *c, Backend *be, int src, CommTag tag, Tensor t)
{
    return avt_comm_recv_all(c, be, src, tag, &t, 1);
}

int avt_comm_expect(Comm *c, Backend *be, int src, CommTag tag, Tensor t)
{
    return avt_comm_expect_all(c, be, src, tag, &t, 1);
}

int avt_comm_send_bytes(Comm *c, int dst, CommTag tag, const void *data, size_t size)
{
    return send(c, dst, tag, &(CommData){ .bytes = (void *)data, .size = size });
}

int avt_comm_recv_bytes(Comm *c, int src, CommTag tag, void *data, size_t size)
{
    return move(c, c->cls->recv, src, tag, &(CommData){ .bytes = data, .size = size });
}

int64_t avt_comm_bytes_to(const Comm *c, int dst)
{
    return __atomic_load_n(&c->bytes_to[dst], __ATOMIC_RELAXED);
}

void avt_comm_abort(Comm *c, int code)
{
    c->cls->abort(c, code);
}

int avt_comm_status(Comm *c)
{
    return c->cls->status(c);
}
