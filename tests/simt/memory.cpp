/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory of the emulated devices, and pinned memory of the host.
 *
 * Addresses are far from the host's own, and host code that touches a device's dies with a sentence: the pages are closed but for the
 * time of an operation. A page between allocations catches what runs past an end. Pages are the kernel's own zeros until they are
 * touched: gigabytes that nobody uses cost nothing.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bed.h"

namespace bed {

static std::map<Address, Allocation> allocations;
static Allocation last_found;                                       // most accesses lie where the one before did
static std::map<int, size_t> in_use;
static bool opened;

static size_t whole_pages(size_t size)
{
    return (size + PAGE - 1) & ~(PAGE - 1);
}

/* ---- starting ------------------------------------------------------------------------------------------------------------------------- */

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        _exit(SIMT_FOUND);
}

static void on_fault(int, siginfo_t *info, void *)
{
    const Address a = (Address)info->si_addr;
    char text[160];

    snprintf(text, sizeof(text), "simt: %s at %p\n", on_device(a) ? "host-touches-device: host code touched a device's memory" :
             a - STACKS < 1024 * STACK_SIZE ? "stack-overflow: a kernel's thread has used up its stack" : "segmentation fault", info->si_addr);
    say(text);
    _exit(SIMT_FOUND);
}

static void catch_faults()
{
    static char stack[64 << 10];
    stack_t alternative = {};
    struct sigaction action = {};

    alternative.ss_sp = stack;
    alternative.ss_size = sizeof(stack);
    sigaltstack(&alternative, NULL);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, NULL);
}

static void map(Address at, size_t size, int protection)
{
    if (mmap((void *)at, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) == (void *)at)
        return;
    say("simt: the addresses of the emulated devices are taken\n");
    _exit(2);
}

void start()
{
    static bool done;

    if (done)
        return;
    done = true;
    map(DEVICE, DEVICE_SIZE, PROT_NONE);
    map(PINNED, PINNED_SIZE, PROT_READ | PROT_WRITE);
    map(SHARED, SHARED_SIZE, PROT_READ | PROT_WRITE);
    map(ARGUMENTS, ARGUMENTS_SIZE, PROT_READ | PROT_WRITE);
    map(STACKS, 1024 * STACK_SIZE, PROT_READ | PROT_WRITE);
    for (int i = 0; i < 1024; i++)
        mprotect((void *)(STACKS + i * STACK_SIZE), PAGE, PROT_NONE);
    catch_faults();
}

/* ---- allocations ------------------------------------------------------------------------------------------------------------------------ */

/* Room for `size` bytes and a page behind them, from `next` on and then from the space's begin; 0: none. */
static Address find_room(Address *next, Address space, size_t space_size, size_t size)
{
    Address at = *next < space ? space + PAGE : *next;

    for (int turn = 0; turn < 2; turn++, at = space + PAGE) {
        auto i = allocations.upper_bound(at);

        if (i != allocations.begin() && std::prev(i)->first + whole_pages(std::prev(i)->second.size) + PAGE > at)
            at = std::prev(i)->first + whole_pages(std::prev(i)->second.size) + PAGE;
        for (; i != allocations.end() && i->first < at + size + PAGE && i->first < space + space_size; i++)
            at = i->first + whole_pages(i->second.size) + PAGE;
        if (at + size + PAGE <= space + space_size)
            return at;
    }
    return 0;
}

void *allocate(size_t size, int device)
{
    static Address next[2];
    const bool pinned = device < 0;
    const size_t bytes = whole_pages(size);
    Address at;

    if (!pinned && in_use[device] + bytes > settings.memory)
        return NULL;
    at = find_room(&next[pinned], pinned ? PINNED : DEVICE, pinned ? PINNED_SIZE : DEVICE_SIZE, bytes);
    if (!at)
        return NULL;
    next[pinned] = at + bytes + PAGE;
    stats.allocations += !pinned;
    if (!pinned)
        mprotect((void *)at, bytes, opened ? PROT_READ | PROT_WRITE : PROT_NONE);
    allocations[at] = { at, size, device };
    in_use[device] += bytes;
    return (void *)at;
}

bool release(void *p)
{
    const auto i = allocations.find((Address)p);
    const size_t bytes = i == allocations.end() ? 0 : whole_pages(i->second.size);

    if (!bytes)
        return false;
    in_use[i->second.device] -= bytes;
    if (i->second.device >= 0) {
        shadow_forget(i->first, bytes);
        mprotect(p, bytes, PROT_NONE);
    }
    madvise(p, bytes, MADV_DONTNEED);
    last_found = Allocation();
    allocations.erase(i);
    return true;
}

const Allocation *allocation_at(Address a)
{
    if (a - last_found.at >= last_found.size) {
        const auto i = allocations.upper_bound(a);

        if (i == allocations.begin() || a - std::prev(i)->first >= std::prev(i)->second.size)
            return NULL;
        last_found = std::prev(i)->second;
    }
    return &last_found;
}

std::string near_what(Address a)
{
    const auto i = allocations.upper_bound(a);
    char text[96];

    if (i == allocations.begin())
        return "in no allocation";
    snprintf(text, sizeof(text), "%ld bytes past the end of an allocation of %zu", (long)(a - std::prev(i)->first - std::prev(i)->second.size),
             std::prev(i)->second.size);
    return text;
}

size_t memory_in_use(int device)
{
    return in_use[device];
}

void clear_pages(Address from, size_t size)
{
    madvise((void *)from, size, MADV_DONTNEED);
}

void open_device_memory(bool open)
{
    if (opened == open)
        return;
    opened = open;
    for (const auto &i : allocations)
        if (i.second.device >= 0)
            mprotect((void *)i.first, whole_pages(i.second.size), open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

}   // namespace bed
