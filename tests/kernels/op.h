/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One case of an op, run every way that this machine has:
 *
 *   plain C, 1 thread     against a reference in f64, written in the test
 *   plain C, 2, 3 threads the same bits
 *   each faster level     whose table entry is not plain C, against plain C within avt_op_tolerance()
 *
 * Then again with bf16 activations and weights (the result and TEST_ACT operands), and with f32 operands and a bf16 result: plain C
 * gives exactly what the f32 op gives of the rounded numbers, rounded once; faster levels stay within avt_op_tolerance().
 *
 * With --device NAME (cuda0) that device takes the place of the faster levels and threads: against plain C within avt_op_tolerance(),
 * twice with the same bits, and once more with the result at an odd address. With --sample each case runs once on it: in one of its
 * types, at one of the two addresses, as its number says; for devices that take a second for what others do in a microsecond.
 *
 * The result lies in the middle of a larger tensor whose rest must stay untouched. A spy in front of the backend's table
 * proves that the op under test ran, how often, and keeps its OpCall. With --bench, cases marked `bench` are timed instead.
 */
#ifndef AVT_TESTS_OP_H
#define AVT_TESTS_OP_H

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "cpu/cpu.h"
#include "test.h"

enum { GUARD = 64 };                            // elements on each side
static int64_t op_first = GUARD;                // where the result begins

typedef struct OpCase {
    const char *name;
    OpId op;
    DType dtype;                                // of the result
    DType codes;                                // product of codes: their type; else 0
    int nd;
    int64_t dim[TENSOR_MAX_DIM];                // of the result
    void (*run)(TestBench *t, Tensor out, const void *arg);         // put the operands, call the op once
    const void *arg;
    const double *ref;                          // expected values (f32 results), or NULL: the caller compares `plain`
    double tol;                                 // plain C against ref, relative to the largest magnitude
    int bench;                                  // big enough to be worth timing
    unsigned modes;                             // bits MODE_..: left out
    void *plain;                                // out: malloc'd result of plain C, when not NULL: pointer to it
} OpCase;

/* What is bf16: nothing, operands and result, the result alone, operands alone */
typedef enum Mode { MODE_F32, MODE_BF16, MODE_OUT, MODE_IN, MODE_NB } Mode;
enum { ONE_TYPE = 1 << MODE_OUT | 1 << MODE_IN, F32_ALONE = ONE_TYPE | 1 << MODE_BF16 };      // OpCase.modes
static const char *const mode_name[MODE_NB] = { "f32", "bf16", "to bf16", "from bf16" };

static int op_bench_mode;
static const char *op_device;                   // of --device
static int op_sample, op_cases;                 // --sample; cases so far

/* What the run has seen of each level, the device last; printed at the end. */
static const char *op_level_name[] = { "plain", "onednn", "avx2", "avx512", "amx", "the best" };
static struct {
    int nb;                                     // cases that this level computed with code of its own
    int nb_differ;                              // of these, cases whose bits depend on the number of threads
    double max_abs, rel_l2, share;              // the worst: share of what is allowed
    char name[160];                             // and its case
} op_seen[CPU_AUTO + 1];

/* At CPU_AUTO the best that there is: the device of --device, or the CPU's. */
static inline void op_open(TestBench *t, CpuLevel level, int threads, DType act)
{
    test_bench_open_act(t, op_device && level == CPU_AUTO ? op_device : "cpu", level, threads, act);
}

/* ---- the spy -------------------------------------------------------------------------------------------------- */

static struct {
    BackendClass cls;
    const BackendClass *real;
    OpId op;
    OpCall last;
    int nb;
} op_spy;

static inline int op_spy_run(Backend *be, const OpCall *c)
{
    if (c->op == op_spy.op) {
        op_spy.last = *c;
        op_spy.nb++;
    }
    return op_spy.real->run(be, c);
}

static inline void op_spy_start(Backend *be, OpId op)
{
    op_spy.real = be->cls;
    op_spy.cls = *be->cls;
    op_spy.cls.run = op_spy_run;
    op_spy.op = op;
    op_spy.nb = 0;
    be->cls = &op_spy.cls;
}

/* ---- values --------------------------------------------------------------------------------------------------- */

typedef enum Values { ZERO, TINY, LARGE, RANDOM, NB_VALUES } Values;
static const char *const values_name[NB_VALUES] = { "zero", "tiny", "large", "random" };

/* malloc'd; `large` leaves room for squares and sums in f32 */
static inline float *op_values(int64_t nb, Values kind, uint64_t seed)
{
    static const float scale[NB_VALUES] = { 0, 1e-12f, 1e12f, 1 };
    float *v = malloc((size_t)(nb + 1) * sizeof(*v));

    test_random(v, nb, seed);
    for (int64_t i = 0; i < nb; i++)
        v[i] *= scale[kind];
    return v;
}

/* ---- running -------------------------------------------------------------------------------------------------- */

static inline int64_t op_numel(const OpCase *c)
{
    int64_t n = 1;

    for (int i = 0; i < c->nd; i++)
        n *= c->dim[i];
    return n;
}

static inline int op_in_bf16(Mode mode)
{
    return mode == MODE_BF16 || mode == MODE_IN;
}

static inline int op_out_bf16(Mode mode)
{
    return mode == MODE_BF16 || mode == MODE_OUT;
}

static inline DType op_dtype(const OpCase *c, Mode mode)
{
    return c->dtype == DT_F32 && op_out_bf16(mode) ? DT_BF16 : c->dtype;
}

/* Whose code runs the op at `level`: the table says so. */
static inline CpuLevel op_level(TestBench *t, const OpCase *c, Mode mode)
{
    const OpId op = c->op;
    const Cpu *cpu = t->be->priv;
    const char *name;

    if (strcmp(t->be->device, "cpu"))
        return CPU_AUTO;
    name = c->codes == DT_I8 ? cpu->level8 : c->codes && cpu->level16[op] ? cpu->level16[op] : mode && cpu->level16[op] ? cpu->level16[op] : cpu->level[op];
    for (CpuLevel i = CPU_PLAIN; i < CPU_AUTO; i++)
        if (!strcmp(name, op_level_name[i]))
            return i;
    fail_msg("%s has the unknown level '%s'", avt_op_name(op), name);
    return CPU_PLAIN;
}

/* The op once at `level`; malloc'd bytes of the result. *used: the level whose code ran. like: numbers that this mode's types have. */
static inline void *op_once_of(const OpCase *c, CpuLevel level, int threads, Mode mode, Mode like, CpuLevel *used, float *tolerance)
{
    const int64_t nb = op_numel(c), all = nb + 2 * GUARD;
    const DType dtype = op_dtype(c, mode);
    const size_t size = avt_dtype_size(dtype);
    uint8_t *bytes = malloc((size_t)all * size + 1);
    TestBench t;
    Tensor whole, out;

    op_open(&t, level, threads, mode ? DT_BF16 : DT_F32);
    t.act = op_in_bf16(mode) ? DT_BF16 : DT_F32;
    t.rounded = op_in_bf16(like);
    t.rounded_out = op_out_bf16(like);
    *used = op_level(&t, c, mode);
    for (size_t i = 0; i < (size_t)all * size; i++)
        bytes[i] = (uint8_t)(0xa5 ^ i * 7);
    whole = avt_new(t.arena, dtype, all);
    avt_upload(t.be, whole, bytes);
    out = avt_reshape(avt_rows(whole, op_first, nb), c->nd, c->dim);
    op_spy_start(t.be, c->op);
    c->run(&t, out, c->arg);
    t.be->cls = op_spy.real;
    REQUIRE_OK(avt_download(t.be, bytes, whole));
    assert_int_equal(op_spy.nb, 1);
    *tolerance = avt_op_tolerance(&op_spy.last);
    assert_int_equal(t.be->cls->workspace(t.be, &op_spy.last), (int64_t)t.be->workspace_peak);       // what is planned is what is used
    for (size_t i = 0; i < (size_t)all * size; i++)
        if (i < (size_t)op_first * size || i >= (size_t)(op_first + nb) * size)
            assert_int_equal(bytes[i], (uint8_t)(0xa5 ^ i * 7));
    memmove(bytes, bytes + (size_t)op_first * size, (size_t)nb * size);
    test_bench_close(&t);
    return bytes;
}

static inline void *op_once(const OpCase *c, CpuLevel level, int threads, Mode mode, CpuLevel *used, float *tolerance)
{
    return op_once_of(c, level, threads, mode, mode, used, tolerance);
}

static inline double op_top(const double *v, int64_t nb)
{
    double top = 0;

    for (int64_t i = 0; i < nb; i++)
        top = fabs(v[i]) > top ? fabs(v[i]) : top;
    return top;
}

static inline void op_note(CpuLevel level, const char *name, double max_abs, double rel_l2, double share)
{
    op_seen[level].nb++;
    if (share < op_seen[level].share)
        return;
    op_seen[level].max_abs = max_abs;
    op_seen[level].rel_l2 = rel_l2;
    op_seen[level].share = share;
    snprintf(op_seen[level].name, sizeof(op_seen[level].name), "%s", name);
}

/* max-abs relative to the largest magnitude of b, and relative L2, both at most tol; zero against zero is fine */
static inline void op_compare(const char *name, CpuLevel level, const float *a, const double *b, int64_t nb, double tol)
{
    const double top = op_top(b, nb), unit = top > 0 ? top : 1;
    double max = 0, diff = 0, sum = 0;

    for (int64_t i = 0; i < nb; i++) {
        const double d = fabs(a[i] - b[i]) / unit;

        if (!(d <= max))
            max = d;
        diff += d * d;
        sum += b[i] / unit * (b[i] / unit);
    }
    diff = sqrt(diff / (sum > 0 ? sum : 1));
    if (!(max <= tol) || !(diff <= tol)) {
        print_error("%s, %s: max-abs %.3g of %.3g, relative L2 %.3g, allowed %.2g\n", name,
                    op_level_name[level], max * top, top, diff, tol);
        fail();
    }
    op_note(level, name, max * top, diff, fmax(max, diff) / tol);
}

/* Only plain C promises the same bits; of the others it is good to know. */
static inline void op_note_threads(const OpCase *c, CpuLevel level, Mode mode, const void *two)
{
    const size_t size = (size_t)op_numel(c) * avt_dtype_size(op_dtype(c, mode));
    int differ = 0;

    for (int threads = 1; threads <= 3; threads += 2) {
        CpuLevel used;
        float tol;
        void *again = op_once(c, level, threads, mode, &used, &tol);

        differ |= !!memcmp(again, two, size);
        free(again);
    }
    op_seen[level].nb_differ += differ;
}

/* malloc'd: a result of f32 or bf16 in f32 */
static inline float *op_floats(const OpCase *c, Mode mode, const void *result)
{
    const int64_t nb = op_numel(c);
    float *v = malloc((size_t)(nb + 1) * sizeof(*v));

    for (int64_t i = 0; i < nb; i++)
        v[i] = op_dtype(c, mode) == DT_BF16 ? avt_bf16_f32(((const uint16_t *)result)[i]) : ((const float *)result)[i];
    return v;
}

static inline void op_compare_floats(const OpCase *c, CpuLevel level, Mode mode, const void *fast, const void *plain, float tol)
{
    const int64_t nb = op_numel(c);
    double *want = malloc((size_t)(nb + 1) * sizeof(*want));
    float *a = op_floats(c, mode, fast), *b = op_floats(c, mode, plain);
    char name[160];

    for (int64_t i = 0; i < nb; i++)
        want[i] = b[i];
    snprintf(name, sizeof(name), "%s, %s", c->name, mode_name[mode]);
    op_compare(name, level, a, want, nb, tol);
    free(want);
    free(a);
    free(b);
}

/* Within the op's tolerance; bits, where that is 0; bytes within one level */
static inline void op_compare_result(const OpCase *c, CpuLevel level, Mode mode, const void *fast, const void *plain, float tol)
{
    const int64_t nb = op_numel(c);

    if (c->dtype == DT_F32 && tol > 0) {
        op_compare_floats(c, level, mode, fast, plain, tol);
    } else if (c->op == OP_PIXELS) {
        for (int64_t i = 0; i < nb; i++)
            assert_in_range(((const uint8_t *)fast)[i] + 1 - ((const uint8_t *)plain)[i], 0, 2);
        op_note(level, c->name, 1, 0, 0);
    } else {
        assert_memory_equal(fast, plain, (size_t)nb * avt_dtype_size(op_dtype(c, mode)));
        op_note(level, c->name, 0, 0, 0);
    }
}

static inline void op_compare_level(const OpCase *c, CpuLevel level, Mode mode, const void *plain)
{
    float tol;
    CpuLevel used;
    void *fast = op_once(c, level, 2, mode, &used, &tol);

    if (used == level) {
        op_compare_result(c, level, mode, fast, plain, tol);
        op_note_threads(c, level, mode, fast);
    }
    free(fast);
}

/* With the result `odd` elements before GUARD. Returns it, malloc'd. */
static inline void *op_device_once(const OpCase *c, Mode mode, int odd, const void *plain)
{
    CpuLevel used;
    float tol;
    void *got;

    op_first = GUARD - odd;
    got = op_once(c, CPU_AUTO, 1, mode, &used, &tol);
    op_first = GUARD;
    op_compare_result(c, CPU_AUTO, mode, got, plain, tol);
    return got;
}

/* A device gives the same bits each time; a result may begin at any element, where wide accesses are not possible. */
static inline void op_compare_device(const OpCase *c, Mode mode, const void *plain)
{
    void *once, *twice;

    if (op_sample) {
        free(op_device_once(c, mode, op_cases / MODE_NB % 2, plain));
        return;
    }
    once = op_device_once(c, mode, 0, plain);
    twice = op_device_once(c, mode, 0, plain);
    assert_memory_equal(once, twice, (size_t)op_numel(c) * avt_dtype_size(op_dtype(c, mode)));
    free(once);
    free(twice);
    free(op_device_once(c, mode, 1, plain));
}

/* Seconds of one call, the best of several. */
static inline void op_time(const OpCase *c, Mode mode)
{
    CpuLevel last = CPU_AUTO;

    for (CpuLevel level = op_device ? CPU_AUTO : CPU_PLAIN; level <= (op_device ? CPU_AUTO : CPU_AMX); level++) {
        const int64_t dim[1] = { op_numel(c) };
        double best = 1e9, spent = 0;
        const OpStat *s;
        TestBench t;
        Tensor out;

        op_open(&t, level, 0, mode ? DT_BF16 : DT_F32);
        t.be->profile = 1;
        if (!op_device && op_level(&t, c, mode) == last)
            spent = 1;                          // the same code again
        last = op_level(&t, c, mode);
        out = avt_reshape(avt_new_dims(t.arena, op_dtype(c, mode), 1, dim), c->nd, c->dim);
        s = &t.be->stat[c->op];
        while (spent < 0.5) {
            const size_t mark = avt_arena_mark(t.arena);
            const double before = s->seconds;

            c->run(&t, out, c->arg);
            REQUIRE_OK(avt_sync(t.be));
            best = s->seconds - before < best ? s->seconds - before : best;
            spent += s->seconds - before + 1e-3;
            avt_arena_release(t.arena, mark);
        }
        if (s->calls)
            print_message("  %-40s %-4s %-8s %10.3f ms %8.1f GFLOP/s %8.1f GB/s\n", c->name, mode_name[mode], op_level_name[last],
                          1e3 * best, s->flops / (double)s->calls / best * 1e-9, s->bytes / (double)s->calls / best * 1e-9);
        test_bench_close(&t);
    }
}

/* bf16 on plain C: what f32 gives of the same numbers, rounded once */
static inline void op_check_definition(const OpCase *c, Mode mode, const void *plain)
{
    CpuLevel used;
    float tol;
    void *wide = op_once_of(c, CPU_PLAIN, 1, MODE_F32, mode, &used, &tol);

    if (c->dtype != DT_F32)
        assert_memory_equal(plain, wide, (size_t)op_numel(c) * avt_dtype_size(c->dtype));
    for (int64_t i = 0; i < op_numel(c) && c->dtype == DT_F32; i++) {
        if (op_dtype(c, mode) == DT_BF16)
            assert_int_equal(((const uint16_t *)plain)[i], avt_f32_bf16(((const float *)wide)[i]));
        else
            assert_memory_equal((const float *)plain + i, (const float *)wide + i, sizeof(float));
    }
    free(wide);
}

static inline int op_has_mode(const OpCase *c, Mode mode)
{
    return !(c->modes >> mode & 1) && (mode <= MODE_BF16 || c->dtype == DT_F32);
}

/* Does this case run in a mode? Of a sample in one that it has, its number says which; in f32 if its result is wanted. */
static inline int op_wants_mode(const OpCase *c, Mode mode)
{
    int has = 0, before = 0;

    for (Mode m = MODE_F32; m < MODE_NB; m++) {
        has += op_has_mode(c, m);
        before += m < mode && op_has_mode(c, m);
    }
    return op_has_mode(c, mode) && (!op_sample || before == (c->plain ? 0 : op_cases % has));
}

static inline void *op_check_mode(const OpCase *c, Mode mode)
{
    const size_t size = (size_t)op_numel(c) * avt_dtype_size(op_dtype(c, mode));
    CpuLevel used;
    float tol;
    void *plain = op_once(c, CPU_PLAIN, 1, mode, &used, &tol);

    assert_int_equal(used, CPU_PLAIN);
    if (c->ref && !mode)
        op_compare(c->name, CPU_PLAIN, plain, c->ref, op_numel(c), c->tol);
    if (mode)
        op_check_definition(c, mode, plain);
    if (op_device) {
        op_compare_device(c, mode, plain);
        return plain;
    }
    for (int threads = 2; threads <= 3; threads++) {
        void *again = op_once(c, CPU_PLAIN, threads, mode, &used, &tol);

        assert_memory_equal(again, plain, size);
        free(again);
    }
    for (CpuLevel level = CPU_ONEDNN; level < CPU_AUTO; level++)
        op_compare_level(c, level, mode, plain);
    return plain;
}

/* Everything above, for one case. Returns nothing: a difference fails the test. */
static inline void op_check(const OpCase *c)
{
    void *plain;

    if (op_bench_mode) {
        if (c->bench)
            op_time(c, MODE_F32);
        if (c->bench && op_has_mode(c, MODE_BF16))
            op_time(c, MODE_BF16);
        return;
    }
    for (Mode mode = MODE_F32; mode < MODE_NB; mode++) {
        if (!op_wants_mode(c, mode))
            continue;
        plain = op_check_mode(c, mode);
        if (mode == MODE_F32 && c->plain)
            memcpy(c->plain, plain, (size_t)op_numel(c) * avt_dtype_size(c->dtype));
        free(plain);
    }
    op_cases++;
}

/* ---- caller's mistakes ---------------------------------------------------------------------------------------- */

/* After a refused call: EINVAL, and the message begins with the op's name. Then the backend is usable again. */
static inline void op_refused(TestBench *t, OpId op)
{
    const char *name = avt_op_name(op);

    assert_int_equal(avt_sync(t->be), AVT_ERR(EINVAL));
    if (strncmp(test_log_text(), name, strlen(name)))
        fail_msg("the message for %s is '%s'", name, test_log_text());
    avt_reset(t->be);
    t->be->log = test_log();
}

static inline void op_refuser_open(TestBench *t)
{
    test_bench_open(t, "cpu", CPU_PLAIN, 1);
    t->be->log = test_log();
}

static inline void op_report(const char *name)
{
    for (int i = 0; i < CPU_AUTO && !op_device; i++)
        if (!avt_cpu_has((CpuLevel)i))
            print_message("%s, %s: skipped, this CPU or build has no such level\n", name, op_level_name[i]);
    for (int i = 0; i <= CPU_AUTO && !op_bench_mode; i++)
        if (op_seen[i].nb)
            print_message("%s, %s: %d cases, %d whose bits depend on the threads; worst: max-abs %.2e, relative L2 %.2e, "
                          "%.0f%% of what is allowed (%s)\n", name, op_level_name[i], op_seen[i].nb, op_seen[i].nb_differ,
                          op_seen[i].max_abs, op_seen[i].rel_l2, 100 * op_seen[i].share, op_seen[i].name);
}

static inline int op_main_group(int argc, char **argv, const char *name, const struct CMUnitTest *tests, size_t nb)
{
    int ret;

    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--bench"))
            op_bench_mode = 1;
        else if (!strcmp(argv[i], "--sample"))
            op_sample = 1;
        else if (!strcmp(argv[i], "--device") && i + 1 < argc)
            op_level_name[CPU_AUTO] = op_device = argv[++i];
    ret = test_main_group(name, tests, nb);
    op_report(name);
    return ret;
}
#define op_main(argc, argv, name, tests) op_main_group(argc, argv, name, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
