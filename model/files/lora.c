/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LoRA files: every spelling of a pair becomes "<module>" -> (A, B).
 *
 *   base_model.model.  blocks.0.self_attn.q  .lora_A.default.weight      peft, with or without prefix and ".default"
 *   diffusion_model.   blocks.0.self_attn.q  .lora_down.weight           (A = down, B = up)
 *   lora_unet_         blocks_0_self_attn_q  .lora_down.weight  .alpha   kohya: the dots are lost, so a module's name is
 *                                                                        mangled and compared, never the file's split
 *   transformer.       blocks.0.attn1.to_q   .lora_A.weight              diffusers, only when the whole file is like that
 *
 * Trap: the published file does not hold its scale. alpha / rank is 64 / 128 there; the usual default elsewhere (alpha = rank)
 * would double the adapter.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "files/lora_pair.h"

#define NAME      1024
#define ROOM      16                    // that a translated name may grow by
#define MAX_RANK  16384                 // more than the published model is wide

typedef enum Role { ROLE_A, ROLE_B, ROLE_ALPHA, ROLE_NONE } Role;

typedef struct Half {                   // a tensor of the file
    char *module;
    Role role;
    const CkptTensor *tensor;
} Half;

static const struct {
    const char *end;
    Role role;
} suffixes[] = {
    { ".lora_A.default.weight", ROLE_A }, { ".lora_A.weight", ROLE_A }, { ".lora_down.weight", ROLE_A },
    { ".lora_B.default.weight", ROLE_B }, { ".lora_B.weight", ROLE_B }, { ".lora_up.weight", ROLE_B },
    { ".alpha", ROLE_ALPHA },
};

static const char *const prefixes[] = { "base_model.model.", "diffusion_model.", "model.diffusion_model.", "transformer.",
                                        "module." };
static const char kohya[] = "lora_unet_";

/* ---- names --------------------------------------------------------------------------------------------------------- */

static Role role_of(const char *name, size_t *module_size)
{
    const size_t n = strlen(name);

    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        const size_t m = strlen(suffixes[i].end);

        if (n > m && !strcmp(name + n - m, suffixes[i].end)) {
            *module_size = n - m;
            return suffixes[i].role;
        }
    }
    return ROLE_NONE;
}

static const char *skip_prefix(const char *name)
{
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        if (!strncmp(name, prefixes[i], strlen(prefixes[i])))
            return name + strlen(prefixes[i]);
    return name;
}

/* Replace the first `from` in s, which has room. @return 1 when it was there */
static int replace(char *s, const char *from, const char *to)
{
    char *p = strstr(s, from);

    if (!p)
        return 0;
    memmove(p + strlen(to), p + strlen(from), strlen(p + strlen(from)) + 1);
    memcpy(p, to, strlen(to));
    return 1;
}

/* diffusers' spelling -> ours. @return 1 when it was diffusers' */
static int from_diffusers(char *module)
{
    static const char *const map[][2] = {
        { ".attn1.", ".self_attn." }, { ".attn2.", ".cross_attn." }, { ".to_q", ".q" }, { ".to_k", ".k" }, { ".to_v", ".v" },
        { ".to_out.0", ".o" }, { ".ffn.net.0.proj", ".ffn.0" }, { ".ffn.net.2", ".ffn.2" },
    };
    int any = 0;

    for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
        any |= replace(module, map[i][0], map[i][1]);
    return any;
}

/* Does a pair of the file, spelled `key`, belong to `module`? */
static int same_module(const char *key, const char *module)
{
    if (strncmp(key, kohya, sizeof(kohya) - 1))
        return !strcmp(key, module);
    for (key += sizeof(kohya) - 1; *key && *key == (*module == '.' ? '_' : *module); key++)
        module++;
    return !*key && !*module;
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

static int by_module(const void *a, const void *b)
{
    const Half *x = a, *y = b;
    const int c = strcmp(x->module, y->module);

    return c ? c : (int)x->role - (int)y->role;
}

static int read_half(const Lora *l, Half *h, const CkptTensor *t, const Log *log)
{
    const char *start = skip_prefix(t->name);
    size_t n = 0;

    h->tensor = t;
    h->role = role_of(t->name, &n);
    if (h->role == ROLE_NONE || t->name + n <= start || n >= NAME)
        return avt_fail(log, AVT_INVALID,
                        "%s: member %s is not supported: only pairs lora_A and lora_B (or lora_down, lora_up) and alpha are",
                        avt_ckpt_path(l->ckpt), t->name);
    n -= (size_t)(start - t->name);
    h->module = avt_malloc(MEM_CKPT, n + ROOM);
    if (!h->module)
        return AVT_ERR(ENOMEM);
    memcpy(h->module, start, n);
    h->module[n] = 0;
    return 0;
}

/* The whole file is spelled as diffusers does, or nothing of it. */
static int translate(const Lora *l, Half *half, int64_t nb, const Log *log)
{
    int64_t nb_theirs = 0;

    for (int64_t i = 0; i < nb; i++)
        nb_theirs += from_diffusers(half[i].module);
    if (nb_theirs && nb_theirs < nb)
        return avt_fail(log, AVT_INVALID, "%s: %lld of %lld tensors are named as diffusers does; a mixture is not supported",
                        avt_ckpt_path(l->ckpt), (long long)nb_theirs, (long long)nb);
    return 0;
}

/* Sorted halves of the same module are neighbours: they become pairs, which take the names over. */
static int join_halves(Lora *l, Half *half, int64_t nb, const Log *log)
{
    for (int64_t i = 0; i < nb; i++) {
        LoraPair *p = &l->pair[l->nb - (l->nb > 0)];
        const CkptTensor **slot;

        if (!l->nb || strcmp(p->module, half[i].module)) {
            p = &l->pair[l->nb++];
            p->module = half[i].module;
            half[i].module = NULL;
        }
        slot = half[i].role == ROLE_A ? &p->a : half[i].role == ROLE_B ? &p->b : &p->alpha;
        if (*slot)
            return avt_fail(log, AVT_INVALID, "%s: %s and %s are the same half of a pair", avt_ckpt_path(l->ckpt), (*slot)->name,
                            half[i].tensor->name);
        *slot = half[i].tensor;
    }
    return 0;
}

static int read_halves(Lora *l, const Log *log)
{
    const int64_t nb = avt_ckpt_nb(l->ckpt);
    Half *half = avt_calloc(MEM_CKPT, (size_t)nb, sizeof(*half));
    int ret = half ? 0 : AVT_ERR(ENOMEM);

    l->pair = avt_calloc(MEM_CKPT, (size_t)nb, sizeof(*l->pair));
    if (!l->pair)
        ret = AVT_ERR(ENOMEM);
    for (int64_t i = 0; i < nb && ret >= 0; i++)
        ret = read_half(l, &half[i], avt_ckpt_get(l->ckpt, i), log);
    if (ret >= 0)
        ret = translate(l, half, nb, log);
    if (ret >= 0) {
        qsort(half, (size_t)nb, sizeof(*half), by_module);
        ret = join_halves(l, half, nb, log);
    }
    for (int64_t i = 0; half && i < nb; i++)
        avt_free(half[i].module);
    avt_free(half);
    return ret;
}

static int is_float(const CkptTensor *t)
{
    return !t->pack && (t->dtype == DT_F32 || t->dtype == DT_BF16 || t->dtype == DT_F16);
}

static int check_pair(const Lora *l, const LoraPair *p, const Log *log)
{
    const char *path = avt_ckpt_path(l->ckpt);
    char sa[160], sb[160];

    if (!p->a || !p->b)
        return avt_fail(log, AVT_INVALID, "%s: pair %s is not complete: its half %s is missing", path, p->module,
                        p->a ? "B" : "A");
    if (!is_float(p->a) || !is_float(p->b))
        return avt_fail(log, AVT_INVALID, "%s: pair %s has type %s; f32, bf16 or f16 is wanted", path, p->module,
                        avt_ckpt_type(is_float(p->a) ? p->b : p->a));
    if (p->a->nd != 2 || p->b->nd != 2 || p->a->dim[0] < 1 || p->a->dim[0] != p->b->dim[1])
        return avt_fail(log, AVT_INVALID,
                        "%s: pair %s does not fit together: A is %s, B is %s; [rank, in] and [out, rank] are wanted", path,
                        p->module, avt_shape_text(sa, sizeof(sa), p->a->nd, p->a->dim),
                        avt_shape_text(sb, sizeof(sb), p->b->nd, p->b->dim));
    if (p->a->dim[0] > MAX_RANK)
        return avt_fail(log, AVT_INVALID, "%s: pair %s has rank %lld; at most %d is supported", path, p->module, (long long)p->a->dim[0], MAX_RANK);
    if (!p->alpha != !l->pair[0].alpha)
        return avt_fail(log, AVT_INVALID, "%s: some pairs have an alpha, %s has not", path, (p->alpha ? l->pair : p)->module);
    return 0;
}

static int read_alpha(const Lora *l, const CkptTensor *t, float *alpha, const Log *log)
{
    uint64_t raw = 0;
    int ret;

    if (t->pack || t->size != avt_dtype_size(t->dtype))
        return avt_fail(log, AVT_INVALID, "%s: %s must be one finite number", avt_ckpt_path(l->ckpt), t->name);
    ret = avt_ckpt_read(t, &raw, 0, t->size, log);
    avt_to_f32(alpha, t->dtype, &raw, 0, 1);
    return ret < 0 || isfinite(*alpha) ? ret : avt_fail(log, AVT_INVALID, "%s: %s must be one finite number",
                                                        avt_ckpt_path(l->ckpt), t->name);
}

static int set_scale(Lora *l, LoraPair *p, double alpha, const Log *log)
{
    const double r = (double)p->a->dim[0];
    float own = 0;
    const int ret = p->alpha ? read_alpha(l, p->alpha, &own, log) : 0;

    p->scale = alpha > 0 ? alpha / r : p->alpha ? own / r : 0.5;
    if (l->rank < (int)r)
        l->rank = (int)r;
    return ret;
}

static int is_lora(const Ckpt *c)
{
    size_t n;

    for (int64_t i = 0; i < avt_ckpt_nb(c); i++)
        if (role_of(avt_ckpt_get(c, i)->name, &n) < ROLE_ALPHA)
            return 1;
    return 0;
}

static int read_pairs(Lora *l, double alpha, const Log *log)
{
    const int64_t nb = avt_ckpt_nb(l->ckpt);
    const char *source = alpha > 0 ? "alpha as asked" : "alpha is half the rank, as published";
    int ret;

    if (!is_lora(l->ckpt))
        return avt_fail(log, AVT_INVALID, "%s: holds no LoRA pairs (%lld tensors, the first is %s); a full checkpoint is no LoRA",
                        avt_ckpt_path(l->ckpt), (long long)nb, nb ? avt_ckpt_get(l->ckpt, 0)->name : "none");
    ret = read_halves(l, log);
    for (int64_t i = 0; i < l->nb && ret >= 0; i++) {
        ret = check_pair(l, &l->pair[i], log);
        if (ret >= 0)
            ret = set_scale(l, &l->pair[i], alpha, log);
    }
    if (ret < 0)
        return ret;
    l->scale = l->pair[0].scale;
    if (alpha <= 0 && l->pair[0].alpha)
        source = "alpha of the file";
    avt_log(log, LOG_INFO, "%s: LoRA of %lld pairs, rank %d, scale %g (%s)", avt_ckpt_path(l->ckpt), (long long)l->nb,
            l->rank, l->scale, source);
    return 0;
}

int avt_lora_open_ckpt(Lora **out, Ckpt **ckpt, double alpha, const Log *log)
{
    Lora *l = avt_calloc(MEM_CKPT, 1, sizeof(*l));
    int ret;

    *out = l;
    if (!l) {
        avt_ckpt_close(ckpt);
        return AVT_ERR(ENOMEM);
    }
    l->ckpt = *ckpt;
    *ckpt = NULL;
    ret = read_pairs(l, alpha, log);
    if (ret < 0)
        avt_lora_close(out);
    return ret;
}

int avt_lora_open(Lora **out, const char *path, double alpha, const Log *log)
{
    Ckpt *c;
    const int ret = avt_ckpt_open(&c, path, log);

    *out = NULL;
    return ret < 0 ? ret : avt_lora_open_ckpt(out, &c, alpha, log);
}

void avt_lora_close(Lora **pl)
{
    Lora *l = *pl;

    if (!l)
        return;
    for (int64_t i = 0; i < l->nb; i++)
        avt_free(l->pair[i].module);
    avt_free(l->pair);
    avt_ckpt_close(&l->ckpt);
    avt_freep(pl);
}

int avt_lora_rank(const Lora *l)
{
    return l->rank;
}

double avt_lora_scale(const Lora *l)
{
    return l->scale;
}

int64_t avt_lora_nb(const Lora *l)
{
    return l->nb;
}

const char *avt_lora_path(const Lora *l)
{
    return avt_ckpt_path(l->ckpt);
}

/* ---- which weights ------------------------------------------------------------------------------------------------- */

int avt_lora_is_target(const char *module)
{
    static const char *const ends[] = { ".q", ".k", ".v", ".o", ".ffn.0", ".ffn.2" };
    const size_t n = strlen(module);

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        if (n > strlen(ends[i]) && !strcmp(module + n - strlen(ends[i]), ends[i]))
            return 1;
    return 0;
}

LoraPair *avt_lora_pair(const Lora *l, const char *module)
{
    for (int64_t i = 0; i < l->nb; i++)
        if (same_module(l->pair[i].module, module))
            return &l->pair[i];
    return NULL;
}

int avt_lora_has(const Lora *l, const char *module)
{
    return avt_lora_pair(l, module) != NULL;
}

int avt_lora_finish(const Lora *l, const Log *log)
{
    const LoraPair *first = NULL;
    int64_t nb = 0;

    for (int64_t i = 0; i < l->nb; i++)
        if (!l->pair[i].used) {
            first = first ? first : &l->pair[i];
            nb++;
        }
    if (nb)
        return avt_fail(log, AVT_INVALID,
                        "%s: %lld of %lld pairs match no weight of the model, the first is %s; is it a LoRA for this "
                        "model?",
                        avt_ckpt_path(l->ckpt), (long long)nb, (long long)l->nb, first->module);
    if (!l->nonzero)
        avt_log(log, LOG_WARNING, "%s: every B, or its scale, is zero, so this LoRA changes nothing", avt_ckpt_path(l->ckpt));
    return 0;
}
