/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes as a file, for readers that want a path: one anonymous file in memory, written anew for each input. */
#ifndef AVT_FUZZ_FILE_H
#define AVT_FUZZ_FILE_H

#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Path of a file that holds the bytes; the same path each time, so that a symbolic link may point to it. */
static inline const char *fuzz_file(const uint8_t *data, size_t size)
{
    static char path[64];
    static int fd = -1;

    if (fd < 0) {
        fd = memfd_create("fuzz", 0);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    }
    if (fd < 0 || ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    return path;
}

/* A folder in /tmp for the files beside the input; removed at the end of the program. */
static char fuzz_folder[] = "/tmp/avatar-fuzz-XXXXXX";

static inline void fuzz_remove_folder(void)
{
    char cmd[128];

    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", fuzz_folder);
    if (system(cmd))
        perror(fuzz_folder);
}

static inline void fuzz_make_folder(void)
{
    if (!mkdtemp(fuzz_folder) || atexit(fuzz_remove_folder))
        abort();
}

/* PATH of a name in the folder; two static buffers by turns. */
static inline const char *fuzz_path(const char *name)
{
    static char path[2][512];
    static int i;

    i = !i;
    snprintf(path[i], sizeof(path[i]), "%s/%s", fuzz_folder, name);
    return path[i];
}

#endif
