/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LoRA pairs merged on the emulated GPU, straight into a weight's rows: against the host's route, which brings W back and rounds it there.
 * Rows of more than one piece; files in f32, bf16 and f16; weights in f32, bf16 and codes; parts of rows and columns; what is not finite; the
 * memory that it takes.
 */
#include <math.h>

#include "base/half.h"
#include "control.h"
#include "files.h"
#include "files/lora.h"
#include "quantize.h"

#define ALL_MEMORY ((size_t)2 << 30)     // of the device, where it matters

enum { OUT = 600, IN = 48, R = 3 };

static float w[OUT * IN], a[R * IN], b[OUT * R];
static const char module[] = "blocks.0.self_attn.q";

static Lora *opened(double alpha)
{
    const FileTensor t[] = { { "blocks.0.self_attn.q.lora_A.weight", "F32", 2, { R, IN }, a, sizeof(a) },
                             { "blocks.0.self_attn.q.lora_B.weight", "F32", 2, { OUT, R }, b, sizeof(b) } };
    Buf f = st_make(t, 2, NULL, 1);
    Lora *l;

    tmp_open();
    REQUIRE_OK(avt_lora_open(&l, tmp_write("lora.safetensors", f.p, f.n), alpha, test_log()));
    buf_free(&f);
    return l;
}

static void closed(Lora *l)
{
    avt_lora_close(&l);
    tmp_close();
}

/* Rows of w as a file has them, of a part; the part's size into dim */
static void *file_rows(DType dtype, const WeightPart *part, int64_t dim[2])
{
    const int64_t r0 = part && !part->axis ? part->first : 0, c0 = part && part->axis ? part->first : 0;
    char *raw;

    dim[0] = part && !part->axis ? part->nb : OUT;
    dim[1] = part && part->axis ? part->nb : IN;
    raw = malloc((size_t)(dim[0] * dim[1]) * avt_dtype_size(dtype));
    for (int64_t i = 0; i < dim[0] * dim[1]; i++) {
        const float v = w[(r0 + i / dim[1]) * IN + c0 + i % dim[1]];

        if (dtype == DT_F32)
            memcpy(raw + 4 * i, &v, 4);
        else
            memcpy(raw + 2 * i, &(uint16_t){ dtype == DT_BF16 ? avt_f32_bf16(v) : avt_f32_f16(v) }, 2);
    }
    return raw;
}

/* What the host makes of them: merged by plain C, rounded to the file's type if that is bf16. */
static float *merged_on_host(Lora *l, DType dtype, const void *raw, const WeightPart *part, const int64_t dim[2])
{
    const int64_t nb = dim[0] * dim[1];
    float *v = malloc((size_t)nb * sizeof(*v));
    Arena *room;
    TestBench t;

    test_bench_open(&t, "cpu", CPU_PLAIN, 1);
    avt_to_f32(v, dtype, raw, 0, nb);
    REQUIRE_OK(avt_lora_room(&room, l, t.be));
    REQUIRE(avt_lora_merge_part(l, module, room, v, OUT, IN, part, test_log()) == 1);
    for (int64_t i = 0; i < nb && dtype == DT_BF16; i++)
        v[i] = avt_bf16_f32(avt_f32_bf16(v[i]));
    avt_arena_close(&room);
    test_bench_close(&t);
    return v;
}

/* Sums of R products in another order: few numbers then round to the neighbour. */
static void within(const float *got, const float *want, int64_t nb, double rounding)
{
    int others = 0;

    for (int64_t i = 0; i < nb; i++) {
        if (!(fabs(got[i] - want[i]) <= rounding * fabs(want[i]) + 1e-6))
            fail_msg("number %d is %.9g, on the host %.9g", (int)i, got[i], want[i]);
        others += got[i] != want[i];
    }
    if (rounding > 1e-6 && others > nb / 500)
        fail_msg("%d of %d numbers are not those of the host", others, (int)nb);
}

/* The codes are those of the numbers that the same merge leaves in bf16. */
static void compare_codes(Tensor codes, const float *v)
{
    const int64_t rows = codes.dim[0], k = codes.dim[1];
    uint8_t *want = malloc((size_t)(rows * k)), *got = malloc((size_t)(rows * k));
    float *scale = malloc((size_t)rows * sizeof(*scale)), *got_scale = malloc((size_t)rows * sizeof(*scale));

    REQUIRE_OK(avt_quantize_rows(want, scale, codes.dtype, DT_F32, v, rows, k));
    REQUIRE_OK(avt_download(codes.be, got, codes));
    REQUIRE_OK(codes.be->cls->download(codes.be, got_scale, codes.scale, (size_t)rows * sizeof(*scale)));
    assert_memory_equal(got, want, (size_t)(rows * k));
    assert_memory_equal(got_scale, scale, (size_t)rows * sizeof(*scale));
    free(want);
    free(got);
    free(scale);
    free(got_scale);
}

/* A weight for activations of type act, merged where it lies. bad: numbers of its two pieces that are not finite */
static Tensor merged_there(TestBench *t, Lora *l, DType act, DType dtype, const void *raw, const WeightPart *part, const int64_t dim[2], int32_t bad[2])
{
    const Tensor to = avt_weight_put(t->arena, WEIGHT_LINEAR, act, dtype == DT_BF16 ? DT_BF16 : DT_F32, 2, dim, NULL);
    const Tensor count = avt_new(t->arena, DT_I32, 2);
    const int64_t stops = t->be->queue.stops;
    Arena *room;

    REQUIRE(avt_lora_can_place(t->be, dtype) && avt_lora_pieces(dim[0]) == (dim[0] > 512 ? 2 : 1));
    REQUIRE_OK(avt_lora_room(&room, l, t->be));
    REQUIRE(avt_lora_place(l, module, room, to, &(LoraRows){ dtype, raw, OUT, IN, part }, count, test_log()) == 1);
    assert_int_equal(t->be->queue.stops, stops);
    REQUIRE_OK(avt_download(t->be, bad, count));
    avt_arena_close(&room);
    return avt_weight_rows(to);
}

/* The same of what is all finite. */
static Tensor finite_there(TestBench *t, Lora *l, DType act, DType dtype, const void *raw, const WeightPart *part, const int64_t dim[2])
{
    int32_t bad[2];
    const Tensor w = merged_there(t, l, act, dtype, raw, part, dim, bad);

    REQUIRE(!bad[0] && (dim[0] <= 512 || !bad[1]));
    return w;
}

static void check(DType dtype, const WeightPart *part)
{
    Lora *l = opened(0);
    int64_t dim[2];
    void *raw = file_rows(dtype, part, dim);
    float *want = merged_on_host(l, dtype, raw, part, dim), *got;
    TestBench t;

    test_bench_open_act(&t, "cuda0", CPU_AUTO, 1, DT_BF16);
    got = test_read(&t, finite_there(&t, l, DT_F32, dtype, raw, part, dim));
    within(got, want, dim[0] * dim[1], dtype == DT_BF16 ? 0x1p-7 : 1e-6);
    for (int i = 0; i < 2; i++)
        compare_codes(finite_there(&t, l, i ? DT_I8 : DT_F8_E4M3, dtype, raw, part, dim), got);
    free(got);
    got = test_read(&t, finite_there(&t, l, DT_BF16, dtype, raw, part, dim));
    for (int64_t i = 0; i < dim[0] * dim[1]; i++)
        want[i] = avt_bf16_f32(avt_f32_bf16(want[i]));
    within(got, want, dim[0] * dim[1], 0x1p-7);
    test_bench_close(&t);
    free(got);
    free(want);
    free(raw);
    closed(l);
}

static void types_and_parts(void **state)
{
    const WeightPart part[] = { { 0, 0, 520 }, { 0, 520, OUT - 520 }, { 1, 0, 16 }, { 1, 16, IN - 16 } };

    (void)state;
    check(DT_F32, NULL);
    check(DT_BF16, NULL);
    check(DT_F16, NULL);
    for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++)
        check(DT_BF16, &part[i]);
}

/* Sums beyond f32, a row of them in the second piece: they are counted, of a part as well. */
static void not_finite(void **state)
{
    const WeightPart columns = { 1, 16, IN - 16 };
    const float kept = b[(OUT - 1) * R];
    int64_t dim[2];
    int32_t bad[2];
    void *raw;
    TestBench t;
    Lora *l;

    (void)state;
    b[(OUT - 1) * R] = 3e10f;
    l = opened(1e30);
    test_bench_open_act(&t, "cuda0", CPU_AUTO, 1, DT_BF16);
    for (int part = 0; part < 2; part++) {
        raw = file_rows(DT_BF16, part ? &columns : NULL, dim);
        merged_there(&t, l, DT_BF16, DT_BF16, raw, part ? &columns : NULL, dim, bad);
        REQUIRE(!bad[0] && bad[1] > 0 && bad[1] <= dim[1]);
        free(raw);
    }
    test_bench_close(&t);
    closed(l);
    b[(OUT - 1) * R] = kept;
}

static void set_memory(size_t size)
{
    char text[32];

    snprintf(text, sizeof(text), "%zu", size);
    REQUIRE_OK(simt_set("MEMORY", text));
}

/* Merging on a device that has so much left */
static int merge_within(Lora *l, const void *raw, size_t left)
{
    const int64_t dim[2] = { OUT, IN };
    TestBench t;
    Tensor to, bad;
    Arena *room;
    int ret;

    set_memory(ALL_MEMORY);
    test_bench_open_act(&t, "cuda0", CPU_AUTO, 1, DT_BF16);
    t.be->log = test_log();
    to = avt_weight_put(t.arena, WEIGHT_LINEAR, DT_BF16, DT_BF16, 2, dim, NULL);
    bad = avt_new(t.arena, DT_I32, 2);
    set_memory(ALL_MEMORY - (size_t)t.be->cls->memory_left(t.be) + left);
    ret = avt_lora_room(&room, l, t.be);
    if (ret >= 0)
        ret = avt_lora_place(l, module, room, to, &(LoraRows){ DT_BF16, raw, OUT, IN, NULL }, bad, test_log());
    avt_arena_close(&room);
    set_memory(ALL_MEMORY);
    avt_reset(t.be);
    test_bench_close(&t);
    return ret;
}

/* What the plan counts is what merging takes of the device, within pages. */
static void memory(void **state)
{
    const BackendOptions opt = { .threads = 1, .act = DT_BF16, .plan_for = "cuda0", .log = test_log() };
    Lora *l = opened(0);
    int64_t dim[2];
    void *raw = file_rows(DT_BF16, NULL, dim);
    size_t planned;
    Backend *dry;

    (void)state;
    REQUIRE_OK(avt_backend_open(&dry, "dry", &opt));
    REQUIRE_OK(avt_lora_bytes(l, dry, &planned));
    REQUIRE(merge_within(l, raw, planned + (16 << 10)) == 1);
    REQUIRE(merge_within(l, raw, planned - planned / 8) == AVT_ERR(ENOMEM));
    require_said("cuda0", "no");
    avt_backend_close(&dry);
    free(raw);
    closed(l);
}

/* Elsewhere weights are in an order of their own. */
static void on_a_cpu(void **state)
{
    TestBench t;
    Tensor to;

    (void)state;
    test_bench_open(&t, "cpu", CPU_AUTO, 1);
    to = test_weight(&t, WEIGHT_LINEAR, w, 2, (const int64_t[]){ OUT, IN });
    REQUIRE(!avt_weight_rows(to).be && !avt_lora_can_place(t.be, DT_F32));
    test_bench_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(types_and_parts), cmocka_unit_test(not_finite), cmocka_unit_test(memory), cmocka_unit_test(on_a_cpu) };

    test_random(w, OUT * IN, 1);
    test_random(a, R * IN, 2);
    test_random(b, OUT * R, 3);
    return test_main("lora", tests);
}
