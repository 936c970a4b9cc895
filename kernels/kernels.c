/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The door: checks shapes, dtypes, devices and overlap, writes the call down as data, hands it to the backend.
 *
 * A check that fails names the op and the condition, once; the backend keeps EINVAL and ignores what follows.
 */
#include <string.h>

#include "kernels.h"

#define CHECK(be, op, cond)                                                                           \
    do {                                                                                              \
        if (!(cond)) {                                                                                \
            avt_backend_fail(be, AVT_ERR(EINVAL), "%s: %s does not hold", avt_op_name(op), #cond);    \
            return;                                                                                   \
        }                                                                                             \
    } while (0)

static int is_f32(Tensor t)
{
    return t.be && t.dtype == DT_F32 && !t.packed;
}

/* An activation: f32, or the backend's own type. */
static int is_act(const Backend *be, Tensor t)
{
    return t.be && (t.dtype == DT_F32 || t.dtype == be->act) && !t.packed && !t.scale;
}

static int is_act_or_none(const Backend *be, Tensor t)
{
    return !t.be || is_act(be, t);
}

/* What products take besides activations. */
static int is_codes(Tensor t)
{
    return t.be && avt_is_code(t.dtype) && t.scale && !t.packed && t.nd > 0;
}

static int is_factor(const Backend *be, Tensor t)
{
    return is_act(be, t) || is_codes(t);
}

/* Keys and values that an op writes: a ring may have another type than the activations; weights that are looked at. */
static int is_key(Tensor t)
{
    return t.be && (t.dtype == DT_F32 || t.dtype == DT_BF16) && !t.packed && !t.scale;
}

/* What attention reads, and what is written for it: the same, or codes that are not rotated. */
static int is_kept(Tensor t)
{
    return is_key(t) || (is_codes(t) && t.dtype == DT_F8_E4M3);
}

static int is_vec(Tensor t, int64_t n)                              // n values of f32
{
    return is_f32(t) && avt_numel(t) == n;
}

static int is_vec_or_none(Tensor t, int64_t n)
{
    return !t.be || is_vec(t, n);
}

/* A weight that was put for this use and for activations like x. */
static int is_weight(Tensor w, WeightUse use, int nd, Tensor x)
{
    return w.be && w.nd == nd && w.packed == 1 + (int)use && w.act == x.dtype;
}

static int overlap(Tensor a, Tensor b)
{
    const char *p = a.data, *q = b.data;

    return p && q && p < q + avt_nbytes(b) && q < p + avt_nbytes(a);
}

/* Where an op may find a tensor: on its own device; a copy may also read or write another device of the class. */
static int is_near(const Backend *be, OpId op, Tensor t)
{
    return !strcmp(t.be->device, be->device) || (op == OP_COPY && t.be->cls == be->cls);
}

/* Operands where the backend finds them, none overlapping the result; those in `same` (a bit mask) may be the result itself. */
static void submit(Backend *be, const OpCall *c, unsigned same)
{
    if (be->status < 0)
        return;
    CHECK(be, c->op, c->out.be && is_near(be, c->op, c->out));
    for (int i = 0; i < OP_MAX_IN; i++) {
        const Tensor t = c->in[i];

        if (!t.be)
            continue;
        CHECK(be, c->op, is_near(be, c->op, t));
        if (same >> i & 1 && t.data == c->out.data && avt_nbytes(t) == avt_nbytes(c->out))
            continue;
        CHECK(be, c->op, t.packed || !overlap(c->out, t));
    }
    avt_backend_run(be, c);
}

void avt_copy(Backend *be, Tensor out, Tensor x)
{
    CHECK(be, OP_COPY, avt_numel(out) == avt_numel(x) && !out.packed && !x.packed);
    CHECK(be, OP_COPY, out.dtype == x.dtype || (out.dtype <= DT_F16 && x.dtype <= DT_F16));
    submit(be, &(OpCall){ .op = OP_COPY, .out = out, .in = { x } }, 0);
}

void avt_fill(Backend *be, Tensor out, float value)
{
    CHECK(be, OP_FILL, is_key(out));
    submit(be, &(OpCall){ .op = OP_FILL, .out = out, .u.value = value }, 0);
}

void avt_quantize(Backend *be, Tensor out, Tensor x)
{
    CHECK(be, OP_QUANTIZE, is_codes(out) && is_key(x) && avt_numel(out) == avt_numel(x) && avt_last_dim(out) == avt_last_dim(x));
    submit(be, &(OpCall){ .op = OP_QUANTIZE, .out = out, .in = { x } }, 0);
}

Tensor avt_factor(Backend *be, Arena *scratch, const Linear *l, Tensor x)
{
    Tensor codes;

    if (!avt_is_code(l->w.act) || x.scale)
        return x;
    codes = avt_new_codes(scratch, l->w.act, x.nd, x.dim);
    avt_quantize(be, codes, x);
    return codes;
}

Tensor avt_new_factor(Arena *scratch, const Linear *l, int nd, const int64_t *dim)
{
    return avt_is_code(l->w.act) ? avt_new_codes(scratch, l->w.act, nd, dim) : avt_new_dims(scratch, avt_arena_backend(scratch)->act, nd, dim);
}

static void linear(Backend *be, Tensor out, Tensor res, Tensor x, const Linear *l, Tensor gate, Act act)
{
    const int64_t n = l->w.dim[0], k = l->w.dim[1];

    CHECK(be, OP_LINEAR, is_factor(be, x) && is_weight(l->w, WEIGHT_LINEAR, 2, x) && avt_last_dim(x) == k);
    CHECK(be, OP_LINEAR, (is_key(out) || (is_codes(out) && !res.be)) && avt_last_dim(out) == n && avt_rows_of(x) == avt_rows_of(out));
    CHECK(be, OP_LINEAR, is_vec_or_none(l->b, n) && is_vec_or_none(gate, n));
    CHECK(be, OP_LINEAR, is_act_or_none(be, res) && (!res.be || (res.dtype == out.dtype && avt_numel(res) == avt_numel(out))));
    submit(be, &(OpCall){ .op = OP_LINEAR, .out = out, .in = { x, l->w, l->b, gate, res }, .u.act = act }, 1 << 4);
}

void avt_linear(Backend *be, Tensor out, Tensor x, const Linear *l, Act act)
{
    linear(be, out, AVT_NONE, x, l, AVT_NONE, act);
}

void avt_linear_add(Backend *be, Tensor out, Tensor res, Tensor x, const Linear *l, Tensor gate)
{
    CHECK(be, OP_LINEAR, res.be);
    linear(be, out, res, x, l, gate, ACT_NONE);
}

void avt_linear_group(Backend *be, int nb, const Tensor *out, Tensor x, const Linear *const *l)
{
    OpCall c = { .op = OP_LINEAR_GROUP, .in = { x } };

    CHECK(be, OP_LINEAR_GROUP, nb > 1 && nb <= OP_MAX_OUT && is_factor(be, x));
    for (int i = 0; i < nb; i++) {
        const Tensor w = l[i]->w, o = out[i];

        CHECK(be, OP_LINEAR_GROUP, is_weight(w, WEIGHT_LINEAR, 2, x) && avt_last_dim(x) == w.dim[1] && is_vec_or_none(l[i]->b, w.dim[0]));
        CHECK(be, OP_LINEAR_GROUP, is_key(o) && is_near(be, OP_LINEAR_GROUP, o) && avt_last_dim(o) == w.dim[0] && avt_rows_of(o) == avt_rows_of(x));
        CHECK(be, OP_LINEAR_GROUP, !overlap(o, x) && (!l[i]->b.be || !overlap(o, l[i]->b)));
        for (int j = 0; j < i; j++)
            CHECK(be, OP_LINEAR_GROUP, !overlap(o, out[j]));
        *(i ? &c.more[i - 1] : &c.out) = o;
        c.group.w[i] = w;
        c.group.b[i] = l[i]->b;
    }
    submit(be, &c, 0);
}

void avt_norm_rope_part(Backend *be, Tensor out, Tensor x, Tensor w, Tensor table, float eps, Tensor squares, int64_t width)
{
    const int64_t D = avt_last_dim(x), rows = avt_rows_of(x);

    CHECK(be, OP_NORM_ROPE, is_act(be, x) && is_kept(out) && avt_numel(out) == avt_numel(x) && is_vec(w, D) && width >= D);
    CHECK(be, OP_NORM_ROPE, !out.scale || D % avt_last_dim(out) == 0);
    CHECK(be, OP_NORM_ROPE, !table.be || (is_f32(table) && table.nd == 3 && table.dim[0] == rows && table.dim[2] == 2));
    CHECK(be, OP_NORM_ROPE, !table.be || D % (2 * table.dim[1]) == 0);
    CHECK(be, OP_NORM_ROPE, squares.be ? is_vec(squares, rows) : width == D);
    submit(be, &(OpCall){ .op = OP_NORM_ROPE, .out = out, .in = { x, w, table, squares },
                          .u.norm = { .eps = eps, .width = width } }, 1);
}

void avt_norm_rope(Backend *be, Tensor out, Tensor x, Tensor w, Tensor table, float eps)
{
    avt_norm_rope_part(be, out, x, w, table, eps, AVT_NONE, avt_last_dim(x));
}

void avt_squares(Backend *be, Tensor out, Tensor x)
{
    CHECK(be, OP_SQUARES, is_act(be, x) && is_vec(out, avt_rows_of(x)));
    submit(be, &(OpCall){ .op = OP_SQUARES, .out = out, .in = { x } }, 0);
}

void avt_channel_norm(Backend *be, Tensor out, Tensor x, Tensor w, Act act)
{
    CHECK(be, OP_CHANNEL_NORM, is_act(be, out) && is_act(be, x) && avt_same_shape(out, x) && is_vec(w, avt_last_dim(x)));
    submit(be, &(OpCall){ .op = OP_CHANNEL_NORM, .out = out, .in = { x, w }, .u.norm.act = act }, 1);
}

void avt_layer_norm(Backend *be, Tensor out, Tensor x, Tensor w, Tensor b, float eps, Act act)
{
    const int64_t D = avt_last_dim(x);

    CHECK(be, OP_LAYER_NORM, is_factor(be, out) && is_act(be, x) && avt_numel(out) == avt_numel(x) && (!out.scale || avt_last_dim(out) == D));
    CHECK(be, OP_LAYER_NORM, is_vec_or_none(w, D) && is_vec_or_none(b, D));
    submit(be, &(OpCall){ .op = OP_LAYER_NORM, .out = out, .in = { x, w, b }, .u.norm = { .act = act, .eps = eps } }, 1);
}

void avt_norm_modulate(Backend *be, Tensor out, Tensor x, Tensor scale, Tensor shift, float eps)
{
    const int64_t D = avt_last_dim(x), groups = D ? avt_numel(scale) / D : 1;

    CHECK(be, OP_LAYER_NORM, is_factor(be, out) && is_act(be, x) && avt_numel(out) == avt_numel(x) && (!out.scale || avt_last_dim(out) == D));
    CHECK(be, OP_LAYER_NORM, groups > 0 && avt_rows_of(x) % groups == 0 && is_vec(scale, groups * D) && is_vec(shift, groups * D));
    submit(be, &(OpCall){ .op = OP_LAYER_NORM, .out = out, .in = { x, scale, shift }, .u.norm = { .eps = eps, .plus = 1 } }, 1);
}

int64_t avt_rope_tokens(const RopeGrid *grid)
{
    int64_t n = 0;

    for (int i = 0; i < grid->nb_groups; i++)
        n += (int64_t)grid->group[i].f_cnt * grid->group[i].h_cnt * grid->group[i].w_cnt;
    return n;
}

void avt_rope_table(Backend *be, Tensor out, const RopeGrid *grid)
{
    CHECK(be, OP_ROPE_TABLE, is_f32(out) && out.nd == 3 && out.dim[2] == 2 && out.dim[0] == avt_rope_tokens(grid));
    submit(be, &(OpCall){ .op = OP_ROPE_TABLE, .out = out, .u.rope = *grid }, 0);
}

void avt_rope(Backend *be, Tensor out, Tensor x, Tensor table)
{
    CHECK(be, OP_ROPE, is_kept(out) && is_key(x) && x.nd == 3 && avt_same_shape(out, x));
    CHECK(be, OP_ROPE, is_f32(table) && table.nd == 3 && table.dim[0] == x.dim[0] && 2 * table.dim[1] == x.dim[2]);
    submit(be, &(OpCall){ .op = OP_ROPE, .out = out, .in = { x, table } }, 1);
}

/* Do k and v, one segment, suit q (both without the dimension of a batch)? What is rotated meets what is. */
static int is_segment(Tensor k, Tensor v, Tensor q)
{
    const int types = q.scale ? is_codes(k) && k.dtype == q.dtype : is_kept(k) && (k.dtype == v.dtype || is_codes(v));

    return types && is_kept(v) && k.nd == 3 && avt_same_shape(k, v) && k.dim[1] == q.dim[1] && k.dim[2] == q.dim[2];
}

static Tensor first_of(Tensor t, int batched)
{
    return batched ? avt_at(t, 0) : t;
}

void avt_attention(Backend *be, Tensor out, Tensor q, Tensor k1, Tensor v1, Tensor k2, Tensor v2, Tensor rel, float scale)
{
    const int batch = q.nd == 4;
    const Tensor one = first_of(q, batch), key = first_of(k1, batch), value = first_of(v1, batch);

    CHECK(be, OP_ATTENTION, is_act(be, out) && (is_act(be, q) || (is_codes(q) && q.dtype == DT_I8)) && one.nd == 3 && avt_same_shape(out, q));
    CHECK(be, OP_ATTENTION, is_segment(key, value, one) && key.dim[0] > 0);
    CHECK(be, OP_ATTENTION, !batch || (k1.dim[0] == q.dim[0] && v1.dim[0] == q.dim[0] && !k2.be && !rel.be));
    CHECK(be, OP_ATTENTION, !k2.be || is_segment(k2, v2, one));
    CHECK(be, OP_ATTENTION, !rel.be || (is_vec(rel, (q.dim[0] + k1.dim[0] - 1) * q.dim[1]) && !k2.be));
    submit(be, &(OpCall){ .op = OP_ATTENTION, .out = out, .in = { q, k1, v1, k2, v2, rel }, .u.attention.scale = scale }, 0);
}

void avt_conv3d(Backend *be, Tensor out, Tensor x, Tensor prev, const Conv *c, Tensor res, ConvSpec s)
{
    const int64_t *w = c->w.dim, p = prev.be ? prev.dim[0] : 0;

    CHECK(be, OP_CONV3D, is_act(be, out) && is_act(be, x) && out.nd == 4 && x.nd == 4 && is_weight(c->w, WEIGHT_CONV3D, 5, x));
    CHECK(be, OP_CONV3D, x.dim[3] == w[1] && out.dim[3] == w[0] && is_vec_or_none(c->b, w[0]));
    CHECK(be, OP_CONV3D, !prev.be || (is_act(be, prev) && prev.dtype == x.dtype && prev.nd == 4));
    CHECK(be, OP_CONV3D, !prev.be || !memcmp(prev.dim + 1, x.dim + 1, 3 * sizeof(int64_t)));
    CHECK(be, OP_CONV3D, s.pad_t + p + x.dim[0] >= w[2] && out.dim[0] == (s.pad_t + p + x.dim[0] - w[2]) / s.stride_t + 1);
    CHECK(be, OP_CONV3D, out.dim[1] == (s.pad0 + x.dim[1] + s.pad1 - w[3]) / s.stride + 1);
    CHECK(be, OP_CONV3D, out.dim[2] == (s.pad0 + x.dim[2] + s.pad1 - w[4]) / s.stride + 1);
    CHECK(be, OP_CONV3D, !res.be || (is_act(be, res) && res.dtype == out.dtype && avt_same_shape(res, out)));
    CHECK(be, OP_CONV3D, s.frame >= 0);
    submit(be, &(OpCall){ .op = OP_CONV3D, .out = out, .in = { x, prev, c->w, c->b, res }, .u.conv = s }, 1 << 4);
}

void avt_conv1d(Backend *be, Tensor out, Tensor x, const Conv *c, Conv1dSpec s, Act act)
{
    const int64_t *w = c->w.dim;

    s.act = act;
    CHECK(be, OP_CONV1D, is_act(be, out) && is_act(be, x) && out.nd == 2 && x.nd == 2 && is_weight(c->w, WEIGHT_CONV1D, 3, x));
    CHECK(be, OP_CONV1D, s.groups > 0 && x.dim[1] == w[1] * s.groups && out.dim[1] == w[0] && w[0] % s.groups == 0);
    CHECK(be, OP_CONV1D, s.pad0 + x.dim[0] + s.pad1 >= w[2]);
    CHECK(be, OP_CONV1D, out.dim[0] == (s.pad0 + x.dim[0] + s.pad1 - w[2]) / s.stride + 1);
    CHECK(be, OP_CONV1D, is_vec_or_none(c->b, w[0]));
    submit(be, &(OpCall){ .op = OP_CONV1D, .out = out, .in = { x, c->w, c->b }, .u.conv1d = s }, 0);
}

void avt_upsample(Backend *be, Tensor out, Tensor x)
{
    CHECK(be, OP_UPSAMPLE, is_act(be, out) && out.dtype == x.dtype && out.nd == 4 && x.nd == 4);
    CHECK(be, OP_UPSAMPLE, out.dim[0] == x.dim[0] && out.dim[3] == x.dim[3]);
    CHECK(be, OP_UPSAMPLE, out.dim[1] == 2 * x.dim[1] && out.dim[2] == 2 * x.dim[2]);
    submit(be, &(OpCall){ .op = OP_UPSAMPLE, .out = out, .in = { x } }, 0);
}

void avt_act(Backend *be, Tensor out, Tensor x, Act act)
{
    CHECK(be, OP_ACT, is_act(be, out) && is_act(be, x) && avt_numel(out) == avt_numel(x));
    submit(be, &(OpCall){ .op = OP_ACT, .out = out, .in = { x }, .u.act = act }, 1);
}

static void elementwise(Backend *be, OpId op, Tensor out, Tensor a, Tensor b)
{
    CHECK(be, op, is_act(be, out) && is_act(be, a) && is_act(be, b) && avt_numel(out) == avt_numel(a));
    CHECK(be, op, avt_numel(b) == avt_numel(a) || avt_numel(b) == avt_last_dim(a));
    submit(be, &(OpCall){ .op = op, .out = out, .in = { a, b } }, 3);
}

void avt_add(Backend *be, Tensor out, Tensor a, Tensor b)
{
    elementwise(be, OP_ADD, out, a, b);
}

void avt_mul(Backend *be, Tensor out, Tensor a, Tensor b)
{
    elementwise(be, OP_MUL, out, a, b);
}

void avt_axpy(Backend *be, Tensor out, float alpha, Tensor x, float beta, Tensor y)
{
    CHECK(be, OP_AXPY, is_act(be, out) && is_act(be, x) && is_act(be, y));
    CHECK(be, OP_AXPY, avt_numel(out) == avt_numel(x) && avt_numel(x) == avt_numel(y));
    submit(be, &(OpCall){ .op = OP_AXPY, .out = out, .in = { x, y }, .u.axpy = { alpha, beta } }, 3);
}

void avt_gate_add(Backend *be, Tensor out, Tensor x, Tensor y, Tensor mask)
{
    CHECK(be, OP_GATE_ADD, is_act(be, out) && is_act(be, x) && is_act(be, y) && is_vec(mask, avt_rows_of(x)));
    CHECK(be, OP_GATE_ADD, avt_numel(out) == avt_numel(x) && avt_numel(x) == avt_numel(y));
    submit(be, &(OpCall){ .op = OP_GATE_ADD, .out = out, .in = { x, y, mask } }, 1);
}

void avt_gather(Backend *be, Tensor out, Tensor table, Tensor ids)
{
    CHECK(be, OP_GATHER, is_act(be, out) && is_act(be, table) && ids.dtype == DT_I32 && out.nd == 2 && table.nd == 2);
    CHECK(be, OP_GATHER, out.dim[0] == avt_numel(ids) && out.dim[1] == table.dim[1]);
    submit(be, &(OpCall){ .op = OP_GATHER, .out = out, .in = { table, ids } }, 0);
}

void avt_lerp_rows(Backend *be, Tensor out, Tensor x, Tensor i, Tensor w)
{
    CHECK(be, OP_LERP_ROWS, is_act(be, out) && is_act(be, x) && out.nd == 2 && x.nd == 2 && out.dim[1] == x.dim[1] && x.dim[0] > 0);
    CHECK(be, OP_LERP_ROWS, i.dtype == DT_I32 && avt_numel(i) == out.dim[0] && is_vec(w, out.dim[0]));
    submit(be, &(OpCall){ .op = OP_LERP_ROWS, .out = out, .in = { x, i, w } }, 0);
}

void avt_layer_mix(Backend *be, Tensor out, Tensor x, Tensor w)
{
    CHECK(be, OP_LAYER_MIX, is_act(be, out) && is_act(be, x) && x.nd == 3 && out.nd == 2);
    CHECK(be, OP_LAYER_MIX, out.dim[0] == x.dim[0] && out.dim[1] == x.dim[2] && is_vec(w, x.dim[1]));
    submit(be, &(OpCall){ .op = OP_LAYER_MIX, .out = out, .in = { x, w } }, 0);
}

void avt_transpose(Backend *be, Tensor out, Tensor x)
{
    CHECK(be, OP_TRANSPOSE, is_act(be, out) && out.dtype == x.dtype && x.nd == 3 && out.nd == 3);
    CHECK(be, OP_TRANSPOSE, out.dim[0] == x.dim[1] && out.dim[1] == x.dim[0] && out.dim[2] == x.dim[2]);
    submit(be, &(OpCall){ .op = OP_TRANSPOSE, .out = out, .in = { x } }, 0);
}

void avt_patchify(Backend *be, Tensor out, Tensor x, int pt, int ph, int pw)
{
    CHECK(be, OP_PATCHIFY, is_act(be, out) && is_act(be, x) && x.nd == 4 && out.nd == 2 && pt > 0 && ph > 0 && pw > 0);
    CHECK(be, OP_PATCHIFY, out.dim[0] == (x.dim[0] / pt) * (x.dim[2] / ph) * (x.dim[3] / pw));
    CHECK(be, OP_PATCHIFY, out.dim[1] == x.dim[1] * pt * ph * pw);
    submit(be, &(OpCall){ .op = OP_PATCHIFY, .out = out, .in = { x }, .u.patch = { pt, ph, pw } }, 0);
}

void avt_unpatchify(Backend *be, Tensor out, Tensor x, int ph, int pw)
{
    CHECK(be, OP_UNPATCHIFY, is_act(be, out) && is_act(be, x) && out.nd == 4 && ph > 0 && pw > 0);
    CHECK(be, OP_UNPATCHIFY, out.dim[2] % ph == 0 && out.dim[3] % pw == 0 && avt_last_dim(x) == out.dim[1] * ph * pw);
    CHECK(be, OP_UNPATCHIFY, avt_numel(out) == avt_numel(x));
    submit(be, &(OpCall){ .op = OP_UNPATCHIFY, .out = out, .in = { x }, .u.patch = { 1, ph, pw } }, 0);
}

static void turn_channels(Backend *be, OpId op, Tensor out, Tensor x, Tensor mul, Tensor add, int64_t channels)
{
    CHECK(be, op, is_act(be, out) && is_act(be, x) && is_vec_or_none(mul, channels) && is_vec_or_none(add, channels));
    submit(be, &(OpCall){ .op = op, .out = out, .in = { x, mul, add } }, 0);
}

void avt_channels_last(Backend *be, Tensor out, Tensor x, Tensor mul, Tensor add)
{
    CHECK(be, OP_CHANNELS_LAST, x.nd == 4 && out.nd == 4);
    CHECK(be, OP_CHANNELS_LAST, out.dim[0] == x.dim[0] && out.dim[3] == x.dim[1] && !memcmp(out.dim + 1, x.dim + 2, 2 * sizeof(int64_t)));
    turn_channels(be, OP_CHANNELS_LAST, out, x, mul, add, x.dim[1]);
}

void avt_channels_first(Backend *be, Tensor out, Tensor x, Tensor mul, Tensor add)
{
    CHECK(be, OP_CHANNELS_FIRST, x.nd == 4 && out.nd == 4);
    CHECK(be, OP_CHANNELS_FIRST, x.dim[0] == out.dim[0] && x.dim[3] >= out.dim[1] && !memcmp(x.dim + 1, out.dim + 2, 2 * sizeof(int64_t)));
    turn_channels(be, OP_CHANNELS_FIRST, out, x, mul, add, out.dim[1]);
}

void avt_picture(Backend *be, Tensor out, Tensor x)
{
    CHECK(be, OP_PICTURE, is_act(be, out) && x.be && x.dtype == DT_U8 && avt_last_dim(x) == 3 && avt_same_shape(out, x));
    submit(be, &(OpCall){ .op = OP_PICTURE, .out = out, .in = { x } }, 0);
}

void avt_count_nonfinite(Backend *be, Tensor out, Tensor x)
{
    CHECK(be, OP_COUNT_NONFINITE, out.dtype == DT_I32 && avt_numel(out) == 1 && is_key(x));
    submit(be, &(OpCall){ .op = OP_COUNT_NONFINITE, .out = out, .in = { x } }, 0);
}

int64_t avt_pixels_size(PixelFormat format, int64_t h, int64_t w)
{
    return format == PIX_YUV420P || format == PIX_NV12 ? h * w * 3 / 2 : h * w * 3;
}

void avt_pixels(Backend *be, Tensor out, Tensor x, PixelFormat format)
{
    CHECK(be, OP_PIXELS, out.dtype == DT_U8 && is_act(be, x) && x.nd == 4 && x.dim[3] == 3 && format < PIX_NB);
    CHECK(be, OP_PIXELS, x.dim[1] % 2 == 0 && x.dim[2] % 2 == 0);
    CHECK(be, OP_PIXELS, avt_numel(out) == x.dim[0] * avt_pixels_size(format, x.dim[1], x.dim[2]));
    submit(be, &(OpCall){ .op = OP_PIXELS, .out = out, .in = { x }, .u.pixels.format = format }, 0);
}
