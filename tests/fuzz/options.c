/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzzer entry: options. One a line: plan, devices, vae_device, opts, lora, numbers. No model is there to be loaded. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A plan that was made must hang together: every layer once in each pipe, a VAE, names that end. */
static void check_plan(const Plan *p, int nb_layers)
{
    char text[80];
    int layers = 0, pipes = 0;

    if (p->nb_ranks < 1 || p->nb_ranks > PLAN_MAX_RANKS || p->vae_rank < 0 || p->vae_rank >= p->nb_ranks ||
        !p->rank[p->vae_rank].vae)
        abort();
    for (int r = 0; r < p->nb_ranks; r++) {
        if (!memchr(p->rank[r].device, 0, sizeof(p->rank[r].device)) || p->rank[r].threads < 1)
            abort();
        if (p->rank[r].pipe < 0)
            continue;
        layers += p->rank[r].l1 - p->rank[r].l0;
        pipes += p->rank[r].prev < 0;
    }
    if (layers != nb_layers * pipes || strlen(avt_plan_text(p, text, sizeof(text))) >= sizeof(text))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *line[6] = { 0 }, *at = text;
    AvatarOptions o;
    Plan p;

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    for (int i = 0; i < 6 && at; i++) {
        line[i] = at;
        at = strchr(at, '\n');
        if (at)
            *at++ = 0;
    }
    avatar_options_default(&o);
    o.plan = line[0];
    o.devices = line[1];
    o.vae_device = line[2];
    o.opts = line[3];
    o.lora = line[4];
    o.model = "/nonexistent";
    if (line[5])
        sscanf(line[5], "%d %d %d %d", &o.steps, &o.cpu_threads, &o.cpu_level, &o.compat);
    avatar_options_check(&o);
    if (avt_plan_make(&p, &(PlanOptions){ .plan = o.plan, .devices = o.devices, .vae_device = o.vae_device, .steps = o.steps,
                                          .nb_layers = 5, .cpu_threads = o.cpu_threads }, NULL) >= 0)
        check_plan(&p, 5);
    free(text);
    return 0;
}
