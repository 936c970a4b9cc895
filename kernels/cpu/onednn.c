/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Products and convolutions through oneDNN: versions 2 and 3, which only onednn*.[ch] know.
 *
 *   linear    matmul, weights in oneDNN's packed order, bias, activation, gate and residual as its post-ops
 *   conv3d    a sum over the taps in time of 2-D convolutions (channels last): out[t] = sum_k W_k x[t + k - P]. The cached frames
 *             and the new ones are read where they are, nothing is joined or copied, and a frame's bits do not depend on how the
 *             stream was cut. Measured on 16 .. 384 channels: within 4 % of one 3-D convolution over a joined buffer. Up to NARROW
 *             output channels are left to conv3d.inc.h, or to plain C, and so is what winograd.inc.h takes
 *
 * Weights are packed once, in weight_put(), in the order that oneDNN prefers for a large problem on one thread (its choice must
 * not depend on what is not known yet). The order of a product holds for any number of rows. A convolution over a very small
 * picture may want another one: then the weights are reordered at each call, which is correct and costs a few per cent.
 *
 * Threads: with AVX-512 bits do not depend on their number (tests/kernels compare 1, 2 and 3): a result is summed by one thread.
 * With AVX2 alone version 2 may share one long sum among threads. Below AVX2 plain C stays: there version 2 adds a residual
 * wrongly when channels do not fill a vector (seen with 2.6.3, 5 to 7 channels), and is hardly faster.
 */
#include <string.h>

#include "cpu/onednn.h"

#define CACHED (256 << 10)              // floats of output that stay in a core's cache

static int solve(Backend *be, Problem *p, const Operands *x)
{
    Item *it;
    const int ret = avt_onednn_find(be, &it, p);

    return ret < 0 ? ret : avt_onednn_execute(be, it, x);
}

static const float *data(Tensor t)
{
    return t.be ? t.data : NULL;
}

static int residual(Tensor out, Tensor res)
{
    return !res.be ? 0 : res.data == out.data ? 1 : 2;
}

/* out += gate (x w^T + b) in two steps: below AVX-512, version 2 has no fast way to do it at once. */
static int solve_apart(Backend *be, const Problem *p, const Operands *x)
{
    const Cpu *cpu = be->priv;
    const int64_t nb = (int64_t)p->dst[0] * p->dst[1];
    float *sum = avt_cpu_work(be, (size_t)nb * sizeof(*sum)), *out = x->dst;
    Problem q = *p;
    Operands y = *x;
    int ret;

    if (!sum && !cpu->measuring)
        return AVT_ERR(ENOMEM);
    q.res = 0;
    y.dst = sum;
    ret = solve(be, &q, &y);
    if (ret < 0 || cpu->measuring)
        return ret;
#pragma omp parallel for num_threads(be->threads) if (nb > 4 * PARALLEL_MIN)
    for (int64_t i = 0; i < nb; i++)
        out[i] += sum[i];
    return 0;
}

static int linear_onednn(Backend *be, const OpCall *c)
{
    const int32_t m = (int32_t)avt_rows_of(c->out), n = (int32_t)c->in[1].dim[0], k = (int32_t)c->in[1].dim[1];
    Problem p = { .nd = 2, .src = { m, k }, .wei = { k, n }, .dst = { m, n }, .act = c->u.act,
                  .bias = !!c->in[2].be, .gate = !!c->in[3].be, .res = residual(c->out, c->in[4]) };
    const Operands x = { .src = data(c->in[0]), .w = c->in[1].data, .bias = data(c->in[2]), .gate = data(c->in[3]),
                         .res = data(c->in[4]), .dst = c->out.data };
    Item *it;
    int ret;

    if (!m || !n)
        return 0;
    ret = avt_onednn_find(be, &it, &p);
    if (ret < 0)
        return ret;
    if (it->slow && p.gate && p.res == 1)
        return solve_apart(be, &p, &x);
    return avt_onednn_execute(be, it, &x);
}

/* ---- conv3d ---------------------------------------------------------------------------------------------------------- */

typedef struct Sum {                    // a convolution under way
    Backend *be;
    const OpCall *c;
    int64_t prev, front;                // cached frames; frames of input before x, cached or zero
    int64_t in_frame, out_frame;        // floats
    size_t tap;                         // bytes of the packed weights of a tap
    int fresh;                          // the tap writes bias and residual too; later ones add to what is there
} Sum;

/* Tap k for output frames first .. first + nb - 1, whose input lies at src, frame after frame. */
static int add_tap(const Sum *s, int64_t k, int64_t first, int64_t nb, const float *src)
{
    const OpCall *c = s->c;
    const int64_t *in = c->in[0].dim, *out = c->out.dim, *w = c->in[2].dim;
    const int fresh = s->fresh, own = residual(c->out, c->in[4]);
    Problem p = { .nd = 4, .src = { (int32_t)nb, (int32_t)in[3], (int32_t)in[1], (int32_t)in[2] },
                  .dst = { (int32_t)nb, (int32_t)out[3], (int32_t)out[1], (int32_t)out[2] },
                  .wei = { (int32_t)w[0], (int32_t)w[1], (int32_t)w[3], (int32_t)w[4] }, .stride = c->u.conv.stride,
                  .pad0 = c->u.conv.pad0, .pad1 = c->u.conv.pad1, .bias = fresh && c->in[3].be, .res = fresh ? own : 1 };
    const int64_t at = first * s->out_frame;

    return solve(s->be, &p, &(Operands){ .src = src, .w = (const char *)c->in[2].data + (size_t)k * s->tap, .bias = data(c->in[3]),
                                         .res = own == 2 ? data(c->in[4]) + at : NULL, .dst = (float *)c->out.data + at });
}

/* Tap k for output frames t .. end - 1: runs of neighbours at a time; where the input is a zero frame there is nothing to add. */
static int add_taps(const Sum *s, int64_t k, int64_t t, int64_t end)
{
    const OpCall *c = s->c;
    const int64_t step = c->u.conv.stride_t;
    int ret = 0;

    for (int64_t nb; t < end && ret >= 0; t += nb) {
        const int64_t at = t * step + k - s->front;                 // frame of x; the cached ones are -prev .. -1

        nb = step > 1 ? 1 : at >= 0 ? end - t : at >= -s->prev ? -at : -s->prev - at;
        nb = min_i64(nb, end - t);
        if (at >= 0)
            ret = add_tap(s, k, t, nb, data(c->in[0]) + at * s->in_frame);
        else if (at >= -s->prev)
            ret = add_tap(s, k, t, nb, data(c->in[1]) + (at + s->prev) * s->in_frame);
    }
    return ret;
}

/* out = bias + res, for a convolution whose last tap does not reach every output frame */
static void begin(const OpCall *c)
{
    const int64_t width = c->out.dim[3], nb = avt_rows_of(c->out);
    const float *bias = data(c->in[3]), *res = data(c->in[4]);
    float *out = c->out.data;

    for (int64_t i = 0; i < nb; i++)
        for (int64_t j = 0; j < width; j++)
            out[i * width + j] = (bias ? bias[j] : 0) + (res ? res[i * width + j] : 0);
}

/*
 * From the newest tap to the oldest: of a causal convolution the newest reaches every output, so it brings bias and residual.
 * As many frames at a time as stay in the cache between two taps (4 frames of 128x128x16 or 64x64x32: 8 to 15 %).
 */
static int conv3d_onednn(Backend *be, const OpCall *c)
{
    const int measuring = ((const Cpu *)be->priv)->measuring;
    const int64_t *in = c->in[0].dim, *out = c->out.dim, *w = c->in[2].dim, taps = w[2];
    const int32_t wei[4] = { (int32_t)w[0], (int32_t)w[1], (int32_t)w[3], (int32_t)w[4] };
    Sum s = { .be = be, .c = c, .prev = c->in[1].be ? c->in[1].dim[0] : 0, .in_frame = in[1] * in[2] * in[3],
              .out_frame = out[1] * out[2] * out[3] };
    const int64_t fit = CACHED / (s.out_frame + 1), step = fit > 1 ? fit : 1;
    Item *packed;
    int ret;

    if (w[0] <= NARROW)
        return measuring ? 0 : avt_plain_conv3d(be, c);
    ret = avt_onednn_packed(be, &packed, 4, wei);
    if (ret < 0)
        return ret;
    s.tap = (packed->size + ALIGN - 1) / ALIGN * ALIGN;
    s.front = s.prev + c->u.conv.pad_t;
    if (taps - 1 < c->u.conv.pad_t && !measuring)
        begin(c);
    for (int64_t t = 0; t < out[0]; t += step)
        for (int64_t k = taps - 1; k >= 0 && ret >= 0 && !avt_cpu_given_up(be); k--) {
            s.fresh = k == taps - 1 && k >= c->u.conv.pad_t;
            ret = add_taps(&s, k, t, min_i64(t + step, out[0]));
        }
    return ret;
}

/* ---- weights --------------------------------------------------------------------------------------------------------- */

/* conv1d keeps the order of plain C: the number of groups is not known when a weight is put. So does a conv3d that is not ours. */
static int is_packed(const Backend *be, WeightUse use, const int64_t *dim)
{
    return use == WEIGHT_LINEAR || (use == WEIGHT_CONV3D && !avt_conv3d_keeps_order(be->priv, dim));
}

static int packed_of(Backend *be, Item **out, WeightUse use, const int64_t *dim)
{
    const int32_t linear[2] = { (int32_t)dim[1], (int32_t)dim[0] };
    const int32_t conv[4] = { (int32_t)dim[0], (int32_t)dim[1], use == WEIGHT_LINEAR ? 0 : (int32_t)dim[3],
                              use == WEIGHT_LINEAR ? 0 : (int32_t)dim[4] };

    return avt_onednn_packed(be, out, use == WEIGHT_LINEAR ? 2 : 4, use == WEIGHT_LINEAR ? linear : conv);
}

static size_t weight_bytes_onednn(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim)
{
    Item *packed;

    if (!is_packed(be, use, dim) || dtype > DT_F64)
        return avt_plain_weight_bytes(be, use, act, dtype, nd, dim);
    if (packed_of(be, &packed, use, dim) < 0)
        return 0;
    return use == WEIGHT_LINEAR ? packed->size : (size_t)dim[2] * ((packed->size + ALIGN - 1) / ALIGN * ALIGN);
}

static int pack_taps(const Onednn *o, const Item *packed, Tensor *dst, dnnl_data_type_t type, const void *src)
{
    const int64_t *d = dst->dim, plane = d[3] * d[4], taps = d[2];
    const dnnl_dims_t stride = { d[1] * taps * plane, taps * plane, d[4], 1 };
    const size_t element = type == dnnl_bf16 ? 2 : 4, tap = (packed->size + ALIGN - 1) / ALIGN * ALIGN;
    int ret = 0;

    for (int64_t k = 0; k < taps && ret >= 0; k++)
        ret = avt_onednn_pack(o, packed, (char *)dst->data + (size_t)k * tap, type,
                              (const char *)src + (size_t)(k * plane) * element, stride);
    return ret;
}

/* bf16 is widened by the reorder, other formats before it, where they are rounded, too, if bf16 activations are to come. */
static int weight_put_onednn(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const Onednn *o = ((Cpu *)be->priv)->onednn;
    const dnnl_dims_t stride = { 1, dst->dim[1] };
    const int64_t nb = avt_numel(*dst);
    const dnnl_data_type_t type = dtype == DT_BF16 ? dnnl_bf16 : dnnl_f32;
    float *wide = NULL;
    Item *packed;
    int ret, threads;

    if (!is_packed(be, use, dst->dim) || dtype > DT_F64)
        return avt_plain_weight_put(be, dst, use, dtype, src);
    dst->dtype = DT_F32;
    if (!src || !nb)
        return 0;
    ret = packed_of(be, &packed, use, dst->dim);
    if (ret >= 0 && dtype != DT_BF16 && (dtype != DT_F32 || dst->act == DT_BF16)) {
        wide = avt_malloc(MEM_BACKEND, (size_t)nb * sizeof(*wide));
        ret = wide ? 0 : AVT_ERR(ENOMEM);
        if (wide)
            avt_to_f32(wide, dtype, src, 0, nb);
        if (wide && dst->act == DT_BF16)
            avt_round_bf16(wide, nb);
    }
    threads = avt_onednn_threads(be->threads);
    if (ret >= 0 && use == WEIGHT_LINEAR)
        ret = avt_onednn_pack(o, packed, dst->data, type, wide ? wide : src, stride);
    else if (ret >= 0)
        ret = pack_taps(o, packed, dst, type, wide ? wide : src);
    avt_onednn_threads(threads);
    avt_free(wide);
    return ret;
}

/* ---- open and close -------------------------------------------------------------------------------------------------- */

void avt_cpu_onednn_close(Cpu *cpu)
{
    Onednn *o = cpu->onednn;

    if (!o)
        return;
    avt_onednn_clear(o);
    dnnl_stream_destroy(o->stream);
    dnnl_engine_destroy(o->engine);
    avt_freep(&cpu->onednn);
}

static int is_trusted_cpu(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;                           // not measured
#endif
}

int avt_cpu_onednn(Backend *be, Cpu *cpu)
{
    Onednn *o;
    int ret;

    if (!is_trusted_cpu())
        return 0;
    if (!avt_pages_may_run())
        return avt_fail(be->log, AVT_ERR(ENOSYS), "cpu: the system denies this process code that is made as it runs (MemoryDenyWriteExecute of a "
                        "service, SELinux's execmem), which oneDNN needs: allow it; plain C, slow, does without (avatar speak --cpu-level 0)");
    o = avt_calloc(MEM_BACKEND, 1, sizeof(*o));
    if (!o)
        return AVT_ERR(ENOMEM);
    cpu->onednn = o;
    o->log = be->log;
    ret = avt_onednn_check(o, dnnl_engine_create(&o->engine, dnnl_cpu, 0), "opening the CPU");
    if (ret >= 0)
        ret = avt_onednn_check(o, dnnl_stream_create(&o->stream, o->engine, dnnl_stream_default_flags), "opening a stream");
    if (ret < 0)
        return ret;
    cpu->weight_bytes = weight_bytes_onednn;
    cpu->weight_put = weight_put_onednn;
    cpu->op[OP_LINEAR] = linear_onednn;
    cpu->op[OP_CONV3D] = conv3d_onednn;
    cpu->level[OP_LINEAR] = cpu->level[OP_CONV3D] = "onednn";
    return 0;
}
