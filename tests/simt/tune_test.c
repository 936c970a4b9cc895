/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Contests of the libraries' ways to multiply, on the emulated GPU, whose clock is told how long each way takes (SIMT_PACE): the fastest is taken
 * and kept, nothing is timed again, what is kept and is of no use is found anew, and whoever wins, the numbers are right.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "engine/tuning.h"
#include "files.h"

enum { M = 512, N = 544, K = 512 };             // more than the least that is worth a contest

typedef enum Form { PLAIN, GELU, IN_PLACE, CODES, NB_FORMS } Form;      // IN_PLACE: res + gate * (..) over res, in f32

typedef struct Numbers {
    float x[M * K], w[N * K], b[N], gate[N], res[M * N], right[M * N], out[M * N];
} Numbers;

static Numbers n[1];
static double largest;                          // of the right results

/* A table for calls that the bed computes in no time */
static Tuned *table(void)
{
    Tuned *t = avt_tuned_open();

    t->least = 0x1p28;
    return t;
}

static void draw(void)
{
    test_random(n->x, M * K, 1);
    test_random(n->w, N * K, 2);
    test_random(n->b, N, 3);
    test_random(n->gate, N, 4);
    test_random(n->res, M * N, 5);
}

/* What the device has computed in a form, into `out`; products: how often a library multiplied. */
static void multiply(float *out, const char *device, Tuned *tuned, Form form, uint64_t *products)
{
    const BackendOptions opt = { .threads = 1, .act = DT_BF16, .tuned = tuned, .log = test_log_at(LOG_DEBUG) };
    TestBench t = { .act = DT_BF16, .rounded = 1 };
    const DType type = form == CODES ? DT_I8 : DT_BF16;
    Linear l;
    Tensor x, y;
    float *got;
    uint64_t before;

    REQUIRE_OK(avt_backend_open(&t.be, device, &opt));
    REQUIRE_OK(avt_arena_open(&t.arena, t.be, "test", 32 << 20));
    x = TEST_ACT(&t, n->x, M, K);
    t.act = type;
    l.w = test_weight(&t, WEIGHT_LINEAR, n->w, 2, (int64_t[]){ N, K });
    l.b = TEST_TENSOR(&t, n->b, N);
    y = form == IN_PLACE ? TEST_TENSOR(&t, n->res, M, N) : avt_new(t.arena, DT_BF16, M, N);
    if (form == CODES)
        x = avt_factor(t.be, t.arena, &l, x);
    before = simt_stats()->products;
    if (form == IN_PLACE)
        avt_linear_add(t.be, y, y, x, &l, TEST_TENSOR(&t, n->gate, N));
    else
        avt_linear(t.be, y, x, &l, form == GELU ? ACT_GELU_TANH : ACT_NONE);
    REQUIRE_OK(avt_sync(t.be));
    if (products)
        *products = simt_stats()->products - before;
    got = test_read(&t, y);
    memcpy(out, got, sizeof(n->out));
    free(got);
    test_bench_close(&t);
}

static void find_right(Form form)
{
    multiply(n->right, "cpu", NULL, form, NULL);
    largest = 0;
    for (int i = 0; i < M * N; i++)
        largest = fabs(n->right[i]) > largest ? fabs(n->right[i]) : largest;
}

/* Within what sums in any order and one rounding of the result leave. */
static void compare(void)
{
    for (int i = 0; i < M * N; i++)
        if (!(fabs(n->out[i] - n->right[i]) <= largest * (2e-6 * sqrt(K) + 0x1p-8)))
            fail_msg("element %d is %g, not %g", i, n->out[i], n->right[i]);
}

static const char *only_choice(const Tuned *t)
{
    REQUIRE(t->first && !t->first->next);
    return t->first->choice;
}

/* From now on one way is fast: cuDNN's is its engine 7 where the heuristics are asked, and 2. */
static const char *make_fast(int way)
{
    static const char *const name[] = { "cuBLASLt 0", "cuBLASLt 1", "cuBLASLt 2", "cuDNN", "cuDNN 2" };
    char pace[128];

    snprintf(pace, sizeof(pace), "cuBLASLt 0=%d,cuBLASLt 1=%d,cuBLASLt 2=%d,cuDNN 7=%d,cuDNN 2=%d", way == 0 ? 1 : 99, way == 1 ? 1 : 99,
             way == 2 ? 1 : 99, way == 3 ? 1 : 99, way == 4 ? 1 : 99);
    REQUIRE_OK(simt_set("PACE", pace));
    return name[way];
}

static void contest(Form form, int way)
{
    const char *const fast = make_fast(way);
    Tuned *t = table();
    uint64_t products;

    multiply(n->out, "cuda0", t, form, &products);
    REQUIRE(products > 10);
    if (strcmp(only_choice(t), fast))
        fail_msg("form %d: %s was chosen, not %s:\n%s", form, only_choice(t), fast, test_log_text());
    compare();
    avt_tuned_close(&t);
}

/* Each way is made the fastest in turn, and of each form some. */
static void fastest(void **state)
{
    (void)state;
    find_right(PLAIN);
    for (int way = 0; way < 5; way++)
        contest(PLAIN, way);
    find_right(GELU);
    contest(GELU, 4);
    find_right(IN_PLACE);
    contest(IN_PLACE, 2);
    contest(IN_PLACE, 3);
    find_right(CODES);
    contest(CODES, 3);
}

/* Hardly faster is not enough to leave the libraries' own choice. */
static void nearly_as_fast(void **state)
{
    Tuned *t = table();

    (void)state;
    REQUIRE_OK(simt_set("PACE", "cuBLASLt 0=1000,cuBLASLt 1=980,cuBLASLt 2=2000,cuDNN 7=990,cuDNN 2=2000"));
    multiply(n->out, "cuda0", t, PLAIN, NULL);
    REQUIRE(!strcmp(only_choice(t), "cuBLASLt 0"));
    REQUIRE(strstr(t->first->device, "sm_90, driver for CUDA 13.0, cuBLASLt") && !strcmp(t->first->shape, "linear 512x544x512 bf16 bf16 bias"));
    avt_tuned_close(&t);
}

/* By way of the file: the other run multiplies once, in the same way, whatever is fast by then; the same bits. */
static void kept(void **state)
{
    Tuned *t = table();
    float *first = malloc(sizeof(n->out));
    uint64_t products;

    (void)state;
    tmp_open();
    make_fast(2);
    multiply(first, "cuda0", t, PLAIN, NULL);
    REQUIRE_OK(avt_tuning_write(t, tmp_dir, test_log()));
    avt_tuned_close(&t);
    make_fast(3);
    t = table();
    avt_tuning_read(t, tmp_dir, test_log());
    multiply(n->out, "cuda0", t, PLAIN, &products);
    REQUIRE(products == 1 && !t->found && !strcmp(only_choice(t), "cuBLASLt 2"));
    REQUIRE(!memcmp(first, n->out, sizeof(n->out)));
    avt_tuned_close(&t);
    free(first);
    tmp_close();
}

/* A choice that this card or version has not is none. */
static void of_no_use(void **state)
{
    static const char *const choice[] = { "cuBLASLt 3", "abacus 7", "" };
    Tuned *t = table();

    (void)state;
    find_right(PLAIN);
    make_fast(1);
    multiply(n->out, "cuda0", t, PLAIN, NULL);
    for (size_t i = 0; i < sizeof(choice) / sizeof(choice[0]); i++) {
        snprintf(t->first->choice, TUNED_CHOICE, "%s", choice[i]);
        multiply(n->out, "cuda0", t, PLAIN, NULL);
        REQUIRE(!strcmp(only_choice(t), "cuBLASLt 1"));
        compare();
    }
    avt_tuned_close(&t);
}

/* [32, 64] of the first rows and columns, without a bias, by a device; fail: what happens then, or NULL */
static float *small_product(const char *device, const char *fail)
{
    TestBench t;
    Linear l = { .b = AVT_NONE };
    Tensor y;
    float *got;

    test_bench_open_act(&t, device, CPU_AUTO, 1, DT_BF16);
    t.be->log = test_log();
    l.w = test_weight(&t, WEIGHT_LINEAR, n->w, 2, (int64_t[]){ 64, 64 });
    y = avt_new(t.arena, DT_F32, 32, 64);
    if (fail)
        REQUIRE_OK(simt_set("FAIL", fail));
    avt_linear(t.be, y, TEST_ACT(&t, n->x, 32, 64), &l, ACT_NONE);
    REQUIRE_OK(avt_sync(t.be));
    got = test_read(&t, y);
    test_bench_close(&t);
    return got;
}

/* What the library's list has and the library does not run: one of the products that the backend asks for when it opens, or one that counts. */
static void refused_when_run(void **state)
{
    static const char *const while_opening[] = { "product:0", "product:1", NULL };
    float *right = small_product("cpu", NULL);

    (void)state;
    for (int i = 0; i < 3; i++) {
        float *got;

        if (while_opening[i])
            REQUIRE_OK(simt_set("FAIL", while_opening[i]));
        got = small_product("cuda0", while_opening[i] ? NULL : "product:0");
        assert_int_equal(strstr(test_log_text(), "our own is used, which is slow") != NULL, !while_opening[i]);
        for (int k = 0; k < 32 * 64; k++)
            REQUIRE(fabs(got[k] - right[k]) <= 1e-4);
        free(got);
    }
    simt_clear();
    free(right);
}

/* Without a table: the libraries' first way, nothing is timed. */
static void without(void **state)
{
    uint64_t products;

    (void)state;
    make_fast(4);
    for (Form form = 0; form < NB_FORMS; form++) {
        find_right(form);
        multiply(n->out, "cuda0", NULL, form, &products);
        REQUIRE(products == 1);
        compare();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(fastest), cmocka_unit_test(nearly_as_fast), cmocka_unit_test(kept), cmocka_unit_test(of_no_use),
                                        cmocka_unit_test(refused_when_run), cmocka_unit_test(without) };

    draw();
    return test_main("tune", tests);
}
