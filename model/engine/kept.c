/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See kept.h. Nothing is told of what fails here: what is not kept is made again. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/sum.h"
#include "engine/kept.h"
#include "files/file.h"

#define MOST  ((size_t)16 << 20)        // bytes of a file that is read: a plan with its kernel has some 200 kB
#define HEAD  "avatar's plan, %zu bytes with the sum %016" PRIx64 "\n%s\n%s\n"

static char *path_of(const KeptFolder *k, const char *device, const char *name)
{
    const uint64_t sum = avt_sum(avt_sum(AVT_SUM_BEGIN, device, strlen(device) + 1), name, strlen(name));

    return avt_sprintf(MEM_ENGINE, "%s/%016" PRIx64, k->folder, sum);
}

/* What a file must begin with to hold these bytes */
static char *head_of(const void *bytes, size_t size, const char *device, const char *name)
{
    return avt_sprintf(MEM_ENGINE, HEAD, size, avt_sum(AVT_SUM_BEGIN, bytes, size), device, name);
}

/* The bytes behind the head, found to be those that the head is of; moved to the begin. 0: they are not */
static int unpack(char *data, size_t *size, const char *device, const char *name)
{
    size_t n, at;
    char *head;
    int right;

    if (sscanf(data, "avatar's plan, %zu bytes", &n) != 1 || n > *size)
        return 0;
    at = *size - n;
    head = head_of(data + at, n, device, name);
    right = head && strlen(head) == at && !memcmp(head, data, at);
    avt_free(head);
    if (right) {
        memmove(data, data + at, n);
        *size = n;
    }
    return right;
}

static void *take(const TunedShelf *s, const char *device, const char *name, size_t *size)
{
    char *path = path_of((const KeptFolder *)s, device, name);
    void *data = NULL;

    if (path && !access(path, R_OK) && avt_file_read_all(&data, size, path, MOST, NULL) >= 0 && !unpack(data, size, device, name))
        avt_freep(&data);
    avt_free(path);
    return data;
}

typedef struct Thing {
    const char *head;
    const void *bytes;
    size_t size;
} Thing;

static int write_thing(FILE *f, const void *what)
{
    const Thing *t = what;

    return fputs(t->head, f) >= 0 && fwrite(t->bytes, 1, t->size, f) == t->size ? 0 : AVT_ERR(EIO);
}

static void put(const TunedShelf *s, const char *device, const char *name, const void *bytes, size_t size)
{
    const KeptFolder *k = (const KeptFolder *)s;
    char *path = path_of(k, device, name), *head = head_of(bytes, size, device, name);

    if (path && head) {
        avt_folder_make(k->cache);
        avt_folder_make(k->folder);
        avt_file_replace(path, write_thing, &(Thing){ head, bytes, size });
    }
    avt_free(head);
    avt_free(path);
}

int avt_kept_open(KeptFolder *k, const char *cache)
{
    *k = (KeptFolder){ .shelf = { take, put }, .cache = avt_strdup(MEM_ENGINE, cache), .folder = avt_sprintf(MEM_ENGINE, "%s/plans", cache) };
    return k->cache && k->folder ? 0 : AVT_ERR(ENOMEM);
}

void avt_kept_close(KeptFolder *k)
{
    avt_freep(&k->cache);
    avt_freep(&k->folder);
}
