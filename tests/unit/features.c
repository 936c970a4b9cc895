/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lengths, which row a video frame takes, and the rows themselves, in the product's way and the original's. */
#include <math.h>
#include <stdlib.h>

#include "nets/wav2vec2.h"
#include "test.h"

static void lengths(void **state)
{
    /* 3 T / 5 is wrong for these: the division is in floating point. */
    static const int64_t odd[][2] = { { 205, 122 }, { 410, 245 }, { 820, 491 }, { 845, 506 }, { 1615, 968 } };
    int64_t differing = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
        REQUIRE(avt_features_len30(odd[i][0]) == odd[i][1]);
    for (int64_t t = 1; t < 200000; t++) {
        REQUIRE(avt_features_len30(t) == 3 * t / 5 || avt_features_len30(t) == 3 * t / 5 - 1);
        differing += avt_features_len30(t) != 3 * t / 5;
    }
    REQUIRE(differing == 546);
    REQUIRE(avt_features_len30(1) == 0 && avt_features_len30(2) == 1);
}

static void clips(void **state)
{
    (void)state;
    REQUIRE(avt_features_clips(1, 48, 25) == 1);
    REQUIRE(avt_features_clips(57, 48, 25) == 1);                   // a clip is 57.6 rows
    REQUIRE(avt_features_clips(58, 48, 25) == 2);
    REQUIRE(avt_features_clips(288, 48, 25) == 6);                  // an exact multiple makes one more, of silence
    REQUIRE(avt_features_clips(13, 12, 25) == 1);
}

static void rows_of_frames(void **state)
{
    static const int first[] = { 0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13 };

    (void)state;
    for (int i = 0; i < 12; i++)
        REQUIRE(avt_features_row(i, 48, 25) == first[i]);
    for (int64_t i = 0; i < 1000000; i += 7)
        REQUIRE(avt_features_row(i, i + 1, 25) == (12 * i + 5) / 10);
    REQUIRE(avt_features_row(4, 80, 16) == 8 && avt_features_row(12, 80, 16) == 22);     // 7.5 and 22.5: to even
}

/* hidden[l][t][d] = 100 l + t + d / 4, which interpolation along t keeps exactly linear. */
static Tensor ramp(TestBench *b, int64_t layers, int64_t T, int64_t D)
{
    float *v = malloc(sizeof(*v) * (size_t)(layers * T * D));

    for (int64_t l = 0; l < layers; l++)
        for (int64_t t = 0; t < T; t++)
            for (int64_t d = 0; d < D; d++)
                v[(l * T + t) * D + d] = (float)(100 * l + t) + (float)d / 4;
    const Tensor x = TEST_TENSOR(b, v, layers, T, D);
    free(v);
    return x;
}

static void check_frames(TestBench *b, Tensor hidden, int64_t first, int64_t nb, int mode)
{
    const int64_t L1 = hidden.dim[0], T = hidden.dim[1], D = hidden.dim[2], len = avt_features_len30(T);
    const Tensor out = avt_new(b->arena, DT_F32, nb, L1, D);

    REQUIRE_OK(avt_features_pick(b->be, b->arena, out, hidden, first, mode));
    float *v = test_read(b, out);
    for (int64_t i = 0; i < nb; i++) {
        const int64_t j = (12 * (first + i) + 5) / 10;
        const double p = mode == FEATURES_PRODUCT ? fmin(5 * (double)j / 3, (double)(T - 1))
                                                  : (double)j * (double)(T - 1) / (double)(len > 1 ? len - 1 : 1);

        for (int64_t l = 0; l < L1; l++)
            for (int64_t d = 0; d < D; d++) {
                const double want = mode == FEATURES_UPSTREAM && j >= len ? 0 : 100 * (double)l + p + (double)d / 4;

                REQUIRE(fabs(v[(i * L1 + l) * D + d] - want) < 1e-4);
            }
    }
    free(v);
}

static void picking(void **state)
{
    static const int64_t lengths[] = { 2, 23, 24, 96, 205 };
    TestBench b;

    (void)state;
    test_bench_open(&b, "cpu", CPU_PLAIN, 1);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        const Tensor hidden = ramp(&b, 3, lengths[i], 5);

        for (int mode = FEATURES_PRODUCT; mode <= FEATURES_UPSTREAM; mode++) {
            check_frames(&b, hidden, 0, 130, mode);                 // beyond the end, and more than a piece
            check_frames(&b, hidden, 11, 12, mode);
        }
    }
    test_bench_close(&b);
}

/* Block n needs rows of its own 24 n .. 24 n + 23 at 50 Hz only, so a sound of 24 rows a block never runs out. */
static void blocks_are_covered(void **state)
{
    (void)state;
    for (int64_t block = 0; block < 1000; block++) {
        const int64_t last = avt_features_row(12 * block + 11, 12 * block + 12, 25);

        REQUIRE(5 * last / 3 + (5 * last % 3 != 0) <= 24 * block + 23);
    }
}

static void wrong_shapes(void **state)
{
    TestBench b;

    (void)state;
    test_bench_open(&b, "cpu", CPU_PLAIN, 1);
    const Tensor hidden = ramp(&b, 3, 24, 5);
    REQUIRE(avt_features_pick(b.be, b.arena, avt_new(b.arena, DT_F32, 12, 4, 5), hidden, 0, FEATURES_PRODUCT) == AVT_ERR(EINVAL));
    REQUIRE(avt_features_pick(b.be, b.arena, avt_new(b.arena, DT_F32, 12, 3, 5), hidden, -1, FEATURES_PRODUCT) == AVT_ERR(EINVAL));
    REQUIRE(avt_features_30hz(b.be, b.arena, avt_new(b.arena, DT_F32, 15, 5), avt_at(hidden, 0)) == AVT_ERR(EINVAL));
    test_bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths), cmocka_unit_test(clips), cmocka_unit_test(rows_of_frames), cmocka_unit_test(picking),
        cmocka_unit_test(blocks_are_covered), cmocka_unit_test(wrong_shapes),
    };

    return test_main("features", tests);
}
