/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Graphs of the cuDNN double: cudnn.cpp builds them out of descriptors, graph.cpp computes them, engines.cpp knows who would. */
#ifndef AVT_SIMT_GRAPH_H
#define AVT_SIMT_GRAPH_H

#include <cudnn.h>
#include <stdint.h>
#include <map>
#include <string>
#include <vector>

#include "products.h"

namespace bed {

struct GraphTensor {
    int64_t uid = -1;
    std::vector<int64_t> dim, stride;
    Number type = Number::F32;
    int64_t alignment = 1;                      // bytes
    bool is_virtual = false;                    // lives inside the kernel
    bool by_value = false;                      // its pointer is the host's, read when the plan is executed

    int64_t numel() const;
    size_t bytes() const;                       // from the first element to the last
};

enum class NodeKind { CONVOLUTION, POINTWISE, ATTENTION, PRODUCT };

struct Node {
    NodeKind kind;
    GraphTensor x, w, y;                        // convolution: image, filter, result. pointwise: x, b (w). attention: q, k, o. product: a, b, c
    GraphTensor v;                              // attention
    bool has_w = false, has_scale = false, has_stats = false;
    GraphTensor scale, stats;                   // attention; stats: [B, heads, tokens, 1], the log of the sum of weights
    int mode = 0;                               // cudnnPointwiseMode_t
    std::vector<int64_t> before, after, step, dilation;     // convolution
};

struct Graph {
    std::vector<Node> node;
};

/* What a graph's plan is executed with. */
struct Bound {
    std::map<int64_t, void *> pointer;          // by uid
    void *workspace = nullptr;
    int64_t workspace_size = 0;
    float scale = 1;                            // of attention
    bool tf32 = false;                          // the engine rounds f32 operands to TF32
};

/** All ranges are allowed and were written, in the order that they are read and written. @return false: reported, do not run */
bool graph_ranges(const Graph &g, const Bound &b);
void graph_run(const Graph &g, const Bound &b);

struct Engine {
    int number;
    int64_t workspace;
    std::vector<cudnnBackendNumericalNote_t> notes;
    bool by_number_only;                        // the heuristics do not list it
};

/** Who has a plan for the graph, best first as the heuristics have it; empty: nobody. */
std::vector<Engine> engines_for(const Graph &g, int arch);

/** A plan as text, and the plan of a text. @return NULL, or why not: no plan's text, another version's or architecture's */
std::string plan_text(const Graph &g, const Engine &e, int arch);
const char *plan_of_text(const std::string &text, Graph *g, Engine *e, int arch);

}   // namespace bed

#endif
