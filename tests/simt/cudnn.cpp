/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A double of cuDNN's graph interface: descriptors are bags of attributes; a plan is a graph and an engine that has it (engines.cpp);
 * executing it computes the graph (graph.cpp).
 *
 * Refused as by the real one: attributes after the end, references to what is not finished, tensors without a type, shapes that do not
 * fit, engines that have no plan for the graph on the architecture, a pack without an operand. Told as faults: addresses below the
 * alignment that a tensor was declared with, no workspace where the plan wants some.
 */
#include <cudnn.h>
#include <stdio.h>
#include <string.h>
#include <algorithm>

#include "bed.h"
#include "graph.h"

using namespace bed;

struct cudnnContext {
    cudaStream_t stream;
};

struct Descriptor {
    cudnnBackendDescriptorType_t type;
    bool finished = false;
    std::map<int, std::vector<char>> value;
    std::shared_ptr<Graph> graph;               // of an operation graph, and of what refers to one
    Engine engine = { -1, 0, {}, false };       // of an engine, a configuration, a plan

    template <class T> std::vector<T> all(int name) const
    {
        const auto i = value.find(name);
        std::vector<T> v;

        if (i != value.end()) {
            v.resize(i->second.size() / sizeof(T));
            memcpy(v.data(), i->second.data(), v.size() * sizeof(T));
        }
        return v;
    }
    template <class T> T one(int name, T otherwise) const
    {
        const std::vector<T> v = all<T>(name);

        return v.empty() ? otherwise : v[0];
    }
    const Descriptor *of(int name) const { return one<const Descriptor *>(name, NULL); }
    bool has(std::initializer_list<int> names) const
    {
        return std::all_of(names.begin(), names.end(), [this](int n) { return value.count(n) > 0; });
    }
};

static thread_local std::string last_words;

static cudnnStatus_t no(cudnnStatus_t s, const char *why)
{
    last_words = why;
    return s;
}

static size_t size_of_type(cudnnBackendAttributeType_t t)
{
    switch (t) {
    case CUDNN_TYPE_BOOLEAN: case CUDNN_TYPE_CHAR:
        return 1;
    case CUDNN_TYPE_INT64: case CUDNN_TYPE_DOUBLE: case CUDNN_TYPE_VOID_PTR: case CUDNN_TYPE_HANDLE: case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        return 8;
    default:
        return 4;
    }
}

/* ---- from descriptors to a graph ---------------------------------------------------------------------------------------------------------- */

static Number number(int type)
{
    switch (type) {
    case CUDNN_DATA_BFLOAT16:   return Number::BF16;
    case CUDNN_DATA_HALF:       return Number::F16;
    case CUDNN_DATA_INT32:      return Number::I32;
    case CUDNN_DATA_INT8:       return Number::I8;
    case CUDNN_DATA_FP8_E4M3:   return Number::E4M3;
    default:                    return Number::F32;
    }
}

static GraphTensor tensor_of(const Descriptor *d)
{
    GraphTensor t;
    const int type = d->one<int>(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_DATA_FLOAT);

    t.uid = d->one<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID, -1);
    t.dim = d->all<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS);
    t.stride = d->all<int64_t>(CUDNN_ATTR_TENSOR_STRIDES);
    t.type = number(type);
    t.alignment = d->one<int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1);
    t.is_virtual = d->one<char>(CUDNN_ATTR_TENSOR_IS_VIRTUAL, 0);
    t.by_value = d->one<char>(CUDNN_ATTR_TENSOR_IS_BY_VALUE, 0);
    return t;
}

static Node convolution_of(const Descriptor *d)
{
    const Descriptor *c = d->of(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    Node n = {};

    n.kind = NodeKind::CONVOLUTION;
    n.x = tensor_of(d->of(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X));
    n.w = tensor_of(d->of(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W));
    n.y = tensor_of(d->of(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y));
    n.has_w = true;
    n.before = c->all<int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS);
    n.after = c->all<int64_t>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS);
    n.step = c->all<int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
    n.dilation = c->all<int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS);
    return n;
}

static Node pointwise_of(const Descriptor *d)
{
    Node n = {};

    n.kind = NodeKind::POINTWISE;
    n.x = tensor_of(d->of(CUDNN_ATTR_OPERATION_POINTWISE_XDESC));
    n.y = tensor_of(d->of(CUDNN_ATTR_OPERATION_POINTWISE_YDESC));
    n.has_w = d->of(CUDNN_ATTR_OPERATION_POINTWISE_BDESC) != NULL;
    if (n.has_w)
        n.w = tensor_of(d->of(CUDNN_ATTR_OPERATION_POINTWISE_BDESC));
    n.mode = d->of(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR)->one<int>(CUDNN_ATTR_POINTWISE_MODE, -1);
    return n;
}

static Node product_of(const Descriptor *d)
{
    Node n = {};

    n.kind = NodeKind::PRODUCT;
    n.x = tensor_of(d->of(CUDNN_ATTR_OPERATION_MATMUL_ADESC));
    n.w = tensor_of(d->of(CUDNN_ATTR_OPERATION_MATMUL_BDESC));
    n.y = tensor_of(d->of(CUDNN_ATTR_OPERATION_MATMUL_CDESC));
    n.has_w = true;
    return n;
}

static Node attention_of(const Descriptor *d)
{
    const Descriptor *scale = d->of(CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC), *stats = d->of(CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC);
    Node n = {};

    n.kind = NodeKind::ATTENTION;
    n.x = tensor_of(d->of(CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC));
    n.w = tensor_of(d->of(CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC));
    n.v = tensor_of(d->of(CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC));
    n.y = tensor_of(d->of(CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC));
    n.has_w = true;
    n.has_scale = scale != NULL;
    if (scale)
        n.scale = tensor_of(scale);
    n.has_stats = stats != NULL;
    if (stats)
        n.stats = tensor_of(stats);
    return n;
}

static const char *wrong_tensor(const Descriptor *d)
{
    if (!d->has({ CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_ATTR_TENSOR_STRIDES,
                  CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT }))
        return "a tensor wants number, type, dimensions, strides and alignment";
    const std::vector<int64_t> dim = d->all<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS), stride = d->all<int64_t>(CUDNN_ATTR_TENSOR_STRIDES);
    if (dim.size() != stride.size() || dim.size() < 3 || std::any_of(dim.begin(), dim.end(), [](int64_t n) { return n < 1; }))
        return "dimensions and strides do not fit";
    const int type = d->one<int>(CUDNN_ATTR_TENSOR_DATA_TYPE, -1);
    return type == CUDNN_DATA_FLOAT || number(type) != Number::F32 ? NULL : "a type that is not emulated";
}

static const char *wrong_convolution(const Descriptor *d)
{
    if (!d->has({ CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y }))
        return "a convolution wants its description, x, w and y";
    const Node n = convolution_of(d);
    if (n.x.dim.size() != 5 || n.w.dim.size() != 5 || n.y.dim.size() != 5 || n.before.size() != 3 || n.after.size() != 3 || n.step.size() != 3 ||
        n.dilation.size() != 3)
        return "images of three dimensions alone are emulated";
    if (n.x.dim[1] != n.w.dim[1] || n.y.dim[1] != n.w.dim[0] || n.x.dim[0] != n.y.dim[0] || n.x.type != n.w.type)
        return "channels or types do not agree";
    for (size_t i = 0; i < 3; i++)
        if ((n.x.dim[2 + i] + n.before[i] + n.after[i] - n.dilation[i] * (n.w.dim[2 + i] - 1) - 1) / n.step[i] + 1 != n.y.dim[2 + i])
            return "the result's size is another";
    return NULL;
}

static const char *wrong_product(const Descriptor *d)
{
    if (!d->has({ CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC, CUDNN_ATTR_OPERATION_MATMUL_CDESC, CUDNN_ATTR_OPERATION_MATMUL_DESC }))
        return "a product wants its description, a, b and c";
    const Node n = product_of(d);
    if (n.x.dim.size() != 3 || n.w.dim.size() != 3 || n.y.dim.size() != 3 || n.x.dim[0] != n.w.dim[0] || n.x.dim[2] != n.w.dim[1] ||
        n.y.dim[1] != n.x.dim[1] || n.y.dim[2] != n.w.dim[2])
        return "shapes that do not agree";
    const bool whole = d->of(CUDNN_ATTR_OPERATION_MATMUL_DESC)->one<int>(CUDNN_ATTR_MATMUL_COMP_TYPE, -1) == CUDNN_DATA_INT32;
    return n.x.type == n.w.type && whole == (n.x.type == Number::I8) && whole == (n.y.type == Number::I32) ? NULL : "types that do not agree";
}

static const char *wrong_pointwise(const Descriptor *d)
{
    static const int known[] = { CUDNN_POINTWISE_ADD, CUDNN_POINTWISE_MUL, CUDNN_POINTWISE_IDENTITY, CUDNN_POINTWISE_RELU_FWD, CUDNN_POINTWISE_SWISH_FWD,
                                 CUDNN_POINTWISE_GELU_FWD, CUDNN_POINTWISE_GELU_APPROX_TANH_FWD };

    if (!d->has({ CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_YDESC }))
        return "a pointwise operation wants its description, x and y";
    const Node n = pointwise_of(d);
    if (std::find(std::begin(known), std::end(known), n.mode) == std::end(known))
        return "a pointwise mode that is not emulated";
    if ((n.mode == CUDNN_POINTWISE_ADD || n.mode == CUDNN_POINTWISE_MUL) != n.has_w)
        return "a number of operands that is not the mode's";
    for (size_t i = 0; i < n.y.dim.size(); i++)
        if (n.x.dim[i] != n.y.dim[i] || (n.has_w && n.w.dim[i] != n.y.dim[i] && n.w.dim[i] != 1))
            return "shapes that do not agree";
    return NULL;
}

static const char *wrong_attention(const Descriptor *d)
{
    if (!d->has({ CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC,
                  CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC }))
        return "attention wants q, k, v and o";
    const Node n = attention_of(d);
    if (n.x.type != n.w.type || n.x.type != n.v.type)
        return "q, k and v must be of one type";
    if (n.x.dim.size() != 4 || n.w.dim != n.v.dim || n.x.dim[3] != n.w.dim[3] || n.x.dim != n.y.dim || n.x.dim[1] % n.w.dim[1])
        return "shapes that do not agree";
    if (n.has_stats && (n.stats.type != Number::F32 || n.stats.dim != std::vector<int64_t>{ n.x.dim[0], n.x.dim[1], n.x.dim[2], 1 }))
        return "logs of sums are f32, one a row and head";
    return NULL;
}

static cudnnStatus_t finish_graph(Descriptor *d)
{
    auto g = std::make_shared<Graph>();

    for (const Descriptor *op : d->all<const Descriptor *>(CUDNN_ATTR_OPERATIONGRAPH_OPS))
        g->node.push_back(op->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR ? convolution_of(op) :
                          op->type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR            ? attention_of(op) :
                          op->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR              ? product_of(op) :
                                                                                               pointwise_of(op));
    if (g->node.empty())
        return no(CUDNN_STATUS_BAD_PARAM, "a graph without operations");
    d->graph = g;
    return CUDNN_STATUS_SUCCESS;
}

/* An engine, by its number; a configuration; a plan: each takes the graph and the engine of what it is made of. */
static cudnnStatus_t finish_engine(Descriptor *d)
{
    const Descriptor *g = d->of(CUDNN_ATTR_ENGINE_OPERATION_GRAPH);
    const int64_t number = d->one<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, -1);

    if (!g)
        return no(CUDNN_STATUS_BAD_PARAM, "an engine wants a graph");
    for (const Engine &e : engines_for(*g->graph, settings.arch))
        if (e.number == number) {
            d->graph = g->graph;
            d->engine = e;
            return CUDNN_STATUS_SUCCESS;
        }
    return no(CUDNN_STATUS_NOT_SUPPORTED, "the engine has no plan for this graph");
}

static cudnnStatus_t finish_from(Descriptor *d, const Descriptor *from)
{
    if (!from || !from->graph)
        return no(CUDNN_STATUS_BAD_PARAM, "nothing to make it of");
    d->graph = from->graph;
    d->engine = from->engine;
    return CUDNN_STATUS_SUCCESS;
}

/* A plan: of a configuration, or of a text. */
static cudnnStatus_t finish_plan(Descriptor *d)
{
    const std::vector<char> text = d->all<char>(CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION);
    auto g = std::make_shared<Graph>();

    if (!d->has({ CUDNN_ATTR_EXECUTION_PLAN_HANDLE }))
        return no(CUDNN_STATUS_BAD_PARAM, "a plan wants a handle");
    if (text.empty()) {
        stats.plans_made++;
        return finish_from(d, d->of(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG));
    }
    if (d->has({ CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG }))
        return no(CUDNN_STATUS_BAD_PARAM, "a plan is of a configuration or of a text");
    if (const char *why = plan_of_text(std::string(text.begin(), text.end()), g.get(), &d->engine, settings.arch))
        return no(CUDNN_STATUS_NOT_SUPPORTED, why);
    d->graph = g;
    stats.plans_read++;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finish(Descriptor *d)
{
    const char *why = NULL;

    switch (d->type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:                           why = wrong_tensor(d); break;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:    why = wrong_convolution(d); break;
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:              why = wrong_pointwise(d); break;
    case CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR:               why = wrong_attention(d); break;
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:                 why = wrong_product(d); break;
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:                   return finish_graph(d);
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR:                           return finish_engine(d);
    case CUDNN_BACKEND_ENGINECFG_DESCRIPTOR:                        return finish_from(d, d->of(CUDNN_ATTR_ENGINECFG_ENGINE));
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:                   return finish_plan(d);
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:                       return finish_from(d, d->of(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH));
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR: case CUDNN_BACKEND_POINTWISE_DESCRIPTOR: case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
    case CUDNN_BACKEND_MATMUL_DESCRIPTOR:
        break;
    default:
        return no(CUDNN_STATUS_NOT_SUPPORTED, "a descriptor that is not emulated");
    }
    return why ? no(CUDNN_STATUS_BAD_PARAM, why) : CUDNN_STATUS_SUCCESS;
}

/* ---- what plans say of themselves ------------------------------------------------------------------------------------------------------------ */

/* What the heuristics list, into descriptors that the caller has made. */
static int64_t list_engines(const Descriptor *heuristics, int64_t most, Descriptor **config)
{
    const bool fallback = heuristics->one<int>(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_HEUR_MODE_A) == CUDNN_HEUR_MODE_FALLBACK;
    int64_t nb = 0;

    for (const Engine &e : engines_for(*heuristics->graph, settings.arch))
        if (!e.by_number_only && nb < most && !fallback) {
            config[nb]->graph = heuristics->graph;
            config[nb]->engine = e;
            config[nb++]->finished = true;
        }
    return nb;
}

template <class T> static cudnnStatus_t give(const std::vector<T> &v, int64_t most, int64_t *nb, void *out)
{
    const size_t fits = std::min(v.size(), (size_t)std::max<int64_t>(most, 0));

    if (nb)
        *nb = (int64_t)v.size();
    if (out)
        memcpy(out, v.data(), fits * sizeof(T));
    return CUDNN_STATUS_SUCCESS;
}

/* Asked for no bytes, the length; and all of it, or nothing. */
static cudnnStatus_t give_text(const std::string &text, int64_t most, int64_t *nb, void *out)
{
    if (out && most < (int64_t)text.size())
        return no(CUDNN_STATUS_BAD_PARAM, "no room for the text");
    return give(std::vector<char>(text.begin(), text.end()), most, nb, out);
}

static cudnnStatus_t get(Descriptor *d, cudnnBackendAttributeName_t name, int64_t most, int64_t *nb, void *out)
{
    switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS:
        *nb = list_engines(d, out ? most : 0, (Descriptor **)out);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINECFG_ENGINE:
        if (out) {
            (*(Descriptor **)out)->graph = d->graph;
            (*(Descriptor **)out)->engine = d->engine;
            (*(Descriptor **)out)->finished = true;
        }
        if (nb)
            *nb = 1;
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT:             // engines have numbers below it, whether they have a plan or not
        return give<int64_t>({ 80 }, most, nb, out);
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
        return give<int64_t>({ d->engine.number }, most, nb, out);
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
        return give(d->engine.notes, most, nb, out);
    case CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION:
        return give_text(plan_text(*d->graph, d->engine, settings.arch), most, nb, out);
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
        return give<int64_t>({ d->engine.workspace }, most, nb, out);
    default:
        return no(CUDNN_STATUS_NOT_SUPPORTED, "an attribute that is not emulated");
    }
}

/* ---- executing --------------------------------------------------------------------------------------------------------------------------------- */

/* Every operand that a descriptor of a tensor stands for has its address. */
static const char *bind(const Graph &g, const Descriptor *pack, Bound *b)
{
    const std::vector<int64_t> uid = pack->all<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const std::vector<void *> pointer = pack->all<void *>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);

    if (uid.size() != pointer.size())
        return "numbers and addresses of the pack do not fit";
    for (size_t i = 0; i < uid.size(); i++)
        b->pointer[uid[i]] = pointer[i];
    for (const Node &n : g.node)
        for (const GraphTensor *t : { &n.x, &n.w, &n.v, &n.y, &n.scale, &n.stats })
            if (t->uid >= 0 && !t->is_virtual && !b->pointer[t->uid])
                return "an operand is not in the pack";
    return NULL;
}

static bool is_aligned(const Graph &g, const Bound &b)
{
    for (const Node &n : g.node)
        for (const GraphTensor *t : { &n.x, &n.w, &n.v, &n.y, &n.stats })
            if (t->uid >= 0 && !t->is_virtual && (Address)b.pointer.at(t->uid) % (Address)t->alignment) {
                report("misaligned", "cuDNN's tensor %ld at %p", (long)t->uid, b.pointer.at(t->uid));
                return false;
            }
    return true;
}

static cudnnStatus_t execute(cudnnContext *h, const Descriptor *plan, const Descriptor *pack)
{
    const std::shared_ptr<Graph> g = plan->graph;
    Operation o;
    Bound b;

    if (const char *why = bind(*g, pack, &b))
        return no(CUDNN_STATUS_BAD_PARAM, why);
    b.workspace = pack->one<void *>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, NULL);
    b.workspace_size = plan->engine.workspace;
    b.tf32 = std::count(plan->engine.notes.begin(), plan->engine.notes.end(), CUDNN_NUMERICAL_NOTE_TENSOR_CORE) > 0;
    if (b.workspace_size && !b.workspace)
        return no(CUDNN_STATUS_BAD_PARAM, "no workspace");
    if (settings.fail_product >= 0 && !settings.fail_product--)
        return no(CUDNN_STATUS_NOT_SUPPORTED, "refused, as was asked for");
    if (!is_aligned(*g, b))
        return no(CUDNN_STATUS_EXECUTION_FAILED, "a misaligned address");
    for (const Node &n : g->node)
        if (n.has_scale)                                            // by value: read now
            b.scale = *(const float *)b.pointer[n.scale.uid];
    o.name = "cudnnBackendExecute";
    o.pace = pace_of("cuDNN", plan->engine.number);
    stats.products++;
    o.run = [g, b] {
        if (graph_ranges(*g, b))
            graph_run(*g, b);
    };
    submit(stream_of(h->stream), std::move(o));
    return CUDNN_STATUS_SUCCESS;
}

extern "C" {

size_t cudnnGetVersion(void)
{
    return CUDNN_VERSION;
}

const char *cudnnGetErrorString(cudnnStatus_t s)
{
    return s == CUDNN_STATUS_SUCCESS ? "CUDNN_STATUS_SUCCESS" : s == CUDNN_STATUS_BAD_PARAM ? "CUDNN_STATUS_BAD_PARAM" :
           s == CUDNN_STATUS_NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_EXECUTION_FAILED";
}

void cudnnGetLastErrorString(char *text, size_t size)
{
    snprintf(text, size, "%s", last_words.c_str());
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    *h = new cudnnContext();
    return sticky ? CUDNN_STATUS_INTERNAL_ERROR : CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
    delete h;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s)
{
    h->stream = s;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *d)
{
    Descriptor *x = new Descriptor();

    x->type = type;
    *d = x;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    delete (Descriptor *)d;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t nb,
                                       const void *v)
{
    Descriptor *x = (Descriptor *)d;

    if (x->finished)
        return no(CUDNN_STATUS_BAD_PARAM, "the descriptor is finished");
    if (!v || nb < 0)
        return no(CUDNN_STATUS_BAD_PARAM, "no value");
    for (int64_t i = 0; i < nb && type == CUDNN_TYPE_BACKEND_DESCRIPTOR; i++)
        if (!((Descriptor *const *)v)[i] || !((Descriptor *const *)v)[i]->finished)
            return no(CUDNN_STATUS_BAD_PARAM, "refers to a descriptor that is not finished");
    x->value[name].assign((const char *)v, (const char *)v + (size_t)nb * size_of_type(type));
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d)
{
    Guard guard(lock);
    Descriptor *x = (Descriptor *)d;
    const cudnnStatus_t s = finish(x);

    x->finished = s == CUDNN_STATUS_SUCCESS;
    return s;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t, int64_t most,
                                       int64_t *nb, void *out)
{
    Guard guard(lock);

    if (!((Descriptor *)d)->finished)
        return no(CUDNN_STATUS_BAD_PARAM, "the descriptor is not finished");
    return get((Descriptor *)d, name, most, nb, out);
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack)
{
    Guard guard(lock);

    if (cudaPeekAtLastError())                                      // an error of an earlier call counts as one of its own launch
        return CUDNN_STATUS_EXECUTION_FAILED;
    if (!((Descriptor *)plan)->finished || !((Descriptor *)pack)->finished)
        return no(CUDNN_STATUS_BAD_PARAM, "plan or pack is not finished");
    return execute(h, (Descriptor *)plan, (Descriptor *)pack);
}

}
