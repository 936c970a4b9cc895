/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See manifest.h. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libavutil/mem.h>
#include <libavutil/sha.h>

#include "base/log.h"
#include "base/mem.h"
#include "files/file.h"
#include "manifest.h"

#define SUM   32                                    // bytes of SHA-256
#define MOST  (64 << 20)                            // bytes of a list of sums
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

/* A file of `size` bytes with the sum that it should have; `other`: what it is with another one. */
static void check_sum(ManifestCheck *c, const char *path, const char *name, int64_t size, const char *sum, const char *other, int64_t *budget)
{
    char hex[2 * SUM + 1];

    if (size > *budget) {
        c->left++;
        return;
    }
    *budget -= size;
    if (sum_of(hex, path) < 0)
        snprintf(c->bad, sizeof(c->bad), "%.80s cannot be read: %s", name, strerror(errno));
    else if (strcasecmp(hex, sum))
        snprintf(c->bad, sizeof(c->bad), "%.80s %s", name, other);
    else
        c->same++;
}

/* line: "HEX  NAME", or "HEX *NAME" */
static void check_line(ManifestCheck *c, const char *dir, char *line, int64_t *budget)
{
    char path[2 * PATH_MAX];
    char *name = strlen(line) > 2 * SUM + 2 ? line + 2 * SUM + 2 : NULL;
    struct stat st;

    if (!name || line[2 * SUM] != ' ' || !within(name) || strlen(name) >= PATH_MAX)
        return;
    line[2 * SUM] = 0;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
        snprintf(c->bad, sizeof(c->bad), "%.100s is not there any more", name);
    else
        check_sum(c, path, name, st.st_size, line, "is not what it was", budget);
}

int manifest_check(ManifestCheck *c, const char *dir, int64_t most)
{
    Reason why = { .text = "" };
    const Log log = { .write = avt_keep_reason, .opaque = &why, .level = LOG_ERROR };
    char path[PATH_MAX], *next;
    void *text;
    size_t size;

    memset(c, 0, sizeof(*c));
    snprintf(path, sizeof(path), "%s/%s", dir, MANIFEST_NAME);
    if (access(path, F_OK))
        return -1;
    c->unread = avt_file_read_all(&text, &size, path, MOST, &log) < 0;
    if (c->unread)
        snprintf(c->bad, sizeof(c->bad), "%s", why.text[0] ? why.text : strerror(ENOMEM));
    for (char *line = text; line && *line && !c->bad[0]; line = next) {
        const size_t n = strcspn(line, "\n");

        next = line + n + (line[n] == '\n');
        line[n] = 0;
        line[strcspn(line, "\r")] = 0;
        check_line(c, dir, line, &most);
    }
    avt_free(text);
    return 0;
}

/* ---- what was published -------------------------------------------------------------------------------------------- */

/* Of Wan-AI/Wan2.2-S2V-14B, as far as several public records agree: the other shards, the LoRA and the speech encoder are in none. */
static const struct {
    const char *name;
    int64_t least, most;                // bytes
    const char *sum;
} published[] = {
    { "diffusion_pytorch_model-00001-of-00004.safetensors", 9965000000, 9975000000, "5fb54febf10b729a6da7da222625d6ecaedde78becda01efbc13f6bebaeb6d43" },
    { "models_t5_umt5-xxl-enc-bf16.pth", 11361920418, 11361920418, "7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d" },
    { "Wan2.1_VAE.pth", 507609880, 507609880, "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981" },
    { "google/umt5-xxl/spiece.model", 4548313, 4548313, "e3909a67b780650b35cf529ac782ad2b6b26e6d1f849d3fbb6a872905f452458" },
};

void manifest_published(ManifestCheck *c, const char *dir, int64_t most)
{
    char path[PATH_MAX];
    struct stat st;

    memset(c, 0, sizeof(*c));
    for (size_t i = sizeof(published) / sizeof(published[0]); i-- > 0 && !c->bad[0];) {     // the small ones first
        snprintf(path, sizeof(path), "%s/%s", dir, published[i].name);
        if (!stat(path, &st) && S_ISREG(st.st_mode) && st.st_size >= published[i].least && st.st_size <= published[i].most)
            check_sum(c, path, published[i].name, st.st_size, published[i].sum, "is as large as the published one, and another", &most);
    }
}
