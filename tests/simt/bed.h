/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the emulated GPU share. What kernels see is simt.h, what test programs see is control.h.
 *
 *   host code --runtime.cpp--> streams.cpp: queues, events, what is ordered after what; runs an operation when its schedule says so
 *                                 |
 *                  kernel: blocks.cpp: a fiber a thread, barriers; warp.cpp: shuffles, votes, fragments
 *                          access.cpp: every access of a thread, from the hooks of -fsanitize=thread
 *                  library or copy: whole ranges ----.
 *                                 |                  v
 *                          memory.cpp: allocations   shadow.cpp: who wrote and read each byte last
 *
 * One lock guards everything: kernels run one after the other, on the thread that happens to drive the queue.
 */
#ifndef AVT_SIMT_BED_H
#define AVT_SIMT_BED_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "control.h"

namespace bed {

/* ---- settings and reports: report.cpp --------------------------------------------------------------------------------------------- */

enum class Schedule { EAGER, LAZY, RANDOM };
enum class Order { FORWARD, REVERSE, RANDOM };

struct Settings {
    Schedule schedule = Schedule::EAGER;
    Order order = Order::FORWARD;
    bool checks = true;                         // look at every access
    int devices = 2;
    bool peers = true;                          // devices can be given access to each other's memory
    int arch = 90;                              // compute capability
    std::string kernels = "80 86 89 90a 100 120";           // what they are built for
    size_t memory = (size_t)80 << 30;           // bytes of a device
    int driver = CUDART_VERSION;                // 0: none
    int flags = cudaDeviceScheduleBlockingSync; // of the primary contexts
    int nccl = 1;                               // is there; 2: what is sent stays on its way
    int host = 0;                               // of the cards' places on the bus: processes with equal ones have the same cards
    int patience = 10;                          // seconds until a wait is called one for ever
    std::map<std::string, double> pace;         // microseconds of what is named so
    int64_t fail_memory = -1;                   // the allocation that fails, counted from 0
    int64_t fail_device = -1;                   // the operation at which the device is lost
    int64_t fail_product = -1;                  // the call of cuBLASLt or cuDNN that is refused when it is to be run
    cudaError_t fail_with = cudaErrorECCUncorrectable;
};
extern Settings settings;
extern SimtStats stats;
extern std::recursive_mutex lock;
typedef std::unique_lock<std::recursive_mutex> Guard;

/** Microseconds that an operation takes: a library's way by its number. */
double pace_of(const char *library, int number);
/** A number below n. */
uint32_t random_below(uint32_t n);
/** Count a fault under its kind and say it (the first few of a kind), with the kernel's place when a thread of one is running. */
void report(const char *kind, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** The place in the kernel that the next report names. */
void set_place(void *pc);

/* ---- memory: memory.cpp ------------------------------------------------------------------------------------------------------------ */

typedef uintptr_t Address;

constexpr size_t PAGE = 4096;
constexpr Address DEVICE = 0x200000000000, DEVICE_SIZE = (Address)2 << 40;
constexpr Address PINNED = 0x280000000000, PINNED_SIZE = (Address)64 << 30;
constexpr Address SHARED = 0x300000000000, SHARED_SIZE = 256 << 10;
constexpr Address ARGUMENTS = 0x310000000000, ARGUMENTS_SIZE = 4096;
constexpr Address STACKS = 0x320000000000, STACK_SIZE = 128 << 10;
constexpr Address CELLS = 0x340000000000;       // shadow of DEVICE, up to 0x4a0000000000

inline bool on_device(Address a) { return a - DEVICE < DEVICE_SIZE; }
inline bool in_pinned(Address a) { return a - PINNED < PINNED_SIZE; }
inline bool in_shared(Address a) { return a - SHARED < SHARED_SIZE; }

struct Allocation {
    Address at = 0;
    size_t size = 0;
    int device = -1;                            // -1: pinned host memory
};

void start();                                   // idempotent: maps the address spaces
void *allocate(size_t size, int device);        // zeroed; NULL: none left
bool release(void *p);                          // false: there is none at p
/** The allocation that holds an address, or NULL. */
const Allocation *allocation_at(Address a);
/** "3 bytes past the end of an allocation of 12", for reports. */
std::string near_what(Address a);
size_t memory_in_use(int device);
/** Pages of zeros in place of what is there. */
void clear_pages(Address from, size_t size);
/** While open, host code too may touch device memory; the bed opens it for the time of an operation. */
void open_device_memory(bool open);

/* ---- order: streams.cpp ------------------------------------------------------------------------------------------------------------- */

/* How far each stream is known to be; by the stream's number. */
struct Clock {
    std::vector<uint32_t> at;
    uint32_t of(int stream) const { return (size_t)stream < at.size() ? at[stream] : 0; }
    void join(const Clock &other);
    uint32_t tick(int stream);
};

/* Memory that an operation may touch, when it is known: the operands of an op (operands.cpp). */
struct Span {
    Address from, to;
    bool write;
    const char *what;
};
struct Operands {
    const char *op;
    std::vector<Span> span;
    void *const *workspace;                     // where it is and how large, when work is submitted
    const size_t *workspace_size;
};

struct Stream;
struct Record {                                 // of an event: one call of cudaEventRecord
    Stream *on = nullptr;
    bool done = false;
    Clock clock;
    double time = 0;                            // of its stream, in microseconds
};

constexpr double PACE = 10;                     // microseconds of an operation that has none of its own

struct Operation {
    const char *name = "";
    std::function<bool()> ready;                // empty: always
    std::function<void()> run;
    std::shared_ptr<Record> record, wait;
    Clock host;                                 // what the host had waited for when it submitted this
    std::shared_ptr<const Operands> operands;
    double pace = PACE;
};

struct Stream {
    int number = 0, device = 0;
    std::deque<Operation> queue;
    Clock clock;
    uint64_t submitted = 0, done = 0;
    double time = 0;                            // in microseconds, of the operations that have run
};

/* The operation that runs now. */
struct Running {
    uint32_t id = 0;                            // 0: none
    const char *name = "";
    int device = 0;
    const Operands *operands = nullptr;
    bool between = false;                       // devices: a copy from one to another
};
extern Running running;
extern cudaError_t sticky;                      // a lost device
extern thread_local std::shared_ptr<const Operands> operands_now;      // of what this thread submits
extern thread_local int device_now;

Stream *stream_of(cudaStream_t s);
void submit(Stream *s, Operation op);
void wait_for(Guard &guard, Stream *s, uint64_t upto);
void wait_for_all(Guard &guard);
/** Run something at once on behalf of the host, ordered after all that the host has waited for. */
void run_now(const char *name, int device, const std::function<void()> &run);
bool step(bool at_random);                      // run the head of a queue; false: none is ready
Stream *stream_open(int device);
void stream_close(Guard &guard, Stream *s);
void host_waited_for(const Clock &clock);

/** Did operation `id` end before the running one began? 0: nobody. */
bool is_ordered(uint32_t id);
/** A number for "old and the running one": both have read a place. */
uint32_t also_running(uint32_t old);
const char *operation_name(uint32_t id);

/* ---- what threads do: blocks.cpp, warp.cpp, access.cpp, shadow.cpp -------------------------------------------------------------------- */

struct Warp;
struct Fiber;
extern thread_local Fiber *current;             // the kernel's thread that runs on this thread of the host, or NULL: host code

struct Place {                                  // of an access: which thread, between which barriers
    uint32_t block;                             // counted over all launches, from 1
    uint32_t warp_epoch;
    uint16_t barrier_epoch;
    uint16_t thread;
};
Place place_now();
uint32_t warp_epoch_now();

struct Launch {
    const char *name;
    dim3 grid, block;
    size_t dynamic_shared;
    void (*run)(void *arguments);
    std::vector<char> arguments;
};
void run_launch(const Launch &l);
/** End the running kernel: the device has lost its context. */
[[noreturn]] void stop_kernel();
std::string where_in_kernel();                  // "kernel k block 0,0,0 thread 3,0", or ""
bool in_own_stack(Address a, size_t size);
bool in_shared_array(Address a);

enum class Access { READ, WRITE, ATOMIC };
/** One access of the running thread within an allocation or a shared array. */
void shadow_access(Address a, size_t size, Access kind);
/** Bytes that a copy or library reads or writes as a whole. @return false when it must not run: reported */
bool shadow_range(const void *p, size_t size, bool write);
void shadow_forget(Address from, size_t size);              // freed
void shadow_cleared(Address from, size_t size);             // whole pages, written by the running operation
void shadow_in_flight(Address a, size_t size);              // shared bytes that an asynchronous copy of the running thread will write
void shadow_landed(Address a, size_t size);
/** Does the running operation know its operands, and is this access none of theirs? Reported then. */
bool outside_operands(Address a, size_t size, bool write);

}   // namespace bed

#endif
