/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See manifest.h. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <libavutil/mem.h>
#include <libavutil/sha.h>

#include "manifest.h"

#define SUM   32                                    // bytes of SHA-256
#define DEPTH 8                                     // folders in folders

/* ---- one file ------------------------------------------------------------------------------------------------------ */

static void sum_hex(char hex[2 * SUM + 1], const uint8_t sum[SUM])
{
    for (int i = 0; i < SUM; i++)
        snprintf(hex + 2 * i, 3, "%02x", sum[i]);
}

static int sum_of(char hex[2 * SUM + 1], const char *path)
{
    FILE *f = fopen(path, "rb");
    struct AVSHA *sha = av_sha_alloc();
    uint8_t *piece = malloc(1 << 20), sum[SUM];
    size_t n = 0;
    int fine = f && sha && piece && av_sha_init(sha, 256) >= 0;

    while (fine && (n = fread(piece, 1, 1 << 20, f)) > 0)
        av_sha_update(sha, piece, n);
    if (fine && !ferror(f)) {
        av_sha_final(sha, sum);
        sum_hex(hex, sum);
    } else
        fine = 0;
    if (f)
        fclose(f);
    av_free(sha);
    free(piece);
    return fine ? 0 : -1;
}

/* ---- a folder ------------------------------------------------------------------------------------------------------ */

static int visible(const struct dirent *d)
{
    return d->d_name[0] != '.' && strcmp(d->d_name, MANIFEST_NAME);
}

static int write_folder(const char *dir, const char *below, int depth, FILE *out)
{
    struct dirent **list = NULL;
    char path[PATH_MAX], hex[2 * SUM + 1];
    const int nb = scandir(dir, &list, visible, alphasort);
    int ret = nb < 0 ? -1 : 0;

    for (int i = 0; i < nb; i++) {
        char name[PATH_MAX];
        struct stat st;

        snprintf(path, sizeof(path), "%s/%s", dir, list[i]->d_name);
        snprintf(name, sizeof(name), "%s%s", below, list[i]->d_name);
        free(list[i]);
        if (ret < 0 || stat(path, &st) < 0)
            continue;
        if (S_ISREG(st.st_mode)) {
            ret = sum_of(hex, path);
            if (ret >= 0 && fprintf(out, "%s  %s\n", hex, name) < 0)
                ret = -1;
        } else if (S_ISDIR(st.st_mode) && depth < DEPTH) {
            strncat(name, "/", sizeof(name) - strlen(name) - 1);
            ret = write_folder(path, name, depth + 1, out);
        }
    }
    free(list);
    return ret;
}

int manifest_write(const char *dir, FILE *out)
{
    return write_folder(dir, "", 0, out);
}

/* ---- comparing ----------------------------------------------------------------------------------------------------- */

static int within(const char *name)
{
    return name[0] && name[0] != '/' && strncmp(name, "../", 3) && !strstr(name, "/../");
}

/* line: "HEX  NAME", or "HEX *NAME" */
static void check_line(ManifestCheck *c, const char *dir, char *line, int64_t *budget)
{
    char path[2 * PATH_MAX], hex[2 * SUM + 1];
    char *name = strlen(line) > 2 * SUM + 2 ? line + 2 * SUM + 2 : NULL;
    struct stat st;

    if (!name || line[2 * SUM] != ' ' || !within(name))
        return;
    line[2 * SUM] = 0;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
        snprintf(c->bad, sizeof(c->bad), "%.100s is not there any more", name);
    else if (st.st_size > *budget)
        c->left++;
    else {
        *budget -= st.st_size;
        if (sum_of(hex, path) < 0)
            snprintf(c->bad, sizeof(c->bad), "%.100s cannot be read: %s", name, strerror(errno));
        else if (strcasecmp(hex, line))
            snprintf(c->bad, sizeof(c->bad), "%.100s is not what it was", name);
        else
            c->same++;
    }
}

int manifest_check(ManifestCheck *c, const char *dir, int64_t most)
{
    char path[PATH_MAX], line[PATH_MAX + 2 * SUM + 4];
    FILE *f;

    memset(c, 0, sizeof(*c));
    snprintf(path, sizeof(path), "%s/%s", dir, MANIFEST_NAME);
    f = fopen(path, "r");
    if (!f)
        return -1;
    while (!c->bad[0] && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\r\n")] = 0;
        check_line(c, dir, line, &most);
    }
    fclose(f);
    return 0;
}
