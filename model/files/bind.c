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
#include "files/bind.h"
#include "quantize.h"

#define NAME 512
#define SHOWN 5                         // problems that are logged
#define PIECE ((size_t)16 << 20)        // bytes that are read at once

/* ---- problems ------------------------------------------------------------------------------------------------------ */

static void fail(Binder *b, int code)
{
    if (b->status >= 0)
        b->status = code;
    b->nb_problems++;
}

static void complain(Binder *b, const char *fmt, ...) AVT_PRINTF(2, 3);

/* One sentence on the file; counted, and logged when it is among the first. */
static void complain(Binder *b, const char *fmt, ...)
{
    char text[900];
    va_list ap;

    fail(b, AVT_INVALID);
    if (b->nb_problems > SHOWN)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    avt_log(b->log, LOG_ERROR, "%s: %s: %s", b->what, avt_ckpt_path(b->ckpt), text);
}

/* ---- looking up ---------------------------------------------------------------------------------------------------- */

static void full_name(char *name, const Binder *b, const char *fmt, va_list ap)
{
    const int n = snprintf(name, NAME, "%s", b->prefix ? b->prefix : "");

    vsnprintf(name + n, n < NAME ? NAME - (size_t)n : 0, fmt, ap);
}

static const CkptTensor *find(const Binder *b, const char *name)
{
    return b->ckpt ? avt_ckpt_find(b->ckpt, name) : NULL;
}

/* Equal, dimensions of size 1 not counted. */
static int same_shape(const CkptTensor *t, int nd, const int64_t *dim)
{
    int i = 0, j = 0;


    for (;;) {
        while (i < t->nd && t->dim[i] == 1)
            i++;
        while (j < nd && dim[j] == 1)
            j++;
        if (i == t->nd || j == nd)
            return i == t->nd && j == nd;
        if (t->dim[i++] != dim[j++])
            return 0;
    }
}

static int is_float(DType t)
{
    return t == DT_F32 || t == DT_BF16 || t == DT_F16 || t == DT_F64;
}

/* Training leaves no weight all zero; a file that has one is likely a stub. */
static void warn_zero(Binder *b, const CkptTensor *t)
{
    const size_t n = strlen(t->name), size = (size_t)avt_ckpt_values(t) * avt_dtype_size(t->dtype);
    const uint8_t *p = b->raw;

    if (n < 8 || strcmp(t->name + n - 7, ".weight") || size < 2 || p[0] || memcmp(p, p + 1, size - 1))
        return;
    if (b->nb_zero++ < SHOWN)
        avt_log(b->log, LOG_WARNING, "%s: %s: every value of tensor %s is zero", b->what, avt_ckpt_path(b->ckpt), t->name);
}

/* On `dry` the headers are checked and room is made, but no weight is read. */
static int planning(const Binder *b)
{
    return b->reserve || avt_backend_is_dry(avt_arena_backend(b->weights));
}

/* " in <shard>" when the checkpoint is in several files. */
static const char *place(char buf[128], const Binder *b, const CkptTensor *t)
{
    const char *path = avt_ckpt_path(b->ckpt), *slash = strrchr(path, '/');

    buf[0] = 0;
    if (strcmp(slash ? slash + 1 : path, t->file->name))
        snprintf(buf, 128, " in %s", t->file->name);
    return buf;
}

/* 0 or a problem of codes, which is told */
static int told(Binder *b, int ret, const char *why)
{
    if (ret == AVT_INVALID)
        complain(b, "%s", why);
    else if (ret < 0)
        fail(b, ret);
    return ret;
}

/* What belongs to codes, marked used. 0: there is a problem */
static int take_beside(Binder *b, const CkptTensor *t)
{
    char why[700];
    const int ret = avt_codes_find(&b->codes, b->ckpt, t, why, sizeof(why), b->log);

    for (int i = 0; i < b->codes.nb_parts; i++)
        b->used[b->codes.part[i] - avt_ckpt_get(b->ckpt, 0)] = 1;
    return told(b, ret, why) >= 0;
}

/* The tensor `name`, found fit in every way, marked used; NULL after a problem. */
static const CkptTensor *take(Binder *b, int nd, const int64_t *dim, const char *name)
{
    const CkptTensor *t = find(b, name);
    char want[160], have[160], in[128];

    avt_shape_text(want, sizeof(want), nd, dim);
    if (!t) {
        complain(b, "tensor %s %s is missing", name, want);
        return NULL;
    }
    b->used[t - avt_ckpt_get(b->ckpt, 0)] = 1;
    avt_shape_text(have, sizeof(have), t->nd, t->dim);
    place(in, b, t);
    if (!same_shape(t, nd, dim)) {
        complain(b, "tensor %s%s: wanted %s, the file has %s %s", name, in, want, avt_dtype_name(t->dtype), have);
    } else if (!is_float(t->dtype) && !avt_is_code(t->dtype)) {
        complain(b, "tensor %s%s: wanted f32, bf16, f16, f8_e4m3 or i8, the file has %s", name, in, avt_dtype_name(t->dtype));
    } else if (!avt_is_code(t->dtype) || take_beside(b, t)) {
        return t;
    }
    return NULL;
}

static void *grow(Binder *b, void **p, size_t *have, size_t size)
{
    if (*have >= size)
        return *p;
    avt_freep(p);
    *have = 0;
    *p = avt_malloc(MEM_CKPT, size);
    if (*p)
        *have = size;
    else
        fail(b, AVT_ERR(ENOMEM));
    return *p;
}

typedef struct Extent {                 // what is wanted of a tensor: runs of neighbouring numbers, evenly apart
    int64_t first, run, stride, nb;
} Extent;

static Extent extent_of(const CkptTensor *t, const WeightPart *part)
{
    const int64_t all = avt_ckpt_values(t), out = t->nd ? t->dim[0] : 1, in = out ? all / out : 0;

    if (!part)
        return (Extent){ 0, all, all, 1 };
    return part->axis ? (Extent){ part->first, part->nb, in, out } : (Extent){ part->first * in, part->nb * in, all, 1 };
}

/* In pieces, so that a large tensor on a slow disk can be given up. */
static int read_bytes(const Binder *b, const CkptTensor *t, char *dst, size_t first, size_t size)
{
    int ret = 0;

    for (size_t at = 0, nb; at < size && ret >= 0; at += nb) {
        nb = size - at < PIECE ? size - at : PIECE;
        if (b->cancel && __atomic_load_n(b->cancel, __ATOMIC_RELAXED))
            return AVT_ERR(ECANCELED);
        ret = avt_ckpt_read(t, dst + at, first + at, nb, b->log);
    }
    return ret;
}

static int read_extent(Binder *b, const CkptTensor *t, const Extent *e)
{
    const size_t size = avt_dtype_size(t->dtype), run = (size_t)e->run * size;
    int ret = 0;

    if (!grow(b, &b->raw, &b->raw_size, run * (size_t)e->nb + 1))
        return AVT_ERR(ENOMEM);
    for (int64_t i = 0; i < e->nb && ret >= 0; i++)
        ret = read_bytes(b, t, (char *)b->raw + (size_t)i * run, (size_t)(e->first + i * e->stride) * size, run);
    return ret;
}

/* Packed values come in blocks, which a run may begin within: all are read, behind the room that they take, and widened. */
static int read_packed(Binder *b, const CkptTensor *t, const Extent *e)
{
    const int64_t nb = avt_ckpt_values(t);
    const size_t size = avt_dtype_size(t->dtype), all = (size_t)nb * size;
    char *v;
    int ret;

    if (!grow(b, &b->raw, &b->raw_size, all + t->size + 1))
        return AVT_ERR(ENOMEM);
    v = b->raw;
    ret = read_bytes(b, t, v + all, 0, t->size);
    if (ret >= 0)
        avt_ckpt_widen(b->raw, t, v + all, nb);
    for (int64_t i = 0; i < e->nb && ret >= 0 && e->run < nb; i++)
        memmove(v + (size_t)(i * e->run) * size, v + (size_t)(e->first + i * e->stride) * size, (size_t)e->run * size);
    return ret;
}

/* The scales of codes, one for each row. 0: there is a problem */
static int load_scales(Binder *b, const CkptTensor *t)
{
    const size_t rows = t->nd ? (size_t)t->dim[0] : 1;
    char why[700];

    if (!grow(b, (void **)&b->scale, &b->scale_size, (2 * rows + 1) * sizeof(*b->scale)))
        return 0;
    return told(b, avt_codes_scales(b->scale, &b->codes, t, why, sizeof(why), b->log), why) >= 0;
}

/* The values of a tensor, or of a part of it, as its dtype says, copied to the binder and found finite; NULL after a problem. Valid until
 * the next one. Of codes always all. */
static const void *load(Binder *b, const CkptTensor *t, const WeightPart *part)
{
    const Extent e = extent_of(t, avt_is_code(t->dtype) ? NULL : part);
    char have[160], in[128];
    int64_t i;
    int ret = t->pack ? read_packed(b, t, &e) : read_extent(b, t, &e);

    if (ret < 0) {
        fail(b, ret);
        return NULL;
    }
    i = avt_nonfinite(t->dtype, b->raw, e.run * e.nb);
    if (i >= 0) {
        complain(b, "tensor %s%s: value %lld of %s is not finite (NaN or infinity)", t->name, place(in, b, t),
                 (long long)(e.first + i / e.run * e.stride + i % e.run), avt_shape_text(have, sizeof(have), t->nd, t->dim));
        return NULL;
    }
    if (avt_is_code(t->dtype) && !load_scales(b, t))
        return NULL;
    if (!part)
        warn_zero(b, t);
    return b->raw;
}

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
    const Extent e = extent_of(t, part);
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

    if (!grow(b, (void **)&b->scratch, &b->scratch_size, (size_t)room * (sizeof(float) + sizeof(uint16_t))))
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
    const Log *log = b->nb_problems < SHOWN ? b->log : NULL;
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
        complain(b, "tensor %s has no pair in the LoRA %s; is it a LoRA for this model?", name, avt_lora_path(b->lora));
        return AVT_INVALID;
    }
    w = to_scratch(b, t, part, nb);
    ret = w ? merge_pair(b, module, w, out, in, part) : AVT_ERR(ENOMEM);
    if (ret < 0 && w)
        fail(b, ret);
    return ret;
}

/* Nothing more can be read: no memory, or a file that changes. What is wrong *in* a file does not end the search for more. */
static int stopped(const Binder *b)
{
    return b->status < 0 && b->status != AVT_INVALID;
}

/* What was read, or merged from that: on the backend. */
static Tensor place_values(Binder *b, WeightUse use, const CkptTensor *t, int nd, const int64_t *dim, const WeightPart *part, int merged)
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
    if (stopped(b))
        return harmless(b, nd, own);
    if (!b->ckpt && b->record)
        b->record(b->record_opaque, name, nd, dim);
    if (!b->ckpt)
        return put(b, use, use == WEIGHT_PLAIN ? DT_F32 : b->dtype, nd, own, NULL);
    t = take(b, nd, dim, name);
    if (!t)
        return harmless(b, nd, own);
    if (planning(b))
        return put(b, use, t->dtype == DT_BF16 && use != WEIGHT_PLAIN ? DT_BF16 : DT_F32, nd, own, NULL);
    if (!load(b, t, part))
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

Tensor avt_bind(Binder *b, WeightUse use, int nd, const int64_t *dim, const char *fmt, ...)
{
    char name[NAME];
    va_list ap;

    va_start(ap, fmt);
    full_name(name, b, fmt, ap);
    va_end(ap);
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
    va_list ap;

    va_start(ap, fmt);
    full_name(name, b, fmt, ap);
    va_end(ap);
    return bind_linear(b, out, in, bias, NULL, name);
}

Linear avt_bind_linear_part(Binder *b, int64_t out, int64_t in, int bias, const WeightPart *part, const char *fmt, ...)
{
    char name[NAME];
    va_list ap;

    va_start(ap, fmt);
    full_name(name, b, fmt, ap);
    va_end(ap);
    return bind_linear(b, out, in, bias, part, name);
}

Tensor avt_bind_vector_part(Binder *b, int64_t n, const WeightPart *part, const char *fmt, ...)
{
    char name[NAME];
    va_list ap;

    va_start(ap, fmt);
    full_name(name, b, fmt, ap);
    va_end(ap);
    return bind_part(b, WEIGHT_PLAIN, AVT_DIMS(n), part, name);
}

Conv avt_bind_conv(Binder *b, WeightUse use, int nd, const int64_t *dim, const char *fmt, ...)
{
    char name[NAME], part[NAME];
    Conv c;
    va_list ap;

    va_start(ap, fmt);
    full_name(name, b, fmt, ap);
    va_end(ap);
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
    va_list ap;
    int merged = 0;
    float *v;

    va_start(ap, fmt);
    full_name(name, b, fmt, ap);
    va_end(ap);
    if (!b->ckpt && b->record)
        b->record(b->record_opaque, name, nd, dim);
    t = b->ckpt && !stopped(b) ? take(b, nd, dim, name) : NULL;
    if (!t || !load(b, t, NULL))
        return NULL;
    if (b->lora && nd == 2)
        merged = merge_lora(b, t, dim[0], dim[1], NULL, avt_ckpt_values(t), name);
    if (merged < 0)
        return NULL;
    v = avt_malloc(MEM_CKPT, (size_t)avt_ckpt_values(t) * sizeof(*v) + 1);
    if (!v)
        return fail(b, AVT_ERR(ENOMEM)), NULL;
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
    va_list ap;

    va_start(ap, fmt);
    full_name(name, b, fmt, ap);
    va_end(ap);
    return find(b, name) != NULL;
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
        if (nb++ < SHOWN && n < sizeof(list))
            n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%.120s", n ? ", " : "", avt_ckpt_get(b->ckpt, i)->name);
    }
    if (!nb)
        return;
    fail(b, AVT_INVALID);
    avt_log(b->log, LOG_ERROR, "%s: %s: left over: %lld %s that this network does not know: %s%s", b->what,
            avt_ckpt_path(b->ckpt), (long long)nb, nb > 1 ? "tensors" : "tensor", list, nb > SHOWN ? ", ..." : "");
}

int avt_binder_finish(Binder *b, int partial)
{
    const int shown = b->nb_problems < SHOWN ? b->nb_problems : SHOWN, found = b->nb_problems;

    if (b->ckpt && !stopped(b)) {
        if (found > shown)
            avt_log(b->log, LOG_ERROR, "%s: %s: %d problems, the first %d are above", b->what, avt_ckpt_path(b->ckpt), found,
                    shown);
        if (!partial)
            report_leftovers(b);
        if (!partial && b->lora && b->status >= 0 && avt_lora_finish(b->lora, b->log) < 0)
            fail(b, AVT_INVALID);
    }
    return b->status;
}
