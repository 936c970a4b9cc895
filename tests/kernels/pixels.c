/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* picture; pixels in every format against f64, known colours, where chroma sits; count_nonfinite. */
#include "op.h"

typedef struct Arg {
    int64_t t, h, w;
    PixelFormat format;
    const float *x;
} Arg;

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;

    avt_pixels(t->be, out, TEST_ACT(t, a->x, a->t, a->h, a->w, 3), a->format);
}

static double unit(double v)
{
    return v >= 1 ? 1 : v > -1 ? (v + 1) / 2 : 0;
}

/* k = 0: Y, 1: Cb, 2: Cr */
static double yuv_at(const Arg *a, int k, int64_t t, int64_t y, int64_t x)
{
    const float *p = a->x + ((t * a->h + y) * a->w + x) * 3;
    const double r = unit(p[0]), g = unit(p[1]), b = unit(p[2]), luma = 0.2126 * r + 0.7152 * g + 0.0722 * b;

    return k == 0 ? 16 + 219 * luma : k == 1 ? 128 + 224 * (b - luma) / 1.8556 : 128 + 224 * (r - luma) / 1.5748;
}

static double chroma420_at(const Arg *a, int k, int64_t t, int64_t y, int64_t x)
{
    double sum = 0;

    for (int64_t line = 2 * y; line < 2 * y + 2; line++)
        sum += yuv_at(a, k, t, line, x ? 2 * x - 1 : 0) + 2 * yuv_at(a, k, t, line, 2 * x) + yuv_at(a, k, t, line, 2 * x + 1);
    return sum / 8;
}

/* Unrounded value of byte i of frame t */
static double reference_at(const Arg *a, int64_t t, int64_t i)
{
    static const int gbr[3] = { 1, 2, 0 };
    const int64_t plane = a->h * a->w, quarter = plane / 4;
    const float *frame = a->x + t * plane * 3;

    if (a->format == PIX_RGB24)
        return 255 * unit(frame[i]);
    if (a->format == PIX_GBRP)
        return 255 * unit(frame[3 * (i % plane) + gbr[i / plane]]);
    if (i < plane || a->format == PIX_YUV444P)
        return yuv_at(a, (int)(i / plane), t, i % plane / a->w, i % a->w);
    i -= plane;
    if (a->format == PIX_NV12)
        return chroma420_at(a, 1 + (int)(i % 2), t, i / 2 / (a->w / 2), i / 2 % (a->w / 2));
    return chroma420_at(a, 1 + (int)(i / quarter), t, i % quarter / (a->w / 2), i % quarter % (a->w / 2));
}

static void check(Arg a, float scale)
{
    const int64_t size = avt_pixels_size(a.format, a.h, a.w);
    float *x = op_values(a.t * a.h * a.w * 3, RANDOM, 1);
    uint8_t *got = malloc((size_t)(a.t * size));
    double worst = 0;

    for (int64_t i = 0; i < a.t * a.h * a.w * 3; i++)
        x[i] *= scale;
    a.x = x;
    op_check(&(OpCase){ .name = "pixels", .op = OP_PIXELS, .dtype = DT_U8, .nd = 2, .dim = { a.t, size },
                        .run = run, .arg = &a, .plain = got });
    for (int64_t i = 0; i < a.t * size && !op_bench_mode; i++)
        worst = fmax(worst, fabs(got[i] - reference_at(&a, i / size, i % size)));
    assert_true(worst <= 0.5 + 1e-4);
    free(x);
    free(got);
}

static void formats(void **state)
{
    static const int64_t size[][3] = { { 1, 2, 2 }, { 1, 2, 4 }, { 2, 4, 2 }, { 3, 6, 10 }, { 1, 34, 66 } };
    static const float scale[] = { 0, 1e-6f, 1, 1.5f, 1e30f };
    (void)state;
    for (int format = 0; format < PIX_NB; format++)
        for (size_t s = 0; s < 5; s++)
            for (size_t v = 0; v < 5; v++)
                check((Arg){ .t = size[s][0], .h = size[s][1], .w = size[s][2], .format = (PixelFormat)format }, scale[v]);
}

/* One frame of 2 x 4 through one format, into 24 bytes at most. */
static void convert(uint8_t *out, const float *x, PixelFormat format)
{
    const int64_t size = avt_pixels_size(format, 2, 4);
    TestBench t;
    Tensor y;

    op_open(&t, CPU_AUTO, 1, DT_F32);
    y = avt_new(t.arena, DT_U8, size);
    avt_pixels(t.be, y, TEST_TENSOR(&t, x, 1, 2, 4, 3), format);
    REQUIRE_OK(avt_download(t.be, out, y));
    test_bench_close(&t);
}

/* BT.709 limited range of the primaries, as any table of them says. */
static void colours(void **state)
{
    static const struct { float rgb[3]; int yuv[3]; } known[] = {
        { { -1, -1, -1 }, { 16, 128, 128 } }, { { 1, 1, 1 }, { 235, 128, 128 } }, { { 1, -1, -1 }, { 63, 102, 240 } },
        { { -1, 1, -1 }, { 173, 42, 26 } }, { { -1, -1, 1 }, { 32, 240, 118 } }, { { 9, NAN, -INFINITY }, { 63, 102, 240 } },
    };
    static const int stride[PIX_NB] = { [PIX_YUV420P] = 2, [PIX_YUV444P] = 8, [PIX_NV12] = 1 };     // from Cb to Cr

    (void)state;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        float x[24];
        uint8_t out[24];

        for (int p = 0; p < 24; p++)
            x[p] = known[i].rgb[p % 3];
        for (int format = PIX_YUV420P; format <= PIX_NV12; format++) {
            convert(out, x, (PixelFormat)format);
            for (int p = 0; p < 8; p++)
                assert_int_equal(out[p], known[i].yuv[0]);
            for (int k = 1; k < 3; k++)
                assert_int_equal(out[8 + (k - 1) * stride[format]], known[i].yuv[k]);
        }
    }
}

/* A blue column moves the chroma of the pairs that it touches: half of it when it is the pair's left pixel, a quarter when
 * it is a neighbour of one. Column 0 is also its own neighbour, for the edge is repeated. */
static void siting(void **state)
{
    static const double share[4][2] = { { 0.75, 0 }, { 0.25, 0.25 }, { 0, 0.5 }, { 0, 0.25 } };     // [column][pair]

    (void)state;
    for (int column = 0; column < 4; column++) {
        float x[24];
        uint8_t out[12];

        for (int p = 0; p < 24; p++)
            x[p] = p / 3 % 4 == column && p % 3 == 2 ? 1 : -1;
        convert(out, x, PIX_YUV420P);
        for (int pair = 0; pair < 2; pair++)
            assert_int_equal(out[8 + pair], lrint(128 + 112 * share[column][pair]));
    }
}

typedef struct Still {
    int64_t h, w;
    const uint8_t *rgb;
} Still;

static void run_picture(TestBench *t, Tensor out, const void *opaque)
{
    const Still *a = opaque;
    const Tensor x = avt_new(t->arena, DT_U8, a->h, a->w, 3);

    avt_upload(t->be, x, a->rgb);
    avt_picture(t->be, out, x);
}

/* Every level of u8, at sizes that fill no tile; black and white are the ends, to the bit. */
static void pictures(void **state)
{
    static const int64_t size[][2] = { { 1, 1 }, { 3, 5 }, { 64, 64 }, { 101, 233 } };

    (void)state;
    for (int s = 0; s < 4; s++) {
        const int64_t h = size[s][0], w = size[s][1], nb = h * w * 3;
        uint8_t *rgb = malloc((size_t)nb);
        float *got = malloc((size_t)nb * sizeof(*got));

        for (int64_t i = 0; i < nb; i++)
            rgb[i] = (uint8_t)(i * 255 / (s ? 7 : 2));
        op_check(&(OpCase){ .name = "picture", .op = OP_PICTURE, .nd = 3, .dim = { h, w, 3 }, .run = run_picture,
                            .arg = &(Still){ h, w, rgb }, .plain = got, .modes = 1 << MODE_BF16 | 1 << MODE_IN });
        for (int64_t i = 0; i < nb && !op_bench_mode; i++)
            assert_true(got[i] == (float)rgb[i] / 255 * 2 - 1 && (rgb[i] != 255 || got[i] == 1) && (rgb[i] || got[i] == -1));
        free(rgb);
        free(got);
    }
}

/* What went in as 8 bits comes out as the same. */
static void pictures_come_back(void **state)
{
    uint8_t rgb[16 * 16 * 3], back[16 * 16 * 3];
    TestBench t;
    Tensor x, px;

    (void)state;
    for (int i = 0; i < 16 * 16 * 3; i++)
        rgb[i] = (uint8_t)i;
    op_open(&t, CPU_AUTO, 1, DT_F32);
    x = avt_new(t.arena, DT_U8, 1, 16, 16, 3);
    px = avt_new(t.arena, DT_F32, 1, 16, 16, 3);
    avt_upload(t.be, x, rgb);
    avt_picture(t.be, px, x);
    avt_pixels(t.be, x, px, PIX_RGB24);
    REQUIRE_OK(avt_download(t.be, back, x));
    assert_memory_equal(back, rgb, sizeof(rgb));
    test_bench_close(&t);
}

static void run_count(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;

    avt_count_nonfinite(t->be, out, TEST_ACT(t, a->x, a->t, a->w));
}

static void nonfinite(void **state)
{
    static const int64_t size[] = { 1, 7, 64, 1001, 70001 };

    (void)state;
    for (size_t s = 0; s < sizeof(size) / sizeof(size[0]); s++)
        for (int64_t step = 1; step < 400; step = 5 * step + 1) {
            float *x = op_values(size[s], RANDOM, 1);
            int32_t got = -1, want = 0;

            for (int64_t i = step - 1; i < size[s]; i += step, want++)
                x[i] = i % 3 ? i % 3 == 1 ? INFINITY : -INFINITY : -NAN;
            x[size[s] - 1] = step == 1 ? x[size[s] - 1] : FLT_MAX;
            want -= step > 1 && size[s] % step == 0;
            op_check(&(OpCase){ .name = "count_nonfinite", .op = OP_COUNT_NONFINITE, .dtype = DT_I32, .nd = 1,
                                .dim = { 1 }, .run = run_count, .arg = &(Arg){ .x = x, .t = 1, .w = size[s] }, .plain = &got });
            if (!op_bench_mode)
                assert_int_equal(got, want);
            free(x);
        }
}

static void speed(void **state)
{
    Arg a = { .t = 12, .h = 384, .w = 704 };
    float *x;

    (void)state;
    if (!op_bench_mode)
        return;
    a.x = x = op_values(a.t * a.h * a.w * 3, RANDOM, 1);
    for (int format = 0; format < PIX_NB; format++) {
        a.format = (PixelFormat)format;
        op_check(&(OpCase){ .name = "12 frames of 704 x 384", .op = OP_PIXELS, .dtype = DT_U8, .nd = 2,
                            .dim = { a.t, avt_pixels_size(a.format, a.h, a.w) }, .run = run, .arg = &a, .bench = 1 });
    }
    free(x);
}

static void mistakes(void **state)
{
    TestBench t;
    Tensor x;

    (void)state;
    op_refuser_open(&t);
    x = avt_new(t.arena, DT_F32, 2, 4, 6, 3);
    avt_pixels(t.be, avt_new(t.arena, DT_U8, 2, 71), x, PIX_RGB24);
    op_refused(&t, OP_PIXELS);
    avt_pixels(t.be, avt_new(t.arena, DT_U8, 2, 72), avt_view(x, 2, 3, 8, 3), PIX_RGB24);      // odd height
    op_refused(&t, OP_PIXELS);
    avt_pixels(t.be, avt_new(t.arena, DT_U8, 2, 72), x, PIX_NB);
    op_refused(&t, OP_PIXELS);
    avt_picture(t.be, x, x);
    op_refused(&t, OP_PICTURE);
    avt_picture(t.be, x, avt_new(t.arena, DT_U8, 2, 4, 5, 3));
    op_refused(&t, OP_PICTURE);
    avt_count_nonfinite(t.be, avt_new(t.arena, DT_I32, 2), x);
    op_refused(&t, OP_COUNT_NONFINITE);
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures), cmocka_unit_test(pictures_come_back), cmocka_unit_test(formats), cmocka_unit_test(colours), cmocka_unit_test(siting),
        cmocka_unit_test(nonfinite), cmocka_unit_test(speed), cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "pixels", tests);
}
