/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GGUF, versions 2 and 3, little-endian:
 *
 *   "GGUF" u32 version u64 nb_tensors u64 nb_keys
 *   nb_keys times      text key, u32 type, value          text: u64 length, bytes; list: u32 type, u64 count, values
 *   nb_tensors times   text name, u32 nd, u64 dim[nd] (the fastest first), u32 type, u64 offset in the data
 *   data from the next multiple of general.alignment (32) on, each tensor at such a multiple
 *
 * Sorted by offset the tensors must tile the data, paddings aside: no hole, no overlap, nothing behind. The header may have a vocabulary
 * of megabytes, so it is walked through a window, once; every count and length is compared with what is left of the file before it
 * is used. Names are brought to those of the published checkpoints, so that networks know but one spelling. Trap: ggml knows four
 * dimensions; a kernel of five is stored as it is (ComfyUI-GGUF), or with channels out and in as one (stable-diffusion.cpp).
 * Source: ggml, docs/gguf.md.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "files/ckpt.h"

#define WINDOW 65536
#define NAME 256
#define MAX_TENSORS 100000
#define MAX_DIM 5
#define LEAST_KEY 13                    // bytes of a key with its value, of a tensor's description
#define LEAST_TENSOR 32

enum { TYPE_U16 = 2, TYPE_U32 = 4, TYPE_TEXT = 8, TYPE_LIST = 9, TYPE_NB = 13 };
static const uint8_t sizes[TYPE_NB] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

typedef struct Part {                   // of the data
    uint64_t begin, end;
    int64_t tensor;
} Part;

typedef struct Reader {
    Ckpt *c;
    const CkptFile *f;
    const Log *log;
    uint64_t at;                        // next byte of the header
    uint8_t *window;                    // bytes first .. first + have - 1 of the file
    uint64_t first, have;
    uint64_t align;
    char architecture[40];
    Part *part;
    int64_t nb_parts;
} Reader;

/* ---- the walk ------------------------------------------------------------------------------------------------------ */

static int ends_early(const Reader *r)
{
    return avt_fail(r->log, AVT_INVALID, "%s: ends inside its header, at byte %llu of %llu (is the download complete?)", r->f->path,
                    (unsigned long long)r->at, (unsigned long long)r->f->size);
}

static int skip(Reader *r, uint64_t n)
{
    if (n > r->f->size - r->at)
        return ends_early(r);
    r->at += n;
    return 0;
}

static int take(Reader *r, void *dst, uint64_t n)
{
    if (n > r->f->size - r->at)
        return ends_early(r);
    for (uint64_t done = 0, piece; done < n; done += piece) {
        if (r->at < r->first || r->at >= r->first + r->have) {
            const uint64_t left = r->f->size - r->at;
            int ret;

            r->first = r->at;
            r->have = left < WINDOW ? left : WINDOW;
            ret = avt_ckpt_bytes(r->f, r->window, r->first, (size_t)r->have, r->log);
            if (ret < 0)
                return ret;
        }
        piece = r->first + r->have - r->at;
        piece = piece < n - done ? piece : n - done;
        memcpy((uint8_t *)dst + done, r->window + (r->at - r->first), (size_t)piece);
        r->at += piece;
    }
    return 0;
}

static int take_int(Reader *r, uint64_t *v, int bytes)
{
    uint8_t b[8];
    const int ret = take(r, b, (uint64_t)bytes);

    *v = 0;
    for (int i = bytes - 1; i >= 0 && ret >= 0; i--)
        *v = *v << 8 | b[i];
    return ret;
}

/* A text of fewer than `room` bytes, none of them zero. */
static int take_text(Reader *r, char *dst, uint64_t room, const char *what)
{
    uint64_t n;
    int ret = take_int(r, &n, 8);

    if (ret >= 0 && n >= room)
        return avt_fail(r->log, AVT_INVALID, "%s: %s has %llu bytes, at most %llu are allowed", r->f->path, what, (unsigned long long)n,
                        (unsigned long long)room - 1);
    if (ret >= 0)
        ret = take(r, dst, n);
    if (ret < 0)
        return ret;
    dst[n] = 0;
    return strlen(dst) == n ? 0 : avt_fail(r->log, AVT_INVALID, "%s: %s holds a zero byte", r->f->path, what);
}

static int skip_text(Reader *r)
{
    uint64_t n;
    const int ret = take_int(r, &n, 8);

    return ret < 0 ? ret : skip(r, n);
}

/* ---- keys ---------------------------------------------------------------------------------------------------------- */

static int skip_list(Reader *r, const char *key)
{
    uint64_t type, nb;
    int ret = take_int(r, &type, 4);

    if (ret >= 0)
        ret = take_int(r, &nb, 8);
    if (ret < 0)
        return ret;
    if (type >= TYPE_NB || type == TYPE_LIST)
        return avt_fail(r->log, AVT_INVALID, "%s: key %s is a list of type %llu, which does not exist", r->f->path, key,
                        (unsigned long long)type);
    if (nb > (r->f->size - r->at) / (type == TYPE_TEXT ? 8 : sizes[type]))
        return ends_early(r);
    if (type != TYPE_TEXT)
        return skip(r, nb * sizes[type]);
    for (uint64_t i = 0; i < nb && ret >= 0; i++)
        ret = skip_text(r);
    return ret;
}

static int take_alignment(Reader *r, uint64_t type)
{
    uint64_t v = 0;
    const int ret = type == TYPE_U32 ? take_int(r, &v, 4) : 0;

    if (ret < 0)
        return ret;
    if (v < 8 || v > 1 << 20 || v & (v - 1))
        return avt_fail(r->log, AVT_INVALID, "%s: general.alignment must be a power of two from 8 to 1048576, but is %llu", r->f->path,
                        (unsigned long long)v);
    r->align = v;
    return 0;
}

static int refuse_parts(Reader *r)
{
    uint64_t nb;
    const int ret = take_int(r, &nb, 2);

    return ret < 0 || nb < 2 ? ret : avt_fail(r->log, AVT_INVALID, "%s: is one of %llu parts of a model; join them first, with "
                                              "llama-gguf-split --merge", r->f->path, (unsigned long long)nb);
}

static int read_key(Reader *r)
{
    char key[NAME];
    uint64_t type;
    int ret = take_text(r, key, sizeof(key), "a key's name");

    if (ret >= 0)
        ret = take_int(r, &type, 4);
    if (ret < 0)
        return ret;
    if (!strcmp(key, "general.alignment"))
        return take_alignment(r, type);
    if (!strcmp(key, "general.architecture") && type == TYPE_TEXT)
        return take_text(r, r->architecture, sizeof(r->architecture), key);
    if (!strcmp(key, "split.count") && type == TYPE_U16)
        return refuse_parts(r);
    if (type >= TYPE_NB)
        return avt_fail(r->log, AVT_INVALID, "%s: key %s has type %llu, which does not exist", r->f->path, key, (unsigned long long)type);
    return type == TYPE_TEXT ? skip_text(r) : type == TYPE_LIST ? skip_list(r, key) : skip(r, sizes[type]);
}

/* ---- names --------------------------------------------------------------------------------------------------------- */

/* umT5 as llama.cpp calls its tensors, and as the published checkpoint does. */
static const char *const t5_names[][2] = {
    { "attn_norm", "norm1" }, { "attn_q", "attn.q" }, { "attn_k", "attn.k" }, { "attn_v", "attn.v" }, { "attn_o", "attn.o" },
    { "attn_rel_b", "pos_embedding.embedding" }, { "ffn_norm", "norm2" }, { "ffn_gate", "ffn.gate.0" }, { "ffn_up", "ffn.fc1" },
    { "ffn_down", "ffn.fc2" },
};

/* The published name of a tensor. @return `name`, a part of it, or a text in `buf` */
static const char *published(char buf[NAME], const char *name)
{
    static const char *const prefix[] = { "model.diffusion_model.", "diffusion_model." };
    int layer, end = 0;

    for (int i = 0; i < 2; i++)
        if (!strncmp(name, prefix[i], strlen(prefix[i])))
            return name + strlen(prefix[i]);
    if (!strcmp(name, "token_embd.weight"))
        return "token_embedding.weight";
    if (!strcmp(name, "enc.output_norm.weight"))
        return "norm.weight";
    if (sscanf(name, "enc.blk.%4d.%n", &layer, &end) != 1 || !end || layer < 0)
        return name;
    for (size_t i = 0; i < sizeof(t5_names) / sizeof(t5_names[0]); i++) {
        const size_t n = strlen(t5_names[i][0]);

        if (!strncmp(name + end, t5_names[i][0], n) && !strcmp(name + end + n, ".weight")) {
            snprintf(buf, NAME, "blocks.%d.%s.weight", layer, t5_names[i][1]);
            return buf;
        }
    }
    return name;
}

/* ---- tensors ------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    DType dtype;                        // DT_NB: known to the format, not to us
} plain[] = {
    [0] = { "f32", DT_F32 }, [1] = { "f16", DT_F16 }, [9] = { "q8_1", DT_NB }, [15] = { "q8_k", DT_NB }, [16] = { "iq2_xxs", DT_NB },
    [17] = { "iq2_xs", DT_NB }, [18] = { "iq3_xxs", DT_NB }, [19] = { "iq1_s", DT_NB }, [20] = { "iq4_nl", DT_NB }, [21] = { "iq3_s", DT_NB },
    [22] = { "iq2_s", DT_NB }, [23] = { "iq4_xs", DT_NB }, [24] = { "i8", DT_NB }, [25] = { "i16", DT_NB }, [26] = { "i32", DT_I32 },
    [27] = { "i64", DT_I64 }, [28] = { "f64", DT_F64 }, [29] = { "iq1_m", DT_NB }, [30] = { "bf16", DT_BF16 }, [34] = { "tq1_0", DT_NB },
    [35] = { "tq2_0", DT_NB }, [39] = { "mxfp4", DT_NB }, [40] = { "nvfp4", DT_NB },
};

static int find_type(const Reader *r, CkptTensor *t, uint64_t type)
{
    t->pack = type < UINT32_MAX ? avt_ckpt_pack((uint32_t)type) : NULL;
    if (t->pack) {
        t->dtype = DT_F32;
        return 0;
    }
    if (type >= sizeof(plain) / sizeof(plain[0]) || !plain[type].name)
        return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: type number %llu is not known", r->f->path, t->name, (unsigned long long)type);
    t->dtype = plain[type].dtype;
    return t->dtype != DT_NB ? 0 : avt_fail(r->log, AVT_INVALID, "%s: tensor %s: type %s is not supported; take a file of f32, f16, bf16, "
                                            "q8_0, q6_k, q5_k, q4_k, q3_k, q2_k or q4_0 to q5_1", r->f->path, t->name, plain[type].name);
}

/* The fastest dimension comes first in the file, last in `t`. */
static int read_shape(Reader *r, CkptTensor *t)
{
    uint64_t nd;
    int ret = take_int(r, &nd, 4);

    if (ret >= 0 && (nd < 1 || nd > MAX_DIM))
        return avt_fail(r->log, AVT_INVALID, "%s: tensor %s has %llu dimensions, 1 to %d are allowed", r->f->path, t->name,
                        (unsigned long long)nd, MAX_DIM);
    t->nd = ret < 0 ? 0 : (int)nd;
    for (int i = t->nd - 1; i >= 0 && ret >= 0; i--) {
        uint64_t n;

        ret = take_int(r, &n, 8);
        if (ret >= 0 && (n < 1 || n > INT64_MAX))
            return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: a dimension of %llu is none", r->f->path, t->name, (unsigned long long)n);
        t->dim[i] = (int64_t)n;
    }
    return ret;
}

/* Bytes of the values; whole blocks in each row. */
static int find_size(const Reader *r, CkptTensor *t)
{
    const int64_t last = t->dim[t->nd - 1], block = t->pack ? t->pack->values : 1;
    int64_t size = t->pack ? t->pack->bytes : (int64_t)avt_dtype_size(t->dtype);

    if (last % block)
        return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: rows of %lld values are no whole blocks of %s, %lld values each", r->f->path,
                        t->name, (long long)last, t->pack->name, (long long)block);
    for (int i = 0; i < t->nd; i++)
        if (__builtin_mul_overflow(size, i == t->nd - 1 ? last / block : t->dim[i], &size))
            return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: its shape is too large for any file", r->f->path, t->name);
    t->size = (size_t)size;
    return 0;
}

/* Kernels of the transformer's patches, [D, 16, t, h, w], that lost a dimension. */
static void restore_kernel(CkptTensor *t)
{
    static const char *const kernels[] = { "patch_embedding", "cond_encoder", "frame_packer.proj", "frame_packer.proj_2x",
                                           "frame_packer.proj_4x" };

    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
        const size_t n = strlen(kernels[i]);

        if (t->nd == 4 && t->dim[0] % 16 == 0 && !strncmp(t->name, kernels[i], n) && !strcmp(t->name + n, ".weight")) {
            memmove(t->dim + 1, t->dim, 4 * sizeof(t->dim[0]));
            t->dim[0] /= 16;
            t->dim[1] = 16;
            t->nd = 5;
        }
    }
}

/* The tensor's offset is one in the data until the header's end is known. */
static int read_tensor(Reader *r)
{
    CkptTensor t = { .file = r->f };
    char name[NAME], buf[NAME];
    uint64_t type = 0;
    int ret = take_text(r, name, sizeof(name), "a tensor's name");

    t.name = name;
    if (ret >= 0)
        ret = read_shape(r, &t);
    if (ret >= 0)
        ret = take_int(r, &type, 4);
    if (ret >= 0)
        ret = take_int(r, &t.offset, 8);
    if (ret >= 0)
        ret = find_type(r, &t, type);
    if (ret >= 0)
        ret = find_size(r, &t);
    if (ret < 0)
        return ret;
    if (t.offset > r->f->size || t.size > r->f->size - t.offset)
        return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: %llu bytes at %llu of the data are more than the file has (is the download "
                        "complete?)", r->f->path, name, (unsigned long long)t.size, (unsigned long long)t.offset);
    t.name = published(buf, name);
    restore_kernel(&t);
    r->part[r->nb_parts] = (Part){ t.offset, t.offset + t.size, r->nb_parts };
    r->nb_parts++;
    return avt_ckpt_add(r->c, &t, r->log);
}

static int compare_parts(const void *a, const void *b)
{
    const Part *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static uint64_t aligned(const Reader *r, uint64_t n)
{
    return (n + r->align - 1) & ~(r->align - 1);
}

/* Tensors are those that were added last. */
static int check_tiling(const Reader *r, int64_t first)
{
    const uint64_t start = aligned(r, r->at), size = r->f->size > start ? r->f->size - start : 0;
    uint64_t at = 0, end = 0;

    if (r->nb_parts)
        qsort(r->part, (size_t)r->nb_parts, sizeof(*r->part), compare_parts);
    for (int64_t i = 0; i < r->nb_parts; i++) {
        const Part *p = &r->part[i];
        const char *name = avt_ckpt_get(r->c, first + p->tensor)->name;

        if (p->begin != at)
            return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: its data begins at %llu, but %llu is where it should (alignment %llu)",
                            r->f->path, name, (unsigned long long)p->begin, (unsigned long long)at, (unsigned long long)r->align);
        if (p->end > size)
            return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: its data ends %llu bytes behind the header, the file %llu (is the download "
                            "complete?)", r->f->path, name, (unsigned long long)p->end, (unsigned long long)size);
        end = p->end;
        at = aligned(r, end);
    }
    return size <= at ? 0 : avt_fail(r->log, AVT_INVALID, "%s: %llu bytes follow the last tensor", r->f->path,
                                     (unsigned long long)(size - end));
}

/* ---- the file ------------------------------------------------------------------------------------------------------ */

static int read_head(Reader *r, uint64_t *nb_tensors, uint64_t *nb_keys)
{
    uint64_t version;
    int ret = skip(r, 4);

    if (ret >= 0)
        ret = take_int(r, &version, 4);
    if (ret >= 0 && version && !(version & 0xffff))
        return avt_fail(r->log, AVT_INVALID, "%s: is a big-endian GGUF; a little-endian one is wanted", r->f->path);
    if (ret >= 0 && version != 2 && version != 3)
        return avt_fail(r->log, AVT_INVALID, "%s: is GGUF of version %llu; 2 and 3 are supported", r->f->path, (unsigned long long)version);
    if (ret >= 0)
        ret = take_int(r, nb_tensors, 8);
    if (ret >= 0)
        ret = take_int(r, nb_keys, 8);
    if (ret < 0)
        return ret;
    if (*nb_tensors > MAX_TENSORS)
        return avt_fail(r->log, AVT_INVALID, "%s: %llu tensors, at most %d are allowed", r->f->path, (unsigned long long)*nb_tensors,
                        MAX_TENSORS);
    if (*nb_keys > r->f->size / LEAST_KEY || *nb_tensors > r->f->size / LEAST_TENSOR)
        return avt_fail(r->log, AVT_INVALID, "%s: claims %llu keys and %llu tensors, for which the file is too short", r->f->path,
                        (unsigned long long)*nb_keys, (unsigned long long)*nb_tensors);
    avt_ckpt_say(r->c, "GGUF %llu", (unsigned long long)version);
    return 0;
}

static int read_all(Reader *r)
{
    const int64_t first = avt_ckpt_nb(r->c);
    uint64_t nb_tensors = 0, nb_keys = 0;
    int ret = read_head(r, &nb_tensors, &nb_keys);

    for (uint64_t i = 0; ret >= 0 && i < nb_keys; i++)
        ret = read_key(r);
    if (ret < 0)
        return ret;
    if (*r->architecture)
        avt_ckpt_say(r->c, "%s, architecture %s", avt_ckpt_note(r->c), r->architecture);
    r->part = avt_calloc(MEM_CKPT, (size_t)nb_tensors + 1, sizeof(*r->part));
    if (!r->part)
        return AVT_ERR(ENOMEM);
    for (uint64_t i = 0; ret >= 0 && i < nb_tensors; i++)
        ret = read_tensor(r);
    if (ret >= 0)
        ret = check_tiling(r, first);
    if (ret >= 0)
        avt_ckpt_move(r->c, first, aligned(r, r->at));
    return ret;
}

int avt_ckpt_read_gguf(Ckpt *c, const CkptFile *f, const Log *log)
{
    Reader r = { .c = c, .f = f, .log = log, .align = 32, .window = avt_malloc(MEM_CKPT, WINDOW) };
    const int ret = r.window ? read_all(&r) : AVT_ERR(ENOMEM);

    avt_free(r.part);
    avt_free(r.window);
    return ret;
}
