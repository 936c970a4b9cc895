/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shapes and views: the same memory, and AVT_NONE for what is out of range. */
#include <string.h>

#include "tensor.h"
#include "test.h"

static char memory[4096];

static Tensor make(DType dtype, int64_t a, int64_t b, int64_t c)
{
    return (Tensor){ .be = (Backend *)memory, .data = memory, .dtype = dtype, .nd = 3, .dim = { a, b, c } };
}

static void sizes(void **state)
{
    const Tensor t = make(DT_BF16, 2, 3, 5), scalar = { .dtype = DT_F64 };

    (void)state;
    assert_int_equal(avt_numel(t), 30);
    assert_int_equal(avt_rows_of(t), 6);
    assert_int_equal(avt_last_dim(t), 5);
    assert_int_equal(avt_nbytes(t), 60);
    assert_int_equal(avt_numel(scalar), 1);
    assert_int_equal(avt_last_dim(scalar), 1);
    assert_int_equal(avt_rows_of(scalar), 1);
    assert_int_equal(avt_numel(make(DT_F32, 0, 3, 5)), 0);
}

static void types(void **state)
{
    static const struct { DType t; const char *name; size_t size; } all[] = {
        { DT_F32, "f32", 4 }, { DT_BF16, "bf16", 2 }, { DT_F16, "f16", 2 }, { DT_F8_E4M3, "f8_e4m3", 1 },
        { DT_F8_E5M2, "f8_e5m2", 1 }, { DT_F64, "f64", 8 }, { DT_I64, "i64", 8 }, { DT_I32, "i32", 4 }, { DT_U8, "u8", 1 },
        { DT_I8, "i8", 1 },
    };
    (void)state;
    assert_int_equal(sizeof(all) / sizeof(all[0]), DT_NB);
    for (int i = 0; i < DT_NB; i++) {
        assert_string_equal(avt_dtype_name(all[i].t), all[i].name);
        assert_int_equal(avt_dtype_size(all[i].t), all[i].size);
    }
}

static void rows(void **state)
{
    const Tensor t = make(DT_F32, 4, 3, 5), r = avt_rows(t, 1, 2), e = avt_rows(t, 4, 0);
    Tensor packed = t, empty = t;

    (void)state;
    assert_ptr_equal(r.data, memory + 15 * 4);
    assert_int_equal(r.dim[0], 2);
    assert_int_equal(avt_numel(r), 30);
    assert_int_equal(e.dim[0], 0);
    assert_null(avt_rows(t, 3, 2).be);
    assert_null(avt_rows(t, -1, 1).be);
    assert_null(avt_rows(t, 0, -1).be);
    assert_null(avt_rows(t, INT64_MAX, 2).be);
    packed.packed = 1;
    assert_null(avt_rows(packed, 0, 1).be);
    empty.data = NULL;
    assert_null(avt_rows(empty, 1, 1).data);                        // no address to begin with: none after
}

static void at(void **state)
{
    const Tensor t = make(DT_U8, 4, 3, 5), r = avt_at(avt_at(t, 2), 1);

    (void)state;
    assert_int_equal(r.nd, 1);
    assert_int_equal(r.dim[0], 5);
    assert_ptr_equal(r.data, memory + 2 * 15 + 5);
    assert_int_equal(avt_at(r, 4).nd, 0);
    assert_ptr_equal(avt_at(r, 4).data, memory + 2 * 15 + 9);
    assert_null(avt_at(t, 4).be);
    assert_null(avt_at(avt_at(r, 4), 0).be);                        // a scalar has no rows
}

static void views(void **state)
{
    const Tensor t = make(DT_F32, 4, 3, 5), v = avt_view(t, 2, 6, 1, 5);
    Tensor packed = t;

    (void)state;
    assert_int_equal(v.nd, 4);
    assert_ptr_equal(v.data, t.data);
    assert_int_equal(v.dim[4], 0);                                  // nothing is left of the old shape
    assert_null(avt_view(t, 61).be);
    assert_null(avt_reshape(t, 6, (const int64_t[]){ 1, 1, 1, 1, 1, 60 }).be);
    packed.packed = 2;
    assert_null(avt_view(packed, 60).be);
    assert_true(avt_same_shape(t, avt_view(v, 4, 3, 5)));
    assert_false(avt_same_shape(t, v));
    assert_false(avt_same_shape(t, make(DT_F32, 4, 3, 6)));
}

/* Scales of rows go along with them. */
static void scales(void **state)
{
    static float scale[12];
    Tensor t = make(DT_BF16, 4, 3, 5);

    (void)state;
    t.scale = scale;
    assert_ptr_equal(avt_rows(t, 2, 1).scale, scale + 6);
    assert_ptr_equal(avt_at(avt_at(t, 2), 1).scale, scale + 7);
    assert_ptr_equal(avt_view(t, 12, 5).scale, scale);
    assert_null(avt_view(t, 60).be);                                // a row is torn apart
    assert_null(avt_at(avt_at(avt_at(t, 2), 1), 0).be);
}

static void text(void **state)
{
    char buf[64], little[8];

    (void)state;
    assert_string_equal(avt_shape_text(buf, sizeof(buf), 3, (const int64_t[]){ 96, 3, 32 }), "[96, 3, 32]");
    assert_string_equal(avt_shape_text(buf, sizeof(buf), 0, NULL), "[]");
    memset(little, 'x', sizeof(little));
    avt_shape_text(little, 7, 3, (const int64_t[]){ 123456, 3, 32 });
    assert_string_equal(little, "[12345");                          // cut, closed, and nothing behind the end
    assert_int_equal(little[7], 'x');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes), cmocka_unit_test(types), cmocka_unit_test(rows), cmocka_unit_test(at), cmocka_unit_test(views),
        cmocka_unit_test(scales), cmocka_unit_test(text),
    };

    return test_main("tensor", tests);
}
