/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Convolutions of cuDNN: graphs of its backend interface, a plan a shape.
 *
 *      x, w --convolution--> sums --add bias--> --add residual--> out          bf16: one kernel, sums in f32 never leave it
 *      x, w --convolution--> out                                               f32: only engines whose notes promise whole operands
 *
 * A tensor is [1, C, T, H, W] by its dimensions and channels last by its strides; the filter likewise. Padding differs in front and behind,
 * so causal frames and strides with a lopsided border are plain convolutions.
 *
 * Traps: for f32 the heuristics' first engine rounds to TF32, others round further, so engines are chosen by their numerical notes; what
 * fuses a bias in f32 is of that kind, too. Engines that are only to be had by their number are asked for when the heuristics' list is through.
 * Source: cuDNN 9 backend API; engines of each architecture as cuDNN 9.19 plans them without a device.
 */
#include "cuda/plans.h"

typedef cudnnBackendDescriptor_t Descriptor;

enum { DESCRIPTORS_MOST = 32, CONFIGS_MOST = 16, ENGINES_MOST = 128, NOTES_MOST = 16 };
enum { X, W, BIAS, RES, OUT, SUMS, BIASED };                        // tensors, by the number that their addresses are bound to

typedef struct DnnPlan {
    Descriptor made[DESCRIPTORS_MOST];  // all that the plan is made of, in the order of making
    int nb;
    Descriptor plan;
    int64_t workspace;
    int refused;                        // the library has none
} DnnPlan;

/* A graph in the making: after an error nothing more is made. */
typedef struct Builder {
    DnnPlan *plan;
    cudnnStatus_t e;
} Builder;

static void close_plan(void *opaque)
{
    DnnPlan *p = (DnnPlan *)opaque;

    while (p->nb > 0)
        cudnnBackendDestroyDescriptor(p->made[--p->nb]);
    avt_free(p);
}

static Descriptor make(Builder *b, cudnnBackendDescriptorType_t type)
{
    Descriptor d = NULL;

    if (!b->e && b->plan->nb == DESCRIPTORS_MOST)
        b->e = CUDNN_STATUS_INTERNAL_ERROR;
    if (!b->e)
        b->e = cudnnBackendCreateDescriptor(type, &d);
    if (d)
        b->plan->made[b->plan->nb++] = d;
    return d;
}

static void set(Builder *b, Descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t nb, const void *value)
{
    if (!b->e)
        b->e = cudnnBackendSetAttribute(d, name, type, nb, value);
}

static void set_numbers(Builder *b, Descriptor d, cudnnBackendAttributeName_t name, int64_t nb, const int64_t *value)
{
    set(b, d, name, CUDNN_TYPE_INT64, nb, value);
}

static void set_part(Builder *b, Descriptor d, cudnnBackendAttributeName_t name, Descriptor part)
{
    set(b, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

static Descriptor finish(Builder *b, Descriptor d)
{
    if (!b->e)
        b->e = cudnnBackendFinalize(d);
    return d;
}

static cudnnDataType_t library_type(int dtype)
{
    return dtype == DT_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
}

/* [n, c, t, h, w] of a tensor whose channels are last */
static Descriptor tensor(Builder *b, int64_t uid, int dtype, bool is_virtual, int64_t n, int64_t c, int64_t t, int64_t h, int64_t w)
{
    const int64_t dim[5] = { n, c, t, h, w }, stride[5] = { t * h * w * c, 1, h * w * c, w * c, c }, alignment = 16;
    const cudnnDataType_t type = library_type(dtype);
    const Descriptor d = make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);

    set_numbers(b, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, 1, &uid);
    set(b, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set_numbers(b, d, CUDNN_ATTR_TENSOR_DIMENSIONS, 5, dim);
    set_numbers(b, d, CUDNN_ATTR_TENSOR_STRIDES, 5, stride);
    set_numbers(b, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1, &alignment);
    if (is_virtual)
        set(b, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    return finish(b, d);
}

static Descriptor convolution(Builder *b, const DnnConv *c, Descriptor x, Descriptor w, Descriptor y)
{
    const int64_t nb = 3, before[3] = { c->pad_t, c->pad0, c->pad0 }, after[3] = { 0, c->pad1, c->pad1 };
    const int64_t step[3] = { c->stride_t, c->stride, c->stride }, dilation[3] = { 1, 1, 1 };
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const double alpha = 1, beta = 0;
    const Descriptor d = make(b, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    Descriptor op;

    set(b, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    set(b, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set_numbers(b, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 1, &nb);
    set_numbers(b, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, 3, before);
    set_numbers(b, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, 3, after);
    set_numbers(b, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, 3, step);
    set_numbers(b, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, 3, dilation);
    finish(b, d);
    op = make(b, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    set_part(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, d);
    set_part(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
    set_part(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
    set_part(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    set(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_DOUBLE, 1, &alpha);
    set(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_DOUBLE, 1, &beta);
    return finish(b, op);
}

/* y = x + t */
static Descriptor addition(Builder *b, Descriptor x, Descriptor t, Descriptor y)
{
    const cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const Descriptor d = make(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    Descriptor op;

    set(b, d, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(b, d, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    finish(b, d);
    op = make(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_part(b, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, d);
    set_part(b, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    set_part(b, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, t);
    set_part(b, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    return finish(b, op);
}

static Descriptor result_tensor(Builder *b, const DnnConv *c, int64_t uid, bool is_virtual)
{
    return tensor(b, uid, is_virtual ? DT_F32 : c->out, is_virtual, 1, c->result[3], c->result[0], c->result[1], c->result[2]);
}

static Descriptor graph_of(Builder *b, Cuda *cuda, const DnnConv *c)
{
    const Descriptor x = tensor(b, X, c->x, false, 1, c->in[3], c->in[0], c->in[1], c->in[2]);
    const Descriptor w = tensor(b, W, c->x, false, c->result[3], c->in[3], c->taps[0], c->taps[1], c->taps[2]);
    const Descriptor out = result_tensor(b, c, OUT, false);
    Descriptor sums = c->bias || c->res ? result_tensor(b, c, SUMS, true) : out, op[3];
    int64_t nb = 0;

    op[nb++] = convolution(b, c, x, w, sums);
    if (c->bias) {
        const Descriptor biased = c->res ? result_tensor(b, c, BIASED, true) : out;

        op[nb++] = addition(b, sums, tensor(b, BIAS, DT_F32, false, 1, c->result[3], 1, 1, 1), biased);
        sums = biased;
    }
    if (c->res)
        op[nb++] = addition(b, sums, result_tensor(b, c, RES, false), out);

    const Descriptor graph = make(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);

    set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, nb, op);
    set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &cuda->dnn);
    return finish(b, graph);
}

/* ---- choosing an engine -------------------------------------------------------------------------------------------------------------- */

/* May the engine's results be ours? Equal bits in every run; for f32 whole operands, and sums that are no transform's. */
static bool is_fit(Descriptor engine, bool exact)
{
    cudnnBackendNumericalNote_t note[NOTES_MOST];
    int64_t nb = 0;

    if (cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, NOTES_MOST, &nb, note))
        return false;
    for (int64_t i = 0; i < nb && i < NOTES_MOST; i++)
        if (note[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC || note[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS ||
            (exact && (note[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE || note[i] == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION ||
                       note[i] == CUDNN_NUMERICAL_NOTE_FFT || note[i] == CUDNN_NUMERICAL_NOTE_WINOGRAD)))
            return false;
    return true;
}

/* A plan of a configuration whose workspace fits. */
static bool plan_from(DnnPlan *plan, Cuda *cuda, Descriptor config, int64_t most)
{
    const int nb = plan->nb;
    Builder b = { plan, CUDNN_STATUS_SUCCESS };
    const Descriptor d = make(&b, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    int64_t got = 0;

    set(&b, d, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &cuda->dnn);
    set_part(&b, d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    finish(&b, d);
    if (!b.e)
        b.e = cudnnBackendGetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &got, &plan->workspace);
    if (!b.e && plan->workspace <= most) {
        plan->plan = d;
        return true;
    }
    while (plan->nb > nb)
        cudnnBackendDestroyDescriptor(plan->made[--plan->nb]);
    return false;
}

/* Keep a configuration with the plan that is made of it, drop it when there is none. */
static bool try_config(DnnPlan *plan, Cuda *cuda, Descriptor config, Descriptor engine, bool exact, int64_t most)
{
    if (plan->nb + 2 > DESCRIPTORS_MOST || !is_fit(engine, exact))
        return false;
    plan->made[plan->nb++] = config;
    if (plan_from(plan, cuda, config, most))
        return true;
    plan->nb--;
    return false;
}

static bool choose_listed(DnnPlan *plan, Cuda *cuda, Descriptor graph, cudnnBackendHeurMode_t mode, bool exact, int64_t most)
{
    Builder b = { plan, CUDNN_STATUS_SUCCESS };
    const Descriptor list = make(&b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    Descriptor config[CONFIGS_MOST] = {};
    int64_t nb = 0, got;
    bool found = false;

    set_part(&b, list, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(&b, list, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    finish(&b, list);
    for (int i = 0; i < CONFIGS_MOST && !b.e; i++)
        b.e = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config[i]);
    if (!b.e)
        b.e = cudnnBackendGetAttribute(list, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS_MOST, &nb, config);
    for (int64_t i = 0; i < nb && i < CONFIGS_MOST && !b.e && !found; i++) {
        Descriptor engine = NULL;

        if (!cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) &&
            !cudnnBackendGetAttribute(config[i], CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &got, &engine))
            found = try_config(plan, cuda, config[i], engine, exact, most);
        if (engine)
            cudnnBackendDestroyDescriptor(engine);
        if (found)
            config[i] = NULL;                                       // the plan's now
    }
    for (int i = 0; i < CONFIGS_MOST; i++)
        if (config[i])
            cudnnBackendDestroyDescriptor(config[i]);
    return found;
}

static bool choose_by_number(DnnPlan *plan, Cuda *cuda, Descriptor graph, bool exact, int64_t most)
{
    int64_t nb = 0, got;
    bool found = false;

    if (cudnnBackendGetAttribute(graph, CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT, CUDNN_TYPE_INT64, 1, &got, &nb))
        return false;
    for (int64_t i = nb - 1; i >= 0 && !found; i--) {               // the direct one, slowest of all, is number 0
        const int before = plan->nb;
        Builder b = { plan, CUDNN_STATUS_SUCCESS };
        const Descriptor engine = make(&b, CUDNN_BACKEND_ENGINE_DESCRIPTOR), config = make(&b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);

        set_part(&b, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph);
        set_numbers(&b, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 1, &i);
        finish(&b, engine);
        if (!b.e && !is_fit(engine, exact))
            b.e = CUDNN_STATUS_NOT_SUPPORTED;
        set_part(&b, config, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
        finish(&b, config);
        found = !b.e && plan_from(plan, cuda, config, most);
        while (!found && plan->nb > before)
            cudnnBackendDestroyDescriptor(plan->made[--plan->nb]);
    }
    return found;
}

static void say_refused(Backend *be, const DnnConv *c)
{
    avt_log(be->log, LOG_WARNING, "%s: cuDNN has no plan for a convolution of %lld x %lld x %lld, %lld to %lld channels, %s: our own is used, which is slow",
            be->device, (long long)c->in[0], (long long)c->in[1], (long long)c->in[2], (long long)c->in[3], (long long)c->result[3],
            avt_dtype_name((DType)c->x));
}

static int make_plan(Backend *be, DnnPlan **out, const DnnConv *c)
{
    Cuda *cuda = avt_cuda(be);
    DnnPlan *plan = (DnnPlan *)avt_calloc(MEM_BACKEND, 1, sizeof(*plan));
    Builder b = { plan, CUDNN_STATUS_SUCCESS };
    const bool exact = c->x == DT_F32;
    Descriptor graph;
    int ret;

    if (!plan)
        return AVT_ERR(ENOMEM);
    graph = graph_of(&b, cuda, c);
    plan->refused = b.e || !(choose_listed(plan, cuda, graph, CUDNN_HEUR_MODE_A, exact, c->library) ||
                             choose_listed(plan, cuda, graph, CUDNN_HEUR_MODE_FALLBACK, exact, c->library) ||
                             choose_by_number(plan, cuda, graph, exact, c->library));
    if (plan->refused)
        say_refused(be, c);
    ret = avt_cuda_plan_put(cuda->plans, c, sizeof(*c), plan, close_plan);
    if (ret < 0)
        close_plan(plan);
    else
        *out = plan;
    return ret;
}

/* ---- running ---------------------------------------------------------------------------------------------------------------------------- */

static cudnnStatus_t execute(Cuda *cuda, const DnnPlan *plan, int64_t nb, const int64_t *uid, void *const *address, void *workspace)
{
    Descriptor pack = NULL;
    cudnnStatus_t e = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);

    if (!e)
        e = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, nb, uid);
    if (!e)
        e = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, nb, address);
    if (!e)
        e = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (!e)
        e = cudnnBackendFinalize(pack);
    if (!e)
        e = cudnnBackendExecute(cuda->dnn, plan->plan, pack);
    if (pack)
        cudnnBackendDestroyDescriptor(pack);
    return e;
}

int avt_cuda_dnn_conv(Backend *be, const DnnConv *c, const DnnOperands *o)
{
    Cuda *cuda = avt_cuda(be);
    DnnPlan *plan = (DnnPlan *)avt_cuda_plan_get(cuda->plans, c, sizeof(*c));
    const int ret = plan ? 0 : make_plan(be, &plan, c);
    int64_t uid[5] = { X, W, OUT }, nb = 3;
    void *address[5] = { (void *)o->x, (void *)o->w, o->out };

    if (ret < 0)
        return ret;
    if (plan->refused)
        return AVT_ERR(ENOSYS);
    if (c->bias)
        uid[nb] = BIAS, address[nb++] = (void *)o->bias;
    if (c->res)
        uid[nb] = RES, address[nb++] = (void *)o->res;
    return avt_cuda_check_dnn(be, execute(cuda, plan, nb, uid, address, o->workspace), "a convolution");
}
