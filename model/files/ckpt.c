/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoints: opens files, chooses the reader by their first bytes, keeps the tensors sorted by name.
 *
 *   name.safetensors.index.json --> shards ---+
 *   name.safetensors -------------------------+--> CkptTensor[] sorted by name, each a place in a file
 *   name.pth ---------------------------------+
 *   name.gguf --------------------------------+
 *
 * Trap: a shard's name comes out of a file, so it must stay in the index's folder. A hub cache keeps its files as links
 * from snapshots/<revision>/ into blobs/ beside it: that one way out is known and allowed.
 */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "files/ckpt.h"
#include "files/file.h"
#include "files/json.h"

#define MAX_SHARDS  1000
#define MAX_TENSORS 200000

struct Ckpt {
    char *path;
    char note[160];
    CkptFile **file;
    int nb_files;
    CkptTensor *tensor;                 // names are owned
    int64_t nb, max;
};

/* ---- files --------------------------------------------------------------------------------------------------------- */

static void close_file(CkptFile *f)
{
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    avt_free(f->path);
    avt_free(f);
}

static int64_t mtime_ns(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

static int open_file(CkptFile *f, const Log *log)
{
    struct stat st;
    const int ret = avt_file_open(&f->fd, &st, f->path, log);

    if (ret < 0)
        return ret;
    f->size = (size_t)st.st_size;
    f->mtime_ns = mtime_ns(&st);
    f->dev = (uint64_t)st.st_dev;
    f->ino = (uint64_t)st.st_ino;
    return f->size ? 0 : avt_fail(log, AVT_INVALID, "%s: is empty (0 bytes); download it again", f->path);
}

int avt_ckpt_bytes(const CkptFile *f, void *dst, uint64_t offset, size_t size, const Log *log)
{
    if (f->fd >= 0)
        return avt_file_read(f->fd, dst, offset, size, f->path, log);
    if (size)
        memcpy(dst, f->memory + offset, size);
    return 0;
}

int avt_ckpt_read(const CkptTensor *t, void *dst, size_t first, size_t size, const Log *log)
{
    AVT_REQUIRE(log, first <= t->size && size <= t->size - first);
    return avt_ckpt_bytes(t->file, dst, t->offset + first, size, log);
}

/* ---- what the readers fill ----------------------------------------------------------------------------------------- */

int avt_ckpt_add(Ckpt *c, const CkptTensor *t, const Log *log)
{
    if (c->nb == MAX_TENSORS)
        return avt_fail(log, AVT_INVALID, "%s: more than %d tensors", c->path, MAX_TENSORS);
    if (c->nb == c->max) {
        const int64_t max = c->max ? 2 * c->max : 256;
        CkptTensor *p = avt_realloc(MEM_CKPT, c->tensor, (size_t)max * sizeof(*p));

        if (!p)
            return AVT_ERR(ENOMEM);
        c->tensor = p;
        c->max = max;
    }
    c->tensor[c->nb] = *t;
    c->tensor[c->nb].name = avt_strdup(MEM_CKPT, t->name);
    return c->tensor[c->nb].name ? (c->nb++, 0) : AVT_ERR(ENOMEM);
}

void avt_ckpt_move(Ckpt *c, int64_t first, uint64_t by)
{
    for (int64_t i = first; i < c->nb; i++)
        c->tensor[i].offset += by;
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const CkptTensor *)a)->name, ((const CkptTensor *)b)->name);
}

static int sort_tensors(Ckpt *c, const Log *log)
{
    if (c->nb)
        qsort(c->tensor, (size_t)c->nb, sizeof(*c->tensor), compare_tensors);
    for (int64_t i = 1; i < c->nb; i++)
        if (!compare_tensors(&c->tensor[i - 1], &c->tensor[i]))
            return avt_fail(log, AVT_INVALID, "%s: tensor %s is there twice, in %s and in %s", c->path, c->tensor[i].name,
                            c->tensor[i - 1].file->name, c->tensor[i].file->name);
    return 0;
}

void avt_ckpt_say(Ckpt *c, const char *fmt, ...)
{
    char text[sizeof(c->note)];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    memcpy(c->note, text, sizeof(text));                            // the old one may be part of the new one
}

/* ---- one file ------------------------------------------------------------------------------------------------------ */

#define HEAD 64                         // bytes that tell what a file is

static int looks_like_text(const uint8_t *head, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((head[i] < 0x20 && !strchr("\t\r\n", head[i])) || head[i] >= 0x7f || !head[i])
            return 0;
    return 1;
}

static int read_file(Ckpt *c, const CkptFile *f, const Log *log)
{
    const size_t n = f->size < HEAD ? f->size : HEAD;
    uint8_t head[HEAD] = { 0 };
    const int ret = avt_ckpt_bytes(f, head, 0, n, log);

    if (ret < 0)
        return ret;
    if (avt_ends_with(f->name, ".incomplete") || avt_ends_with(f->name, ".part"))
        return avt_fail(log, AVT_INVALID, "%s: is a download that did not finish (%lld bytes so far); download it again", f->path,
                        (long long)f->size);
    if (!memcmp(head, "version https://git-lfs", 23))
        return avt_fail(log, AVT_INVALID, "%s: is a Git LFS pointer, not the weights; fetch them with 'git lfs pull'", f->path);
    if (!memcmp(head, "PK\3\4", 4))
        return avt_ckpt_read_pth(c, f, log);
    if (!memcmp(head, "\x80\2", 2) && head[8] != '{')
        return avt_fail(log, AVT_INVALID,
                        "%s: is a PyTorch file of the old format (before 1.6); save it again with a newer torch.save",
                        f->path);
    if (!memcmp(head, "GGUF", 4))
        return avt_ckpt_read_gguf(c, f, log);
    if (looks_like_text(head, n))
        return avt_fail(log, AVT_INVALID,
                        "%s: looks like text, not like weights (an error page under this name?); download it again",
                        f->path);
    return avt_ckpt_read_safetensors(c, f, log);
}

/* An empty file in c's list, or NULL. */
static CkptFile *new_file(Ckpt *c, const char *path)
{
    CkptFile *f, **list = avt_realloc(MEM_CKPT, c->file, (size_t)(c->nb_files + 1) * sizeof(*list));

    if (!list)
        return NULL;
    c->file = list;
    f = avt_calloc(MEM_CKPT, 1, sizeof(*f));
    if (!f)
        return NULL;
    c->file[c->nb_files++] = f;
    f->fd = -1;
    f->path = avt_strdup(MEM_CKPT, path);
    if (!f->path)
        return NULL;
    f->name = strrchr(f->path, '/') ? strrchr(f->path, '/') + 1 : f->path;
    return f;
}

static int add_file(Ckpt *c, const char *path, const Log *log)
{
    CkptFile *f = new_file(c, path);
    const int ret = f ? open_file(f, log) : AVT_ERR(ENOMEM);

    return ret < 0 ? ret : read_file(c, f, log);
}

/* ---- index + shards ------------------------------------------------------------------------------------------------ */

static int inside(const char *path, const char *dir, size_t n)
{
    return !strncmp(path, dir, n) && path[n] == '/';
}

/* Does the shard, links followed, lie in the index's folder, or in the blobs of the hub cache that holds the folder? */
static int check_place(const char *dir, const char *path, const Log *log)
{
    char real_dir[PATH_MAX], real[PATH_MAX], *snapshots;

    if (!realpath(path, real) || !realpath(dir, real_dir))
        return avt_fail(log, AVT_ERR(errno), "%s: the index names this shard, but it cannot be opened: %s", path, strerror(errno));
    if (inside(real, real_dir, strlen(real_dir)))
        return 0;
    snapshots = strstr(real_dir, "/snapshots/");
    if (snapshots && inside(real, real_dir, (size_t)(snapshots - real_dir)) &&
        !strncmp(real + (snapshots - real_dir), "/blobs/", 7))
        return 0;
    return avt_fail(log, AVT_INVALID, "%s: is a link that leads out of the folder, to %s", path, real);
}

static int add_shard(Ckpt *c, const char *dir, const char *name, const Log *log)
{
    char *path;
    int ret;

    for (int i = 0; i < c->nb_files; i++)
        if (!strcmp(c->file[i]->name, name))
            return 0;
    if (c->nb_files == MAX_SHARDS)
        return avt_fail(log, AVT_INVALID, "%s: more than %d shards", c->path, MAX_SHARDS);
    path = avt_sprintf(MEM_CKPT, "%s/%s", dir, name);
    if (!path)
        return AVT_ERR(ENOMEM);
    ret = check_place(dir, path, log);
    if (ret >= 0)
        ret = add_file(c, path, log);
    avt_free(path);
    return ret;
}

static int check_shard_name(const Ckpt *c, const Json *shard, const Log *log)
{
    const char *name = shard->type == JSON_TEXT ? shard->text : "no text";

    if (strpbrk(name, "/\\") || strstr(name, "..") || !avt_ends_with(name, ".safetensors"))
        return avt_fail(log, AVT_INVALID, "%s: tensor %s: its shard must be the bare name of a .safetensors file, but is %.100s",
                        c->path, shard->key, name);
    return 0;
}

/* A tensor that the map does not name. */
static int left_out(const Ckpt *c, const Json *map, const Log *log)
{
    uint8_t *named = avt_calloc(MEM_CKPT, (size_t)c->nb, 1);
    int64_t i = 0;

    if (!named)
        return AVT_ERR(ENOMEM);
    for (const Json *m = map->first; m; m = m->next)
        named[avt_ckpt_find(c, m->key) - c->tensor] = 1;
    while (named[i])
        i++;
    avt_free(named);
    return avt_fail(log, AVT_INVALID, "%s: tensor %s of shard %s is not in the index", c->path, c->tensor[i].name,
                    c->tensor[i].file->name);
}

/* The map and the shards must agree in both directions; names are there once in both, so counting does for the second. */
static int check_map(const Ckpt *c, const Json *map, const Log *log)
{
    for (const Json *m = map->first; m; m = m->next) {
        const CkptTensor *t = avt_ckpt_find(c, m->key);

        if (!t)
            return avt_fail(log, AVT_INVALID, "%s: tensor %s is not in its shard %s", c->path, m->key, m->text);
        if (strcmp(t->file->name, m->text))
            return avt_fail(log, AVT_INVALID, "%s: tensor %s should be in shard %s, but is in %s", c->path, m->key, m->text,
                            t->file->name);
    }
    return map->nb < c->nb ? left_out(c, map, log) : 0;
}

static void check_total(const Ckpt *c, const Json *root, const Log *log)
{
    const Json *total = avt_json_get(avt_json_get(root, "metadata"), "total_size");
    int64_t sum = 0;

    for (int64_t i = 0; i < c->nb; i++)
        sum += (int64_t)c->tensor[i].size;
    if (total && total->type == JSON_INT && total->i != sum)
        avt_log(log, LOG_WARNING, "%s: total_size says %lld bytes, the shards hold %lld", c->path, (long long)total->i,
                (long long)sum);
}

static int read_shards(Ckpt *c, const Json *root, const Log *log)
{
    const Json *map = avt_json_get(root, "weight_map"), *m = avt_json_first(map);
    char *dir, *slash;
    int ret = 0;

    if (!m || map->type != JSON_OBJECT)
        return avt_fail(log, AVT_INVALID, "%s: has no \"weight_map\"; an index of shards was wanted", c->path);
    dir = avt_strdup(MEM_CKPT, c->path);
    if (!dir)
        return AVT_ERR(ENOMEM);
    slash = strrchr(dir, '/');
    if (slash)
        *slash = 0;
    for (; m && ret >= 0; m = m->next) {
        ret = check_shard_name(c, m, log);
        if (ret >= 0)
            ret = add_shard(c, slash ? dir : ".", m->text, log);
    }
    avt_free(dir);
    if (ret >= 0)
        ret = sort_tensors(c, log);
    if (ret >= 0)
        ret = check_map(c, map, log);
    if (ret >= 0)
        check_total(c, root, log);
    return ret;
}

static int read_index(Ckpt *c, const Log *log)
{
    Json *j;
    int ret = avt_json_read(&j, c->path, log);

    if (ret < 0)
        return ret;
    ret = read_shards(c, j, log);
    avt_json_close(&j);
    return ret;
}

/* ---- the interface ------------------------------------------------------------------------------------------------- */

static int new_ckpt(Ckpt **out, const char *path)
{
    Ckpt *c = avt_calloc(MEM_CKPT, 1, sizeof(*c));

    *out = c;
    if (!c)
        return AVT_ERR(ENOMEM);
    c->path = avt_strdup(MEM_CKPT, path);
    return c->path ? 0 : AVT_ERR(ENOMEM);
}

int avt_ckpt_open(Ckpt **out, const char *path, const Log *log)
{
    int ret = new_ckpt(out, path);

    if (ret >= 0 && avt_ends_with(path, ".index.json")) {
        ret = read_index(*out, log);
    } else if (ret >= 0) {
        ret = add_file(*out, path, log);
        if (ret >= 0)
            ret = sort_tensors(*out, log);
    }
    if (ret < 0)
        avt_ckpt_close(out);
    return ret;
}

int avt_ckpt_open_memory(Ckpt **out, const char *name, const void *data, size_t size, const Log *log)
{
    int ret = new_ckpt(out, name);
    CkptFile *f = ret < 0 ? NULL : new_file(*out, name);

    if (f) {
        f->memory = data;
        f->size = size;
        ret = read_file(*out, f, log);
        if (ret >= 0)
            ret = sort_tensors(*out, log);
    } else {
        ret = AVT_ERR(ENOMEM);
    }
    if (ret < 0)
        avt_ckpt_close(out);
    return ret;
}

void avt_ckpt_close(Ckpt **pc)
{
    Ckpt *c = *pc;

    if (!c)
        return;
    for (int i = 0; i < c->nb_files; i++)
        close_file(c->file[i]);
    for (int64_t i = 0; i < c->nb; i++)
        avt_free((void *)c->tensor[i].name);
    avt_free(c->file);
    avt_free(c->tensor);
    avt_free(c->path);
    avt_freep(pc);
}

int64_t avt_ckpt_nb(const Ckpt *c)
{
    return c->nb;
}

const CkptTensor *avt_ckpt_get(const Ckpt *c, int64_t i)
{
    return i >= 0 && i < c->nb ? &c->tensor[i] : NULL;
}

const CkptTensor *avt_ckpt_find(const Ckpt *c, const char *name)
{
    const CkptTensor key = { .name = name };

    return c->nb ? bsearch(&key, c->tensor, (size_t)c->nb, sizeof(key), compare_tensors) : NULL;
}

const char *avt_ckpt_path(const Ckpt *c)
{
    return c->path;
}

const char *avt_ckpt_note(const Ckpt *c)
{
    return c->note;
}

static int compare_times(const CkptFile *f, const struct stat *st, const Log *log)
{
    if ((size_t)st->st_size == f->size && mtime_ns(st) == f->mtime_ns)
        return 0;
    return avt_fail(log, AVT_ERR(ESTALE), "%s: changed while it was read (%lld bytes at first, %lld now)", f->path, (long long)f->size,
                    (long long)st->st_size);
}

static int ask_name(const CkptFile *f, const Log *log)
{
    struct stat st;

    if (stat(f->path, &st) < 0)
        return avt_fail(log, AVT_ERR(ESTALE), "%s: went away while it was read: %s", f->path, strerror(errno));
    return compare_times(f, &st, log);
}

static int ask_descriptor(const CkptFile *f, const Log *log)
{
    struct stat st;

    if (fstat(f->fd, &st) < 0) {
        if (errno != EBADF)
            return 0;                               // a host may deny itself the question and still read
        st = (struct stat){ 0 };
    }
    if ((uint64_t)st.st_dev != f->dev || (uint64_t)st.st_ino != f->ino)
        return avt_fail(log, AVT_ERR(ESTALE), "%s: its descriptor %d was closed by somebody else in this process", f->path, f->fd);
    return compare_times(f, &st, log);
}

/* Of every file that is one, until an answer is an error. */
static int ask_files(const Ckpt *c, int (*ask)(const CkptFile *f, const Log *log), const Log *log)
{
    int ret = 0;

    for (int i = 0; i < c->nb_files && ret >= 0; i++)
        if (c->file[i]->fd >= 0)
            ret = ask(c->file[i], log);
    return ret;
}

int avt_ckpt_unchanged(const Ckpt *c, const Log *log)
{
    return ask_files(c, ask_name, log);
}

int avt_ckpt_intact(const Ckpt *c, const Log *log)
{
    return ask_files(c, ask_descriptor, log);
}
