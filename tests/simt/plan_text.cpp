/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plans of the cuDNN double as text: version, architecture, engine, and the numbers of the graph in the order of walk(), which reads and writes
 * them. The real one's text is JSON with the compiled kernel in it; this is what of JSON it takes to carry numbers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph.h"

namespace bed {

struct Writer {
    std::string text;

    void number(int64_t n) { text += text.empty() || text.back() == '[' ? std::to_string(n) : "," + std::to_string(n); }
    template <class T> void one(T &v) { number((int64_t)v); }
    void list(std::vector<int64_t> &v)
    {
        number((int64_t)v.size());
        for (int64_t n : v)
            number(n);
    }
    size_t length(size_t n) { return number((int64_t)n), n; }
};

struct Reader {
    const char *at;
    bool good = true;

    int64_t number()
    {
        char *end;
        const int64_t n = strtoll(at, &end, 10);

        good &= end > at && (*end == ',' || *end == ']');
        at = good ? end + (*end == ',') : at;
        return good ? n : 0;
    }
    template <class T> void one(T &v) { v = (T)number(); }
    void list(std::vector<int64_t> &v)
    {
        v.resize(length(0));
        for (int64_t &n : v)
            n = number();
    }
    size_t length(size_t)
    {
        const int64_t n = number();

        good &= n >= 0 && n < 64;
        return good ? (size_t)n : 0;
    }
};

template <class A> static void walk(A &a, GraphTensor &t)
{
    a.one(t.uid);
    a.list(t.dim);
    a.list(t.stride);
    a.one(t.type);
    a.one(t.alignment);
    a.one(t.is_virtual);
    a.one(t.by_value);
}

template <class A> static void walk(A &a, Node &n)
{
    a.one(n.kind);
    for (GraphTensor *t : { &n.x, &n.w, &n.y, &n.v, &n.scale, &n.stats })
        walk(a, *t);
    a.one(n.has_w);
    a.one(n.has_scale);
    a.one(n.has_stats);
    a.one(n.mode);
    for (std::vector<int64_t> *v : { &n.before, &n.after, &n.step, &n.dilation })
        a.list(*v);
}

template <class A> static void walk(A &a, Graph &g)
{
    g.node.resize(a.length(g.node.size()));
    for (Node &n : g.node)
        walk(a, n);
}

static const char head[] = "{\"cudnn\":%d,\"sm\":%d,\"engine\":%d,\"graph\":[";

std::string plan_text(const Graph &g, const Engine &e, int arch)
{
    Graph copy = g;
    char begin[100];
    Writer w;

    snprintf(begin, sizeof(begin), head, CUDNN_VERSION, arch, e.number);
    walk(w, copy);
    return begin + w.text + "]}";
}

const char *plan_of_text(const std::string &text, Graph *g, Engine *e, int arch)
{
    int version, sm, number;

    if (sscanf(text.c_str(), head, &version, &sm, &number) != 3 || text.find('[') == std::string::npos)
        return "text that is no plan";
    if (version != CUDNN_VERSION || sm != arch)
        return "a plan of another version or for another device";
    Reader r = { text.c_str() + text.find('[') + 1 };
    walk(r, *g);
    if (!r.good || strcmp(r.at, "]}"))
        return "text that is no plan";
    for (const Engine &one : engines_for(*g, arch))
        if (one.number == number) {
            *e = one;
            return NULL;
        }
    return "the engine has no plan for this graph";
}

}   // namespace bed
