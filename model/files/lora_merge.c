/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging a pair: W' = W + scale B A, in f32, some rows of W at a time, by the backend's product.
 *
 *   in the host's f32     rows --up--> y --+= B A^T--> y --down--> rows                      the caller rounds and places them
 *   where weights lie     rows of the file --up--> raw --> y --+= B A^T--> y --> raw --> y   raw: of W's type, so that it is rounded once
 *                                                                            y --> the weight's rows, or their codes
 *
 * The second is for a backend whose weights lie row by row: nothing comes back, and how many numbers are not finite is told where the caller
 * looks for it when it likes. What it takes on the backend is one room, for one pair after another: the backend works in order.
 */
#include "base/mem.h"
#include "files/lora_pair.h"

#define ROWS 512                        // of W that are merged at a time, unless these are more than LORA_PIECES pieces

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
    if (p->scale != 0 && any_nonzero(b, r * out))
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

typedef struct Merge {                  // a pair in the room
    Linear pair;
    int64_t rows;                       // at a time
    Tensor x, y;                        // [rows, r], [rows, in] f32
    Tensor raw;                         // [rows, in] of W's type, unless that is f32
} Merge;

static int64_t rows_at_once(int64_t out)
{
    const int64_t least = (out + LORA_PIECES - 1) / LORA_PIECES, rows = least > ROWS ? least : ROWS;

    return out < rows ? out : rows;
}

int64_t avt_lora_pieces(int64_t out)
{
    const int64_t rows = rows_at_once(out);

    return rows ? (out + rows - 1) / rows : 0;
}

/* Of a pair with a weight whose type is no wider than bf16, or f32 */
static size_t bytes_for(Backend *be, const LoraPair *p)
{
    const int64_t out = p->b->dim[0], in = p->a->dim[1], r = p->a->dim[0], rows = rows_at_once(out);

    return avt_weight_bytes(be, WEIGHT_LINEAR, DT_F32, DT_F32, 2, (const int64_t[]){ in, r }) + (size_t)(rows * (in + r)) * sizeof(float) +
           (size_t)(rows * in) * avt_dtype_size(DT_BF16) + 512;
}

static size_t bytes_for_all(const Lora *l, Backend *be)
{
    size_t most = 0;

    for (int64_t i = 0; i < l->nb; i++) {
        const size_t bytes = bytes_for(be, &l->pair[i]);

        most = bytes > most ? bytes : most;
    }
    return most;
}

int avt_lora_room(Arena **room, const Lora *l, Backend *be)
{
    return avt_arena_open(room, be, "LoRA", bytes_for_all(l, be));
}

/* What was there goes: the backend is through with it before it does what is new. */
static int merge_begin(Merge *m, Arena *room, const Halves *h, DType raw)
{
    avt_arena_release(room, 0);
    m->rows = rows_at_once(h->out);
    m->raw = m->pair.b = AVT_NONE;
    m->pair.w = avt_weight_put(room, WEIGHT_LINEAR, DT_F32, DT_F32, 2, (const int64_t[]){ h->in, h->r }, h->at);
    m->x = avt_new(room, DT_F32, m->rows, h->r);
    m->y = avt_new(room, DT_F32, m->rows, h->in);
    if (raw != DT_F32)
        m->raw = avt_new(room, raw, m->rows, h->in);
    return avt_arena_backend(room)->status;
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

static int merge_in_host(Arena *room, const Halves *h, float *w)
{
    Backend *be = avt_arena_backend(room);
    Merge m;
    int ret = merge_begin(&m, room, h, DT_F32);

    for (int64_t i = 0; i < h->out && ret >= 0; i += m.rows) {
        const int64_t nb = rows_from(&m, h, i);

        avt_upload(be, avt_rows(m.y, 0, nb), w + i * h->in);
        add_pair(be, &m, h, i, nb);
        ret = avt_download(be, w + i * h->in, avt_rows(m.y, 0, nb));
    }
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
static void place_rows(Backend *be, const Merge *m, const Halves *h, Tensor rows, const LoraRows *from, int64_t i, Tensor bad)
{
    const Tensor to = avt_rows(rows, i, rows_from(m, h, i));
    const Tensor y = merge_rows(be, m, h, from, i);

    avt_count_nonfinite(be, avt_rows(bad, i / m->rows, 1), y);
    if (from->dtype == DT_BF16) {
        avt_copy(be, avt_rows(m->raw, 0, to.dim[0]), y);
        avt_copy(be, y, avt_rows(m->raw, 0, to.dim[0]));
    }
    if (to.scale)
        avt_quantize(be, to, y);
    else
        avt_copy(be, to, y);
}

static int merge_in_place(Arena *room, const Halves *h, Tensor rows, const LoraRows *from, Tensor bad)
{
    Backend *be = rows.be;
    Merge m;
    int ret = merge_begin(&m, room, h, from->dtype);

    for (int64_t i = 0; i < h->out && ret >= 0; i += m.rows) {
        place_rows(be, &m, h, rows, from, i, bad);
        ret = be->status;
    }
    return ret;
}

/* ---- the interface ---------------------------------------------------------------------------------------------------- */

int avt_lora_merge_part(Lora *l, const char *module, Arena *room, float *w, int64_t out, int64_t in, const WeightPart *part, const Log *log)
{
    LoraPair *p = avt_lora_pair(l, module);
    Halves h = { .mem = NULL };
    int ret = p ? read_halves(&h, l, p, out, in, part, log) : 0;

    if (ret >= 0 && p) {
        ret = merge_in_host(room, &h, w);
        __atomic_store_n(&p->used, 1, __ATOMIC_RELAXED);
    }
    avt_free(h.mem);
    return ret < 0 ? ret : p != NULL;
}

int avt_lora_merge(Lora *l, const char *module, Backend *be, float *w, int64_t out, int64_t in, const Log *log)
{
    Arena *room = NULL;
    int ret = avt_lora_room(&room, l, be);

    if (ret >= 0)
        ret = avt_lora_merge_part(l, module, room, w, out, in, NULL, log);
    avt_arena_close(&room);
    return ret;
}

int avt_lora_can_place(const Backend *be, DType dtype)
{
    return be->cls->plain_weights && (dtype == DT_F32 || dtype == DT_BF16 || dtype == DT_F16);
}

int avt_lora_place(Lora *l, const char *module, Arena *room, Tensor w, const LoraRows *rows, Tensor bad, const Log *log)
{
    LoraPair *p = avt_lora_pair(l, module);
    Halves h = { .mem = NULL };
    int ret = p ? read_halves(&h, l, p, rows->out, rows->in, rows->part, log) : 0;

    if (ret >= 0 && p) {
        ret = merge_in_place(room, &h, avt_weight_rows(w), rows, bad);
        __atomic_store_n(&p->used, 1, __ATOMIC_RELAXED);
    }
    avt_free(h.mem);
    return ret < 0 ? ret : p != NULL;
}

/* The workspace that a pair's product takes is the backend's peak. */
static int rehearse(Arena *room, const LoraPair *p)
{
    const Halves h = { .out = p->b->dim[0], .in = p->a->dim[1], .r = p->a->dim[0] };
    Backend *dry = avt_arena_backend(room);
    Merge m;
    const int ret = merge_begin(&m, room, &h, DT_BF16);

    if (ret < 0)
        return ret;
    add_pair(dry, &m, &h, 0, m.rows);
    return dry->status;
}

int avt_lora_bytes(const Lora *l, Backend *dry, size_t *bytes)
{
    Arena *room = NULL;
    int ret = avt_lora_room(&room, l, dry);

    for (int64_t i = 0; i < l->nb && ret >= 0; i++)
        ret = rehearse(room, &l->pair[i]);
    avt_arena_close(&room);
    *bytes = bytes_for_all(l, dry) + dry->workspace_peak;
    return ret;
}
