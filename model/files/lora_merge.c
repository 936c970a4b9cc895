/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging a pair: W' = W + scale B A, in f32, some rows of W at a time, by the backend's product.
 *
 *   in the host's f32     rows --up--> y --+= B A^T--> y --down--> rows                      the caller rounds and places them
 *   where weights lie     rows of the file --up--> raw --> y --+= B A^T--> y --> raw --> y   raw: of W's type, so that it is rounded once
 *                                                                            y --> the weight's rows, or their codes
 *
 * The second is for a backend whose weights lie row by row: nothing comes back but how many numbers are not finite, and where some are, the
 * first rows of them.
 */
#include "base/mem.h"
#include "files/lora_pair.h"

#define ROWS 512                        // of W that are merged at a time

/* ---- a pair's halves -------------------------------------------------------------------------------------------------- */

typedef struct Halves {                 // of the rows and columns of W that are wanted, f32
    float *mem;
    const float *b, *at;                // [out, r]; [in, r], scaled
    int64_t out, in, r;
} Halves;

/* to[in, r] = scale * from[r, in]^T; from: columns of rows of `row` numbers */
static void turn(float *to, const float *from, int64_t in, int64_t row, int64_t r, float scale)
{
#pragma omp parallel for
    for (int64_t j = 0; j < in; j++)
        for (int64_t k = 0; k < r; k++)
            to[j * r + k] = scale * from[k * row + j];
}

/* All values of a half as f32, found finite. */
static int read_values(const Lora *l, float *dst, const CkptTensor *t, const Log *log)
{
    const int64_t nb = (int64_t)(t->size / avt_dtype_size(t->dtype));
    void *raw = avt_malloc(MEM_CKPT, t->size);
    int64_t bad;
    int ret = raw ? avt_ckpt_read(t, raw, 0, t->size, log) : AVT_ERR(ENOMEM);

    if (ret >= 0) {
        bad = avt_nonfinite(t->dtype, raw, nb);
        avt_to_f32(dst, t->dtype, raw, 0, nb);
        if (bad >= 0)
            ret = avt_fail(log, AVT_INVALID, "%s: %s: value %lld is not finite", avt_ckpt_path(l->ckpt), t->name, (long long)bad);
    }
    avt_free(raw);
    return ret;
}

static int any_nonzero(const float *v, int64_t nb)
{
    for (int64_t i = 0; i < nb; i++)
        if (v[i] != 0)
            return 1;
    return 0;
}

static int check_shapes(const Lora *l, const LoraPair *p, int64_t out, int64_t in, const Log *log)
{
    char sa[160], sb[160];

    if (p->a->dim[1] == in && p->b->dim[0] == out)
        return 0;
    return avt_fail(log, AVT_INVALID, "%s: pair %s: A is %s and B is %s, but the weight is [%lld, %lld]", avt_ckpt_path(l->ckpt), p->module,
                    avt_shape_text(sa, sizeof(sa), 2, p->a->dim), avt_shape_text(sb, sizeof(sb), 2, p->b->dim), (long long)out, (long long)in);
}

/* The halves of a part of a weight [out, in]; h->mem is the caller's to free, after an error too. */
static int read_halves(Halves *h, Lora *l, LoraPair *p, int64_t out, int64_t in, const WeightPart *part, const Log *log)
{
    const WeightPart rows = part && part->axis == 0 ? *part : (WeightPart){ 0, 0, out };
    const WeightPart columns = part && part->axis == 1 ? *part : (WeightPart){ 1, 0, in };
    const int64_t r = p->a->dim[0];
    float *a, *b, *at;
    int ret = check_shapes(l, p, out, in, log);

    if (ret < 0)
        return ret;
    a = h->mem = avt_malloc(MEM_CKPT, (size_t)(r * (2 * in + out)) * sizeof(*a));
    if (!a)
        return AVT_ERR(ENOMEM);
    b = a + r * in;
    at = b + r * out;
    ret = read_values(l, a, p->a, log);
    if (ret >= 0)
        ret = read_values(l, b, p->b, log);
    if (ret < 0)
        return ret;
    if (any_nonzero(b, r * out))
        __atomic_store_n(&l->nonzero, 1, __ATOMIC_RELAXED);         // ranks may read their layers at the same time
    turn(at, a + columns.first, columns.nb, in, r, (float)p->scale);
    h->b = b + r * rows.first;
    h->at = at;
    h->out = rows.nb;
    h->in = columns.nb;
    h->r = r;
    return 0;
}

/* ---- the product ------------------------------------------------------------------------------------------------------ */

typedef struct Merge {                  // what it takes on the backend
    Arena *arena;
    Linear pair;
    int64_t rows;                       // at a time
    Tensor x, y;                        // [rows, r], [rows, in] f32
    Tensor raw;                         // [rows, in] of W's type, unless that is f32
    Tensor bad;                         // [pieces] i32: numbers that are not finite
} Merge;

static int64_t rows_at_once(const Halves *h)
{
    return h->out < ROWS ? h->out : ROWS;
}

static size_t bytes_for(Backend *be, const Halves *h, DType raw)
{
    const int64_t rows = rows_at_once(h);

    return avt_weight_bytes(be, WEIGHT_LINEAR, DT_F32, DT_F32, 2, (const int64_t[]){ h->in, h->r }) + (size_t)(rows * (h->in + h->r)) * sizeof(float) +
           (size_t)(rows * h->in) * avt_dtype_size(raw) + (size_t)(h->out / rows + 1) * sizeof(int32_t) + 512;
}

static int merge_open(Merge *m, Backend *be, const Halves *h, DType raw)
{
    int ret;

    m->rows = rows_at_once(h);
    m->raw = m->pair.b = AVT_NONE;
    ret = avt_arena_open(&m->arena, be, "LoRA", bytes_for(be, h, raw));
    if (ret < 0)
        return ret;
    m->pair.w = avt_weight_put(m->arena, WEIGHT_LINEAR, DT_F32, DT_F32, 2, (const int64_t[]){ h->in, h->r }, h->at);
    m->x = avt_new(m->arena, DT_F32, m->rows, h->r);
    m->y = avt_new(m->arena, DT_F32, m->rows, h->in);
    if (raw != DT_F32)
        m->raw = avt_new(m->arena, raw, m->rows, h->in);
    m->bad = avt_new(m->arena, DT_I32, (h->out + m->rows - 1) / m->rows);
    return be->status;
}

static int64_t rows_from(const Merge *m, const Halves *h, int64_t i)
{
    return h->out - i < m->rows ? h->out - i : m->rows;
}

/* y of nb rows += B A, rows i and on */
static void add_pair(Backend *be, const Merge *m, const Halves *h, int64_t i, int64_t nb)
{
    const Tensor x = avt_rows(m->x, 0, nb), y = avt_rows(m->y, 0, nb);

    avt_upload(be, x, h->b + i * h->r);
    avt_linear_add(be, y, y, x, &m->pair, AVT_NONE);
}

static int merge_in_host(Backend *be, const Halves *h, float *w)
{
    Merge m;
    int ret = merge_open(&m, be, h, DT_F32);

    for (int64_t i = 0; i < h->out && ret >= 0; i += m.rows) {
        const int64_t nb = rows_from(&m, h, i);

        avt_upload(be, avt_rows(m.y, 0, nb), w + i * h->in);
        add_pair(be, &m, h, i, nb);
        ret = avt_download(be, w + i * h->in, avt_rows(m.y, 0, nb));
    }
    avt_arena_close(&m.arena);
    return ret;
}

/* ---- where weights lie -------------------------------------------------------------------------------------------------- */

/* y = the file's rows i and on, merged */
static Tensor merge_rows(Backend *be, const Merge *m, const Halves *h, const LoraRows *from, int64_t i)
{
    const int64_t nb = rows_from(m, h, i);
    const Tensor y = avt_rows(m->y, 0, nb), raw = m->raw.be ? avt_rows(m->raw, 0, nb) : y;

    avt_upload(be, raw, (const char *)from->raw + (size_t)(i * h->in) * avt_dtype_size(from->dtype));
    if (m->raw.be)
        avt_copy(be, y, raw);
    add_pair(be, m, h, i, nb);
    return y;
}

/* Merged, counted, rounded as the file is, and put. */
static void place_rows(Backend *be, const Merge *m, const Halves *h, Tensor rows, const LoraRows *from, int64_t i)
{
    const Tensor to = avt_rows(rows, i, rows_from(m, h, i));
    const Tensor y = merge_rows(be, m, h, from, i);

    avt_count_nonfinite(be, avt_rows(m->bad, i / m->rows, 1), y);
    if (from->dtype == DT_BF16) {
        avt_copy(be, avt_rows(m->raw, 0, to.dim[0]), y);
        avt_copy(be, y, avt_rows(m->raw, 0, to.dim[0]));
    }
    if (to.scale)
        avt_quantize(be, to, y);
    else
        avt_copy(be, to, y);
}

/* The first number of the rows i and on that is not finite when they are merged, which is done once more. */
static int look_at(Backend *be, const Merge *m, const Halves *h, const LoraRows *from, int64_t i, int64_t *bad)
{
    const int64_t nb = rows_from(m, h, i) * h->in;
    float *v = avt_malloc(MEM_CKPT, (size_t)nb * sizeof(*v));
    const int ret = v ? avt_download(be, v, merge_rows(be, m, h, from, i)) : AVT_ERR(ENOMEM);
    const int64_t first = ret < 0 ? -1 : avt_nonfinite(DT_F32, v, nb);

    *bad = first < 0 ? -1 : i * h->in + first;
    avt_free(v);
    return ret;
}

static int find_bad(Backend *be, const Merge *m, const Halves *h, const LoraRows *from, int64_t *bad)
{
    int32_t *count = avt_calloc(MEM_CKPT, (size_t)m->bad.dim[0], sizeof(*count));
    int ret = count ? avt_download(be, count, m->bad) : AVT_ERR(ENOMEM);

    for (int64_t i = 0; i < m->bad.dim[0] && ret >= 0 && *bad < 0; i++)
        if (count[i])
            ret = look_at(be, m, h, from, i * m->rows, bad);
    avt_free(count);
    return ret;
}

static int merge_in_place(Backend *be, const Halves *h, Tensor rows, const LoraRows *from, int64_t *bad)
{
    Merge m;
    int ret = merge_open(&m, be, h, from->dtype);

    for (int64_t i = 0; i < h->out && ret >= 0; i += m.rows) {
        place_rows(be, &m, h, rows, from, i);
        ret = be->status;
    }
    if (ret >= 0)
        ret = find_bad(be, &m, h, from, bad);
    avt_arena_close(&m.arena);
    return ret;
}

/* ---- the interface ---------------------------------------------------------------------------------------------------- */

int avt_lora_merge_part(Lora *l, const char *module, Backend *be, float *w, int64_t out, int64_t in, const WeightPart *part, const Log *log)
{
    LoraPair *p = avt_lora_pair(l, module);
    Halves h = { .mem = NULL };
    int ret = p ? read_halves(&h, l, p, out, in, part, log) : 0;

    if (ret >= 0 && p) {
        ret = merge_in_host(be, &h, w);
        __atomic_store_n(&p->used, 1, __ATOMIC_RELAXED);
    }
    avt_free(h.mem);
    return ret < 0 ? ret : p != NULL;
}

int avt_lora_merge(Lora *l, const char *module, Backend *be, float *w, int64_t out, int64_t in, const Log *log)
{
    return avt_lora_merge_part(l, module, be, w, out, in, NULL, log);
}

int avt_lora_can_place(const Backend *be, DType dtype)
{
    return be->cls->plain_weights && (dtype == DT_F32 || dtype == DT_BF16 || dtype == DT_F16);
}

int avt_lora_place(Lora *l, const char *module, Tensor w, const LoraRows *rows, int64_t *bad, const Log *log)
{
    LoraPair *p = avt_lora_pair(l, module);
    Halves h = { .mem = NULL };
    int ret = p ? read_halves(&h, l, p, rows->out, rows->in, rows->part, log) : 0;

    *bad = -1;
    if (ret >= 0 && p) {
        ret = merge_in_place(w.be, &h, avt_weight_rows(w), rows, bad);
        __atomic_store_n(&p->used, 1, __ATOMIC_RELAXED);
    }
    avt_free(h.mem);
    return ret < 0 ? ret : p != NULL;
}

/* What a pair takes besides the workspace */
static int rehearse(Backend *dry, const LoraPair *p, size_t *bytes)
{
    const Halves h = { .out = p->b->dim[0], .in = p->a->dim[1], .r = p->a->dim[0] };
    Merge m;
    int ret = merge_open(&m, dry, &h, DT_BF16);

    *bytes = bytes_for(dry, &h, DT_BF16);
    if (ret >= 0) {
        add_pair(dry, &m, &h, 0, m.rows);
        ret = dry->status;
    }
    avt_arena_close(&m.arena);
    return ret;
}

int avt_lora_bytes(const Lora *l, Backend *dry, size_t *bytes)
{
    size_t most = 0;
    int ret = 0;

    for (int64_t i = 0; i < l->nb && ret >= 0; i++) {
        ret = rehearse(dry, &l->pair[i], bytes);
        most = *bytes > most ? *bytes : most;
    }
    *bytes = most + dry->workspace_peak;
    return ret;
}
