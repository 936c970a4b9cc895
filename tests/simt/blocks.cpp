/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A kernel: its blocks one after the other, the threads of a block as fibers on stacks of their own, barriers.
 *
 * A fiber runs until it waits for others: at a barrier here, at an operation of its warp in warp.cpp. x86-64, System V.
 */
#include <string.h>
#include <algorithm>
#include <numeric>

#include "fibers.h"

namespace bed {

enum { LEAVE_AT_TOP = 256 };                    // bytes at the top of a stack: the thread's coordinates

thread_local Fiber *current;

static Fiber fibers[MAX_THREADS];
static Warp warps[MAX_THREADS / 32];
static std::deque<Fiber *> ready;
static void *stack_of_host;
static Block block;
static const Launch *launch;

/* Shared memory: dynamic first, then a static array for each name, with a gap behind each that nobody may touch. */
static std::map<const void *, Address> static_arrays;
static uint8_t is_array[SHARED_SIZE];
static size_t shared_end;

}   // namespace bed

thread_local SimtThread *simt_thread;

/* Save the registers that a call keeps, change stacks, take theirs. */
extern "C" void simt_switch(void **save, void *load);
asm(".text\n.globl simt_switch\n.type simt_switch,@function\nsimt_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size simt_switch,.-simt_switch\n");

namespace bed {

/* ---- changing fibers ---------------------------------------------------------------------------------------------------------------------- */

static void go_to(Fiber *f, void **save)
{
    current = f;
    simt_thread = f->thread;
    stats.switches++;
    simt_switch(save, f->stack);
}

static Fiber *next_fiber()
{
    Fiber *f;

    if (ready.empty())
        return NULL;
    if (settings.order == Order::RANDOM)
        std::swap(ready.front(), ready[random_below((uint32_t)ready.size())]);
    f = ready.front();
    ready.pop_front();
    return f;
}

static void leave_kernel()
{
    void *nowhere;

    current = NULL;
    simt_switch(&nowhere, stack_of_host);
}

void stop_kernel()
{
    block.failed = true;
    leave_kernel();
    __builtin_unreachable();
}

void fiber_wait()
{
    Fiber *me = current, *f = next_fiber();

    if (!f) {
        report("barrier-deadlock", "%d of %d threads wait at a barrier, the others for their warp", block.nb_at_barrier, block.nb_live);
        stop_kernel();
    }
    if (f != me)
        go_to(f, &me->stack);
}

void fibers_wake(Fiber *const *list, int nb)
{
    if (settings.order == Order::REVERSE)
        ready.insert(ready.end(), std::reverse_iterator(list + nb), std::reverse_iterator(list));
    else
        ready.insert(ready.end(), list, list + nb);
}

/* ---- barriers ------------------------------------------------------------------------------------------------------------------------------- */

static void release_barrier()
{
    static Fiber *waiting[MAX_THREADS];
    int nb = 0, count = 0, kind;

    for (int i = 0; i < block.nb_threads; i++)
        if (fibers[i].barrier) {
            waiting[nb++] = &fibers[i];
            count += fibers[i].vote != 0;
        }
    kind = waiting[0]->barrier;
    for (int i = 0; i < nb; i++) {
        Fiber *f = waiting[i];

        if (f->barrier != kind)
            report("barrier-mismatch", "different barriers met");
        f->vote = f->barrier == BARRIER_COUNT ? count : f->barrier == BARRIER_AND ? count == nb : count > 0;
        f->barrier = 0;
    }
    block.nb_at_barrier = 0;
    block.barrier_epoch++;
    fibers_wake(waiting, nb);
}

int barrier(int kind, int vote)
{
    Fiber *me = current;

    me->barrier = kind;
    me->vote = vote;
    stats.barriers++;
    for (const Gathering &g : me->warp->gathering)
        if (g.arrived)
            report("barrier-divergence", "a barrier while lanes %08x of the warp wait for it elsewhere", g.arrived);
    if (++block.nb_at_barrier == block.nb_live)
        release_barrier();
    fiber_wait();
    return me->vote;
}

/* ---- blocks ---------------------------------------------------------------------------------------------------------------------------------- */

static void end_thread()
{
    Fiber *me = current;
    void *nowhere;

    copies_end(me);
    block.nb_live--;
    me->warp->exited |= 1u << me->lane;
    for (const Gathering &g : me->warp->gathering)
        if (g.arrived && (g.mask >> me->lane & 1)) {
            report("warp-divergence", "a lane of mask %08x, for which others wait, has ended", g.mask);
            stop_kernel();
        }
    if (block.nb_live && block.nb_at_barrier == block.nb_live)
        release_barrier();
    if (Fiber *f = next_fiber())
        go_to(f, &nowhere);
    if (block.nb_live)
        report("barrier-deadlock", "%d threads wait for ever, %d of them at a barrier", block.nb_live, block.nb_at_barrier);
    block.failed |= block.nb_live > 0;
    leave_kernel();
}

static void fiber_main()
{
    launch->run((void *)ARGUMENTS);
    end_thread();
}

static void start_fiber(int i, uint3 at)
{
    const Address top = STACKS + (Address)(i + 1) * STACK_SIZE;
    const dim3 b = launch->block;
    Fiber &f = fibers[i];
    void **stack = (void **)(top - LEAVE_AT_TOP);

    f.index = i;
    f.lane = i % 32;
    f.warp = &warps[i / 32];
    f.barrier = 0;
    f.group = 0;
    f.copies.clear();
    f.thread = (SimtThread *)(top - LEAVE_AT_TOP / 2);
    f.thread->bdim = b;
    f.thread->gdim = launch->grid;
    f.thread->bid = at;
    f.thread->tid = make_uint3((unsigned)i % b.x, (unsigned)i / b.x % b.y, (unsigned)i / b.x / b.y);
    *--stack = NULL;                                                // keeps the stack at 16 n + 8 behind the return address
    *--stack = (void *)fiber_main;
    for (int k = 0; k < 6; k++)
        *--stack = NULL;                                            // the registers that simt_switch() takes
    f.stack = stack;
}

static void run_block(uint3 at)
{
    static uint32_t serial;
    static Fiber *all[MAX_THREADS];
    const int nb = (int)(launch->block.x * launch->block.y * launch->block.z);

    block = { ++serial, 1, nb, nb, 0, false };
    ready.clear();
    memset((void *)warps, 0, sizeof(Warp) * (size_t)((nb + 31) / 32));
    memset((void *)SHARED, 0xff, shared_end);                       // NaN, and no index
    for (int i = 0; i < nb; i++) {
        start_fiber(i, at);
        all[i] = &fibers[i];
    }
    if (nb % 32)
        warps[nb / 32].exited = ~0u << nb % 32;
    fibers_wake(all, nb);
    go_to(next_fiber(), &stack_of_host);
    current = NULL;
}

/* Which of nb blocks is the i-th: some stride over all of them */
static uint64_t block_number(uint64_t i, uint64_t nb, uint64_t stride)
{
    return settings.order == Order::FORWARD ? i : settings.order == Order::REVERSE ? nb - 1 - i : i * stride % nb;
}

static uint64_t random_stride(uint64_t nb)
{
    uint64_t stride = 1 + random_below((uint32_t)std::min<uint64_t>(nb, 1 << 20));

    while (std::gcd(stride, nb) != 1)
        stride++;
    return stride;
}

void run_launch(const Launch &l)
{
    const uint64_t nb = (uint64_t)l.grid.x * l.grid.y * l.grid.z, stride = settings.order == Order::RANDOM ? random_stride(nb) : 1;

    launch = &l;
    memcpy((void *)ARGUMENTS, l.arguments.data(), l.arguments.size());
    static_arrays.clear();
    memset(is_array, 0, sizeof(is_array));
    memset(is_array, 1, l.dynamic_shared);
    shared_end = l.dynamic_shared;
    stats.launches++;
    block.failed = false;
    for (uint64_t i = 0; i < nb && !block.failed; i++) {
        const uint64_t j = block_number(i, nb, stride);

        run_block(make_uint3((unsigned)(j % l.grid.x), (unsigned)(j / l.grid.x % l.grid.y), (unsigned)(j / l.grid.x / l.grid.y)));
    }
    if (block.failed)
        sticky = cudaErrorIllegalAddress;
}

/* ---- where a thread is ------------------------------------------------------------------------------------------------------------------------- */

Place place_now()
{
    return { block.serial, current->warp->epoch, block.barrier_epoch, (uint16_t)current->index };
}

std::string where_in_kernel()
{
    char text[192];

    if (!current)
        return "";
    snprintf(text, sizeof(text), "kernel %s block %u,%u,%u thread %u,%u,%u", launch->name, current->thread->bid.x, current->thread->bid.y,
             current->thread->bid.z, current->thread->tid.x, current->thread->tid.y, current->thread->tid.z);
    return text;
}

bool in_own_stack(Address a, size_t size)
{
    const Address bottom = STACKS + (Address)current->index * STACK_SIZE;

    return a >= bottom + PAGE && a + size <= bottom + STACK_SIZE;
}

bool in_shared_array(Address a)
{
    return in_shared(a) && is_array[a - SHARED];
}

}   // namespace bed

using namespace bed;

extern "C" {

int simt_barrier(int kind, int vote)
{
    return barrier(kind, vote);
}

void *simt_shared_static(const void *key, size_t bytes, size_t align)
{
    constexpr size_t GAP = 16, MOST = 48 << 10;
    Address &at = static_arrays[key];

    if (!at) {
        const size_t step = align > GAP ? align : GAP, from = (shared_end + GAP + step - 1) / step * step;

        if (from + bytes > SHARED_SIZE || from + bytes - launch->dynamic_shared > MOST + GAP * static_arrays.size()) {
            report("launch-config", "more than 48 KiB of static shared memory");
            stop_kernel();
        }
        at = SHARED + from;
        shared_end = from + bytes;
        memset(&is_array[from], 1, bytes);
        memset((void *)at, 0xff, bytes);
    }
    return (void *)at;
}

void *simt_shared_dynamic(void)
{
    return (void *)SHARED;
}

}
