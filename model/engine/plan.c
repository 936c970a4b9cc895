/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plan: from the options' text to ranks. What they ask of their devices is found in rank.c and rank_weigh.c, by rehearsal on `dry`; which
 * layers each has, in plan_layers.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "engine/plan.h"

static const char *const kind_names[] = { "sequential", "wave", "timestep", "layer" };
static const char *const split_names[] = { [TEAM_HEADS] = "ulysses", [TEAM_COLUMNS] = "tensor" };

typedef struct Named {                  // "1:cuda0", "cuda0", "cuda0:own" in a list
    int process;                        // 0 when it is not said
    const char *device, *rest;          // `rest`: what is behind the device
} Named;

static Named named(const char *text)
{
    Named n = { .device = text };
    const size_t digits = strspn(text, "0123456789");

    if (digits && digits < 6 && text[digits] == ':') {
        n.process = atoi(text);
        n.device = text + digits + 1;
    }
    n.rest = n.device + strcspn(n.device, ":|");
    return n;
}

static size_t name_size(const Named *n)
{
    return (size_t)(n->rest - n->device);
}

static int is_rank_of(const PlanRank *r, const Named *n)
{
    return r->process == n->process && strlen(r->device) == name_size(n) && !strncmp(n->device, r->device, name_size(n));
}

/* 0, or an error: `n`, which an option's text names, is no device or in no process. */
static int check_device(const Named *n, const char *option, const char *text, const PlanOptions *opt, const Log *log)
{
    const int nb = opt->nb_processes > 1 ? opt->nb_processes : 1;

    if (avt_device_kind(n->device, name_size(n)) == DEVICE_NONE)
        return avt_fail(log, AVT_ERR(EINVAL), "%s=%s: %s'%.*s' is not a device; write cpu, or cuda0|cuda1", option, text,
                        name_size(n) ? "" : "an empty name, ", (int)(name_size(n) < 100 ? name_size(n) : 100), n->device);
    if (n->process >= nb)
        return avt_fail(log, AVT_ERR(EINVAL), "%s=%s: there is no process %d, %s", option, text, n->process, nb == 1 ?
                        "only this one; start workers with mpirun (doc/cluster.md)" : "they are counted from 0; start more workers");
    return 0;
}

/* "a|1:b|c" -> the ranks' devices; number of them, or an error. */
static int split_devices(PlanRank rank[PLAN_MAX_RANKS], const char *text, const PlanOptions *opt, const Log *log)
{
    int nb = 0;

    for (const char *p = text; ; p++) {
        Named n = named(p);

        n.rest = p + strcspn(p, "|");
        if (nb == PLAN_MAX_RANKS)
            return avt_fail(log, AVT_ERR(EINVAL), "devices=%s: more than %d devices", text, PLAN_MAX_RANKS);
        if (check_device(&n, "devices", text, opt, log) < 0)
            return AVT_ERR(EINVAL);
        memcpy(rank[nb].device, n.device, name_size(&n));
        rank[nb++].process = n.process;
        p = n.rest;
        if (!*p)
            return nb;
    }
}

/* "tensor2" -> split, parts. @return is it one? */
static int parse_split(TeamWay *split, int *parts, const char *text)
{
    for (TeamWay way = TEAM_HEADS; way <= TEAM_COLUMNS; way++) {
        const size_t len = strlen(split_names[way]);
        char *end;
        long nb;

        if (strncmp(text, split_names[way], len) || text[len] < '1' || text[len] > '9')
            continue;
        *split = way;
        nb = strtol(text + len, &end, 10);
        *parts = nb <= TEAM_MAX ? (int)nb : 0;
        return !*end && *parts;
    }
    return 0;
}

/* "layer", "tensor2", "layer+tensor2" */
static int parse_plan(Plan *p, int *parts, const char *text, int nb_devices, const Log *log)
{
    const size_t len = text ? strcspn(text, "+") : 0;

    *parts = 1;
    if (!text || !strcmp(text, "auto")) {
        p->kind = nb_devices > 1 ? PLAN_LAYER : PLAN_SEQUENTIAL;
        return 0;
    }
    if (parse_split(&p->split, parts, text))
        return 0;
    for (int i = 0; i < 4; i++)
        if (strlen(kind_names[i]) == len && !strncmp(text, kind_names[i], len)) {
            p->kind = (PlanKind)i;
            if (!text[len] || parse_split(&p->split, parts, text + len + 1))
                return 0;
        }
    return avt_fail(log, AVT_ERR(EINVAL), "plan=%s is not known: auto, sequential, wave, timestep or layer, tensorP or ulyssesP with P of 2 to %d "
                    "devices, or such a one behind another, as in layer+tensor2", text, TEAM_MAX);
}

/* Every part of a team has a head at least. */
static int check_parts(Plan *p, int parts, const char *text, int nb_heads, const Log *log)
{
    const char *plus = text ? strchr(text, '+') : NULL;

    if (nb_heads && parts > nb_heads)
        return avt_fail(log, AVT_ERR(EINVAL), "plan=%s: the model has %d heads, too few for %d devices to have one each; the nearest is %.*s%s%d", text,
                        nb_heads, parts, plus ? (int)(plus + 1 - text) : 0, text, split_names[p->split], nb_heads);
    if (parts == 1)
        p->split = TEAM_ALONE;
    return 0;
}

static int parse_offload(Plan *p, const PlanOptions *opt, const Log *log)
{
    const char *text = opt->offload && *opt->offload ? opt->offload : "auto";

    p->offload = !strcmp(text, "weights") ? OFFLOAD_WEIGHTS : !strcmp(text, "all") ? OFFLOAD_ALL : OFFLOAD_NONE;
    p->resident = 1e9 * opt->resident;
    if (!p->offload && strcmp(text, "none") && strcmp(text, "auto"))
        return avt_fail(log, AVT_ERR(EINVAL), "offload=%s is not known: auto, none, weights or all", text);
    if (!(opt->resident >= 0 && opt->resident <= 1e6))
        return avt_fail(log, AVT_ERR(EINVAL), "resident=%g: GB of layers that stay on each device, 0 or more", opt->resident);
    if (opt->resident > 0 && !strcmp(text, "none"))
        return avt_fail(log, AVT_ERR(EINVAL), "resident=%g says how much of the layers stays on a device with offload=auto, weights or all; with none "
                        "all do", opt->resident);
    return 0;
}

static int parse_kv(Plan *p, const char *text, const Log *log)
{
    p->kv = text && !strcmp(text, "fp8") ? DT_F8_E4M3 : text && !strcmp(text, "bf16") ? DT_BF16 : DT_F32;
    if (p->kv == DT_F32 && text && *text && strcmp(text, "auto"))
        return avt_fail(log, AVT_ERR(EINVAL), "kv=%s is not known: auto, bf16 or fp8", text);
    return 0;
}

/* The first `nb` ranks hold layers, in teams: one pipe of all, or a pipe for each. */
static int place_layers(Plan *p, const PlanOptions *opt, int nb, int parts)
{
    const int teams = nb / parts, pipes = p->kind == PLAN_TIMESTEP ? teams : 1;

    for (int r = 0; r < nb; r++) {
        const int team = r / parts;

        p->rank[r].part = r % parts;
        p->rank[r].nb_parts = parts;
        p->rank[r].pipe = pipes > 1 ? team : 0;
        p->rank[r].prev = pipes > 1 || !team ? -1 : r - parts;
        p->rank[r].next = pipes > 1 || team + 1 == teams ? -1 : r + parts;
        p->rank[r].l1 = opt->nb_layers;
    }
    for (int i = 0; i < p->steps; i++) {
        p->first[i] = pipes > 1 ? i * parts : 0;
        p->last[i] = pipes > 1 ? (i + 1) * parts - 1 : nb - 1;
    }
    return pipes == 1 ? avt_plan_split_layers(p, opt, teams, parts) : 0;
}

static int check_vae(const Named *vae, const char *text, const PlanOptions *opt, const Log *log)
{
    if (*vae->rest && strcmp(vae->rest, ":own"))
        return avt_fail(log, AVT_ERR(EINVAL), "vae_device=%s: write a device, or DEVICE:own for a rank of its own", text);
    return check_device(vae, "vae_device", text, opt, log);
}

static int vae_parts(const PlanOptions *opt)
{
    return opt->vae_split > 1 ? opt->vae_split : 1;
}

/* The first `nb` ranks hold layers. The VAE's ranks are some of them: the last of the same device and those in front of it; or its own,
 * behind them. */
static int place_vae(Plan *p, const PlanOptions *opt, const Named *vae, int nb, int spare, const Log *log)
{
    const int parts = vae_parts(opt);
    int r = nb - 1;

    if (!spare && vae && *vae->rest)
        r = -1;
    while (!spare && vae && r >= 0 && !is_rank_of(&p->rank[r], vae))
        r--;
    if (!spare && r >= 0 && r + 1 < parts)
        return avt_fail(log, AVT_ERR(EINVAL), "vae_split=%d: %s and what is in front of it in devices= are %d; split over %d, or say vae_device=%s:own",
                        parts, p->rank[r].device, r + 1, r + 1, p->rank[r].device);
    p->vae_rank = spare || r < 0 ? nb : r + 1 - parts;
    p->vae_parts = parts;
    if (p->vae_rank + parts > PLAN_MAX_RANKS)
        return avt_fail(log, AVT_ERR(EINVAL), "vae_device: more than %d ranks", PLAN_MAX_RANKS);
    p->nb_ranks = p->vae_rank == nb ? nb + parts : nb;
    for (int i = p->vae_rank; i < p->vae_rank + parts; i++) {
        p->rank[i].vae = 1;
        if (i < nb)
            continue;
        if (!spare) {
            snprintf(p->rank[i].device, sizeof(p->rank[i].device), "%.*s", (int)name_size(vae), vae->device);
            p->rank[i].process = vae->process;
        }
        p->rank[i].pipe = p->rank[i].prev = p->rank[i].next = -1;
    }
    return 0;
}

/* A device of the first process: the one that is named, else the VAE's, else the first there, else the CPU. */
static int place_front(Plan *p, const PlanOptions *opt, const Log *log)
{
    const char *text = opt->front_device && strcmp(opt->front_device, "auto") ? opt->front_device : "cpu";
    Named n = named(text);
    int r = p->vae_rank;

    n.rest = text + strlen(text);
    if (avt_device_kind(n.device, name_size(&n)) == DEVICE_NONE || n.process)
        return avt_fail(log, AVT_ERR(EINVAL), "front_device=%s is not a device%s; write cpu or cuda0", text,
                        n.process ? " of process 0, where the sound is" : "");
    if (text == opt->front_device)
        r = -1;
    else if (p->rank[r].process)
        for (r = p->nb_ranks - 1; r >= 0 && p->rank[r].process; r--)
            ;
    snprintf(p->front_device, sizeof(p->front_device), "%s", r < 0 ? n.device : p->rank[r].device);
    p->front_threads = opt->cpu_threads > 0 ? opt->cpu_threads : avt_nb_cores();
    return 0;
}

static const char *name_of(const Plan *p, int parts, char *buf, size_t size)
{
    if (parts == 1)
        snprintf(buf, size, "%s", kind_names[p->kind]);
    else
        snprintf(buf, size, "%s%s%s%d", p->kind ? kind_names[p->kind] : "", p->kind ? "+" : "", split_names[p->split], parts);
    return buf;
}

/* Devices that hold layers, of a plan that wants so many and is given `nb`. */
static int wanted(const Plan *p, int parts, int nb)
{
    return p->kind == PLAN_LAYER ? nb / parts * parts : p->kind == PLAN_TIMESTEP ? p->steps * parts : parts;
}

/* The number of devices goes with the plan, or with `own` more, which are the VAE's. */
static int check_number(const Plan *p, const PlanOptions *opt, const char *name, int parts, int vae, const char *list, int nb, const Log *log)
{
    const int most = wanted(p, parts, nb), own = vae_parts(opt), fits = nb == most || nb == most + own;

    if (p->kind == PLAN_TIMESTEP && !fits)
        return avt_fail(log, AVT_ERR(EINVAL), "plan=%s with %d steps wants %d devices (or %d, the last for the VAE), devices=%s names %d",
                        name, p->steps, most, most + own, list, nb);
    if (p->kind == PLAN_LAYER && nb / parts > opt->nb_layers)
        return avt_fail(log, AVT_ERR(EINVAL), "plan=%s: %d devices for %d layers; name at most %d", name, nb, opt->nb_layers, opt->nb_layers * parts);
    if (parts > 1 && (!most || !fits || (nb > most && p->kind != PLAN_TIMESTEP && !vae)))
        return avt_fail(log, AVT_ERR(EINVAL), p->kind == PLAN_LAYER ?
                        "plan=%s wants a multiple of %d devices, devices=%s names %d; name %d or %d, or %d more for the VAE and say vae_device=" :
                        "plan=%s wants %d devices, devices=%s names %d; name %d, or %d and for the last of them, the VAE's, say vae_device=",
                        name, parts, list, nb, most ? most : parts, p->kind == PLAN_LAYER ? most + parts * (most ? 1 : 2) : parts + own, own);
    if (!fits || (nb > most && most == 1 && !vae))
        return avt_fail(log, AVT_ERR(EINVAL), "plan=%s runs on one device, devices=%s names %d; use plan=layer or plan=timestep, or name "
                        "%s more for the VAE and say vae_device=", name, list, nb, own > 1 ? "some" : "one");
    return most;
}

/* How many of the devices hold layers; the one behind them is the VAE's. What would have no work is refused. */
static int count_layer_ranks(const Plan *p, const PlanOptions *opt, int parts, const Named *vae, const char *list, int nb, const Log *log)
{
    char name[40];
    const int most = check_number(p, opt, name_of(p, parts, name, sizeof(name)), parts, vae != NULL, list, nb, log);
    const char *idle = most >= 0 && nb > most ? p->rank[most].device : "";
    int named = 0;

    for (int r = most < 0 ? 0 : most; r < nb && vae; r++)
        named |= is_rank_of(&p->rank[r], vae);
    if (most >= 0 && nb > most && vae && !named)
        return avt_fail(log, AVT_ERR(EINVAL), "devices=%s: %s would have no work under plan=%s with vae_device=%s; leave it out, or say "
                        "vae_device=%s", list, idle, name, opt->vae_device, idle);
    return most;
}

/* Ranks on the CPU share its cores: those of the processes that have the same. */
static void share_threads(Plan *p, const PlanOptions *opt)
{
    const PlanProcess alone = { .cores = avt_nb_cores() };

    for (int r = 0; r < p->nb_ranks; r++) {
        const int process = p->rank[r].process;
        const PlanProcess own = opt->process ? opt->process[process] : alone;
        const int threads = opt->cpu_threads > 0 ? opt->cpu_threads : own.cores;
        int nb = 0;

        for (int i = 0; i < p->nb_ranks; i++)
            if (avt_device_kind(p->rank[i].device, strlen(p->rank[i].device)) == DEVICE_HOST)
                nb += opt->process ? opt->process[p->rank[i].process].shares == own.shares : p->rank[i].process == process;
        p->rank[r].threads = nb && threads / nb > 1 ? threads / nb : 1;
    }
}

int avt_plan_make(Plan *p, const PlanOptions *opt, const Log *log)
{
    const char *list = opt->devices && strcmp(opt->devices, "auto") ? opt->devices : "cpu";
    const char *vae_text = opt->vae_device && strcmp(opt->vae_device, "auto") ? opt->vae_device : NULL;
    const Named own = named(vae_text ? vae_text : "cpu"), *vae = vae_text ? &own : NULL;
    int nb, parts, layer_ranks, ret;

    memset(p, 0, sizeof(*p));
    nb = split_devices(p->rank, list, opt, log);
    if (nb < 0)
        return nb;
    if (opt->steps < 1 || opt->steps > SAMPLER_MAX_STEPS)
        return avt_fail(log, AVT_ERR(EINVAL), "steps=%d: 1 to %d", opt->steps, SAMPLER_MAX_STEPS);
    if (opt->vae_split < 0 || opt->vae_split > TEAM_MAX)
        return avt_fail(log, AVT_ERR(EINVAL), "vae_split=%d: 0 or 1 (not split) to %d", opt->vae_split, TEAM_MAX);
    p->steps = opt->steps;
    ret = parse_plan(p, &parts, opt->plan, nb, log);
    if (ret >= 0)
        ret = check_parts(p, parts, opt->plan, opt->nb_heads, log);
    if (ret >= 0)
        ret = parse_offload(p, opt, log);
    if (ret >= 0)
        ret = parse_kv(p, opt->kv, log);
    if (ret >= 0 && vae)
        ret = check_vae(vae, vae_text, opt, log);
    if (ret < 0)
        return ret;
    layer_ranks = count_layer_ranks(p, opt, parts, vae, list, nb, log);
    if (layer_ranks < 0)
        return layer_ranks;
    for (int r = 0; r < PLAN_MAX_RANKS; r++)
        p->rank[r].nb_parts = 1;
    ret = place_vae(p, opt, vae, layer_ranks, nb > layer_ranks, log);
    if (ret >= 0)
        ret = place_front(p, opt, log);
    if (ret >= 0)
        ret = place_layers(p, opt, layer_ranks, parts);
    if (ret < 0)
        return ret;
    p->in_flight = p->kind == PLAN_SEQUENTIAL ? 1 : p->steps;
    p->versions = p->kind == PLAN_SEQUENTIAL ? 1 : 2;
    p->batch = p->kind == PLAN_WAVE ? p->steps : 1;
    share_threads(p, opt);
    return 0;
}

DType avt_plan_act(const Plan *p, CpuLevel level, const char **slow)
{
    const char *device = NULL;

    for (int r = 0; r < p->nb_ranks; r++)
        if (avt_device_act(p->rank[r].device, level) == DT_F32)
            device = p->rank[r].device;
    if (slow)
        *slow = device;
    return device ? DT_F32 : DT_BF16;
}

int avt_plan_same_device(const PlanRank *a, const PlanRank *b)
{
    return a->process == b->process && !strcmp(a->device, b->device);
}

int avt_plan_is_spread(const Plan *p)
{
    for (int r = 0; r < p->nb_ranks; r++)
        if (p->rank[r].process)
            return 1;
    return 0;
}

static const char *const offloads[] = { [OFFLOAD_NONE] = "none", [OFFLOAD_WEIGHTS] = "weights", [OFFLOAD_ALL] = "all" };

int avt_plan_rung(PlanOptions *rung, const PlanOptions *asked, int i)
{
    const int open = !asked->offload || !*asked->offload || !strcmp(asked->offload, "auto");

    *rung = *asked;
    if (open && i <= OFFLOAD_ALL) {
        rung->offload = offloads[i];
        rung->resident = i ? asked->resident : 0;
    }
    return i < (open ? OFFLOAD_ALL + 1 : 1);
}

const char *avt_offload_name(const Plan *p)
{
    return offloads[p->offload];
}

int avt_plan_moves_rings(const Plan *p, int rank)
{
    return p->offload == OFFLOAD_ALL && p->rank[rank].pipe >= 0 && strcmp(p->rank[rank].device, "cpu");
}

const char *avt_kv_name(const Plan *p, DType act)
{
    return avt_is_code(p->kv) ? "fp8" : avt_dtype_name(p->kv == DT_F32 ? act : p->kv);
}

const char *avt_plan_device(const Plan *p, int rank, char *buf)
{
    if (!avt_plan_is_spread(p))
        return p->rank[rank].device;
    snprintf(buf, PLAN_DEVICE, "%d:%s", p->rank[rank].process, p->rank[rank].device);
    return buf;
}

int avt_plan_holds(const Plan *p, int rank, int step)
{
    return rank >= p->first[step] && rank <= p->last[step];
}

int avt_plan_parts(const Plan *p)
{
    return p->rank[0].nb_parts;
}

const char *avt_plan_name(const Plan *p, char *buf, size_t size)
{
    return name_of(p, avt_plan_parts(p), buf, size);
}

const char *avt_plan_text(const Plan *p, char *buf, size_t size)
{
    char name[40], device[PLAN_DEVICE];
    size_t n = (size_t)snprintf(buf, size, "%s on ", avt_plan_name(p, name, sizeof(name)));

    for (int r = 0; r < p->nb_ranks && n < size; r++)
        n += (size_t)snprintf(buf + n, size - n, "%s%s%s", r ? "|" : "", avt_plan_device(p, r, device),
                              p->rank[r].vae ? (p->rank[r].pipe < 0 ? " (VAE)" : "+VAE") : "");
    if (n < size && (p->rank[p->vae_rank].process || strcmp(p->front_device, p->rank[p->vae_rank].device)))
        snprintf(buf + n, size - n, ", front on %s", p->front_device);
    return buf;
}

void avt_plan_sizes_published(PlanSizes *s)
{
    *s = (PlanSizes){
        .wav2vec2 = { 1024, 24, 16, 4096, { 512, 512, 512, 512, 512, 512, 512 }, 16, 128 },
        .umt5 = { .dim = 4096, .attn_dim = 4096, .ffn_dim = 10240, .nb_heads = 64, .nb_layers = 24, .nb_buckets = 32, .vocab = 256384, .dtype = DT_BF16 },
        .vae_width = 96, .dtype = DT_BF16, .width = 704, .height = 384,
    };
    avt_dit_config_published(&s->dit);
}
