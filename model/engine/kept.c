/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See kept.h. Nothing is told of what fails here: what is not kept is made again. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "engine/kept.h"
#include "files/file.h"

#define MOST  ((size_t)16 << 20)        // bytes of a file that is read: a plan with its kernel has some 200 kB
#define HEAD  "avatar's plan, %zu bytes with the sum %016" PRIx64 "\n%s\n%s\n"

/* FNV-1a */
static uint64_t sum_of(const void *bytes, size_t size, uint64_t sum)
{
    const unsigned char *p = bytes;

    for (size_t i = 0; i < size; i++)
        sum = (sum ^ p[i]) * 1099511628211u;
    return sum;
}

static uint64_t sum_of_all(const void *bytes, size_t size)
{
    return sum_of(bytes, size, 14695981039346656037u);
}

static char *path_of(const KeptFolder *k, const char *device, const char *name)
{
    const uint64_t sum = sum_of(name, strlen(name), sum_of_all(device, strlen(device) + 1));

    return avt_sprintf(MEM_ENGINE, "%s/%016" PRIx64, k->folder, sum);
}

/* What a file must begin with to hold these bytes */
static char *head_of(const void *bytes, size_t size, const char *device, const char *name)
{
    return avt_sprintf(MEM_ENGINE, HEAD, size, sum_of_all(bytes, size), device, name);
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

static int write_to(const char *path, const char *head, const void *bytes, size_t size)
{
    FILE *f = fopen(path, "we");
    int good = f && fputs(head, f) >= 0 && fwrite(bytes, 1, size, f) == size;

    if (f && fclose(f))
        good = 0;
    return good;
}

/* Aside, under a name of this thread's own, and in its place at once: who reads finds all of it. */
static void put(const TunedShelf *s, const char *device, const char *name, const void *bytes, size_t size)
{
    const KeptFolder *k = (const KeptFolder *)s;
    char *path = path_of(k, device, name), *aside = path ? avt_sprintf(MEM_ENGINE, "%s.%d.%p", path, (int)getpid(), (void *)&path) : NULL;
    char *head = head_of(bytes, size, device, name);

    if (aside && head) {
        avt_folder_make(k->cache);
        avt_folder_make(k->folder);
        if (!write_to(aside, head, bytes, size) || rename(aside, path))
            unlink(aside);
    }
    avt_free(head);
    avt_free(aside);
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
