/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who wrote and who read each byte last, and whether that was ordered before the access at hand.
 *
 *   a page of device memory   one record, as long as only copies and libraries touch it, as wholes
 *   a granule                 a cell, once a kernel's thread has touched its page: 4 bytes of device memory, 2 of shared memory
 *
 * Faults told here: reads of what was never written, races between threads of a barrier interval, blocks of a launch, streams.
 * A cell knows the last access only, and of which of its bytes: what two threads do to different bytes of a granule is never a race,
 * though one may go unseen behind the other.
 */
#include <string.h>
#include <sys/mman.h>

#include "bed.h"

namespace bed {

constexpr uint16_t BY_ATOMIC = 0xfffe, BY_MANY = 0xfffd, BY_WARP = 0x8000;      // in place of a thread's number; BY_WARP | warp

struct Side {                                   // the last write, or the last read
    uint32_t op;                                // 0: none
    Place at;
    uint8_t mask;                               // bytes of the granule
};

struct Cell {
    Side write, read;
    uint8_t written;                            // bytes that were ever written
    uint8_t in_flight;                          // bytes that an asynchronous copy will write
};

struct Page {
    uint32_t write_op, read_op;
    bool detailed;                              // the cells say it
};

constexpr int GLOBAL_GRANULE = 4, SHARED_GRANULE = 2;
constexpr size_t CELLS_OF_A_PAGE = PAGE / GLOBAL_GRANULE;
constexpr size_t NB_PAGES = DEVICE_SIZE / PAGE;

static_assert(CELLS + NB_PAGES * CELLS_OF_A_PAGE * sizeof(Cell) < 0x550000000000, "the shadow reaches where Linux loads programs");

static Page *pages;
static Cell *const cells = (Cell *)CELLS;
static Cell shared_cells[SHARED_SIZE / SHARED_GRANULE];

static void *reserve(Address at, size_t size)
{
    void *p = mmap((void *)at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0), -1, 0);

    if (p == MAP_FAILED)
        report("bed", "no address space for the shadow");
    return p;
}

static Page *page_of(Address a)
{
    if (!pages) {
        pages = (Page *)reserve(0, NB_PAGES * sizeof(Page));
        reserve(CELLS, NB_PAGES * CELLS_OF_A_PAGE * sizeof(Cell));
    }
    return &pages[(a - DEVICE) / PAGE];
}

static Cell *cell_of(Address a)
{
    return in_shared(a) ? &shared_cells[(a - SHARED) / SHARED_GRANULE] : &cells[(a - DEVICE) / GLOBAL_GRANULE];
}

/* From now on the page's cells say what its record said. */
static void detail(Page *p, Address a)
{
    Cell *c = cell_of(a & ~(PAGE - 1));
    Cell all = {};

    if (p->detailed)
        return;
    p->detailed = true;
    all.write.op = p->write_op;
    all.read.op = p->read_op;
    all.write.mask = all.written = p->write_op ? 0xf : 0;
    all.read.mask = p->read_op ? 0xf : 0;
    for (size_t i = 0; i < CELLS_OF_A_PAGE; i++)
        c[i] = all;
}

/* ---- one access of a thread ------------------------------------------------------------------------------------------------------------ */

struct Now {                                    // the access at hand
    Place at;
    Access kind;
    bool shared;
    Address a;                                  // of the granule
    bool told;                                  // one fault an access is enough
};

static void tell(Now *now, const char *kind, const char *what)
{
    if (now->told)
        return;
    now->told = true;
    report(kind, "%s %s%+ld %s", now->kind == Access::READ ? "reads" : "writes", now->shared ? "shared" : "global",
           (long)(now->a - (now->shared ? SHARED : DEVICE)), what);
}

/* Could a thread of this block have done that at the same time? */
static bool is_concurrent(const Place &then, const Now &now)
{
    if (then.thread == now.at.thread || then.barrier_epoch != now.at.barrier_epoch)
        return false;
    return then.thread / 32 != now.at.thread / 32 || then.warp_epoch >= now.at.warp_epoch;
}

/* The same of several readers. */
static bool are_concurrent(const Place &then, const Now &now)
{
    if (then.barrier_epoch != now.at.barrier_epoch)
        return false;
    if (then.thread == BY_MANY)
        return true;
    if (then.thread & BY_WARP)
        return (then.thread & 31) != now.at.thread / 32 || then.warp_epoch >= now.at.warp_epoch;
    return is_concurrent(then, now);
}

static void against_write(const Cell *c, uint8_t mask, Now *now)
{
    const bool both_atomic = now->kind == Access::ATOMIC && c->write.at.thread == BY_ATOMIC;
    const Place &then = c->write.at;

    if (c->in_flight & mask)
        tell(now, "cp.async-race", "while an asynchronous copy to it is on its way");
    else if (then.block == now->at.block) {
        if (then.thread == BY_ATOMIC ? !both_atomic && then.barrier_epoch == now->at.barrier_epoch : is_concurrent(then, *now))
            tell(now, now->shared ? "race-shared" : "race-global", "that another thread wrote with no barrier between");
    } else if (now->shared)
        return;                                                     // of an earlier block
    else if (c->write.op == running.id) {
        if (!both_atomic)
            tell(now, "race-blocks", "that another block of this launch wrote");
    } else if (!is_ordered(c->write.op))
        tell(now, "race-streams", (std::string("that ") + operation_name(c->write.op) + " wrote on another stream, with no order between").c_str());
}

static void against_read(const Cell *c, Now *now)
{
    const Place &then = c->read.at;

    if (then.block == now->at.block) {
        if (are_concurrent(then, *now))
            tell(now, now->shared ? "race-shared" : "race-global", "that another thread read with no barrier between");
    } else if (now->shared)
        return;
    else if (c->read.op == running.id)
        tell(now, "race-blocks", "that another block of this launch reads");
    else if (!is_ordered(c->read.op))
        tell(now, "race-streams", (std::string("that ") + operation_name(c->read.op) + " reads on another stream, with no order between").c_str());
}

static void note_write(Cell *c, uint8_t mask, const Now &now)
{
    c->write.op = running.id;
    c->write.at = now.at;
    c->write.mask = mask;
    if (now.kind == Access::ATOMIC)
        c->write.at.thread = BY_ATOMIC;
    c->written |= mask;
    c->read.mask &= (uint8_t)~mask;
    c->in_flight &= (uint8_t)~mask;
}

/* Readers of one barrier interval are remembered together, of the bytes that all of them read. */
static void note_read(Cell *c, uint8_t mask, const Now &now)
{
    Side *r = &c->read;
    const bool same_op = r->mask && r->op == running.id;

    if (same_op && r->at.block == now.at.block && r->at.barrier_epoch == now.at.barrier_epoch && r->at.thread != now.at.thread && (r->mask & mask)) {
        const int warp = r->at.thread & BY_WARP ? r->at.thread & 31 : r->at.thread / 32;

        if (r->at.thread != BY_MANY)
            r->at.thread = (uint16_t)(warp == now.at.thread / 32 ? BY_WARP | warp : BY_MANY);
        r->at.warp_epoch = now.at.warp_epoch;
        r->mask &= mask;
        return;
    }
    if (same_op && !now.shared && r->at.block != now.at.block && (r->mask & mask)) {
        r->at.block = 0;                                            // of several blocks
        r->mask &= mask;
        return;
    }
    r->op = r->mask && !now.shared ? also_running(r->op) : running.id;
    r->at = now.at;
    r->mask = mask;
}

static void on_cell(Cell *c, uint8_t mask, Now *now)
{
    if (now->shared && c->write.at.block != now->at.block) {        // shared memory is new in every block
        *c = Cell();
        c->write.at.block = c->read.at.block = now->at.block;
        c->write.at.thread = now->at.thread;
    }
    if (now->kind != Access::WRITE && (mask & ~c->written & ~c->in_flight))
        tell(now, now->shared ? "uninit-shared" : "uninit-global", "that nobody has written");
    if ((c->write.mask | c->in_flight) & mask)
        against_write(c, mask, now);
    if (now->kind != Access::READ && (c->read.mask & mask))
        against_read(c, now);
    if (now->kind == Access::READ)
        note_read(c, mask, *now);
    else
        note_write(c, mask, *now);
}

/* Bytes [a, end) of the granule at g */
static uint8_t mask_of(Address g, int granule, Address a, Address end)
{
    const int first = a > g ? (int)(a - g) : 0, last = end < g + granule ? (int)(end - g) : granule;

    return (uint8_t)((1 << last) - (1 << first));
}

void shadow_access(Address a, size_t size, Access kind)
{
    const bool shared = in_shared(a);
    const int granule = shared ? SHARED_GRANULE : GLOBAL_GRANULE;
    Now now = { place_now(), kind, shared, 0, false };

    for (Address g = a & ~(Address)(granule - 1); g < a + size; g += granule) {
        if (!shared && (g == (a & ~(Address)(granule - 1)) || !(g & (PAGE - 1))))
            detail(page_of(g), g);
        now.a = g;
        on_cell(cell_of(g), mask_of(g, granule, a, a + size), &now);
    }
}

void shadow_in_flight(Address a, size_t size)
{
    for (Address g = a; g < a + size; g += SHARED_GRANULE)
        cell_of(g)->in_flight = 3;
}

void shadow_landed(Address a, size_t size)
{
    Now now = { place_now(), Access::WRITE, true, 0, true };        // not a fault, even where one was told before

    for (Address g = a; g < a + size; g += SHARED_GRANULE) {
        cell_of(g)->in_flight = 0;
        note_write(cell_of(g), 3, now);
    }
}

/* ---- whole ranges ------------------------------------------------------------------------------------------------------------------------ */

struct Whole {
    bool write, told_unwritten, told_race;
};

static void check_whole(Whole *w, Address a, bool written, uint32_t write_op, uint32_t read_op)
{
    if (!w->write && !written && !w->told_unwritten) {
        w->told_unwritten = true;
        report("uninit-global", "%s reads %p, which nobody has written", running.name, (void *)a);
    }
    if (w->told_race)
        return;
    if (!is_ordered(write_op) || (w->write && !is_ordered(read_op))) {
        w->told_race = true;
        report("race-streams", "%s %s %p, with no order after %s", running.name, w->write ? "writes" : "reads", (void *)a,
               operation_name(is_ordered(write_op) ? read_op : write_op));
    }
}

static void whole_cell(Whole *w, Address g, uint8_t mask)
{
    Cell *c = cell_of(g);

    check_whole(w, g, !(mask & ~c->written), c->write.mask & mask ? c->write.op : 0, c->read.mask & mask ? c->read.op : 0);
    if (w->write) {
        c->write = { running.id, {}, mask };
        c->written |= mask;
        c->read.mask &= (uint8_t)~mask;
    } else
        c->read = { c->read.mask ? also_running(c->read.op) : running.id, {}, mask };
}

static void whole_page(Whole *w, Page *p, Address a)
{
    if (p->detailed)
        for (Address g = a; g < a + PAGE; g += GLOBAL_GRANULE)
            whole_cell(w, g, 0xf);
    else
        check_whole(w, a, p->write_op != 0, p->write_op, p->read_op);
    if (w->write)
        *p = { running.id, 0, false };
    else if (!p->detailed)
        p->read_op = p->read_op ? also_running(p->read_op) : running.id;
}

static void part_of_page(Whole *w, Address from, Address to)
{
    detail(page_of(from), from);
    for (Address g = from & ~(Address)(GLOBAL_GRANULE - 1); g < to; g += GLOBAL_GRANULE)
        whole_cell(w, g, mask_of(g, GLOBAL_GRANULE, from, to));
}

bool shadow_range(const void *p, size_t size, bool write)
{
    const Address from = (Address)p, to = from + size;
    const Allocation *in = allocation_at(from);
    Whole w = { write, false, false };

    if (!size || !on_device(from))
        return true;
    if (!in || to > in->at + in->size) {
        report("oob-global", "%s %s %zu bytes at %p, the last %s", running.name, write ? "writes" : "reads", size, p, near_what(to - 1).c_str());
        return false;
    }
    if (in->device != running.device && !running.between) {
        report("other-device", "%s of device %d %s %p, which is of device %d", running.name, running.device, write ? "writes" : "reads", p, in->device);
        return false;
    }
    if (outside_operands(from, size, write))
        return false;
    for (Address a = from; a < to && settings.checks;) {
        const Address page = a & ~(PAGE - 1), end = to < page + PAGE ? to : page + PAGE;

        if (end - a == PAGE)
            whole_page(&w, page_of(a), a);
        else
            part_of_page(&w, a, end);
        a = end;
    }
    return true;
}

void shadow_cleared(Address from, size_t size)
{
    for (Address a = from; a < from + size && settings.checks; a += PAGE)
        *page_of(a) = { running.id, 0, false };
}

/* Zeros; whole pages are given back to the kernel. */
static void drop(void *p, size_t size)
{
    const Address from = (Address)p, to = from + size, first = (from + PAGE - 1) & ~(PAGE - 1), last = to & ~(PAGE - 1);

    if (first >= last) {
        memset(p, 0, size);
        return;
    }
    memset(p, 0, first - from);
    madvise((void *)first, last - first, MADV_DONTNEED);
    memset((void *)last, 0, to - last);
}

void shadow_forget(Address from, size_t size)
{
    if (!pages)
        return;
    drop(page_of(from), size / PAGE * sizeof(Page));
    madvise((void *)cell_of(from), size / GLOBAL_GRANULE * sizeof(Cell), MADV_DONTNEED);
}

}   // namespace bed
