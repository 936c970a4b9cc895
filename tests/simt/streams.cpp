/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Queues, events, and what is known to be ordered after what.
 *
 * An operation is submitted to a stream and runs when the schedule says so:
 *   eager    as soon as its turn comes in its stream: a device that is faster than the host
 *   lazy     when the host waits for something behind it, the least that is needed: a device that is slower
 *   random   some now, some later, whichever queue
 * What is right under all three, with no race told, is right by order and not by luck.
 *
 * Order is a vector clock: an operation is after another if its stream's clock, which events and the host's own waits carry about, has
 * that one's tick. What the host has waited for is before all that any of its threads submits later: how threads of the host order
 * themselves is not seen here.
 */
#include <algorithm>
#include <chrono>
#include <condition_variable>

#include "bed.h"

namespace bed {

Running running;
cudaError_t sticky;
thread_local std::shared_ptr<const Operands> operands_now;
thread_local int device_now;

enum { MILLISECONDS = 50 };                                         // between two looks at what nobody here tells of

/* What has run, by id. A pair stands for two operations that have read a place, neither after the other. */
struct Past {
    const char *name;
    int stream;                                 // -1: a pair of ids, `tick` and `other`
    uint32_t tick, other;
};

static std::vector<Past> past(1);
static std::map<uint32_t, uint32_t> pairs;      // with the running operation
static uint32_t ordered_before;                 // the id that was asked for last
static Clock running_clock, host_clock;
static std::vector<Stream *> streams(1);        // [0]: of what runs for the host at once
static std::vector<uint32_t> last_tick(1);      // of a number, for the next stream that gets it
static std::condition_variable_any progress;

void Clock::join(const Clock &other)
{
    if (at.size() < other.at.size())
        at.resize(other.at.size());
    for (size_t i = 0; i < other.at.size(); i++)
        at[i] = std::max(at[i], other.at[i]);
}

uint32_t Clock::tick(int stream)
{
    if (at.size() <= (size_t)stream)
        at.resize((size_t)stream + 1);
    return ++at[(size_t)stream];
}

/* ---- the past ------------------------------------------------------------------------------------------------------------------------- */

bool is_ordered(uint32_t id)
{
    const Past &p = past[id];

    if (!id || id == running.id || id == ordered_before)
        return true;
    if (p.stream < 0)
        return is_ordered(p.tick) && is_ordered(p.other);
    if (running_clock.of(p.stream) < p.tick)
        return false;
    ordered_before = id;
    return true;
}

uint32_t also_running(uint32_t old)
{
    if (is_ordered(old))
        return running.id;
    uint32_t &pair = pairs[old];

    if (!pair) {
        pair = (uint32_t)past.size();
        past.push_back({ past[old].name, -1, old, running.id });
    }
    return pair;
}

const char *operation_name(uint32_t id)
{
    return past[id].name;
}

static void begin(const char *name, int stream, int device, Clock *clock, const Operands *operands)
{
    const uint32_t tick = clock->tick(stream);

    past.push_back({ name, stream, tick, 0 });
    running = { (uint32_t)past.size() - 1, name, device, operands, false };
    running_clock = *clock;
    ordered_before = 0;
    pairs.clear();
    stats.operations++;
}

static void run_body(const std::function<void()> &run)
{
    if (settings.fail_device >= 0 && !settings.fail_device--)
        sticky = settings.fail_with;
    if (!sticky) {
        open_device_memory(true);
        run();
        open_device_memory(false);
    }
    running = Running();
}

void run_now(const char *name, int device, const std::function<void()> &run)
{
    begin(name, 0, device, &host_clock, operands_now.get());
    run_body(run);
}

void host_waited_for(const Clock &clock)
{
    host_clock.join(clock);
}

/* ---- queues --------------------------------------------------------------------------------------------------------------------------- */

static bool is_ready(const Stream *s)
{
    if (s->queue.empty())
        return false;
    const Operation &o = s->queue.front();

    return o.wait ? o.wait->done : !o.ready || o.ready();
}

static void run_head(Stream *s)
{
    const Operation o = std::move(s->queue.front());

    s->queue.pop_front();
    s->clock.join(o.host);
    if (o.wait) {
        s->clock.join(o.wait->clock);
        s->time = std::max(s->time, o.wait->time);
    } else if (o.record) {
        s->clock.tick(s->number);
        o.record->time = s->time;
        o.record->clock = s->clock;
        o.record->done = true;
    } else {
        begin(o.name, s->number, s->device, &s->clock, o.operands.get());
        run_body(o.run);
        s->time += o.pace;
    }
    s->done++;
    progress.notify_all();
}

bool step(bool at_random)
{
    std::vector<Stream *> ready;

    for (Stream *s : streams)
        if (s && is_ready(s))
            ready.push_back(s);
    if (ready.empty())
        return false;
    run_head(at_random ? ready[random_below((uint32_t)ready.size())] : settings.schedule == Schedule::LAZY ? ready.back() : ready.front());
    return true;
}

/* The workspace may have moved since the operands were told. */
static std::shared_ptr<const Operands> with_workspace(const Operands &o)
{
    auto all = std::make_shared<Operands>(o);
    const Address at = o.workspace ? (Address)*o.workspace : 0;

    if (at)
        all->span.push_back({ at, at + *o.workspace_size, true, "the workspace" });
    return all;
}

void submit(Stream *s, Operation op)
{
    op.host = host_clock;
    op.operands = operands_now ? with_workspace(*operands_now) : NULL;
    s->queue.push_back(std::move(op));
    s->submitted++;
    if (settings.schedule == Schedule::EAGER)
        while (step(false))
            ;
    else if (settings.schedule == Schedule::RANDOM)
        for (uint32_t n = random_below(3); n; n--)
            step(true);
}

/* The least work that brings a stream there. @return false: it is for others to go on */
static bool drive(Stream *s, uint64_t upto, int depth)
{
    while (s->done < upto) {
        const Operation &head = s->queue.front();
        Stream *on = head.wait ? head.wait->on : NULL;

        if (is_ready(s))
            run_head(s);
        else if (!on || on == s || on->queue.empty() || depth > 64 || !drive(on, on->done + 1, depth + 1))
            return false;
    }
    return true;
}

static void give_up(Stream *s)
{
    report("stream-deadlock", "stream %d waits for %s, which nobody will end", s->number, s->queue.empty() ? "?" : s->queue.front().name);
    s->done += s->queue.size();
    s->queue.clear();
}

void wait_for(Guard &guard, Stream *s, uint64_t upto)
{
    for (int idle = 0; s->done < upto;) {
        const bool lazy = settings.schedule == Schedule::LAZY;

        if ((lazy && drive(s, upto, 0)) || step(settings.schedule == Schedule::RANDOM))
            idle = 0;
        else if (progress.wait_for(guard, std::chrono::milliseconds(MILLISECONDS)) == std::cv_status::timeout && ++idle * MILLISECONDS > settings.patience * 1000)
            give_up(s);
    }
    host_clock.join(s->clock);
}

void wait_for_all(Guard &guard)
{
    std::vector<Stream *> all = streams;

    if (settings.schedule == Schedule::LAZY)
        std::reverse(all.begin(), all.end());
    for (Stream *s : all)
        if (s)
            wait_for(guard, s, s->submitted);
}

/* ---- streams ---------------------------------------------------------------------------------------------------------------------------- */

Stream *stream_open(int device)
{
    const size_t free = (size_t)(std::find(streams.begin() + 1, streams.end(), nullptr) - streams.begin());
    Stream *s = new Stream();

    if (free == streams.size()) {
        streams.push_back(NULL);
        last_tick.push_back(0);
    }
    s->number = (int)free;
    s->device = device;
    s->clock = host_clock;
    if (s->clock.at.size() <= free)
        s->clock.at.resize(free + 1);
    s->clock.at[free] = last_tick[free];
    return streams[free] = s;
}

void stream_close(Guard &guard, Stream *s)
{
    wait_for(guard, s, s->submitted);
    last_tick[(size_t)s->number] = s->clock.of(s->number);
    streams[(size_t)s->number] = NULL;
    delete s;
}

/* NULL is the legacy default stream, which waits for others behind the back of who uses it. */
Stream *stream_of(cudaStream_t s)
{
    static Stream *legacy;

    if (s)
        return (Stream *)s;
    report("default-stream", "work on the legacy default stream");
    if (!legacy)
        legacy = stream_open(0);
    return legacy;
}

}   // namespace bed
