/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options: sets of them by name, checks that need no model, and the words for error codes. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/text.h"
#include "config.h"
#include "engine/engine.h"
#include "engine/structs.h"
#include "nets/picture.h"

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
        { AVATAR_ERR(EPERM), "the system does not permit it" }, { AVATAR_ERR(ECHILD), "of the process that this one was forked from" },
        { AVATAR_ERR(EDEADLK), "not to be called in the log" }, { AVATAR_ERR(EPIPE), "the reader of the output has gone" }, { AVATAR_ERR(ENOSPC), "no space left for the output" },
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (texts[i].code == code)
            return texts[i].text;
    return code < 0 ? "unknown error" : "no error";
}

/* Of this host, as Open MPI and MPICH tell it. */
static int nb_launched(char *(*env)(const char *name))
{
    const char *value = env("OMPI_COMM_WORLD_LOCAL_SIZE");
    int nb;

    value = value ? value : env("MPI_LOCALNRANKS");
    nb = value ? atoi(value) : 1;
    return nb > 0 ? nb : 1;
}

int avatar_is_launched(char *(*env)(const char *name))
{
    static const char *const names[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK" };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *value = env(names[i]);

        if (value)
            return strcmp(value, "1") || i == 2 ? nb_launched(env) : 0;         // one process alone has nobody to meet; PMIX_RANK does not tell
    }
    return 0;
}

const char *avatar_cache_folder(char *path, int size, char *(*env)(const char *name))
{
    const char *cache = env("XDG_CACHE_HOME"), *home = env("HOME");
    const int named = cache && *cache == '/';                       // one that is not absolute is none, says the XDG specification
    const int n = named ? snprintf(path, (size_t)size, "%s/avatar", cache) : home && *home ? snprintf(path, (size_t)size, "%s/.cache/avatar", home) : size;

    return n < size ? path : NULL;
}

typedef struct Preset {
    const char *name;
    int width, height, steps;
    const char *plan;
} Preset;

static const Preset presets[] = { { "preview", 384, 256, 3, NULL }, { "standard", 704, 384, 4, NULL }, { "long", 688, 368, 4, NULL },
                                  { "quality", 704, 384, 4, "sequential" } };

static int preset_options(const Preset *p, AvatarOptions *his, const Log *log)
{
    AvatarOptions opt;
    const int ret = avt_options_take(&opt, his, log);

    if (ret < 0)
        return ret;
    if (opt.steps < 0)
        opt.steps = p->steps;
    if (!opt.plan)
        opt.plan = p->plan;
    if (opt.width <= 0 && opt.height <= 0) {
        opt.width = p->width;
        opt.height = p->height;
    }
    opt.size = his->size;
    avt_struct_give(his, his->size, &opt, sizeof(opt));
    return 0;
}

static int preset_look(const Preset *p, AvatarLook *his, const Log *log)
{
    AvatarLook look;
    const int ret = avt_look_take(&look, his, log);

    if (ret < 0 || look.out_width > 0 || look.out_height > 0)
        return ret;
    his->out_width = p->width;
    his->out_height = p->height;
    return 0;
}

int avatar_preset(const char *name, AvatarOptions *opt, AvatarLook *look)
{
    const Log log = { .write = opt ? opt->log : NULL, .opaque = opt ? opt->log_opaque : NULL };
    size_t i = 0;
    int ret = 0;

    if (!name || !*name || !strcmp(name, "none"))
        return 0;
    while (i < sizeof(presets) / sizeof(presets[0]) && strcmp(presets[i].name, name))
        i++;
    if (i == sizeof(presets) / sizeof(presets[0]))
        return avt_fail(&log, AVT_ERR(EINVAL), "preset=%s is not known: none, preview, standard, long or quality", name);
    if (opt)
        ret = preset_options(&presets[i], opt, &log);
    if (ret >= 0 && look)
        ret = preset_look(&presets[i], look, &log);
    return ret;
}

/* dir/name, when a model is there; `dir` has `len` characters. */
static int model_in(char path[PATH_MAX], const char *dir, size_t len, const char *name)
{
    char config[PATH_MAX];
    struct stat st;

    return len && snprintf(path, PATH_MAX, "%.*s/%s", (int)len, dir, name) < PATH_MAX &&
           snprintf(config, sizeof(config), "%.*s/%s/config.json", (int)len, dir, name) < (int)sizeof(config) && !stat(config, &st);
}

/* The same; where this user may not look, kept has that folder, if it has none yet: whoever opens it says so. */
static int look_in(char path[PATH_MAX], char kept[PATH_MAX], const char *dir, size_t len, const char *name)
{
    errno = 0;
    if (model_in(path, dir, len, name))
        return 1;
    if (errno == EACCES && !kept[0])
        snprintf(kept, PATH_MAX, "%s", path);
    return 0;
}

static const char *asked_model(const AvatarOptions *opt)
{
    return opt->model && *opt->model ? opt->model : "nano";
}

int avt_options_folder(char *path, const AvatarOptions *opt)
{
    const char *name = asked_model(opt), *const own[] = { AVT_DATADIR "/avatar", AVT_SRCDIR "/model" };
    const int searched = !strchr(name, '/');
    char kept[PATH_MAX] = "";
    struct stat st;
    size_t len;

    for (const char *p = searched ? opt->models : NULL; p && *p; p += len + (p[len] == ':')) {
        len = strcspn(p, ":");
        if (look_in(path, kept, p, len, name))
            return 1;
    }
    for (int i = 0; searched && i < 2; i++)
        if (look_in(path, kept, own[i], strlen(own[i]), name))
            return 1;
    snprintf(path, PATH_MAX, "%s", kept[0] && stat(name, &st) ? kept : name);
    return kept[0] || !stat(name, &st);
}

int avt_options_model(ModelDir *m, const AvatarOptions *opt, const Log *log)
{
    const char *name = asked_model(opt);
    char path[PATH_MAX];

    if (avt_options_folder(path, opt) || strchr(name, '/'))
        return avt_modeldir_open(m, path, log);
    memset(m, 0, sizeof(*m));
    return avt_fail(log, AVT_ERR(ENOENT), "model=%s: no model of that name in AVATAR_MODELS (%s) or %s, and no such folder here%s", name,
                    opt->models && *opt->models ? opt->models : "not set", AVT_DATADIR "/avatar",
                    strcmp(name, "nano") ? "" : "; Debian's package avatar-nano holds it");
}

/* "key=value:key=value" */
static int parse_expert(Expert *x, const char *text, const Log *log)
{
    memset(x, 0, sizeof(*x));
    while (text && *text) {
        const size_t len = strcspn(text, ":"), key = strcspn(text, "=:");
        char *end = NULL;

        if (key == strlen("lora_alpha") && !strncmp(text, "lora_alpha", key) && text[key] == '=') {
            x->lora_alpha = avt_number(text + key + 1, &end);
            if (end != text + len || !(x->lora_alpha > 0 && x->lora_alpha <= 1e6))
                return avt_fail(log, AVT_ERR(EINVAL), "opts: lora_alpha wants a finite number above 0, at most 1e6, not '%.*s'",
                                (int)(len - key - 1), text + key + 1);
        } else {
            return avt_fail(log, AVT_ERR(EINVAL), "opts: '%.*s' is not known; there is lora_alpha=NUMBER", (int)key, text);
        }
        text += len + (text[len] == ':');
    }
    return 0;
}

static const struct {
    const char *name;
    DType act, product;                 // act of codes: what runs fastest
} precisions[] = { { "f32", DT_F32, DT_F32 }, { "bf16", DT_BF16, DT_BF16 }, { "int8", DT_NB, DT_I8 }, { "fp8", DT_NB, DT_F8_E4M3 } };

int avt_options_precision(BackendOptions *be, const char *precision, const Log *log)
{
    be->product = DT_F32;
    if (!precision || !*precision || !strcmp(precision, "auto"))
        return 0;
    for (size_t i = 0; i < sizeof(precisions) / sizeof(precisions[0]); i++)
        if (!strcmp(precision, precisions[i].name)) {
            be->product = precisions[i].product;
            if (precisions[i].act == DT_NB)
                return 0;
            be->act = precisions[i].act;
            return 1;
        }
    return avt_fail(log, AVT_ERR(EINVAL), "precision=%s is not known: auto, f32, bf16, int8 or fp8", precision);
}

const char *avt_precision_name(DType act, DType product)
{
    for (size_t i = 0; i < sizeof(precisions) / sizeof(precisions[0]); i++)
        if (avt_is_code(product) ? product == precisions[i].product : act == precisions[i].act)
            return precisions[i].name;
    return avt_dtype_name(act);
}

int avt_options_lora(const char **path, const ModelDir *d, const DitConfig *cfg, const char *option, const Log *log)
{
    const int published = cfg->dim == 5120 && cfg->nb_layers == 40, named = option && *option && strcmp(option, "auto") && strcmp(option, "none");

    *path = NULL;
    if (named && d->lora_rule == LORA_MERGED)
        return avt_fail(log, AVT_ERR(EINVAL), "lora=%s: the weights in %s have a LoRA already, which avatar convert has merged; leave lora away, or "
                        "take the model that they were made of", option, d->dir);
    if ((option && !strcmp(option, "none")) || (!named && (d->lora_rule == LORA_NONE || d->lora_rule == LORA_MERGED)))
        return 0;
    *path = named ? option : d->lora;
    if (!*path && (d->lora_rule == LORA_REQUIRED || published))
        return avt_fail(log, AVT_ERR(ENOENT), "%s: no liveavatar.safetensors in the folder or its lora/: few steps without guidance need the "
                        "Live Avatar LoRA; put it there, name it with lora=PATH, or say lora=none", d->dir);
    return 0;
}

int avt_options_numbers(const AvatarOptions *opt, const Log *log)
{
    BackendOptions be;

    if (avt_options_precision(&be, opt->precision, log) < 0)
        return AVT_ERR(EINVAL);
    if (opt->steps != -1 && (opt->steps < 1 || opt->steps > SAMPLER_MAX_STEPS))
        return avt_fail(log, AVT_ERR(EINVAL), "steps=%d: 1 to %d, or -1 for the model's", opt->steps, SAMPLER_MAX_STEPS);
    if (opt->cpu_threads < 0 || opt->cpu_threads > 1024)
        return avt_fail(log, AVT_ERR(EINVAL), "cpu_threads=%d: 0 (all cores) to 1024", opt->cpu_threads);
    if (opt->cpu_level < -1 || opt->cpu_level >= CPU_AUTO)
        return avt_fail(log, AVT_ERR(EINVAL), "cpu_level=%d: -1 (best), 0 plain C, 1 oneDNN, 2 AVX2, 3 AVX-512, 4 AMX", opt->cpu_level);
    if (opt->compat < 0 || opt->compat > AVATAR_COMPAT_UPSTREAM)
        return avt_fail(log, AVT_ERR(EINVAL), "compat=%d: none or upstream", opt->compat);
    return 0;
}

int avt_options_check(const AvatarOptions *opt, Expert *x, const Log *log)
{
    Plan plan;

    if (avt_options_numbers(opt, log) < 0 || parse_expert(x, opt->opts, log) < 0)
        return AVT_ERR(EINVAL);
    if (opt->launched && (!opt->devices || !strcmp(opt->devices, "auto")))
        return 0;                                                   // what there is to plan with is known when the processes have met
    return avt_plan_make(&plan, &(PlanOptions){ .plan = opt->plan, .devices = opt->devices, .vae_device = opt->vae_device, .vae_split = opt->vae_split,
                                                .front_device = opt->front_device, .offload = opt->offload, .kv = opt->kv, .resident = opt->resident,
                                                .steps = opt->steps > 0 ? opt->steps : 4, .nb_layers = PLAN_MAX_RANKS,
                                                .nb_processes = opt->launched ? INT_MAX : 0,
                                                .cpu_threads = opt->cpu_threads }, log);
}

int avt_options_try(const AvatarOptions *opt, const Log *log)
{
    ModelDir dir = { 0 };
    Expert x;
    int ret = avt_options_check(opt, &x, log);

    if (ret >= 0)
        ret = avt_options_model(&dir, opt, log);
    avt_modeldir_close(&dir);
    return ret;
}

static int nearest_side(int side)
{
    return side < SIDE_MIN ? SIDE_MIN : side > SIDE_MAX ? SIDE_MAX : (side + SIDE_STEP / 2) / SIDE_STEP * SIDE_STEP;
}

static int is_side(int side)
{
    return side >= SIDE_MIN && side <= SIDE_MAX && side % SIDE_STEP == 0;
}

static void size_upstream(int *w, int *h, const ModelDir *d, const AvatarLook *look, int64_t area)
{
    const int64_t model = d->width > 0 ? (int64_t)d->width * d->height : area;
    const int64_t limit = *w > 0 && *h > 0 ? (int64_t)*w * *h : model;

    if (look->width > 0 && look->height > 0)
        avt_picture_size_upstream(w, h, look->width, look->height, limit);
}

int avt_settle_size(int *w, int *h, const ModelDir *d, int compat, const AvatarLook *look, const Log *log)
{
    const int64_t area = d->area > 0 ? d->area : DEFAULT_AREA;

    *w = look->out_width;
    *h = look->out_height;
    if (compat)
        size_upstream(w, h, d, look, area);
    else if (*w <= 0 && *h <= 0 && d->width > 0 && d->height > 0)
        *w = d->width, *h = d->height;
    else if (*w <= 0 && *h <= 0)
        avt_picture_size(w, h, look->width > 0 ? look->width : 1, look->height > 0 ? look->height : 1, area);
    if (!is_side(*w) || !is_side(*h))
        return avt_fail(log, AVT_ERR(EINVAL), "size=%dx%d: both sides must be multiples of %d from %d to %d; the nearest is %dx%d", *w, *h,
                        SIDE_STEP, SIDE_MIN, SIDE_MAX, nearest_side(*w), nearest_side(*h));
    return 0;
}
