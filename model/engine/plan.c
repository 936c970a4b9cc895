/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plan: from the options' text to ranks. The memory of a rank is found in rank.c, by rehearsal on `dry`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "engine/plan.h"

static const char *const kind_names[] = { "sequential", "wave", "timestep", "layer" };

/* cpu, cuda and a number, guard: what a rank can run on, whether this build has it or not. */
static int is_device(const char *name, size_t len)
{
    const size_t digits = len > 4 ? strspn(name + 4, "0123456789") : 0;

    if ((len == 3 && !strncmp(name, "cpu", 3)) || (len == 5 && !strncmp(name, "guard", 5)))
        return 1;
    return !strncmp(name, "cuda", 4) && digits > 0 && digits < 4 && 4 + digits == len;
}

/* "a|b|c" -> names; number of them, or an error. */
static int split_devices(char names[PLAN_MAX_RANKS][32], const char *text, const Log *log)
{
    int nb = 0;

    for (const char *p = text; ; p++) {
        const size_t len = strcspn(p, "|");

        if (nb == PLAN_MAX_RANKS)
            return avt_fail(log, AVT_ERR(EINVAL), "devices=%s: more than %d devices", text, PLAN_MAX_RANKS);
        if (!is_device(p, len))
            return avt_fail(log, AVT_ERR(EINVAL), "devices=%s: %s'%.*s' is not a device; write cpu, or cuda0|cuda1", text, len ? "" : "an empty name, ",
                            (int)(len < 100 ? len : 100), p);
        memcpy(names[nb], p, len);
        names[nb++][len] = 0;
        p += len;
        if (!*p)
            return nb;
    }
}

static int parse_kind(PlanKind *kind, const char *text, int nb_devices, const Log *log)
{
    if (!text || !strcmp(text, "auto")) {
        *kind = nb_devices > 1 ? PLAN_LAYER : PLAN_SEQUENTIAL;
        return 0;
    }
    for (int i = 0; i < 4; i++)
        if (!strcmp(text, kind_names[i])) {
            *kind = (PlanKind)i;
            return 0;
        }
    return avt_fail(log, AVT_ERR(EINVAL), "plan=%s is not known: auto, sequential, wave, timestep or layer", text);
}

/* Give each of the layer ranks its layers: even runs, the first ones a layer longer; a rank that shares with the VAE is last and so shorter. */
static void place_layers(Plan *p, int nb, int nb_layers)
{
    for (int r = 0, l = 0; r < nb; r++) {
        const int own = p->kind == PLAN_LAYER ? nb_layers / nb + (r < nb_layers % nb) : nb_layers;

        p->rank[r].pipe = p->kind == PLAN_TIMESTEP ? r : 0;
        p->rank[r].l0 = p->kind == PLAN_LAYER ? l : 0;
        p->rank[r].l1 = p->rank[r].l0 + own;
        l += own;
    }
}

static int place_vae(Plan *p, const char *vae, int nb, int spare, const Log *log)
{
    const size_t len = vae ? strcspn(vae, ":") : 0;

    p->vae_rank = nb - 1;
    if (vae && strcmp(vae, "auto")) {
        if (vae[len] && strcmp(vae + len, ":own"))
            return avt_fail(log, AVT_ERR(EINVAL), "vae_device=%s: write a device, or DEVICE:own for a rank of its own", vae);
        if (!is_device(vae, len))
            return avt_fail(log, AVT_ERR(EINVAL), "vae_device=%s is not a device; write cpu, cuda0, or DEVICE:own", vae);
        spare = !!vae[len];
        for (p->vae_rank = nb - 1; p->vae_rank >= 0 && !spare; p->vae_rank--)
            if (!strncmp(p->rank[p->vae_rank].device, vae, len) && !p->rank[p->vae_rank].device[len])
                break;
        if (p->vae_rank < 0)
            spare = 1;                                              // a device outside the list is a rank of its own
        if (spare) {
            if (nb == PLAN_MAX_RANKS)
                return avt_fail(log, AVT_ERR(EINVAL), "vae_device=%s: more than %d ranks", vae, PLAN_MAX_RANKS);
            snprintf(p->rank[nb].device, sizeof(p->rank[nb].device), "%.*s", (int)len, vae);
        }
    }
    if (spare) {
        p->vae_rank = nb;
        p->rank[nb].pipe = -1;
        p->nb_ranks = nb + 1;
    }
    p->rank[p->vae_rank].vae = 1;
    return 0;
}

int avt_plan_make(Plan *p, const char *plan, const char *devices, const char *vae, int steps, int nb_layers, int cpu_threads,
                  const Log *log)
{
    char names[PLAN_MAX_RANKS][32];
    const char *list = devices && strcmp(devices, "auto") ? devices : "cpu";
    int nb = split_devices(names, list, log), layer_ranks, threads, nb_cpu = 0, ret;

    memset(p, 0, sizeof(*p));
    if (nb < 0)
        return nb;
    if (steps < 1 || steps > SAMPLER_MAX_STEPS)
        return avt_fail(log, AVT_ERR(EINVAL), "steps=%d: 1 to %d", steps, SAMPLER_MAX_STEPS);
    ret = parse_kind(&p->kind, plan, nb, log);
    if (ret < 0)
        return ret;
    if (p->kind <= PLAN_WAVE && nb > 1 && !(vae && strcmp(vae, "auto")))
        return avt_fail(log, AVT_ERR(EINVAL), "plan=%s runs on one device, devices=%s names %d; use plan=layer or plan=timestep",
                        kind_names[p->kind], list, nb);
    layer_ranks = p->kind <= PLAN_WAVE ? 1 : nb;
    if (p->kind == PLAN_TIMESTEP && (nb < steps || nb > steps + 1))
        return avt_fail(log, AVT_ERR(EINVAL), "plan=timestep with %d steps wants %d devices (or %d, the last for the VAE), devices=%s names %d",
                        steps, steps, steps + 1, list, nb);
    if (p->kind == PLAN_TIMESTEP)
        layer_ranks = steps;
    if (p->kind == PLAN_LAYER && nb > nb_layers)
        return avt_fail(log, AVT_ERR(EINVAL), "plan=layer: %d devices for %d layers; name at most %d", nb, nb_layers, nb_layers);
    p->steps = steps;
    p->nb_ranks = layer_ranks;
    p->nb_pipes = p->kind == PLAN_TIMESTEP ? steps : 1;
    for (int r = 0; r < nb; r++)
        memcpy(p->rank[r].device, names[r], sizeof(names[r]));
    place_layers(p, layer_ranks, nb_layers);
    ret = place_vae(p, vae, layer_ranks, nb > layer_ranks, log);
    if (ret < 0)
        return ret;
    for (int r = 0; r < p->nb_ranks; r++)
        nb_cpu += !strncmp(p->rank[r].device, "cuda", 4) ? 0 : 1;
    threads = cpu_threads > 0 ? cpu_threads : avt_nb_cores();
    for (int r = 0; r < p->nb_ranks; r++)                            // ranks on the CPU share its cores
        p->rank[r].threads = nb_cpu && threads / nb_cpu > 1 ? threads / nb_cpu : 1;
    return 0;
}

int avt_plan_first(const Plan *p, int step)
{
    return p->kind == PLAN_TIMESTEP ? step : 0;
}

int avt_plan_last(const Plan *p, int step)
{
    int r = avt_plan_first(p, step);

    while (r + 1 < p->nb_ranks && p->rank[r + 1].pipe == p->rank[r].pipe)
        r++;
    return r;
}

int avt_plan_holds(const Plan *p, int rank, int step)
{
    return rank >= avt_plan_first(p, step) && rank <= avt_plan_last(p, step);
}

int avt_plan_in_flight(const Plan *p)
{
    return p->kind == PLAN_SEQUENTIAL ? 1 : p->steps;
}

int avt_plan_versions(const Plan *p)
{
    return p->kind == PLAN_SEQUENTIAL ? 1 : 2;
}

const char *avt_plan_text(const Plan *p, char *buf, size_t size)
{
    size_t n = (size_t)snprintf(buf, size, "%s on ", kind_names[p->kind]);

    for (int r = 0; r < p->nb_ranks && n < size; r++)
        n += (size_t)snprintf(buf + n, size - n, "%s%s%s", r ? "|" : "", p->rank[r].device,
                              p->rank[r].vae ? (p->rank[r].pipe < 0 ? " (VAE)" : "+VAE") : "");
    return buf;
}
