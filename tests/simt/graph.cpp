/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Computes a graph of the cuDNN double in f32: each value dense, rounded where it is stored.
 *
 * Dense order: images [N, C, T, H, W] as N, T, H, W, C; all else row-major.
 */
#include <math.h>
#include <string.h>
#include <algorithm>

#include "bed.h"
#include "graph.h"

namespace bed {

int64_t GraphTensor::numel() const
{
    int64_t n = 1;

    for (int64_t d : dim)
        n *= d;
    return n;
}

size_t GraphTensor::bytes() const
{
    int64_t last = 0;

    for (size_t i = 0; i < dim.size(); i++)
        last += (dim[i] - 1) * stride[i];
    return (size_t)(last + 1) * size_of(type);
}

typedef std::vector<float> Values;
typedef std::map<int64_t, Values> Dense;        // by uid

static std::vector<int> order_of(size_t nd)
{
    return nd == 5 ? std::vector<int>{ 0, 2, 3, 4, 1 } : nd == 4 ? std::vector<int>{ 0, 1, 2, 3 } : std::vector<int>{ 0, 1, 2 };
}

/* each(i, at): element i of the dense order lies at `at` of the tensor's memory; of shape `dim`, in which the tensor's dims of 1 repeat */
template <class Each> static void walk(const GraphTensor &t, const std::vector<int64_t> &dim, Each each)
{
    const std::vector<int> order = order_of(dim.size());
    std::vector<int64_t> index(dim.size());
    int64_t n = 1;

    for (int64_t d : dim)
        n *= d;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = 0;

        for (size_t k = 0; k < dim.size(); k++)
            at += t.dim[k] == 1 ? 0 : index[k] * t.stride[k];
        each(i, at);
        for (size_t k = order.size(); k-- > 0;) {
            const size_t d = (size_t)order[k];

            if (++index[d] < dim[d])
                break;
            index[d] = 0;
        }
    }
}

static Values load(const GraphTensor &t, const Bound &b, const Dense &dense, const std::vector<int64_t> &dim)
{
    Values v;

    if (t.is_virtual)
        return dense.at(t.uid);
    const void *p = b.pointer.at(t.uid);
    int64_t n = 1;
    for (int64_t d : dim)
        n *= d;
    v.resize((size_t)n);
    walk(t, dim, [&](int64_t i, int64_t at) { v[(size_t)i] = get_number(p, (size_t)at, t.type); });
    return v;
}

static void store(const GraphTensor &t, const Bound &b, Dense *dense, Values v)
{
    if (t.is_virtual) {
        (*dense)[t.uid] = std::move(v);
        return;
    }
    void *p = b.pointer.at(t.uid);
    walk(t, t.dim, [&](int64_t i, int64_t at) { put_number(p, (size_t)at, t.type, v[(size_t)i]); });
}

static void round_tf32(Values *v)
{
    for (float &f : *v)
        f = to_tf32(f);
}

/* ---- convolution: a row of the result is a product of the pixels under the taps -------------------------------------------------------- */

/* The filter as [Cout, kT, kH, kW, Cin], dense: order_of(5) of [Cout, Cin, kT, kH, kW] is that already. */
struct Taps {
    const Node &n;
    int64_t c, in[3], k[3];
};

/* Pixels under the taps of row (t, h) of the result: [W', kT kH kW C] */
static void gather_row(const Taps &s, const Values &x, int64_t batch, int64_t t, int64_t h, int64_t width, Values *row)
{
    size_t at = 0;

    std::fill(row->begin(), row->end(), 0.f);
    for (int64_t w = 0; w < width; w++)
        for (int64_t a = 0; a < s.k[0]; a++)
            for (int64_t b = 0; b < s.k[1]; b++)
                for (int64_t e = 0; e < s.k[2]; e++, at += (size_t)s.c) {
                    const int64_t ti = t * s.n.step[0] + a * s.n.dilation[0] - s.n.before[0];
                    const int64_t hi = h * s.n.step[1] + b * s.n.dilation[1] - s.n.before[1];
                    const int64_t wi = w * s.n.step[2] + e * s.n.dilation[2] - s.n.before[2];

                    if (ti >= 0 && ti < s.in[0] && hi >= 0 && hi < s.in[1] && wi >= 0 && wi < s.in[2])
                        memcpy(&(*row)[at], &x[(size_t)((((batch * s.in[0] + ti) * s.in[1] + hi) * s.in[2] + wi) * s.c)], (size_t)s.c * 4);
                }
}

static void convolve(const Node &n, const Bound &b, Dense *dense)
{
    const std::vector<int64_t> &y = n.y.dim;
    const Taps s = { n, n.x.dim[1], { n.x.dim[2], n.x.dim[3], n.x.dim[4] }, { n.w.dim[2], n.w.dim[3], n.w.dim[4] } };
    const int64_t depth = s.c * s.k[0] * s.k[1] * s.k[2];
    Values x = load(n.x, b, *dense, n.x.dim), w = load(n.w, b, *dense, n.w.dim), out((size_t)n.y.numel()), row((size_t)(y[4] * depth));
    float *to = out.data();

    if (b.tf32 && n.x.type == Number::F32) {
        round_tf32(&x);
        round_tf32(&w);
    }
    for (int64_t i = 0; i < y[0]; i++)
        for (int64_t t = 0; t < y[2]; t++)
            for (int64_t h = 0; h < y[3]; h++, to += y[4] * y[1]) {
                gather_row(s, x, i, t, h, y[4], &row);
                multiply(to, row.data(), w.data(), y[4], y[1], depth);
            }
    store(n.y, b, dense, std::move(out));
}

/* ---- product: [B, M, K] by [B, K, N], the second as its strides have it -------------------------------------------------------------------- */

static void product(const Node &n, const Bound &b, Dense *dense)
{
    const int64_t batch = n.x.dim[0], m = n.x.dim[1], k = n.x.dim[2], width = n.w.dim[2];
    const Values x = load(n.x, b, *dense, n.x.dim), w = load(n.w, b, *dense, n.w.dim);
    Values out((size_t)(batch * m * width)), turned((size_t)(width * k));
    std::vector<int32_t> whole((size_t)(m * width));

    for (int64_t i = 0; i < batch; i++) {
        float *to = &out[(size_t)(i * m * width)];

        for (int64_t j = 0; j < width * k; j++)
            turned[(size_t)j] = w[(size_t)((i * k + j % k) * width + j / k)];
        if (n.y.type == Number::I32) {
            multiply_whole(whole.data(), &x[(size_t)(i * m * k)], turned.data(), m, width, k);
            std::copy(whole.begin(), whole.end(), to);
        } else {
            multiply(to, &x[(size_t)(i * m * k)], turned.data(), m, width, k);
        }
    }
    store(n.y, b, dense, std::move(out));
}

/* ---- element by element ------------------------------------------------------------------------------------------------------------------ */

static float pointwise(int mode, float x, float b)
{
    switch (mode) {
    case CUDNN_POINTWISE_ADD:                   return x + b;
    case CUDNN_POINTWISE_MUL:                   return x * b;
    case CUDNN_POINTWISE_RELU_FWD:              return x > 0 ? x : 0;
    case CUDNN_POINTWISE_SWISH_FWD:             return x / (1 + expf(-x));
    case CUDNN_POINTWISE_GELU_FWD:              return 0.5f * x * (1 + erff(x * 0.70710678f));
    case CUDNN_POINTWISE_GELU_APPROX_TANH_FWD:  return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    default:                                    return x;
    }
}

static void apply(const Node &n, const Bound &b, Dense *dense)
{
    Values x = load(n.x, b, *dense, n.y.dim), w;

    if (n.has_w)
        w = load(n.w, b, *dense, n.y.dim);
    for (size_t i = 0; i < x.size(); i++)
        x[i] = pointwise(n.mode, x[i], n.has_w ? w[i] : 0);
    store(n.y, b, dense, std::move(x));
}

/* ---- attention: [B, heads, tokens, width] -------------------------------------------------------------------------------------------------- */

/* @return the log of the sum of e^score */
static float attend_row(float *out, const float *q, const float *k, const float *v, int64_t keys, int64_t width, float scale, Values *weight)
{
    float top = -INFINITY, sum = 0;

    multiply(weight->data(), q, k, 1, keys, width);
    for (float &w : *weight)
        top = std::max(top, w *= scale);
    for (float &w : *weight)
        sum += w = expf(w - top);
    std::fill(out, out + width, 0.f);
    for (int64_t j = 0; j < keys; j++)
        for (int64_t e = 0; e < width; e++)
            out[e] += (*weight)[(size_t)j] / sum * v[j * width + e];
    return top + logf(sum);
}

static void attend(const Node &n, const Bound &b, Dense *dense)
{
    const int64_t batch = n.x.dim[0], heads = n.x.dim[1], rows = n.x.dim[2], width = n.x.dim[3], keys = n.w.dim[2], key_heads = n.w.dim[1];
    const Values q = load(n.x, b, *dense, n.x.dim), k = load(n.w, b, *dense, n.w.dim), v = load(n.v, b, *dense, n.v.dim);
    Values out(q.size()), weight((size_t)keys), logs((size_t)(batch * heads * rows));

    for (int64_t i = 0; i < batch * heads; i++) {
        const int64_t of = (i / heads * key_heads + i % heads * key_heads / heads) * keys * width;

        for (int64_t r = 0; r < rows; r++)
            logs[(size_t)(i * rows + r)] =
                attend_row(&out[(size_t)((i * rows + r) * width)], &q[(size_t)((i * rows + r) * width)], &k[(size_t)of], &v[(size_t)of], keys, width, b.scale,
                       &weight);
    }
    store(n.y, b, dense, std::move(out));
    if (n.has_stats)
        store(n.stats, b, dense, std::move(logs));
}

/* ---- the graph ------------------------------------------------------------------------------------------------------------------------------- */

static bool range(const GraphTensor &t, const Bound &b, bool write)
{
    return t.uid < 0 || t.is_virtual || t.by_value || shadow_range(b.pointer.at(t.uid), t.bytes(), write);
}

bool graph_ranges(const Graph &g, const Bound &b)
{
    bool ok = !b.workspace_size || shadow_range(b.workspace, (size_t)std::min<int64_t>(b.workspace_size, 1 << 20), true);

    for (const Node &n : g.node)
        ok &= range(n.x, b, false) & (n.has_w ? range(n.w, b, false) : true) & range(n.v, b, false);
    for (const Node &n : g.node)
        ok &= range(n.y, b, true) & (n.has_stats ? range(n.stats, b, true) : true);
    return ok;
}

void graph_run(const Graph &g, const Bound &b)
{
    Dense dense;

    for (const Node &n : g.node)
        switch (n.kind) {
        case NodeKind::CONVOLUTION: convolve(n, b, &dense); break;
        case NodeKind::POINTWISE:   apply(n, b, &dense);    break;
        case NodeKind::ATTENTION:   attend(n, b, &dense);   break;
        case NodeKind::PRODUCT:     product(n, b, &dense);  break;
        }
}

}   // namespace bed
