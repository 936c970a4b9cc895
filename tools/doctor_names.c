/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Has a model's folder every tensor that the networks want, by name and shape? They are bound as for a film, on `dry`, which reads headers and no
 * numbers: what loading would refuse first, in a second and whatever the size.
 */
#include "doctor.h"
#include "engine/engine.h"
#include "plan.h"

/* What is missing is said before what is left over. */
static void keep_first(void *opaque, int level, const char *text)
{
    if (!((Reason *)opaque)->text[0])
        avt_keep_reason(opaque, level, text);
}

/* All of the transformer and the VAE are one rank's. */
static int bind_rank(const PlanSizes *sizes, const Ckpt *dit, const Ckpt *vae, const BackendOptions *be)
{
    const PlanOptions o = { .plan = "sequential", .devices = "cpu", .steps = 4, .nb_layers = sizes->dit.nb_layers, .nb_heads = sizes->dit.nb_heads };
    const ModelFiles files = { .dit = dit, .vae = vae };
    RankWeights w = { 0 };
    Plan plan;
    int ret = avt_plan_make(&plan, &o, be->log);

    if (ret >= 0)
        ret = avt_rank_weights_open(&w, &plan, 0, sizes, &files, be, "dry", ARENA_UNLIMITED, be->log);
    if (ret >= 0)
        avt_rank_weights_close(&w);
    return ret;
}

static int bind_front(const PlanSizes *sizes, const Ckpt *wav2vec2, const Ckpt *t5, const BackendOptions *be)
{
    const FrontFiles files = { .wav2vec2 = wav2vec2, .t5 = t5 };
    FrontWeights w = { 0 };
    const int ret = avt_front_weights_open(&w, sizes, &files, 0, be, "dry", ARENA_UNLIMITED);

    if (ret >= 0)
        avt_front_weights_close(&w);
    return ret;
}

static int bind_all(const ModelDir *m, const PlanSizes *sizes, const BackendOptions *be)
{
    const char *const path[] = { m->dit, m->vae, m->wav2vec2, m->t5 };
    Ckpt *c[] = { NULL, NULL, NULL, NULL };
    int ret = 0;

    for (int i = 0; i < 4 && ret >= 0; i++)
        ret = avt_ckpt_open(&c[i], path[i], be->log);
    if (ret >= 0)
        ret = bind_rank(sizes, c[0], c[1], be);
    if (ret >= 0)
        ret = bind_front(sizes, c[2], c[3], be);
    for (int i = 0; i < 4; i++)
        avt_ckpt_close(&c[i]);
    return ret;
}

void doctor_names(Findings *f, const ToolOptions *o, const ModelDir *m)
{
    Reason why = { "" };
    const Log log = { keep_first, &why, LOG_ERROR };
    const BackendOptions be = { .threads = 1, .level = CPU_PLAIN, .act = DT_F32, .plan_for = "cpu", .log = &log };
    PlanSizes sizes;

    if (!m->dit || !m->vae || !m->wav2vec2 || !m->t5)
        return;
    if (plan_sizes(&sizes, &o->engine, &log) >= 0 && bind_all(m, &sizes, &be) >= 0) {
        doctor_words(f, "files", "names and shapes", GOOD, "every tensor that the networks want is there");
        return;
    }
    doctor_words(f, "files", "names and shapes", BAD, "%s", why.text);
    doctor_remedy(f, "a file of another model or of another make: get it from where the others are from");
}
