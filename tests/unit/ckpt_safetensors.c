/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* safetensors, index and shards, and what every file is asked before it is read: bit-equal back, or refused in a sentence. */
#include <time.h>
#include <math.h>

#include "base/half.h"
#include "base/mem.h"
#include "files.h"
#include "files/ckpt.h"

static const float f32[6] = { 0, 1, -2.5f, 3e38f, 1e-40f, -0.0f };
static const uint16_t h16[4] = { 0x3f80, 0x4000, 0xc000, 0x0001 };
static const uint8_t u8[5] = { 0, 1, 7, 0x7e, 255 };
static const double f64[2] = { 1.0 / 3, -1e-300 };
static const int64_t i64[2] = { -7, 1LL << 40 };
static const int32_t i32[3] = { -1, 0, 2147483647 };

static const FileTensor all[] = {
    { "z.u8", "U8", 1, { 5 }, u8, 5 },
    { "a.f32", "F32", 2, { 2, 3 }, f32, 24 },
    { "a.bf16", "BF16", 1, { 4 }, h16, 8 },
    { "a.f16", "F16", 3, { 1, 4, 1 }, h16, 8 },
    { "m.f64", "F64", 1, { 2 }, f64, 16 },
    { "m.i64", "I64", 1, { 2 }, i64, 16 },
    { "m.i32", "I32", 1, { 3 }, i32, 12 },
    { "scalar", "F32", 0, { 0 }, f32 + 2, 4 },
    { "nothing", "F32", 2, { 3, 0 }, f32, 0 },
    { "e4m3", "F8_E4M3", 1, { 4 }, u8, 4 },
    { "e5m2", "F8_E5M2", 1, { 4 }, u8, 4 },
    { "yes", "BOOL", 1, { 2 }, u8, 2 },
};
enum { NB_ALL = sizeof(all) / sizeof(all[0]) };

static void require_same(const Ckpt *c, const FileTensor *t)
{
    const CkptTensor *k = avt_ckpt_find(c, t->name);

    REQUIRE(k != NULL);
    REQUIRE(k->nd == t->nd && k->size == t->size);
    REQUIRE(!memcmp(k->dim, t->dim, sizeof(t->dim[0]) * (size_t)t->nd));
    require_bytes(c, t->name, t->data, t->size);
}

static void read_single(int align)
{
    Buf b = st_make(all, NB_ALL, "{\"format\":\"pt\",\"note\":\"a b\"}", align);
    Ckpt *c;

    REQUIRE_OK(avt_ckpt_open(&c, tmp_write("one.safetensors", b.p, b.n), test_log()));
    REQUIRE(avt_ckpt_nb(c) == NB_ALL);
    for (int i = 0; i < NB_ALL; i++)
        require_same(c, &all[i]);
    for (int i = 1; i < NB_ALL; i++)
        REQUIRE(strcmp(avt_ckpt_get(c, i - 1)->name, avt_ckpt_get(c, i)->name) < 0);
    REQUIRE(avt_ckpt_find(c, "a.bf16")->dtype == DT_BF16 && avt_ckpt_find(c, "e4m3")->dtype == DT_F8_E4M3);
    REQUIRE(avt_ckpt_find(c, "absent") == NULL && avt_ckpt_get(c, NB_ALL) == NULL);
    REQUIRE(!strcmp(avt_ckpt_find(c, "z.u8")->file->name, "one.safetensors"));
    REQUIRE_OK(avt_ckpt_unchanged(c, test_log()));
    avt_ckpt_close(&c);
    buf_free(&b);
}

static void test_single(void **state)
{
    (void)state;
    tmp_open();
    read_single(1);
    read_single(0);                                                 // tensors at odd addresses
    tmp_close();
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

static void test_conversion(void **state)
{
    uint8_t raw[9];
    float v[2];
    const double d = -2.5;
    const int64_t big = -(1LL << 33);

    (void)state;
    for (int i = 0; i < 65536; i++) {                               // at an odd address on purpose
        const uint16_t h = (uint16_t)i;

        memcpy(raw + 1, &h, 2);
        avt_to_f32(v, DT_BF16, raw + 1, 0, 1);
        REQUIRE(avt_f32_bits(v[0]) == (uint32_t)i << 16);
        avt_to_f32(v, DT_F16, raw + 1, 0, 1);
        REQUIRE(avt_f32_bits(v[0]) == avt_f32_bits(avt_f16_f32(h)));
    }
    for (int i = 0; i < 256; i++) {
        raw[0] = (uint8_t)i;
        avt_to_f32(v, DT_F8_E4M3, raw, 0, 1);
        REQUIRE(avt_f32_bits(v[0]) == avt_f32_bits(avt_e4m3_f32(raw[0])));
        avt_to_f32(v, DT_U8, raw, 0, 1);
        REQUIRE(v[0] == (float)i);
    }
    memcpy(raw + 1, &d, 8);
    avt_to_f32(v, DT_F64, raw + 1, 0, 1);
    REQUIRE(v[0] == -2.5f);
    memcpy(raw + 1, &big, 8);
    avt_to_f32(v, DT_I64, raw + 1, 0, 1);
    REQUIRE(v[0] == -8589934592.0f);
    avt_to_f32(v, DT_I32, i32, 0, 2);
    REQUIRE(v[0] == -1 && v[1] == 0);
}

/* The first bad value, wherever it is, in tensors longer than a piece. */
static void test_nonfinite(void **state)
{
    static const struct {
        DType type;
        uint32_t fine, bad[2];
    } kinds[] = {
        { DT_F32, 0x7f7fffff, { 0x7f800000, 0xffc00000 } },
        { DT_BF16, 0x7f7f, { 0x7f80, 0xff81 } },
        { DT_F16, 0x7bff, { 0x7c00, 0xfe00 } },
        { DT_F8_E4M3, 0x7e, { 0x7f, 0xff } },
        { DT_F8_E5M2, 0x7b, { 0x7c, 0xff } },
    };
    enum { N = 400000 };
    uint8_t *mem = malloc(4 * N + 1), *p = mem + 1;

    (void)state;
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        const size_t size = avt_dtype_size(kinds[k].type);
        const DType type = kinds[k].type;

        for (int i = 0; i < N; i++)
            memcpy(p + (size_t)i * size, &kinds[k].fine, size);
        REQUIRE(avt_nonfinite(type, p, N) == -1);
        memcpy(p + (N - 1) * size, &kinds[k].bad[0], size);
        REQUIRE(avt_nonfinite(type, p, N) == N - 1);
        memcpy(p + 70001 * size, &kinds[k].bad[1], size);
        REQUIRE(avt_nonfinite(type, p, N) == 70001);
        memcpy(p, &kinds[k].bad[1], size);
        REQUIRE(avt_nonfinite(type, p, N) == 0);
    }
    free(mem);
}

/* ---- what is refused ----------------------------------------------------------------------------------------------- */

static const struct {
    const char *header;
    size_t size;                        // of the data
    const char *said, *culprit;
} refused[] = {
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"w\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]}}",
      8, "'w' is given twice", "bad.safetensors" },
    { "{\"w\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "'dtype' is given twice",
      "bad.safetensors" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "ends before it begins", "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 8, "is the download complete?", "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9223372036854775807]}}", 8, "ends 9223372036854775807 bytes behind",
      "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"v\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
      12, "overlaps", "tensor v" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}",
      16, "a hole", "tensor v" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "a hole", "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "4 bytes follow the last tensor",
      "bad.safetensors" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "f32 [3] needs 12 bytes, but has 8",
      "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,8]}}", 8, "too large", "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,8]}}", 8, "too large", "tensor w" },
    { "{\"w\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "unknown type F33", "tensor w" },
    { "{\"w\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "type F4 is not supported", "tensor w" },
    { "{\"w\":{\"dtype\":\"I16\",\"shape\":[4],\"data_offsets\":[0,8]}}", 8, "type I16 is not supported", "tensor w" },
    { "{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "has no \"dtype\"", "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "has no \"shape\"", "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "has no \"data_offsets\"", "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "has no \"data_offsets\"", "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}", 8, "not a list of whole numbers", "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, "more than 8 dimensions",
      "tensor w" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "between 0 and 2^63 - 1", "bad.safetensors" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, "whole", "bad.safetensors" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,99999999999999999999]}}", 8, "between 0",
      "bad.safetensors" },
    { "{\"w\":[1,2]}", 8, "not described by an object", "tensor w" },
    { "{\"__metadata__\":{\"a\":1}}", 0, "not an object of texts", "__metadata__" },
    { "{\"__metadata__\":\"a\"}", 0, "not an object of texts", "__metadata__" },
    { "{\"w\\u0000\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "control byte", "bad.safetensors" },
    { "{\"\xff\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "damaged JSON", "bad.safetensors" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[[[2]]],\"data_offsets\":[0,8]}}", 8, "nested too deep", "bad.safetensors" },
    { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}} x", 8, "follows the object", "bad.safetensors" },
};

static void require_refused(const Buf *b, const char *name, const char *said, const char *culprit)
{
    const int64_t calls = avt_mem_bytes(MEM_CKPT);
    Ckpt *c;

    REQUIRE(avt_ckpt_open(&c, tmp_write(name, b->p, b->n), test_log()) == AVT_INVALID);
    REQUIRE(c == NULL);
    require_said(said, culprit);
    require_said(name, said);
    REQUIRE(avt_mem_bytes(MEM_CKPT) == calls);
}

static void test_refused_headers(void **state)
{
    static const uint8_t zeros[64];

    (void)state;
    tmp_open();
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        Buf b = st_raw(refused[i].header, zeros, refused[i].size);

        require_refused(&b, "bad.safetensors", refused[i].said, refused[i].culprit);
        buf_free(&b);
    }
    tmp_close();
}

/* The first eight bytes are a number that nobody vouches for. */
static void test_refused_lengths(void **state)
{
    static const struct {
        uint64_t n;
        const char *said;
    } lengths[] = {
        { 0, "neither" },          { 100000001, "a header of" }, { UINT64_MAX, "a header of" }, { UINT64_MAX - 7, "a header of" },
        { 99999999, "complete?" }, { 3, "complete?" },
    };

    (void)state;
    tmp_open();
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        Buf b = { 0 };

        buf_int(&b, lengths[i].n, 8);
        buf_text(&b, "{}");
        require_refused(&b, "bad.safetensors", lengths[i].said, "bad.safetensors");
        buf_free(&b);
    }
    tmp_close();
}

static void test_refused_files(void **state)
{
    static const struct {
        const char *name, *text;
        size_t n;
        const char *said;
    } files[] = {
        { "e.safetensors", "", 0, "is empty" },
        { "s.safetensors", "\1\2\3", 3, "neither a .safetensors nor" },
        { "l.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", 65, "Git LFS pointer" },
        { "h.safetensors", "<!DOCTYPE html><html><head><title>404</title></head></html>", 58, "looks like text" },
        { "j.safetensors", "{\"error\": \"Repository not found\", \"code\": 404, \"and\": \"so on and on\"}", 68,
          "looks like text" },
        { "t.safetensors.part", "\x10\0\0\0\0\0\0\0{", 9, "did not finish" },
        { "t.safetensors.incomplete", "\x10\0\0\0\0\0\0\0{", 9, "did not finish" },
        { "g.gguf", "GGUF\3\0\0\0", 8, "ends inside its header" },
        { "old.pth", "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15, "old format" },
    };
    Ckpt *c;

    (void)state;
    tmp_open();
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        Buf b = { (uint8_t *)files[i].text, files[i].n };

        require_refused(&b, files[i].name, files[i].said, files[i].name);
    }
    REQUIRE(avt_ckpt_open(&c, tmp_path("none.safetensors"), test_log()) == AVT_ERR(ENOENT));
    require_said("none.safetensors", "No such file");
    REQUIRE(avt_ckpt_open(&c, tmp_dir, test_log()) == AVT_ERR(EISDIR));
    require_said(tmp_dir, "is a folder");
    REQUIRE_OK(mkfifo(tmp_path("pipe.safetensors"), 0600));         // nobody writes: to wait would be for ever
    REQUIRE(avt_ckpt_open(&c, tmp_path("pipe.safetensors"), test_log()) == AVT_ERR(EINVAL));
    require_said("pipe.safetensors", "not a regular file");
    REQUIRE(avt_ckpt_open(&c, "/dev/zero", test_log()) == AVT_ERR(EINVAL));
    require_said("/dev/zero", "not a regular file");
    tmp_close();
}

/* ---- index and shards ---------------------------------------------------------------------------------------------- */

#define INDEX "m.safetensors.index.json"

static void write_shards(void)
{
    st_write("m-1.safetensors", all, 4);
    st_write("m-2.safetensors", all + 4, 2);
}

static int open_index(Ckpt **c, const char *index)
{
    return avt_ckpt_open(c, tmp_text(INDEX, index), test_log());
}

#define MAP4                                                                                                                \
    "\"z.u8\":\"m-1.safetensors\",\"a.f32\":\"m-1.safetensors\",\"a.bf16\":\"m-1.safetensors\",\"a.f16\":\"m-1.safetensors\""
#define MAP6 MAP4 ",\"m.f64\":\"m-2.safetensors\",\"m.i64\":\"m-2.safetensors\""

static void test_index(void **state)
{
    Ckpt *c;

    (void)state;
    tmp_open();
    write_shards();
    REQUIRE_OK(open_index(&c, "{\"metadata\":{\"total_size\":77},\"weight_map\":{" MAP6 "}}"));
    REQUIRE(!test_log_text()[0]);
    REQUIRE(avt_ckpt_nb(c) == 6);
    for (int i = 0; i < 6; i++)
        require_same(c, &all[i]);
    REQUIRE(!strcmp(avt_ckpt_find(c, "m.i64")->file->name, "m-2.safetensors"));
    avt_ckpt_close(&c);
    REQUIRE_OK(open_index(&c, "{\"metadata\":{\"total_size\":78},\"weight_map\":{" MAP6 "}}"));
    require_said("total_size says 78", "77");
    avt_ckpt_close(&c);
    tmp_close();
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

static void test_refused_index(void **state)
{
    static const struct {
        const char *index, *said, *culprit;
    } bad[] = {
        { "{}", "has no \"weight_map\"", INDEX },
        { "{\"weight_map\":{}}", "has no \"weight_map\"", INDEX },
        { "{\"weight_map\":{\"w\":\"/etc/m.safetensors\"}}", "bare name", "tensor w" },
        { "{\"weight_map\":{\"w\":\"../m-1.safetensors\"}}", "bare name", "tensor w" },
        { "{\"weight_map\":{\"w\":\"a\\\\m-1.safetensors\"}}", "bare name", "tensor w" },
        { "{\"weight_map\":{\"w\":\"m-1.safetensors\\u0000.safetensors\"}}", "control byte", "index" },
        { "{\"weight_map\":{\"w\":\"m-1.bin\"}}", "bare name", "tensor w" },
        { "{\"weight_map\":{\"w\":5}}", "bare name", "tensor w" },
        { "{\"weight_map\":{" MAP4 ",\"m.f64\":\"m-3.safetensors\"}}", "cannot be opened", "m-3.safetensors" },
        { "{\"weight_map\":{" MAP6 ",\"more\":\"m-2.safetensors\"}}", "tensor more is not in its shard m-2", INDEX },
        { "{\"weight_map\":{" MAP4 ",\"m.f64\":\"m-2.safetensors\"}}",
          "tensor m.i64 of shard m-2.safetensors is not in the index", INDEX },
        { "{\"weight_map\":{" MAP4 ",\"m.f64\":\"m-1.safetensors\",\"m.i64\":\"m-2.safetensors\"}}",
          "m.f64 should be in shard m-1", "is in m-2" },
        { "{\"weight_map\":{" MAP6 ",\"twice\":\"m-4.safetensors\"}}", "tensor z.u8 is there twice", "m-4.safetensors" },
    };
    Ckpt *c;

    (void)state;
    tmp_open();
    write_shards();
    st_write("m-4.safetensors", all, 1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        REQUIRE(open_index(&c, bad[i].index) < 0);
        REQUIRE(c == NULL);
        require_said(bad[i].said, bad[i].culprit);
    }
    tmp_close();
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

static void make_link(const char *target, const char *name)
{
    REQUIRE_OK(symlink(target, tmp_path(name)));
}

/* Links stay inside the folder, but for a hub cache: snapshots/<revision>/file -> ../../blobs/<hash>. */
static void test_links(void **state)
{
    static const char index[] = "{\"weight_map\":{\"z.u8\":\"m-1.safetensors\"}}";
    Ckpt *c;

    (void)state;
    tmp_open();
    st_write("blobs/123", all, 1);
    tmp_text("snapshots/abc/" INDEX, index);
    make_link("../../blobs/123", "snapshots/abc/m-1.safetensors");
    REQUIRE_OK(avt_ckpt_open(&c, tmp_path("snapshots/abc/" INDEX), test_log()));
    require_same(c, &all[0]);
    avt_ckpt_close(&c);

    tmp_text("model/" INDEX, index);
    st_write("model/real.safetensors", all, 1);
    make_link("real.safetensors", "model/m-1.safetensors");
    REQUIRE_OK(avt_ckpt_open(&c, tmp_path("model/" INDEX), test_log()));
    avt_ckpt_close(&c);

    tmp_text("other/" INDEX, index);
    make_link("../blobs/123", "other/m-1.safetensors");
    REQUIRE(avt_ckpt_open(&c, tmp_path("other/" INDEX), test_log()) == AVT_INVALID);
    require_said("other/m-1.safetensors", "leads out of the folder");
    tmp_close();
}

/* ---- changes, damage, no memory ------------------------------------------------------------------------------------ */

static void test_changed(void **state)
{
    const char *path;
    Ckpt *c;

    (void)state;
    tmp_open();
    path = st_write("w.safetensors", all, 2);
    REQUIRE_OK(avt_ckpt_open(&c, path, test_log()));
    REQUIRE_OK(avt_ckpt_unchanged(c, test_log()));
    st_write("w.safetensors", all, 3);
    REQUIRE(avt_ckpt_unchanged(c, test_log()) == AVT_ERR(ESTALE));
    require_said("w.safetensors", "changed while it was read");
    REQUIRE_OK(remove(path));
    REQUIRE(avt_ckpt_unchanged(c, test_log()) == AVT_ERR(ESTALE));
    require_said("w.safetensors", "went away");
    avt_ckpt_close(&c);
    tmp_close();
}

/* A file that is shortened while it is open: its readers are told, where a mapping would end the process. */
static void test_shortened(void **state)
{
    enum { N = 50000 };
    static float v[N], back[N];
    const FileTensor t[] = { { "first", "F32", 1, { 4 }, f32, 16 }, { "last", "F32", 1, { N }, v, sizeof(v) } };
    const char *path;
    Ckpt *c;

    (void)state;
    tmp_open();
    path = st_write("w.safetensors", t, 2);
    REQUIRE_OK(avt_ckpt_open(&c, path, test_log()));
    REQUIRE_OK(truncate(path, 4096));
    REQUIRE_OK(avt_ckpt_read(avt_ckpt_find(c, "first"), back, 0, 16, test_log()));
    REQUIRE(!memcmp(back, f32, 16));
    REQUIRE(avt_ckpt_read(avt_ckpt_find(c, "last"), back, 0, sizeof(back), test_log()) == AVT_ERR(ESTALE));
    require_said("w.safetensors", "became shorter while it was read");
    avt_ckpt_close(&c);
    tmp_close();
}

/* A header of megabytes takes time as its size, whatever is in it: keys of metadata took the square of their number. */
static void test_long_metadata(void **state)
{
    const clock_t start = clock();
    char *text = malloc(8 << 20), *p = stpcpy(text, "{\"__metadata__\":{\"a\":\"\"");
    Ckpt *c;
    Buf b;

    (void)state;
    for (int i = 0; i < 200000; i++)
        p += sprintf(p, ",\"k%d\":\"v\"", i);
    strcpy(p, "}}");
    b = st_raw(text, "", 0);
    REQUIRE_OK(avt_ckpt_open_memory(&c, "meta", b.p, b.n, test_log()));
    avt_ckpt_close(&c);
    REQUIRE(clock() - start < 5 * CLOCKS_PER_SEC);
    buf_free(&b);
    free(text);
}

/* Opens the bytes in a block of exactly their size, so that a sanitizer sees one byte too many; reads what was accepted. */
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
        sum += avt_nonfinite(t->dtype, data, (int64_t)(t->size / avt_dtype_size(t->dtype)));
        free(data);
    }
    avt_ckpt_close(&c);
    free(copy);
    return ret < 0 ? ret : sum == -12345678;
}

static void test_damage(void **state)
{
    Buf b = st_make(all, 4, "{\"format\":\"pt\"}", 1);
    const size_t header = b.n - 45;                                 // 45 bytes of data

    (void)state;
    for (size_t i = 0; i < b.n; i++)
        REQUIRE(try_bytes(b.p, i) < 0);
    REQUIRE(try_bytes(b.p, b.n) == 0);
    for (size_t i = 0; i < header; i++)
        for (int v = 1; v < 256; v += i < 16 ? 1 : 5) {
            b.p[i] ^= (uint8_t)v;
            try_bytes(b.p, b.n);
            b.p[i] ^= (uint8_t)v;
        }
    buf_free(&b);
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

static void test_no_memory(void **state)
{
    Ckpt *c = NULL;
    int n = 0, ret;

    (void)state;
    tmp_open();
    write_shards();
    tmp_text(INDEX, "{\"weight_map\":{" MAP6 "}}");
    do {
        avt_mem_fail_at(++n);
        ret = avt_ckpt_open(&c, tmp_path(INDEX), NULL);
        avt_mem_fail_at(0);
        REQUIRE(ret == 0 || (ret == AVT_ERR(ENOMEM) && !c && avt_mem_bytes(MEM_CKPT) == 0));
    } while (ret < 0 && n < 1000);
    REQUIRE(n > 10 && n < 1000);
    avt_ckpt_close(&c);
    tmp_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single),          cmocka_unit_test(test_conversion),      cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_refused_headers), cmocka_unit_test(test_refused_lengths), cmocka_unit_test(test_refused_files),
        cmocka_unit_test(test_index),           cmocka_unit_test(test_refused_index),   cmocka_unit_test(test_links),
        cmocka_unit_test(test_changed), cmocka_unit_test(test_shortened), cmocka_unit_test(test_long_metadata),         cmocka_unit_test(test_damage),          cmocka_unit_test(test_no_memory),
    };

    return test_main("ckpt_safetensors", tests);
}
