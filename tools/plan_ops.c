/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar plan --ops: the operations of one block at one step, and the floor of each on a card: what its arithmetic takes at the published
 * rate, or its operands at the published bandwidth, whichever is longer. Products in bf16 on tensor cores; what else computes is bound by
 * its operands.
 */
#include <stdio.h>

#include "kernels.h"
#include "plan.h"

/* Least seconds of calls of one kind. */
static double floor_of(const Card *g, const DryCall *c)
{
    const Rates rates = avt_card_published(g);

    return avt_paper_op(c->first.op, c->flops, c->bytes, &rates);
}

static void json_shape(const char *name, Tensor t)
{
    char shape[96];

    printf("\"%s\": \"%s %s\"", name, avt_dtype_name(t.dtype), avt_shape_text(shape, sizeof(shape), t.nd, t.dim));
}

static void json_ops(const DryCall *c, int64_t nb, const DryCall *sum, const Card *g, double floor)
{
    printf("{\"calls\": %lld, \"bytes\": %.0f, \"flops\": %.0f, ", (long long)sum->calls, sum->bytes, sum->flops);
    if (g)
        printf("\"gpu\": \"%s\", \"floor_ms\": %.4f, ", g->name, 1e3 * floor);
    printf("\"ops\": [");
    for (int64_t i = 0; i < nb; i++) {
        printf("%s\n  {\"op\": \"%s\", \"calls\": %lld, \"bytes\": %.0f, \"flops\": %.0f, ", i ? "," : "", avt_op_name(c[i].first.op),
               (long long)c[i].calls, c[i].bytes, c[i].flops);
        if (g)
            printf("\"floor_ms\": %.4f, ", 1e3 * floor_of(g, &c[i]));
        json_shape("out", c[i].first.out);
        printf("}");
    }
    printf("\n]}\n");
}

static void print_row(const char *name, const DryCall *s, const Card *g, double floor)
{
    printf("%-20s %8lld %10.3f %10.3f", name, (long long)s->calls, s->bytes / 1e9, s->flops / 1e12);
    if (g)
        printf(" %10.3f", 1e3 * floor);
    printf("\n");
}

static double add(DryCall *sum, const DryCall *c, const Card *g)
{
    sum->calls += c->calls;
    sum->bytes += c->bytes;
    sum->flops += c->flops;
    return g ? floor_of(g, c) : 0;
}

void plan_print_ops(const DryCall *c, int64_t nb, const Card *g, int json)
{
    DryCall sum = { .calls = 0 };
    double all = 0;

    for (int64_t i = 0; i < nb; i++)
        all += add(&sum, &c[i], g);
    if (json) {
        json_ops(c, nb, &sum, g, all);
        return;
    }
    printf("%-20s %8s %10s %10s%s%s\n", "operation", "calls", "GB", "TFLOP", g ? "  least ms on " : "", g ? g->name : "");
    for (int op = 0; op < OP_NB; op++) {                            // a line an op, whatever its shapes
        DryCall s = { .calls = 0 };
        double floor = 0;

        for (int64_t i = 0; i < nb; i++)
            floor += (int)c[i].first.op == op ? add(&s, &c[i], g) : 0;
        if (s.calls)
            print_row(avt_op_name((OpId)op), &s, g, floor);
    }
    print_row("sum", &sum, g, all);
}
