/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PyTorch .pth: every style of archive read back bit-equal; hostile archives and pickles refused in a sentence, nothing
 * executed. */
#include "base/mem.h"
#include "files.h"
#include "files/ckpt.h"

static const float f32[6] = { 0, 1, -2.5f, 3e38f, 1e-40f, -0.0f };
static const uint16_t h16[4] = { 0x3f80, 0x4000, 0xc000, 0x0001 };
static const int64_t i64[2] = { -7, 1LL << 40 };
static const double f64[1] = { 0.1 };

static const FileTensor all[] = {
    { "encoder.conv.weight", "FloatStorage", 2, { 2, 3 }, f32, 24 },
    { "a.bf16", "BFloat16Storage", 4, { 1, 2, 1, 2 }, h16, 8 },
    { "a.half", "HalfStorage", 1, { 4 }, h16, 8 },
    { "steps", "LongStorage", 1, { 2 }, i64, 16 },
    { "d", "DoubleStorage", 0, { 0 }, f64, 8 },
    { "nothing", "FloatStorage", 2, { 0, 3 }, f32, 0 },
    { "bytes", "ByteStorage", 1, { 5 }, f32, 5 },
};
static const int elem[] = { 4, 2, 2, 8, 8, 4, 1 };
static const DType types[] = { DT_F32, DT_BF16, DT_F16, DT_I64, DT_F64, DT_F32, DT_U8 };
enum { NB_ALL = sizeof(all) / sizeof(all[0]) };

static const ZipStyle plain = { 0 }, torch_style = { .zero_local = 1, .align = 64 };

static int open_bytes(Ckpt **c, const Buf *b)
{
    return avt_ckpt_open_memory(c, "some/file.pth", b->p, b->n, test_log());
}

static void test_styles(void **state)
{
    static const ZipStyle styles[] = {
        { 0, 0, 0 }, { 1, 0, 0 }, { 0, 64, 0 }, { 1, 64, 0 }, { 0, 0, 1 }, { 1, 64, 1 },
    };
    Ckpt *c;

    (void)state;
    tmp_open();
    for (size_t s = 0; s < sizeof(styles) / sizeof(styles[0]); s++) {
        Buf b = pth_make(all, elem, NB_ALL, styles[s]);

        REQUIRE_OK(avt_ckpt_open(&c, tmp_write("w.pth", b.p, b.n), test_log()));
        REQUIRE(avt_ckpt_nb(c) == NB_ALL);
        for (int i = 0; i < NB_ALL; i++) {
            const CkptTensor *t = avt_ckpt_find(c, all[i].name);

            REQUIRE(t && t->dtype == types[i] && t->nd == all[i].nd && t->size == all[i].size);
            REQUIRE(!memcmp(t->dim, all[i].dim, sizeof(t->dim[0]) * (size_t)t->nd));
            require_bytes(c, all[i].name, all[i].data, all[i].size);
            REQUIRE(!strcmp(t->file->name, "w.pth"));
        }
        avt_ckpt_close(&c);
        buf_free(&b);
    }
    tmp_close();
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

/* Two views of one storage, one at an offset; a size of 1 may carry any stride; metadata and a parameter as torch writes them. */
static void test_views(void **state)
{
    Buf pkl = { 0 }, b;
    Ckpt *c;

    (void)state;
    pkl_begin(&pkl);
    pkl_text(&pkl, "whole");
    pkl_tensor(&pkl, "FloatStorage", "0", 6, 0, 2, (int64_t[]){ 3, 2 }, (int64_t[]){ 2, 1 });
    pkl_text(&pkl, "tail");
    pkl_tensor(&pkl, "FloatStorage", "0", 6, 4, 3, (int64_t[]){ 1, 2, 1 }, (int64_t[]){ 99, 1, 77 });
    pkl_text(&pkl, "param");
    buf_text(&pkl, "ctorch._utils\n_rebuild_parameter\n(");
    pkl_tensor(&pkl, "FloatStorage", "0", 6, 1, 1, (int64_t[]){ 2 }, (int64_t[]){ 1 });
    buf_text(&pkl, "\x88" "ccollections\nOrderedDict\n)RtR");
    buf_put(&pkl, "u}q\1X\t\0\0\0_metadatah\0sb.", 23);                // state: {"_metadata": the dict itself}
    b = zip_make((ZipFile[]){ { "x/data.pkl", pkl.p, pkl.n }, { "x/byteorder", "little", 6 }, { "x/data/0", f32, 24 } }, 3,
                 plain);
    REQUIRE_OK(open_bytes(&c, &b));
    REQUIRE(avt_ckpt_nb(c) == 3);
    require_bytes(c, "whole", f32, 24);
    require_bytes(c, "tail", f32 + 4, 8);
    require_bytes(c, "param", f32 + 1, 8);
    avt_ckpt_close(&c);
    buf_free(&pkl);
    buf_free(&b);
}

/* ---- pickles ------------------------------------------------------------------------------------------------------- */

static void require_refused(const Buf *b, const char *said)
{
    Ckpt *c;

    REQUIRE(open_bytes(&c, b) == AVT_INVALID);
    REQUIRE(c == NULL);
    require_said("some/file.pth", said);
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

static void require_pickle_refused(const void *pkl, size_t n, const char *said)
{
    Buf b = zip_make((ZipFile[]){ { "x/data.pkl", pkl, n }, { "x/data/0", f32, 24 } }, 2, torch_style);

    require_refused(&b, said);
    buf_free(&b);
}

#define P(text) text, sizeof(text) - 1

static void test_refused_pickles(void **state)
{
    static const struct {
        const char *p;
        size_t n;
        const char *said;
    } bad[] = {
        { P(""), "does not end" },
        { P("\x80\2}"), "does not end" },
        { P("\x80\3}."), "protocol 2" },
        { P("\x80\2}.."), "something follows" },
        { P("\x80\2cos\nsystem\n(X\2\0\0\0lstR."), "'os system'" },
        { P("\x80\2c__builtin__\neval\n."), "'__builtin__ eval'" },
        { P("\x80\2ctorch\nload\n."), "'torch load'" },
        { P("\x80\2cnumpy.core.multiarray\n_reconstruct\n."), "'numpy.core.multiarray _reconstruct'" },
        { P("\x80\2ctorch.storage\nUntypedStorage\n."), "'torch.storage UntypedStorage'" },
        { P("\x80\2(i__main__\nX\n."), "instruction 0x69" },
        { P("\x80\2\x93."), "instruction 0x93" },
        { P("\x80\2\x81."), "instruction 0x81" },
        { P("\x80\2\x82\1."), "instruction 0x82" },
        { P("\x80\2ctorch\nFloatStorage\n)R."), "may not be called" },
        { P("\x80\2})R."), "may not be called" },
        { P("\x80\2ccollections\nOrderedDict\nK\1\x85R."), "OrderedDict with arguments" },
        { P("\x80\2ctorch._utils\n_rebuild_tensor_v2\n)R."), "description of a tensor" },
        { P("\x80\2ctorch._utils\n_rebuild_parameter\n)R."), "description of a parameter" },
        { P("\x80\2R."), "may not be called" },
        { P("\x80\2\x85."), "too short for a tuple" },
        { P("\x80\2(\x85."), "too short for a tuple" },
        { P("\x80\2t."), "no mark" },
        { P("\x80\2}u."), "no mark" },
        { P("\x80\2}(X\1\0\0\0au."), "too short for the items" },
        { P("\x80\2]X\1\0\0\0aK\1s."), "is no dict" },
        { P("\x80\2}K\1a."), "is no list" },
        { P("\x80\2}(K\1e."), "is no list" },
        { P("\x80\2}}b."), "state dict" },
        { P("\x80\2q\0."), "stack is empty" },
        { P("\x80\2" "0."), "stack is empty" },
        { P("\x80\2h\5."), "never set" },
        { P("\x80\2}r\xff\xff\xff\xff."), "too large" },
        { P("\x80\2X\xff\xff\xff\xff" "abc."), "ends behind the file" },
        { P("\x80\2X\1"), "middle of an instruction" },
        { P("\x80\2G\1\2"), "middle of an instruction" },
        { P("\x80\2\x8a\x09" "123456789."), "more than 64 bits" },
        { P("\x80\2ctorch"), "name does not end" },
        { P("\x80\2K\1Q."), "no reference to a storage" },
        { P("\x80\2K\1."), "no state dict" },
        { P("\x80\2(t."), "no state dict" },
        { P("\x80\2."), "no state dict" },
        { P("\x80\2}}."), "no state dict" },
        { P("\x80\2}(K\1K\2u."), "name is malformed" },
        { P("\x80\2}(X\1\0\0\0aK\2u."), "'a' is not a tensor" },
        { P("\x80\2}(X\5\0\0\0model}u."), "wrapped in 'model'" },
        { P("\x80\2}q\0(X\4\0\0\0selfh\0u."), "wrapped in 'self'" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        require_pickle_refused(bad[i].p, bad[i].n, bad[i].said);
}

/* A tensor that is almost right: storage class, key, elements, offset, size, stride. */
static void test_refused_tensors(void **state)
{
    static const struct {
        const char *storage, *key;
        int64_t count, offset;
        int nd;
        int64_t dim[9], stride[9];
        const char *said;
    } bad[] = {
        { "FloatStorage", "1", 6, 0, 1, { 6 }, { 1 }, "data/1 is missing" },
        { "FloatStorage", "../0", 6, 0, 1, { 6 }, { 1 }, "key of a storage" },
        { "FloatStorage", "", 6, 0, 1, { 6 }, { 1 }, "key of a storage" },
        { "FloatStorage", "0", 5, 0, 1, { 5 }, { 1 }, "5 elements of f32 were declared, but it has 24 bytes" },
        { "DoubleStorage", "0", 6, 0, 1, { 6 }, { 1 }, "6 elements of f64 were declared" },
        { "FloatStorage", "0", -6, 0, 1, { 6 }, { 1 }, "were declared" },
        { "ShortStorage", "0", 12, 0, 1, { 12 }, { 1 }, "type ShortStorage" },
        { "FloatStorage", "0", 6, 1, 1, { 6 }, { 1 }, "beyond its storage" },
        { "FloatStorage", "0", 6, -1, 1, { 6 }, { 1 }, "beyond its storage" },
        { "FloatStorage", "0", 6, 0, 1, { 7 }, { 1 }, "beyond its storage" },
        { "FloatStorage", "0", 6, 0, 1, { -6 }, { 1 }, "malformed" },
        { "FloatStorage", "0", 6, 0, 2, { 2, 3 }, { 1, 2 }, "not contiguous" },
        { "FloatStorage", "0", 6, 0, 2, { 2, 2 }, { 3, 1 }, "not contiguous" },
        { "FloatStorage", "0", 6, 0, 1, { 3 }, { 0 }, "not contiguous" },
        { "FloatStorage", "0", 6, 0, 9, { 1, 1, 1, 1, 1, 1, 1, 1, 1 }, { 1, 1, 1, 1, 1, 1, 1, 1, 1 }, "malformed" },
        { "FloatStorage", "0", 6, 0, 3, { 0x7fffffff, 0x7fffffff, 0x7fffffff }, { 1, 0x7fffffff, 1 }, "not contiguous" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Buf pkl = { 0 };

        pkl_begin(&pkl);
        pkl_text(&pkl, "w");
        pkl_tensor(&pkl, bad[i].storage, bad[i].key, bad[i].count, bad[i].offset, bad[i].nd, bad[i].dim, bad[i].stride);
        pkl_end(&pkl);
        require_pickle_refused(pkl.p, pkl.n, bad[i].said);
        buf_free(&pkl);
    }
}

static void test_refused_names(void **state)
{
    Buf pkl = { 0 };

    (void)state;
    pkl_begin(&pkl);
    for (int i = 0; i < 2; i++) {
        pkl_text(&pkl, "w");
        pkl_tensor(&pkl, "FloatStorage", "0", 6, 0, 1, (int64_t[]){ 6 }, (int64_t[]){ 1 });
    }
    pkl_end(&pkl);
    require_pickle_refused(pkl.p, pkl.n, "tensor w is there twice");
    buf_free(&pkl);
    pkl_begin(&pkl);
    pkl_text(&pkl, "a\nb");
    pkl_tensor(&pkl, "FloatStorage", "0", 6, 0, 1, (int64_t[]){ 6 }, (int64_t[]){ 1 });
    pkl_end(&pkl);
    require_pickle_refused(pkl.p, pkl.n, "control byte");
    buf_free(&pkl);
}

/* A program that never ends by itself but for the million objects it may make. */
static void test_too_many(void **state)
{
    const size_t n = 1100000;
    char *pkl = malloc(n);

    (void)state;
    memset(pkl, '(', n);
    memcpy(pkl, "\x80\2", 2);
    require_pickle_refused(pkl, n, "more than a million");
    memset(pkl + 2, '}', n - 2);
    require_pickle_refused(pkl, n, "more than a million");
    free(pkl);
}

/* ---- archives ------------------------------------------------------------------------------------------------------ */

static const uint8_t empty_dict[] = "\x80\2}.";

static Buf small_zip(ZipStyle style)
{
    return zip_make((ZipFile[]){ { "x/data.pkl", empty_dict, 4 }, { "x/data/0", f32, 24 } }, 2, style);
}

static void put16(Buf *b, size_t at, int v)
{
    b->p[at] = (uint8_t)v;
    b->p[at + 1] = (uint8_t)(v >> 8);
}

static size_t find_sig(const Buf *b, uint32_t sig, int nth)
{
    for (size_t i = 0; i + 4 <= b->n; i++)
        if (!memcmp(b->p + i, &sig, 4) && !nth--)
            return i;
    fail_msg("no such record");
    return 0;
}

enum { LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50, END64 = 0x06064b50, LOC64 = 0x07064b50 };

static void test_refused_archives(void **state)
{
    static const struct {
        uint32_t sig;
        int nth, offset, value;         // a 16-bit field of that record
        int zip64;
        const char *said;
    } bad[] = {
        { END, 0, 0, 0, 0, "no end record" },
        { END, 0, 4, 1, 0, "several disks" },
        { END, 0, 6, 1, 0, "several disks" },
        { END, 0, 8, 3, 0, "several disks" },
        { END, 0, 20, 1, 0, "no end record" },
        { END, 0, 12, 0xfff0, 0, "outside the file" },
        { END, 0, 16, 0xfff0, 0, "outside the file" },
        { END, 0, 16, 1, 0, "ends too early" },
        { CENTRAL, 0, 0, 0, 0, "ends too early" },
        { CENTRAL, 1, 8, 1, 0, "data/0: is encrypted" },
        { CENTRAL, 1, 10, 8, 0, "data/0: is compressed" },
        { CENTRAL, 1, 20, 23, 0, "data/0: is stored, but has two sizes" },
        { CENTRAL, 1, 28, 0xfff0, 0, "ends too early" },
        { CENTRAL, 1, 34, 1, 0, "data/0: is on another disk" },
        { CENTRAL, 1, 42, 0, 0, "another name" },
        { CENTRAL, 1, 42, 0x7000, 0, "data/0: lies outside" },
        { CENTRAL, 1, 42, 7, 0, "data/0: has no local header" },
        { CENTRAL, 1, 46, 0, 0, "zero byte" },
        { LOCAL, 1, 0, 0, 0, "data/0: has no local header" },
        { LOCAL, 1, 6, 1, 0, "data/0: is compressed or encrypted" },
        { LOCAL, 1, 8, 8, 0, "data/0: is compressed or encrypted" },
        { LOCAL, 1, 22, 23, 0, "data/0: has another size" },
        { LOCAL, 1, 28, 0xfff0, 0, "data/0: lies outside" },
        { LOCAL, 1, 30, 'y', 0, "data/0: has another name" },
        { CENTRAL, 1, 54, 2, 1, "zip64 field is damaged" },
        { CENTRAL, 1, 56, 30, 1, "zip64 field is damaged" },
        { CENTRAL, 1, 56, 16, 1, "zip64 field is damaged" },
        { END64, 0, 0, 0, 1, "zip64 end record is not where" },
        { LOC64, 0, 8, 1, 1, "zip64 end record is not where" },
        { LOC64, 0, 14, 0x8000, 1, "zip64 end record is not where" },
        { LOC64, 0, 4, 1, 1, "several disks" },
        { LOC64, 0, 16, 2, 1, "several disks" },
        { LOC64, 0, 0, 0, 1, "needs a zip64 end record" },
        { END64, 0, 24, 3, 1, "several disks" },
        { END64, 0, 46, 0xffff, 1, "outside the file" },
        { END64, 0, 48, 0xfff0, 1, "outside the file" },
        { END, 0, 12, 5, 1, "contradict" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Buf b = small_zip((ZipStyle){ .zip64 = bad[i].zip64 });
        Ckpt *c;

        REQUIRE_OK(open_bytes(&c, &b));                             // an empty state dict, before it is spoilt
        avt_ckpt_close(&c);
        put16(&b, find_sig(&b, bad[i].sig, bad[i].nth) + (size_t)bad[i].offset, bad[i].value);
        require_refused(&b, bad[i].said);
        buf_free(&b);
    }
}

/* Counts of entries that the directory does not hold: fewer, more, absurdly many. */
static void test_refused_counts(void **state)
{
    static const struct {
        int nb;
        const char *said;
    } counts[] = { { 1, "longer than its entries" }, { 3, "" }, { 60000, "too many entries" } };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        Buf b = small_zip(plain);
        const size_t end = find_sig(&b, END, 0);

        put16(&b, end + 8, counts[i].nb);
        put16(&b, end + 10, counts[i].nb);
        require_refused(&b, counts[i].said);
        buf_free(&b);
    }
}

static void require_zip_refused(const ZipFile *f, int nb, const char *said)
{
    Buf b = zip_make(f, nb, plain);

    require_refused(&b, said);
    buf_free(&b);
}

static void test_refused_contents(void **state)
{
    const ZipFile pkl = { "x/data.pkl", empty_dict, 4 }, other = { "y/data.pkl", empty_dict, 4 };
    Buf b;
    size_t second;

    (void)state;
    require_zip_refused((ZipFile[]){ { "x/data/0", f32, 24 } }, 1, "without data.pkl");
    require_zip_refused((ZipFile[]){ pkl, other }, 2, "several data.pkl");
    require_zip_refused((ZipFile[]){ pkl, pkl }, 2, "x/data.pkl: is there twice");
    require_zip_refused((ZipFile[]){ pkl, { "x/byteorder", "big", 3 } }, 2, "big-endian");
    require_zip_refused((ZipFile[]){ pkl, { "x/constants.pkl", empty_dict, 4 } }, 2, "TorchScript");
    require_zip_refused((ZipFile[]){ pkl, { "x/code/__torch__.py", "pass", 4 } }, 2, "TorchScript");

    b = zip_make((ZipFile[]){ pkl, { "x/data/0", f32, 24 } }, 2, plain);        // one entry's data reach into the next
    second = find_sig(&b, CENTRAL, 0);
    put16(&b, second + 20, 50);
    put16(&b, second + 24, 50);
    put16(&b, find_sig(&b, LOCAL, 0) + 22, 50);
    require_refused(&b, "overlaps");
    buf_free(&b);
}

/* ---- damage -------------------------------------------------------------------------------------------------------- */

static int try_bytes(const uint8_t *p, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    int64_t sum = 0;
    Ckpt *c;
    int ret;

    if (n)
        memcpy(copy, p, n);
    ret = avt_ckpt_open_memory(&c, "bytes", copy, n, NULL);
    for (int64_t i = 0; c && i < avt_ckpt_nb(c); i++) {
        const CkptTensor *t = avt_ckpt_get(c, i);

        uint8_t *data = ckpt_bytes(t);

        for (size_t k = 0; k < t->size; k++)
            sum += data[k];
        free(data);
    }
    avt_ckpt_close(&c);
    free(copy);
    return ret < 0 ? ret : sum == -12345678;
}

static void test_damage(void **state)
{
    (void)state;
    for (int zip64 = 0; zip64 < 2; zip64++) {
        Buf b = pth_make(all, elem, 3, (ZipStyle){ .zero_local = !zip64, .zip64 = zip64 });

        for (size_t i = 0; i < b.n; i++)
            REQUIRE(try_bytes(b.p, i) < 0);
        REQUIRE(try_bytes(b.p, b.n) == 0);
        for (size_t i = 0; i < b.n; i++)
            for (int v = 1; v < 256; v += 3) {
                b.p[i] ^= (uint8_t)v;
                try_bytes(b.p, b.n);
                b.p[i] ^= (uint8_t)v;
            }
        buf_free(&b);
    }
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

static void test_no_memory(void **state)
{
    Buf b = pth_make(all, elem, NB_ALL, torch_style);
    Ckpt *c = NULL;
    int n = 0, ret;

    (void)state;
    do {
        avt_mem_fail_at(++n);
        ret = avt_ckpt_open_memory(&c, "bytes", b.p, b.n, NULL);
        avt_mem_fail_at(0);
        REQUIRE(ret == 0 || (ret == AVT_ERR(ENOMEM) && !c && avt_mem_bytes(MEM_CKPT) == 0));
    } while (ret < 0 && n < 1000);
    REQUIRE(n > 10 && n < 1000);
    avt_ckpt_close(&c);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_styles), cmocka_unit_test(test_views), cmocka_unit_test(test_refused_pickles),
        cmocka_unit_test(test_refused_tensors), cmocka_unit_test(test_refused_names), cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_refused_archives), cmocka_unit_test(test_refused_counts), cmocka_unit_test(test_refused_contents),
        cmocka_unit_test(test_damage), cmocka_unit_test(test_no_memory),
    };

    return test_main("ckpt_pth", tests);
}
