/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reading half of the binder: name -> type -> shape -> copy -> values finite.
 *
 * The host looks for what is not finite before it places a weight; of large ones on a device of its own memory the device does, when they
 * are there, at the speed of that memory and while the next one is read.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/half.h"
#include "files/bind_read.h"

#define PIECE ((size_t)16 << 20)        // bytes that are read at once
#define SCANS 256                       // counts that are waited for at once

struct BinderScan {
    Arena *arena;
    Tensor count;                       // [SCANS] i32
    int nb, nb_weights;                 // counts, of so many weights
    Scanned of[SCANS];
};

/* ---- problems ------------------------------------------------------------------------------------------------------ */

void avt_binder_fail(Binder *b, int code)
{
    if (b->status >= 0)
        b->status = code;
    b->nb_problems++;
}

void avt_binder_complain(Binder *b, const char *fmt, ...)
{
    char text[900];
    va_list ap;

    avt_binder_fail(b, AVT_INVALID);
    if (b->nb_problems > BINDER_SHOWN)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    avt_log(b->log, LOG_ERROR, "%s: %s: %s", b->what, avt_ckpt_path(b->ckpt), text);
}

int avt_binder_stopped(const Binder *b)
{
    return b->status < 0 && b->status != AVT_INVALID;
}

/* ---- looking up ---------------------------------------------------------------------------------------------------- */

const CkptTensor *avt_binder_find(const Binder *b, const char *name)
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
    if (b->nb_zero++ < BINDER_SHOWN)
        avt_log(b->log, LOG_WARNING, "%s: %s: every value of tensor %s is zero", b->what, avt_ckpt_path(b->ckpt), t->name);
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
        avt_binder_complain(b, "%s", why);
    else if (ret < 0)
        avt_binder_fail(b, ret);
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

const CkptTensor *avt_binder_take(Binder *b, int nd, const int64_t *dim, const char *name)
{
    const CkptTensor *t = avt_binder_find(b, name);
    char want[160], have[160], in[128];

    avt_shape_text(want, sizeof(want), nd, dim);
    if (!t) {
        avt_binder_complain(b, "tensor %s %s is missing", name, want);
        return NULL;
    }
    b->used[t - avt_ckpt_get(b->ckpt, 0)] = 1;
    avt_shape_text(have, sizeof(have), t->nd, t->dim);
    place(in, b, t);
    if (!same_shape(t, nd, dim)) {
        avt_binder_complain(b, "tensor %s%s: wanted %s, the file has %s %s", name, in, want, avt_dtype_name(t->dtype), have);
    } else if (!is_float(t->dtype) && !avt_is_code(t->dtype)) {
        avt_binder_complain(b, "tensor %s%s: wanted f32, bf16, f16, f8_e4m3 or i8, the file has %s", name, in,
                            avt_dtype_name(t->dtype));
    } else if (!avt_is_code(t->dtype) || take_beside(b, t)) {
        return t;
    }
    return NULL;
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

void *avt_binder_grow(Binder *b, void **p, size_t *have, size_t size)
{
    if (*have >= size)
        return *p;
    avt_freep(p);
    *have = 0;
    *p = avt_malloc(MEM_CKPT, size);
    if (*p)
        *have = size;
    else
        avt_binder_fail(b, AVT_ERR(ENOMEM));
    return *p;
}

Extent avt_binder_extent(const CkptTensor *t, const WeightPart *part)
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

    if (!avt_binder_grow(b, &b->raw, &b->raw_size, run * (size_t)e->nb + 1))
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

    if (!avt_binder_grow(b, &b->raw, &b->raw_size, all + t->size + 1))
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

    if (!avt_binder_grow(b, (void **)&b->scale, &b->scale_size, (2 * rows + 1) * sizeof(*b->scale)))
        return 0;
    return told(b, avt_codes_scales(b->scale, &b->codes, t, why, sizeof(why), b->log), why) >= 0;
}

int avt_binder_finite(Binder *b, const CkptTensor *t, const WeightPart *part)
{
    const Extent e = avt_binder_extent(t, avt_is_code(t->dtype) ? NULL : part);
    const int64_t i = avt_nonfinite(t->dtype, b->raw, e.run * e.nb);
    char have[160], in[128];

    if (i >= 0)
        avt_binder_complain(b, "tensor %s%s: value %lld of %s is not finite (NaN or infinity)", t->name, place(in, b, t),
                            (long long)(e.first + i / e.run * e.stride + i % e.run),
                            avt_shape_text(have, sizeof(have), t->nd, t->dim));
    return i < 0;
}

const void *avt_binder_load(Binder *b, const CkptTensor *t, const WeightPart *part, int unseen)
{
    const Extent e = avt_binder_extent(t, avt_is_code(t->dtype) ? NULL : part);
    const int ret = t->pack ? read_packed(b, t, &e) : read_extent(b, t, &e);

    if (ret < 0) {
        avt_binder_fail(b, ret);
        return NULL;
    }
    if (!unseen && !avt_binder_finite(b, t, part))
        return NULL;
    if (avt_is_code(t->dtype) && !load_scales(b, t))
        return NULL;
    if (!part)
        warn_zero(b, t);
    return b->raw;
}

/* ---- looking for what is not finite, on the device -------------------------------------------------------------------- */

void avt_binder_scan_close(Binder *b)
{
    if (b->scan)
        avt_arena_close(&b->scan->arena);
    avt_freep(&b->scan);
}

static int scan_open(Binder *b)
{
    int ret;

    b->scan = avt_calloc(MEM_CKPT, 1, sizeof(*b->scan));
    ret = b->scan ? avt_arena_open(&b->scan->arena, avt_arena_backend(b->weights), "a look at the weights", SCANS * sizeof(int32_t)) : AVT_ERR(ENOMEM);
    if (ret >= 0)
        b->scan->count = avt_new(b->scan->arena, DT_I32, SCANS);
    else
        avt_binder_fail(b, ret);
    return ret;
}

/* Once more, by the host. */
static void look_again(Binder *b, const Scanned *s)
{
    const WeightPart *part = s->is_part ? &s->part : NULL;

    if (s->dim[0])
        avt_binder_look_merged(b, s);
    else if (avt_binder_load(b, s->t, part, 1))
        avt_binder_finite(b, s->t, part);
}

static int any_set(const int32_t *count, int nb)
{
    for (int i = 0; i < nb; i++)
        if (count[i])
            return 1;
    return 0;
}

static void hear_counts(Binder *b)
{
    struct BinderScan *s = b->scan;
    const int nb = s->nb, nb_weights = s->nb_weights;
    int32_t count[SCANS];
    const int ret = nb ? avt_download(s->count.be, count, avt_rows(s->count, 0, nb)) : 0;

    s->nb = s->nb_weights = 0;
    if (ret < 0)
        avt_binder_fail(b, ret);
    for (int i = 0, at = 0; i < nb_weights && ret >= 0; at += s->of[i++].nb)
        if (any_set(count + at, s->of[i].nb) && !avt_binder_stopped(b))
            look_again(b, &s->of[i]);
}

Tensor avt_binder_counts(Binder *b, int nb)
{
    return b->scan || scan_open(b) >= 0 ? avt_rows(b->scan->count, b->scan->nb, nb) : AVT_NONE;
}

void avt_binder_counted(Binder *b, const Scanned *weight)
{
    struct BinderScan *s = b->scan;

    s->of[s->nb_weights++] = *weight;
    s->nb += weight->nb;
    if (s->nb + LORA_PIECES > SCANS)
        hear_counts(b);
}

void avt_binder_scan(Binder *b, Tensor w, const CkptTensor *t, const WeightPart *part)
{
    const Tensor count = avt_binder_counts(b, 1);

    if (!count.be)
        return;
    avt_count_nonfinite(w.be, count, avt_weight_rows(w));
    avt_binder_counted(b, &(Scanned){ .t = t, .part = part ? *part : (WeightPart){ 0 }, .is_part = part != NULL, .nb = 1 });
}

void avt_binder_scanned(Binder *b)
{
    if (b->scan && !avt_binder_stopped(b))
        hear_counts(b);
    avt_binder_scan_close(b);
}
