/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Engine: check options, make the plan, read weights, place them; and the one list of open engines of this process.
 *
 * Order: everything is checked first (names and shapes against the files' headers, memory against the plan), then loaded.
 * FFmpeg builds a filter twice for each graph and again when a stream's parameters change: the list lets the second one find
 * the first one's weights, for KEEP_MS after the last user went.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "config.h"
#include "engine/engine.h"

#define KEEP_MS 10000

static struct {
    pthread_mutex_t lock;
    Core *first;
    int reaping;                        // a reaper thread is on its way
} engines = { .lock = PTHREAD_MUTEX_INITIALIZER };

unsigned avatar_version(void)
{
    return AVATAR_VERSION_MAJOR << 16 | AVATAR_VERSION_MINOR << 8 | AVATAR_VERSION_MICRO;
}

const char *avatar_error_text(int code)
{
    static const struct {
        int code;
        const char *text;
    } texts[] = {
        { 0, "no error" }, { AVATAR_EAGAIN, "more speech is needed" }, { AVATAR_EOF, "every frame was given" },
        { AVATAR_INVALID, "damaged or unfit data" }, { AVATAR_ERR(EINVAL), "a value that is not allowed" },
        { AVATAR_ERR(ENOMEM), "not enough memory" }, { AVATAR_ERR(ENOENT), "no such file" },
        { AVATAR_ERR(ENOSYS), "not in this build" }, { AVATAR_ERR(ECANCELED), "given up on request" },
        { AVATAR_ERR(EIO), "a device or file failed" }, { AVATAR_ERR(ETIMEDOUT), "a rank did not answer" },
        { AVATAR_ERR(ESTALE), "a model file changed while it was read" }, { AVATAR_ERR(EACCES), "no permission" },
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (texts[i].code == code)
            return texts[i].text;
    return code < 0 ? "unknown error" : "no error";
}

void avatar_options_default(AvatarOptions *opt)
{
    *opt = (AvatarOptions){ .steps = -1, .cpu_level = -1, .log_level = AVATAR_LOG_INFO };
}

void avatar_look_default(AvatarLook *look)
{
    *look = (AvatarLook){ .seed = -1 };
}

/* ---- small helpers ------------------------------------------------------------------------------------------------------ */

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int64_t read_kb(const char *path, const char *key)
{
    FILE *f = fopen(path, "r");
    char line[256];
    int64_t kb = -1;

    while (f && fgets(line, sizeof(line), f))
        if (!strncmp(line, key, strlen(key)))
            kb = strtoll(line + strlen(key), NULL, 10);
    if (f)
        fclose(f);
    return kb;
}

int64_t avt_host_memory_left(void)
{
    const int64_t available = read_kb("/proc/meminfo", "MemAvailable:"), used = read_kb("/proc/self/status", "VmSize:");
    int64_t left = available < 0 ? INT64_MAX : available * 1024;
    struct rlimit lim;

    if (!getrlimit(RLIMIT_AS, &lim) && lim.rlim_cur != RLIM_INFINITY && used >= 0 && (int64_t)lim.rlim_cur - used * 1024 < left)
        left = (int64_t)lim.rlim_cur - used * 1024;
    return left < 0 ? 0 : left;
}

BackendOptions avt_core_backend(const Core *c, int threads, const Log *log)
{
    return (BackendOptions){ .threads = threads, .level = c->level < 0 ? CPU_AUTO : (CpuLevel)c->level, .log = log };
}

static const char *default_model(void)
{
    struct stat st;

    return stat(AVT_DATADIR "/avatar/nano/config.json", &st) ? AVT_SRCDIR "/model/nano" : AVT_DATADIR "/avatar/nano";
}

static const char *model_of(const AvatarOptions *opt)
{
    return opt->model && *opt->model && strcmp(opt->model, "nano") ? opt->model : default_model();
}

/* The expert settings: "key=value:key=value". */
typedef struct Expert {
    double lora_alpha;
} Expert;

static int parse_expert(Expert *x, const char *text, const Log *log)
{
    memset(x, 0, sizeof(*x));
    while (text && *text) {
        const size_t len = strcspn(text, ":"), key = strcspn(text, "=:");
        char *end = NULL;

        if (key == strlen("lora_alpha") && !strncmp(text, "lora_alpha", key) && text[key] == '=') {
            x->lora_alpha = strtod(text + key + 1, &end);
            if (end != text + len || !(x->lora_alpha > 0))
                return avt_fail(log, AVT_ERR(EINVAL), "opts: lora_alpha wants a number above 0, not '%.*s'", (int)(len - key - 1), text + key + 1);
        } else {
            return avt_fail(log, AVT_ERR(EINVAL), "opts: '%.*s' is not known; there is lora_alpha=NUMBER", (int)key, text);
        }
        text += len + (text[len] == ':');
    }
    return 0;
}

static int check_options(const AvatarOptions *opt, Expert *x, const Log *log)
{
    Plan plan;

    if (opt->steps != -1 && (opt->steps < 1 || opt->steps > SAMPLER_MAX_STEPS))
        return avt_fail(log, AVT_ERR(EINVAL), "steps=%d: 1 to %d, or -1 for the model's", opt->steps, SAMPLER_MAX_STEPS);
    if (opt->cpu_threads < 0 || opt->cpu_threads > 1024)
        return avt_fail(log, AVT_ERR(EINVAL), "cpu_threads=%d: 0 (all cores) to 1024", opt->cpu_threads);
    if (opt->cpu_level < -1 || opt->cpu_level >= CPU_AUTO)
        return avt_fail(log, AVT_ERR(EINVAL), "cpu_level=%d: -1 (best), 0 plain C, 1 oneDNN, 2 AVX2, 3 AVX-512", opt->cpu_level);
    if (opt->compat < 0 || opt->compat > AVATAR_COMPAT_UPSTREAM)
        return avt_fail(log, AVT_ERR(EINVAL), "compat=%d: none or upstream", opt->compat);
    if (parse_expert(x, opt->opts, log) < 0)
        return AVT_ERR(EINVAL);
    return avt_plan_make(&plan, opt->plan, opt->devices, opt->vae_device, opt->steps > 0 ? opt->steps : 4, SAMPLER_MAX_STEPS,
                         opt->cpu_threads, log);
}

/* ---- the handle's log --------------------------------------------------------------------------------------------------------- */

static void pass_line(void *opaque, int level, const char *text)
{
    AvatarEngine *e = opaque;

    pthread_mutex_lock(&e->log_lock);
    e->callback(e->callback_opaque, level, text);
    pthread_mutex_unlock(&e->log_lock);
}

static AvatarEngine *handle_new(const AvatarOptions *opt)
{
    AvatarEngine *e = avt_calloc(MEM_ENGINE, 1, sizeof(*e));

    if (!e)
        return NULL;
    e->callback = opt->log;
    e->callback_opaque = opt->log_opaque;
    e->log = (Log){ .write = opt->log ? pass_line : NULL, .opaque = e, .level = opt->log_level };
    pthread_mutex_init(&e->log_lock, NULL);
    return e;
}

static void handle_free(AvatarEngine *e)
{
    pthread_mutex_destroy(&e->log_lock);
    avt_free(e);
}

int avatar_options_check(const AvatarOptions *opt)
{
    AvatarEngine *e = handle_new(opt);
    ModelDir dir = { 0 };
    Expert x;
    int ret;

    if (!e)
        return AVT_ERR(ENOMEM);
    ret = check_options(opt, &x, &e->log);
    if (ret >= 0)
        ret = avt_modeldir_open(&dir, model_of(opt), &e->log);
    avt_modeldir_close(&dir);
    handle_free(e);
    return ret;
}

/* ---- loading --------------------------------------------------------------------------------------------------------------------- */

static void core_free(Core *c)
{
    if (!c)
        return;
    for (int r = 0; r < c->plan.nb_ranks; r++)
        avt_rank_weights_close(&c->rank[r]);
    if (c->has_wav2vec2)
        avt_wav2vec2_close(&c->wav2vec2);
    if (c->front_be)
        avt_arena_close(&c->front_weights);
    avt_backend_close(&c->front_be);
    avt_ckpt_close(&c->t5);
    avt_tokenizer_close(&c->tokenizer);
    avt_modeldir_close(&c->dir);
    avt_free(c->key);
    avt_free(c);
}

/* Which LoRA, if any: the option, then avatar.json, then the rule that the published transformer needs one. */
static int choose_lora(const char **path, const Core *c, const char *option, const Log *log)
{
    const int published = c->sizes.dit.dim == 5120 && c->sizes.dit.nb_layers == 40;

    *path = NULL;
    if (option && !strcmp(option, "none"))
        return 0;
    if (option && *option && strcmp(option, "auto")) {
        *path = option;
        return 0;
    }
    if (c->dir.lora_rule == LORA_NONE)
        return 0;
    *path = c->dir.lora;
    if (!*path && (c->dir.lora_rule == LORA_REQUIRED || published))
        return avt_fail(log, AVT_ERR(ENOENT), "%s: no liveavatar.safetensors in the folder or its lora/: few steps without guidance need the "
                        "Live Avatar LoRA; put it there, name it with lora=PATH, or say lora=none", c->dir.dir);
    return 0;
}

static int read_sizes(Core *c, const Ckpt *dit, const Ckpt *vae, const Log *log)
{
    const CkptTensor *q;
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
    q = avt_ckpt_find(dit, "blocks.0.self_attn.q.weight");
    c->sizes.dtype = q ? q->dtype : DT_F32;
    c->sizes.t5_dtype = DT_BF16;
    if (c->sizes.wav2vec2.dim != c->sizes.dit.audio_dim || c->sizes.wav2vec2.nb_layers + 1 != c->sizes.dit.nb_audio_layers)
        return avt_fail(log, AVT_INVALID, "%s: wav2vec2 gives %d states of width %d, the transformer wants %d of width %d", c->dir.dir,
                        c->sizes.wav2vec2.nb_layers + 1, c->sizes.wav2vec2.dim, c->sizes.dit.nb_audio_layers, c->sizes.dit.audio_dim);
    if (c->sizes.umt5.dim != c->sizes.dit.text_dim)
        return avt_fail(log, AVT_INVALID, "%s: the text encoder is %d wide, the transformer wants %d", c->dir.dir, c->sizes.umt5.dim,
                        c->sizes.dit.text_dim);
    return 0;
}

/* Bytes of every rank's weights, found on `dry`, against what the host has left. */
static int plan_weights(Core *c, size_t bytes[PLAN_MAX_RANKS], const ModelFiles *files, const Log *log)
{
    const int64_t left = avt_host_memory_left();
    ModelFiles headers = *files;
    int64_t sum = 0;

    headers.lora = NULL;
    for (int r = 0; r < c->plan.nb_ranks; r++) {
        BackendOptions opt = avt_core_backend(c, 1, log);
        RankWeights w;
        int ret;

        opt.plan_for = strncmp(c->plan.rank[r].device, "cuda", 4) ? c->plan.rank[r].device : NULL;
        ret = avt_rank_weights_open(&w, &c->plan, r, &c->sizes, &headers, &opt, "dry", ARENA_UNLIMITED, log);
        if (ret < 0)
            return ret;
        bytes[r] = avt_arena_peak(w.arena);
        avt_rank_weights_close(&w);
        sum += strncmp(c->plan.rank[r].device, "cuda", 4) ? (int64_t)bytes[r] : 0;
        c->weight_bytes += (int64_t)bytes[r];
    }
    if (sum > left)
        return avt_fail(log, AVT_ERR(ENOMEM), "%s: the weights take %.2f GB of host memory, %.2f GB are free; use a smaller model or fewer ranks",
                        c->dir.dir, (double)sum / 1e9, (double)left / 1e9);
    return 0;
}

static int load_ranks(Core *c, const ModelFiles *files, const Log *log)
{
    size_t bytes[PLAN_MAX_RANKS];
    int ret = plan_weights(c, bytes, files, log);

    for (int r = 0; r < c->plan.nb_ranks && ret >= 0; r++) {
        const BackendOptions opt = avt_core_backend(c, c->plan.rank[r].threads, log);

        ret = avt_rank_weights_open(&c->rank[r], &c->plan, r, &c->sizes, files, &opt, c->plan.rank[r].device, bytes[r], log);
        if (ret < 0)
            break;
        c->rank[r].be->log = NULL;                                  // the opener's log may go before the weights do
        c->rank[r].dit.rope_half = c->compat == AVATAR_COMPAT_UPSTREAM;
    }
    if (ret >= 0 && files->lora)
        ret = avt_lora_finish(files->lora, log);
    return ret;
}

static int bind_front(Core *c, Backend *be, Arena *arena, const Ckpt *ckpt, Wav2Vec2 *w, const Log *log)
{
    Binder b;
    int ret = avt_binder_open(&b, ckpt, NULL, arena, "wav2vec2", DT_F32, log);

    (void)be;
    if (ret >= 0)
        ret = avt_wav2vec2_open(w, &c->sizes.wav2vec2, &b);
    avt_binder_close(&b);
    return ret;
}

static int load_front(Core *c, const Log *log)
{
    BackendOptions opt = avt_core_backend(c, c->cpu_threads, log), dry = opt;
    Ckpt *ckpt = NULL;
    Backend *be = NULL;
    Arena *arena = NULL;
    size_t bytes = 0;
    int ret = avt_ckpt_open(&ckpt, c->dir.wav2vec2, log);

    dry.plan_for = c->front_device;
    if (ret >= 0 && (ret = avt_backend_open(&be, "dry", &dry)) >= 0 && (ret = avt_arena_open(&arena, be, "weights", ARENA_UNLIMITED)) >= 0) {
        ret = bind_front(c, be, arena, ckpt, &c->wav2vec2, log);
        if (ret >= 0)
            avt_wav2vec2_close(&c->wav2vec2);
        bytes = avt_arena_peak(arena);
    }
    if (arena)
        avt_arena_close(&arena);
    avt_backend_close(&be);
    if (ret >= 0)
        ret = avt_backend_open(&c->front_be, c->front_device, &opt);
    if (ret >= 0)
        ret = avt_arena_open(&c->front_weights, c->front_be, "front weights", bytes);
    if (ret >= 0)
        ret = bind_front(c, c->front_be, c->front_weights, ckpt, &c->wav2vec2, log);
    c->has_wav2vec2 = ret >= 0;
    if (ret >= 0)
        ret = avt_sync(c->front_be);
    if (ret >= 0)
        ret = avt_ckpt_unchanged(ckpt, log);
    if (c->front_be)
        c->front_be->log = NULL;
    c->weight_bytes += (int64_t)bytes;
    avt_ckpt_close(&ckpt);
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

static int load_files(Core *c, const AvatarOptions *opt, const Expert *x, Ckpt **dit, Ckpt **vae, Lora **lora, const Log *log)
{
    const char *lora_path;
    int ret = avt_ckpt_open(dit, c->dir.dit, log);

    if (ret >= 0)
        ret = avt_ckpt_open(vae, c->dir.vae, log);
    if (ret >= 0)
        ret = avt_ckpt_open(&c->t5, c->dir.t5, log);
    if (ret >= 0)
        ret = read_sizes(c, *dit, *vae, log);
    if (ret >= 0)
        ret = choose_lora(&lora_path, c, opt->lora, log);
    if (ret >= 0 && lora_path)
        ret = avt_lora_open(lora, lora_path, x->lora_alpha > 0 ? x->lora_alpha : c->dir.lora_alpha, log);
    return ret;
}

static int core_load(Core *c, const AvatarOptions *opt, const Expert *x, const Log *log)
{
    const int steps = opt->steps > 0 ? opt->steps : c->dir.steps > 0 ? c->dir.steps : 4;
    Ckpt *dit = NULL, *vae = NULL;
    Lora *lora = NULL;
    char text[64];
    int ret = load_files(c, opt, x, &dit, &vae, &lora, log);

    if (ret >= 0)
        ret = avt_schedule(&c->schedule, steps, 3);
    if (ret >= 0)
        ret = avt_plan_make(&c->plan, opt->plan, opt->devices, opt->vae_device, steps, c->sizes.dit.nb_layers, opt->cpu_threads, log);
    if (ret >= 0) {
        const int guard = !strcmp(c->plan.rank[0].device, "guard");

        snprintf(c->front_device, sizeof(c->front_device), guard ? "guard" : "cpu");
        ret = load_tokenizer(c, log);
    }
    if (ret >= 0)
        ret = load_ranks(c, &(ModelFiles){ dit, vae, lora }, log);
    if (ret >= 0)
        ret = load_front(c, log);
    if (ret >= 0)
        ret = avt_ckpt_unchanged(dit, log);
    if (ret >= 0)
        ret = avt_ckpt_unchanged(vae, log);
    if (ret >= 0)
        avt_log(log, LOG_INFO, "%s: %s, %d steps, weights %.1f MB%s", c->dir.name ? c->dir.name : c->dir.dir,
                avt_plan_text(&c->plan, text, sizeof(text)), steps, (double)c->weight_bytes / 1e6, lora ? ", with LoRA" : "");
    avt_lora_close(&lora);
    avt_ckpt_close(&dit);
    avt_ckpt_close(&vae);
    return ret;
}

/* ---- the list ------------------------------------------------------------------------------------------------------------------------ */

static int64_t stamp(const char *path)
{
    struct stat st;

    return path && !stat(path, &st) ? (int64_t)st.st_mtim.tv_sec * 1000000007 + st.st_mtim.tv_nsec + (int64_t)st.st_size * 31 : 0;
}

static char *make_key(const ModelDir *d, const AvatarOptions *o)
{
    const int64_t stamps = stamp(d->dit) ^ stamp(d->vae) * 3 ^ stamp(d->t5) * 5 ^ stamp(d->wav2vec2) * 7 ^ stamp(d->lora) * 11
                           ^ stamp(d->config) * 13 ^ stamp(o->lora) * 17;

    return avt_sprintf(MEM_ENGINE, "%s\n%llx\n%s\n%s\n%s\n%s\n%d %d %d %d\n%s", d->dir, (unsigned long long)stamps, o->lora ? o->lora : "auto",
                       o->devices ? o->devices : "auto", o->plan ? o->plan : "auto", o->vae_device ? o->vae_device : "auto", o->steps,
                       o->cpu_threads, o->cpu_level, o->compat, o->opts ? o->opts : "");
}

/* Take engines without a user out of the list: all of them, or those whose time is over. Lock held. */
static Core *take_idle(int all)
{
    Core *taken = NULL;

    for (Core **p = &engines.first; *p; ) {
        Core *c = *p;

        if (!c->users && (all || now_ms() - c->idle_since_ms >= KEEP_MS)) {
            *p = c->next;
            c->next = taken;
            taken = c;
        } else {
            p = &c->next;
        }
    }
    return taken;
}

static void free_all(Core *c)
{
    while (c) {
        Core *next = c->next;

        core_free(c);
        c = next;
    }
}

/* Frees engines whose time is over, then goes when none is idle. */
static void *reap(void *arg)
{
    int idle = 1;

    (void)arg;
    while (idle) {
        const struct timespec nap = { .tv_nsec = 200000000 };
        Core *taken;

        nanosleep(&nap, NULL);
        pthread_mutex_lock(&engines.lock);
        taken = take_idle(0);
        idle = 0;
        for (const Core *c = engines.first; c; c = c->next)
            idle |= !c->users;
        engines.reaping = idle;
        pthread_mutex_unlock(&engines.lock);
        free_all(taken);
    }
    return NULL;
}

static void start_reaper(void)
{
    pthread_t t;

    if (engines.reaping || pthread_create(&t, NULL, reap, NULL))
        return;
    pthread_detach(t);
    engines.reaping = 1;
}

static Core *find(const char *key)
{
    for (Core *c = engines.first; c; c = c->next)
        if (!strcmp(c->key, key))
            return c;
    return NULL;
}

static Core *core_new(const AvatarOptions *opt)
{
    Core *c = avt_calloc(MEM_ENGINE, 1, sizeof(*c));

    if (!c)
        return NULL;
    c->compat = opt->compat;
    c->level = opt->cpu_level;
    c->cpu_threads = opt->cpu_threads;
    return c;
}

/* Lock held: the core for these options, found or loaded. */
static int find_or_load(Core **out, const AvatarOptions *opt, const Expert *x, const Log *log)
{
    Core *c = core_new(opt), *found;
    int ret = c ? avt_modeldir_open(&c->dir, model_of(opt), log) : AVT_ERR(ENOMEM);

    *out = NULL;
    if (ret >= 0) {
        c->key = make_key(&c->dir, opt);
        ret = c->key ? 0 : AVT_ERR(ENOMEM);
    }
    found = ret >= 0 ? find(c->key) : NULL;
    if (found) {
        core_free(c);
        *out = found;
        return 0;
    }
    if (ret >= 0)
        ret = core_load(c, opt, x, log);
    if (ret < 0) {
        core_free(c);
        return ret;
    }
    c->next = engines.first;
    engines.first = *out = c;
    return 0;
}

int avatar_engine_open(AvatarEngine **out, const AvatarOptions *opt)
{
    AvatarEngine *e = handle_new(opt);
    Core *idle;
    Expert x;
    int ret;

    *out = NULL;
    if (!e)
        return AVT_ERR(ENOMEM);
    ret = check_options(opt, &x, &e->log);
    if (ret >= 0) {
        pthread_mutex_lock(&engines.lock);
        idle = take_idle(0);
        ret = find_or_load(&e->core, opt, &x, &e->log);
        if (ret >= 0)
            e->core->users++;
        pthread_mutex_unlock(&engines.lock);
        free_all(idle);
    }
    if (ret < 0) {
        handle_free(e);
        return ret;
    }
    *out = e;
    return 0;
}

void avatar_engine_close(AvatarEngine **e)
{
    if (!*e)
        return;
    pthread_mutex_lock(&engines.lock);
    if (!--(*e)->core->users) {
        (*e)->core->idle_since_ms = now_ms();
        start_reaper();
    }
    pthread_mutex_unlock(&engines.lock);
    handle_free(*e);
    *e = NULL;
}

void avatar_engine_flush(void)
{
    Core *idle;

    pthread_mutex_lock(&engines.lock);
    idle = take_idle(1);
    pthread_mutex_unlock(&engines.lock);
    free_all(idle);
}
