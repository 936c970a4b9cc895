/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * oneDNN's primitives. One is made at the first call of a shape and kept; its memory objects get new addresses at each call. Its
 * scratch comes out of the workspace.
 */
#include <omp.h>
#include <string.h>

#include "cpu/onednn.h"

#define CODE (8 << 20)                  // bytes of address space that a primitive is made in; most that was seen are 1.5 MB
#define SMALL 4000000                   // floating-point operations below which one thread is faster than two

/* ---- making a primitive ------------------------------------------------------------------------------------------- */

int avt_onednn_check(const Onednn *o, dnnl_status_t s, const char *what)
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

int avt_onednn_threads(int nb)
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

/* Where no memory is left for its code, oneDNN writes it to address 0. @return 0 or an error (logged) */
static int has_room(const Onednn *o)
{
    return avt_pages_left(CODE) ? 0 : avt_fail(o->log, AVT_ERR(ENOMEM), "cpu: there are not %d MB left for the code of an operation: raise "
                                                "the limit (ulimit -v), or end what else runs", CODE >> 20);
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

    ret = it ? has_room(o) : AVT_ERR(ENOMEM);
    if (ret < 0) {
        avt_free(it);
        return ret;
    }
    it->p = *p;
    threads = avt_onednn_threads(p->threads ? p->threads : 1);
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
    avt_onednn_threads(threads);
    ret = avt_onednn_check(o, s, p->nd == 2 ? "a product" : "a convolution");
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

int avt_onednn_packed(Backend *be, Item **out, int nd, const int32_t *wei)
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

void avt_onednn_clear(Onednn *o)
{
    for (int64_t i = 0; i < o->room; i++)
        if (o->slot[i])
            item_close(o->slot[i]);
    avt_free(o->slot);
}

/* ---- running -------------------------------------------------------------------------------------------------------- */

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
    return avt_onednn_check(o, dnnl_primitive_execute(it->repack, o->stream, nb, args), "a reorder");
}

static int execute_in(Onednn *o, Item *it, const Operands *x)
{
    const Problem *p = &it->p;
    const int threads = avt_onednn_threads(p->threads);
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
        ret = avt_onednn_check(o, dnnl_primitive_execute(it->run, o->stream, nb, args), "an execution");
    avt_onednn_threads(threads);
    return ret;
}

int avt_onednn_execute(Backend *be, Item *it, const Operands *x)
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

int avt_onednn_find(Backend *be, Item **it, Problem *p)
{
    double work = 2.0 * p->dst[0] * p->dst[1] * p->src[1];
    Item *packed;
    int ret;

    if (p->nd == 4)
        work *= (double)p->dst[2] * p->dst[3] * p->wei[2] * p->wei[3];
    p->threads = work < SMALL ? 1 : be->threads;
    ret = avt_onednn_packed(be, &packed, p->nd, p->wei);
    return ret < 0 ? ret : find(be, it, p, &packed->wei);
}

/* ---- packing a weight ------------------------------------------------------------------------------------------------- */

int avt_onednn_pack(const Onednn *o, const Item *packed, char *dst, dnnl_data_type_t type, const void *src, const int64_t *stride)
{
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t run = NULL;
    dnnl_memory_t from = NULL, to = NULL;
    dnnl_exec_arg_t args[2];
    dnnl_dims_t dim;
    Md md = { 0 };
    dnnl_status_t s;
    int nb = 0;

    if (has_room(o) < 0)
        return AVT_ERR(ENOMEM);
    s = md_strided(&md, packed->p.nd, widen(dim, packed->p.wei, packed->p.nd), type, stride);

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
    return avt_onednn_check(o, s, "packing a weight");
}
