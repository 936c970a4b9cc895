/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every access of a kernel's thread: the hooks that -fsanitize=thread puts in front of it (the sanitizer itself is not linked), the wide
 * accesses of simt.h, asynchronous copies.
 *
 * A thread may touch its stack, its arguments, constants of the program, shared arrays of its block, and memory of the device; and of
 * that only the operands of its op, where those are known.
 */
#include <link.h>
#include <string.h>
#include <algorithm>

#include "fibers.h"
#include "simt_ops.h"

namespace bed {

struct Range {
    Address from, to;
};

/* What nobody writes of the file that this code is in, a program or a library: up to the end of what is closed when it has been loaded. */
static int find_constants(dl_phdr_info *file, size_t, void *out)
{
    Range r = { UINTPTR_MAX, 0 };
    bool ours = false;

    for (int i = 0; i < file->dlpi_phnum; i++) {
        const ElfW(Phdr) &p = file->dlpi_phdr[i];
        const Address from = file->dlpi_addr + p.p_vaddr, to = from + p.p_memsz;

        if (p.p_type == PT_LOAD) {
            r.from = std::min(r.from, from);
            ours |= (Address)&find_constants - from < p.p_memsz;
        }
        if (p.p_type == PT_GNU_RELRO || (p.p_type == PT_LOAD && !(p.p_flags & PF_W)))
            r.to = std::max(r.to, to);
    }
    if (ours)
        *(Range *)out = r;
    return ours;
}

static bool is_constant(Address a)
{
    static const Range constants = [] {
        Range r = {};

        dl_iterate_phdr(find_constants, &r);
        return r;
    }();

    return a >= constants.from && a < constants.to;
}

[[noreturn]] static void out_of_bounds(const char *kind, Address a, size_t size, bool write, const std::string &near)
{
    report(kind, "%s %zu bytes at %p, the last %s", write ? "writes" : "reads", size, (void *)a, near.c_str());
    stop_kernel();
}

static void on_shared(Address a, size_t size, Access kind)
{
    for (size_t i = 0; i < size; i++)
        if (!in_shared_array(a + i))
            out_of_bounds("oob-shared", a - SHARED, size, kind != Access::READ, "in no shared array");
    shadow_access(a, size, kind);
}

static void on_global(Address a, size_t size, Access kind)
{
    const Allocation *in = allocation_at(a);

    if (!in || a + size > in->at + in->size)
        out_of_bounds("oob-global", a, size, kind != Access::READ, near_what(a + size - 1));
    if (in->device != running.device)
        out_of_bounds("other-device", a, size, kind != Access::READ, "in memory of another device");
    if (outside_operands(a, size, kind != Access::READ))
        stop_kernel();
    shadow_access(a, size, kind);
}

static void on_access(Address a, size_t size, size_t align, Access kind, void *pc)
{
    if (!settings.checks)
        return;
    if (!current) {
        if (on_device(a))
            report("host-touches-device", "host code %s a device's %p", kind == Access::READ ? "reads" : "writes", (void *)a);
        return;
    }
    if (in_own_stack(a, size) || a == (Address)&simt_thread || a - ARGUMENTS < ARGUMENTS_SIZE || (kind == Access::READ && is_constant(a)))
        return;
    stats.accesses++;
    set_place(pc);
    if (a % align) {
        report("misaligned", "%zu bytes at %p", size, (void *)a);
        stop_kernel();
    }
    if (in_shared(a))
        on_shared(a, size, kind);
    else if (on_device(a))
        on_global(a, size, kind);
    else if (!in_pinned(a) || !allocation_at(a))
        out_of_bounds("host-pointer", a, size, kind != Access::READ, "in the host's memory");
}

/* ---- asynchronous copies -------------------------------------------------------------------------------------------------------------------- */

static void land(const Copy &c)
{
    if (c.src)
        memcpy(c.dst, c.src, (size_t)c.size);
    else
        memset(c.dst, 0, (size_t)c.size);
    if (settings.checks)
        shadow_landed((Address)c.dst, (size_t)c.size);
}

void copies_end(Fiber *f)
{
    if (!f->copies.empty())
        report("cp.async-unwaited", "the thread ends with %zu copies on their way", f->copies.size());
    for (const Copy &c : f->copies)
        land(c);
    f->copies.clear();
}

}   // namespace bed

using namespace bed;

#define PC __builtin_return_address(0)

extern "C" {

void simt_read(const void *p, size_t size, size_t align) { on_access((Address)p, size, align, Access::READ, PC); }
void simt_write(void *p, size_t size, size_t align) { on_access((Address)p, size, align, Access::WRITE, PC); }
void simt_atomic(void *p, size_t size) { on_access((Address)p, size, size, Access::ATOMIC, PC); }

void simt_copy(void *dst, const void *src, int size)
{
    if (!in_shared((Address)dst)) {
        set_place(PC);
        report("address-space", "cp.async to %p, which is not shared memory", dst);
        stop_kernel();
    }
    if (src)
        on_access((Address)src, (size_t)size, (size_t)size, Access::READ, PC);
    on_access((Address)dst, (size_t)size, (size_t)size, Access::WRITE, PC);
    if (settings.checks)
        shadow_in_flight((Address)dst, (size_t)size);
    memset(dst, 0xff, (size_t)size);
    current->copies.push_back({ dst, src, size, current->group });
}

void simt_copy_commit(void)
{
    current->group++;
}

void simt_copy_wait(int left)
{
    std::vector<Copy> &c = current->copies;
    size_t nb = 0;

    for (; nb < c.size() && (int)(current->group - c[nb].group) > left; nb++)
        land(c[nb]);
    c.erase(c.begin(), c.begin() + (ptrdiff_t)nb);
}

/* ---- hooks of the compiler ----------------------------------------------------------------------------------------------------------------- */

#define HOOKS(n) \
    void __tsan_read##n(void *p) { on_access((Address)p, n, n, Access::READ, PC); } \
    void __tsan_write##n(void *p) { on_access((Address)p, n, n, Access::WRITE, PC); } \
    void __tsan_unaligned_read##n(void *p) { on_access((Address)p, n, 1, Access::READ, PC); } \
    void __tsan_unaligned_write##n(void *p) { on_access((Address)p, n, 1, Access::WRITE, PC); } \
    void __tsan_volatile_read##n(void *p) { on_access((Address)p, n, n, Access::READ, PC); } \
    void __tsan_volatile_write##n(void *p) { on_access((Address)p, n, n, Access::WRITE, PC); } \
    void __tsan_read_write##n(void *p) { on_access((Address)p, n, n, Access::READ, PC); on_access((Address)p, n, n, Access::WRITE, PC); }
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)

void __tsan_read_range(void *p, size_t n) { on_access((Address)p, n, 1, Access::READ, PC); }
void __tsan_write_range(void *p, size_t n) { on_access((Address)p, n, 1, Access::WRITE, PC); }

void *__tsan_memcpy(void *dst, const void *src, size_t n)
{
    on_access((Address)src, n, 1, Access::READ, PC);
    on_access((Address)dst, n, 1, Access::WRITE, PC);
    return memcpy(dst, src, n);
}

void *__tsan_memset(void *dst, int v, size_t n)
{
    on_access((Address)dst, n, 1, Access::WRITE, PC);
    return memset(dst, v, n);
}

void __tsan_init(void) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}

}
