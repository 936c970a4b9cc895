/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table that a backend fills, and the state that the door keeps for it.
 *
 * An op is data: the door (kernels.c) checks a call, writes it into an OpCall and hands it to the backend, which may
 * run it at once (cpu), later (guard, cuda) or only count it (dry). A Backend is one queue of work on one device, used
 * by one thread at a time; several backends may share a device (the ranks of a plan, the sessions of an engine), and an op
 * accepts tensors of any backend on its own device. Between two queues only a mark makes an order: see avt_mark().
 *
 * The first failure sticks: later ops do nothing, avt_sync() returns it. So forward passes read as mathematics.
 */
#ifndef AVT_BACKEND_H
#define AVT_BACKEND_H

#include "base/log.h"
#include "base/mem.h"
#include "tensor.h"
#include "tuned.h"

typedef enum OpId {
    OP_COPY, OP_FILL, OP_LINEAR, OP_LINEAR_GROUP, OP_SQUARES, OP_NORM_ROPE, OP_CHANNEL_NORM, OP_LAYER_NORM, OP_ROPE_TABLE, OP_ROPE,
    OP_ATTENTION, OP_CONV3D, OP_CONV1D, OP_UPSAMPLE, OP_ACT, OP_ADD, OP_MUL, OP_AXPY, OP_GATE_ADD, OP_GATHER, OP_LERP_ROWS, OP_LAYER_MIX, OP_TRANSPOSE,
    OP_PATCHIFY, OP_UNPATCHIFY, OP_CHANNELS_LAST, OP_CHANNELS_FIRST, OP_PICTURE, OP_COUNT_NONFINITE, OP_PIXELS,
    OP_QUANTIZE,
    OP_NB
} OpId;

typedef enum Act { ACT_NONE, ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF, ACT_CLAMP } Act;         // clamp: to [-1, 1]

/* What a weight is for decides how a backend stores it. */
typedef enum WeightUse {
    WEIGHT_PLAIN,       // vectors, tables, modulation: f32, row-major
    WEIGHT_LINEAR,      // [N, K]
    WEIGHT_CONV3D,      // [Cout, Cin, kT, kH, kW]
    WEIGHT_CONV1D,      // [Cout, Cin / groups, k]
} WeightUse;

/* A convolution over [T, H, W, C]; the kernel's size is the weight's. */
typedef struct ConvSpec {
    int stride_t, stride;               // time, space
    int pad_t;                          // zero frames in front, besides the cached ones
    int pad0, pad1;                     // zeros: top and left, bottom and right
    int64_t frame;                      // number of the result's first frame in its stream; a matter of bits, see avt_conv3d()
} ConvSpec;

typedef struct Conv1dSpec {
    int stride, groups;
    int pad0, pad1;                     // in front, behind
    int replicate;                      // padding repeats the edge instead of zeros
    Act act;                            // of the result; set by the door
} Conv1dSpec;

/*
 * Positions of one group of tokens, ordered frame, row, column. Along an axis `cnt` positions are spread evenly from
 * `start` to `start + size - 1`, truncated to integers. A negative start frame counts down and turns backwards.
 */
typedef struct RopeGroup {
    int64_t f_start;
    int f_cnt, f_size, h_cnt, h_size, w_cnt, w_size;
} RopeGroup;

#define ROPE_MAX_GROUPS 4
typedef struct RopeGrid {
    RopeGroup group[ROPE_MAX_GROUPS];
    int nb_groups;
    int half;                           // cos and sin rounded to f16, as the original's tables are
} RopeGrid;

typedef enum PixelFormat { PIX_RGB24, PIX_YUV420P, PIX_YUV444P, PIX_NV12, PIX_GBRP, PIX_NB } PixelFormat;

#define OP_MAX_IN  8
#define OP_MAX_OUT 3

typedef struct OpCall {
    OpId op;
    Tensor out;
    Tensor more[OP_MAX_OUT - 1];        // linear_group: results of the products after the first
    union {                             // operands, by number or by name; absent ones are AVT_NONE, so an initializer gives `in`:
                                        // of the bytes behind a shorter member C says nothing, and compilers leave what was there
        Tensor in[OP_MAX_IN];
        Tensor x;                       // in[0]: of every op that has but one input, and of most others
        struct { Tensor x, w, b, gate, res; } linear;
        struct { Tensor x, w[OP_MAX_OUT], b[OP_MAX_OUT]; } group;   // linear_group; no w: no product
        struct { Tensor x, w, table, squares; } norm_rope;
        struct { Tensor x, w, b; } norm;                            // channel_norm (no b), layer_norm
        struct { Tensor x, table; } rope;
        struct { Tensor q, k1, v1, k2, v2, rel; } attention;
        struct { Tensor x, prev, w, b, res; } conv;
        struct { Tensor x, w, b; } conv1d;
        struct { Tensor a, b; } pair;                               // add, mul, axpy
        struct { Tensor x, y, mask; } gate_add;
        struct { Tensor table, ids; } gather;
        struct { Tensor x, i, w; } lerp;
        struct { Tensor x, w; } mix;
        struct { Tensor x, mul, add; } channels;
    };
    union {                             // numbers
        Act act;                                                    // linear, act
        struct { Act act; float eps; int plus; int64_t width; } norm;       // plus: w is added to 1; width: of the whole row
        struct { float scale; } attention;
        struct { float alpha, beta; } axpy;
        ConvSpec conv;
        Conv1dSpec conv1d;
        RopeGrid rope;
        struct { int pt, ph, pw; } patch;
        struct { PixelFormat format; } pixels;
        float value;
    } u;
} OpCall;

typedef struct OpStat {
    int64_t calls;
    double flops, bytes, seconds;       // seconds only while `profile` is set
} OpStat;

/*
 * A place in a backend's queue: all that was submitted to it before. A value, nothing is to be freed; it means something for as long as
 * its backend is open. On CUDA: the number of an event in a ring of them; one that was recorded again since stands for later work of
 * the same queue, so who waits for it waits longer than he must and is right.
 */
typedef struct Mark {
    Backend *be;                        // NULL: passed
    uint64_t at;
} Mark;

typedef struct QueueStat {              // what avt_mark(), avt_wait(), avt_fetch() were asked for
    int64_t marks, waits, fetches;
    int64_t stops;                      // how often the host waited for the queue: avt_sync(), avt_download(), an upload without room
    double fetched, stored;             // bytes
} QueueStat;

typedef struct BackendClass {
    const char *name;
    int host_memory;                                                // tensors lie in the host's memory
    int plain_weights;                                              // linear weights lie row by row, of the tensor's type
    int64_t (*memory_left)(Backend *be);                            // bytes that can be had now; -1: not known
    void *(*alloc)(Backend *be, size_t size);                       // device memory, 64-byte aligned, zeroed; NULL: none left
    void  (*free)(Backend *be, void *p, size_t size);
    void  (*upload)(Backend *be, void *dst, const void *src, size_t size);   // src is read before the call returns
    int   (*download)(Backend *be, void *dst, const void *src, size_t size); // waits for all work before it
    int   (*run)(Backend *be, const OpCall *c);                     // 0 or an error
    int   (*sync)(Backend *be);
    uint64_t (*mark)(Backend *be);                                  // NULL, as wait: work is done when its call returns
    void  (*wait)(Backend *be, Mark m);                             // m: of another queue of this class
    void  (*fetch)(Backend *be, void *dst, const void *src, size_t size);    // an upload that reads src when the queue comes to it
    void  (*store)(Backend *be, void *dst, const void *src, size_t size);    // a download that writes dst when the queue comes to it
    void *(*host_alloc)(Backend *be, size_t size);                  // host memory that fetch reads fast (pinned), 64-byte aligned
    void  (*host_free)(Backend *be, void *p, size_t size);
    int64_t (*workspace)(Backend *be, const OpCall *c);            // bytes that run() wants besides the operands, or an error; their addresses mean nothing
    int   (*workspace_open)(Backend *be, size_t size);             // have so much from now on, and no more
    size_t (*weight_bytes)(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim);
    int   (*weight_put)(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src);  // for dst->act; fills dst->data, sets dtype; codes
                                                                    // (act is one) come as such, their scales have been uploaded
    void  (*close)(Backend *be);
} BackendClass;

/* Highest CPU level to use; AUTO asks the CPU. Plain C is the definition of every op. */
typedef enum CpuLevel { CPU_PLAIN, CPU_ONEDNN, CPU_AVX2, CPU_AVX512, CPU_AMX, CPU_AUTO } CpuLevel;

struct Backend {
    const BackendClass *cls;
    char device[32];                    // "cpu", "guard", "dry", "cuda0": the same text is the same device
    const Log *log;
    int status;                         // first failure, or 0
    DType act;                          // of activations between ops: DT_F32, DT_BF16
    DType product;                      // of what the large products of a network multiply: `act`, or codes (DT_I8, DT_F8_E4M3)
    int threads;                        // CPU: threads of an op that has more
    int64_t grain;                      // numbers than this: what one passes while another, asleep, wakes up; 0: of any op
    CpuLevel level;                     // CPU: highest level in use
    char plan_for[32];                  // dry: the device that it stands for
    int profile;                        // measure seconds per op
    const int *cancel;                  // when it becomes non-zero (another thread's doing), ops fail with ECANCELED; or NULL
    Tuned *tuned;                       // where a device has several ways for a call they are timed once; NULL: the one that its libraries take for best
    size_t workspace_peak;              // most that a call so far has wanted; dry: would want on the device that it stands for
    OpStat stat[OP_NB];
    QueueStat queue;
    void *priv;
};

typedef struct BackendOptions {
    int threads;                        // 0: avt_nb_cores()
    CpuLevel level;
    DType act;                          // of activations; DT_F32 when not said
    DType product;                      // Backend.product; what is no code is `act`
    const char *plan_for;               // dry: the device whose weights, workspace and level are followed, so that the planned bytes
                                        // are the real ones; NULL: cuda0
    Tuned *tuned;                       // Backend.tuned; lives as long as the backend
    int planning;                       // open a device for its facts alone, whether this machine has it or not; it runs nothing
    const Log *log;
} BackendOptions;

typedef enum DeviceKind { DEVICE_NONE, DEVICE_HOST, DEVICE_CUDA } DeviceKind;       // HOST: memory is the host's

/** What the `len` characters at `name` name, whether this build has it or not: cpu, guard; cudaN, N of 1 to 3 digits; nothing. */
DeviceKind avt_device_kind(const char *name, size_t len);

/** Type of activations that a device computes with fastest at a CPU level: bf16 on CUDA and on a CPU with AMX, else f32. */
DType avt_device_act(const char *device, CpuLevel level);

/** Indices N of the GPUs, cudaN, that can be used: *index gets up to `most`. Where the plugin is and there are none, a line of LOG_INFO says
 *  why. @return how many */
int avt_devices_found(int *index, int most, const Log *log);
/** Whether queues of device `name` copy to and from memory of `other`, a device of its class. Of GPUs that were not asked for in this process,
 *  as in a plan on paper: 1. */
int avt_device_reaches(const char *name, const char *other);
/** Bytes of host memory that a queue on a device takes, besides what is planned for it: pinned memory on the way to a GPU. */
size_t avt_device_staging(const char *device);

/**
 * Open a backend by device name: "cpu", "guard" (the CPU backend with unreadable tensors and a late queue; for tests),
 * "dry" (computes nothing, counts everything), "cudaN".
 * @return 0, or ENOSYS when this build or machine has no such device (logged), EINVAL for a name that is none
 */
int  avt_backend_open(Backend **be, const char *device, const BackendOptions *opt);
void avt_backend_close(Backend **be);
int  avt_backend_is_dry(const Backend *be);

/** Workspace of ops, found as workspace_peak on `dry`: allocated at once, and never more. Without this it grows as calls want it.
 *  @return 0 or ENOMEM (logged) */
int avt_workspace_open(Backend *be, size_t size);

/** Make `code` the backend's sticky failure, with a log line. */
void avt_backend_fail(Backend *be, int code, const char *fmt, ...) AVT_PRINTF(3, 4);

/** Used by the door: count the call, run it, keep the failure. */
void avt_backend_run(Backend *be, const OpCall *c);

const char *avt_op_name(OpId op);
/** Does an op give codes of its numbers? A copy moves codes as they are. */
static inline int avt_op_gives_codes(const OpCall *c)
{
    return c->out.scale && c->op != OP_QUANTIZE && c->op != OP_COPY;
}

/** Type of the numbers that a call gives, or that become the codes that it gives. */
static inline DType avt_op_numbers_type(const OpCall *c)
{
    return avt_op_gives_codes(c) ? c->out.act : c->out.dtype;
}

/** Such a call with its numbers at `data`, row-major, of type c->out.act; and the one that then makes codes of them. */
OpCall avt_op_numbers(const OpCall *c, void *data);
OpCall avt_op_codes(const OpCall *c, Tensor numbers);
/** Product i of a call of linear_group, as a call of linear; its out.be is NULL when there is none. */
OpCall avt_op_product(const OpCall *c, int i);
/** Floating-point operations of a call (2 per multiply-add) and bytes it must touch at least. */
void avt_op_cost(const OpCall *c, double *flops, double *bytes);

/* One file each. */
DType avt_cpu_act(CpuLevel level);                                  // avt_device_act() of "cpu"
int avt_backend_cpu_open(Backend *be);
int avt_backend_guard_open(Backend *be);
int avt_backend_dry_open(Backend *be);
int avt_backend_cuda_open(Backend *be);                             // by the plugin, libavatar_cuda.so
int avt_backend_cuda_facts_open(Backend *be);                       // for planning
int avt_cuda_reaches(const char *name, const char *other);          // avt_device_reaches() of GPUs

#endif
