/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* bf16, f16, e4m3, e5m2: every code there and back, every rounding step between neighbours, ties to even. */
#include <stdlib.h>

#include "base/half.h"
#include "tensor.h"
#include "test.h"

static uint32_t from_f16(float f)  { return avt_f32_f16(f); }
static uint32_t from_bf16(float f) { return avt_f32_bf16(f); }
static uint32_t from_e4m3(float f) { return avt_f32_e4m3(f); }
static float to_f16(uint32_t c)    { return avt_f16_f32((uint16_t)c); }
static float to_bf16(uint32_t c)   { return avt_bf16_f32((uint16_t)c); }
static float to_e4m3(uint32_t c)   { return avt_e4m3_f32((uint8_t)c); }

/* Value of a code by the definition of the format; infinity and NaN are the caller's. */
static double value(uint32_t code, int bits_exp, int bits_man, int bias)
{
    const int exp = code >> bits_man & ((1 << bits_exp) - 1), man = code & ((1 << bits_man) - 1);
    const double a = exp ? ldexp(1 + ldexp(man, -bits_man), exp - bias) : ldexp(man, 1 - bias - bits_man);

    return code >> (bits_exp + bits_man) & 1 ? -a : a;
}

/* All finite codes of one sign in order: exact both ways; between neighbours the nearer wins, a tie goes to the even code. */
static void walk(uint32_t (*from)(float), float (*to)(uint32_t), uint32_t nb_finite, uint32_t sign)
{
    for (uint32_t c = 0; c < nb_finite; c++) {
        const float a = to(c), b = to(c + 1), mid = (float)(0.5 * ((double)a + b));

        assert_int_equal(from(a), c);
        assert_int_equal(from(-a), c | sign);
        if (c + 1 == nb_finite)
            break;
        assert_true(a < b);
        assert_int_equal(from(mid), c & 1 ? c + 1 : c);
        assert_int_equal(from(nextafterf(mid, b)), c + 1);
        assert_int_equal(from(nextafterf(mid, a)), c);
        assert_int_equal(from(-mid), (c & 1 ? c + 1 : c) | sign);
    }
}

static void f16(void **state)
{
    (void)state;
    walk(from_f16, to_f16, 0x7c00, 0x8000);
    for (uint32_t c = 0; c < 0x10000; c++)
        if ((c >> 10 & 31) != 31)
            assert_true(to_f16(c) == value(c, 5, 10, 15));
    assert_int_equal(from_f16(65519.996f), 0x7bff);
    assert_int_equal(from_f16(65520), 0x7c00);
    assert_int_equal(from_f16(-INFINITY), 0xfc00);
    assert_true(isinf(to_f16(0x7c00)) && isnan(to_f16(0x7c01)) && isnan(to_f16(from_f16(NAN))));
    assert_int_equal(from_f16(-0.0f), 0x8000);
    assert_int_equal(from_f16(0x1p-25f), 0);                        // a tie between 0 and the smallest
    assert_int_equal(from_f16(0x1.8p-25f), 1);
}

static void bf16(void **state)
{
    (void)state;
    walk(from_bf16, to_bf16, 0x7f80, 0x8000);
    for (uint32_t c = 0; c < 0x10000; c++)
        if ((c >> 7 & 255) != 255)
            assert_true(to_bf16(c) == value(c, 8, 7, 127));
    assert_int_equal(from_bf16(INFINITY), 0x7f80);
    assert_int_equal(from_bf16(3.4e38f), 0x7f80);
    assert_true(isnan(to_bf16(from_bf16(avt_bits_f32(0x7f800001)))));           // a NaN whose upper half looks like infinity
    assert_true(isnan(to_bf16(from_bf16(-NAN))));
}

static void e4m3(void **state)
{
    (void)state;
    walk(from_e4m3, to_e4m3, 0x7f, 0x80);
    for (uint32_t c = 0; c < 0x100; c++)
        if ((c & 0x7f) != 0x7f)
            assert_true(to_e4m3(c) == value(c, 4, 3, 7));
    assert_true(to_e4m3(0x7e) == 448 && isnan(to_e4m3(0x7f)) && isnan(to_e4m3(0xff)));
    assert_int_equal(from_e4m3(1e9f), 0x7e);
    assert_int_equal(from_e4m3(-INFINITY), 0xfe);
    assert_int_equal(from_e4m3(NAN) & 0x7f, 0x7f);
}

static void e5m2(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x100; c++)
        if ((c >> 2 & 31) != 31)
            assert_true(avt_e5m2_f32((uint8_t)c) == value(c, 5, 2, 15));
    assert_true(isinf(avt_e5m2_f32(0x7c)) && isnan(avt_e5m2_f32(0x7d)));
}

/* Arrays at any address, from any element on: each value as by itself. */
static void arrays(void **state)
{
    enum { NB = 0x10000 };
    uint8_t *raw = malloc(2 * NB + 1);
    float *v = malloc(NB * sizeof(*v));

    (void)state;
    for (int c = 0; c < NB; c++) {
        const uint16_t h = (uint16_t)c;

        memcpy(raw + 1 + 2 * c, &h, 2);
    }
    for (int64_t first = 0; first < 3; first++) {
        avt_to_f32(v, DT_F16, raw + 1, first, NB - first);
        for (uint32_t c = (uint32_t)first; c < NB; c++)
            assert_int_equal(avt_f32_bits(v[c - first]), avt_f32_bits(avt_f16_f32((uint16_t)c)));
        avt_to_f32(v, DT_BF16, raw + 1, first, NB - first);
        for (uint32_t c = (uint32_t)first; c < NB; c++)
            assert_int_equal(avt_f32_bits(v[c - first]), c << 16);
        avt_to_f32(v, DT_F8_E5M2, raw, first, 256);
        for (int k = 0; k < 256; k++)
            assert_int_equal(avt_f32_bits(v[k]), avt_f32_bits(avt_e5m2_f32(raw[first + k])));
        avt_to_f32(v, DT_U8, raw, first, 256);
        for (int k = 0; k < 256; k++)
            assert_true(v[k] == raw[first + k]);
    }
    free(raw);
    free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(f16), cmocka_unit_test(bf16), cmocka_unit_test(e4m3),
                                        cmocka_unit_test(e5m2),  cmocka_unit_test(arrays) };

    return test_main("half", tests);
}
