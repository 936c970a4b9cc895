/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* GGUF: every type with the bits that the package `gguf` gives (tests/ref/gguf_ref.py), names, and what is refused in a sentence. */
#include "base/mem.h"
#include "files.h"
#include "files/bind.h"
#include "files/ckpt.h"
#include "config.h"
#include "kernels.h"

static const char *gold(const char *name)
{
    static char path[600];

    snprintf(path, sizeof(path), AVT_SRCDIR "/tests/gold/gguf/%s", name);
    return path;
}

static int open_bytes(Ckpt **c, const Buf *b)
{
    return avt_ckpt_open_memory(c, "some/file.gguf", b->p, b->n, test_log());
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

static void require_widened(const CkptTensor *t, const CkptTensor *want)
{
    const int64_t nb = avt_ckpt_values(t);
    float *have = malloc((size_t)nb * sizeof(*have)), *expected = ckpt_bytes(want);
    void *raw = ckpt_bytes(t);

    REQUIRE(t->nd == want->nd && !memcmp(t->dim, want->dim, sizeof(t->dim[0]) * (size_t)t->nd));
    REQUIRE(nb == avt_ckpt_values(want) && avt_ckpt_size(t, nb) == t->size);
    avt_ckpt_widen(have, t, raw, nb);
    for (int64_t i = 0; i < nb; i++)
        if (memcmp(&have[i], &expected[i], sizeof(*have)))
            fail_msg("%s: value %lld is %.9g, the package gives %.9g", t->name, (long long)i, have[i], expected[i]);
    free(have);
    free(expected);
    free(raw);
}

static void test_types(void **state)
{
    Ckpt *c, *want;

    (void)state;
    REQUIRE_OK(avt_ckpt_open(&c, gold("blocks.gguf"), test_log()));
    REQUIRE_OK(avt_ckpt_open(&want, gold("blocks.safetensors"), test_log()));
    REQUIRE(avt_ckpt_nb(c) == 13 && avt_ckpt_nb(want) == 13);
    REQUIRE(!strcmp(avt_ckpt_note(c), "GGUF 3, architecture wan"));
    for (int64_t i = 0; i < avt_ckpt_nb(want); i++) {
        const CkptTensor *w = avt_ckpt_get(want, i), *t = avt_ckpt_find(c, w->name);

        REQUIRE(t != NULL);
        REQUIRE(!strcmp(avt_ckpt_type(t), t->name + 2));            // a.q4_k
        require_widened(t, w);
    }
    avt_ckpt_close(&c);
    avt_ckpt_close(&want);
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

/* A packed weight through the binder, on a backend: the same as its f32 values. */
static void test_bound(void **state)
{
    Backend *be;
    Binder b;
    Arena *a;
    Ckpt *c, *want;
    Tensor t;
    float have[3 * 512], *expected;

    (void)state;
    REQUIRE_OK(avt_ckpt_open(&c, gold("blocks.gguf"), test_log()));
    REQUIRE_OK(avt_ckpt_open(&want, gold("blocks.safetensors"), test_log()));
    REQUIRE_OK(avt_backend_open(&be, "cpu", &(BackendOptions){ .log = test_log() }));
    REQUIRE_OK(avt_arena_open(&a, be, "test", 1 << 20));
    REQUIRE_OK(avt_binder_open(&b, c, NULL, a, "test", DT_F32, test_log()));
    t = avt_bind(&b, WEIGHT_PLAIN, AVT_DIMS(3, 512), "a.q4_k");
    avt_bind_ignore(&b, "a.*");
    REQUIRE_OK(avt_binder_finish(&b, 0));
    REQUIRE_OK(avt_download(be, have, t));
    expected = ckpt_bytes(avt_ckpt_find(want, "a.q4_k"));
    REQUIRE(!memcmp(have, expected, sizeof(have)));
    free(expected);
    avt_binder_close(&b);
    avt_arena_close(&a);
    avt_backend_close(&be);
    avt_ckpt_close(&c);
    avt_ckpt_close(&want);
}

/* ---- names --------------------------------------------------------------------------------------------------------- */

static void test_names(void **state)
{
    static const char *const wanted[] = {
        "token_embedding.weight", "blocks.11.attn.q.weight", "blocks.11.attn.k.weight", "blocks.11.attn.v.weight",
        "blocks.11.attn.o.weight", "blocks.11.norm1.weight", "blocks.11.pos_embedding.embedding.weight", "blocks.11.norm2.weight",
        "blocks.11.ffn.gate.0.weight", "blocks.11.ffn.fc1.weight", "blocks.11.ffn.fc2.weight", "norm.weight", "blocks.0.ffn.0.bias",
        "patch_embedding.weight", "cond_encoder.weight",
    };
    static const int64_t kernel[5] = { 6, 16, 1, 2, 2 };
    Ckpt *c;

    (void)state;
    REQUIRE_OK(avt_ckpt_open(&c, gold("names.gguf"), test_log()));
    REQUIRE(avt_ckpt_nb(c) == sizeof(wanted) / sizeof(wanted[0]));
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        REQUIRE(avt_ckpt_find(c, wanted[i]) != NULL);
    for (int i = 13; i < 15; i++) {
        const CkptTensor *t = avt_ckpt_find(c, wanted[i]);

        REQUIRE(t->nd == 5 && !memcmp(t->dim, kernel, sizeof(kernel)));
    }
    avt_ckpt_close(&c);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------ */

static const uint8_t data[64];

/* A file of one tensor, described as said. */
static void refuse_tensor(GgufTensor t, uint64_t offset, size_t size, const char *said)
{
    Buf b = { 0 };
    Ckpt *c;

    gguf_head(&b, 1, 0);
    gguf_info(&b, &t, offset);
    gguf_pad(&b);
    buf_put(&b, data, size);
    REQUIRE(open_bytes(&c, &b) == AVT_INVALID && !c);
    require_said("some/file.gguf", said);
    buf_free(&b);
}

static void test_bad_tensors(void **state)
{
    const GgufTensor ok = { "w", 0, 1, { 8 }, NULL, 0 };
    char name[300];
    GgufTensor t = ok;

    (void)state;
    refuse_tensor(ok, 0, 31, "complete?");
    refuse_tensor(ok, 32, 64, "begins at 32, but 0");
    refuse_tensor(ok, 4, 64, "begins at 4, but 0");
    refuse_tensor(ok, UINT64_MAX - 31, 32, "more than the file has");
    refuse_tensor(ok, 0, 64, "32 bytes follow");
    t.type = 23;
    refuse_tensor(t, 0, 32, "iq4_xs is not supported");
    t.type = 5;
    refuse_tensor(t, 0, 32, "type number 5");
    t.type = UINT32_MAX;
    refuse_tensor(t, 0, 32, "is not known");
    t = (GgufTensor){ "w", 8, 2, { 1, 48 }, NULL, 0 };
    refuse_tensor(t, 0, 64, "no whole blocks of q8_0");
    t = (GgufTensor){ "w", 0, 2, { 0, 8 }, NULL, 0 };
    refuse_tensor(t, 0, 32, "a dimension of 0");
    t = (GgufTensor){ "w", 0, 3, { INT64_MAX, INT64_MAX, 8 }, NULL, 0 };
    refuse_tensor(t, 0, 32, "too large for any file");
    t = (GgufTensor){ "w", 0, 0, { 0 }, NULL, 0 };
    refuse_tensor(t, 0, 32, "0 dimensions");
    memset(name, 'x', sizeof(name));
    name[299] = 0;
    t = ok;
    t.name = name;
    refuse_tensor(t, 0, 32, "299 bytes");
}

static void test_tiling(void **state)
{
    const GgufTensor t[3] = { { "a", 0, 1, { 8 }, data, 32 }, { "b", 1, 1, { 8 }, data, 16 }, { "a", 0, 1, { 1 }, data, 4 } };
    static const uint64_t at[][2] = { { 0, 0 }, { 0, 64 }, { 32, 32 } };
    Buf b = gguf_make(t, 2);
    Ckpt *c;

    (void)state;
    REQUIRE_OK(open_bytes(&c, &b));
    require_bytes(c, "b", data, 16);
    avt_ckpt_close(&c);
    b.n -= 16;                                                      // the last padding may be missing
    REQUIRE_OK(open_bytes(&c, &b));
    avt_ckpt_close(&c);
    buf_free(&b);
    for (int i = 0; i < 3; i++) {                                   // overlap, a hole, nothing at the beginning
        gguf_head(&b, 2, 0);
        gguf_info(&b, &t[0], at[i][0]);
        gguf_info(&b, &t[1], at[i][1]);
        gguf_pad(&b);
        buf_zeros(&b, 96);
        REQUIRE(open_bytes(&c, &b) == AVT_INVALID);
        require_said("its data begins at", "is where it should");
        buf_free(&b);
    }
    b = gguf_make((const GgufTensor[]){ t[0], t[2] }, 2);
    REQUIRE(open_bytes(&c, &b) == AVT_INVALID);
    require_said("tensor a is there twice", "file.gguf");
    buf_free(&b);
}

/* A file of keys alone; put() writes the value of one key of the name and type given. */
static void refuse_key(const char *key, uint32_t type, const void *value, size_t size, const char *said)
{
    Buf b = { 0 };
    Ckpt *c;

    gguf_head(&b, 0, 1);
    gguf_text(&b, key);
    buf_int(&b, type, 4);
    buf_put(&b, value, size);
    buf_zeros(&b, 64);
    REQUIRE(open_bytes(&c, &b) == AVT_INVALID && !c);
    require_said("some/file.gguf", said);
    buf_free(&b);
}

static void test_bad_keys(void **state)
{
    (void)state;
    refuse_key("k", 13, "", 0, "type 13, which does not exist");
    refuse_key("k", 9, "\x9\0\0\0\1\0\0\0\0\0\0\0", 12, "list of type 9");
    refuse_key("k", 9, "\4\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f", 12, "ends inside its header");
    refuse_key("k", 8, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, "ends inside its header");
    refuse_key("general.alignment", 4, "\x30\0\0\0", 4, "must be a power of two");
    refuse_key("general.alignment", 4, "\0\0\0\0", 4, "must be a power of two");
    refuse_key("general.alignment", 6, "\0\0\0\0", 4, "must be a power of two");
    refuse_key("general.architecture", 8, "\3\0\0\0\0\0\0\0a\0b", 11, "holds a zero byte");
    refuse_key("split.count", 2, "\3\0", 2, "one of 3 parts");
}

static void test_bad_heads(void **state)
{
    static const struct { const char *head; const char *said; } heads[] = {
        { "GGUF\1\0\0\0" "\0\0\0\0\0\0\0\0" "\0\0\0\0\0\0\0\0", "version 1" },
        { "GGUF\0\0\0\3" "\0\0\0\0\0\0\0\0" "\0\0\0\0\0\0\0\0", "big-endian" },
        { "GGUF\3\0\0\0" "\xff\xff\xff\xff\0\0\0\0" "\0\0\0\0\0\0\0\0", "at most 100000" },
        { "GGUF\3\0\0\0" "\1\0\0\0\0\0\0\0" "\0\0\0\0\0\0\0\0", "too short" },
        { "GGUF\3\0\0\0" "\0\0\0\0\0\0\0\0" "\xff\xff\xff\xff\xff\xff\xff\xff", "too short" },
    };
    Ckpt *c;

    (void)state;
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        const Buf b = { (uint8_t *)heads[i].head, 24 };

        REQUIRE(open_bytes(&c, &b) == AVT_INVALID);
        require_said("some/file.gguf", heads[i].said);
    }
}

/* Whatever a file is cut to, it is refused. */
static void test_cut(void **state)
{
    static uint8_t file[9000];
    FILE *f = fopen(gold("names.gguf"), "rb");
    const size_t n = f ? fread(file, 1, sizeof(file), f) : 0;
    Ckpt *c;

    (void)state;
    REQUIRE(n > 4000);
    fclose(f);
    for (size_t k = 8; k + 32 < n; k += k < 1600 ? 1 : 97) {
        uint8_t *cut = malloc(k);                                   // so that a sanitizer sees a byte too far

        memcpy(cut, file, k);
        REQUIRE(avt_ckpt_open_memory(&c, "cut", cut, k, NULL) == AVT_INVALID);
        free(cut);
    }
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

/* Not a number among the scales: found when the weight is bound, with its place. */
static void test_not_finite(void **state)
{
    uint8_t block[68] = { 0 };
    const GgufTensor t = { "w.weight", 8, 2, { 2, 32 }, block, 68 };
    Backend *be;
    Binder b;
    Arena *a;
    Ckpt *c;
    Buf file;

    (void)state;
    block[34] = 0, block[35] = 0x7e;                                // f16 NaN
    file = gguf_make(&t, 1);
    REQUIRE_OK(open_bytes(&c, &file));
    REQUIRE_OK(avt_backend_open(&be, "cpu", &(BackendOptions){ .log = test_log() }));
    REQUIRE_OK(avt_arena_open(&a, be, "test", 1 << 16));
    REQUIRE_OK(avt_binder_open(&b, c, NULL, a, "test", DT_F32, test_log()));
    avt_bind(&b, WEIGHT_LINEAR, AVT_DIMS(2, 32), "w.weight");
    REQUIRE(avt_binder_finish(&b, 0) == AVT_INVALID);
    require_said("value 32 of [2, 32] is not finite", "w.weight");
    avt_binder_close(&b);
    avt_arena_close(&a);
    avt_backend_close(&be);
    avt_ckpt_close(&c);
    buf_free(&file);
}

static void test_no_memory(void **state)
{
    Ckpt *c = NULL;
    int n = 0, ret;

    (void)state;
    do {
        avt_mem_fail_at(++n);
        ret = avt_ckpt_open(&c, gold("names.gguf"), NULL);
        avt_mem_fail_at(0);
        REQUIRE(ret == 0 || (ret == AVT_ERR(ENOMEM) && !c && avt_mem_bytes(MEM_CKPT) == 0));
    } while (ret < 0 && n < 1000);
    REQUIRE(n > 10 && n < 1000);
    avt_ckpt_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types), cmocka_unit_test(test_bound), cmocka_unit_test(test_names), cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_tiling), cmocka_unit_test(test_bad_keys), cmocka_unit_test(test_bad_heads), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_no_memory),
    };

    return test_main("ckpt_gguf", tests);
}
