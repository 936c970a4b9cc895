/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A group's messages from and to other processes: see link.h. */
#include <string.h>

#include "comm/comm_nccl.h"
#include "comm/link.h"

/* ---- what goes out --------------------------------------------------------------------------- */

/* Place k of a box: the message, or that NCCL will bring it. */
static int write_letter(Group *g, const Box *b, int process, int i, int k)
{
    const uint64_t size = b->letter[k].size;
    Frame f = { FRAME_LETTER, g->link->id, i, 0, size };
    int ret;

    if (b->place == BOX_HOST)
        return avt_world_write(g->link->world, process, &f, b->bytes + (size_t)k * b->stride);
    f.kind = FRAME_SENT;
    f.size = sizeof(size);
    ret = avt_world_write(g->link->world, process, &f, &size);
    if (ret >= 0)
        avt_carriers_take(g, i, k, size);
    return ret;
}

/* The letters of a box that are not written yet. Who sent them may go on meanwhile; a place is theirs until it is said to be taken. */
static int write_letters(Group *g, Box *b, int process, int i)
{
    int ret = 0;

    pthread_mutex_lock(&g->lock);
    while (b->sent < b->nb && ret >= 0) {
        const int k = (b->first + b->sent++) % b->route.room;

        pthread_mutex_unlock(&g->lock);
        ret = write_letter(g, b, process, i, k);
        pthread_mutex_lock(&g->lock);
    }
    pthread_mutex_unlock(&g->lock);
    return ret;
}

static int write_taken(Group *g, Box *b, int process, int i)
{
    Frame f = { FRAME_TAKEN, g->link->id, i, 0, 0 };

    pthread_mutex_lock(&g->lock);
    f.count = b->taken;
    b->taken = 0;
    pthread_mutex_unlock(&g->lock);
    return f.count ? avt_world_write(g->link->world, process, &f, NULL) : 0;
}

void avt_link_do(const Errand *e, int process)
{
    Group *g = e->group;
    Box *b = e->box < 0 ? NULL : &g->box[e->box];
    Frame f = { FRAME_ABORT, g->link->id, -1, 0, 0 };

    if (!b) {
        pthread_mutex_lock(&g->lock);
        f.count = g->status;
        pthread_mutex_unlock(&g->lock);
        avt_world_write(g->link->world, process, &f, NULL);
    } else if (b->way == WAY_OUT) {
        write_letters(g, b, process, e->box);
    } else {
        write_taken(g, b, process, e->box);
    }
}

void avt_link_tell(Group *g, int i)
{
    avt_world_queue(g->link->world, g->box[i].peer, &g->link->errand[i]);
}

void avt_link_abort(Group *g)
{
    for (int p = 0; p < g->link->nb_processes; p++)
        if (g->link->with[p] && p != avt_world_own(g->link->world))
            avt_world_queue(g->link->world, p, &g->link->errand[g->nb_boxes + p]);
}

/* ---- what comes in --------------------------------------------------------------------------- */

static int take_letter(Group *g, Box *b, int process, const Frame *f)
{
    int k, ret;

    pthread_mutex_lock(&g->lock);
    k = b->nb == b->route.room ? -1 : (b->first + b->nb) % b->route.room;
    pthread_mutex_unlock(&g->lock);
    if (k < 0 || f->size > b->route.size)
        return AVT_ERR(EINVAL);
    ret = avt_world_read(g->link->world, process, b->bytes + (size_t)k * b->stride, f->size);
    if (ret < 0)
        return ret;
    pthread_mutex_lock(&g->lock);
    b->letter[k].size = f->size;
    b->nb++;
    pthread_cond_broadcast(&b->change);
    pthread_mutex_unlock(&g->lock);
    return 0;
}

/* The carrier has the place until the message can be received. */
static int take_sent(Group *g, Box *b, int process, const Frame *f)
{
    uint64_t size = 0;
    int k, ret;

    if (f->size != sizeof(size))
        return AVT_ERR(EINVAL);
    ret = avt_world_read(g->link->world, process, &size, sizeof(size));
    if (ret < 0)
        return ret;
    pthread_mutex_lock(&g->lock);
    k = b->nb + b->coming == b->route.room || size > b->route.size ? -1 : (b->first + b->nb + b->coming++) % b->route.room;
    pthread_mutex_unlock(&g->lock);
    if (k < 0)
        return AVT_ERR(EINVAL);
    avt_carriers_take(g, f->box, k, size);
    return 0;
}

static int take_name(Group *g, int process, const Frame *f)
{
    char name[CUDA_NAME];
    int ret = f->size == sizeof(name) ? 0 : AVT_ERR(EINVAL);

    if (ret >= 0)
        ret = avt_world_read(g->link->world, process, name, sizeof(name));
    return ret < 0 ? ret : avt_carriers_named(g, f->box, name);
}

static int take_taken(Group *g, Box *b, const Frame *f)
{
    int ret = 0;

    pthread_mutex_lock(&g->lock);
    if (f->count < 0 || f->count > b->sent) {
        ret = AVT_ERR(EINVAL);
    } else {
        b->first = (b->first + f->count) % b->route.room;
        b->nb -= f->count;
        b->sent -= f->count;
        pthread_cond_broadcast(&b->change);
    }
    pthread_mutex_unlock(&g->lock);
    return ret;
}

int avt_link_take(Group *g, int process, const Frame *f)
{
    Box *b = f->box >= 0 && f->box < g->nb_boxes ? &g->box[f->box] : NULL;

    if (f->kind == FRAME_ABORT && f->count < 0 && !f->size)
        return avt_group_fail(g, f->count), 0;
    if (b && b->peer == process && f->kind == FRAME_LETTER && b->way == WAY_IN && b->place == BOX_HOST)
        return take_letter(g, b, process, f);
    if (b && b->peer == process && f->kind == FRAME_SENT && b->way == WAY_IN && b->place == BOX_DEVICE)
        return take_sent(g, b, process, f);
    if (b && b->peer == process && f->kind == FRAME_NAME && b->way == WAY_IN)
        return take_name(g, process, f);
    if (b && b->peer == process && f->kind == FRAME_TAKEN && b->way == WAY_OUT && !f->size)
        return take_taken(g, b, f);
    return AVT_ERR(EINVAL);
}

int avt_link_minds(Group *g, int process)
{
    int well;

    pthread_mutex_lock(&g->lock);
    well = g->status >= 0 || (g->status == AVT_ERR(ETIMEDOUT) && !g->link->told);
    pthread_mutex_unlock(&g->lock);
    return well && g->link->with[process];
}

void avt_link_lost(Group *g, int code, const char *why)
{
    pthread_mutex_lock(&g->lock);
    g->link->told = 1;
    pthread_mutex_unlock(&g->lock);
    avt_log(g->log, LOG_ERROR, "%s", why);                          // before anybody wakes up to the failure
    if (avt_group_fail(g, code))
        avt_link_abort(g);                                          // who still reaches both sides does not see that one is cut off
}

/* ---- opening --------------------------------------------------------------------------------- */

int avt_link_open(Group *g, const CommOptions *opt)
{
    const int nb = avt_world_nb(opt->world);
    Link *l = avt_calloc(MEM_COMM, 1, sizeof(*l) + sizeof(*l->errand) * (size_t)(g->nb_boxes + nb));

    if (!l)
        return AVT_ERR(ENOMEM);
    g->link = l;
    l->world = opt->world;
    l->id = opt->id;
    l->nb_processes = nb;
    l->errand = (Errand *)(l + 1);
    for (int r = 0; r < opt->nb; r++)
        l->with[opt->process[r]] = 1;
    for (int i = 0; i < g->nb_boxes + nb; i++)
        l->errand[i] = (Errand){ .group = g, .box = i < g->nb_boxes ? i : -1 };
    avt_world_join(l->world, g);
    return 0;
}

void avt_link_close(Group *g)
{
    avt_world_part(g->link->world, g);
    avt_freep(&g->link);
}
