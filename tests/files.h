/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writers of tiny files for the tests of model/files: a growing buffer, a temporary folder, safetensors, GGUF, zip and pickle.
 * They know nothing of the readers and can write what no honest program writes.
 */
#ifndef AVT_TEST_FILES_H
#define AVT_TEST_FILES_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files/ckpt.h"
#include "test.h"

/* ---- buffer -------------------------------------------------------------------------------------------------------- */

typedef struct Buf {
    uint8_t *p;
    size_t n;
} Buf;

static inline void buf_put(Buf *b, const void *p, size_t n)
{
    b->p = realloc(b->p, b->n + n + 1);
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
}

static inline void buf_int(Buf *b, uint64_t v, int bytes)           // little-endian
{
    for (int i = 0; i < bytes; i++) {
        const uint8_t c = (uint8_t)(v >> 8 * i);

        buf_put(b, &c, 1);
    }
}

static inline void buf_text(Buf *b, const char *s)
{
    buf_put(b, s, strlen(s));
}

static inline void buf_zeros(Buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_put(b, "", 1);
}

static inline void buf_free(Buf *b)
{
    free(b->p);
    *b = (Buf){ 0 };
}

/* ---- temporary folder ---------------------------------------------------------------------------------------------- */

static char tmp_dir[64];

static inline void tmp_open(void)
{
    strcpy(tmp_dir, "/tmp/avatar-test-XXXXXX");
    REQUIRE(mkdtemp(tmp_dir) != NULL);
}

static inline int tmp_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static inline void tmp_close(void)
{
    REQUIRE(!strncmp(tmp_dir, "/tmp/avatar-test-", 17));
    nftw(tmp_dir, tmp_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* Path of a name in the folder; one of four static buffers. */
static inline const char *tmp_path(const char *name)
{
    static char path[4][512];
    static int i;

    i = (i + 1) % 4;
    snprintf(path[i], sizeof(path[i]), "%s/%s", tmp_dir, name);
    return path[i];
}

static inline const char *tmp_write(const char *name, const void *p, size_t n)
{
    const char *path = tmp_path(name);
    FILE *f;

    for (char *s = strchr(path + strlen(tmp_dir) + 1, '/'); s; s = strchr(s + 1, '/')) {
        *s = 0;
        mkdir(path, 0755);
        *s = '/';
    }
    f = fopen(path, "wb");
    REQUIRE(f != NULL);
    REQUIRE(fwrite(p, 1, n, f) == n);
    fclose(f);
    return path;
}

static inline const char *tmp_text(const char *name, const char *text)
{
    return tmp_write(name, text, strlen(text));
}

/* ---- safetensors --------------------------------------------------------------------------------------------------- */

typedef struct FileTensor {
    const char *name, *dtype;           // as safetensors spells it: "F32"
    int nd;
    int64_t dim[8];
    const void *data;
    size_t size;                        // bytes
} FileTensor;

/* Header and data as given; the length is the true one. */
static inline Buf st_raw(const char *header, const void *data, size_t size)
{
    Buf b = { 0 };

    buf_int(&b, strlen(header), 8);
    buf_text(&b, header);
    buf_put(&b, data, size);
    return b;
}

/* align: header padded with spaces, as the reference writer does. meta: JSON of __metadata__ or NULL. */
static inline Buf st_make(const FileTensor *t, int nb, const char *meta, int align)
{
    Buf h = { 0 }, b = { 0 };
    char text[256];
    size_t at = 0;

    buf_text(&h, "{");
    if (meta) {
        buf_text(&h, "\"__metadata__\":");
        buf_text(&h, meta);
    }
    for (int i = 0; i < nb; i++) {
        snprintf(text, sizeof(text), "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i || meta ? "," : "", t[i].name, t[i].dtype);
        buf_text(&h, text);
        for (int k = 0; k < t[i].nd; k++) {
            snprintf(text, sizeof(text), k ? ",%lld" : "%lld", (long long)t[i].dim[k]);
            buf_text(&h, text);
        }
        snprintf(text, sizeof(text), "],\"data_offsets\":[%zu,%zu]}", at, at + t[i].size);
        buf_text(&h, text);
        at += t[i].size;
    }
    buf_text(&h, "}");
    while (align && h.n % 8)
        buf_text(&h, " ");
    buf_int(&b, h.n, 8);
    buf_put(&b, h.p, h.n);
    for (int i = 0; i < nb; i++)
        buf_put(&b, t[i].data, t[i].size);
    buf_free(&h);
    return b;
}

static inline const char *st_write(const char *name, const FileTensor *t, int nb)
{
    Buf b = st_make(t, nb, NULL, 1);
    const char *path = tmp_write(name, b.p, b.n);

    buf_free(&b);
    return path;
}

/* ---- GGUF ---------------------------------------------------------------------------------------------------------- */

typedef struct GgufTensor {
    const char *name;
    uint32_t type;                      // by GGUF's number: 0 f32, 1 f16, 8 q8_0
    int nd;
    int64_t dim[5];                     // the slowest first, as everywhere else here
    const void *data;
    size_t size;                        // bytes
} GgufTensor;

static inline void gguf_text(Buf *b, const char *s)
{
    buf_int(b, strlen(s), 8);
    buf_text(b, s);
}

static inline void gguf_head(Buf *b, uint64_t nb_tensors, uint64_t nb_keys)
{
    buf_text(b, "GGUF");
    buf_int(b, 3, 4);
    buf_int(b, nb_tensors, 8);
    buf_int(b, nb_keys, 8);
}

static inline void gguf_info(Buf *b, const GgufTensor *t, uint64_t offset)
{
    gguf_text(b, t->name);
    buf_int(b, (uint64_t)t->nd, 4);
    for (int i = t->nd - 1; i >= 0; i--)
        buf_int(b, (uint64_t)t->dim[i], 8);
    buf_int(b, t->type, 4);
    buf_int(b, offset, 8);
}

static inline void gguf_pad(Buf *b)
{
    buf_zeros(b, (32 - b->n % 32) % 32);
}

/* One key, the architecture; data at multiples of 32. */
static inline Buf gguf_make(const GgufTensor *t, int nb)
{
    uint64_t at = 0;
    Buf b = { 0 };

    gguf_head(&b, (uint64_t)nb, 1);
    gguf_text(&b, "general.architecture");
    buf_int(&b, 8, 4);
    gguf_text(&b, "wan");
    for (int i = 0; i < nb; i++) {
        gguf_info(&b, &t[i], at);
        at += (t[i].size + 31) / 32 * 32;
    }
    for (int i = 0; i < nb; i++) {
        gguf_pad(&b);
        buf_put(&b, t[i].data, t[i].size);
    }
    gguf_pad(&b);
    return b;
}

/* ---- zip ----------------------------------------------------------------------------------------------------------- */

typedef struct ZipFile {
    const char *name;
    const void *data;
    size_t size;
} ZipFile;

typedef struct ZipStyle {
    int zero_local;                     // local headers without sizes, flags 0x0808, a descriptor behind the data
    int align;                          // data at multiples of this, by a padding field of the local header
    int zip64;                          // 64-bit fields everywhere, even where 32 bits are enough
} ZipStyle;

static inline void zip_local(Buf *b, const ZipFile *f, const ZipStyle *s)
{
    const size_t head = b->n + 30 + strlen(f->name) + (s->zip64 ? 20 : 0);
    const size_t pad = s->align ? ((size_t)s->align - (head + 4) % (size_t)s->align) % (size_t)s->align + 4 : 0;
    const uint32_t size = s->zero_local ? 0 : s->zip64 ? 0xffffffff : (uint32_t)f->size;

    buf_int(b, 0x04034b50, 4);
    buf_int(b, s->zip64 ? 45 : 20, 2);
    buf_int(b, s->zero_local ? 0x0808 : 0, 2);
    buf_zeros(b, 10);                                               // method 0, time, date, CRC
    buf_int(b, size, 4);
    buf_int(b, size, 4);
    buf_int(b, strlen(f->name), 2);
    buf_int(b, (s->zip64 ? 20 : 0) + pad, 2);
    buf_text(b, f->name);
    if (s->zip64) {
        buf_int(b, 1 | 16 << 16, 4);
        buf_int(b, f->size, 8);
        buf_int(b, f->size, 8);
    }
    if (pad) {
        buf_int(b, 0x4246, 2);
        buf_int(b, pad - 4, 2);
        buf_zeros(b, pad - 4);
    }
    buf_put(b, f->data, f->size);
    if (s->zero_local) {
        buf_int(b, 0x08074b50, 4);
        buf_zeros(b, 4);
        buf_int(b, f->size, s->zip64 ? 8 : 4);
        buf_int(b, f->size, s->zip64 ? 8 : 4);
    }
}

static inline void zip_central(Buf *b, const ZipFile *f, size_t offset, const ZipStyle *s)
{
    buf_int(b, 0x02014b50, 4);
    buf_int(b, 0, 2);
    buf_int(b, s->zip64 ? 45 : 20, 2);
    buf_int(b, s->zero_local ? 0x0808 : 0, 2);
    buf_zeros(b, 10);
    buf_int(b, s->zip64 ? 0xffffffff : f->size, 4);
    buf_int(b, s->zip64 ? 0xffffffff : f->size, 4);
    buf_int(b, strlen(f->name), 2);
    buf_int(b, s->zip64 ? 28 : 0, 2);
    buf_zeros(b, 10);                                               // comment, disk, attributes
    buf_int(b, s->zip64 ? 0xffffffff : offset, 4);
    buf_text(b, f->name);
    if (s->zip64) {
        buf_int(b, 1 | 24 << 16, 4);
        buf_int(b, f->size, 8);
        buf_int(b, f->size, 8);
        buf_int(b, offset, 8);
    }
}

static inline void zip_end(Buf *b, int nb, size_t start, const ZipStyle *s)
{
    const size_t size = b->n - start, end64 = b->n;

    if (s->zip64) {
        buf_int(b, 0x06064b50, 4);
        buf_int(b, 44, 8);
        buf_int(b, 45 | 45 << 16, 4);
        buf_zeros(b, 8);
        buf_int(b, (uint64_t)nb, 8);
        buf_int(b, (uint64_t)nb, 8);
        buf_int(b, size, 8);
        buf_int(b, start, 8);
        buf_int(b, 0x07064b50, 4);
        buf_zeros(b, 4);
        buf_int(b, end64, 8);
        buf_int(b, 1, 4);
    }
    buf_int(b, 0x06054b50, 4);
    buf_zeros(b, 4);
    buf_int(b, s->zip64 ? 0xffff : (uint64_t)nb, 2);
    buf_int(b, s->zip64 ? 0xffff : (uint64_t)nb, 2);
    buf_int(b, s->zip64 ? 0xffffffff : size, 4);
    buf_int(b, s->zip64 ? 0xffffffff : start, 4);
    buf_zeros(b, 2);
}

static inline Buf zip_make(const ZipFile *f, int nb, ZipStyle s)
{
    Buf b = { 0 };
    size_t offset[64], start;

    for (int i = 0; i < nb; i++) {
        offset[i] = b.n;
        zip_local(&b, &f[i], &s);
    }
    start = b.n;
    for (int i = 0; i < nb; i++)
        zip_central(&b, &f[i], offset[i], &s);
    zip_end(&b, nb, start, &s);
    return b;
}

/* ---- pickle of a state dict ---------------------------------------------------------------------------------------- */

static inline void pkl_text(Buf *b, const char *s)
{
    buf_text(b, "X");
    buf_int(b, strlen(s), 4);
    buf_text(b, s);
}

static inline void pkl_int(Buf *b, int64_t v)
{
    buf_text(b, v >= 0 && v < 256 ? "K" : v >= 0 && v < 65536 ? "M" : "J");
    buf_int(b, (uint64_t)v, v >= 0 && v < 256 ? 1 : v >= 0 && v < 65536 ? 2 : 4);
}

static inline void pkl_tuple(Buf *b, int nd, const int64_t *v)
{
    buf_text(b, "(");
    for (int i = 0; i < nd; i++)
        pkl_int(b, v[i]);
    buf_text(b, "t");
}

/* One tensor: `count` elements of storage `key`, a view of it at `offset` with the strides given. */
static inline void pkl_tensor(Buf *b, const char *storage, const char *key, int64_t count, int64_t offset, int nd,
                              const int64_t *dim, const int64_t *stride)
{
    buf_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pkl_text(b, "storage");
    buf_text(b, "ctorch\n");
    buf_text(b, storage);
    buf_text(b, "\n");
    pkl_text(b, key);
    pkl_text(b, "cpu");
    pkl_int(b, count);
    buf_text(b, "tQ");
    pkl_int(b, offset);
    pkl_tuple(b, nd, dim);
    pkl_tuple(b, nd, stride);
    buf_text(b, "\x89" "ccollections\nOrderedDict\n)RtR");
}

static inline void pkl_begin(Buf *b)
{
    buf_put(b, "\x80\2ccollections\nOrderedDict\n)Rq\0(", 32);
}

static inline void pkl_end(Buf *b)
{
    buf_text(b, "u.");
}

static inline void row_major(int64_t *stride, int nd, const int64_t *dim)
{
    for (int64_t i = nd - 1, n = 1; i >= 0; n *= dim[i--])
        stride[i] = n;
}

/* A .pth of nb tensors, each in a storage of its own: T.dtype is the storage class ("FloatStorage"), elem its bytes. */
static inline Buf pth_make(const FileTensor *t, const int *elem, int nb, ZipStyle style)
{
    ZipFile f[32] = { { "archive/data.pkl", NULL, 0 } };
    char names[32][40];
    int64_t stride[8];
    Buf pkl = { 0 }, b;

    pkl_begin(&pkl);
    for (int i = 0; i < nb; i++) {
        snprintf(names[i], sizeof(names[i]), "archive/data/%d", i);
        row_major(stride, t[i].nd, t[i].dim);
        pkl_text(&pkl, t[i].name);
        pkl_tensor(&pkl, t[i].dtype, names[i] + 13, (int64_t)t[i].size / elem[i], 0, t[i].nd, t[i].dim, stride);
        f[i + 1] = (ZipFile){ names[i], t[i].data, t[i].size };
    }
    pkl_end(&pkl);
    f[0].data = pkl.p;
    f[0].size = pkl.n;
    f[nb + 1] = (ZipFile){ "archive/version", "3\n", 2 };
    b = zip_make(f, nb + 2, style);
    buf_free(&pkl);
    return b;
}

/* All bytes of a tensor; the caller frees them. */
static inline void *ckpt_bytes(const CkptTensor *t)
{
    void *p = malloc(t->size + 1);

    REQUIRE_OK(avt_ckpt_read(t, p, 0, t->size, test_log()));
    return p;
}

static inline void require_bytes(const Ckpt *c, const char *name, const void *want, size_t size)
{
    const CkptTensor *t = avt_ckpt_find(c, name);
    void *have;

    REQUIRE(t && t->size == size);
    have = ckpt_bytes(t);
    REQUIRE(!memcmp(have, want, size));
    free(have);
}

/* ---- reading back -------------------------------------------------------------------------------------------------- */

/* The text logged last must hold both. */
static inline void require_said(const char *one, const char *two)
{
    if (!strstr(test_log_text(), one) || !strstr(test_log_text(), two))
        fail_msg("wanted '%s' and '%s' in the message: %s", one, two, test_log_text());
}

#endif
