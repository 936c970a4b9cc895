/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Products and convolutions through oneDNN: the one file that knows it, versions 2 and 3.
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
 * A primitive is made at the first call of a shape and kept; its memory objects get new addresses at each call. Its scratch comes out
 * of the workspace.
 *
 * Threads: with AVX-512 bits do not depend on their number (tests/kernels compare 1, 2 and 3): a result is summed by one thread.
 * With AVX2 alone version 2 may share one long sum among threads. Below AVX2 plain C stays: there version 2 adds a residual
 * wrongly when channels do not fill a vector (seen with 2.6.3, 5 to 7 channels), and is hardly faster.
 */
#include <omp.h>
#include <string.h>

#include <dnnl.h>

#include "cpu/plain.h"

#define SMALL 4000000                   // floating-point operations below which one thread is faster than two
#define CACHED (256 << 10)              // floats of output that stay in a core's cache
#define ALIGN 64

typedef struct Problem {                // one call's shape; the key of the cache, so every byte is set
    int32_t src[4], dst[4], wei[4];     // [M, K], [M, N], [K, N] or [N, C, H, W], [N, O, H', W'], [O, C, kH, kW]
    int32_t nd;                         // 2 product, 4 convolution
    int32_t stride, pad0, pad1;
    int32_t act, bias, gate, res;       // res: 0 none, 1 is the destination itself, 2 another tensor
    int32_t threads;                    // 0: only the order of the packed weights is wanted
} Problem;

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t Md;          // a handle, owned
#define REF(md) (*(md))
#else
typedef dnnl_memory_desc_t Md;          // a value
#define REF(md) (md)
#endif

typedef struct Item {                   // what is kept of a Problem
    Problem p;
    Md wei;                             // order of the packed weights
    size_t size;                        // their bytes
    size_t scratch_size;
    int slow;                           // oneDNN has only its reference for this
    dnnl_primitive_t run, repack;       // repack: NULL when the packed order is the wanted one
    dnnl_memory_t src, w, bias, dst, gate, res, scratch, packed;
} Item;

typedef struct Onednn {
    const Log *log;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    Item **slot;                        // hash table, a power of two, at most half full
    int64_t nb, room;
    char *buffer;                       // workspace of the primitive that runs: scratch, then reordered weights
} Onednn;

/* ---- what oneDNN 2 and 3 call differently ------------------------------------------------------------------------ */

#if DNNL_VERSION_MAJOR >= 3

static dnnl_status_t md_init(Md *m, int nd, const int64_t *dim, dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_create_with_tag(m, nd, dim, dnnl_f32, tag);
}

static dnnl_status_t md_strided(Md *m, int nd, const int64_t *dim, dnnl_data_type_t type, const int64_t *stride)
{
    return dnnl_memory_desc_create_with_strides(m, nd, dim, type, stride);
}

static dnnl_status_t md_query(Md *m, const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    return dnnl_memory_desc_clone(m, dnnl_primitive_desc_query_md(pd, what, 0));
}

static void md_free(Md *m)
{
    if (*m)
        dnnl_memory_desc_destroy(*m);
    *m = NULL;
}

static dnnl_status_t add_eltwise(dnnl_post_ops_t ops, dnnl_alg_kind_t alg, float a, float b)
{
    return dnnl_post_ops_append_eltwise(ops, alg, a, b);
}

static dnnl_status_t add_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1, 0, dnnl_data_type_undef);
}

static dnnl_status_t pd_product(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const Md *src, const Md *wei, const Md *bias,
                                const Md *dst, const_dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(pd, e, *src, *wei, bias ? *bias : NULL, *dst, attr);
}

static dnnl_status_t pd_conv(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const Md *src, const Md *wei, const Md *bias, const Md *dst,
                             const int64_t *stride, const int64_t *pad0, const int64_t *pad1, const_dnnl_primitive_attr_t attr)
{
    static const dnnl_dims_t none;

    return dnnl_convolution_forward_primitive_desc_create(pd, e, dnnl_forward_inference, dnnl_convolution_direct, *src, *wei,
                                                          bias ? *bias : NULL, *dst, stride, none, pad0, pad1, attr);
}

#else

static dnnl_status_t md_init(Md *m, int nd, const int64_t *dim, dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_init_by_tag(m, nd, dim, dnnl_f32, tag);
}

static dnnl_status_t md_strided(Md *m, int nd, const int64_t *dim, dnnl_data_type_t type, const int64_t *stride)
{
    return dnnl_memory_desc_init_by_strides(m, nd, dim, type, stride);
}

static dnnl_status_t md_query(Md *m, const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    const Md *md = dnnl_primitive_desc_query_md(pd, what, 0);

    if (md)
        *m = *md;
    return md ? dnnl_success : dnnl_unimplemented;
}

static void md_free(Md *m)
{
    (void)m;
}

static dnnl_status_t add_eltwise(dnnl_post_ops_t ops, dnnl_alg_kind_t alg, float a, float b)
{
    return dnnl_post_ops_append_eltwise(ops, 1, alg, a, b);
}

static dnnl_status_t add_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1);
}

static dnnl_status_t pd_product(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const Md *src, const Md *wei, const Md *bias,
                                const Md *dst, const_dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t op;
    const dnnl_status_t s = dnnl_matmul_desc_init(&op, src, wei, bias, dst);

    return s ? s : dnnl_primitive_desc_create(pd, &op, attr, e, NULL);
}

static dnnl_status_t pd_conv(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const Md *src, const Md *wei, const Md *bias, const Md *dst,
                             const int64_t *stride, const int64_t *pad0, const int64_t *pad1, const_dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t op;
    const dnnl_status_t s = dnnl_convolution_forward_desc_init(&op, dnnl_forward_inference, dnnl_convolution_direct, src, wei, bias,
                                                               dst, stride, pad0, pad1);

    return s ? s : dnnl_primitive_desc_create(pd, &op, attr, e, NULL);
}

#endif

/* ---- making a primitive ------------------------------------------------------------------------------------------- */

static int check(const Onednn *o, dnnl_status_t s, const char *what)
{
    if (s == dnnl_success)
        return 0;
    return avt_fail(o->log, AVT_ERR(s == dnnl_out_of_memory ? ENOMEM : ENOSYS), "oneDNN %d.%d: %s failed with status %d",
                    DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR, what, (int)s);
}

static dnnl_status_t make_attr(dnnl_primitive_attr_t *attr, const Problem *p, const Md *gate, const Md *dst)
{
    static const struct {
        dnnl_alg_kind_t alg;
        float a, b;
    } act[] = { [ACT_SILU] = { dnnl_eltwise_swish, 1, 0 },  [ACT_GELU_TANH] = { dnnl_eltwise_gelu_tanh, 0, 0 },
                [ACT_GELU_ERF] = { dnnl_eltwise_gelu_erf, 0, 0 }, [ACT_CLAMP] = { dnnl_eltwise_clip, -1, 1 } };
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t s = dnnl_primitive_attr_create(attr);

    if (!s)
        s = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (!s)
        s = dnnl_post_ops_create(&ops);
    if (!s && p->act != ACT_NONE)
        s = add_eltwise(ops, act[p->act].alg, act[p->act].a, act[p->act].b);
    if (!s && p->gate)
        s = dnnl_post_ops_append_binary(ops, dnnl_binary_mul, REF(gate));
    if (!s && p->res)
        s = p->res == 1 ? add_sum(ops) : dnnl_post_ops_append_binary(ops, dnnl_binary_add, REF(dst));
    if (!s)
        s = dnnl_primitive_attr_set_post_ops(*attr, ops);
    dnnl_post_ops_destroy(ops);
    return s;
}

/* oneDNN takes the number of threads from OpenMP's setting of the calling thread, which may not be ours: give it back. */
static int swap_threads(int nb)
{
    const int old = omp_get_max_threads();

    omp_set_num_threads(nb);
    return old;
}

static int64_t *widen(int64_t *out, const int32_t *in, int nb)
{
    for (int i = 0; i < nb; i++)
        out[i] = in[i];
    return out;
}

typedef struct Mds { Md src, dst, bias, gate, any; } Mds;

static dnnl_status_t make_mds(Mds *m, const Problem *p)
{
    const dnnl_format_tag_t tag = p->nd == 2 ? dnnl_ab : dnnl_acdb;
    const dnnl_dims_t row = { 1, p->dst[1] }, column = { p->dst[1] };
    dnnl_dims_t dim;
    dnnl_status_t s = md_init(&m->src, p->nd, widen(dim, p->src, p->nd), tag);

    if (!s)
        s = md_init(&m->dst, p->nd, widen(dim, p->dst, p->nd), tag);
    if (!s)
        s = md_init(&m->any, p->nd, widen(dim, p->wei, p->nd), dnnl_format_tag_any);
    if (!s)
        s = md_init(&m->gate, 2, row, dnnl_ab);
    if (!s)
        s = p->nd == 2 ? md_init(&m->bias, 2, row, dnnl_ab) : md_init(&m->bias, 1, column, dnnl_a);
    return s;
}

/* wei: order of the weights, NULL lets oneDNN choose */
static dnnl_status_t make_pd(const Onednn *o, dnnl_primitive_desc_t *pd, const Problem *p, Mds *m, const Md *wei)
{
    const dnnl_dims_t stride = { p->stride, p->stride }, pad0 = { p->pad0, p->pad0 }, pad1 = { p->pad1, p->pad1 };
    const Md *bias = p->bias ? &m->bias : NULL;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t s = make_attr(&attr, p, &m->gate, &m->dst);

    if (!s && p->nd == 2)
        s = pd_product(pd, o->engine, &m->src, wei ? wei : &m->any, bias, &m->dst, attr);
    else if (!s)
        s = pd_conv(pd, o->engine, &m->src, wei ? wei : &m->any, bias, &m->dst, stride, pad0, pad1, attr);
    dnnl_primitive_attr_destroy(attr);
    return s;
}

static int is_reference(const_dnnl_primitive_desc_t pd)
{
    const char *name = "";

    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name);
    return !strncmp(name, "ref", 3);
}

static dnnl_status_t make_memory(const Onednn *o, dnnl_memory_t *mem, const Md *md)
{
    return dnnl_memory_create(mem, REF(md), o->engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t make_repack(const Onednn *o, Item *it, const Md *packed, const Md *wanted)
{
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = dnnl_reorder_primitive_desc_create(&pd, REF(packed), o->engine, REF(wanted), o->engine, NULL);

    if (!s)
        s = dnnl_primitive_create(&it->repack, pd);
    if (!s)
        s = make_memory(o, &it->packed, packed);
    dnnl_primitive_desc_destroy(pd);
    return s;
}

/* The packed order if oneDNN has a fast implementation for it, else its own choice and a reorder at each call. */
static dnnl_status_t choose_pd(const Onednn *o, dnnl_primitive_desc_t *pd, Item *it, Mds *m, const Md *packed)
{
    dnnl_primitive_desc_t own = NULL;
    dnnl_status_t s = make_pd(o, pd, &it->p, m, packed);

    if (!s && !is_reference(*pd))
        return md_query(&it->wei, *pd, dnnl_query_weights_md);
    s = make_pd(o, &own, &it->p, m, NULL);
    if (s)
        return s;
    if (*pd)
        dnnl_primitive_desc_destroy(*pd);
    *pd = own;
    it->slow = is_reference(own);
    s = md_query(&it->wei, own, dnnl_query_weights_md);
    if (!s && !dnnl_memory_desc_equal(REF(packed), REF(&it->wei)))
        s = make_repack(o, it, packed, &it->wei);
    return s;
}

static dnnl_status_t make_memories(const Onednn *o, Item *it, Mds *m, const_dnnl_primitive_desc_t pd)
{
    Md scratch = { 0 };
    dnnl_status_t s = md_query(&scratch, pd, dnnl_query_scratchpad_md);

    it->size = dnnl_memory_desc_get_size(REF(&it->wei));
    if (!s) {
        it->scratch_size = (dnnl_memory_desc_get_size(REF(&scratch)) + ALIGN - 1) / ALIGN * ALIGN;
        s = make_memory(o, &it->scratch, &scratch);
    }
    if (!s)
        s = make_memory(o, &it->src, &m->src);
    if (!s)
        s = make_memory(o, &it->w, &it->wei);
    if (!s)
        s = make_memory(o, &it->dst, &m->dst);
    if (!s && it->p.bias)
        s = make_memory(o, &it->bias, &m->bias);
    if (!s && it->p.gate)
        s = make_memory(o, &it->gate, &m->gate);
    if (!s && it->p.res == 2)
        s = make_memory(o, &it->res, &m->dst);
    md_free(&scratch);
    return s;
}

static void item_close(Item *it)
{
    dnnl_memory_t *const mem[] = { &it->src, &it->w, &it->bias, &it->dst, &it->gate, &it->res, &it->scratch, &it->packed };

    for (size_t i = 0; i < sizeof(mem) / sizeof(mem[0]); i++)
        dnnl_memory_destroy(*mem[i]);
    dnnl_primitive_destroy(it->run);
    dnnl_primitive_destroy(it->repack);
    md_free(&it->wei);
    avt_free(it);
}

/*
 * packed: the order that the weights are in; NULL asks for the order alone. Description and primitive are made under one setting of
 * threads, that of the execution: oneDNN keeps primitives of its own, found by description and the setting when one is asked for,
 * and would else hand out one that was made for more threads and takes more scratch memory than the description says.
 */
static int item_open(const Onednn *o, Item **out, const Problem *p, const Md *packed)
{
    Item *it = avt_calloc(MEM_BACKEND, 1, sizeof(*it));
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s;
    Mds m = { 0 };
    int threads, ret;

    if (!it)
        return AVT_ERR(ENOMEM);
    it->p = *p;
    threads = swap_threads(p->threads ? p->threads : 1);
    s = make_mds(&m, p);
    if (!s && packed)
        s = choose_pd(o, &pd, it, &m, packed);
    else if (!s) {
        s = make_pd(o, &pd, p, &m, NULL);
        s = s ? s : md_query(&it->wei, pd, dnnl_query_weights_md);
    }
    if (!s && packed)
        s = dnnl_primitive_create(&it->run, pd);
    if (!s)
        s = make_memories(o, it, &m, pd);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    md_free(&m.src), md_free(&m.dst), md_free(&m.bias), md_free(&m.gate), md_free(&m.any);
    swap_threads(threads);
    ret = check(o, s, p->nd == 2 ? "a product" : "a convolution");
    if (ret < 0)
        item_close(it);
    else
        *out = it;
    return ret;
}

/* ---- the cache ------------------------------------------------------------------------------------------------------ */

static uint64_t hash(const Problem *p)
{
    const int32_t *v = (const int32_t *)p;
    uint64_t h = 0;

    for (size_t i = 0; i < sizeof(*p) / sizeof(*v); i++)
        h = (h ^ (uint32_t)v[i]) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static Item **slot_of(Item **slot, int64_t room, const Problem *p)
{
    uint64_t i = hash(p) & (uint64_t)(room - 1);

    while (slot[i] && memcmp(&slot[i]->p, p, sizeof(*p)))
        i = (i + 1) & (uint64_t)(room - 1);
    return &slot[i];
}

static int cache_grow(Onednn *o)
{
    const int64_t room = o->room ? 2 * o->room : 256;
    Item **slot = avt_calloc(MEM_BACKEND, (size_t)room, sizeof(*slot));

    if (!slot)
        return AVT_ERR(ENOMEM);
    for (int64_t i = 0; i < o->room; i++)
        if (o->slot[i])
            *slot_of(slot, room, &o->slot[i]->p) = o->slot[i];
    avt_free(o->slot);
    o->slot = slot;
    o->room = room;
    return 0;
}

static int find(Backend *be, Item **out, const Problem *p, const Md *packed)
{
    Cpu *cpu = be->priv;
    Onednn *o = cpu->onednn;
    Item **slot;
    int ret;

    if (2 * o->nb >= o->room && cache_grow(o) < 0)
        return cpu->unmeasured = AVT_ERR(ENOMEM);
    slot = slot_of(o->slot, o->room, p);
    if (!*slot) {
        ret = item_open(o, slot, p, packed);
        if (ret < 0)
            return cpu->unmeasured = ret;
        o->nb++;
    }
    *out = *slot;
    return 0;
}

/* The order in which weights of this shape are packed: chosen for a large problem, on one thread. */
static int find_packed(Backend *be, Item **out, int nd, const int32_t *wei)
{
    enum { ROWS = 256, N = 4, H = 96, W = 176 };
    Problem p = { .nd = nd, .wei = { wei[0], wei[1] }, .stride = 1, .bias = 1 };

    if (nd == 2) {
        p.src[0] = p.dst[0] = ROWS;
        p.src[1] = wei[0], p.dst[1] = wei[1];
    } else {
        p.wei[2] = wei[2], p.wei[3] = wei[3];
        memcpy(p.src, (int32_t[]){ N, wei[1], H + wei[2] - 1, W + wei[3] - 1 }, sizeof(p.src));
        memcpy(p.dst, (int32_t[]){ N, wei[0], H, W }, sizeof(p.dst));
    }
    return find(be, out, &p, NULL);
}

/* ---- running -------------------------------------------------------------------------------------------------------- */

typedef struct Operands {
    const float *src, *bias, *gate, *res;
    const char *w;
    float *dst;
} Operands;

static void set_arg(dnnl_exec_arg_t *args, int *nb, int arg, dnnl_memory_t mem, const void *p)
{
    dnnl_memory_set_data_handle(mem, (void *)p);
    args[(*nb)++] = (dnnl_exec_arg_t){ arg, mem };
}

static int run_repack(Onednn *o, Item *it, const char *w)
{
    dnnl_exec_arg_t args[2];
    int nb = 0;

    set_arg(args, &nb, DNNL_ARG_FROM, it->packed, w);
    set_arg(args, &nb, DNNL_ARG_TO, it->w, o->buffer + it->scratch_size);
    return check(o, dnnl_primitive_execute(it->repack, o->stream, nb, args), "a reorder");
}

static int execute_in(Onednn *o, Item *it, const Operands *x)
{
    const Problem *p = &it->p;
    const int threads = swap_threads(p->threads);
    dnnl_exec_arg_t args[8];
    int nb = 0, post = p->act != ACT_NONE, ret = it->repack ? run_repack(o, it, x->w) : 0;

    set_arg(args, &nb, DNNL_ARG_SRC, it->src, x->src);
    set_arg(args, &nb, DNNL_ARG_WEIGHTS, it->w, it->repack ? o->buffer + it->scratch_size : x->w);
    set_arg(args, &nb, DNNL_ARG_DST, it->dst, x->dst);
    if (it->scratch_size)
        set_arg(args, &nb, DNNL_ARG_SCRATCHPAD, it->scratch, o->buffer);
    if (p->bias)
        set_arg(args, &nb, DNNL_ARG_BIAS, it->bias, x->bias);
    if (p->gate)
        set_arg(args, &nb, DNNL_ARG_ATTR_MULTIPLE_POST_OP(post++) | DNNL_ARG_SRC_1, it->gate, x->gate);
    if (p->res == 2)
        set_arg(args, &nb, DNNL_ARG_ATTR_MULTIPLE_POST_OP(post) | DNNL_ARG_SRC_1, it->res, x->res);
    if (ret >= 0)
        ret = check(o, dnnl_primitive_execute(it->run, o->stream, nb, args), "an execution");
    swap_threads(threads);
    return ret;
}

static int execute(Backend *be, Item *it, const Operands *x)
{
    Cpu *cpu = be->priv;
    Onednn *o = cpu->onednn;
    const size_t size = it->scratch_size + (it->repack ? it->size : 0), mark = avt_cpu_work_mark(cpu);
    int ret = 0;

    o->buffer = size ? avt_cpu_work(be, size) : NULL;
    if (!cpu->measuring)
        ret = size && !o->buffer ? AVT_ERR(ENOMEM) : execute_in(o, it, x);
    avt_cpu_work_release(cpu, mark);
    return ret;
}

/* The primitive of `p`, whose `threads` are filled in here. */
static int find_item(Backend *be, Item **it, Problem *p)
{
    double work = 2.0 * p->dst[0] * p->dst[1] * p->src[1];
    Item *packed;
    int ret;

    if (p->nd == 4)
        work *= (double)p->dst[2] * p->dst[3] * p->wei[2] * p->wei[3];
    p->threads = work < SMALL ? 1 : be->threads;
    ret = find_packed(be, &packed, p->nd, p->wei);
    return ret < 0 ? ret : find(be, it, p, &packed->wei);
}

static int solve(Backend *be, Problem *p, const Operands *x)
{
    Item *it;
    const int ret = find_item(be, &it, p);

    return ret < 0 ? ret : execute(be, it, x);
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
    ret = find_item(be, &it, &p);
    if (ret < 0)
        return ret;
    if (it->slow && p.gate && p.res == 1)
        return solve_apart(be, &p, &x);
    return execute(be, it, &x);
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
    ret = find_packed(be, &packed, 4, wei);
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

    return find_packed(be, out, use == WEIGHT_LINEAR ? 2 : 4, use == WEIGHT_LINEAR ? linear : conv);
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

/* One reorder: `src`, whose element strides are given, into the packed order. */
static int pack(const Onednn *o, const Item *packed, char *dst, dnnl_data_type_t type, const void *src, const int64_t *stride)
{
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t run = NULL;
    dnnl_memory_t from = NULL, to = NULL;
    dnnl_exec_arg_t args[2];
    dnnl_dims_t dim;
    Md md = { 0 };
    int nb = 0;
    dnnl_status_t s = md_strided(&md, packed->p.nd, widen(dim, packed->p.wei, packed->p.nd), type, stride);

    if (!s)
        s = dnnl_reorder_primitive_desc_create(&pd, REF(&md), o->engine, REF(&packed->wei), o->engine, NULL);
    if (!s)
        s = dnnl_primitive_create(&run, pd);
    if (!s)
        s = make_memory(o, &from, &md);
    if (!s)
        s = make_memory(o, &to, &packed->wei);
    if (!s) {
        set_arg(args, &nb, DNNL_ARG_FROM, from, src);
        set_arg(args, &nb, DNNL_ARG_TO, to, dst);
        s = dnnl_primitive_execute(run, o->stream, nb, args);
    }
    dnnl_memory_destroy(from);
    dnnl_memory_destroy(to);
    dnnl_primitive_destroy(run);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    md_free(&md);
    return check(o, s, "packing a weight");
}

static int pack_taps(const Onednn *o, const Item *packed, Tensor *dst, dnnl_data_type_t type, const void *src)
{
    const int64_t *d = dst->dim, plane = d[3] * d[4], taps = d[2];
    const dnnl_dims_t stride = { d[1] * taps * plane, taps * plane, d[4], 1 };
    const size_t element = type == dnnl_bf16 ? 2 : 4, tap = (packed->size + ALIGN - 1) / ALIGN * ALIGN;
    int ret = 0;

    for (int64_t k = 0; k < taps && ret >= 0; k++)
        ret = pack(o, packed, (char *)dst->data + (size_t)k * tap, type, (const char *)src + (size_t)(k * plane) * element, stride);
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
    threads = swap_threads(be->threads);
    if (ret >= 0 && use == WEIGHT_LINEAR)
        ret = pack(o, packed, dst->data, type, wide ? wide : src, stride);
    else if (ret >= 0)
        ret = pack_taps(o, packed, dst, type, wide ? wide : src);
    swap_threads(threads);
    avt_free(wide);
    return ret;
}

/* ---- open and close -------------------------------------------------------------------------------------------------- */

void avt_cpu_onednn_close(Cpu *cpu)
{
    Onednn *o = cpu->onednn;

    if (!o)
        return;
    for (int64_t i = 0; i < o->room; i++)
        if (o->slot[i])
            item_close(o->slot[i]);
    avt_free(o->slot);
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
    o = avt_calloc(MEM_BACKEND, 1, sizeof(*o));
    if (!o)
        return AVT_ERR(ENOMEM);
    cpu->onednn = o;
    o->log = be->log;
    ret = check(o, dnnl_engine_create(&o->engine, dnnl_cpu, 0), "opening the CPU");
    if (ret >= 0)
        ret = check(o, dnnl_stream_create(&o->stream, o->engine, dnnl_stream_default_flags), "opening a stream");
    if (ret < 0)
        return ret;
    cpu->weight_bytes = weight_bytes_onednn;
    cpu->weight_put = weight_put_onednn;
    cpu->op[OP_LINEAR] = linear_onednn;
    cpu->op[OP_CONV3D] = conv3d_onednn;
    cpu->level[OP_LINEAR] = cpu->level[OP_CONV3D] = "onednn";
    return 0;
}
