/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A rank's life: weights, state, the walk through the conductor's commands, and the rehearsal of it on `dry`, which finds its memory.
 * What it does for a command is in rank_work.c.
 */
#include <stdio.h>
#include <string.h>

#include "base/thread.h"
#include "engine/rank.h"

#define MID_STREAM 100                  // a block whose rings are full

/* ---- weights ---------------------------------------------------------------------------------------------------- */

static int bind_dit(RankWeights *w, const PlanRank *place, const PlanSizes *sizes, const ModelFiles *files, const Log *log)
{
    Binder b;
    int ret = avt_binder_open(&b, files->dit, files->lora, w->arena, "dit", sizes->dtype, log);

    if (ret >= 0)
        ret = avt_dit_open(&w->dit, &sizes->dit, &b, place->l0, place->l1);
    avt_binder_close(&b);
    return ret;
}

static int bind_vae(RankWeights *w, const PlanSizes *sizes, const ModelFiles *files, const Log *log)
{
    Binder b;
    int ret = avt_binder_open(&b, files->vae, NULL, w->arena, "vae", DT_F32, log);

    if (ret >= 0)
        ret = avt_vae_open(&w->vae, &b, sizes->vae_width, VAE_ENCODER | VAE_DECODER);
    avt_binder_close(&b);
    return ret;
}

int avt_rank_weights_open(RankWeights *w, const Plan *plan, int r, const PlanSizes *sizes, const ModelFiles *files,
                          const BackendOptions *opt, const char *device, size_t capacity, const Log *log)
{
    int ret;

    memset(w, 0, sizeof(*w));
    ret = avt_backend_open(&w->be, device, opt);
    if (ret >= 0)
        ret = avt_arena_open(&w->arena, w->be, "weights", capacity);
    if (ret >= 0 && plan->rank[r].pipe >= 0)
        ret = bind_dit(w, &plan->rank[r], sizes, files, log);
    if (ret >= 0 && plan->rank[r].vae)
        ret = bind_vae(w, sizes, files, log);
    if (ret >= 0)
        ret = avt_sync(w->be);
    if (ret < 0)
        avt_rank_weights_close(w);
    return ret;
}

void avt_rank_weights_close(RankWeights *w)
{
    avt_dit_close(&w->dit);
    if (w->be)
        avt_arena_close(&w->arena);
    avt_backend_close(&w->be);
    memset(w, 0, sizeof(*w));
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static int open_layers(Rank *r)
{
    const RankSetup *set = r->set;
    const DitShape *s = &set->shape;
    const Dit *d = &r->w->dit;
    const int steps = set->plan->steps;
    int ret = avt_dit_time_open(&r->sink_time, r->state, d);

    r->latent = avt_new(r->state, DT_F32, r->nb_slots, LATENT, DIT_BLOCK, s->H, s->W);
    r->ref = avt_new(r->state, DT_F32, LATENT, 1, s->H, s->W);
    r->ref_next = avt_new(r->state, DT_F32, LATENT, 1, s->H, s->W);
    r->motion = avt_new(r->state, DT_F32, LATENT, DIT_MOTION, s->H, s->W);
    for (int i = 0; i < steps && ret >= 0; i++) {
        if (!avt_plan_holds(r->set->plan, r->index, i))
            continue;
        ret = avt_dit_time_open(&r->time[i], r->state, d);
        if (ret >= 0)
            ret = avt_dit_keys_open(&r->ring[i], r->state, d, s->ring, 0);
    }
    for (int v = 0; v < r->nb_versions && ret >= 0; v++) {
        ret = avt_dit_keys_open(&r->text[v], r->state, d, d->cfg.text_len, 0);
        if (ret >= 0)
            ret = avt_dit_keys_open(&r->sink[v], r->state, d, s->Lc, s->n);
    }
    for (int k = 0; k < r->nb_slots && ret >= 0; k++)
        ret = avt_dit_audio_open(&r->audio[k], r->state, d, s, 1, 0);
    return ret;
}

static int open_host(Rank *r)
{
    const DitShape *s = &r->set->shape;
    const DitConfig *cfg = &r->w->dit.cfg;
    const size_t latent = (size_t)(LATENT * DIT_BLOCK * s->H * s->W), picture = (size_t)(64 * s->H * s->W * 3);
    const size_t features = avt_rank_has_layers(r) ? (size_t)(BLOCK_FRAMES * cfg->nb_audio_layers * cfg->audio_dim) : 0;
    const size_t context = avt_rank_has_layers(r) ? (size_t)(cfg->text_len * cfg->text_dim) : 0;
    const size_t frames = r->place->vae ? (size_t)BLOCK_FRAMES * picture : 0;
    const size_t sizes[] = { latent, picture, features, context, frames };
    size_t most = 0;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        most = sizes[i] > most ? sizes[i] : most;
    r->host_size = most * sizeof(float);
    r->host = avt_malloc(MEM_SESSION, r->host_size);
    if (!r->host)
        return avt_fail(r->set->log, AVT_ERR(ENOMEM), "rank %d: no memory for %.1f MB of staging", r->index, (double)r->host_size / 1e6);
    return 0;
}

static int open_arrays(Rank *r, int steps)
{
    r->time = avt_calloc(MEM_SESSION, (size_t)steps, sizeof(*r->time));
    r->ring = avt_calloc(MEM_SESSION, (size_t)steps, sizeof(*r->ring));
    r->items = avt_calloc(MEM_SESSION, (size_t)steps, sizeof(*r->items));
    r->text = avt_calloc(MEM_SESSION, (size_t)r->nb_versions, sizeof(*r->text));
    r->sink = avt_calloc(MEM_SESSION, (size_t)r->nb_versions, sizeof(*r->sink));
    r->audio = avt_calloc(MEM_SESSION, (size_t)r->nb_slots, sizeof(*r->audio));
    return r->time && r->ring && r->items && r->text && r->sink && r->audio ? 0 : AVT_ERR(ENOMEM);
}

int avt_rank_open(Rank *r, const RankSetup *set, int index, const RankWeights *w, Comm *comm, const BackendOptions *opt, const char *device,
                  size_t state_bytes, size_t scratch_bytes)
{
    int ret;

    memset(r, 0, sizeof(*r));
    r->set = set;
    r->index = index;
    r->place = &set->plan->rank[index];
    r->comm = comm;
    r->w = w;
    r->nb_slots = set->plan->in_flight;
    r->nb_versions = set->plan->versions;
    ret = avt_backend_open(&r->be, device, opt);
    if (ret < 0)
        return ret;
    r->be->cancel = set->cancel;
    ret = open_arrays(r, set->plan->steps);
    if (ret >= 0)
        ret = avt_arena_open(&r->state, r->be, "state", state_bytes);
    if (ret >= 0)
        ret = avt_arena_open(&r->scratch, r->be, "scratch", scratch_bytes);
    if (ret >= 0)
        ret = open_host(r);
    if (ret >= 0 && avt_rank_has_layers(r))
        ret = open_layers(r);
    if (ret >= 0 && r->place->vae)
        ret = avt_vae_state_open(&r->dec, r->state, &w->vae, VAE_DECODER, set->shape.H, set->shape.W);
    if (ret >= 0)
        ret = avt_sync(r->be);
    if (ret < 0)
        avt_rank_close(r);
    return ret;
}

void avt_rank_close(Rank *r)
{
    for (int i = 0; r->ring && i < r->set->plan->steps; i++)
        avt_dit_keys_close(&r->ring[i]);
    for (int v = 0; v < r->nb_versions; v++) {
        if (r->text)
            avt_dit_keys_close(&r->text[v]);
        if (r->sink)
            avt_dit_keys_close(&r->sink[v]);
    }
    avt_freep(&r->time);
    avt_freep(&r->ring);
    avt_freep(&r->items);
    avt_freep(&r->text);
    avt_freep(&r->sink);
    avt_freep(&r->audio);
    avt_freep(&r->host);
    if (r->be) {
        avt_sync(r->be);
        avt_arena_close(&r->scratch);
        avt_arena_close(&r->state);
    }
    avt_backend_close(&r->be);
}

/* Time embeddings are constants of the schedule: once, before the first command. */
int avt_rank_prepare(Rank *r)
{
    int ret = 0;

    if (!avt_rank_has_layers(r))
        return 0;
    ret = avt_dit_time(r->be, r->scratch, &r->w->dit, &r->sink_time, 0);
    for (int i = 0; i < r->set->plan->steps && ret >= 0; i++)
        if (avt_plan_holds(r->set->plan, r->index, i))
            ret = avt_dit_time(r->be, r->scratch, &r->w->dit, &r->time[i], r->set->schedule.timestep[i]);
    for (int i = 0; i < r->set->plan->steps && ret >= 0; i++)
        for (int64_t l = 0; l < r->ring[i].nb; l++) {
            avt_fill(r->be, r->ring[i].k[l], 0);
            avt_fill(r->be, r->ring[i].v[l], 0);
        }
    return ret;
}

/* ---- the walk --------------------------------------------------------------------------------------------------------------- */

int avt_rank_run(Rank *r)
{
    Cmd c;
    int ret;

    avt_thread_flush_denormals();
    ret = avt_rank_prepare(r);
    while (ret >= 0) {
        ret = avt_comm_recv_bytes(r->comm, r->set->plan->nb_ranks, TAG_COMMAND, &c, sizeof(c), -1);
        if (ret < 0 || c.kind == CMD_END)
            break;
        ret = avt_rank_obey(r, &c);
    }
    if (ret >= 0)
        ret = avt_sync(r->be);
    if (ret < 0)
        avt_comm_abort(r->comm, ret);
    return ret;
}

/* ---- rehearsal ----------------------------------------------------------------------------------------------------------------- */

/* The fullest wave, with `oldest` as its oldest block; alone in a sequential plan, the last step. */
static int rehearse_wave(Rank *r, int64_t oldest)
{
    const int steps = r->set->plan->steps;
    Cmd c = { .kind = CMD_WAVE, .new_block = oldest + r->nb_slots - 1, .nb_items = r->nb_slots };

    for (int i = 0; i < r->nb_slots; i++)
        c.item[i] = (CmdItem){ .block = c.new_block - i, .step = r->nb_slots == 1 ? steps - 1 : i };
    return avt_rank_obey(r, &c);
}

static int rehearse(Rank *r)
{
    Cmd c = { .kind = CMD_PICTURE, .prime = 1 };
    int ret = avt_rank_prepare(r);

    if (ret >= 0)
        ret = avt_rank_obey(r, &c);
    c = (Cmd){ .kind = CMD_TEXT, .rows = r->set->text_len };
    if (ret >= 0)
        ret = avt_rank_obey(r, &c);
    c = (Cmd){ .kind = CMD_SINK, .from_block = 1 };
    if (ret >= 0)
        ret = avt_rank_obey(r, &c);
    if (ret >= 0)
        ret = rehearse_wave(r, 0);
    return ret < 0 ? ret : avt_sync(r->be);
}

int avt_rank_measure(PlanMemory *m, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt, OpStat *stat)
{
    RankSetup quiet = *set;
    BackendOptions dry = *opt;
    RankWeights w;
    Rank r;
    int ret;

    // a CUDA device keeps the file's types, as `dry` does by itself
    dry.plan_for = strncmp(set->plan->rank[index].device, "cuda", 4) ? set->plan->rank[index].device : NULL;
    memset(m, 0, sizeof(*m));
    quiet.hooks = (RankHooks){ 0 };
    quiet.cancel = NULL;
    ret = avt_rank_weights_open(&w, set->plan, index, sizes, &(ModelFiles){ 0 }, &dry, "dry", ARENA_UNLIMITED, set->log);
    if (ret < 0)
        return ret;
    ret = avt_rank_open(&r, &quiet, index, &w, NULL, &dry, "dry", ARENA_UNLIMITED, ARENA_UNLIMITED);
    if (ret >= 0) {
        ret = rehearse(&r);
        if (stat)
            memset(r.be->stat, 0, sizeof(r.be->stat));
        if (stat && ret >= 0)
            ret = rehearse_wave(&r, MID_STREAM);
        *m = (PlanMemory){ avt_arena_peak(w.arena), avt_arena_peak(r.state), avt_arena_peak(r.scratch) };
        if (stat)
            memcpy(stat, r.be->stat, sizeof(r.be->stat));
        avt_rank_close(&r);
    }
    avt_rank_weights_close(&w);
    return ret;
}

/* Bytes and FLOPs of a block of a rank that holds all layers of a plan of one device. */
static int load_of(double *bytes, double *flops, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *opt)
{
    Plan plan;
    RankSetup set = { .plan = &plan, .format = PIX_YUV420P, .text_len = sizes->dit.text_len, .log = opt->log,
                      .shape = avt_dit_shape(sizes->height / 8, sizes->width / 8) };
    OpStat stat[OP_NB];
    PlanMemory m;
    int ret = avt_plan_make(&plan, o, opt->log);

    if (ret >= 0)
        ret = avt_schedule(&set.schedule, o->steps, 3);
    if (ret >= 0)
        ret = avt_rank_measure(&m, &set, 0, sizes, opt, stat);
    if (ret < 0)
        return ret;
    *bytes = (double)(m.weights + m.state + m.scratch);
    *flops = 0;
    for (int i = 0; i < OP_NB; i++)
        *flops += stat[i].flops;
    return 0;
}

/* A layer is the difference between all layers and one, the VAE that between a shared rank and one without. */
int avt_rank_loads(PlanLoad *l, const PlanSizes *sizes, const char *device, int steps, const BackendOptions *opt)
{
    const int nb = sizes->dit.nb_layers, more = nb > 1 ? nb - 1 : 1;
    char own[40];
    PlanOptions o = { .plan = "layer", .devices = device, .vae_device = own, .steps = steps, .nb_layers = 1, .cpu_threads = 1 };
    double bytes[3], flops[3];
    int ret;

    snprintf(own, sizeof(own), "%s:own", device);
    ret = load_of(&bytes[0], &flops[0], &o, sizes, opt);
    o.nb_layers = nb;
    if (ret >= 0)
        ret = load_of(&bytes[1], &flops[1], &o, sizes, opt);
    o.vae_device = NULL;
    if (ret >= 0)
        ret = load_of(&bytes[2], &flops[2], &o, sizes, opt);
    if (ret >= 0)
        *l = (PlanLoad){ .layer_flops = (flops[1] - flops[0]) / more, .vae_flops = flops[2] - flops[1],
                         .layer_bytes = (bytes[1] - bytes[0]) / more, .vae_bytes = bytes[2] - bytes[1] };
    return ret;
}

int avt_rank_plan(Plan *p, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *opt)
{
    PlanOptions weighed = *o;
    int ret = avt_plan_make(p, o, opt->log);

    if (ret < 0 || p->first[0] == p->last[0])
        return ret;
    ret = avt_rank_loads(&weighed.load, sizes, p->rank[p->vae_rank].device, o->steps, opt);
    return ret < 0 ? ret : avt_plan_make(p, &weighed, opt->log);
}
