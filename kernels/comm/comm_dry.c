/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Comm for a rehearsal: one rank's end of a group that is not there. Nothing moves; each message
 * leaves its route behind, so that the plan's messages are those of the code that runs later.
 */
#include "comm/comm.h"

typedef struct DryEnd {                 // a Comm
    Comm comm;
    CommRoute *route;
    int nb, room;
    CommTraffic sent[TAG_NB];
    int received[TAG_NB];               // since the last send
} DryEnd;

static int note(DryEnd *d, int src, int dst, CommTag tag, size_t size)
{
    CommRoute *r = d->route;

    for (int i = 0; i < d->nb; i++, r++)
        if (r->src == src && r->dst == dst && r->tag == tag) {
            r->size = r->size < size ? size : r->size;
            return 0;
        }
    if (d->nb == d->room) {
        const int room = d->room ? 2 * d->room : 16;

        r = avt_realloc(MEM_COMM, d->route, sizeof(*r) * (size_t)room);
        if (!r)
            return AVT_ERR(ENOMEM);
        d->route = r;
        d->room = room;
    }
    d->route[d->nb++] = (CommRoute){ .src = src, .dst = dst, .tag = tag, .size = size };
    return 0;
}

static int dry_send(Comm *c, int dst, CommTag tag, const CommData *d)
{
    DryEnd *e = (DryEnd *)c;
    CommTraffic *t = &e->sent[tag];

    t->turns += !t->bytes || e->received[tag];
    t->bytes += (double)d->size;
    e->received[tag] = 0;
    return note((DryEnd *)c, c->rank, dst, tag, d->size);
}

static int dry_recv(Comm *c, int src, CommTag tag, const CommData *d)
{
    ((DryEnd *)c)->received[tag] = 1;
    return note((DryEnd *)c, src, c->rank, tag, d->size);
}

static void dry_close(Comm *c)
{
    avt_free(((DryEnd *)c)->route);
    avt_free(c);
}

CommRoute *avt_comm_dry_routes(Comm *c, int *nb)
{
    *nb = ((DryEnd *)c)->nb;
    return ((DryEnd *)c)->route;
}

CommTraffic avt_comm_dry_traffic(const Comm *c, CommTag tag)
{
    return ((const DryEnd *)c)->sent[tag];
}

int avt_comm_dry_open(Comm **comm, int nb, int rank, const Log *log)
{
    static const CommClass cls = {
        .name = "dry",
        .send = dry_send,
        .recv = dry_recv,
        .close = dry_close,
    };
    DryEnd *d = avt_calloc(MEM_COMM, 1, sizeof(*d) + sizeof(int64_t) * (size_t)nb);

    *comm = (Comm *)d;
    if (!d)
        return AVT_ERR(ENOMEM);
    d->comm = (Comm){ .cls = &cls, .rank = rank, .nb = nb, .log = log,
                       .bytes_to = (int64_t *)(d + 1) };
    return 0;
}
