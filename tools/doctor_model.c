/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The model's folder and the prompt. Numbers are read through (NaN, infinity, all zeros) as far as DOCTOR_READ bytes go, or all
 * of them with --full; SHA256SUMS in the folder, which `avatar inspect --manifest` writes, is compared likewise.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "doctor.h"
#include "engine/engine.h"
#include "manifest.h"
#include "nets/tokenizer.h"

#define DOCTOR_READ ((size_t)2 << 30)
#define PIECE       ((size_t)4 << 20)
#define PROMPT_MAX  512                             // tokens that the text encoder reads

/* ---- numbers ----------------------------------------------------------------------------------------------------------- */

static int is_float(DType t)
{
    return t <= DT_F64;
}

static int is_zero(const char *p, size_t n)
{
    return !p[0] && !memcmp(p, p + 1, n - 1);
}

/* 1: a value of the tensor is not finite; a negative error: it cannot be read. Packed values are widened behind their bytes.
 * *zero: it is a weight, of which training leaves none all zero. */
static int tensor_is_bad(const CkptTensor *t, char *piece, int *zero, const Log *log)
{
    const size_t one = t->pack ? (size_t)t->pack->bytes : avt_dtype_size(t->dtype), most = (t->pack ? PIECE / 16 : PIECE) / one * one;

    *zero = t->size > 1 && avt_ends_with(t->name, ".weight");
    for (size_t at = 0; at < t->size; at += most) {
        const size_t n = t->size - at < most ? t->size - at : most;
        const int64_t nb = (int64_t)(n / one) * (t->pack ? t->pack->values : 1);
        const int ret = avt_ckpt_read(t, piece, at, n, log);

        if (ret < 0)
            return ret;
        *zero = *zero && is_zero(piece, n);
        if (t->pack)
            avt_ckpt_widen((float *)(piece + PIECE / 16), t, piece, nb);
        if (avt_nonfinite(t->dtype, t->pack ? piece + PIECE / 16 : piece, nb) >= 0)
            return 1;
    }
    return 0;
}

static void scan_numbers(Findings *f, const char *name, const Ckpt *c, size_t *budget)
{
    Reason why = { "" };
    const Log log = { avt_keep_reason, &why, LOG_ERROR };
    void *piece = malloc(PIECE);
    int64_t nb = 0, nb_zero = 0, all = avt_ckpt_nb(c);
    const char *first = NULL;
    int ret = 0, zero;

    for (int64_t i = 0; piece && i < all && !ret; i++) {
        const CkptTensor *t = avt_ckpt_get(c, i);

        if (t->size > *budget || !is_float(t->dtype))
            continue;
        *budget -= t->size;
        nb++;
        ret = tensor_is_bad(t, piece, &zero, &log);
        if (zero && !nb_zero++)
            first = t->name;
        if (ret > 0)
            doctor_words(f, "files", "numbers", BAD, "%.40s: %.80s holds a NaN or an infinity", name, t->name),
                doctor_remedy(f, "get the file again, or undo what wrote it");
    }
    free(piece);
    if (ret < 0)
        doctor_words(f, "files", "numbers", BAD, "%s", why.text), doctor_remedy(f, "get the file again");
    else if (!ret && nb_zero) {
        doctor_words(f, "files", "numbers", DOUBTFUL, "%.60s: every value of %.80s is zero, and of %lld more", name, first, (long long)nb_zero - 1);
        doctor_remedy(f, "was the file got to its end? get it again");
    } else if (!ret && nb)
        doctor_words(f, "files", "numbers", GOOD, "%.60s: %lld of %lld tensors read, all finite", name, (long long)nb, (long long)all);
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */

static void look_at_part(Findings *f, const ModelDir *m, int i, const char *name, const char *path, size_t *budget)
{
    Reason why = { "" };
    const Log log = { avt_keep_reason, &why, LOG_ERROR };
    Ckpt *c = NULL;

    if (!path) {
        avt_modeldir_missing(m, i, &log);
        doctor_words(f, "files", "there", BAD, "%s is missing", name);
        doctor_remedy(f, "%.230s", why.text);
        return;
    }
    if (!avt_modeldir_has_weights(name))
        return;
    if (avt_ckpt_open(&c, path, &log) < 0) {
        doctor_words(f, "files", "readable", BAD, "%s", why.text);
        doctor_remedy(f, "get the file again");
        return;
    }
    scan_numbers(f, name, c, budget);
    avt_ckpt_close(&c);
}

static void look_at_manifest(Findings *f, const ModelDir *m, int full)
{
    ManifestCheck c;

    if (manifest_check(&c, m->dir, full ? INT64_MAX : (int64_t)DOCTOR_READ) < 0)
        doctor_words(f, "files", "checksums", GOOD, "no %s in the folder to compare with", MANIFEST_NAME);
    else if (c.bad[0])
        doctor_words(f, "files", "checksums", BAD, "%s", c.bad),
            doctor_remedy(f, c.unread ? "write it anew: avatar inspect --manifest MODEL >%s" : "get that file again: %s says what it was", MANIFEST_NAME);
    else
        doctor_words(f, "files", "checksums", GOOD, "%d files are those of %s, %d were too large to read without --full", c.same, MANIFEST_NAME,
                     c.left);
}

/* Silent where no file is as large as a published one: nano, a converted model. */
static void look_at_published(Findings *f, const ModelDir *m, int full)
{
    ManifestCheck c;

    manifest_published(&c, m->dir, full ? INT64_MAX : (int64_t)DOCTOR_READ);
    if (c.bad[0])
        doctor_words(f, "files", "published files", DOUBTFUL, "%s", c.bad), doctor_remedy(f, "damaged, or of another model of the family: get it again from "
                     "Wan-AI/Wan2.2-S2V-14B");
    else if (c.same + c.left)
        doctor_words(f, "files", "published files", GOOD, "%d are as published, %d were too large to read without --full", c.same, c.left);
}

/* ---- the prompt --------------------------------------------------------------------------------------------------------- */

static void judge_tokens(Findings *f, const Tokenizer *t, const char *cleaned)
{
    static int32_t ids[PROMPT_MAX];
    int64_t left_out = 0, unknown = 0;
    const int nb = avt_tokenizer_encode(t, ids, PROMPT_MAX, cleaned, &left_out);

    for (int i = 0; i < nb; i++)
        unknown += !avt_tokenizer_covers(t, ids[i]);
    if (nb < 0)
        return;
    doctor_number(f, "prompt", "length", (double)(nb + left_out), "tokens of 512", left_out ? DOUBTFUL : GOOD,
                  "its last %lld tokens are not read: shorten it", (long long)left_out);
    if (unknown)
        doctor_number(f, "prompt", "unknown to the tokenizer", (double)unknown, "pieces", DOUBTFUL, "they say nothing to the model: write them otherwise");
}

static void look_at_prompt(Findings *f, const ToolOptions *o, const ModelDir *m)
{
    const char *text = o->look.prompt ? o->look.prompt : m->prompt ? m->prompt : "";
    Tokenizer *t = NULL;
    char *cleaned = NULL;

    if (!m->spiece || avt_tokenizer_open(&t, m->spiece, NULL) < 0)
        return;
    if (avt_text_clean(&cleaned, text, NULL) < 0)
        doctor_words(f, "prompt", "text", BAD, "it is not UTF-8"), doctor_remedy(f, "save it as UTF-8");
    else
        judge_tokens(f, t, cleaned);
    avt_free(cleaned);
    avt_tokenizer_close(&t);
}

void doctor_model(Findings *f, const ToolOptions *o)
{
    Reason why = { "" };
    const Log log = { avt_keep_reason, &why, LOG_ERROR };
    char folder[PATH_MAX];
    size_t budget = o->full ? SIZE_MAX : DOCTOR_READ;
    const char *name, *path;
    ModelDir m;
    int nb;

    avt_options_folder(folder, &o->engine);
    if (avt_modeldir_look(&m, folder, &log) < 0) {
        doctor_words(f, "files", "folder", BAD, "%s", why.text[0] ? why.text : folder);
        doctor_remedy(f, "name the model's folder: --model DIR");
        return;
    }
    nb = f->nb;
    for (int i = 0; avt_modeldir_part(&m, i, &name, &path); i++)
        look_at_part(f, &m, i, name, path, &budget);
    doctor_names(f, o, &m);
    look_at_manifest(f, &m, o->full);
    look_at_published(f, &m, o->full);
    if (f->nb > nb)
        doctor_lora(f, o, &m);
    look_at_prompt(f, o, &m);
    avt_modeldir_close(&m);
}
