/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the control group of this process allows: memory and processor time. Version 2 and version 1 of the kernel's interface.
 *
 * Each function takes the mount ("/sys/fs/cgroup") and the file that names the groups ("/proc/self/cgroup"); tests give others.
 * Limits of every group on the way to the root count: the least of them holds. What cannot be read limits nothing.
 */
#ifndef AVT_BASE_GROUP_H
#define AVT_BASE_GROUP_H

#include <stdint.h>

#define AVT_GROUPS      "/sys/fs/cgroup"
#define AVT_GROUPS_SELF "/proc/self/cgroup"

/** The number behind `key` at the start of a line of a file ("": of its first line); -1: none there, or "max". */
int64_t avt_read_number(const char *path, const char *key);

/** Bytes that may still be allocated; INT64_MAX: no limit. */
int64_t avt_group_memory_left(const char *root, const char *self);
/** Processors whose time may be used, rounded up; INT32_MAX: no limit. */
int avt_group_cores(const char *root, const char *self);

#endif
