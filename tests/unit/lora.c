/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LoRA: every way of naming gives the same merge; scale, rounding, sets of pairs; what is refused. */
#include <math.h>

#include "base/half.h"
#include "base/mem.h"
#include "files.h"
#include "files/bind.h"
#include "files/json.h"

enum { OUT = 13, IN = 21, R = 3, NB = 4 };                          // not divisible by any tile

static const char *const modules[NB] = { "blocks.0.self_attn.q", "blocks.0.cross_attn.o", "blocks.0.ffn.0", "blocks.11.ffn.2" };
static TestBench bench;                                             // that merges
static float w[OUT * IN], a[NB][R * IN], b[NB][OUT * R], zero[OUT * R], want[NB][OUT * IN];

typedef struct Style {
    const char *prefix, *down, *up;
    int spelling;                       // 0 ours, 1 diffusers, 2 kohya
} Style;

static const char *spell(char *out, const Style *s, const char *module, const char *end)
{
    static const char *const theirs[NB] = { "blocks.0.attn1.to_q", "blocks.0.attn2.to_out.0", "blocks.0.ffn.net.0.proj",
                                            "blocks.11.ffn.net.2" };
    const char *m = module;

    for (int i = 0; i < NB && s->spelling == 1; i++)
        if (!strcmp(modules[i], module))
            m = theirs[i];
    snprintf(out, 128, "%s%s%s", s->prefix, m, end);
    for (char *p = out + strlen(s->prefix); s->spelling == 2 && p < out + strlen(out) - strlen(end); p++)
        if (*p == '.')
            *p = '_';
    return out;
}

/* The four pairs, with alpha tensors when `alpha`. */
static Buf make_file(const Style *s, const float *alpha)
{
    static char names[3 * NB][128];
    FileTensor t[3 * NB];
    int nb = 0;

    for (int i = 0; i < NB; i++) {
        t[nb] = (FileTensor){ spell(names[nb], s, modules[i], s->down), "F32", 2, { R, IN }, a[i], sizeof(a[i]) };
        nb++;
        t[nb] = (FileTensor){ spell(names[nb], s, modules[i], s->up), "F32", 2, { OUT, R }, b[i], sizeof(b[i]) };
        nb++;
        if (alpha) {
            t[nb] = (FileTensor){ spell(names[nb], s, modules[i], ".alpha"), "F32", 0, { 0 }, alpha, 4 };
            nb++;
        }
    }
    return st_make(t, nb, NULL, 1);
}

static int open_file(Lora **l, const Buf *f, double alpha, int level)
{
    return avt_lora_open(l, tmp_write("some-lora.safetensors", f->p, f->n), alpha, test_log_at(level));
}

static void require_merge(Lora *l, double scale)
{
    for (int i = 0; i < NB; i++) {
        float v[OUT * IN];

        memcpy(v, w, sizeof(w));
        REQUIRE(avt_lora_has(l, modules[i]));
        REQUIRE(avt_lora_merge(l, modules[i], bench.be, v, OUT, IN, test_log()) == 1);
        for (int k = 0; k < OUT * IN; k++)
            REQUIRE(fabs(v[k] - (w[k] + scale * want[i][k])) < 2e-6);
    }
    REQUIRE_OK(avt_lora_finish(l, test_log()));
    REQUIRE(!test_log_text()[0]);
}

static const Style styles[] = {
    { "", ".lora_A.default.weight", ".lora_B.default.weight", 0 },
    { "base_model.model.", ".lora_A.default.weight", ".lora_B.default.weight", 0 },
    { "base_model.model.", ".lora_A.weight", ".lora_B.weight", 0 },
    { "diffusion_model.", ".lora_A.weight", ".lora_B.weight", 0 },
    { "diffusion_model.", ".lora_down.weight", ".lora_up.weight", 0 },
    { "model.diffusion_model.", ".lora_down.weight", ".lora_up.weight", 0 },
    { "module.", ".lora_A.weight", ".lora_B.weight", 0 },
    { "transformer.", ".lora_A.weight", ".lora_B.weight", 1 },
    { "", ".lora_A.default.weight", ".lora_B.default.weight", 1 },
    { "lora_unet_", ".lora_down.weight", ".lora_up.weight", 2 },
};

/* A part of a weight is given exactly what the whole is given there. */
static void test_parts(void **state)
{
    static const WeightPart part[] = { { 0, 0, 5 }, { 0, 5, OUT - 5 }, { 1, 0, 8 }, { 1, 8, IN - 8 } };
    Buf f = make_file(&styles[0], NULL);
    float whole[OUT * IN], v[OUT * IN];
    Arena *room;
    Lora *l;

    (void)state;
    tmp_open();
    REQUIRE_OK(open_file(&l, &f, 0, LOG_INFO));
    memcpy(whole, w, sizeof(w));
    REQUIRE(avt_lora_merge(l, modules[0], bench.be, whole, OUT, IN, NULL) == 1);
    REQUIRE_OK(avt_lora_room(&room, l, bench.be));
    for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++) {
        const WeightPart *p = &part[i];
        const int64_t out = p->axis ? OUT : p->nb, in = p->axis ? p->nb : IN, at = p->axis ? p->first : p->first * IN;

        for (int64_t k = 0; k < out * in; k++)
            v[k] = w[at + k / in * IN + k % in];
        REQUIRE(avt_lora_merge_part(l, modules[0], room, v, OUT, IN, p, NULL) == 1);
        for (int64_t k = 0; k < out * in; k++)
            REQUIRE(v[k] == whole[at + k / in * IN + k % in]);
    }
    avt_arena_close(&room);
    avt_lora_close(&l);
    buf_free(&f);
    tmp_close();
}

static void test_names(void **state)
{
    (void)state;
    tmp_open();
    for (size_t i = 0; i < sizeof(styles) / sizeof(styles[0]); i++) {
        Buf f = make_file(&styles[i], NULL);
        Lora *l;

        REQUIRE_OK(open_file(&l, &f, 0, LOG_INFO));
        require_said("LoRA of 4 pairs, rank 3, scale 0.5", "half the rank");
        REQUIRE(avt_lora_nb(l) == NB && avt_lora_rank(l) == R && avt_lora_scale(l) == 0.5);
        REQUIRE(!avt_lora_has(l, "blocks.0.self_attn.k") && !avt_lora_has(l, "blocks.0.self_attn.qq") &&
                !avt_lora_has(l, "blocks.0"));
        REQUIRE(avt_lora_merge(l, "blocks.1.ffn.0", bench.be, zero, 1, 1, NULL) == 0);
        require_merge(l, 0.5);
        avt_lora_close(&l);
        buf_free(&f);
    }
    tmp_close();
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

static void test_alpha(void **state)
{
    const float six = 6, nan = NAN;
    Buf f;
    Lora *l;

    (void)state;
    tmp_open();
    f = make_file(&styles[9], &six);
    REQUIRE_OK(open_file(&l, &f, 0, LOG_INFO));
    require_said("scale 2", "alpha of the file");
    require_merge(l, 2);
    avt_lora_close(&l);
    REQUIRE_OK(open_file(&l, &f, 1.5, LOG_INFO));                   // asked for: counts more than the file's
    require_said("scale 0.5", "as asked");
    require_merge(l, 0.5);
    avt_lora_close(&l);
    buf_free(&f);
    f = make_file(&styles[0], &nan);
    REQUIRE(open_file(&l, &f, 0, LOG_ERROR) == AVT_INVALID);
    require_said("alpha must be one finite number", "some-lora.safetensors");
    buf_free(&f);
    tmp_close();
}

/* ---- refused ------------------------------------------------------------------------------------------------------- */

#define A_OF(m) { m ".lora_A.weight", "F32", 2, { R, IN }, a[0], sizeof(a[0]) }
#define B_OF(m) { m ".lora_B.weight", "F32", 2, { OUT, R }, b[0], sizeof(b[0]) }

static void test_refused(void **state)
{
    static const uint16_t many[16385];
    const struct {
        FileTensor t[4];
        int nb;
        const char *said, *culprit;
    } bad[] = {
        { { { "blocks.0.self_attn.q.weight", "F32", 2, { OUT, IN }, w, sizeof(w) } },
          1, "a full checkpoint is no LoRA", "blocks.0.self" },
        { { A_OF("x.q") }, 1, "half B is missing", "x.q" },
        { { B_OF("x.q") }, 1, "half A is missing", "x.q" },
        { { A_OF("x.q"), B_OF("x.k") }, 2, "is not complete", "x.k" },
        { { A_OF("x.q"), B_OF("x.q"), { "x.q.weight", "F32", 2, { OUT, IN }, w, sizeof(w) } },
          3, "is not supported", "x.q.weight" },
        { { A_OF("x.q"), B_OF("x.q"), { "x.q.diff", "F32", 1, { 3 }, w, 12 } }, 3, "is not supported", "x.q.diff" },
        { { A_OF("x.q"), B_OF("x.q"), { "x.q.diff_b", "F32", 1, { 3 }, w, 12 } }, 3, "is not supported", "x.q.diff_b" },
        { { A_OF("x.q"), B_OF("x.q"), { "x.q.dora_scale", "F32", 1, { 3 }, w, 12 } },
          3, "is not supported", "x.q.dora_scale" },
        { { A_OF("x.q"), B_OF("x.q"), { "x.q.lora_mid.weight", "F32", 1, { 3 }, w, 12 } },
          3, "is not supported", "x.q.lora_mid" },
        { { A_OF("x.q"), B_OF("x.q"), A_OF("diffusion_model.x.q") }, 3, "same half of a pair", "diffusion_model.x.q" },
        { { A_OF("x.attn1.to_q"), B_OF("x.attn1.to_q"), A_OF("x.cross_attn.q"), B_OF("x.cross_attn.q") },
          4, "a mixture is not", "2 of 4" },
        { { { "x.q.lora_A.weight", "F32", 2, { R + 1, IN }, w, (R + 1) * IN * 4 }, B_OF("x.q") },
          2, "A is [4, 21], B is [13, 3]", "x.q" },
        { { { "x.q.lora_A.weight", "F32", 1, { IN }, w, IN * 4 }, B_OF("x.q") }, 2, "A is [21]", "x.q" },
        { { { "x.q.lora_A.weight", "F32", 2, { 0, IN }, w, 0 }, { "x.q.lora_B.weight", "F32", 2, { OUT, 0 }, w, 0 } },
          2, "fit together", "x.q" },
        { { { "x.q.lora_A.weight", "I32", 2, { R, IN }, w, R * IN * 4 }, B_OF("x.q") }, 2, "type i32", "x.q" },
        { { A_OF("x.q"), { "x.q.lora_B.weight", "F8_E4M3", 2, { OUT, R }, w, OUT * R } }, 2, "type f8_e4m3", "x.q" },
        { { A_OF("x.q"), B_OF("x.q"), { "x.q.alpha", "F32", 1, { 2 }, w, 8 } }, 3, "one finite number", "x.q.alpha" },
        { { { "x.q.lora_A.weight", "F16", 2, { 16385, 1 }, many, sizeof(many) }, { "x.q.lora_B.weight", "F16", 2, { 1, 16385 }, many, sizeof(many) } },
          2, "rank 16385; at most 16384", "x.q" },
    };

    (void)state;
    tmp_open();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Buf f = st_make(bad[i].t, bad[i].nb, NULL, 1);
        Lora *l;

        REQUIRE(open_file(&l, &f, 0, LOG_ERROR) == AVT_INVALID);
        REQUIRE(l == NULL);
        require_said(bad[i].said, bad[i].culprit);
        require_said("some-lora.safetensors", "");
        buf_free(&f);
    }
    tmp_close();
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

static void test_some_alpha(void **state)
{
    const float one = 1;
    const FileTensor t[] = { A_OF("x.q"), B_OF("x.q"), A_OF("x.k"), B_OF("x.k"), { "x.k.alpha", "F32", 0, { 0 }, &one, 4 } };
    Buf f = st_make(t, 5, NULL, 1);
    Lora *l;

    (void)state;
    tmp_open();
    REQUIRE(open_file(&l, &f, 0, LOG_ERROR) == AVT_INVALID);
    require_said("some pairs have an alpha", "x.q has not");
    buf_free(&f);
    tmp_close();
}

static void test_refused_merge(void **state)
{
    float bad[R * IN] = { 0 }, v[OUT * IN] = { 0 };
    const FileTensor t[] = {
        A_OF("x.q"), B_OF("x.q"), { "x.k.lora_A.weight", "F32", 2, { R, IN }, bad, sizeof(bad) }, B_OF("x.k")
    };
    Buf f;
    Lora *l;

    (void)state;
    tmp_open();
    bad[5] = INFINITY;
    f = st_make(t, 4, NULL, 1);
    REQUIRE_OK(open_file(&l, &f, 0, LOG_ERROR));
    REQUIRE(avt_lora_merge(l, "x.q", bench.be, v, OUT, IN + 1, test_log()) == AVT_INVALID);
    require_said("pair x.q: A is [3, 21] and B is [13, 3]", "but the weight is [13, 22]");
    REQUIRE(avt_lora_merge(l, "x.k", bench.be, v, OUT, IN, test_log()) == AVT_INVALID);
    require_said("x.k.lora_A.weight: value 5 is not finite", "some-lora.safetensors");
    REQUIRE(avt_lora_finish(l, test_log()) == AVT_INVALID);
    require_said("2 of 2 pairs match no weight", "the first is x.k");
    avt_lora_close(&l);
    buf_free(&f);
    tmp_close();
}

static void test_zero(void **state)
{
    static const float none[1];
    const FileTensor t[2][3] = { { A_OF("x.q"), { "x.q.lora_B.weight", "F32", 2, { OUT, R }, zero, sizeof(zero) } },
                                 { A_OF("x.q"), B_OF("x.q"), { "x.q.alpha", "F32", 0, { 0 }, none, 4 } } };

    (void)state;
    tmp_open();
    for (int i = 0; i < 2; i++) {
        float v[OUT * IN] = { 0 };
        Buf f = st_make(t[i], 2 + i, NULL, 1);
        Lora *l;

        REQUIRE_OK(open_file(&l, &f, 0, LOG_ERROR));
        REQUIRE(avt_lora_merge(l, "x.q", bench.be, v, OUT, IN, test_log()) == 1);
        REQUIRE_OK(avt_lora_finish(l, test_log()));
        require_said("is zero, so this LoRA changes nothing", "some-lora.safetensors");
        avt_lora_close(&l);
        buf_free(&f);
    }
    tmp_close();
}

/* ---- with the binder ----------------------------------------------------------------------------------------------- */

static uint16_t w16[OUT * IN];

/* A network of the four modules (and one that is no target), bf16 or f32, with that LoRA. */
static int bind_all(TestBench *t, Binder *binder, Lora *l, const char *dtype, Linear out[NB], const char *extra)
{
    const int half = !strcmp(dtype, "BF16");
    static char names[NB + 1][64];
    FileTensor ft[NB + 1];
    Buf f;
    Ckpt *c;
    int ret;

    for (int i = 0; i <= NB; i++) {
        snprintf(names[i], sizeof(names[i]), "%s.weight", i < NB ? modules[i] : extra);
        ft[i] = (FileTensor){ names[i], dtype, 2, { OUT, IN }, half ? (const void *)w16 : w, half ? sizeof(w16) : sizeof(w) };
    }
    f = st_make(ft, NB + 1, NULL, 1);
    REQUIRE_OK(avt_ckpt_open_memory(&c, "base.safetensors", f.p, f.n, NULL));
    REQUIRE_OK(avt_binder_open(binder, c, l, t->arena, "dit", DT_F32, test_log()));
    for (int i = 0; i < NB; i++)
        out[i] = avt_bind_linear(binder, OUT, IN, 0, "%s", modules[i]);
    avt_bind_linear(binder, OUT, IN, 0, "%s", extra);
    ret = avt_binder_finish(binder, 0);
    avt_binder_close(binder);
    avt_ckpt_close(&c);
    buf_free(&f);
    return ret;
}

/* What the weight does to the unit vectors is the weight. */
static void read_linear(TestBench *t, const Linear *l, float *v)
{
    float one[IN * IN] = { 0 }, *got;
    Tensor in, out;

    for (int i = 0; i < IN; i++)
        one[i * IN + i] = 1;
    in = TEST_TENSOR(t, one, IN, IN);
    out = TEST_TENSOR(t, NULL, IN, OUT);
    avt_linear(t->be, out, in, l, ACT_NONE);
    got = test_read(t, out);
    for (int i = 0; i < IN; i++)
        for (int o = 0; o < OUT; o++)
            v[o * IN + i] = got[i * OUT + o];
    free(got);
}

/* A bf16 base is rounded once, after the sum in f32. */
static void test_bound(void **state)
{
    Buf f = make_file(&styles[1], NULL);
    Linear lin[NB];
    TestBench t;
    Binder binder;
    Lora *l;

    (void)state;
    tmp_open();
    test_bench_open(&t, "cpu", CPU_PLAIN, 1);
    for (int half = 0; half < 2; half++) {
        REQUIRE_OK(open_file(&l, &f, 0, LOG_ERROR));
        REQUIRE_OK(bind_all(&t, &binder, l, half ? "BF16" : "F32", lin, "time_embedding.0"));
        for (int i = 0; i < NB; i++) {
            float v[OUT * IN], base[OUT * IN], e[OUT * IN];

            memcpy(base, w, sizeof(w));
            if (half)
                avt_to_f32(base, DT_BF16, w16, 0, OUT * IN);
            memcpy(e, base, sizeof(e));
            REQUIRE(avt_lora_merge(l, modules[i], bench.be, e, OUT, IN, NULL) == 1);
            for (int k = 0; k < OUT * IN; k++) {
                REQUIRE(fabs(e[k] - (base[k] + 0.5 * want[i][k])) < 2e-6);
                e[k] = half ? avt_bf16_f32(avt_f32_bf16(e[k])) : e[k];
            }
            read_linear(&t, &lin[i], v);
            REQUIRE(!memcmp(v, e, sizeof(v)));
        }
        avt_lora_close(&l);
    }
    test_bench_close(&t);
    buf_free(&f);
    tmp_close();
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

/* The set of pairs is exactly the model's q, k, v, o, ffn.0, ffn.2: none missing, none left over. */
static void test_bound_sets(void **state)
{
    Buf f = make_file(&styles[0], NULL);
    const FileTensor more[] = { A_OF("x.q"), B_OF("x.q") };
    Buf g = st_make(more, 2, NULL, 1);
    Linear lin[NB];
    TestBench t;
    Binder binder;
    Lora *l;

    (void)state;
    tmp_open();
    test_bench_open(&t, "cpu", CPU_PLAIN, 1);
    REQUIRE_OK(open_file(&l, &f, 0, LOG_ERROR));
    REQUIRE(bind_all(&t, &binder, l, "F32", lin, "blocks.5.self_attn.v") == AVT_INVALID);
    require_said("blocks.5.self_attn.v.weight has no pair in the LoRA", "some-lora.safetensors");
    avt_lora_close(&l);
    REQUIRE_OK(open_file(&l, &g, 0, LOG_ERROR));
    REQUIRE(bind_all(&t, &binder, l, "F32", lin, "x.q") == AVT_INVALID);
    require_said("blocks.0.self_attn.q.weight has no pair", "dit: base.safetensors");
    avt_lora_close(&l);
    test_bench_close(&t);
    buf_free(&f);
    buf_free(&g);
    tmp_close();
}

static void test_no_memory(void **state)
{
    Buf f = make_file(&styles[0], NULL);
    float v[OUT * IN] = { 0 };
    Lora *l = NULL;
    const char *path;
    int n = 0, ret;

    (void)state;
    tmp_open();
    path = tmp_write("some-lora.safetensors", f.p, f.n);
    do {
        avt_mem_fail_at(++n);
        ret = avt_lora_open(&l, path, 0, NULL);
        if (ret >= 0)
            ret = avt_lora_merge(l, modules[0], bench.be, v, OUT, IN, NULL);
        avt_mem_fail_at(0);
        avt_reset(bench.be);
        REQUIRE(ret == 1 || ret == AVT_ERR(ENOMEM));
        avt_lora_close(&l);
        REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
    } while (ret < 0 && n < 1000);
    REQUIRE(n > 10 && n < 1000);
    buf_free(&f);
    tmp_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names), cmocka_unit_test(test_parts),      cmocka_unit_test(test_alpha),         cmocka_unit_test(test_refused),
        cmocka_unit_test(test_some_alpha), cmocka_unit_test(test_refused_merge), cmocka_unit_test(test_zero),
        cmocka_unit_test(test_bound),      cmocka_unit_test(test_bound_sets),    cmocka_unit_test(test_no_memory),
    };
    int ret;

    test_random(w, OUT * IN, 1);
    for (int i = 0; i < NB; i++) {
        test_random(a[i], R * IN, 10 + (uint64_t)i);
        test_random(b[i], OUT * R, 20 + (uint64_t)i);
        for (int o = 0; o < OUT; o++)
            for (int k = 0; k < IN; k++)
                for (int r = 0; r < R; r++)
                    want[i][o * IN + k] += b[i][o * R + r] * a[i][r * IN + k];
    }
    for (int i = 0; i < OUT * IN; i++)
        w16[i] = avt_f32_bf16(w[i]);
    test_bench_open(&bench, "cpu", CPU_PLAIN, 1);
    ret = test_main("lora", tests);
    test_bench_close(&bench);
    return ret;
}
