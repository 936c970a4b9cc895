/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which of cuDNN's engines have a plan for a graph, by architecture: what cuDNN 9.19 itself answered when it was asked without a device,
 * for the forms that the backend uses at the published model's sizes. engines_test.c asks it again.
 */
#include "graph.h"

namespace bed {

static const std::vector<cudnnBackendNumericalNote_t> exact = {}, exact_nan = { CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP },
                                                      tensor_core = { CUDNN_NUMERICAL_NOTE_TENSOR_CORE },
                                                      rounded = { CUDNN_NUMERICAL_NOTE_TENSOR_CORE, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS };

static std::vector<Engine> attention(const Node &n, int arch)
{
    const bool of_its_own = n.x.type == Number::BF16 && n.y.type == Number::BF16;
    const Engine ampere = { 8, 0, tensor_core, false };

    if (n.x.dim[3] % 8 || n.x.dim[3] > 256)
        return {};
    if (!of_its_own || arch < 90 || (arch == 120 && n.w.dim[2] <= 512))
        return { ampere };
    return { arch == 90 ? Engine{ 9, 256, tensor_core, false } : Engine{ arch == 100 ? 10 : 11, 0, tensor_core, false }, ampere };
}

static std::vector<Engine> fused_convolution(const Node &n, int arch)
{
    const bool few = n.x.dim[1] < 8 || n.y.dim[1] < 8;

    if (arch >= 100 && arch < 120 && n.x.dim[1] >= 8)
        return { { 9, 0, tensor_core, false } };
    if (arch == 90 && !few)
        return { { 7, 0, tensor_core, false }, { 2, 0, tensor_core, true } };
    return { { 7, 0, tensor_core, false } };
}

static std::vector<Engine> plain_convolution(int arch)
{
    if (arch == 90)
        return { { 62, 2 << 20, tensor_core, false }, { 22, 0, tensor_core, false } };
    if (arch >= 100 && arch < 120)
        return { { 73, 0, tensor_core, false }, { 22, 0, tensor_core, false } };
    return { { 22, 0, tensor_core, false } };
}

/* f32: the heuristics' first choices round to TF32. */
static std::vector<Engine> f32_convolution(const Graph &g)
{
    if (g.node.size() > 1)
        return { { 7, 0, tensor_core, false }, { 0, 0, exact_nan, false } };
    return { { 38, 1 << 30, tensor_core, false }, { 22, 512 << 20, rounded, false }, { 28, 16 << 20, exact, false }, { 0, 0, exact_nan, false } };
}

/* bf16 or codes, with what follows. cuDNN takes rows of 16 bytes; its kernels' own instructions are those of Ampere up to sm_90, but of one
 * for bf16 that is had by its number. */
static std::vector<Engine> product(const Graph &g, int arch)
{
    const Node &n = g.node[0];
    const GraphTensor &out = g.node.back().y;

    if ((n.x.type == Number::E4M3 && arch < 89) || n.x.dim[2] * (int64_t)size_of(n.x.type) % 16 || out.dim[2] * (int64_t)size_of(out.type) % 16)
        return {};
    if (arch >= 100)
        return { { arch < 120 ? 9 : 10, 0, tensor_core, false } };
    if (arch == 90 && n.x.type == Number::BF16)
        return { { 7, 0, tensor_core, false }, { 2, 0, tensor_core, true } };
    return { { 7, 0, tensor_core, false } };
}

std::vector<Engine> engines_for(const Graph &g, int arch)
{
    const Node &n = g.node[0];

    if (n.kind == NodeKind::ATTENTION)
        return g.node.size() == 1 ? attention(n, arch) : std::vector<Engine>();
    if (n.kind == NodeKind::PRODUCT)
        return n.x.type == Number::I8 || n.x.type == Number::E4M3 || n.x.type == Number::BF16 ? product(g, arch) : std::vector<Engine>();
    if (n.kind != NodeKind::CONVOLUTION)
        return {};
    if (n.x.type == Number::F32)
        return f32_convolution(g);
    return g.node.size() > 1 ? fused_convolution(n, arch) : plain_convolution(arch);
}

}   // namespace bed
