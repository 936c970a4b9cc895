/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Binder: from names in a checkpoint to weights on a backend.
 *
 *   find name -> type -> shape -> copy -> values finite -> (LoRA) -> avt_weight_put                            in the host's memory
 *   find name -> type -> shape -> copy -> avt_weight_put -> (LoRA) -> values finite, heard of at the end       linear weights where
 *                                                                                    they lie row by row (avt_weight_rows())
 *
 * A problem does not stop the network that binds: it is counted, the first five are logged, and avt_binder_finish() refuses.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/half.h"
#include "files/bind_read.h"
#include "files/loading.h"
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
    const size_t used = avt_arena_used(b->weights);

    avt_loading_add(b->loading, used - b->counted);
    b->counted = used;
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

typedef struct Wanted {                 // a weight that is asked for, and what was read for it
    const char *name;
    WeightUse use;
    int nd;
    const int64_t *dim;                 // of the whole
    const WeightPart *part;             // of it that is bound; NULL: all
    int64_t own[TENSOR_MAX_DIM], nb;    // of the part; numbers
    const CkptTensor *t;
    int unseen;                         // it may be NaN
} Wanted;

/* What was merged is in scratch, f32; or on the backend */
enum { MERGED = 1, MERGED_THERE };

/* Problems beyond the first few are counted alone. */
static const Log *log_of(const Binder *b)
{
    return b->nb_problems < BINDER_SHOWN ? b->log : NULL;
}

/* What merging takes on the backend, made when the first pair comes. NULL: no memory, which is told */
static Arena *room_of(Binder *b)
{
    if (!b->room && avt_lora_room(&b->room, b->lora, avt_arena_backend(b->weights)) < 0)
        avt_binder_fail(b, AVT_ERR(ENOMEM));
    return b->room;
}

/* W + s B A, into scratch. *bad: a number that is not finite then, or -1 */
static int merge_here(Binder *b, const Wanted *x, const char *module, int64_t *bad)
{
    Arena *room = room_of(b);
    float *w = room ? to_scratch(b, x->t, x->part, x->nb) : NULL;
    const int ret = w ? avt_lora_merge_part(b->lora, module, room, w, x->dim[0], x->dim[1], x->part, log_of(b)) : AVT_ERR(ENOMEM);

    *bad = ret < 0 ? -1 : avt_nonfinite(DT_F32, w, x->nb);
    return ret < 0 ? ret : MERGED;
}

/* The same on the backend, of b->raw, into *w; what is not finite is heard of later. */
static int merge_there(Binder *b, const Wanted *x, const char *module, Tensor *w)
{
    const Scanned s = { x->t, x->part ? *x->part : (WeightPart){ 0 }, x->part != NULL, { x->dim[0], x->dim[1] }, (int)avt_lora_pieces(x->own[0]) };
    const LoraRows rows = { x->t->dtype, b->raw, x->dim[0], x->dim[1], x->part };
    Arena *room = room_of(b);
    const Tensor count = room ? avt_binder_counts(b, s.nb) : AVT_NONE;
    int ret;

    if (!count.be)
        return b->status;
    *w = put(b, WEIGHT_LINEAR, x->t->dtype == DT_BF16 ? DT_BF16 : DT_F32, 2, x->own, NULL);
    if (avt_binder_stopped(b))
        return b->status;
    ret = avt_lora_place(b->lora, module, room, *w, &rows, count, log_of(b));
    if (ret < 0)
        return ret;
    avt_binder_counted(b, &s);
    return MERGED_THERE;
}

/* One of the file's own, or with the pair? */
static int tell_bad(Binder *b, const Wanted *x, const char *module, int64_t bad)
{
    if (!avt_binder_finite(b, x->t, x->part))
        return AVT_INVALID;
    avt_fail(log_of(b), AVT_INVALID, "%s: %s: value %lld is not finite with the LoRA; its alpha is too large", avt_lora_path(b->lora), module,
             (long long)bad);
    avt_binder_fail(b, AVT_INVALID);
    return AVT_INVALID;
}

/* blocks.0.self_attn.q of a weight's name, in `module` of NAME bytes. 0: it is no such name */
static int module_of(char *module, const Binder *b, const char *name)
{
    const size_t n = strlen(name), skip = b->prefix ? strlen(b->prefix) : 0;

    if (n - skip < 8 || strcmp(name + n - 7, ".weight"))
        return 0;
    snprintf(module, NAME, "%.*s", (int)(n - skip - 7), name + skip);
    return 1;
}

/* b->raw with its pair. placed NULL: to the host. @return as above; 0: it has no pair and needs none; or an error, which is counted */
static int merge_lora(Binder *b, const Wanted *x, Tensor *placed)
{
    char module[NAME];
    int64_t bad = -1;
    int ret;

    if (!b->lora || x->use != WEIGHT_LINEAR || x->nd != 2 || !module_of(module, b, x->name))
        return 0;
    if (!avt_lora_has(b->lora, module)) {
        if (!avt_lora_is_target(module))
            return 0;
        avt_binder_complain(b, "tensor %s has no pair in the LoRA %s; is it a LoRA for this model?", x->name, avt_lora_path(b->lora));
        return AVT_INVALID;
    }
    ret = placed && avt_lora_can_place(avt_arena_backend(b->weights), x->t->dtype) ? merge_there(b, x, module, placed) : merge_here(b, x, module, &bad);
    if (bad >= 0)
        return tell_bad(b, x, module, bad);
    if (ret < 0 && !avt_binder_stopped(b))                          // no memory was counted
        avt_binder_fail(b, ret);
    return ret;
}

static Wanted wanted(const char *name, WeightUse use, int nd, const int64_t *dim, const WeightPart *part)
{
    Wanted x = { .name = name, .use = use, .nd = nd, .dim = dim, .part = part, .nb = 1 };

    memcpy(x.own, dim, sizeof(*dim) * (size_t)nd);
    if (part)
        x.own[part->axis] = part->nb;
    for (int i = 0; i < nd; i++)
        x.nb *= x.own[i];
    return x;
}

void avt_binder_look_merged(Binder *b, const Scanned *s)
{
    Wanted x = wanted(s->t->name, WEIGHT_LINEAR, 2, s->dim, s->is_part ? &s->part : NULL);

    x.t = s->t;
    if (avt_binder_load(b, x.t, x.part, 1))
        merge_lora(b, &x, NULL);
}

/* What was read, or merged from that: on the backend. */
static Tensor place_values(Binder *b, const Wanted *x, int merged)
{
    const int64_t row = x->part ? x->part->first : 0;
    const DType type = x->t->dtype;

    if (merged)                                                     // rounded once, to what W is stored in
        return type == DT_BF16 ? put(b, x->use, DT_BF16, x->nd, x->own, round_scratch(b, x->nb)) : put(b, x->use, DT_F32, x->nd, x->own, b->scratch);
    if (are_wanted(b, x->use, x->t, x->nd, x->own, x->part))
        return placed(b, avt_weight_put_codes(b->weights, type, x->own[0], x->own[1], (char *)b->raw + row * x->own[1], b->scale + row));
    if (type == DT_F32 || (type == DT_BF16 && x->use != WEIGHT_PLAIN))
        return put(b, x->use, type, x->nd, x->own, b->raw);
    return to_scratch(b, x->t, x->part, x->nb) ? put(b, x->use, DT_F32, x->nd, x->own, b->scratch) : harmless(b, x->nd, x->own);
}

/* On `dry` the headers are checked and room is made, but no weight is read. */
static int planning(const Binder *b)
{
    return b->reserve || avt_backend_is_dry(avt_arena_backend(b->weights));
}

/* Does the device look at the values, when they are there? Codes that are made of them would not show it. */
static int looks_there(const Binder *b, const Wanted *x)
{
    return x->use == WEIGHT_LINEAR && avt_arena_backend(b->weights)->cls->plain_weights && !avt_is_code(x->t->dtype) && !avt_is_code(b->act);
}

/* What is in b->raw, with its pair if it has one. */
static Tensor place_loaded(Binder *b, const Wanted *x)
{
    Tensor w = AVT_NONE;
    const int merged = merge_lora(b, x, &w);

    if (merged < 0)
        return harmless(b, x->nd, x->own);
    if (merged == MERGED_THERE)
        return w;
    w = place_values(b, x, merged);
    if (x->unseen && !merged && !avt_binder_stopped(b))
        avt_binder_scan(b, w, x->t, x->part);
    return w;
}

/* dim: of the whole; `part` of it is bound. */
static Tensor bind_part(Binder *b, WeightUse use, int nd, const int64_t *dim, const WeightPart *part, const char *name)
{
    Wanted x = wanted(name, use, nd, dim, part);

    if (avt_binder_stopped(b))
        return harmless(b, nd, x.own);
    if (!b->ckpt && b->record)
        b->record(b->record_opaque, name, nd, dim);
    if (!b->ckpt)
        return put(b, use, use == WEIGHT_PLAIN ? DT_F32 : b->dtype, nd, x.own, NULL);
    x.t = avt_binder_take(b, nd, dim, name);
    if (!x.t)
        return harmless(b, nd, x.own);
    if (planning(b))
        return put(b, use, x.t->dtype == DT_BF16 && use != WEIGHT_PLAIN ? DT_BF16 : DT_F32, nd, x.own, NULL);
    x.unseen = looks_there(b, &x);
    return avt_binder_load(b, x.t, part, x.unseen) ? place_loaded(b, &x) : harmless(b, nd, x.own);
}

static Tensor bind(Binder *b, WeightUse use, int nd, const int64_t *dim, const char *name)
{
    return bind_part(b, use, nd, dim, NULL, name);
}

/* ---- the interface ------------------------------------------------------------------------------------------------- */

int avt_binder_open(Binder *b, const Ckpt *ckpt, Lora *lora, Arena *weights, const char *what, DType dtype, const Log *log)
{
    *b = (Binder){ .ckpt = ckpt, .lora = lora, .weights = weights, .log = log, .what = what, .dtype = dtype,
                   .act = avt_arena_backend(weights)->act, .counted = avt_arena_used(weights) };
    if (ckpt) {
        b->used = avt_calloc(MEM_CKPT, (size_t)avt_ckpt_nb(ckpt) + 1, 1);
        if (!b->used)
            return b->status = AVT_ERR(ENOMEM);
    }
    return 0;
}

void avt_binder_close(Binder *b)
{
    avt_binder_scan_close(b);
    avt_arena_close(&b->room);
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
    if (!t || !avt_binder_load(b, t, NULL, 0))
        return NULL;
    merged = merge_lora(b, &(Wanted){ .name = name, .use = WEIGHT_LINEAR, .nd = nd, .dim = dim, .nb = avt_ckpt_values(t), .t = t }, NULL);
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
    int found, shown;

    avt_binder_scanned(b);
    found = b->nb_problems;
    shown = found < BINDER_SHOWN ? found : BINDER_SHOWN;
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
