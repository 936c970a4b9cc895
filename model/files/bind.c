/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Binder: from names in a checkpoint to weights on a backend.
 *
 *   find name -> type -> shape -> copy -> values finite -> (LoRA) -> avt_weight_put
 *
 * A problem does not stop the network that binds: it is counted, the first five are logged, and avt_binder_finish() refuses.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/half.h"
#include "files/bind_read.h"
#include "quantize.h"

#define NAME 512

/* ---- placing ------------------------------------------------------------------------------------------------------- */

static Tensor harmless(const Binder *b, int nd, const int64_t *dim)
{
    Tensor t = { .be = avt_arena_backend(b->weights), .nd = nd, .dtype = DT_F32, .act = b->act };

    memcpy(t.dim, dim, sizeof(*dim) * (size_t)nd);
    return t;
}

static Tensor placed(Binder *b, Tensor t)
{
    if (avt_arena_backend(b->weights)->status < 0 && b->status >= 0)
        b->status = avt_arena_backend(b->weights)->status;
    return t;
}

static Tensor put(Binder *b, WeightUse use, DType dtype, int nd, const int64_t *dim, const void *src)
{
    return placed(b, avt_weight_put(b->weights, use, b->act, dtype, nd, dim, src));
}

/* What codes in b->raw stand for, of all of the tensor or a part; v has room for all */
static void widen_codes(const Binder *b, float *v, const CkptTensor *t, const WeightPart *part)
{
    const Extent e = avt_binder_extent(t, part);
    const int64_t rows = t->nd ? t->dim[0] : 1;

    if (rows)
        avt_dequantize_rows(v, t->dtype, b->raw, b->scale, rows, avt_ckpt_values(t) / rows, b->codes.group);
    for (int64_t i = 0; i < e.nb && part; i++)
        memmove(v + i * e.run, v + e.first + i * e.stride, (size_t)e.run * sizeof(*v));
}

/* f32 copy of b->raw in the binder's scratch, nb numbers, with room for a bf16 copy behind it; NULL: no memory */
static float *to_scratch(Binder *b, const CkptTensor *t, const WeightPart *part, int64_t nb)
{
    const int64_t room = avt_is_code(t->dtype) ? avt_ckpt_values(t) : nb;

    if (!avt_binder_grow(b, (void **)&b->scratch, &b->scratch_size, (size_t)room * (sizeof(float) + sizeof(uint16_t))))
        return NULL;
    if (avt_is_code(t->dtype))
        widen_codes(b, b->scratch, t, part);
    else
        avt_to_f32(b->scratch, t->dtype, b->raw, 0, nb);
    return b->scratch;
}

/* Codes that the backend would make, all of them or some rows: they keep their bits. */
static int are_wanted(const Binder *b, WeightUse use, const CkptTensor *t, int nd, const int64_t *dim, const WeightPart *part)
{
    return use == WEIGHT_LINEAR && nd == 2 && avt_is_code(t->dtype) && t->dtype == b->act && !(part && part->axis) &&
           b->codes.group == avt_code_group(t->dtype, dim[1]);
}

static const uint16_t *round_scratch(Binder *b, int64_t nb)
{
    const float *v = b->scratch;
    uint16_t *h = (uint16_t *)(b->scratch + nb);

#pragma omp parallel for simd if (nb > 65536)
    for (int64_t i = 0; i < nb; i++)
        h[i] = avt_f32_bf16(v[i]);
    return h;
}

static int merge_pair(Binder *b, const char *module, float *w, int64_t out, int64_t in, const WeightPart *part)
{
    const Log *log = b->nb_problems < BINDER_SHOWN ? b->log : NULL;
    const int ret = avt_lora_merge_part(b->lora, module, avt_arena_backend(b->weights), w, out, in, part, log);
    const int64_t nb = !part ? out * in : part->axis ? out * part->nb : part->nb * in;
    const int64_t bad = ret < 0 ? -1 : avt_nonfinite(DT_F32, w, nb);

    return bad < 0 ? ret : avt_fail(log, AVT_INVALID, "%s: %s: value %lld is not finite with the LoRA; its alpha is too large",
                                    avt_lora_path(b->lora), module, (long long)bad);
}

/* W + s B A, nb numbers of it. @return 1: in scratch, f32; 0: this weight has no pair and needs none; or an error */
static int merge_lora(Binder *b, const CkptTensor *t, int64_t out, int64_t in, const WeightPart *part, int64_t nb, const char *name)
{
    char module[NAME];
    const size_t n = strlen(name), skip = b->prefix ? strlen(b->prefix) : 0;
    float *w;
    int ret;

    if (n - skip < 8 || strcmp(name + n - 7, ".weight"))
        return 0;
    snprintf(module, sizeof(module), "%.*s", (int)(n - skip - 7), name + skip);
    if (!avt_lora_has(b->lora, module)) {
        if (!avt_lora_is_target(module))
            return 0;
        avt_binder_complain(b, "tensor %s has no pair in the LoRA %s; is it a LoRA for this model?", name,
                            avt_lora_path(b->lora));
        return AVT_INVALID;
    }
    w = to_scratch(b, t, part, nb);
    ret = w ? merge_pair(b, module, w, out, in, part) : AVT_ERR(ENOMEM);
    if (ret < 0 && w)
        avt_binder_fail(b, ret);
    return ret;
}

/* What was read, or merged from that: on the backend. */
static Tensor place_values(Binder *b, WeightUse use, const CkptTensor *t, int nd, const int64_t *dim, const WeightPart *part,
                           int merged)
{
    const int64_t row = part ? part->first : 0;
    int64_t nb = 1;

    for (int i = 0; i < nd; i++)
        nb *= dim[i];
    if (merged)                                                     // rounded once, to what W is stored in
        return t->dtype == DT_BF16 ? put(b, use, DT_BF16, nd, dim, round_scratch(b, nb))
                                   : put(b, use, DT_F32, nd, dim, b->scratch);
    if (are_wanted(b, use, t, nd, dim, part))
        return placed(b, avt_weight_put_codes(b->weights, t->dtype, dim[0], dim[1], (char *)b->raw + row * dim[1], b->scale + row));
    if (t->dtype == DT_F32 || (t->dtype == DT_BF16 && use != WEIGHT_PLAIN))
        return put(b, use, t->dtype, nd, dim, b->raw);
    return to_scratch(b, t, part, nb) ? put(b, use, DT_F32, nd, dim, b->scratch) : harmless(b, nd, dim);
}

/* On `dry` the headers are checked and room is made, but no weight is read. */
static int planning(const Binder *b)
{
    return b->reserve || avt_backend_is_dry(avt_arena_backend(b->weights));
}

/* dim: of the whole; `part` of it is bound. */
static Tensor bind_part(Binder *b, WeightUse use, int nd, const int64_t *dim, const WeightPart *part, const char *name)
{
    int64_t own[TENSOR_MAX_DIM], nb = 1;
    const CkptTensor *t;
    int merged = 0;

    memcpy(own, dim, sizeof(*dim) * (size_t)nd);
    if (part)
        own[part->axis] = part->nb;
    for (int i = 0; i < nd; i++)
        nb *= own[i];
    if (avt_binder_stopped(b))
        return harmless(b, nd, own);
    if (!b->ckpt && b->record)
        b->record(b->record_opaque, name, nd, dim);
    if (!b->ckpt)
        return put(b, use, use == WEIGHT_PLAIN ? DT_F32 : b->dtype, nd, own, NULL);
    t = avt_binder_take(b, nd, dim, name);
    if (!t)
        return harmless(b, nd, own);
    if (planning(b))
        return put(b, use, t->dtype == DT_BF16 && use != WEIGHT_PLAIN ? DT_BF16 : DT_F32, nd, own, NULL);
    if (!avt_binder_load(b, t, part))
        return harmless(b, nd, own);
    if (b->lora && use == WEIGHT_LINEAR && nd == 2)
        merged = merge_lora(b, t, dim[0], dim[1], part, nb, name);
    return merged < 0 ? harmless(b, nd, own) : place_values(b, use, t, nd, own, part, merged);
}

static Tensor bind(Binder *b, WeightUse use, int nd, const int64_t *dim, const char *name)
{
    return bind_part(b, use, nd, dim, NULL, name);
}

/* ---- the interface ------------------------------------------------------------------------------------------------- */

int avt_binder_open(Binder *b, const Ckpt *ckpt, Lora *lora, Arena *weights, const char *what, DType dtype, const Log *log)
{
    *b = (Binder){ .ckpt = ckpt, .lora = lora, .weights = weights, .log = log, .what = what, .dtype = dtype,
                   .act = avt_arena_backend(weights)->act };
    if (ckpt) {
        b->used = avt_calloc(MEM_CKPT, (size_t)avt_ckpt_nb(ckpt) + 1, 1);
        if (!b->used)
            return b->status = AVT_ERR(ENOMEM);
    }
    return 0;
}

void avt_binder_close(Binder *b)
{
    avt_freep(&b->used);
    avt_freep(&b->raw);
    avt_freep(&b->scratch);
    avt_freep(&b->scale);
    b->raw_size = b->scratch_size = b->scale_size = 0;
}

static void full_name(char *name, const Binder *b, const char *fmt, va_list ap)
{
    const int n = snprintf(name, NAME, "%s", b->prefix ? b->prefix : "");

    vsnprintf(name + n, n < NAME ? NAME - (size_t)n : 0, fmt, ap);
}

/* The name that the formats of an avt_bind_*() give, into `name` of NAME bytes */
#define FULL_NAME(name, b, fmt)                 \
    do {                                        \
        va_list ap;                             \
                                                \
        va_start(ap, fmt);                      \
        full_name(name, b, fmt, ap);            \
        va_end(ap);                             \
    } while (0)

Tensor avt_bind(Binder *b, WeightUse use, int nd, const int64_t *dim, const char *fmt, ...)
{
    char name[NAME];

    FULL_NAME(name, b, fmt);
    return bind(b, use, nd, dim, name);
}

/* name + tail, in `out` of NAME bytes */
static const char *with_tail(char *out, const char *name, const char *tail)
{
    snprintf(out, NAME, "%.*s%s", NAME - 16, name, tail);
    return out;
}

static Linear bind_linear(Binder *b, int64_t out, int64_t in, int bias, const WeightPart *part, const char *name)
{
    char full[NAME];
    Linear l = { .b = AVT_NONE };

    l.w = bind_part(b, WEIGHT_LINEAR, AVT_DIMS(out, in), part, with_tail(full, name, ".weight"));
    if (bias)
        l.b = bind_part(b, WEIGHT_PLAIN, AVT_DIMS(out), part && !part->axis ? part : NULL, with_tail(full, name, ".bias"));
    return l;
}

Linear avt_bind_linear(Binder *b, int64_t out, int64_t in, int bias, const char *fmt, ...)
{
    char name[NAME];

    FULL_NAME(name, b, fmt);
    return bind_linear(b, out, in, bias, NULL, name);
}

Linear avt_bind_linear_part(Binder *b, int64_t out, int64_t in, int bias, const WeightPart *part, const char *fmt, ...)
{
    char name[NAME];

    FULL_NAME(name, b, fmt);
    return bind_linear(b, out, in, bias, part, name);
}

Tensor avt_bind_vector_part(Binder *b, int64_t n, const WeightPart *part, const char *fmt, ...)
{
    char name[NAME];

    FULL_NAME(name, b, fmt);
    return bind_part(b, WEIGHT_PLAIN, AVT_DIMS(n), part, name);
}

Conv avt_bind_conv(Binder *b, WeightUse use, int nd, const int64_t *dim, const char *fmt, ...)
{
    char name[NAME], part[NAME];
    Conv c;

    FULL_NAME(name, b, fmt);
    c.w = bind(b, use, nd, dim, with_tail(part, name, ".weight"));
    c.b = bind(b, WEIGHT_PLAIN, AVT_DIMS(dim[0]), with_tail(part, name, ".bias"));
    return c;
}

Tensor avt_bind_computed(Binder *b, WeightUse use, int nd, const int64_t *dim, const float *data)
{
    return b->ckpt && !data ? harmless(b, nd, dim) : put(b, use, DT_F32, nd, dim, data);
}

float *avt_bind_host(Binder *b, int nd, const int64_t *dim, const char *fmt, ...)
{
    const CkptTensor *t;
    char name[NAME];
    int merged = 0;
    float *v;

    FULL_NAME(name, b, fmt);
    if (!b->ckpt && b->record)
        b->record(b->record_opaque, name, nd, dim);
    t = b->ckpt && !avt_binder_stopped(b) ? avt_binder_take(b, nd, dim, name) : NULL;
    if (!t || !avt_binder_load(b, t, NULL))
        return NULL;
    if (b->lora && nd == 2)
        merged = merge_lora(b, t, dim[0], dim[1], NULL, avt_ckpt_values(t), name);
    if (merged < 0)
        return NULL;
    v = avt_malloc(MEM_CKPT, (size_t)avt_ckpt_values(t) * sizeof(*v) + 1);
    if (!v)
        return avt_binder_fail(b, AVT_ERR(ENOMEM)), NULL;
    if (merged && t->dtype == DT_BF16)
        avt_to_f32(v, DT_BF16, round_scratch(b, avt_ckpt_values(t)), 0, avt_ckpt_values(t));
    else if (merged)
        memcpy(v, b->scratch, (size_t)avt_ckpt_values(t) * sizeof(*v));
    else if (avt_is_code(t->dtype))
        widen_codes(b, v, t, NULL);
    else
        avt_to_f32(v, t->dtype, b->raw, 0, avt_ckpt_values(t));
    return v;
}

int avt_bind_has(const Binder *b, const char *fmt, ...)
{
    char name[NAME];

    FULL_NAME(name, b, fmt);
    return avt_binder_find(b, name) != NULL;
}

static int matches(const char *name, const char *pattern)
{
    const size_t n = strlen(pattern);

    return n && pattern[n - 1] == '*' ? !strncmp(name, pattern, n - 1) : !strcmp(name, pattern);
}

void avt_bind_ignore(Binder *b, const char *pattern)
{
    const size_t skip = b->prefix ? strlen(b->prefix) : 0;

    for (int64_t i = 0; b->used && i < avt_ckpt_nb(b->ckpt); i++) {
        const char *name = avt_ckpt_get(b->ckpt, i)->name;

        if (matches(name, pattern) || (skip && !strncmp(name, b->prefix, skip) && matches(name + skip, pattern)))
            b->used[i] = 1;
    }
}

static void report_leftovers(Binder *b)
{
    char list[700] = "";
    int64_t nb = 0;
    size_t n = 0;

    for (int64_t i = 0; i < avt_ckpt_nb(b->ckpt); i++) {
        if (b->used[i])
            continue;
        if (nb++ < BINDER_SHOWN && n < sizeof(list))
            n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%.120s", n ? ", " : "", avt_ckpt_get(b->ckpt, i)->name);
    }
    if (!nb)
        return;
    avt_binder_fail(b, AVT_INVALID);
    avt_log(b->log, LOG_ERROR, "%s: %s: left over: %lld %s that this network does not know: %s%s", b->what,
            avt_ckpt_path(b->ckpt), (long long)nb, nb > 1 ? "tensors" : "tensor", list, nb > BINDER_SHOWN ? ", ..." : "");
}

int avt_binder_finish(Binder *b, int partial)
{
    const int shown = b->nb_problems < BINDER_SHOWN ? b->nb_problems : BINDER_SHOWN, found = b->nb_problems;

    if (b->ckpt && !avt_binder_stopped(b)) {
        if (found > shown)
            avt_log(b->log, LOG_ERROR, "%s: %s: %d problems, the first %d are above", b->what, avt_ckpt_path(b->ckpt), found,
                    shown);
        if (!partial)
            report_leftovers(b);
        if (!partial && b->lora && b->status >= 0 && avt_lora_finish(b->lora, b->log) < 0)
            avt_binder_fail(b, AVT_INVALID);
    }
    return b->status;
}
