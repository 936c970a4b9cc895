/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar plan: what a model needs at a size under a plan, found on `dry`: memory of each rank and network, work of each stage.
 * Needs no weights: sizes come from the model folder, or are the published ones.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "calibrate.h"
#include "comm/world.h"
#include "engine/choose.h"
#include "engine/orders.h"
#include "engine/room.h"
#include "engine/sound.h"
#include "options.h"
#include "plan.h"
#include "speak.h"

#define GB 1e9
#define AUDIO_SECONDS 10

static const Log tool_log = { .write = tool_log_line, .level = LOG_WARNING };

static double sum_flops(const OpStat *stat)
{
    double f = 0;

    for (int i = 0; i < OP_NB; i++)
        f += stat[i].flops;
    return f;
}

static void print_head(const char *what)
{
    printf("%-26s %9s %9s %9s %9s %9s %9s %10s\n", what, "weights", "state", "scratch", "workspace", "messages", "sum", "TFLOP");
}

static void print_row(const char *what, const PlanMemory *m, double flops)
{
    printf("%-26s %9.3f %9.3f %9.3f %9.3f %9.3f %9.3f %10.3f\n", what, (double)m->weights / GB, (double)m->state / GB, (double)m->scratch / GB,
           (double)m->workspace / GB, (double)m->messages / GB, (double)avt_plan_sum(m) / GB, flops / 1e12);
}

/* Of the state. */
static const char *const state_part[STATE_NB] = { "layers", "rings", "sinks", "text", "sound", "vae", "latents" };

void plan_json_memory(const char *device, const PlanMemory *m)
{
    printf("{\"device\": \"%s\", \"weights\": %zu, \"state\": %zu, \"scratch\": %zu, \"workspace\": %zu, \"messages\": %zu, \"sum\": %zu, "
           "\"host\": %zu, \"coming\": %zu, \"rings\": %zu, \"moved\": %zu, \"parts\": {", device, m->weights, m->state, m->scratch, m->workspace, m->messages,
           avt_plan_sum(m), m->host, m->coming, m->rings, m->moved);
    for (int i = 0; i < STATE_NB; i++)
        printf("%s\"%s\": %zu", i ? ", " : "", state_part[i], m->part[i]);
    printf("}}");
}

/* Text encoder on a full prompt, speech encoder on some seconds of sound: weights and scratch of one call. */
static int print_front(const PlanSizes *s, const char *device, const BackendOptions *opt)
{
    const FrontSetup text = { .sizes = s, .tokens = s->dit.text_len, .keep = avt_front_keep(avt_host_memory_left()), .log = &tool_log };
    const FrontSetup sound = { .sizes = s, .samples = AUDIO_SECONDS * AVATAR_SAMPLE_RATE, .log = &tool_log };
    OpStat stat[OP_NB];
    PlanMemory m;
    int ret = avt_front_measure(&m, &text, device, opt, stat);

    m.weights = 0;                                                  // those are the speech encoder's
    if (ret >= 0)
        print_row("umT5, full prompt", &m, sum_flops(stat));
    if (ret >= 0)
        ret = avt_front_measure(&m, &sound, device, opt, stat);
    if (ret >= 0)
        print_row("wav2vec2, 10 s", &m, sum_flops(stat));
    return ret;
}

/* The front of an offline session: 60 s of sound, its largest piece, and a full prompt. */
static int print_front_place(const PlanSizes *s, const Plan *plan, const BackendOptions *opt, Room *room, int json)
{
    const FrontSetup set = { .sizes = s, .samples = avt_sound_piece(0, 0), .tokens = s->dit.text_len,
                             .keep = avt_front_keep(avt_host_memory_left()), .log = &tool_log };
    OpStat stat[OP_NB];
    char name[64];
    PlanMemory m;
    const int ret = avt_front_measure(&m, &set, plan->front_device, opt, stat);

    snprintf(name, sizeof(name), "%s: front", plan->front_device);
    avt_room_add(room, plan->front_device, avt_plan_sum(&m));
    if (ret >= 0 && json) {
        printf("], \"front\": ");
        plan_json_memory(plan->front_device, &m);
    } else if (ret >= 0)
        print_row(name, &m, sum_flops(stat));
    return ret;
}

static int setup(RankSetup *set, const ToolOptions *o, const PlanSizes *sizes, const Plan *plan)
{
    *set = (RankSetup){ .plan = plan, .format = PIX_YUV420P, .text_len = sizes->dit.text_len, .log = &tool_log,
                        .shape = avt_dit_shape(o->look.out_height / 8, o->look.out_width / 8) };
    return avt_schedule(&set->schedule, plan->steps, 3);
}

static int print_ranks(const ToolOptions *o, const PlanSizes *sizes, const Plan *plan, const BackendOptions *opt, Room *room, int json)
{
    RankSetup set;
    int ret = setup(&set, o, sizes, plan);

    for (int r = 0; r < plan->nb_ranks && ret >= 0; r++) {
        const PlanRank *p = &plan->rank[r];
        char buf[PLAN_DEVICE], name[96];
        const char *device = avt_plan_device(plan, r, buf);
        OpStat stat[OP_NB];
        PlanMemory m;

        ret = avt_rank_measure(&m, &set, r, sizes, opt, NULL, stat);
        if (room && !p->process) {                                  // what others have free they know alone
            avt_room_add(room, p->device, avt_plan_sum(&m));
            avt_room_add(room, "cpu", m.host + m.rings);
        }
        if (p->pipe < 0)
            snprintf(name, sizeof(name), "%s: VAE", device);
        else if (p->nb_parts > 1)
            snprintf(name, sizeof(name), "%s: %d/%d of %d-%d%s", device, p->part + 1, p->nb_parts, p->l0, p->l1 - 1, p->vae ? " + VAE" : "");
        else
            snprintf(name, sizeof(name), "%s: layers %d-%d%s", device, p->l0, p->l1 - 1, p->vae ? " + VAE" : "");
        if (ret >= 0 && json) {
            printf(r ? ", " : "");
            plan_json_memory(device, &m);
        } else if (ret >= 0)
            print_row(name, &m, sum_flops(stat));
        if (ret >= 0 && !json && m.coming)
            printf("  layers on their way: %.3f GB each time that an item%s goes through, %s\n", (double)m.coming / GB,
                   plan->batch > 1 ? " of each step" : "", m.host ? "out of as much of the host's memory" : "out of the file");
        if (ret >= 0 && !json && m.rings)
            printf("  rings on their way: %.3f GB for each item, out of %.3f GB of the host's memory\n", (double)m.moved / GB, (double)m.rings / GB);
    }
    return ret;
}

/* The networks one by one: a sequential plan with the VAE on a rank of its own separates them. */
static int print_networks(const ToolOptions *o, const PlanSizes *sizes, int steps, const char *device, const BackendOptions *opt)
{
    Plan plan;
    char own[40], title[64];
    int ret;

    snprintf(title, sizeof(title), "networks alone, one %s", device);
    snprintf(own, sizeof(own), "%s:own", device);
    ret = avt_plan_make(&plan, &(PlanOptions){ .plan = "sequential", .devices = device, .vae_device = own, .steps = steps,
                                               .nb_layers = sizes->dit.nb_layers }, &tool_log);
    if (ret >= 0) {
        print_head(title);
        ret = print_ranks(o, sizes, &plan, opt, NULL, 0);
    }
    return ret < 0 ? ret : print_front(sizes, device, opt);
}

/* ---- operations ---------------------------------------------------------------------------------------------------------- */

/* One block at one step in mid-stream, all layers on one device. */
static int plan_ops(const ToolOptions *o, const PlanSizes *sizes, int steps, const char *device, const BackendOptions *opt)
{
    DryCall *calls = NULL;
    char own[40];
    Cards cards;
    RankSetup set;
    int64_t nb = 0;
    Plan plan;
    int ret;

    if (o->gpus && cards_parse(&cards, o->gpus) < 0)
        return 2;
    snprintf(own, sizeof(own), "%s:own", device);
    ret = avt_plan_make(&plan, &(PlanOptions){ .plan = "sequential", .devices = device, .vae_device = own, .steps = steps,
                                               .nb_layers = sizes->dit.nb_layers, .kv = o->engine.kv, .cpu_threads = o->engine.cpu_threads }, &tool_log);
    if (ret >= 0)
        ret = setup(&set, o, sizes, &plan);
    if (ret >= 0)
        ret = avt_rank_item(&calls, &nb, &set, 0, sizes, opt);
    if (ret >= 0)
        plan_print_ops(calls, nb, o->gpus ? cards.card[0] : NULL, o->json);
    avt_free(calls);
    return ret < 0;
}

/* ---- what fits ------------------------------------------------------------------------------------------------------------ */

/* --memory: room [PLAN_MAX_RANKS] in bytes, one number for all devices or one for each. */
static int read_room(double *room, const char *text)
{
    int nb = 0;

    for (const char *p = text; ; p++) {
        char *end = NULL;
        const double gb = avt_number(p, &end);

        if (end == p || (*end && *end != '|') || !(gb > 0 && gb <= 1e6) || nb == PLAN_MAX_RANKS) {
            fprintf(stderr, "avatar: --memory: '%s' is not allowed; GB (10^9) that each device has: 22.15, or 22.15|80\n", text);
            return -1;
        }
        room[nb++] = gb * GB;
        p = end;
        if (!*p)
            break;
    }
    for (int i = nb; i < PLAN_MAX_RANKS; i++)
        room[i] = nb == 1 ? room[0] : 0;
    return 0;
}

int plan_read_host(double *bytes, const ToolOptions *o)
{
    const double gb = o->host_memory ? cards_size(o->host_memory, strlen(o->host_memory)) : 0;

    *bytes = gb * GB;
    if (o->host_memory && gb <= 0)
        return fprintf(stderr, "avatar: --host-memory: '%s' is not allowed; GB (10^9) that the host has for the plan: 128, 128G\n", o->host_memory), -1;
    return 0;
}

/* 1 when the host has less than what the plan puts there, after a sentence. */
static int lacks_host(const Room *room, double bytes)
{
    const double need = (double)avt_room_of(room, "cpu");

    if (bytes <= 0 || need <= bytes)
        return 0;
    fprintf(stderr, "avatar: --host-memory: the plan would take %.2f GB of the host's memory, of %.2f; take more, a smaller --size, or --offload none\n",
            need / GB, bytes / GB);
    return 1;
}

/* 1 when a device has too little, after a sentence. */
static int print_lack(const ToolOptions *o, const PlanSizes *sizes, const Plan *plan, const double *room, const BackendOptions *opt)
{
    RankSetup set;
    double lack = 0;
    int r = -1, ret = setup(&set, o, sizes, plan);

    if (ret >= 0)
        ret = avt_rank_lack(&lack, &r, &set, room, sizes, opt);
    if (r >= 0)
        fprintf(stderr, "avatar: %dx%d does not fit: %s would take %.2f GB of %.2f; name more devices, or choose a smaller --size or fewer "
                "--steps\n", o->look.out_width, o->look.out_height, plan->rank[r].device, (room[r] + lack) / GB, room[r] / GB);
    return ret < 0 || r >= 0;
}

/* ---- the command --------------------------------------------------------------------------------------------------------- */

static const char plan_usage[] =
    "usage: avatar plan [--model DIR|published] [--size WxH] [--steps N] [--devices LIST] [--plan PLAN] "
                "[--vae-device D] [--front-device D] [--precision P] [--kv K] [--offload O] [--resident GB] [--memory GB] [--host-memory GB] [--json]\n       avatar plan --gpus 4x24 [--link pcie4] [--host-memory 128G] [-o PLAN.svg] ...: the fastest plan that fits\n       avatar plan --ops [--gpus CARD] [--json] ...: operations of one block at "
                "one step\nMemory in GB (10^9) by lifetime, found without weights by a run on the dry backend.\nWith --memory the layers are split so that each device has room, GPUs have what does not fit from the host (--offload auto), and the\ncommand fails when that does not fit either.\nTFLOP: work of one block at each step that is under way at once (sequential: at one), and of its decoding.\n";

/* What the GPUs of this machine have free. */
static void print_left(const Room *room, int json)
{
    int nb = 0;

    if (json)
        printf(", \"free\": {");
    for (int i = 0; i < room->nb; i++) {
        const char *device = room->place[i].device;
        const int64_t left = strcmp(device, "cpu") ? avt_room_left(device) : -1;

        if (left >= 0 && json)
            printf("%s\"%s\": %lld", nb++ ? ", " : "", device, (long long)left);
        else if (left >= 0)
            printf("%s has %.3f GB free: it %s\n", device, (double)left / GB, left < room->place[i].bytes ? "does not fit" : "fits");
    }
    if (json)
        printf("}");
}

/* On CPUs, by what was measured of this one; cards have their times with --gpus. */
static int print_time(const Plan *plan, const PlanSizes *sizes, const BackendOptions *opt, int json)
{
    Found *f = calloc(1, sizeof(*f));
    Calibration c;
    PaperClock clock;
    int ret = f ? 0 : AVT_ERR(ENOMEM), known = calibration_open(&c, opt->level), cpus = !avt_plan_is_spread(plan);

    for (int r = 0; r < plan->nb_ranks; r++)
        cpus &= !strcmp(plan->rank[r].device, "cpu");
    clock = calibration_clock(&c);
    if (f && cpus && known) {
        f->plan = *plan;
        ret = avt_paper_clocked(f, &clock, sizes, opt);
        known = f->paper.period > 0;                                // not one of its ops has a time
    }
    if (ret >= 0 && cpus && known && json)
        printf(", \"fps\": %.4f, \"block\": %.6f, \"exchange\": %.6f, \"bound\": \"%s\", \"calibrated\": %.3f", AVATAR_BLOCK_FRAMES / f->paper.period, f->paper.period,
               f->paper.exchange, f->paper.bound, c.known / fmax(c.known + c.guessed, 1e-12));
    else if (ret >= 0 && cpus && known)
        printf("%.2f fps, from block to block %.0f ms; what bounds it: %s. By the calibration of %s: %.0f %% of the time by calls of just these forms\n",
               AVATAR_BLOCK_FRAMES / f->paper.period, 1e3 * f->paper.period, f->paper.bound, c.device, 100 * c.known / fmax(c.known + c.guessed, 1e-12));
    else if (ret >= 0 && cpus && !json)
        printf("no time: this CPU has no published rates that would tell; avatar bench --calibrate measures it in 3 s\n");
    calibration_close(&c);
    free(f);
    return ret;
}

static int plan_memory(const ToolOptions *o, const PlanSizes *sizes, const Plan *plan, int steps, const char *device, const BackendOptions *opt)
{
    const char *precision = avt_precision_name(opt->act, opt->product), *kv = avt_kv_name(plan, opt->act), *offload = avt_offload_name(plan);
    char text[256];
    Room room = { .nb = 0 };
    double host;
    int ret = plan_read_host(&host, o);

    if (ret < 0)
        return 2;
    avt_plan_text(plan, text, sizeof(text));
    if (o->json)
        printf("{\"plan\": \"%s\", \"precision\": \"%s\", \"kv\": \"%s\", \"offload\": \"%s\", \"width\": %d, \"height\": %d, \"steps\": %d, \"ranks\": [", text, precision,
               kv, offload, o->look.out_width, o->look.out_height, steps);
    else {
        printf("%s, %dx%d, %d steps, %s%s%s%s%s\n", text, o->look.out_width, o->look.out_height, steps, precision, plan->kv == DT_F32 ? "" : ", kv ",
               plan->kv == DT_F32 ? "" : kv, plan->offload ? ", offload " : "", plan->offload ? offload : "");
        print_head("GB");
    }
    ret = print_ranks(o, sizes, plan, opt, &room, o->json);
    if (ret >= 0)
        ret = print_front_place(sizes, plan, opt, &room, o->json);
    if (ret >= 0 && !o->json)
        ret = print_networks(o, sizes, steps, device, opt);
    if (ret >= 0)
        print_left(&room, o->json);
    if (ret >= 0)
        ret = print_time(plan, sizes, opt, o->json);
    if (o->json)
        printf("}\n");
    return ret < 0 || lacks_host(&room, host);
}

/* Processes that mpirun started beside this one, when it did; else as many as somebody plans for on paper. */
static int find_processes(PlanOptions *p, PlanProcess process[WORLD_MAX], World **w, const ToolOptions *o)
{
    *w = NULL;
    p->nb_processes = WORLD_MAX;
    if (o->engine.launched && avt_workers_world(w, &tool_log) < 0)
        return 1;
    if (*w) {
        avt_workers_processes(process, *w);
        p->process = process;
        p->nb_processes = avt_world_nb(*w);
    }
    return 0;
}

/* Devices of all processes, or those that auto means. */
static int find_devices(Planned *q, const ToolOptions *o)
{
    World *world;

    if (find_processes(&q->p, q->process, &world, o))
        return -1;
    if (q->p.devices && strcmp(q->p.devices, "auto"))
        return 0;
    if (world)
        avt_workers_devices(q->list, sizeof(q->list), world, &q->p, &tool_log);
    else if (avt_room_devices(q->list, sizeof(q->list), &q->p, &q->sizes, &q->opt) < 0)
        return -1;
    q->p.devices = q->list;
    return 0;
}

int plan_read(Planned *q, ToolOptions *o)
{
    memset(q, 0, sizeof(*q));
    q->opt = (BackendOptions){ .level = o->engine.cpu_level >= 0 ? (CpuLevel)o->engine.cpu_level : CPU_AUTO, .log = &tool_log };
    if (avt_options_numbers(&o->engine, &tool_log) < 0 || plan_sizes(&q->sizes, &o->engine, &tool_log) < 0)
        return 1;
    if (plan_size(&o->look, &q->sizes, &tool_log) < 0)
        return 2;
    q->sizes.width = o->look.out_width;
    q->sizes.height = o->look.out_height;
    q->p = (PlanOptions){ .plan = o->engine.plan, .vae_split = o->engine.vae_split, .devices = o->engine.devices,
                          .steps = plan_steps(&o->engine, &q->sizes), .vae_device = o->engine.vae_device,
                          .front_device = o->engine.front_device, .offload = o->engine.offload, .kv = o->engine.kv, .resident = o->engine.resident,
                          .nb_layers = q->sizes.dit.nb_layers, .nb_heads = q->sizes.dit.nb_heads, .cpu_threads = o->engine.cpu_threads,
                          .room = o->memory ? q->room : NULL };
    return (o->memory && read_room(q->room, o->memory) < 0) || plan_read_host(&q->p.host, o) < 0 ? 2 : 0;
}

int plan_make(Planned *q, const ToolOptions *o)
{
    if (find_devices(q, o) < 0 || avt_plan_make(&q->plan, &q->p, &tool_log) < 0)
        return 1;
    q->opt.act = avt_plan_act(&q->plan, q->opt.level, NULL);
    if (avt_options_precision(&q->opt, o->engine.precision, &tool_log) < 0)
        return 1;
    return avt_choose_plan(&q->plan, &q->p, &q->sizes, &q->opt) < 0;
}

static int takes(const ToolOptions *o)
{
    if (o->ops)
        return tool_takes(o, "plan --ops", " model ops gpus devices precision kv json" TAKES_FRAMES TAKES_CPU);
    if (o->gpus)
        return tool_takes(o, "plan --gpus", " model gpus link host_memory output json" TAKES_FRAMES TAKES_PLAN);
    return tool_takes(o, "plan", " model devices memory host_memory json" TAKES_FRAMES TAKES_PLAN TAKES_CPU);
}

int cmd_plan(int argc, char **argv)
{
    static Planned q;
    ToolOptions o;
    char first[32];
    int ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional) {
        fputs(plan_usage, o.help ? stdout : stderr);
        return o.help ? 0 : 2;
    }
    if (takes(&o))
        return 2;
    if (!o.engine.model)
        o.engine.model = "published";
    ret = plan_read(&q, &o);
    if (!ret && o.gpus && !o.ops)
        return plan_for_cards(&o, &q.sizes, &tool_log);
    if (!ret)
        ret = plan_make(&q, &o);
    if (ret)
        return ret;
    snprintf(first, sizeof(first), "%s", q.plan.rank[0].device);
    if (o.ops)
        return plan_ops(&o, &q.sizes, q.p.steps, first, &q.opt);
    ret = plan_memory(&o, &q.sizes, &q.plan, q.p.steps, first, &q.opt);
    return ret || !o.memory ? ret : print_lack(&o, &q.sizes, &q.plan, q.room, &q.opt);
}
