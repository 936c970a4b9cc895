/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading a model: sizes from the files' headers, the plan, every rank's weights, the front's.
 *
 * Everything that can be refused is refused first (names and shapes against the headers, memory against the plan); then bytes move.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/thread.h"
#include "engine/choose.h"
#include "engine/orders.h"
#include "engine/room.h"
#include "engine/threads.h"
#include "engine/tuning.h"
#include "files/loading.h"

BackendOptions avt_core_backend(const Core *c, int threads, const Log *log)
{
    return (BackendOptions){ .threads = threads, .level = c->level < 0 ? CPU_AUTO : (CpuLevel)c->level, .act = c->act, .product = c->product, .log = log };
}

int avt_core_threads(const Core *c)
{
    return c->cpu_threads > 0 ? c->cpu_threads : avt_nb_cores();
}

void avt_core_free(Core *c)
{
    if (!c)
        return;
    avt_workers_free(c);
    for (int r = 0; r < c->plan.nb_ranks; r++)
        avt_rank_weights_close(&c->rank[r]);
    avt_front_weights_close(&c->front);
    avt_ckpt_close(&c->t5);
    avt_lora_close(&c->lora);
    avt_ckpt_close(&c->dit);
    avt_tokenizer_close(&c->tokenizer);
    avt_modeldir_close(&c->dir);
    avt_tuned_close(&c->tuned);
    avt_kept_close(&c->kept);
    avt_free(c->cache);
    avt_free(c->key);
    avt_free(c);
}

static int read_sizes(Core *c, const AvatarOptions *opt, const Ckpt *dit, const Ckpt *vae, const Log *log)
{
    const AvatarLook look = { .out_width = opt->width, .out_height = opt->height };
    int ret = avt_dit_config(&c->sizes.dit, c->dir.config, dit, log);

    if (ret >= 0)
        ret = avt_wav2vec2_config(&c->sizes.wav2vec2, c->dir.wav2vec2_config, c->dir.wav2vec2_preprocessor, log);
    if (ret >= 0)
        ret = avt_umt5_config(&c->sizes.umt5, c->t5, log);
    if (ret < 0)
        return ret;
    c->sizes.vae_width = ret = avt_vae_width(vae, log);
    if (ret < 0)
        return ret;
    c->sizes.dtype = avt_dit_storage(dit);
    if (avt_settle_size(&c->sizes.width, &c->sizes.height, &c->dir, 0, &look, NULL) < 0)     // a session will say what is wrong with it
        avt_settle_size(&c->sizes.width, &c->sizes.height, &c->dir, 0, &(AvatarLook){ 0 }, NULL);
    if (c->sizes.wav2vec2.dim != c->sizes.dit.audio_dim || c->sizes.wav2vec2.nb_layers + 1 != c->sizes.dit.nb_audio_layers)
        return avt_fail(log, AVT_INVALID, "%s: wav2vec2 gives %d states of width %d, the transformer wants %d of width %d", c->dir.dir,
                        c->sizes.wav2vec2.nb_layers + 1, c->sizes.wav2vec2.dim, c->sizes.dit.nb_audio_layers, c->sizes.dit.audio_dim);
    if (c->sizes.umt5.dim != c->sizes.dit.text_dim)
        return avt_fail(log, AVT_INVALID, "%s: the text encoder is %d wide, the transformer wants %d", c->dir.dir, c->sizes.umt5.dim,
                        c->sizes.dit.text_dim);
    return 0;
}

typedef struct Placed {                 // bytes of the weights of each place, found on `dry`
    size_t rank[PLAN_MAX_RANKS], front; // in its arena
    size_t all;                         // that are read in
    Room room;                          // all of them by device
} Placed;

static BackendOptions dry_for(const Core *c, const char *device, const Log *log)
{
    BackendOptions opt = avt_core_backend(c, 1, log);

    opt.plan_for = device;
    return opt;
}

/* Weights, and what is there besides while they are read. */
static void count_bytes(Core *c, Placed *p, const char *device, size_t bytes, size_t besides)
{
    c->weight_bytes += (int64_t)bytes;
    avt_room_add(&p->room, device, bytes + besides);
}

/* The front's, and of umT5 what stays: in the host's memory, whatever the device. */
static int plan_front(Core *c, Placed *p, const Ckpt *wav2vec2, const Log *log)
{
    const BackendOptions opt = dry_for(c, c->plan.front_device, log);
    FrontWeights front = { 0 };
    int ret;

    c->keep = avt_front_keep(avt_host_memory_left() - avt_room_of(&p->room, "cpu"));
    ret = avt_front_weights_open(&front, &c->sizes, &(FrontFiles){ .wav2vec2 = wav2vec2, .t5 = c->t5 }, c->keep, &opt, "dry", ARENA_UNLIMITED);
    if (ret < 0)
        return ret;
    p->front = avt_arena_peak(front.arena);
    p->all += p->front;
    count_bytes(c, p, c->plan.front_device, p->front, 0);
    count_bytes(c, p, "cpu", avt_shelf_planned(front.t5.shelf), 0);
    avt_front_weights_close(&front);
    return 0;
}

/* A rank's, and what merging a LoRA takes of its device meanwhile. */
static int plan_rank(Core *c, Placed *p, int r, const ModelFiles *files, const Log *log)
{
    const char *device = c->plan.rank[r].device;
    const BackendOptions opt = dry_for(c, device, log);
    ModelFiles headers = *files;
    size_t merging = 0;
    PlanMemory m;
    RankWeights w;
    int ret;

    headers.lora = NULL;
    ret = avt_rank_weights_open(&w, &c->plan, r, &c->sizes, &headers, &opt, "dry", ARENA_UNLIMITED, log);
    if (ret < 0)
        return ret;
    if (files->lora && c->plan.rank[r].pipe >= 0)
        ret = avt_lora_bytes(files->lora, w.be, &merging);
    avt_rank_weights_count(&m, &w);
    count_bytes(c, p, device, m.weights, merging);
    count_bytes(c, p, "cpu", m.host, 0);
    p->all += m.weights + m.coming;                                 // what comes each time is read once, and found sound
    p->rank[r] = avt_arena_peak(w.arena);                           // a shelf has an arena of its own
    avt_rank_weights_close(&w);
    return ret;
}

/* Bytes of the weights of every rank and of the front, against what the devices have left. */
static int plan_weights(Core *c, Placed *p, const ModelFiles *files, const Ckpt *wav2vec2, const Log *log)
{
    char who[256], remedy[256];
    int ret = 0;

    for (int r = 0; r < c->plan.nb_ranks && ret >= 0; r++)
        if (c->plan.rank[r].process == c->process)
            ret = plan_rank(c, p, r, files, log);
    if (ret >= 0 && !c->process)
        ret = plan_front(c, p, wav2vec2, log);
    if (ret < 0)
        return ret;
    snprintf(who, sizeof(who), "%s: the weights take", c->dir.dir);
    ret = avt_room_check(&p->room, who, "", NULL);
    if (ret >= 0)
        return ret;
    if (!avt_choose_instead(remedy, sizeof(remedy), c, c->sizes.width, c->sizes.height, log))
        snprintf(remedy, sizeof(remedy), "use a smaller model, fewer ranks, or a machine with more");
    return avt_room_check(&p->room, who, remedy, log);
}

static int load_ranks(Core *c, const Placed *p, const ModelFiles *files, const Log *log)
{
    int ret = 0;

    for (int r = 0; r < c->plan.nb_ranks && ret >= 0; r++) {
        const BackendOptions opt = avt_core_backend(c, c->plan.rank[r].threads, log);

        if (c->plan.rank[r].process != c->process)
            continue;
        ret = avt_rank_weights_open(&c->rank[r], &c->plan, r, &c->sizes, files, &opt, c->plan.rank[r].device, p->rank[r], log);
        if (ret < 0)
            break;
        c->rank[r].be->log = NULL;                                  // the opener's log may go before the weights do
        c->rank[r].dit.rope_half = c->compat == AVATAR_COMPAT_UPSTREAM;
    }
    if (ret >= 0 && files->lora && !avt_plan_is_spread(&c->plan))   // else many of its pairs are for layers that are elsewhere
        ret = avt_lora_finish(files->lora, log);
    return ret;
}

/* Of process 0, where sound and prompt come in. */
static int load_front(Core *c, const Placed *p, const Ckpt *wav2vec2, const ModelFiles *files, const Log *log)
{
    const BackendOptions opt = avt_core_backend(c, c->plan.front_threads, log);
    const FrontFiles from = { wav2vec2, c->t5, files->cancel, files->loading };
    int ret = avt_front_weights_open(&c->front, &c->sizes, &from, c->keep, &opt, c->plan.front_device, p->front);

    if (ret < 0)
        return ret;
    c->front.be->log = NULL;                                        // as for the ranks
    return avt_ckpt_unchanged(wav2vec2, log);
}

/* The weights of all places: planned first, then put. */
static int load_places(Core *c, const ModelFiles *files, const Log *log)
{
    Placed p = { .front = 0 };
    ModelFiles from = *files;
    Loading loading;
    Ckpt *wav2vec2 = NULL;
    int ret = avt_ckpt_open(&wav2vec2, c->dir.wav2vec2, log);

    if (ret >= 0)
        ret = plan_weights(c, &p, files, wav2vec2, log);
    avt_loading_begin(&loading, (double)p.all, avt_now_ns, log);
    from.loading = &loading;
    if (ret >= 0)
        ret = load_ranks(c, &p, &from, log);
    if (ret >= 0 && !c->process)
        ret = load_front(c, &p, wav2vec2, &from, log);
    avt_ckpt_close(&wav2vec2);
    return ret;
}

static int load_tokenizer(Core *c, const Log *log)
{
    int ret = avt_tokenizer_open(&c->tokenizer, c->dir.spiece, log);

    if (ret >= 0 && avt_tokenizer_nb_pieces(c->tokenizer) > c->sizes.umt5.vocab)
        ret = avt_fail(log, AVT_INVALID, "%s: %d pieces, but the text encoder's embedding has %lld rows", c->dir.spiece,
                       avt_tokenizer_nb_pieces(c->tokenizer), (long long)c->sizes.umt5.vocab);
    return ret;
}

typedef struct Files {
    Ckpt *dit, *vae;
    Lora *lora;
    const char *lora_path;
} Files;

static void close_files(Files *f)
{
    avt_lora_close(&f->lora);
    avt_ckpt_close(&f->dit);
    avt_ckpt_close(&f->vae);
}

/* What layers are read from each time lives as long as they do. */
static void keep_files(Core *c, Files *f)
{
    c->dit = f->dit;
    c->lora = f->lora;
    f->dit = NULL;
    f->lora = NULL;
}

static int load_files(Core *c, const AvatarOptions *opt, const Expert *x, Files *f, const Log *log)
{
    int ret = avt_ckpt_open(&f->dit, c->dir.dit, log);

    if (ret >= 0)
        ret = avt_ckpt_open(&f->vae, c->dir.vae, log);
    if (ret >= 0)
        ret = avt_ckpt_open(&c->t5, c->dir.t5, log);
    if (ret >= 0)
        ret = read_sizes(c, opt, f->dit, f->vae, log);
    if (ret >= 0)
        ret = avt_options_lora(&f->lora_path, &c->dir, &c->sizes.dit, opt->lora, log);
    if (ret >= 0 && f->lora_path)
        ret = avt_lora_open(&f->lora, f->lora_path, x->lora_alpha > 0 ? x->lora_alpha : c->dir.lora_alpha, log);
    return ret;
}

/* More than a few threads a core only wait for one another; threads beyond a quota of time stand still together when it is used up. */
static int sane_threads(int asked, const Log *log)
{
    const int nb = avt_nb_cores(), most = 4 * nb;

    if (asked > most)
        avt_log(log, LOG_WARNING, "cpu_threads=%d: %d are used, as this process has %d cores", asked, most, nb);
    else if (!asked && nb < avt_nb_mask())
        avt_log(log, LOG_INFO, "%d of %d cores are used: the control group's quota of processor time is worth no more", nb, avt_nb_mask());
    return asked > most ? most : asked;
}

/* fp8 is held to frames' goals only: a film of it is nobody's surprise. The figure is that of doc/precision.md. */
static void say_codes(const Core *c, const Log *log)
{
    const char *name = avt_precision_name(c->act, c->product);

    avt_log(log, LOG_INFO, "precision %s, as asked for: of the layers' products; %s between operations%s", name, avt_dtype_name(c->act),
            c->product == DT_F8_E4M3 ? "; slower than that on a CPU, which has nothing for it" : "");
    if (c->product == DT_F8_E4M3)
        avt_log(log, LOG_WARNING, "precision fp8: lips may follow the voice less closely than in the other precisions (by 0.010 of r on a drawn face, where "
                "0.005 is the goal); int8 takes as much memory and holds the goal, avatar bench --damage PICTURE measures it");
}

/* The precision asked for, or what all devices of the plan run fastest. A line says which, and why. */
static int choose_precision(Core *c, const Plan *p, const char *asked, const Log *log)
{
    const char *slow;
    DType best = avt_plan_act(p, c->level < 0 ? CPU_AUTO : (CpuLevel)c->level, &slow);
    BackendOptions be;
    int said;

    for (int r = 0; r < p->nb_ranks && c->world && !slow; r++)
        if (!avt_world_card(c->world, p->rank[r].process)->bf16 && !strcmp(p->rank[r].device, "cpu"))
            slow = "a worker's cpu", best = DT_F32;
    be.act = best;
    said = avt_options_precision(&be, asked, log);
    if (said < 0)
        return said;
    c->act = be.act;
    c->product = be.product;
    if (avt_is_code(c->product))
        say_codes(c, log);
    else if (said && c->act == DT_BF16 && slow)
        avt_log(log, LOG_INFO, "precision bf16, as asked for: slower than f32 on %s, which has nothing for it", slow);
    else if (said)
        avt_log(log, LOG_INFO, "precision %s, as asked for", avt_dtype_name(c->act));
    else if (slow)
        avt_log(log, LOG_INFO, "precision f32, as %s has nothing that runs bf16 faster", slow);
    else
        avt_log(log, LOG_INFO, "precision bf16, which %s runs faster than f32", p->rank[0].device);
    return 0;
}

/* Bytes that a plan may take of each of its devices; 0: not known, or the host's, which all ranks there share however they are split. */
static int find_room(double *room, const Plan *p, const BackendOptions *opt)
{
    int ret = 0;

    for (int r = 0; r < p->nb_ranks && ret >= 0; r++) {
        const char *device = p->rank[r].device;
        Backend *be = NULL;

        room[r] = 0;
        if (p->rank[r].process || avt_device_kind(device, strlen(device)) == DEVICE_HOST)
            continue;                                               // a worker refuses what it has no memory for
        ret = avt_backend_open(&be, device, opt);
        if (ret >= 0 && be->cls->memory_left)
            room[r] = fmax(1, (double)(be->cls->memory_left(be) - ROOM_MARGIN));
        avt_backend_close(&be);
    }
    return ret;
}

/* The plan, and the precision, which its layers are weighed in. */
static int make_plan(Core *c, const AvatarOptions *opt, int steps, const Log *log)
{
    double room[PLAN_MAX_RANKS];
    PlanOptions o = { .plan = opt->plan, .devices = opt->devices, .vae_device = opt->vae_device, .vae_split = opt->vae_split,
                      .front_device = opt->front_device, .offload = opt->offload, .kv = opt->kv, .resident = opt->resident, .steps = steps,
                      .nb_layers = c->sizes.dit.nb_layers, .nb_heads = c->sizes.dit.nb_heads, .cpu_threads = c->cpu_threads };
    BackendOptions dry = avt_core_backend(c, 1, log);
    PlanProcess process[WORLD_MAX];
    char list[PLAN_MAX_RANKS * 16];
    Plan p;
    int ret = 0;

    if (c->world) {
        avt_workers_processes(process, c->world);
        o.process = process;
        o.nb_processes = avt_world_nb(c->world);
    }
    if (!o.devices || !strcmp(o.devices, "auto")) {
        if (c->world)
            avt_workers_devices(list, sizeof(list), c->world, &o, log);
        else
            ret = avt_room_devices(list, sizeof(list), &o, &c->sizes, &dry);
        o.devices = list;
    }
    if (ret >= 0)
        ret = avt_plan_make(&p, &o, log);
    if (ret >= 0)
        ret = choose_precision(c, &p, opt->precision, log);
    dry = avt_core_backend(c, 1, log);
    if (ret >= 0)
        ret = find_room(room, &p, &dry);
    o.room = room;
    o.host = (double)avt_host_memory_left();
    return ret < 0 ? ret : avt_choose_plan(&c->plan, &o, &c->sizes, &dry);
}

/* In both types: what encodes the picture is f32 whatever the precision. */
static int warm(const Core *c, const Log *log)
{
    BackendOptions opt = avt_core_backend(c, 1, log);
    const char *device = c->plan.front_device;
    int ret;

    for (int r = 0; r < c->plan.nb_ranks && c->process; r++)
        device = c->plan.rank[r].process == c->process ? c->plan.rank[r].device : device;
    ret = avt_threads_warm(device, &opt);
    opt.act = DT_F32;
    return ret < 0 || c->act == DT_F32 ? ret : avt_threads_warm(device, &opt);
}

/* A worker's plan is process 0's, and so must be its files. The others let their workers load while they do. */
static int agree(Core *c, const AvatarOptions *opt, const Expert *x, const Given *given, const Files *f, int steps, const Log *log)
{
    uint64_t model = 0;
    const int ret = given || c->world ? avt_modeldir_print(&model, &c->dir, f->lora_path, x->lora_alpha, log) : 0;

    if (ret < 0)
        return ret;
    if (!given)
        return avt_workers_load(c, model, steps);
    if (model != given->model)
        return avt_fail(log, AVT_INVALID, "%s is another model than process 0's, or has another LoRA; give all processes the same files with "
                        "--model", opt->model ? opt->model : c->dir.dir);
    return 0;
}

static int choose_plan(Core *c, const AvatarOptions *opt, const Given *given, int steps, const Log *log)
{
    if (!given)
        return make_plan(c, opt, steps, log);
    c->plan = *given->plan;
    c->act = given->act;
    c->product = given->product;
    return 0;
}

static int load_all(Core *c, const AvatarOptions *opt, const Files *f, const Log *log)
{
    int ret = c->process ? 0 : load_tokenizer(c, log);

    if (ret >= 0)
        ret = load_places(c, &(ModelFiles){ .dit = f->dit, .vae = f->vae, .lora = f->lora, .cancel = opt->cancel }, log);
    if (ret >= 0)
        ret = warm(c, log);
    if (ret >= 0)
        ret = avt_ckpt_unchanged(f->dit, log);
    return ret < 0 ? ret : avt_ckpt_unchanged(f->vae, log);
}

/* Where a rank of ours is on a device that has several ways to multiply. */
static int open_tuning(Core *c, const AvatarOptions *opt, const Log *log)
{
    int wanted = 0;

    for (int r = 0; r < c->plan.nb_ranks; r++) {
        const PlanRank *p = &c->plan.rank[r];

        wanted |= p->process == c->process && avt_device_kind(p->device, strlen(p->device)) == DEVICE_CUDA;
    }
    if (!wanted || !opt->tune)
        return 0;
    c->tuned = avt_tuned_open();
    c->cache = avt_strdup(MEM_ENGINE, opt->cache);
    if (!c->tuned || (opt->cache && !c->cache))
        return AVT_ERR(ENOMEM);
    if (!c->cache)
        return 0;
    avt_tuning_read(c->tuned, c->cache, log);
    c->tuned->shelf = &c->kept.shelf;
    return avt_kept_open(&c->kept, c->cache);
}

int avt_core_load(Core *c, const AvatarOptions *opt, const Expert *x, const Given *given, const Log *log)
{
    const int steps = opt->steps > 0 ? opt->steps : c->dir.steps > 0 ? c->dir.steps : 4;
    Files f = { .dit = NULL };
    char text[256];
    int ret;

    c->process = given ? given->process : 0;
    c->world = given ? given->world : NULL;
    c->cpu_threads = sane_threads(opt->cpu_threads, log);
    ret = avt_thread_team(avt_core_threads(c), log);
    if (ret >= 0)
        ret = load_files(c, opt, x, &f, log);
    if (ret >= 0 && !given && opt->launched)
        ret = avt_workers_world(&c->world, log);
    if (ret >= 0)
        ret = avt_schedule(&c->schedule, steps, 3);
    if (ret >= 0)
        ret = choose_plan(c, opt, given, steps, log);
    if (ret >= 0)
        ret = agree(c, opt, x, given, &f, steps, log);
    if (ret >= 0)
        ret = open_tuning(c, opt, log);
    if (ret >= 0)
        ret = load_all(c, opt, &f, log);
    if (!given)
        ret = avt_workers_loaded(c, ret, opt->cancel, log);
    if (ret >= 0)
        avt_log(log, LOG_INFO, "%s: %s, %d steps, weights %.1f MB%s", c->dir.name ? c->dir.name : c->dir.dir,
                avt_plan_text(&c->plan, text, sizeof(text)), steps, (double)c->weight_bytes / 1e6, f.lora ? ", with LoRA" : "");
    if (c->plan.offload)
        keep_files(c, &f);
    close_files(&f);
    return ret;
}
