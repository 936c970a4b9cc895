/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Weights that come out of a file to the emulated GPU, which looks for NaN itself: the bits of the file, and of a file that does not fit the very
 * sentences of a CPU.
 */
#include <math.h>

#include "base/half.h"
#include "control.h"
#include "files.h"
#include "files/bind.h"
#include "quantize.h"

enum { OUT = 6, IN = 16, R = 2, NB = 300 };             // NB: more weights than are looked at together

static float w32[OUT * IN], a[R * IN], b[OUT * R];
static uint16_t w16[OUT * IN];

typedef struct Bound {                                  // what came of a file
    int ret;
    char said[2000];
    float v[OUT * IN];                                  // of the first weight
    int before, stops;                                  // waits of the host: while weights come, when all are there
    int allocations;                                    // of device memory, by then
} Bound;

typedef struct File {
    const char *type;
    const void *v;
    size_t size;
    const WeightPart *part;
    const char *lora;                                   // its path, or NULL
    int nb;                                             // weights; 0: one
} File;

/* blocks.0.self_attn.q, blocks.1.self_attn.q, ... all of the same numbers */
static Ckpt *opened(const File *f, Buf *bytes)
{
    static char name[NB][64];
    static FileTensor t[NB];
    const int nb = f->nb ? f->nb : 1;
    Ckpt *c;

    for (int i = 0; i < nb; i++) {
        snprintf(name[i], sizeof(name[i]), "blocks.%d.self_attn.q.weight", i);
        t[i] = (FileTensor){ name[i], f->type, 2, { OUT, IN }, f->v, f->size };
    }
    *bytes = st_make(t, nb, NULL, 1);
    REQUIRE_OK(avt_ckpt_open_memory(&c, "dir/net.safetensors", bytes->p, bytes->n, test_log()));
    return c;
}

static void bind(Bound *r, const char *device, DType act, const File *f)
{
    Buf bytes;
    Ckpt *c = opened(f, &bytes);
    Lora *l = NULL;
    Binder binder;
    Tensor w = AVT_NONE;
    TestBench t;
    float *got;

    memset(r, 0, sizeof(*r));
    test_bench_open_act(&t, device, CPU_AUTO, 1, act == DT_F32 ? DT_F32 : DT_BF16);
    t.be->log = test_log();
    if (f->lora)
        REQUIRE_OK(avt_lora_open(&l, f->lora, 0, NULL));
    REQUIRE_OK(avt_binder_open(&binder, c, l, t.arena, "net", DT_F32, test_log()));
    binder.act = act;
    r->before = -(int)t.be->queue.stops;
    r->allocations = -(int)simt_stats()->allocations;
    for (int i = 0; i < (f->nb ? f->nb : 1); i++) {
        const Tensor one = avt_bind_linear_part(&binder, OUT, IN, 0, f->part, "blocks.%d.self_attn.q", i).w;

        w = i ? w : one;
    }
    r->stops = (int)t.be->queue.stops;
    r->before += r->stops;
    r->ret = avt_binder_finish(&binder, 0);
    r->stops = (int)t.be->queue.stops - r->stops;
    r->allocations += (int)simt_stats()->allocations;
    snprintf(r->said, sizeof(r->said), "%s", test_log_text());
    if (r->ret >= 0 && avt_weight_rows(w).be) {
        got = test_read(&t, avt_weight_rows(w));
        memcpy(r->v, got, (size_t)avt_numel(w) * sizeof(*got));
        free(got);
    }
    avt_binder_close(&binder);
    avt_lora_close(&l);
    test_bench_close(&t);
    avt_ckpt_close(&c);
    buf_free(&bytes);
    test_log();                                         // forget what was said
}

/* The same answer and the same words on both, whatever the network multiplies. @return what the GPU said */
static const Bound *both(const File *f)
{
    static const DType act[] = { DT_F32, DT_BF16, DT_I8 };
    static Bound here, there;

    for (int i = 0; i < 3; i++) {
        bind(&here, "cpu", act[i], f);
        bind(&there, "cuda0", act[i], f);
        if (there.ret != here.ret)
            fail_msg("%d, not %d: %s", there.ret, here.ret, there.said);
        assert_string_equal(there.said, here.said);
    }
    return &there;
}

static void require_refused(const File *f, const char *words)
{
    const Bound *r = both(f);

    assert_int_equal(r->ret, AVT_INVALID);
    if (!strstr(r->said, words))
        fail_msg("'%s' does not say '%s'", r->said, words);
}

static void forget_numbers(void)
{
    test_random(w32, OUT * IN, 1);
    test_random(a, R * IN, 2);
    test_random(b, OUT * R, 3);
    for (int i = 0; i < OUT * IN; i++)
        w16[i] = avt_f32_bf16(w32[i]);
}

/* ---- tests ---------------------------------------------------------------------------------------------------------------- */

static void as_the_file(void **state)
{
    static const WeightPart columns = { 1, 5, 9 };
    Bound r;

    (void)state;
    forget_numbers();
    bind(&r, "cuda0", DT_BF16, &(File){ "BF16", w16, sizeof(w16), NULL, NULL, 0 });
    REQUIRE_OK(r.ret);
    for (int i = 0; i < OUT * IN; i++)
        REQUIRE(r.v[i] == avt_bf16_f32(w16[i]));
    assert_int_equal(r.stops, 1);
    bind(&r, "cuda0", DT_F32, &(File){ "F32", w32, sizeof(w32), &columns, NULL, 0 });
    REQUIRE_OK(r.ret);
    for (int i = 0; i < OUT * columns.nb; i++)
        REQUIRE(r.v[i] == w32[i / columns.nb * IN + columns.first + i % columns.nb]);
    bind(&r, "cuda0", DT_BF16, &(File){ "BF16", w16, sizeof(w16), NULL, NULL, NB });
    REQUIRE_OK(r.ret);
    REQUIRE(!r.said[0]);
}

static void not_finite(void **state)
{
    static const WeightPart rows = { 0, 2, 3 }, columns = { 1, 5, 9 }, before = { 1, 0, 5 };

    (void)state;
    forget_numbers();
    w16[3 * IN + 7] = 0x7fc0;
    w16[3 * IN + 8] = 0xff80;
    require_refused(&(File){ "BF16", w16, sizeof(w16), NULL, NULL, 0 }, "dir/net.safetensors: tensor blocks.0.self_attn.q.weight: value 55 of [6, 16] is not finite");
    require_refused(&(File){ "BF16", w16, sizeof(w16), &rows, NULL, 0 }, "value 55 of");
    require_refused(&(File){ "BF16", w16, sizeof(w16), &columns, NULL, 0 }, "value 55 of");
    REQUIRE_OK(both(&(File){ "BF16", w16, sizeof(w16), &before, NULL, 0 })->ret);
    require_refused(&(File){ "BF16", w16, sizeof(w16), NULL, NULL, NB }, "300 problems, the first 5 are above");
    w32[OUT * IN - 1] = -INFINITY;
    require_refused(&(File){ "F32", w32, sizeof(w32), NULL, NULL, 0 }, "value 95 of");
}

/* A number that bf16 has no room for is none that the file has wrong. */
static void beyond_bf16(void **state)
{
    (void)state;
    forget_numbers();
    w32[4] = 3.4028e38f;
    REQUIRE_OK(both(&(File){ "F32", w32, sizeof(w32), NULL, NULL, 0 })->ret);
}

/* Its own numbers, those of a pair, those of both: each has its sentence. */
static void with_a_pair(void **state)
{
    const FileTensor t[] = { { "blocks.0.self_attn.q.lora_A.weight", "F32", 2, { R, IN }, a, sizeof(a) },
                             { "blocks.0.self_attn.q.lora_B.weight", "F32", 2, { OUT, R }, b, sizeof(b) } };
    File f = { "BF16", w16, sizeof(w16), NULL, NULL, 0 };
    static const WeightPart columns = { 1, 5, 9 };
    Buf file;

    (void)state;
    forget_numbers();
    tmp_open();
    b[2 * R] = 3e38f;
    a[9] = 1e30f;
    file = st_make(t, 2, NULL, 1);
    f.lora = tmp_write("lora.safetensors", file.p, file.n);
    require_refused(&f, "blocks.0.self_attn.q: value 41 is not finite with the LoRA; its alpha is too large");
    f.part = &columns;
    require_refused(&f, "blocks.0.self_attn.q: value 22 is not finite with the LoRA; its alpha is too large");
    w16[IN + 6] = 0x7f80;
    require_refused(&f, "tensor blocks.0.self_attn.q.weight: value 22 of [6, 16] is not finite");
    buf_free(&file);
    forget_numbers();
    b[0] = NAN;
    file = st_make(t, 2, NULL, 1);
    f.lora = tmp_write("other.safetensors", file.p, file.n);
    require_refused(&f, "lora_B.weight: value 0 is not finite");
    f.nb = 2;
    require_refused(&f, "tensor blocks.1.self_attn.q.weight has no pair in the LoRA");
    buf_free(&file);
    tmp_close();
}

/* A pair for each of nb weights: its file's bytes */
static Buf pairs(int nb)
{
    static char name[2 * NB][64];
    static FileTensor t[2 * NB];

    for (int i = 0; i < nb; i++) {
        snprintf(name[2 * i], sizeof(name[0]), "blocks.%d.self_attn.q.lora_A.weight", i);
        snprintf(name[2 * i + 1], sizeof(name[0]), "blocks.%d.self_attn.q.lora_B.weight", i);
        t[2 * i] = (FileTensor){ name[2 * i], "F32", 2, { R, IN }, a, sizeof(a) };
        t[2 * i + 1] = (FileTensor){ name[2 * i + 1], "F32", 2, { OUT, R }, b, sizeof(b) };
    }
    return st_make(t, 2 * nb, NULL, 1);
}

/* However many pairs there are: memory is got as for one, and the host hardly waits; of what is wrong with all of them the first are told. */
static void many_pairs(void **state)
{
    static const int nb[] = { 1, NB };
    Bound r[2];

    (void)state;
    forget_numbers();
    tmp_open();
    for (int i = 0; i < 2; i++) {
        Buf file = pairs(nb[i]);
        File f = { "BF16", w16, sizeof(w16), NULL, tmp_write("many.safetensors", file.p, file.n), nb[i] };

        bind(&r[i], "cuda0", DT_BF16, &f);
        REQUIRE_OK(r[i].ret);
        w16[0] = 0x7fc0;
        require_refused(&f, i ? "300 problems, the first 5 are above" : "blocks.0.self_attn.q.weight: value 0 of");
        w16[0] = avt_f32_bf16(w32[0]);
        buf_free(&file);
    }
    assert_int_equal(r[1].allocations, r[0].allocations);
    REQUIRE(!r[0].before && r[0].stops == 1 && r[1].before == 1 && r[1].stops == 1);
    tmp_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(as_the_file), cmocka_unit_test(not_finite), cmocka_unit_test(beyond_bf16),
                                        cmocka_unit_test(with_a_pair), cmocka_unit_test(many_pairs) };

    return test_main("weights", tests);
}
