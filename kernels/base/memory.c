/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How much memory the host has left for us: of the machine, of the process, of the control group. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/mem.h"

#define CGROUP "/sys/fs/cgroup/"
#define RESERVE ((int64_t)400 << 20)    // addresses that threads' stacks and heaps and oneDNN's machine code take: without, it crashes

/* The number behind `key` at the start of a line of a file ("": of its first line); -1: none there, or "max". */
static int64_t read_number(const char *path, const char *key)
{
    FILE *f = fopen(path, "r");
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

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The file cache counts as used in a control group, but gives way. */
static int64_t group_left(const char *limit, const char *used, const char *stat, const char *cache)
{
    const int64_t max = read_number(limit, ""), now = read_number(used, ""), gives_way = read_number(stat, cache);

    return max < 0 || now < 0 ? INT64_MAX : max - now + (gives_way > 0 ? gives_way : 0);
}

static int64_t process_left(void)
{
    const int64_t used = read_number("/proc/self/status", "VmSize:");
    struct rlimit lim;

    if (getrlimit(RLIMIT_AS, &lim) || lim.rlim_cur == RLIM_INFINITY || used < 0)
        return INT64_MAX;
    return (int64_t)lim.rlim_cur - used * 1024 - RESERVE;
}

int64_t avt_host_memory_left(void)
{
    const int64_t kb = read_number("/proc/meminfo", "MemAvailable:");
    int64_t left = kb < 0 ? INT64_MAX : kb * 1024;

    left = least(left, process_left());
    left = least(left, group_left(CGROUP "memory.max", CGROUP "memory.current", CGROUP "memory.stat", "inactive_file "));
    left = least(left, group_left(CGROUP "memory/memory.limit_in_bytes", CGROUP "memory/memory.usage_in_bytes",
                                  CGROUP "memory/memory.stat", "total_inactive_file "));
    return left < 0 ? 0 : left;
}
