/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Comm: opening by kind, the memory of mailboxes, and what every class has in common: see
 * comm.h. */
#include <string.h>

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

BoxPlace avt_comm_box_place(const CommOptions *opt, const CommRoute *r)
{
    const char *src = opt->device[r->src], *dst = opt->device[r->dst];
    const BoxWay way = avt_comm_box_way(opt, r);

    if (way != WAY_HERE)
        return way == WAY_ELSEWHERE ? BOX_NONE : BOX_HOST;
    if (!src || !dst || !same_class(src, dst))
        return BOX_HOST;
    return opt->kind == COMM_STRICT ? BOX_NONE : BOX_DEVICE;
}

size_t avt_comm_box_stride(const CommRoute *r)
{
    return (r->size + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t bytes_at(const CommOptions *opt, const CommRoute *r, BoxPlace place)
{
    return avt_comm_box_place(opt, r) == place ? (size_t)r->room * avt_comm_box_stride(r) : 0;
}

size_t avt_comm_message_bytes(const CommOptions *opt, int rank)
{
    size_t bytes = 0;

    for (int i = 0; i < opt->nb_routes; i++)
        if (opt->route[i].dst == rank)
            bytes += bytes_at(opt, &opt->route[i], BOX_DEVICE);
    return bytes;
}

size_t avt_comm_host_bytes(const CommOptions *opt)
{
    size_t bytes = 0;

    for (int i = 0; i < opt->nb_routes; i++)
        bytes += bytes_at(opt, &opt->route[i], BOX_HOST);
    return bytes;
}

int avt_comm_open(Comm **comm, const CommOptions *opt)
{
    static int (*const open[COMM_NB])(Comm **, const CommOptions *) = {
        [COMM_THREADS] = avt_comm_threads_open, [COMM_STRICT] = avt_comm_strict_open,
    };

    memset(comm, 0, sizeof(*comm) * (size_t)opt->nb);
    return open[opt->kind](comm, opt);
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
    return c->cls->attach(c, mailboxes);
}

static CommData tensor(Backend *be, Tensor t)
{
    return (CommData){ .be = be, .t = t, .size = avt_nbytes(t) };
}

static int send(Comm *c, int dst, CommTag tag, const CommData *d)
{
    const int ret = c->cls->send(c, dst, tag, d);

    if (ret >= 0)
        __atomic_fetch_add(&c->bytes_to[dst], (int64_t)d->size, __ATOMIC_RELAXED);
    return ret;
}

int avt_comm_send(Comm *c, Backend *be, int dst, CommTag tag, Tensor t)
{
    const CommData d = tensor(be, t);

    return be->status < 0 ? be->status : send(c, dst, tag, &d);
}

int avt_comm_recv(Comm *c, Backend *be, int src, CommTag tag, Tensor t)
{
    const CommData d = tensor(be, t);
    const int ret = be->status < 0 ? be->status : c->cls->recv(c, src, tag, &d);

    return ret < 0 ? ret : be->status;
}

int avt_comm_expect(Comm *c, Backend *be, int src, CommTag tag, Tensor t)
{
    const CommData d = tensor(be, t);

    return be->status < 0 ? be->status : c->cls->expect ? c->cls->expect(c, src, tag, &d) : 0;
}

int avt_comm_send_bytes(Comm *c, int dst, CommTag tag, const void *data, size_t size)
{
    return send(c, dst, tag, &(CommData){ .bytes = (void *)data, .size = size });
}

int avt_comm_recv_bytes(Comm *c, int src, CommTag tag, void *data, size_t size)
{
    return c->cls->recv(c, src, tag, &(CommData){ .bytes = data, .size = size });
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
