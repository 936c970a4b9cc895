/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Attention by cuDNN, whose kernels from sm_90 on use the cards' own matrix instructions (ours, in attention.cu, which calls this, Ampere's):
 * bf16, heads of 128, enough scores to be worth a plan, tensors at multiples of 16 bytes. A plan a shape; the rings of a film have four.
 *
 *      q, keys, values --SDPA--> out                            one segment
 *      q, first  --SDPA--> result, log of the sum of weights    two: each by itself, and the results weighed by their sums,
 *      q, second --SDPA--> result, log of the sum of weights    out = a + (b - a) / (1 + e^(log a - log b))
 *
 * cuDNN knows no attention over two runs of keys. Together they cost 2 results more to memory, 162 MB at 704x384, 48 us of 1.5 ms on an H100;
 * in one run, the sink would lie in front of every ring, 6.5 GB of it, or be mapped there. Results in bf16 are rounded before they are
 * weighed: within the tolerance of weights that are.
 *
 * That the log is natural and of scaled scores is written of another form of the operation; so a small one is asked first, never assumed.
 * Source: cuDNN 9 backend API, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR; plans of 9.19 as tests/simt/engines.cpp has them.
 */
#include "cuda/dnn.cuh"
#include "cuda/kernel.cuh"

enum { Q, K, V, OUT, SCALE, STATS };                                // tensors, by the number that their addresses are bound to
enum { PACK = 8 };

typedef struct DnnAttention {           // also the key of its plan
    int32_t kind, stats;                // PLAN_ATTENTION; stats: 1: with the log of the sums
    int32_t engine, unused;             // as DnnWish.engine; 0: the key has no holes
    int64_t n, m, heads, hd;
    int64_t library;                    // bytes of workspace
} DnnAttention;

typedef struct SegmentOperands {
    const void *q, *k, *v;
    void *out, *stats, *workspace;
    float scale;
} SegmentOperands;

/* ---- the graph --------------------------------------------------------------------------------------------------------------- */

/* [tokens, heads, hd] as [1, heads, tokens, hd] */
static DnnPart heads_of(DnnBuilder *b, const DnnAttention *a, int64_t uid, int64_t tokens)
{
    const int64_t dim[4] = { 1, a->heads, tokens, a->hd }, stride[4] = { tokens * a->heads * a->hd, a->hd, a->heads * a->hd, 1 };

    return avt_dnn_tensor(b, uid, DT_BF16, false, 4, dim, stride);
}

/* a number that is read from the host when the plan is executed */
static DnnPart scale_part(DnnBuilder *b)
{
    const int64_t one[4] = { 1, 1, 1, 1 }, uid = SCALE, alignment = 4;
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const bool by_value = true;
    const DnnPart d = avt_dnn_make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);

    avt_dnn_set_numbers(b, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, 1, &uid);
    avt_dnn_set(b, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_TENSOR_DIMENSIONS, 4, one);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_TENSOR_STRIDES, 4, one);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1, &alignment);
    avt_dnn_set(b, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    return avt_dnn_finish(b, d);
}

static DnnPart graph_of(DnnBuilder *b, Cuda *cuda, const void *key)
{
    const DnnAttention *a = (const DnnAttention *)key;
    const int64_t dim[4] = { 1, a->heads, a->n, 1 }, stride[4] = { a->heads * a->n, a->n, 1, 1 };
    const DnnPart q = heads_of(b, a, Q, a->n), k = heads_of(b, a, K, a->m), v = heads_of(b, a, V, a->m), out = heads_of(b, a, OUT, a->n);
    const DnnPart scale = scale_part(b), stats = a->stats ? avt_dnn_tensor(b, STATS, DT_F32, false, 4, dim, stride) : NULL;
    const DnnPart op = avt_dnn_make(b, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);

    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, k);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, v);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, out);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale);
    if (stats)
        avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, stats);
    avt_dnn_finish(b, op);
    return avt_dnn_graph(b, cuda, 1, &op);
}

static void say_refused(Backend *be, const void *key)
{
    const DnnAttention *a = (const DnnAttention *)key;

    avt_log(be->log, LOG_WARNING, "%s: cuDNN has no plan for an attention of %lld tokens over %lld, %lld heads of %lld: our own is used, which is slower",
            be->device, (long long)a->n, (long long)a->m, (long long)a->heads, (long long)a->hd);
}

/* One segment: out, and with a->stats the logs [heads, n]. @return 0, ENOSYS when there is no plan, or an error */
static int attend(Backend *be, const DnnAttention *a, const SegmentOperands *o)
{
    const DnnWish wish = { a, sizeof(*a), graph_of, false, a->library, a->engine < 0 ? say_refused : NULL, a->engine };
    const int64_t uid[6] = { Q, K, V, OUT, SCALE, STATS };
    void *address[6] = { (void *)o->q, (void *)o->k, (void *)o->v, o->out, (void *)&o->scale, o->stats };
    DnnPlan *plan;
    const int ret = avt_dnn_plan(be, &plan, &wish);

    return ret < 0 ? ret : avt_dnn_execute(be, plan, 5 + a->stats, uid, address, o->workspace, "attention");
}

/* ---- two segments ------------------------------------------------------------------------------------------------------------ */

/* out[n, heads, hd] = a and b [n, heads, hd] by their logs [heads, n] */
static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT)
merge_kernel(bf16 *out, const bf16 *a, const bf16 *b, const float *log_a, const float *log_b, int64_t n, int64_t heads, int64_t hd)
{
    EACH_PACK(at, n * heads * hd, PACK) {
        const int64_t row = at / hd, of_log = row % heads * n + row / heads;
        const float part = 1 / (1 + expf(log_a[of_log] - log_b[of_log]));
        float x[PACK], y[PACK];

        load_pack<PACK, true>(x, a + at, PACK);
        load_pack<PACK, true>(y, b + at, PACK);
#pragma unroll
        for (int i = 0; i < PACK; i++)
            x[i] += (y[i] - x[i]) * part;
        store_pack<PACK, true>(out + at, x, PACK);
    }
}

/* 64 keys whose scores are all 8, scaled 4: the log of their weights' sum is 4 + ln 64. */
typedef struct Question {
    uint16_t q[64 * 128], k[64 * 128], v[64 * 128], out[64 * 128];
    float stats[64], workspace[1024];
} Question;
static_assert(sizeof(Question) <= ATTENTION_LIBRARY, "the question has room in the workspace");

static int ask(Backend *be, Question *q, Question *on_device, int *right)
{
    const DnnAttention a = { PLAN_ATTENTION, 1, -1, 0, 64, 64, 1, 128, sizeof(q->workspace) };
    const SegmentOperands o = { on_device->q, on_device->k, on_device->v, on_device->out, on_device->stats, on_device->workspace, 0.5f };
    int ret;

    for (int i = 0; i < 64 * 128; i++)
        q->q[i] = q->v[i] = 0x3f80, q->k[i] = 0x3d80;               // 1, 1, 1 / 16
    be->cls->upload(be, on_device, q, sizeof(*q));
    ret = be->status < 0 ? be->status : attend(be, &a, &o);
    if (ret >= 0)
        ret = be->cls->download(be, q->stats, on_device->stats, sizeof(q->stats));
    *right = ret >= 0;
    for (int i = 0; i < 64 && ret >= 0; i++)
        *right &= fabsf(q->stats[i] - (4 + logf(64))) < 1e-2f;
    return ret == AVT_ERR(ENOSYS) ? 0 : ret;
}

/* Are the logs what this file takes them for? Asked once a queue, in the workspace, before the first two segments; waits for the device. */
static int logs_are_right(Backend *be, int *right)
{
    DnnFacts *facts = avt_cuda_dnn_facts(avt_cuda(be)->plans);
    Question *q;
    int ret = 0;

    if (!facts->asked) {
        q = (Question *)avt_calloc(MEM_BACKEND, 1, sizeof(*q));
        ret = q ? ask(be, q, (Question *)avt_cuda(be)->workspace, &facts->logs) : AVT_ERR(ENOMEM);
        avt_free(q);
        facts->asked = ret >= 0;
        avt_log(be->log, LOG_DEBUG, "%s: cuDNN's attention %s", be->device, facts->logs ? "gives logs that two segments are weighed by" : "is not used for two segments");
    }
    *right = facts->logs;
    return ret;
}

static int attend_both(Backend *be, const OpCall *c, const AttentionSpace *s, int engine)
{
    const Cuda *cuda = avt_cuda(be);
    const int64_t n = c->out.dim[0], heads = c->out.dim[1], hd = c->out.dim[2];
    char *at = (char *)cuda->workspace + s->library;
    const Tensor k[2] = { c->attention.k1, c->attention.k2 }, v[2] = { c->attention.v1, c->attention.v2 };
    bf16 *result[2];
    float *logs[2];
    int right, ret = logs_are_right(be, &right);

    if (ret >= 0 && !right)
        ret = AVT_ERR(ENOSYS);
    for (int i = 0; i < 2 && ret >= 0; i++) {
        const DnnAttention a = { PLAN_ATTENTION, 1, engine, 0, n, k[i].dim[0], heads, hd, (int64_t)s->library };

        result[i] = (bf16 *)(at + (size_t)i * (s->result + s->logs));
        logs[i] = (float *)((char *)result[i] + s->result);
        const SegmentOperands o = { c->attention.q.data, k[i].data, v[i].data, result[i], logs[i], cuda->workspace, c->u.attention.scale };
        ret = attend(be, &a, &o);
    }
    if (ret < 0)
        return ret;
    const Span span = span_of(cuda, 1, n * heads * hd / PACK);
    return avt_cuda_check(be, LAUNCH(merge_kernel, span.grid, span.block, 0, cuda->stream, (bf16 *)c->out.data, result[0], result[1], logs[0], logs[1],
                                     n, heads, hd), "attention");
}

int avt_cuda_attention_dnn(Backend *be, const OpCall *c, int engine)
{
    const AttentionSpace s = avt_cuda_attention_space(c);
    const DnnAttention a = { PLAN_ATTENTION, 0, engine, 0, c->out.dim[0], c->attention.k1.dim[0], c->out.dim[1], c->out.dim[2], (int64_t)s.library };
    const SegmentOperands o = { c->attention.q.data, c->attention.k1.data, c->attention.v1.data, c->out.data, NULL, avt_cuda(be)->workspace,
                                c->u.attention.scale };

    return c->attention.k2.be ? attend_both(be, c, &s, engine) : attend(be, &a, &o);
}
