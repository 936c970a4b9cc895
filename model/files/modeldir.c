/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The model folder: which file is which. Published layout of Wan-AI/Wan2.2-S2V-14B, with liveavatar.safetensors
 * (Quark-Vision/Live-Avatar) in it or in lora/, and our own optional avatar.json. Transformer and text encoder may be GGUF files instead,
 * which have no settled names: the encoder's begins with umt5, as published ones do, any other one is the transformer's.
 */
#include <dirent.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sum.h"
#include "base/text.h"
#include "files/ckpt.h"
#include "files/file.h"
#include "files/json.h"
#include "files/modeldir.h"

#define SHOWN 5                         // unknown keys that are logged
#define WAV2VEC2 "wav2vec2-large-xlsr-53-english/"

typedef struct Part {
    size_t slot;                        // of ModelDir
    const char *what;
    const char *path[2];                // the first that is there counts
} Part;

static const Part parts[] = {
    { offsetof(ModelDir, config), "the network's sizes", { "config.json" } },
    { offsetof(ModelDir, dit),
      "the diffusion transformer",
      { "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors" } },
    { offsetof(ModelDir, vae), "the video VAE", { "Wan2.1_VAE.pth", "Wan2.1_VAE.safetensors" } },
    { offsetof(ModelDir, t5),
      "the text encoder",
      { "models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors" } },
    { offsetof(ModelDir, spiece), "the tokenizer", { "google/umt5-xxl/spiece.model" } },
    { offsetof(ModelDir, wav2vec2), "the speech encoder", { WAV2VEC2 "model.safetensors" } },
    { offsetof(ModelDir, wav2vec2_config), "the speech encoder's sizes", { WAV2VEC2 "config.json" } },
    { offsetof(ModelDir, wav2vec2_preprocessor), "the speech encoder's input", { WAV2VEC2 "preprocessor_config.json" } },
};

#define NB_PARTS (sizeof(parts) / sizeof(parts[0]))

static const char *const lora_paths[] = { "liveavatar.safetensors", "lora/liveavatar.safetensors" };

static int exists(const char *dir, const char *name, const char *end)
{
    char path[PATH_MAX];
    struct stat st;

    return snprintf(path, sizeof(path), "%s/%s%s", dir, name, end) < PATH_MAX && !stat(path, &st) && !S_ISDIR(st.st_mode);
}

/* Is anything there under this name, a link to nothing included? */
static int there(const char *path)
{
    struct stat st;

    return !lstat(path, &st) || (errno != ENOENT && errno != ENOTDIR);
}

static char **slot_of(ModelDir *m, const Part *p)
{
    return (char **)((char *)m + p->slot);
}

int avt_modeldir_missing(const ModelDir *m, int i, const Log *log)
{
    const Part *p = &parts[i];
    const char *dir = m->dir;
    const int part = exists(dir, p->path[0], ".incomplete") || exists(dir, p->path[0], ".part");
    char path[PATH_MAX];
    struct stat st = { 0 };

    snprintf(path, sizeof(path), "%s/%s", dir, p->path[0]);
    if (stat(path, &st) ? errno != ENOENT && errno != ENOTDIR : S_ISDIR(st.st_mode))
        return avt_fail(log, AVT_ERR(S_ISDIR(st.st_mode) ? EISDIR : errno), "%s (%s): %s", path, p->what,
                        S_ISDIR(st.st_mode) ? "is a folder; a file was wanted" : strerror(errno));
    if (there(path))
        return avt_fail(log, AVT_ERR(ENOENT), "%s (%s): is a link that leads nowhere", path, p->what);
    if (exists(dir, "model_index.json", ""))
        return avt_fail(log, AVT_ERR(ENOENT), "%s: is a folder in diffusers' layout, which is not supported; the files of "
                        "Wan-AI/Wan2.2-S2V-14B as published are wanted", dir);
    return avt_fail(log, AVT_ERR(ENOENT),
                    "%s/%s (%s) is missing%s; a model folder holds the files of Wan-AI/Wan2.2-S2V-14B as published", dir,
                    p->path[0], p->what, part ? ": its download did not finish" : "");
}

static int find_part(ModelDir *m, const Part *p)
{
    for (int i = 0; i < 2 && p->path[i]; i++)
        if (exists(m->dir, p->path[i], "")) {
            *slot_of(m, p) = avt_sprintf(MEM_MISC, "%s/%s", m->dir, p->path[i]);
            return *slot_of(m, p) ? 0 : AVT_ERR(ENOMEM);
        }
    return 0;
}

int avt_modeldir_has_weights(const char *name)
{
    return avt_ends_with(name, ".safetensors") || avt_ends_with(name, ".pth") || avt_ends_with(name, ".index.json") || avt_ends_with(name, ".gguf");
}

/* A GGUF file becomes the part that it can be; where there is one already, nobody can say which is meant. */
static int take_gguf(ModelDir *m, const char *name, const Log *log)
{
    const int is_text = !strncasecmp(name, "umt5", 4);
    char **slot = is_text ? &m->t5 : &m->dit, *path;

    if (*slot)
        return avt_fail(log, AVT_INVALID, "%s: holds two files for %s, %s and %s; take one of them out", m->dir,
                        is_text ? "the text encoder" : "the diffusion transformer", strrchr(*slot, '/') + 1, name);
    path = avt_sprintf(MEM_MISC, "%s/%s", m->dir, name);
    *slot = path;
    return path ? 0 : AVT_ERR(ENOMEM);
}

static int find_gguf(ModelDir *m, const Log *log)
{
    DIR *d = opendir(m->dir);
    int ret = 0;

    for (struct dirent *e; d && ret >= 0 && (e = readdir(d));)
        if (avt_ends_with(e->d_name, ".gguf") && exists(m->dir, e->d_name, ""))
            ret = take_gguf(m, e->d_name, log);
    if (d)
        closedir(d);
    return ret;
}

/* ---- avatar.json --------------------------------------------------------------------------------------------------- */

static int read_size(ModelDir *m, const Json *j, const char *path, const Log *log)
{
    const char *size = NULL;
    char rest;
    int ret = avt_json_string(j, "size", &size, 0);

    if (ret < 0 || !size)
        return ret;
    if (sscanf(size, "%5dx%5d%c", &m->width, &m->height, &rest) != 2 || m->width < 16 || m->height < 16 || m->width > 8192 ||
        m->height > 8192 || m->width % 16 || m->height % 16)
        return avt_fail(log, AVT_INVALID, "%s: \"size\" must be WIDTHxHEIGHT, both multiples of 16, but is %.40s", path, size);
    return 0;
}

static int read_lora_rule(ModelDir *m, const Json *j, const char *path, const Log *log)
{
    const char *rule = NULL;
    const int ret = avt_json_string(j, "lora", &rule, 0);

    if (ret < 0 || !rule)
        return ret;
    m->lora_rule = !strcmp(rule, "required") ? LORA_REQUIRED : !strcmp(rule, "none") ? LORA_NONE : !strcmp(rule, "merged") ? LORA_MERGED : LORA_UNSAID;
    return m->lora_rule
               ? 0
               : avt_fail(log, AVT_INVALID, "%s: \"lora\" must be \"required\", \"none\" or \"merged\", but is \"%.40s\"", path, rule);
}

static int read_text(char **to, const Json *j, const char *key)
{
    const char *s = NULL;
    const int ret = avt_json_string(j, key, &s, 0);

    if (ret < 0 || !s)
        return ret;
    *to = avt_strdup(MEM_MISC, s);
    return *to ? 0 : AVT_ERR(ENOMEM);
}

static int read_values(ModelDir *m, const Json *j, const char *path, const Log *log)
{
    int64_t steps = 0, motion = 0;
    int ret = read_text(&m->name, j, "name");

    if (ret >= 0)
        ret = read_text(&m->prompt, j, "prompt");
    if (ret >= 0)
        ret = avt_json_int(j, "steps", &steps, 1, MODELDIR_MAX_STEPS, 0);
    m->steps = (int)steps;
    if (ret >= 0)
        ret = avt_json_int(j, "motion", &motion, 0, 255, 0);
    m->motion = (int)motion;
    if (ret >= 0)
        ret = avt_json_int(j, "area", &m->area, 256, 8192 * 8192, 0);
    if (ret >= 0)
        ret = read_size(m, j, path, log);
    if (ret >= 0)
        ret = read_lora_rule(m, j, path, log);
    if (ret >= 0)
        ret = avt_json_float(j, "lora_alpha", &m->lora_alpha, 0);
    if (ret >= 0 && !(m->lora_alpha >= 0 && m->lora_alpha <= 1e6))
        ret = avt_fail(log, AVT_INVALID, "%s: \"lora_alpha\" must be positive, but is %g", path, m->lora_alpha);
    if (ret >= 0 && m->area && m->width)
        ret = avt_fail(log, AVT_INVALID, "%s: \"area\" and \"size\" exclude each other", path);
    return ret;
}

static void warn_unknown(const Json *j, const char *path, const Log *log)
{
    static const char *const known[] = { "name", "prompt", "steps", "area", "size", "lora", "lora_alpha", "motion" };

    int nb = 0;

    for (const Json *m = j->first; m; m = m->next) {
        size_t i = 0;

        while (i < sizeof(known) / sizeof(known[0]) && strcmp(m->key, known[i]))
            i++;
        if (i == sizeof(known) / sizeof(known[0]) && nb++ < SHOWN)
            avt_log(log, LOG_WARNING, "%s: \"%.100s\" is not known and has no effect", path, m->key);
    }
    if (nb > SHOWN)
        avt_log(log, LOG_WARNING, "%s: %d keys are not known, the first %d are above", path, nb, SHOWN);
}

static int read_avatar_json(ModelDir *m, const Log *log)
{
    char *path;
    Json *j = NULL;
    int ret;

    path = avt_sprintf(MEM_MISC, "%s/avatar.json", m->dir);
    if (path && !there(path)) {
        avt_free(path);
        return 0;
    }
    ret = path ? avt_json_read(&j, path, log) : AVT_ERR(ENOMEM);
    if (ret >= 0)
        ret = read_values(m, j, path, log);
    if (ret >= 0)
        warn_unknown(j, path, log);
    avt_json_close(&j);
    avt_free(path);
    return ret;
}

/* ---- the interface ------------------------------------------------------------------------------------------------- */

static int find_all(ModelDir *m, const Log *log)
{
    int ret = 0;

    for (size_t i = 0; i < NB_PARTS && ret >= 0; i++)
        ret = find_part(m, &parts[i]);
    if (ret >= 0)
        ret = find_gguf(m, log);
    for (size_t i = 0; i < 2 && ret >= 0 && !m->lora; i++) {
        m->lora = avt_sprintf(MEM_MISC, "%s/%s", m->dir, lora_paths[i]);
        ret = m->lora ? 0 : AVT_ERR(ENOMEM);
        if (m->lora && !there(m->lora))
            avt_freep(&m->lora);
    }
    return ret < 0 ? ret : read_avatar_json(m, log);
}

int avt_modeldir_look(ModelDir *m, const char *dir, const Log *log)
{
    struct stat st;
    int ret;

    *m = (ModelDir){ 0 };
    if (stat(dir, &st) < 0)
        return avt_fail(log, AVT_ERR(errno), "%s: no model folder there: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return avt_fail(log, AVT_ERR(ENOTDIR), "%s: is a file; 'model' names the folder that holds all files of a model", dir);
    m->dir = avt_strdup(MEM_MISC, dir);
    ret = m->dir ? find_all(m, log) : AVT_ERR(ENOMEM);
    if (ret < 0)
        avt_modeldir_close(m);
    return ret;
}

int avt_modeldir_open(ModelDir *m, const char *dir, const Log *log)
{
    int ret = avt_modeldir_look(m, dir, log);

    for (size_t i = 0; i < NB_PARTS && ret >= 0; i++)
        if (!*slot_of(m, &parts[i]))
            ret = avt_modeldir_missing(m, (int)i, log);
    if (ret < 0)
        avt_modeldir_close(m);
    return ret;
}

int avt_modeldir_part(const ModelDir *m, int i, const char **name, const char **path)
{
    if (i < 0 || i >= (int)NB_PARTS)
        return 0;
    *path = *(char *const *)((const char *)m + parts[i].slot);
    *name = *path ? *path + strlen(m->dir) + 1 : parts[i].path[0];
    return 1;
}

/* Links are followed. A file that is not there has a stamp, too; ctime tells when mtime was set back. */
static uint64_t file_stamp(const char *path)
{
    struct stat st;
    int64_t v[7] = { -1 };

    if (!path)
        return 0;
    if (!stat(path, &st))
        memcpy(v, (int64_t[]){ st.st_size, (int64_t)st.st_ino, (int64_t)st.st_dev, st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                               st.st_ctim.tv_sec, st.st_ctim.tv_nsec }, sizeof(v));
    return avt_sum(avt_sum(AVT_SUM_BEGIN, path, strlen(path)), v, sizeof(v));
}

static uint64_t stamp_in(const char *dir, const char *name)
{
    char path[PATH_MAX];

    return snprintf(path, sizeof(path), "%s/%s", dir, name) < PATH_MAX ? file_stamp(path) : 0;
}

uint64_t avt_modeldir_stamp(const ModelDir *m, const char *lora)
{
    uint64_t sum = file_stamp(m->lora) + file_stamp(lora) + stamp_in(m->dir, "avatar.json");
    DIR *d = opendir(m->dir);
    const char *name, *path;

    for (int i = 0; avt_modeldir_part(m, i, &name, &path); i++)
        sum += file_stamp(path);
    for (struct dirent *e; d && (e = readdir(d));) {                // in any order, so stamps are added up
        const size_t n = strlen(e->d_name);

        if (n > 12 && !strcmp(e->d_name + n - 12, ".safetensors"))
            sum += stamp_in(m->dir, e->d_name);
    }
    if (d)
        closedir(d);
    return sum;
}

#define PIECE 4096
#define PIECES 8                        // of a tensor, spread over it, both ends among them

static int tensor_print(uint64_t *sum, const CkptTensor *t, const Log *log)
{
    const int64_t last = ((int64_t)t->size - 1) / PIECE, nb = last < PIECES ? last + 1 : PIECES;
    uint8_t piece[PIECE];
    int ret = 0;

    *sum = avt_sum(avt_sum(*sum, t->name, strlen(t->name)), t->dim, sizeof(t->dim[0]) * (size_t)t->nd);
    *sum = avt_sum(*sum, avt_ckpt_type(t), strlen(avt_ckpt_type(t)));
    for (int64_t i = 0; t->size && i < nb && ret >= 0; i++) {
        const size_t at = (size_t)(nb > 1 ? last * i / (nb - 1) : 0) * PIECE, n = t->size - at < PIECE ? t->size - at : PIECE;

        ret = avt_ckpt_read(t, piece, at, n, log);
        *sum = ret < 0 ? *sum : avt_sum(*sum, piece, n);
    }
    return ret;
}

static int file_print(uint64_t *sum, const char *path, const Log *log)
{
    Ckpt *c = NULL;
    int ret = path ? avt_ckpt_open(&c, path, log) : 0;

    *sum = avt_sum(*sum, "file", path ? 4 : 1);
    for (int64_t i = 0; c && i < avt_ckpt_nb(c) && ret >= 0; i++)
        ret = tensor_print(sum, avt_ckpt_get(c, i), log);
    avt_ckpt_close(&c);
    return ret;
}

int avt_modeldir_print(uint64_t *sum, const ModelDir *m, const char *lora, double alpha, const Log *log)
{
    int ret;

    *sum = avt_sum(AVT_SUM_BEGIN, &alpha, sizeof(alpha));
    ret = file_print(sum, m->dit, log);
    if (ret >= 0)
        ret = file_print(sum, m->vae, log);
    return ret < 0 ? ret : file_print(sum, lora, log);
}

void avt_modeldir_close(ModelDir *m)
{
    if (!m->dir)
        return;
    for (size_t i = 0; i < NB_PARTS; i++)
        avt_free(*slot_of(m, &parts[i]));
    avt_free(m->dir);
    avt_free(m->lora);
    avt_free(m->name);
    avt_free(m->prompt);
    *m = (ModelDir){ 0 };
}
