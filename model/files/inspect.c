/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The summary of a model folder, or of one file of weights. A file's complaint, when it cannot be read, becomes part of its line. */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/text.h"
#include "files/inspect.h"
#include "files/json.h"
#include "files/lora.h"
#include "files/modeldir.h"

#define SIZE 8192

typedef struct Text {
    char *p;                            // SIZE bytes
    size_t n;
} Text;

static void say(Text *t, const char *fmt, ...) AVT_PRINTF(2, 3);

static void say(Text *t, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(t->p + t->n, SIZE - t->n, fmt, ap);
    va_end(ap);
    t->n = n < 0 ? t->n : t->n + (size_t)n < SIZE ? t->n + (size_t)n : SIZE - 1;
}

/* A text of a file: fewer than `max` bytes of it, and nothing that would command a terminal. */
static void say_text(Text *t, const char *text, size_t max)
{
    char safe[256];

    avt_printable(safe, max < sizeof(safe) ? max : sizeof(safe), text);
    say(t, "%s", safe);
}

/* The same of a file's or folder's name, whole. */
static void say_name(Text *t, const char *name)
{
    char safe[PATH_MAX];

    avt_printable(safe, sizeof(safe), name);
    say(t, "%s", safe);
}

/* "32.59 G", "7" */
static const char *short_number(char buf[32], double v)
{
    static const char unit[] = " kMGT";
    int u = 0;

    for (; v >= 1000 && u < 4; u++)
        v /= 1000;
    snprintf(buf, 32, u ? "%.4g %c" : "%.4g", v, unit[u]);
    return buf;
}

/* ---- one line per file --------------------------------------------------------------------------------------------- */

/* The complaint without the path in front of it. */
static void say_unreadable(Text *t, const char *name, const Reason *r)
{
    const char *sentence = strstr(r->text, ": ");

    say(t, "  %-55s cannot be read: %s\n", name, sentence ? sentence + 2 : r->text);
}

/* Each type that occurs, plain ones first, and how many tensors have it. */
static void say_types(Text *t, const Ckpt *c)
{
    const char *comma = "", *type;

    for (int k = 0; (type = avt_ckpt_type_name(k)); k++) {
        int64_t nb = 0;

        for (int64_t i = 0; i < avt_ckpt_nb(c); i++)
            nb += avt_ckpt_type(avt_ckpt_get(c, i)) == type;
        if (nb)
            say(t, "%s%s %lld", comma, type, (long long)nb);
        comma = nb ? ", " : comma;
    }
}

static void say_weights(Text *t, const char *name, const Ckpt *c)
{
    char size[32], nb[32];
    double bytes = 0, values = 0;

    for (int64_t i = 0; i < avt_ckpt_nb(c); i++) {
        const CkptTensor *k = avt_ckpt_get(c, i);

        bytes += (double)k->size;
        values += (double)avt_ckpt_values(k);
    }
    say(t, "  %-55s %9sB %5lld tensors %8s parameters  ", name, short_number(size, bytes), (long long)avt_ckpt_nb(c),
        short_number(nb, values));
    say_types(t, c);
    say(t, "\n");
}

static void say_plain(Text *t, const char *name, const char *path)
{
    char size[32];
    struct stat st;

    say(t, "  %-55s %9sB\n", name, stat(path, &st) < 0 ? "?" : short_number(size, (double)st.st_size));
}

/* @return 1 when all is well with the i-th file */
static int say_part(Text *t, const ModelDir *m, int i, const char *name, const char *path)
{
    Reason why = { "" };
    const Log log = { avt_keep_reason, &why, LOG_ERROR };
    Ckpt *c;

    if (!path) {
        if (avt_modeldir_missing(m, i, &log) == AVT_ERR(ENOENT))
            say(t, "  %-55s missing\n", name);
        else
            say_unreadable(t, name, &why);
        return 0;
    }
    if (!avt_modeldir_has_weights(name)) {
        say_plain(t, name, path);
        return 1;
    }
    if (avt_ckpt_open(&c, path, &log) < 0) {
        say_unreadable(t, name, &why);
        return 0;
    }
    say_weights(t, name, c);
    avt_ckpt_close(&c);
    return 1;
}

static int say_lora(Text *t, const ModelDir *m)
{
    Reason why = { "" };
    const Log log = { avt_keep_reason, &why, LOG_ERROR };
    const char *name = m->lora ? m->lora + strlen(m->dir) + 1 : "liveavatar.safetensors";
    Lora *l;

    if (!m->lora) {
        say(t, "  %-55s not there%s\n", name, m->lora_rule == LORA_NONE ? ", none is needed" : m->lora_rule == LORA_MERGED ? ", it is in the weights" : "");
        return m->lora_rule != LORA_REQUIRED;
    }
    if (avt_lora_open(&l, m->lora, m->lora_alpha, &log) < 0) {
        say_unreadable(t, name, &why);
        return 0;
    }
    say(t, "  %-55s %lld pair%s, rank %d, scale %g\n", name, (long long)avt_lora_nb(l), avt_lora_nb(l) == 1 ? "" : "s",
        avt_lora_rank(l), avt_lora_scale(l));
    avt_lora_close(&l);
    return 1;
}

/* ---- sizes and settings -------------------------------------------------------------------------------------------- */

static void say_config(Text *t, const ModelDir *m)
{
    static const char *const keys[] = { "dim", "num_layers", "num_heads", "ffn_dim", "audio_dim" };
    static const char *const words[] = { "width", "layers", "heads", "FFN", "audio" };
    const char *class_name = "no class named";
    Json *j;

    if (!m->config || avt_json_read(&j, m->config, NULL) < 0)
        return;
    avt_json_string(j, "_class_name", &class_name, 0);
    say(t, "network: ");
    say_text(t, class_name, 60);
    for (int i = 0; i < 5; i++) {
        int64_t v = -1;

        if (avt_json_int(j, keys[i], &v, 0, INT64_MAX, 0) >= 0 && v >= 0)
            say(t, ", %s %lld", words[i], (long long)v);
    }
    say(t, "\n");
    avt_json_close(&j);
}

static void say_settings(Text *t, const ModelDir *m)
{
    static const char *const rules[] = { "unsaid", "required", "none", "merged" };

    say(t, "settings: name ");
    say_text(t, m->name ? m->name : "unsaid", 40);
    if (m->width)
        say(t, ", size %dx%d", m->width, m->height);
    if (m->area)
        say(t, ", area %lld pixels", (long long)m->area);
    if (m->steps)
        say(t, ", %d steps", m->steps);
    say(t, ", LoRA %s", rules[m->lora_rule]);
    if (m->lora_alpha > 0)
        say(t, " with alpha %g", m->lora_alpha);
    if (m->motion)
        say(t, ", motion %d", m->motion);
    if (m->prompt) {
        say(t, "\nprompt: ");
        say_text(t, m->prompt, 200);
    }
    say(t, "\n");
}

/* ---- one file -------------------------------------------------------------------------------------------------------- */

static int layers_of(const Ckpt *c)
{
    int nb = 0, l;

    for (int64_t i = 0; i < avt_ckpt_nb(c); i++)
        if (sscanf(avt_ckpt_get(c, i)->name, "blocks.%5d.", &l) == 1 && l >= nb)
            nb = l + 1;
    return nb;
}

/* Which network's weights these are, by a tensor that it has and the width of which says its own. */
static void say_network(Text *t, const Ckpt *c)
{
    static const struct { const char *tensor; int axis; const char *network; } known[] = {
        { "casual_audio_encoder.weights", 0, NULL }, { "patch_embedding.weight", 0, "a diffusion transformer without audio" },
        { "token_embedding.weight", 1, "a umT5 text encoder" }, { "wav2vec2.masked_spec_embed", 0, "a wav2vec2 speech encoder" },
        { "decoder.conv1.weight", 0, "a video VAE" },
    };
    const CkptTensor *k = avt_ckpt_find(c, known[0].tensor), *patch = avt_ckpt_find(c, known[1].tensor);

    say(t, "  network: ");
    if (k && patch) {
        say(t, "a diffusion transformer with audio, width %lld, %d layers\n", (long long)patch->dim[0], layers_of(c));
        return;
    }
    for (size_t i = 1; i < sizeof(known) / sizeof(known[0]); i++) {
        k = avt_ckpt_find(c, known[i].tensor);
        if (k && k->nd > known[i].axis) {
            say(t, "%s, width %lld\n", known[i].network, (long long)k->dim[known[i].axis]);
            return;
        }
    }
    say(t, "none that is known here\n");
}

/* @return 0, or why it cannot be read (logged) */
static int say_file(Text *t, const char *path, const Log *log)
{
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    Ckpt *c;
    const int ret = avt_ckpt_open(&c, path, log);

    if (ret < 0)
        return ret;
    say_name(t, path);
    say(t, "\n");
    say_weights(t, name, c);
    if (*avt_ckpt_note(c)) {
        say(t, "  format: ");
        say_text(t, avt_ckpt_note(c), 100);
        say(t, "\n");
    }
    say_network(t, c);
    avt_ckpt_close(&c);
    return 0;
}

/* ---- the folder ------------------------------------------------------------------------------------------------------- */

static void say_all(Text *t, const ModelDir *m)
{
    const char *name, *path;
    int nb_bad = 0;

    say_name(t, m->dir);
    say(t, "\n");
    for (int i = 0; avt_modeldir_part(m, i, &name, &path); i++)
        nb_bad += !say_part(t, m, i, name, path);
    nb_bad += !say_lora(t, m);
    say_config(t, m);
    say_settings(t, m);
    if (nb_bad)
        say(t, "%d file%s missing or damaged; a model folder holds the files of Wan-AI/Wan2.2-S2V-14B as published\n", nb_bad,
            nb_bad > 1 ? "s are" : " is");
    else
        say(t, "complete\n");
}

static int say_folder(Text *t, const char *dir, const Log *log)
{
    ModelDir m;
    const int ret = avt_modeldir_look(&m, dir, log);

    if (ret < 0)
        return ret;
    say_all(t, &m);
    avt_modeldir_close(&m);
    return 0;
}

int avt_inspect(char **text, const char *path, const Log *log)
{
    Text t = { .p = avt_malloc(MEM_MISC, SIZE) };
    struct stat st;
    int ret;

    *text = NULL;
    if (!t.p)
        return AVT_ERR(ENOMEM);
    t.p[0] = 0;
    ret = (!stat(path, &st) && !S_ISDIR(st.st_mode) ? say_file : say_folder)(&t, path, log);
    if (ret < 0)
        avt_free(t.p);
    else
        *text = t.p;
    return ret < 0 ? ret : 0;
}
