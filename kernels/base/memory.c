/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How much memory the host has left for us: of the machine, of the process, of the control group. */
#include <sys/resource.h>

#include "base/group.h"
#include "base/mem.h"

#define RESERVE ((int64_t)400 << 20)    // addresses that threads' stacks and heaps and oneDNN's machine code take: without, it crashes

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t process_left(void)
{
    const int64_t used = avt_read_number("/proc/self/status", "VmSize:");
    struct rlimit lim;

    if (getrlimit(RLIMIT_AS, &lim) || lim.rlim_cur == RLIM_INFINITY || used < 0)
        return INT64_MAX;
    return (int64_t)lim.rlim_cur - used * 1024 - RESERVE;
}

int64_t avt_host_memory_left(void)
{
    const int64_t kb = avt_read_number("/proc/meminfo", "MemAvailable:");
    int64_t left = kb < 0 ? INT64_MAX : kb * 1024;

    left = least(left, process_left());
    left = least(left, avt_group_memory_left(AVT_GROUPS, AVT_GROUPS_SELF));
    return left < 0 ? 0 : left;
}
