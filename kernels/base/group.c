/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Limits of the control group. See group.h.
 *
 *     /proc/self/cgroup   0::/user.slice/job     ->  /sys/fs/cgroup/user.slice/job/memory.max, .../user.slice/memory.max, ...
 *                         4:memory:/job          ->  /sys/fs/cgroup/memory/job/memory.limit_in_bytes, ...
 *
 * Traps: a container may see the path of the host, of which only the root is mounted there: what is not there is passed over. The file
 * cache counts as used, but gives way.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/group.h"

typedef struct Names {                  // of one version's files
    const char *limit, *used, *stat, *cache;
    const char *quota, *period;         // period NULL: behind the quota, in one line
} Names;

static const Names v2 = { "memory.max", "memory.current", "memory.stat", "inactive_file ", "cpu.max", NULL };
static const Names v1 = { "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file ", "cpu.cfs_quota_us",
                          "cpu.cfs_period_us" };

typedef int64_t (*Limit)(const char *dir, const Names *n);

int64_t avt_read_number(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    char line[256], *end;
    int64_t v = -1;

    while (f && v < 0 && fgets(line, sizeof(line), f))
        if (!strncmp(line, key, strlen(key))) {
            v = strtoll(line + strlen(key), &end, 10);
            v = end == line + strlen(key) ? -1 : v;
        }
    if (f)
        fclose(f);
    return v;
}

static int64_t read_in(const char *dir, const char *name, const char *key)
{
    char path[PATH_MAX];

    return snprintf(path, sizeof(path), "%s/%s", dir, name) < (int)sizeof(path) ? avt_read_number(path, key) : -1;
}

static int64_t memory_left(const char *dir, const Names *n)
{
    const int64_t max = read_in(dir, n->limit, ""), now = read_in(dir, n->used, ""), gives_way = read_in(dir, n->stat, n->cache);

    return max < 0 || now < 0 ? INT64_MAX : max - now + (gives_way > 0 ? gives_way : 0);
}

static int64_t second_number(const char *dir, const char *name)
{
    char path[PATH_MAX];
    long long v = -1;
    FILE *f = snprintf(path, sizeof(path), "%s/%s", dir, name) < (int)sizeof(path) ? fopen(path, "re") : NULL;

    if (f && fscanf(f, "%*s %lld", &v) != 1)
        v = -1;
    if (f)
        fclose(f);
    return v;
}

static int64_t cores(const char *dir, const Names *n)
{
    const int64_t quota = read_in(dir, n->quota, ""), period = n->period ? read_in(dir, n->period, "") : second_number(dir, n->quota);

    return quota <= 0 || period <= 0 ? INT64_MAX : (quota - 1) / period + 1;
}

/* The least of a limit from the group `path` under `root` up to `root`. */
static int64_t climb(const char *root, const char *path, Limit limit, const Names *n)
{
    char dir[PATH_MAX];
    const int len = snprintf(dir, sizeof(dir), "%s%s", root, path);
    int64_t least = INT64_MAX;

    if (len >= (int)sizeof(dir))
        return limit(root, n);
    while (strlen(dir) >= strlen(root)) {
        const int64_t v = limit(dir, n);

        least = v < least ? v : least;
        *strrchr(dir, '/') = 0;
    }
    return least;
}

/* Does the list "a,b" of a line have this controller? */
static int has_word(const char *list, const char *end, const char *word)
{
    const size_t len = strlen(word);

    for (const char *p = list; p + len <= end; p++)
        if (!strncmp(p, word, len) && (p == list || p[-1] == ',') && (p + len == end || p[len] == ','))
            return 1;
    return 0;
}

/* The least over the groups of version 2 and of version 1's controller. */
static int64_t find(const char *root, const char *self, const char *controller, Limit limit)
{
    char line[PATH_MAX], top[PATH_MAX];
    FILE *f = fopen(self, "re");
    int64_t least = INT64_MAX, v;

    snprintf(top, sizeof(top), "%s/%s", root, controller);
    while (f && fgets(line, sizeof(line), f)) {
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;

        if (!path)
            continue;
        path[strcspn(path, "\n")] = 0;
        v = path == list + 1 ? climb(root, path + 1, limit, &v2) : has_word(list + 1, path, controller) ? climb(top, path + 1, limit, &v1) : least;
        least = v < least ? v : least;
    }
    if (f)
        fclose(f);
    return least;
}

int64_t avt_group_memory_left(const char *root, const char *self)
{
    return find(root, self, "memory", memory_left);
}

int avt_group_cores(const char *root, const char *self)
{
    const int64_t v = find(root, self, "cpu", cores);

    return v < INT32_MAX ? (int)v : INT32_MAX;
}
