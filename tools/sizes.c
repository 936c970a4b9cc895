/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a plan is made from: a model's sizes, and what its ranks come to on this machine's memory. See plan.h. */
#include <string.h>

#include "engine/engine.h"
#include "engine/sound.h"
#include "plan.h"

static int from_folder(PlanSizes *s, const AvatarOptions *opt, const Log *log)
{
    ModelDir m;
    Ckpt *dit = NULL, *vae = NULL, *t5 = NULL;
    int ret = avt_options_model(&m, opt, log);

    memset(s, 0, sizeof(*s));
    if (ret >= 0)
        ret = avt_ckpt_open(&dit, m.dit, log);
    if (ret >= 0)
        ret = avt_ckpt_open(&vae, m.vae, log);
    if (ret >= 0)
        ret = avt_ckpt_open(&t5, m.t5, log);
    if (ret >= 0)
        ret = avt_dit_config(&s->dit, m.config, dit, log);
    if (ret >= 0)
        ret = avt_wav2vec2_config(&s->wav2vec2, m.wav2vec2_config, m.wav2vec2_preprocessor, log);
    if (ret >= 0)
        ret = avt_umt5_config(&s->umt5, t5, log);
    if (ret >= 0)
        ret = s->vae_width = avt_vae_width(vae, log);
    s->dtype = ret >= 0 ? avt_dit_storage(dit) : DT_F32;
    if (ret >= 0)
        avt_settle_size(&s->width, &s->height, &m, 0, &(AvatarLook){ 0 }, NULL);
    s->steps = m.steps;
    avt_ckpt_close(&dit);
    avt_ckpt_close(&vae);
    avt_ckpt_close(&t5);
    avt_modeldir_close(&m);
    return ret < 0 ? ret : 0;
}

int plan_sizes(PlanSizes *s, const AvatarOptions *opt, const Log *log)
{
    if (!opt->model || strcmp(opt->model, "published"))
        return from_folder(s, opt, log);
    avt_plan_sizes_published(s);
    return 0;
}

int plan_steps(const AvatarOptions *opt, const PlanSizes *s)
{
    return opt->steps > 0 ? opt->steps : s->steps > 0 ? s->steps : 4;
}

int plan_size(AvatarLook *look, const PlanSizes *s, const Log *log)
{
    return avt_settle_size(&look->out_width, &look->out_height, &(ModelDir){ .width = s->width, .height = s->height }, 0, look, log);
}

/* All ranks and the front, where their memory is the host's. */
static int64_t sum_host(const Plan *plan, const PlanSizes *s, const AvatarLook *look, const BackendOptions *be)
{
    const FrontSetup front = { .sizes = s, .samples = avt_sound_piece(0, 0), .tokens = s->dit.text_len,
                               .keep = avt_front_keep(avt_host_memory_left()) };
    RankSetup set = { .plan = plan, .format = PIX_YUV420P, .text_len = s->dit.text_len,
                      .shape = avt_dit_shape(look->out_height / 8, look->out_width / 8) };
    int ret = avt_schedule(&set.schedule, plan->steps, 3);
    int64_t sum = 0;
    OpStat stat[OP_NB];
    PlanMemory m;

    for (int r = 0; r < plan->nb_ranks && ret >= 0; r++) {
        ret = avt_rank_measure(&m, &set, r, s, be, NULL, stat);
        if (avt_device_kind(plan->rank[r].device, strlen(plan->rank[r].device)) == DEVICE_HOST)
            sum += (int64_t)avt_plan_sum(&m);
    }
    if (ret >= 0)
        ret = avt_front_measure(&m, &front, plan->front_device, be, stat);
    if (avt_device_kind(plan->front_device, strlen(plan->front_device)) == DEVICE_HOST)
        sum += (int64_t)avt_plan_sum(&m);
    return ret < 0 ? ret : sum;
}

int64_t plan_host_bytes(const AvatarOptions *opt, const AvatarLook *look, const Log *log)
{
    BackendOptions be = { .level = opt->cpu_level < 0 ? CPU_AUTO : (CpuLevel)opt->cpu_level, .threads = opt->cpu_threads };
    AvatarLook sized = *look;
    PlanSizes sizes;
    Plan plan;
    PlanOptions p = { .plan = opt->plan, .devices = opt->devices, .vae_device = opt->vae_device,
                      .vae_split = opt->vae_split, .front_device = opt->front_device, .offload = opt->offload, .kv = opt->kv, .resident = opt->resident,
                      .cpu_threads = opt->cpu_threads };
    int ret = avt_options_numbers(opt, log);

    if (ret >= 0)
        ret = plan_sizes(&sizes, opt, log);
    if (ret >= 0)
        ret = plan_size(&sized, &sizes, log);
    if (ret < 0)
        return ret;
    p.steps = plan_steps(opt, &sizes);
    p.nb_layers = sizes.dit.nb_layers;
    p.nb_heads = sizes.dit.nb_heads;
    ret = avt_plan_make(&plan, &p, log);
    if (ret >= 0)
        be.act = avt_plan_act(&plan, be.level, NULL);
    if (ret >= 0)
        ret = avt_options_precision(&be, opt->precision, log);
    if (ret >= 0)
        ret = avt_rank_plan(&plan, &p, &sizes, &be);
    return ret < 0 ? ret : sum_host(&plan, &sizes, &sized, &be);
}
