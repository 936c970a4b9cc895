/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sizes of the diffusion transformer: config.json, checked against the tensors (checkpoints.md 1.1, 7.3).
 *
 * Traps: the original's constructor defaults belong to another model, so absent keys are refused where the default differs
 * from the published file; four other Wan models ship shards under the same file names, so the tensors say what a file is.
 * The head count is in no shape: it comes from the config alone.
 */
#include <stdio.h>
#include <string.h>

#include "files/json.h"
#include "nets/dit.h"

#define MAX_WIDTH  (1 << 16)
#define MAX_LAYERS 1024
#define SHOWN      5                    // unknown keys that are logged
#define NB(a)      (sizeof(a) / sizeof((a)[0]))

static const struct {
    const char *key;
    int value, required;                // value: the one that we compute
} switches[] = {
    { "enable_adain", 1, 1 },     { "zero_timestep", 1, 1 }, { "enable_framepack", 1, 1 }, { "enable_motioner", 0, 1 },
    { "qk_norm", 1, 0 },          { "cross_attn_norm", 1, 0 }, { "add_last_motion", 1, 0 }, { "enable_tsm", 0, 0 },
    { "trainable_token_pos_emb", 0, 0 },
};

static const struct {
    const char *key, *value;
    int required;
} words[] = { { "_class_name", "WanModel_S2V", 0 }, { "model_type", "s2v", 0 }, { "adain_mode", "attn_norm", 0 }, { "framepack_drop_mode", "padd", 1 } };

static const struct {
    const char *key;
    int nb, value[3];
} lists[] = { { "patch_size", 3, { 1, 2, 2 } }, { "window_size", 2, { -1, -1 } } };

/* Keys that change nothing here: of the file's making, of training, or of a part that is switched off. */
static const char *const ignored[] = { "_diffusers_version", "zero_init", "motion_token_num" };

static const char *const sizes[] = { "dim", "ffn_dim", "num_heads", "num_layers", "audio_dim", "num_audio_token", "freq_dim", "text_dim",
                                     "text_len", "in_dim", "out_dim", "cond_dim", "eps", "audio_inject_layers" };

static int is_among(const char *key, const char *const *list, size_t nb)
{
    for (size_t i = 0; i < nb; i++)
        if (!strcmp(list[i], key))
            return 1;
    return 0;
}

static int is_known(const char *key)
{
    for (size_t i = 0; i < NB(switches); i++)
        if (!strcmp(switches[i].key, key))
            return 1;
    for (size_t i = 0; i < NB(words); i++)
        if (!strcmp(words[i].key, key))
            return 1;
    for (size_t i = 0; i < NB(lists); i++)
        if (!strcmp(lists[i].key, key))
            return 1;
    return is_among(key, ignored, NB(ignored)) || is_among(key, sizes, NB(sizes));
}

static void report_unknown(const Json *j, const char *path, const Log *log)
{
    int nb = 0;

    for (const Json *m = j->first; m; m = m->next)
        if (!is_known(m->key) && nb++ < SHOWN)
            avt_log(log, LOG_INFO, "dit: %s: \"%.100s\" is not known and ignored", path, m->key);
    if (nb > SHOWN)
        avt_log(log, LOG_INFO, "dit: %s: %d keys are not known and ignored, the first %d are above", path, nb, SHOWN);
}

static int check_switches(const Json *j, const char *path, const Log *log)
{
    for (size_t i = 0; i < NB(switches); i++) {
        int v = switches[i].value;
        const int ret = avt_json_bool(j, switches[i].key, &v, switches[i].required);

        if (ret < 0)
            return ret;
        if (v != switches[i].value)
            return avt_fail(log, AVT_INVALID, "dit: %s: %s is %s; only %s is supported", path, switches[i].key, v ? "true" : "false",
                            v ? "false" : "true");
    }
    return 0;
}

static int check_words(const Json *j, const char *path, const Log *log)
{
    for (size_t i = 0; i < NB(words); i++) {
        const char *v = words[i].value;
        const int ret = avt_json_string(j, words[i].key, &v, words[i].required);

        if (ret < 0)
            return ret;
        if (strcmp(v, words[i].value))
            return avt_fail(log, AVT_INVALID, "dit: %s: %s is '%s', not '%s'; Wan2.2-S2V-14B or a model of its kind is wanted", path,
                            words[i].key, v, words[i].value);
    }
    return 0;
}

static int check_lists(const Json *j, const char *path, const Log *log)
{
    for (size_t i = 0; i < NB(lists); i++) {
        int64_t v[3] = { lists[i].value[0], lists[i].value[1], lists[i].value[2] };
        int nb = lists[i].nb, same;
        const int ret = avt_json_ints(j, lists[i].key, v, &nb, 3, 0);

        if (ret < 0)
            return ret;
        same = nb == lists[i].nb;
        for (int k = 0; same && k < nb; k++)
            same = v[k] == lists[i].value[k];
        if (!same)
            return avt_fail(log, AVT_INVALID, "dit: %s: %s has other values than the published model; only those are supported", path,
                            lists[i].key);
    }
    return 0;
}

static int read_int(const Json *j, const char *key, int *value, int64_t max, int required)
{
    int64_t v = *value;
    const int ret = avt_json_int(j, key, &v, 1, max, required);

    *value = (int)v;
    return ret;
}

static int check_sixteen(const Json *j, const char *path, const Log *log)
{
    static const char *const keys[] = { "in_dim", "out_dim", "cond_dim" };

    for (int i = 0; i < 3; i++) {
        int v = 16;
        const int ret = read_int(j, keys[i], &v, MAX_WIDTH, i == 2);

        if (ret < 0)
            return ret;
        if (v != 16)
            return avt_fail(log, AVT_INVALID, "dit: %s: %s is %d; latents have 16 channels", path, keys[i], v);
    }
    return 0;
}

static int read_sizes(DitConfig *c, const Json *j)
{
    double eps = 1e-6;
    int ret = 0;
    const struct {
        const char *key;
        int *value, max, required;
    } ints[] = {
        { "dim", &c->dim, MAX_WIDTH, 1 },             { "ffn_dim", &c->ffn_dim, 1 << 20, 1 },
        { "num_heads", &c->nb_heads, MAX_WIDTH, 1 },  { "num_layers", &c->nb_layers, MAX_LAYERS, 1 },
        { "audio_dim", &c->audio_dim, MAX_WIDTH, 1 }, { "num_audio_token", &c->nb_audio_tokens, 64, 0 },
        { "freq_dim", &c->freq_dim, MAX_WIDTH, 0 },   { "text_dim", &c->text_dim, MAX_WIDTH, 0 },
        { "text_len", &c->text_len, MAX_WIDTH, 0 },
    };

    for (size_t i = 0; ret >= 0 && i < NB(ints); i++)
        ret = read_int(j, ints[i].key, ints[i].value, ints[i].max, ints[i].required);
    if (ret >= 0)
        ret = avt_json_float(j, "eps", &eps, 0);
    c->eps = (float)eps;
    return ret;
}

static int read_inject(DitConfig *c, const Json *j, const char *path, const Log *log)
{
    int64_t v[DIT_MAX_INJECT];
    const int ret = avt_json_ints(j, "audio_inject_layers", v, &c->nb_inject, DIT_MAX_INJECT, 1);

    if (ret < 0)
        return ret;
    for (int i = 0; i < c->nb_inject; i++) {
        if (v[i] < 0 || v[i] >= c->nb_layers || (i && v[i] <= v[i - 1]))
            return avt_fail(log, AVT_INVALID, "dit: %s: audio_inject_layers[%d] is %lld; layers 0 .. %d in rising order are wanted", path, i,
                            (long long)v[i], c->nb_layers - 1);
        c->inject[i] = (int)v[i];
    }
    return 0;
}

static int check_arithmetic(const DitConfig *c, const char *path, const Log *log)
{
    const int hd = c->dim / c->nb_heads;

    if (c->dim % c->nb_heads || hd % 2 || hd < 6)
        return avt_fail(log, AVT_INVALID, "dit: %s: dim %d over num_heads %d gives no even head size of 6 or more", path, c->dim, c->nb_heads);
    if (c->dim % 4 || c->freq_dim % 2)
        return avt_fail(log, AVT_INVALID, "dit: %s: dim %d must be a multiple of 4 and freq_dim %d of 2", path, c->dim, c->freq_dim);
    if (!(c->eps > 0))
        return avt_fail(log, AVT_INVALID, "dit: %s: eps %g is not positive", path, c->eps);
    return 0;
}

/* ---- the tensors ------------------------------------------------------------------------------------------------ */

static int has_prefix(const Ckpt *c, const char *prefix)
{
    for (int64_t i = 0; i < avt_ckpt_nb(c); i++)
        if (!strncmp(avt_ckpt_get(c, i)->name, prefix, strlen(prefix)))
            return 1;
    return 0;
}

static int check_kind(const Ckpt *c, const Log *log)
{
    static const struct {
        const char *prefix, *looks_like;
    } foreign[] = {
        { "face_", "Wan-Animate" }, { "motion_encoder.", "Wan-Animate" }, { "vace_", "Wan-VACE" }, { "img_emb.", "Wan image-to-video" },
    };
    const CkptTensor *patch = avt_ckpt_find(c, "patch_embedding.weight");

    for (size_t i = 0; i < NB(foreign); i++)
        if (has_prefix(c, foreign[i].prefix))
            return avt_fail(log, AVT_INVALID, "dit: %s: tensors '%s...' are those of %s; Wan2.2-S2V is wanted", avt_ckpt_path(c),
                            foreign[i].prefix, foreign[i].looks_like);
    if (!has_prefix(c, "casual_audio_encoder."))
        return avt_fail(log, AVT_INVALID, "dit: %s: no audio encoder in it%s; Wan2.2-S2V is wanted", avt_ckpt_path(c),
                        patch ? ": it looks like Wan text-to-video" : "");
    if (!patch || patch->nd != 5 || patch->dim[1] != 16)
        return avt_fail(log, AVT_INVALID, "dit: %s: patch_embedding.weight of 16 channels is wanted; Wan2.2-S2V has it", avt_ckpt_path(c));
    return 0;
}

/* Largest index after `prefix`, plus one: "blocks." -> number of layers. */
static int64_t count_after(const Ckpt *c, const char *prefix)
{
    const size_t n = strlen(prefix);
    long long nb = 0, i;

    for (int64_t k = 0; k < avt_ckpt_nb(c); k++) {
        const char *name = avt_ckpt_get(c, k)->name;

        if (!strncmp(name, prefix, n) && sscanf(name + n, "%lld.", &i) == 1 && i >= nb && i < MAX_LAYERS * 16)
            nb = i + 1;
    }
    return nb;
}

/* Dimension `axis` of a tensor against what the config says. */
static int check_dim(const Ckpt *c, const char *name, int axis, int64_t wanted, const char *key, const Log *log)
{
    const CkptTensor *t = avt_ckpt_find(c, name);
    char shape[128];

    if (!t)
        return avt_fail(log, AVT_INVALID, "dit: %s: %s is missing", avt_ckpt_path(c), name);
    if (t->nd <= axis || t->dim[axis] != wanted)
        return avt_fail(log, AVT_INVALID, "dit: %s: %s is %s, which disagrees with %s of config.json (%lld wanted at dimension %d)",
                        avt_ckpt_path(c), name, avt_shape_text(shape, sizeof(shape), t->nd, t->dim), key, (long long)wanted, axis);
    return 0;
}

static int check_tensors(DitConfig *c, const Ckpt *ckpt, const Log *log)
{
    const CkptTensor *weights = avt_ckpt_find(ckpt, "casual_audio_encoder.weights");
    const int64_t layers = count_after(ckpt, "blocks."), injectors = count_after(ckpt, "audio_injector.injector.");
    const struct {
        const char *name;
        int axis;
        int64_t wanted;
        const char *key;
    } dims[] = {
        { "patch_embedding.weight", 0, c->dim, "dim" },
        { "blocks.0.ffn.0.weight", 0, c->ffn_dim, "ffn_dim" },
        { "text_embedding.0.weight", 1, c->text_dim, "text_dim" },
        { "time_embedding.0.weight", 1, c->freq_dim, "freq_dim" },
        { "casual_audio_encoder.encoder.conv1_local.conv.weight", 1, c->audio_dim, "audio_dim" },
        { "casual_audio_encoder.encoder.conv1_local.conv.weight", 0, (int64_t)c->dim / 4 * c->nb_audio_tokens, "num_audio_token" },
    };
    int ret = 0;

    if (layers != c->nb_layers)
        return avt_fail(log, AVT_INVALID, "dit: %s: %lld layers in it, num_layers of config.json is %d", avt_ckpt_path(ckpt),
                        (long long)layers, c->nb_layers);
    if (injectors != c->nb_inject)
        return avt_fail(log, AVT_INVALID, "dit: %s: %lld audio injectors in it, audio_inject_layers of config.json lists %d",
                        avt_ckpt_path(ckpt), (long long)injectors, c->nb_inject);
    for (size_t i = 0; ret >= 0 && i < NB(dims); i++)
        ret = check_dim(ckpt, dims[i].name, dims[i].axis, dims[i].wanted, dims[i].key, log);
    if (ret < 0)
        return ret;
    if (!weights)
        return avt_fail(log, AVT_INVALID, "dit: %s: casual_audio_encoder.weights is missing", avt_ckpt_path(ckpt));
    c->nb_audio_layers = 1;
    for (int i = 0; i < weights->nd; i++)
        if (weights->dim[i] > 1)
            c->nb_audio_layers = (int)(weights->dim[i] < MAX_LAYERS ? weights->dim[i] : MAX_LAYERS);
    return 0;
}

int avt_dit_config(DitConfig *cfg, const char *path, const Ckpt *ckpt, const Log *log)
{
    Json *j = NULL;
    int ret;

    AVT_REQUIRE(log, ckpt);
    *cfg = (DitConfig){ .nb_audio_tokens = 4, .freq_dim = 256, .text_dim = 4096, .text_len = 512 };
    ret = check_kind(ckpt, log);
    if (ret >= 0)
        ret = avt_json_read(&j, path, log);
    if (ret < 0)
        return ret;
    report_unknown(j, path, log);
    ret = check_words(j, path, log);                                // first: it says best what is wrong
    if (ret >= 0)
        ret = check_switches(j, path, log);
    if (ret >= 0)
        ret = check_lists(j, path, log);
    if (ret >= 0)
        ret = check_sixteen(j, path, log);
    if (ret >= 0)
        ret = read_sizes(cfg, j);
    if (ret >= 0)
        ret = read_inject(cfg, j, path, log);
    if (ret >= 0)
        ret = check_arithmetic(cfg, path, log);
    if (ret >= 0)
        ret = check_tensors(cfg, ckpt, log);
    avt_json_close(&j);
    return ret;
}

void avt_dit_config_published(DitConfig *cfg)
{
    static const int inject[] = { 0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39 };

    *cfg = (DitConfig){
        .dim = 5120, .nb_heads = 40, .nb_layers = 40, .ffn_dim = 13824, .freq_dim = 256, .text_dim = 4096, .text_len = 512,
        .audio_dim = 1024, .nb_audio_layers = 25, .nb_audio_tokens = 4, .nb_inject = 12, .eps = 1e-6f,
    };
    memcpy(cfg->inject, inject, sizeof(inject));
}
