/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuDNN's backend interface: what dnn.cuh has.
 *
 * Traps: for f32 the heuristics' first engine rounds to TF32, others round further, so engines are chosen by their numerical notes; what
 * fuses a bias in f32 is of that kind, too. Engines that are only to be had by their number are asked for when the heuristics' list is through.
 * Source: cuDNN 9 backend API; engines of each architecture as cuDNN 9.19 plans them without a device.
 */
#include "base/sum.h"
#include "cuda/dnn.cuh"

enum { CONFIGS_MOST = 16, ENGINES_MOST = 128, NOTES_MOST = 16 };

static void close_plan(void *opaque)
{
    DnnPlan *p = (DnnPlan *)opaque;

    while (p->nb > 0)
        cudnnBackendDestroyDescriptor(p->made[--p->nb]);
    avt_free(p);
}

static size_t size_of(cudnnBackendAttributeType_t type)
{
    return type == CUDNN_TYPE_BOOLEAN || type == CUDNN_TYPE_CHAR ? 1 : type == CUDNN_TYPE_INT64 || type == CUDNN_TYPE_DOUBLE ? 8 : 4;
}

/* Parts by their place in the order of making; the handle is the process's own. */
static void sum_value(DnnBuilder *b, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t nb, const void *value)
{
    const int64_t what[3] = { name, type, nb };

    b->sum = avt_sum(b->sum, what, sizeof(what));
    if (type == CUDNN_TYPE_HANDLE)
        return;
    if (type != CUDNN_TYPE_BACKEND_DESCRIPTOR)
        b->sum = avt_sum(b->sum, value, (size_t)nb * size_of(type));
    for (int64_t i = 0; i < nb && type == CUDNN_TYPE_BACKEND_DESCRIPTOR; i++)
        for (int64_t k = 0; k < b->plan->nb; k++)
            if (b->plan->made[k] == ((const DnnPart *)value)[i])
                b->sum = avt_sum(b->sum, &k, sizeof(k));
}

DnnPart avt_dnn_make(DnnBuilder *b, cudnnBackendDescriptorType_t type)
{
    DnnPart d = NULL;

    if (!b->e && b->plan->nb == DNN_PARTS)
        b->e = CUDNN_STATUS_INTERNAL_ERROR;
    if (!b->e)
        b->e = cudnnBackendCreateDescriptor(type, &d);
    if (d)
        b->plan->made[b->plan->nb++] = d;
    b->sum = avt_sum(b->sum, &type, sizeof(type));
    return d;
}

void avt_dnn_set(DnnBuilder *b, DnnPart d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t nb, const void *value)
{
    if (!b->e)
        b->e = cudnnBackendSetAttribute(d, name, type, nb, value);
    sum_value(b, name, type, nb, value);
}

void avt_dnn_set_numbers(DnnBuilder *b, DnnPart d, cudnnBackendAttributeName_t name, int64_t nb, const int64_t *value)
{
    avt_dnn_set(b, d, name, CUDNN_TYPE_INT64, nb, value);
}

void avt_dnn_set_part(DnnBuilder *b, DnnPart d, cudnnBackendAttributeName_t name, DnnPart part)
{
    avt_dnn_set(b, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

DnnPart avt_dnn_finish(DnnBuilder *b, DnnPart d)
{
    if (!b->e)
        b->e = cudnnBackendFinalize(d);
    return d;
}

static cudnnDataType_t library_type(int dtype)
{
    switch (dtype) {
    case DT_BF16:       return CUDNN_DATA_BFLOAT16;
    case DT_I8:         return CUDNN_DATA_INT8;
    case DT_I32:        return CUDNN_DATA_INT32;
    case DT_F8_E4M3:    return CUDNN_DATA_FP8_E4M3;
    default:            return CUDNN_DATA_FLOAT;
    }
}

DnnPart avt_dnn_tensor(DnnBuilder *b, int64_t uid, int dtype, bool is_virtual, int nd, const int64_t *dim, const int64_t *stride)
{
    const int64_t alignment = 16;
    const cudnnDataType_t type = library_type(dtype);
    const DnnPart d = avt_dnn_make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);

    avt_dnn_set_numbers(b, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, 1, &uid);
    avt_dnn_set(b, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_TENSOR_DIMENSIONS, nd, dim);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_TENSOR_STRIDES, nd, stride);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1, &alignment);
    if (is_virtual)
        avt_dnn_set(b, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    return avt_dnn_finish(b, d);
}

DnnPart avt_dnn_pointwise(DnnBuilder *b, cudnnPointwiseMode_t mode, DnnPart x, DnnPart t, DnnPart y)
{
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const DnnPart d = avt_dnn_make(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    DnnPart op;

    avt_dnn_set(b, d, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    avt_dnn_set(b, d, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    avt_dnn_finish(b, d);
    op = avt_dnn_make(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, d);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (t)
        avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, t);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    return avt_dnn_finish(b, op);
}

DnnPart avt_dnn_graph(DnnBuilder *b, Cuda *cuda, int64_t nb, const DnnPart *op)
{
    const DnnPart graph = avt_dnn_make(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);

    avt_dnn_set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, nb, op);
    avt_dnn_set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &cuda->dnn);
    return avt_dnn_finish(b, graph);
}

/* ---- choosing an engine -------------------------------------------------------------------------------------------------------------- */

/* May the engine's results be ours? Equal bits in every run; for f32 whole operands, and sums that are no transform's. */
static bool is_fit(DnnPart engine, bool exact)
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

bool avt_dnn_plan_from(DnnPlan *plan, Cuda *cuda, DnnPart config, const char *text, size_t size, int64_t most)
{
    const int nb = plan->nb;
    DnnBuilder b = { plan, CUDNN_STATUS_SUCCESS, 0 };
    const DnnPart d = avt_dnn_make(&b, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    int64_t got = 0;

    avt_dnn_set(&b, d, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &cuda->dnn);
    if (config)
        avt_dnn_set_part(&b, d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    else
        avt_dnn_set(&b, d, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)size, text);
    avt_dnn_finish(&b, d);
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
static bool try_config(DnnPlan *plan, Cuda *cuda, DnnPart config, int64_t most)
{
    if (plan->nb + 2 > DNN_PARTS)
        return false;
    plan->made[plan->nb++] = config;
    if (avt_dnn_plan_from(plan, cuda, config, NULL, 0, most))
        return true;
    plan->nb--;
    return false;
}

/* Of the list, without the first that fit, `skip` of them. */
static bool choose_listed(DnnPlan *plan, Cuda *cuda, DnnPart graph, cudnnBackendHeurMode_t mode, int skip, bool exact, int64_t most)
{
    DnnBuilder b = { plan, CUDNN_STATUS_SUCCESS, 0 };
    const DnnPart list = avt_dnn_make(&b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    DnnPart config[CONFIGS_MOST] = {};
    int64_t nb = 0, got;
    bool found = false;

    avt_dnn_set_part(&b, list, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    avt_dnn_set(&b, list, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    avt_dnn_finish(&b, list);
    for (int i = 0; i < CONFIGS_MOST && !b.e; i++)
        b.e = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config[i]);
    if (!b.e)
        b.e = cudnnBackendGetAttribute(list, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS_MOST, &nb, config);
    for (int64_t i = 0; i < nb && i < CONFIGS_MOST && !b.e && !found; i++) {
        DnnPart engine = NULL;

        if (!cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) &&
            !cudnnBackendGetAttribute(config[i], CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &got, &engine) && is_fit(engine, exact))
            found = skip-- <= 0 && try_config(plan, cuda, config[i], most);
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

static bool choose_number(DnnPlan *plan, Cuda *cuda, DnnPart graph, int64_t number, bool exact, int64_t most)
{
    const int before = plan->nb;
    DnnBuilder b = { plan, CUDNN_STATUS_SUCCESS, 0 };
    const DnnPart engine = avt_dnn_make(&b, CUDNN_BACKEND_ENGINE_DESCRIPTOR), config = avt_dnn_make(&b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    bool found;

    avt_dnn_set_part(&b, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph);
    avt_dnn_set_numbers(&b, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 1, &number);
    avt_dnn_finish(&b, engine);
    if (!b.e && !is_fit(engine, exact))
        b.e = CUDNN_STATUS_NOT_SUPPORTED;
    avt_dnn_set_part(&b, config, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    avt_dnn_finish(&b, config);
    found = !b.e && avt_dnn_plan_from(plan, cuda, config, NULL, 0, most);
    while (!found && plan->nb > before)
        cudnnBackendDestroyDescriptor(plan->made[--plan->nb]);
    return found;
}

static bool choose_by_number(DnnPlan *plan, Cuda *cuda, DnnPart graph, bool exact, int64_t most)
{
    int64_t nb = 0, got;
    bool found = false;

    if (cudnnBackendGetAttribute(graph, CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT, CUDNN_TYPE_INT64, 1, &got, &nb))
        return false;
    for (int64_t i = nb - 1; i >= 0 && !found; i--)                 // the direct one, slowest of all, is number 0
        found = choose_number(plan, cuda, graph, i, exact, most);
    return found;
}

static bool choose(DnnPlan *plan, Cuda *cuda, DnnPart graph, const DnnWish *w)
{
    if (w->engine >= 0)
        return choose_number(plan, cuda, graph, w->engine, w->exact, w->library);
    if (w->engine < -1)
        return choose_listed(plan, cuda, graph, CUDNN_HEUR_MODE_A, -1 - w->engine, w->exact, w->library);
    return choose_listed(plan, cuda, graph, CUDNN_HEUR_MODE_A, 0, w->exact, w->library) ||
           choose_listed(plan, cuda, graph, CUDNN_HEUR_MODE_FALLBACK, 0, w->exact, w->library) || choose_by_number(plan, cuda, graph, w->exact, w->library);
}

/* ---- plans ------------------------------------------------------------------------------------------------------------------------------- */

static int make_plan(Backend *be, DnnPlan **out, const DnnWish *wish)
{
    Cuda *cuda = avt_cuda(be);
    DnnPlan *plan = (DnnPlan *)avt_calloc(MEM_BACKEND, 1, sizeof(*plan));
    DnnBuilder b = { plan, CUDNN_STATUS_SUCCESS, AVT_SUM_BEGIN };
    DnnPart graph;
    int ret;

    if (!plan)
        return AVT_ERR(ENOMEM);
    graph = wish->graph(&b, cuda, wish->key);
    if (b.e || avt_dnn_take(be, plan, wish, b.sum) < 0) {
        plan->refused = b.e || !choose(plan, cuda, graph, wish);
        if (!plan->refused)
            avt_dnn_keep(be, plan, wish, b.sum);
    }
    if (plan->refused && wish->say_refused)
        wish->say_refused(be, wish->key);
    ret = avt_cuda_plan_put(cuda->plans, wish->key, wish->size, plan, close_plan);
    if (ret < 0)
        close_plan(plan);
    else
        *out = plan;
    return ret;
}

int avt_dnn_plan(Backend *be, DnnPlan **plan, const DnnWish *wish)
{
    int ret = avt_cuda(be)->dnn ? 0 : avt_cuda_dnn_open(be);

    *plan = (DnnPlan *)avt_cuda_plan_get(avt_cuda(be)->plans, wish->key, wish->size);
    if (ret >= 0 && !*plan)
        ret = make_plan(be, plan, wish);
    return ret < 0 ? ret : (*plan)->refused ? AVT_ERR(ENOSYS) : 0;
}

int avt_dnn_execute(Backend *be, DnnPlan *plan, int64_t nb, const int64_t *uid, void *const *address, void *workspace, const char *what)
{
    DnnPart pack = NULL;
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
        e = cudnnBackendExecute(avt_cuda(be)->dnn, plan->plan, pack);
    if (pack)
        cudnnBackendDestroyDescriptor(pack);
    if (CUDNN_STATUS_CATEGORY(e) != CUDNN_STATUS_NOT_SUPPORTED)
        return avt_cuda_check_dnn(be, e, what);
    plan->refused = 1;
    avt_log(be->log, LOG_WARNING, "%s: %s: cuDNN has made a plan that it does not run (%s): another way is taken", be->device, what, cudnnGetErrorString(e));
    return AVT_ERR(ENOSYS);
}
