/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of a converted model. See convert.h. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libavutil/error.h>

#include "convert.h"
#include "files/file.h"
#include "json_out.h"
#include "stop.h"

#define LARGE (1 << 20)                 // bytes of a file that is rather linked than copied

int convert_write(Convert *c, const void *p, size_t size)
{
    if (stop_asked())
        return AVT_ERR(ECANCELED);
    for (size_t at = 0, nb; at < size; at += nb) {
        nb = size - at < 1 << 24 ? size - at : 1 << 24;
        const int ret = file_write(c->file, (const char *)p + at, (int)nb);

        if (ret < 0)
            return avt_fail(c->log, ret, "%s cannot be written: %s", c->out, strerror(AVUNERROR(ret)));
    }
    return 0;
}

/* there: (opt) gets the characters of `path` up to the last of its folders that was there before. */
static int make_folders(const char *path, size_t *there)
{
    char part[PATH_MAX];
    size_t before = 0;
    int made = 0, ret = 0;

    for (const char *p = path; ret >= 0 && (p = strchr(p + 1, '/'));) {
        snprintf(part, sizeof(part), "%.*s", (int)(p - path), path);
        if (!mkdir(part, 0777))
            made = 1;
        else if (errno != EEXIST)
            ret = AVT_ERR(errno);
        else if (!made)
            before = (size_t)(p - path);
    }
    if (there)
        *there = before;
    return ret;
}

int convert_open(Convert *c, const char *name)
{
    char path[PATH_MAX];
    int ret;

    snprintf(path, sizeof(path), "%s/%s", c->out, name);
    ret = make_folders(path, NULL);
    if (ret < 0)
        return avt_fail(c->log, AVT_ERR(EIO), "%s cannot be made: %s", path, strerror(errno));
    ret = file_create(&c->file, path, stop_asked);
    if (ret == AVERROR(EEXIST))
        return avt_fail(c->log, ret, "%s: is, perhaps by a link, a file of the model that is converted; name a folder of its own with -o", path);
    return ret < 0 ? avt_fail(c->log, ret, "%s cannot be made: %s", path, strerror(AVUNERROR(ret))) : 0;
}

int convert_close(Convert *c, int ret)
{
    const int closed = file_close(&c->file, ret >= 0);

    return ret < 0 || closed >= 0 ? ret : avt_fail(c->log, closed, "%s: a file could not be finished: %s", c->out, strerror(AVUNERROR(closed)));
}

int convert_text(Convert *c, const char *name, const char *text)
{
    int ret = convert_open(c, name);

    return ret < 0 ? ret : convert_close(c, convert_write(c, text, strlen(text)));
}

static int copy_file(Convert *c, const char *from, const char *name)
{
    char piece[65536];
    struct stat st;
    int fd, ret = avt_file_open(&fd, &st, from, c->log);
    ssize_t nb = 0;

    if (ret >= 0)
        ret = convert_open(c, name);
    while (ret >= 0 && (nb = read(fd, piece, sizeof(piece))) > 0) {
        ret = convert_write(c, piece, (size_t)nb);
        progress_add(&c->progress, (double)nb);
    }
    if (ret >= 0 && nb < 0)
        ret = avt_fail(c->log, AVT_ERR(errno), "%s cannot be read: %s", from, strerror(errno));
    if (fd >= 0)
        close(fd);
    return convert_close(c, ret);
}

/* What is large and has not changed is the same file, if the file system can, else a copy; what is the same already stays. */
static int pass_on(Convert *c, const char *from, const char *name)
{
    char to[PATH_MAX], real[PATH_MAX];
    struct stat st;

    snprintf(to, sizeof(to), "%s/%s", c->out, name);
    if (make_folders(to, NULL) < 0)
        return avt_fail(c->log, AVT_ERR(errno), "%s cannot be made: %s", to, strerror(errno));
    if (!stat(from, &st) && (file_same(from, to) || (st.st_size > LARGE && realpath(from, real) && !link(real, to)))) {
        progress_add(&c->progress, (double)st.st_size);
        return 0;
    }
    return copy_file(c, from, name);
}

/* config.json is the last: a folder that has it is whole, any other one can be converted into again. */
int convert_rest(Convert *c)
{
    const char *name, *path, *last = "config.json";
    int ret = 0;

    for (int i = 0; avt_modeldir_part(&c->dir, i, &name, &path) && ret >= 0; i++)
        if (path == c->dir.config)
            last = name;
        else if (path != c->dir.dit)
            ret = pass_on(c, path, name);
    return ret < 0 ? ret : pass_on(c, c->dir.config, last);
}

double convert_rest_bytes(const Convert *c)
{
    const char *name, *path;
    double bytes = 0;
    struct stat st;

    for (int i = 0; avt_modeldir_part(&c->dir, i, &name, &path); i++)
        bytes += path && path != c->dir.dit && !stat(path, &st) ? (double)st.st_size : 0;
    return bytes;
}

/* A line of avatar.json, if there is something to say. */
static void put_text(FILE *f, const char *key, const char *text)
{
    if (!text)
        return;
    fprintf(f, ftell(f) > 2 ? ",\n  \"%s\": " : "  \"%s\": ", key);
    json_text(f, text);
}

static void put_number(FILE *f, const char *key, int64_t v)
{
    if (v)
        fprintf(f, ftell(f) > 2 ? ",\n  \"%s\": %lld" : "  \"%s\": %lld", key, (long long)v);
}

int convert_json(Convert *c)
{
    static const char *const rule[] = { [LORA_REQUIRED] = "required", [LORA_NONE] = "none", [LORA_MERGED] = "merged" };
    const ModelDir *d = &c->dir;
    char *text = NULL, frame[32];
    size_t n;
    FILE *f = open_memstream(&text, &n);
    int ret;

    snprintf(frame, sizeof(frame), "%dx%d", d->width, d->height);
    if (f) {
        fprintf(f, "{\n");
        put_text(f, "name", d->name);
        put_text(f, "prompt", d->prompt);
        put_text(f, "lora", rule[c->lora ? LORA_MERGED : d->lora_rule]);
        put_number(f, "steps", d->steps);
        put_text(f, "size", d->width ? frame : NULL);
        put_number(f, "area", d->area);
        put_number(f, "motion", d->motion);
        fprintf(f, "\n}\n");
    }
    text = json_take(f, &text);
    ret = text ? convert_text(c, "avatar.json", text) : AVT_ERR(ENOMEM);
    free(text);
    return ret;
}

int convert_room(Convert *c)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/config.json", c->out);
    if (!access(path, F_OK))
        return avt_fail(c->log, AVT_ERR(EEXIST), "%s: a model is there already; name another folder with -o", c->out);
    if (make_folders(path, &c->there) < 0)
        return avt_fail(c->log, AVT_ERR(errno), "%s cannot be made: %s", c->out, strerror(errno));
    return 0;
}

void convert_tidy(const Convert *c)
{
    char part[PATH_MAX];

    snprintf(part, sizeof(part), "%s", c->out);
    for (size_t n = strlen(part); n > c->there && (!rmdir(part) || errno == ENOENT); part[n] = 0)
        while (--n > c->there && part[n] != '/')
            ;
}
