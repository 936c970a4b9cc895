/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is what the double of cuDNN says of engines true? The real library is asked for a plan of each engine that engines.cpp offers, for the
 * forms of convolution, of products and of attention that the backend makes at the published model's sizes, on each kind of GPU, without
 * any: see no_driver.c.
 *
 * A case passes when the engine has a plan there, its numerical notes are the double's, and it wants no more workspace.
 */
#include <cudnn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>

#include "graph.h"

using namespace bed;

typedef cudnnBackendDescriptor_t Descriptor;

static const struct Card {
    const char *name;
    int arch, multiprocessors, shared, threads, blocks, l2;
} cards[] = {
    { "NVIDIA A100-SXM4-80GB", 80, 108, 166912, 2048, 32, 41943040 },
    { "NVIDIA L40S", 89, 142, 101376, 1536, 24, 100663296 },
    { "NVIDIA H100 80GB HBM3", 90, 132, 232448, 2048, 32, 52428800 },
    { "NVIDIA B200", 100, 148, 232448, 2048, 32, 132120576 },
    { "NVIDIA GeForce RTX 5090", 120, 170, 101376, 1536, 24, 100663296 },
};

/* What the VAE of the published model has: channels in and out, frames in (cached ones too), height, width, taps, stride in space */
static const struct Form {
    const char *name;
    Number type;
    int64_t cin, cout, t, h, w, taps[3];
    bool bias, res;
} forms[] = {
    { "384 channels", Number::BF16, 384, 384, 5, 48, 88, { 3, 3, 3 }, true, false },
    { "384 channels + residual", Number::BF16, 384, 384, 5, 48, 88, { 3, 3, 3 }, true, true },
    { "96 channels + residual", Number::BF16, 96, 96, 6, 384, 704, { 3, 3, 3 }, true, true },
    { "16 to 384 channels", Number::BF16, 16, 384, 5, 48, 88, { 3, 3, 3 }, true, false },
    { "96 to 3 channels", Number::BF16, 96, 3, 6, 384, 704, { 3, 3, 3 }, true, false },
    { "384 channels, f32", Number::F32, 384, 384, 5, 48, 88, { 3, 3, 3 }, false, false },
    { "96 channels, f32", Number::F32, 96, 96, 6, 384, 704, { 3, 3, 3 }, false, false },
};

/* Products at 704x384: 3168 tokens */
static const struct Product {
    const char *name;
    Number x, out;
    int64_t n, k;
    bool gelu, gate_and_res;
} products[] = {
    { "bf16, q k v", Number::BF16, Number::BF16, 5120, 5120, false, false },
    { "bf16, first of the two", Number::BF16, Number::BF16, 13824, 5120, true, false },
    { "bf16, second, gate, res", Number::BF16, Number::F32, 5120, 13824, false, true },
    { "i8, q k v", Number::I8, Number::BF16, 5120, 5120, false, false },
    { "i8, first of the two", Number::I8, Number::BF16, 13824, 5120, true, false },
    { "i8, second, gate, residual", Number::I8, Number::F32, 5120, 13824, false, true },
    { "e4m3, q k v", Number::E4M3, Number::BF16, 5120, 5120, false, false },
    { "e4m3, first of the two", Number::E4M3, Number::BF16, 13824, 5120, true, false },
    { "e4m3, second, gate, res", Number::E4M3, Number::F32, 5120, 13824, false, true },
};

/* Attention of 3168 tokens, 40 heads of 128: over text, the sink, the ring at its shortest and longest */
static const struct Keys {
    const char *name;
    int64_t m;
    bool stats;
} keys[] = {
    { "512 keys", 512, false }, { "2640 keys", 2640, false }, { "2640 keys, logs", 2640, true }, { "3168 keys, logs", 3168, true },
    { "12672 keys, logs", 12672, true },
};

static std::string why;

static bool good(cudnnStatus_t s)
{
    char text[256] = "";

    if (s == CUDNN_STATUS_SUCCESS)
        return true;
    cudnnGetLastErrorString(text, sizeof(text));
    why = text;
    std::replace(why.begin(), why.end(), '\n', ' ');
    return false;
}

static Descriptor make(cudnnBackendDescriptorType_t type)
{
    Descriptor d = NULL;

    good(cudnnBackendCreateDescriptor(type, &d));
    return d;
}

static void set(Descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t nb, const void *v)
{
    good(cudnnBackendSetAttribute(d, name, type, nb, v));
}

static void set_part(Descriptor d, cudnnBackendAttributeName_t name, Descriptor part)
{
    set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

/* ---- the graph: ours, and out of it cuDNN's -------------------------------------------------------------------------------------------------- */

static GraphTensor image(int64_t uid, Number type, int64_t n, int64_t c, int64_t t, int64_t h, int64_t w, bool is_virtual)
{
    GraphTensor x;

    x.uid = uid;
    x.type = type;
    x.dim = { n, c, t, h, w };
    x.stride = { c * t * h * w, 1, c * h * w, c * w, c };
    x.alignment = 16;
    x.is_virtual = is_virtual;
    return x;
}

static Graph graph_of(const Form &f)
{
    const int64_t t = f.t - f.taps[0] + 1;
    GraphTensor at = image(2, f.bias || f.res ? Number::F32 : f.type, 1, f.cout, t, f.h, f.w, f.bias || f.res);
    Node n = {};
    Graph g;

    n.kind = NodeKind::CONVOLUTION;
    n.x = image(0, f.type, 1, f.cin, f.t, f.h, f.w, false);
    n.w = image(1, f.type, f.cout, f.cin, f.taps[0], f.taps[1], f.taps[2], false);
    n.y = at;
    n.before = n.after = { 0, f.taps[1] / 2, f.taps[2] / 2 };
    n.step = n.dilation = { 1, 1, 1 };
    n.has_w = true;
    g.node.push_back(n);
    for (int i = 0; i < 2; i++)
        if (i ? f.res : f.bias) {
            const bool last = i || !f.res;
            Node add = {};

            add.kind = NodeKind::POINTWISE;
            add.mode = CUDNN_POINTWISE_ADD;
            add.has_w = true;
            add.x = at;
            add.w = i ? image(5, f.type, 1, f.cout, t, f.h, f.w, false) : image(3, Number::F32, 1, f.cout, 1, 1, 1, false);
            add.y = at = image(4 + 2 * i, last ? f.type : Number::F32, 1, f.cout, t, f.h, f.w, !last);
            g.node.push_back(add);
        }
    return g;
}

static GraphTensor matrix(int64_t uid, Number type, int64_t rows, int64_t columns, bool is_virtual)
{
    GraphTensor x;

    x.uid = uid;
    x.type = type;
    x.dim = { 1, rows, columns };
    x.stride = { rows * columns, columns, 1 };
    x.alignment = 16;
    x.is_virtual = is_virtual;
    return x;
}

static Graph graph_of(const Product &p)
{
    const int64_t m = 3168;
    const bool whole = p.x == Number::I8;
    GraphTensor at = matrix(9, whole ? Number::I32 : Number::F32, m, p.n, true);
    Node n = {};
    Graph g;
    int64_t uid = 10;
    const auto then = [&](int mode, const GraphTensor *t, bool last) {
        Node op = {};

        op.kind = NodeKind::POINTWISE;
        op.mode = mode;
        op.has_w = t != NULL;
        op.x = at;
        if (t)
            op.w = *t;
        op.y = at = matrix(uid++, last ? p.out : Number::F32, m, p.n, !last);
        g.node.push_back(op);
    };
    const GraphTensor own = matrix(2, Number::F32, m, 1, false), scale = matrix(3, Number::F32, 1, p.n, false), bias = matrix(4, Number::F32, 1, p.n, false);
    const GraphTensor gate = matrix(5, Number::F32, 1, p.n, false), res = matrix(6, p.out, m, p.n, false);

    n.kind = NodeKind::PRODUCT;
    n.x = matrix(0, p.x, m, p.k, false);
    n.w = matrix(1, p.x, p.k, p.n, false);
    n.w.stride = { p.k * p.n, 1, p.k };
    n.y = at;
    n.has_w = true;
    g.node.push_back(n);
    if (p.x != Number::BF16) {
        then(CUDNN_POINTWISE_MUL, &own, false);
        then(CUDNN_POINTWISE_MUL, &scale, false);
    }
    then(CUDNN_POINTWISE_ADD, &bias, !p.gelu && !p.gate_and_res);
    if (p.gelu)
        then(CUDNN_POINTWISE_GELU_APPROX_TANH_FWD, NULL, true);
    if (p.gate_and_res) {
        then(CUDNN_POINTWISE_MUL, &gate, false);
        then(CUDNN_POINTWISE_ADD, &res, true);
    }
    return g;
}

static GraphTensor heads_of(int64_t uid, int64_t tokens)
{
    const int64_t heads = 40, hd = 128;
    GraphTensor x;

    x.uid = uid;
    x.type = Number::BF16;
    x.dim = { 1, heads, tokens, hd };
    x.stride = { tokens * heads * hd, hd, heads * hd, 1 };
    x.alignment = 16;
    return x;
}

static Graph graph_of(const Keys &k)
{
    const int64_t n = 3168, heads = 40;
    Node a = {};
    Graph g;

    a.kind = NodeKind::ATTENTION;
    a.x = heads_of(0, n);
    a.w = heads_of(1, k.m);
    a.v = heads_of(2, k.m);
    a.y = heads_of(3, n);
    a.has_w = a.has_scale = true;
    a.scale.uid = 4;
    a.scale.dim = a.scale.stride = { 1, 1, 1, 1 };
    a.scale.alignment = 4;
    a.scale.by_value = true;
    a.has_stats = k.stats;
    a.stats.uid = 5;
    a.stats.dim = { 1, heads, n, 1 };
    a.stats.stride = { heads * n, n, 1, 1 };
    a.stats.alignment = 16;
    g.node.push_back(a);
    return g;
}

static cudnnDataType_t library_type(Number t)
{
    switch (t) {
    case Number::BF16:  return CUDNN_DATA_BFLOAT16;
    case Number::I32:   return CUDNN_DATA_INT32;
    case Number::I8:    return CUDNN_DATA_INT8;
    case Number::E4M3:  return CUDNN_DATA_FP8_E4M3;
    default:            return CUDNN_DATA_FLOAT;
    }
}

static Descriptor tensor(const GraphTensor &t)
{
    static std::map<int64_t, Descriptor> made;                      // of the graph at hand: operations share descriptors
    const cudnnDataType_t type = library_type(t.type);
    Descriptor d;

    if (t.uid == 0)
        made.clear();
    if (made.count(t.uid))
        return made[t.uid];
    d = made[t.uid] = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &t.uid);
    set(d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, (int64_t)t.dim.size(), t.dim.data());
    set(d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, (int64_t)t.stride.size(), t.stride.data());
    set(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &t.alignment);
    if (t.is_virtual)
        set(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &t.is_virtual);
    if (t.by_value)
        set(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &t.by_value);
    good(cudnnBackendFinalize(d));
    return d;
}

static Descriptor convolution(const Node &n)
{
    const int64_t three = 3;
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const double alpha = 1, beta = 0;
    const Descriptor x = tensor(n.x), c = make(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR), op = make(CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);

    set(c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    set(c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set(c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &three);
    set(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 3, n.before.data());
    set(c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 3, n.after.data());
    set(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 3, n.step.data());
    set(c, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 3, n.dilation.data());
    good(cudnnBackendFinalize(c));
    set_part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, c);
    set_part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
    set_part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, tensor(n.w));
    set_part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, tensor(n.y));
    set(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_DOUBLE, 1, &alpha);
    set(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_DOUBLE, 1, &beta);
    good(cudnnBackendFinalize(op));
    return op;
}

static Descriptor product(const Node &n)
{
    const cudnnDataType_t sums = library_type(n.y.type);
    const Descriptor x = tensor(n.x), d = make(CUDNN_BACKEND_MATMUL_DESCRIPTOR), op = make(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);

    set(d, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    good(cudnnBackendFinalize(d));
    set_part(op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, x);
    set_part(op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, tensor(n.w));
    set_part(op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, tensor(n.y));
    set_part(op, CUDNN_ATTR_OPERATION_MATMUL_DESC, d);
    good(cudnnBackendFinalize(op));
    return op;
}

static Descriptor attention(const Node &n)
{
    const Descriptor q = tensor(n.x), op = make(CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);

    set_part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q);
    set_part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, tensor(n.w));
    set_part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, tensor(n.v));
    set_part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, tensor(n.y));
    set_part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, tensor(n.scale));
    if (n.has_stats)
        set_part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, tensor(n.stats));
    good(cudnnBackendFinalize(op));
    return op;
}

static Descriptor pointwise(const Node &n)
{
    const cudnnPointwiseMode_t mode = (cudnnPointwiseMode_t)n.mode;
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const Descriptor p = make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR), op = make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);

    set(p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(p, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    good(cudnnBackendFinalize(p));
    set_part(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, p);
    set_part(op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, tensor(n.x));
    if (n.has_w)
        set_part(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, tensor(n.w));
    set_part(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, tensor(n.y));
    good(cudnnBackendFinalize(op));
    return op;
}

static Descriptor operation(const Node &n)
{
    switch (n.kind) {
    case NodeKind::CONVOLUTION: return convolution(n);
    case NodeKind::PRODUCT:     return product(n);
    case NodeKind::ATTENTION:   return attention(n);
    default:                    return pointwise(n);
    }
}

static Descriptor real_graph(const Graph &g)
{
    const Descriptor d = make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    std::vector<Descriptor> op;

    for (const Node &n : g.node)
        op.push_back(operation(n));
    set(d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, (int64_t)op.size(), op.data());
    good(cudnnBackendFinalize(d));
    return d;
}

/* ---- asking ------------------------------------------------------------------------------------------------------------------------------------ */

static Descriptor device_of(const Card &c)
{
    const Descriptor d = make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    char json[1024];

    snprintf(json, sizeof(json), "{\"deviceVer\":%d,\"driverVer\":13000,\"cudaDeviceId\":0,\"totalGlobalMem\":85029158912,"
             "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,\"multiProcessorCount\":%d,"
             "\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":1024,"
             "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":%d,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,\"pciDeviceId\":0,"
             "\"isTccDriver\":0,\"supportCoopLaunch\":1,\"smClockRateKHz\":1980000,\"memClockRateKHz\":2619000,\"l2CacheSize\":%d,"
             "\"deviceName\":\"%s\"}", 10 * c.arch, c.multiprocessors, c.shared, c.blocks, c.threads, c.l2, c.name);
    set(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)strlen(json) + 1, json);
    good(cudnnBackendFinalize(d));
    return d;
}

/* The plan of a configuration: its engine's notes, its workspace. @return false: there is none */
static bool plan_of(Descriptor e, Descriptor c, Descriptor device, Engine *found)
{
    const Descriptor p = make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    cudnnBackendNumericalNote_t note[16];
    int64_t nb = 0, one;

    set_part(p, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
    set_part(p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, c);
    if (!good(cudnnBackendFinalize(p)))
        return false;
    cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, 16, &nb, note);
    cudnnBackendGetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &one, &found->workspace);
    found->notes.assign(note, note + nb);
    return true;
}

static bool ask_by_number(Descriptor graph, Descriptor device, Engine *found)
{
    const Descriptor e = make(CUDNN_BACKEND_ENGINE_DESCRIPTOR), c = make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    const int64_t number = found->number;

    set_part(e, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph);
    set(e, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &number);
    set_part(e, CUDNN_ATTR_ENGINE_DEVICEPROP, device);
    if (!good(cudnnBackendFinalize(e)))
        return false;
    set_part(c, CUDNN_ATTR_ENGINECFG_ENGINE, e);
    return good(cudnnBackendFinalize(c)) && plan_of(e, c, device, found);
}

/* Engines of attention are not to be had by number: the heuristics list them. */
static bool ask_heuristics(Descriptor graph, Descriptor device, Engine *found)
{
    const Descriptor list = make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    std::vector<Descriptor> config(16);
    int64_t nb = 0, one, number = -1;

    set_part(list, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(list, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    set_part(list, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
    if (!good(cudnnBackendFinalize(list)))
        return false;
    for (Descriptor &c : config)
        c = make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    good(cudnnBackendGetAttribute(list, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, (int64_t)config.size(), &nb, config.data()));
    for (int64_t i = 0; i < nb; i++) {
        Descriptor e = make(CUDNN_BACKEND_ENGINE_DESCRIPTOR);

        good(cudnnBackendGetAttribute(config[(size_t)i], CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &one, &e));
        good(cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &one, &number));
        if (number == found->number)
            return plan_of(e, config[(size_t)i], device, found);
    }
    why = "the heuristics do not list it";
    return false;
}

static std::string text_of(const std::vector<cudnnBackendNumericalNote_t> &notes)
{
    std::string s = "[";

    for (auto n : notes)
        s += (s.size() > 1 ? " " : "") + std::to_string(n);
    return s + "]";
}

static bool check(const char *form, const Card &c, const Engine &claimed, bool listed, Descriptor graph, Descriptor device)
{
    Engine real = { claimed.number, 0, {}, false };
    const bool there = listed ? ask_heuristics(graph, device, &real) : ask_by_number(graph, device, &real), ok = there && real.notes == claimed.notes && real.workspace <= claimed.workspace;

    printf("%s sm_%-3d %-26s engine %2d  ", ok ? "ok  " : "FAIL", c.arch, form, claimed.number);
    if (there)
        printf("notes %s, workspace %ld; the double says %s, %ld\n", text_of(real.notes).c_str(), (long)real.workspace, text_of(claimed.notes).c_str(),
               (long)claimed.workspace);
    else
        printf("has no plan: %.120s\n", why.c_str());
    fflush(stdout);
    return ok;
}

/* Each engine that the double offers for a graph on a card. */
static void check_graph(const char *form, const Card &c, const Graph &g, Descriptor device, int *passed, int *failed)
{
    const Descriptor graph = real_graph(g);

    for (const Engine &e : engines_for(g, c.arch))
        ++*(check(form, c, e, g.node[0].kind == NodeKind::ATTENTION, graph, device) ? passed : failed);
}

int main(int argc, char **argv)
{
    int passed = 0, failed = 0;

    for (const Card &c : cards) {
        if (argc > 1 && atoi(argv[1]) != c.arch)
            continue;
        const Descriptor device = device_of(c);

        for (const Form &f : forms)
            check_graph(f.name, c, graph_of(f), device, &passed, &failed);
        for (const Product &p : products)
            check_graph(p.name, c, graph_of(p), device, &passed, &failed);
        for (const Keys &k : keys)
            check_graph(k.name, c, graph_of(k), device, &passed, &failed);
    }
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0 || !passed;
}
