/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The reference picture: Pillow's numbers exactly, sizes, the two ways to fit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "gold/pillow.h"
#include "nets/picture.h"
#include "test.h"

static uint8_t *noise(size_t nb, uint32_t seed)
{
    uint8_t *v = malloc(nb);
    uint32_t x = seed;

    for (size_t i = 0; i < nb; i++) {
        x = 1664525u * x + 1013904223u;
        v[i] = (uint8_t)(x >> 24);
    }
    return v;
}

static void resize_is_pillows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(pillow_cases) / sizeof(pillow_cases[0]); i++) {
        const struct PillowCase *c = &pillow_cases[i];
        uint8_t *src = noise((size_t)c->iw * (size_t)c->ih * 3, (uint32_t)i + 1);
        uint8_t *dst = calloc((size_t)c->w * (size_t)c->h, 3);

        REQUIRE_OK(avt_picture_resize(dst, c->w, c->h, src, c->iw, c->ih, c->box));
        assert_memory_equal(dst, c->rgb, (size_t)c->w * (size_t)c->h * 3);
        free(src);
        free(dst);
    }
}

/* Covering is resizing the centred box; padded rows change nothing. */
static void cover_takes_the_centre(void **state)
{
    static const struct {
        int iw, ih, w, h;
        double box[4];
    } cases[] = {
        { 64, 48, 16, 16, { 8, 0, 56, 48 } },
        { 50, 70, 24, 12, { 0, 22.5, 50, 47.5 } },
        { 24, 16, 48, 32, { 0, 0, 24, 16 } },
        { 31, 31, 62, 31, { 0, 7.75, 31, 23.25 } },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const int iw = cases[i].iw, ih = cases[i].ih, w = cases[i].w, h = cases[i].h, stride = iw * 3 + 11;
        const size_t size = (size_t)w * (size_t)h * 3;
        uint8_t *src = noise((size_t)stride * (size_t)ih, 99), *packed = malloc((size_t)iw * (size_t)ih * 3);
        uint8_t *got = calloc(size + 1, 1), *want = calloc(size, 1);

        for (int y = 0; y < ih; y++)
            memcpy(packed + (size_t)y * (size_t)iw * 3, src + (size_t)y * (size_t)stride, (size_t)iw * 3);
        got[size] = 0xA5;
        REQUIRE_OK(avt_picture_cover(got, w, h, src, stride, iw, ih));
        REQUIRE_OK(avt_picture_resize(want, w, h, packed, iw, ih, cases[i].box));
        assert_memory_equal(got, want, size);
        assert_int_equal(got[size], 0xA5);
        free(src);
        free(packed);
        free(got);
        free(want);
    }
}

static void cover_of_one_colour_is_that_colour(void **state)
{
    uint8_t src[30 * 20 * 3], dst[64 * 64 * 3];

    (void)state;
    memset(src, 173, sizeof(src));
    REQUIRE_OK(avt_picture_cover(dst, 64, 64, src, 30 * 3, 30, 20));
    for (size_t i = 0; i < sizeof(dst); i++)
        assert_int_equal(dst[i], 173);
}

static void sizes(void **state)
{
    static const struct {
        int iw, ih;
        int64_t area;
        int w, h;
    } ours[] = {
        { 1280, 720, 270336, 688, 384 },    // sqrt(270336 * 16 / 9) = 693.3, 389.97
        { 720, 1280, 270336, 384, 688 },
        { 512, 512, 270336, 512, 512 },
        { 704, 384, 270336, 704, 384 },
        { 100, 100, 4096, 64, 64 },
        { 2000, 20, 65536, 2560, 64 },      // never below 64
    }, upstream[] = {                       // streaming.md 2.1
        { 720, 1280, 98304, 256, 384 }, { 720, 1280, 253184, 384, 640 }, { 720, 1280, 270336, 384, 704 },
        { 720, 1280, 288000, 384, 704 }, { 1000, 1000, 98304, 256, 256 }, { 1000, 1000, 253184, 448, 448 },
        { 1000, 1000, 270336, 512, 512 }, { 768, 1024, 98304, 256, 384 }, { 768, 1024, 253184, 384, 512 },
        { 768, 1024, 270336, 448, 576 }, { 768, 1024, 288000, 448, 640 }, { 256, 256, 270336, 256, 256 },
        { 400, 720, 288000, 384, 704 },
    };
    int w, h;

    (void)state;
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++) {
        avt_picture_size(&w, &h, ours[i].iw, ours[i].ih, ours[i].area);
        assert_int_equal(w, ours[i].w);
        assert_int_equal(h, ours[i].h);
    }
    for (size_t i = 0; i < sizeof(upstream) / sizeof(upstream[0]); i++) {
        avt_picture_size_upstream(&w, &h, upstream[i].iw, upstream[i].ih, upstream[i].area);
        assert_int_equal(w, upstream[i].w);
        assert_int_equal(h, upstream[i].h);
    }
}

/* streaming.md 2.2: bars of 6 and 7 columns, 11 and 11, 16 and 16; a crop rounds half to even. */
static void upstream_geometry(void **state)
{
    static const struct {
        int w, h, iw, ih, resized_w, resized_h, left, top;
    } cases[] = {
        { 704, 384, 720, 400, 691, 384, -6, 0 },
        { 704, 384, 1280, 720, 682, 384, -11, 0 },
        { 704, 384, 1344, 768, 672, 384, -16, 0 },
        { 384, 704, 720, 1280, 384, 682, 0, -11 },
        { 64, 64, 100, 77, 83, 64, 10, 0 },             // 19 / 2 = 9.5
        { 64, 64, 100, 79, 81, 64, 8, 0 },              // 17 / 2 = 8.5
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const UpstreamFit f = avt_picture_fit_upstream(cases[i].w, cases[i].h, cases[i].iw, cases[i].ih);

        assert_int_equal(f.resized_w, cases[i].resized_w);
        assert_int_equal(f.resized_h, cases[i].resized_h);
        assert_int_equal(f.left, cases[i].left);
        assert_int_equal(f.top, cases[i].top);
    }
}

static void upstream_bars_are_black(void **state)
{
    uint8_t src[20 * 10 * 3], dst[64 * 24 * 3];

    (void)state;
    memset(src, 255, sizeof(src));
    REQUIRE_OK(avt_picture_upstream(dst, 64, 24, src, 20 * 3, 20, 10));     // 48x24 in 64x24
    for (int i = 0; i < 64 * 24; i++)
        assert_int_equal(dst[3 * i], i % 64 < 8 || i % 64 >= 56 ? 0 : 255);
}

/* Every allocation may fail: an error, no leak. */
static void no_memory(void **state)
{
    uint8_t *src = noise(30 * 20 * 3, 1), dst[64 * 64 * 3];
    const int64_t before = avt_mem_bytes(MEM_NB);
    int ret = -1;

    (void)state;
    for (int i = 1; ret < 0 && i < 100; i++) {
        avt_mem_fail_at(i);
        ret = avt_picture_upstream(dst, 64, 64, src, 30 * 3, 30, 20);
        REQUIRE(ret == 0 || ret == AVT_ERR(ENOMEM));
        assert_int_equal(avt_mem_bytes(MEM_NB), before);
        REQUIRE(i > 1 || ret < 0);
    }
    avt_mem_fail_at(0);
    REQUIRE_OK(ret);
    free(src);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resize_is_pillows),
        cmocka_unit_test(cover_takes_the_centre),
        cmocka_unit_test(cover_of_one_colour_is_that_colour),
        cmocka_unit_test(sizes),
        cmocka_unit_test(upstream_geometry),
        cmocka_unit_test(upstream_bars_are_black),
        cmocka_unit_test(no_memory),
    };

    return test_main("picture", tests);
}
