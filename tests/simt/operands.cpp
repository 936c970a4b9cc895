/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory that an op may touch. Tensors lie side by side in an arena, which is one allocation of the device: an access past the end
 * of a tensor is in bounds there, and wrong. spy.c tells the operands of every op that goes through the backend's table; what the
 * thread submits meanwhile is held to them.
 */
#include "bed.h"

namespace bed {

bool outside_operands(Address a, size_t size, bool write)
{
    const Operands *o = running.operands;
    const char *only = NULL;

    if (!o || !settings.checks)
        return false;
    for (const Span &s : o->span)
        if (a >= s.from && a + size <= s.to) {
            if (s.write || !write)
                return false;
            only = s.what;
        }
    if (only)
        report("writes-operand", "%s of %s writes %zu bytes of %s, which it is to read", running.name, o->op, size, only);
    else
        report("outside-operands", "%s of %s %s %zu bytes at %p, in none of its operands", running.name, o->op, write ? "writes" : "reads", size,
               (void *)a);
    return true;
}

}   // namespace bed

using namespace bed;

extern "C" void simt_operands(const char *op, const SimtSpan *span, int nb, void *const *workspace, const size_t *workspace_size)
{
    auto o = std::make_shared<Operands>();

    if (!span) {
        operands_now = NULL;
        return;
    }
    o->op = op;
    o->workspace = workspace;
    o->workspace_size = workspace_size;
    for (int i = 0; i < nb; i++)
        if (span[i].size)
            o->span.push_back({ (Address)span[i].p, (Address)span[i].p + span[i].size, span[i].write != 0, span[i].what });
    operands_now = o;
}
