/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * umT5 encoder, pre-norm, no biases:
 *
 *   ids -> E[ids] -> { x += o(attention(norm x) + bias[bucket(j - i)]);  x += fc2(fc1(norm x) * gelu(gate(norm x))) } -> norm
 *
 * Layers come from a shelf, the last of them is the final norm; the stream itself is `out`.
 * Traps: no 1/sqrt(hd) on the scores; a bias table of its own in every layer; the activation is the gate's alone. Padding
 * keys weigh nothing, so they are left out instead of masked.
 * Source: text-encoder.md 3; reference wan/modules/t5.py, T5Encoder.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nets/umt5.h"

#define NB_BUCKETS 32
#define EPS 1e-6f

enum { PER_LAYER = 10 };                // tensors of a layer

/* ---- sizes --------------------------------------------------------------------------------------------------- */

/* The two dimensions of tensor `name`. */
static int matrix_size(const Ckpt *ckpt, const char *name, int64_t *rows, int64_t *cols, const Log *log)
{
    const CkptTensor *t = avt_ckpt_find(ckpt, name);

    if (!t)
        return avt_fail(log, AVT_INVALID, "umt5: %s: has no %s, so it is not a umT5 encoder", avt_ckpt_path(ckpt), name);
    if (t->nd != 2 || t->dim[0] < 1 || t->dim[0] > 1 << 24 || t->dim[1] < 1 || t->dim[1] > 1 << 24)
        return avt_fail(log, AVT_INVALID, "umt5: %s: wanted a matrix, %s has something else", name, t->file->name);
    *rows = t->dim[0];
    *cols = t->dim[1];
    return 0;
}

static int count_layers(const Ckpt *ckpt)
{
    int nb = 0;

    for (int64_t i = 0; i < avt_ckpt_nb(ckpt); i++) {
        int layer;

        if (sscanf(avt_ckpt_get(ckpt, i)->name, "blocks.%d.", &layer) == 1 && layer >= nb && layer < 1 << 16)
            nb = layer + 1;
    }
    return nb;
}

/* Shape of the tensor `name` of a umT5 of these sizes (dim[1] 0: a vector). @return 0: it has none of that name */
static int wanted_shape(const Umt5Config *c, const char *name, int64_t dim[2])
{
    const int64_t D = c->dim, A = c->attn_dim, F = c->ffn_dim;
    const struct { const char *name; int64_t rows, cols; } layer[PER_LAYER] = {
        { "norm1.weight", D, 0 }, { "norm2.weight", D, 0 },
        { "attn.q.weight", A, D }, { "attn.k.weight", A, D }, { "attn.v.weight", A, D }, { "attn.o.weight", D, A },
        { "ffn.gate.0.weight", F, D }, { "ffn.fc1.weight", F, D }, { "ffn.fc2.weight", D, F },
        { "pos_embedding.embedding.weight", c->nb_buckets, c->nb_heads },
    };
    int l, end = 0;

    dim[0] = D;
    dim[1] = 0;
    if (!strcmp(name, "norm.weight"))
        return 1;
    if (!strcmp(name, "token_embedding.weight")) {
        dim[0] = c->vocab;
        dim[1] = D;
        return 1;
    }
    if (sscanf(name, "blocks.%d.%n", &l, &end) != 1 || !end || l < 0 || l >= c->nb_layers)
        return 0;
    for (int i = 0; i < PER_LAYER; i++)
        if (!strcmp(name + end, layer[i].name)) {
            dim[0] = layer[i].rows;
            dim[1] = layer[i].cols;
            return 1;
        }
    return 0;
}

/* Every tensor of the file must be one of the encoder's, and their number the encoder's. */
static int check_tensors(const Umt5Config *c, const Ckpt *ckpt, const Log *log)
{
    const int64_t wanted = 2 + (int64_t)PER_LAYER * c->nb_layers;

    for (int64_t i = 0; i < avt_ckpt_nb(ckpt); i++) {
        const CkptTensor *t = avt_ckpt_get(ckpt, i);
        int64_t dim[2];
        char want[64], have[64];

        if (!wanted_shape(c, t->name, dim))
            return avt_fail(log, AVT_INVALID, "umt5: %s: %s is no tensor of a umT5 encoder", t->file->name, t->name);
        if (t->nd != (dim[1] ? 2 : 1) || t->dim[0] != dim[0] || (dim[1] && t->dim[1] != dim[1]))
            return avt_fail(log, AVT_INVALID, "umt5: %s: wanted %s, %s has %s", t->name,
                            avt_shape_text(want, sizeof(want), dim[1] ? 2 : 1, dim), t->file->name,
                            avt_shape_text(have, sizeof(have), t->nd, t->dim));
    }
    if (avt_ckpt_nb(ckpt) != wanted)
        return avt_fail(log, AVT_INVALID, "umt5: %s: wanted %lld tensors for %d layers, found %lld; get the file again",
                        avt_ckpt_path(ckpt), (long long)wanted, c->nb_layers, (long long)avt_ckpt_nb(ckpt));
    return 0;
}

int avt_umt5_config(Umt5Config *cfg, const Ckpt *ckpt, const Log *log)
{
    int64_t dim, attn, attn_in, ffn, ffn_in, buckets, heads;

    memset(cfg, 0, sizeof(*cfg));
    if (matrix_size(ckpt, "token_embedding.weight", &cfg->vocab, &dim, log) < 0 ||
        matrix_size(ckpt, "blocks.0.attn.q.weight", &attn, &attn_in, log) < 0 ||
        matrix_size(ckpt, "blocks.0.ffn.fc1.weight", &ffn, &ffn_in, log) < 0 ||
        matrix_size(ckpt, "blocks.0.pos_embedding.embedding.weight", &buckets, &heads, log) < 0)
        return AVT_INVALID;
    if (buckets != NB_BUCKETS)
        return avt_fail(log, AVT_INVALID, "umt5: position embedding has %lld buckets, only 32 are supported", (long long)buckets);
    if (attn % heads)
        return avt_fail(log, AVT_INVALID, "umt5: attention width %lld does not divide into %lld heads", (long long)attn,
                        (long long)heads);
    cfg->dim = (int)dim;
    cfg->attn_dim = (int)attn;
    cfg->ffn_dim = (int)ffn;
    cfg->nb_heads = (int)heads;
    cfg->nb_buckets = (int)buckets;
    cfg->nb_layers = count_layers(ckpt);
    cfg->dtype = avt_ckpt_find(ckpt, "blocks.0.attn.q.weight")->dtype == DT_BF16 ? DT_BF16 : DT_F32;      // as the binder puts it
    return check_tensors(cfg, ckpt, log);
}

int avt_umt5_bucket(int64_t rel)
{
    static const int16_t first[] = { 8, 12, 16, 23, 32, 46, 64, 91 };       // smallest distance of buckets 8 .. 15
    const int64_t d = rel < 0 ? -rel : rel;
    int bucket = (int)(d < 8 ? d : 7);

    for (int i = 0; i < 8 && d >= first[i]; i++)
        bucket = 8 + i;
    return bucket + (rel > 0 ? NB_BUCKETS / 2 : 0);
}

/* ---- forward ------------------------------------------------------------------------------------------------- */

typedef struct Layer {
    Tensor norm1, norm2;                // [D]
    Linear q, k, v, o;                  // [A, D], [D, A]
    Linear gate, fc1, fc2;              // [F, D], [D, F]
    Tensor bias;                        // [buckets, NH]
} Layer;                                // the last one: norm1 alone

typedef struct Pass {                   // what all layers share
    const Umt5Config *cfg;
    int64_t n, keys;
    Tensor x;                           // [n, D]: the stream
    Tensor u;                           // [n, D]
    Tensor q, a;                        // [n, A]
    Tensor k, v;                        // [keys, A]
    Tensor gate, up;                    // [n, F]
    Tensor buckets;                     // [n + keys - 1] i32: bucket of key - query = index - (n - 1)
    Tensor rel;                         // [n + keys - 1, NH]
} Pass;

static Linear bind_linear(Binder *b, int l, const char *name, int64_t out, int64_t in)
{
    return avt_bind_linear(b, out, in, 0, "blocks.%d.%s", l, name);
}

static int bind_layer(void *layer, Binder *b, const void *opaque, int l)
{
    const Umt5Config *c = opaque;
    Layer *w = layer;

    memset(w, 0, sizeof(*w));
    if (l == c->nb_layers) {
        w->norm1 = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(c->dim), "norm.weight");
        return avt_binder_finish(b, 1);
    }
    w->norm1 = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(c->dim), "blocks.%d.norm1.weight", l);
    w->norm2 = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(c->dim), "blocks.%d.norm2.weight", l);
    w->q = bind_linear(b, l, "attn.q", c->attn_dim, c->dim);
    w->k = bind_linear(b, l, "attn.k", c->attn_dim, c->dim);
    w->v = bind_linear(b, l, "attn.v", c->attn_dim, c->dim);
    w->o = bind_linear(b, l, "attn.o", c->dim, c->attn_dim);
    w->gate = bind_linear(b, l, "ffn.gate.0", c->ffn_dim, c->dim);
    w->fc1 = bind_linear(b, l, "ffn.fc1", c->ffn_dim, c->dim);
    w->fc2 = bind_linear(b, l, "ffn.fc2", c->dim, c->ffn_dim);
    w->bias = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(c->nb_buckets, c->nb_heads), "blocks.%d.pos_embedding.embedding.weight", l);
    return avt_binder_finish(b, 1);
}

static Tensor heads(const Pass *p, Tensor t)
{
    return avt_view(t, t.dim[0], p->cfg->nb_heads, p->cfg->attn_dim / p->cfg->nb_heads);
}

static void layer_forward(Backend *be, const Pass *p, const Layer *w)
{
    const Tensor key_rows = avt_rows(p->u, 0, p->keys);

    avt_norm_rope(be, p->u, p->x, w->norm1, AVT_NONE, EPS);
    avt_linear(be, p->q, p->u, &w->q, ACT_NONE);
    avt_linear(be, p->k, key_rows, &w->k, ACT_NONE);
    avt_linear(be, p->v, key_rows, &w->v, ACT_NONE);
    avt_gather(be, p->rel, w->bias, p->buckets);
    avt_attention(be, heads(p, p->a), heads(p, p->q), heads(p, p->k), heads(p, p->v), AVT_NONE, AVT_NONE, p->rel, 1);
    avt_linear_add(be, p->x, p->x, p->a, &w->o, AVT_NONE);

    avt_norm_rope(be, p->u, p->x, w->norm2, AVT_NONE, EPS);
    avt_linear(be, p->gate, p->u, &w->gate, ACT_GELU_TANH);
    avt_linear(be, p->up, p->u, &w->fc1, ACT_NONE);
    avt_mul(be, p->up, p->up, p->gate);
    avt_linear_add(be, p->x, p->x, p->up, &w->fc2, AVT_NONE);
}

static int run_layers(Backend *be, Backend *copy, Arena *scratch, const Umt5 *t, const Pass *p)
{
    const Layer *w;
    ShelfReader r;
    int ret = avt_shelf_begin(&r, t->shelf, be, copy, scratch, 0);

    for (int l = 0; l <= p->cfg->nb_layers && ret >= 0 && (w = avt_shelf_layer(&r, l)); l++)
        if (l < p->cfg->nb_layers)
            layer_forward(be, p, w);
        else
            avt_norm_rope(be, p->x, p->x, w->norm1, AVT_NONE, EPS);
    return avt_shelf_end(&r);
}

/* x[i] = E[ids[i]]: the rows of the prompt straight out of the file. */
static int embed(Backend *be, const Ckpt *ckpt, const Pass *p, const int32_t *ids)
{
    const CkptTensor *e = avt_ckpt_find(ckpt, "token_embedding.weight");
    const int64_t D = p->cfg->dim;
    const size_t bytes = e ? avt_ckpt_size(e, D) : 0;
    float *row = avt_malloc(MEM_NET, (size_t)D * sizeof(*row) + bytes);
    void *raw = row + D;
    int ret = row ? 0 : AVT_ERR(ENOMEM);

    if (row && (!e || e->nd != 2 || e->dim[0] != p->cfg->vocab || e->dim[1] != D ||
                (e->dtype != DT_F32 && e->dtype != DT_BF16 && e->dtype != DT_F16)))
        ret = avt_fail(be->log, AVT_INVALID, "umt5: %s: wanted token_embedding.weight [%lld, %lld] of f32, bf16 or f16",
                       avt_ckpt_path(ckpt), (long long)p->cfg->vocab, (long long)D);
    for (int64_t i = 0; i < p->n && ret >= 0; i++) {
        if (ids[i] < 0 || ids[i] >= p->cfg->vocab) {
            ret = avt_fail(be->log, AVT_ERR(EINVAL), "umt5: token %d is outside the vocabulary of %lld; the tokenizer and the "
                           "encoder are not of one model", ids[i], (long long)p->cfg->vocab);
            break;
        }
        ret = avt_ckpt_read(e, raw, (size_t)ids[i] * bytes, bytes, be->log);
        if (ret < 0)
            break;
        avt_ckpt_widen(row, e, raw, D);
        for (int64_t d = 0; d < D && ret >= 0; d++)
            if (!isfinite(row[d]))
                ret = avt_fail(be->log, AVT_INVALID, "umt5: token_embedding.weight: row %d is not finite in %s", ids[i], e->file->name);
        avt_upload(be, avt_rows(p->x, i, 1), row);
    }
    avt_free(row);
    return ret;
}

static int upload_buckets(Backend *be, Pass *p)
{
    const int64_t nb = p->n + p->keys - 1;
    int32_t *v = avt_malloc(MEM_NET, (size_t)nb * sizeof(*v));

    if (!v)
        return AVT_ERR(ENOMEM);
    for (int64_t i = 0; i < nb; i++)
        v[i] = avt_umt5_bucket(i - (p->n - 1));
    avt_upload(be, p->buckets, v);
    avt_free(v);
    return 0;
}

/* One slot: prompts are rare, and their layers are on the way for longer than they are at work. */
int avt_umt5_open(Umt5 *t, const Umt5Config *cfg, const Ckpt *ckpt, Backend *be, size_t keep, int in_place)
{
    const ShelfRoom room = { in_place ? keep : 0, in_place ? 0 : keep, 1 };

    *t = (Umt5){ .cfg = *cfg, .ckpt = ckpt };
    return avt_shelf_open(&t->shelf, &(ShelfBook){ .ckpt = ckpt, .what = "umt5", .dtype = cfg->dtype, .nb_layers = cfg->nb_layers + 1,
                                                   .size = sizeof(Layer), .bind = bind_layer, .opaque = &t->cfg }, be, room, NULL);
}

void avt_umt5_close(Umt5 *t)
{
    avt_shelf_close(&t->shelf);
}

int avt_umt5_encode(Backend *be, Backend *copy, Arena *scratch, const Umt5 *t, Tensor out, const int32_t *ids, int64_t n, int64_t keys)
{
    const Umt5Config *cfg = &t->cfg;
    const size_t mark = avt_arena_mark(scratch);
    int ret;

    AVT_REQUIRE(be->log, n >= 1 && keys >= 1 && keys <= n);
    AVT_REQUIRE(be->log, out.nd == 2 && out.dim[0] == n && out.dim[1] == cfg->dim);
    Pass p = {
        .cfg = cfg, .n = n, .keys = keys, .x = out,
        .u = avt_new(scratch, be->act, n, cfg->dim),
        .q = avt_new(scratch, be->act, n, cfg->attn_dim),
        .a = avt_new(scratch, be->act, n, cfg->attn_dim),
        .k = avt_new(scratch, be->act, keys, cfg->attn_dim),
        .v = avt_new(scratch, be->act, keys, cfg->attn_dim),
        .gate = avt_new(scratch, be->act, n, cfg->ffn_dim),
        .up = avt_new(scratch, be->act, n, cfg->ffn_dim),
        .buckets = avt_new(scratch, DT_I32, n + keys - 1),
        .rel = avt_new(scratch, DT_F32, n + keys - 1, cfg->nb_heads),
    };

    ret = upload_buckets(be, &p);
    if (ret >= 0 && t->ckpt)
        ret = embed(be, t->ckpt, &p, ids);
    if (ret >= 0)
        ret = run_layers(be, copy, scratch, t, &p);
    avt_arena_release(scratch, mark);
    return ret;
}
