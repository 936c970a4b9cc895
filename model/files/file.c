/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "files/file.h"

#define PIECE (8 << 20)                 // bytes that a core reads at a time

int avt_file_open(int *fd, struct stat *st, const char *path, const Log *log)
{
    int ret = 0;

    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0)
        return avt_fail(log, AVT_ERR(errno), "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(*fd, st) < 0)
        ret = avt_fail(log, AVT_ERR(errno), "%s: %s", path, strerror(errno));
    else if (S_ISDIR(st->st_mode))
        ret = avt_fail(log, AVT_ERR(EISDIR), "%s: is a folder; a regular file was wanted", path);
    else if (!S_ISREG(st->st_mode))
        ret = avt_fail(log, AVT_ERR(EINVAL), "%s: is not a regular file, but a pipe, socket or device; copy what it gives to a file",
                       path);
    if (ret < 0) {
        close(*fd);
        *fd = -1;
    }
    return ret;
}

/* @return 0, an errno, or -1: the file ended */
static int read_piece(int fd, char *dst, uint64_t offset, size_t size)
{
    while (size) {
        const ssize_t n = pread(fd, dst, size, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? errno : -1;
        dst += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

int avt_file_read(int fd, void *dst, uint64_t offset, size_t size, const char *path, const Log *log)
{
    int error = 0;

#pragma omp parallel for if (size > PIECE)
    for (size_t i = 0; i < size; i += PIECE) {
        const int e = read_piece(fd, (char *)dst + i, offset + i, size - i < PIECE ? size - i : PIECE);

        if (e)
#pragma omp atomic write
            error = e;
    }
    if (error < 0)
        return avt_fail(log, AVT_ERR(ESTALE), "%s: became shorter while it was read: %lld bytes at %lld are wanted", path,
                        (long long)size, (long long)offset);
    return error ? avt_fail(log, AVT_ERR(error), "%s: cannot be read: %s", path, strerror(error)) : 0;
}

int avt_file_read_all(void **data, size_t *size, const char *path, size_t max, const Log *log)
{
    struct stat st;
    int fd, ret = avt_file_open(&fd, &st, path, log);

    *data = NULL;
    if (ret < 0)
        return ret;
    *size = (size_t)st.st_size;
    if (st.st_size > (off_t)max) {
        ret = avt_fail(log, AVT_INVALID, "%s: has %lld bytes, at most %lld MB are allowed", path, (long long)st.st_size,
                       (long long)max >> 20);
    } else {
        *data = avt_malloc(MEM_CKPT, *size + 1);
        ret = *data ? avt_file_read(fd, *data, 0, *size, path, log) : AVT_ERR(ENOMEM);
    }
    close(fd);
    if (ret >= 0)
        ((char *)*data)[*size] = 0;
    else
        avt_freep(data);
    return ret;
}

static int write_aside(const char *aside, int (*write)(FILE *f, const void *what), const void *what)
{
    FILE *f = fopen(aside, "we");
    int ret = f ? write(f, what) : AVT_ERR(errno);

    if (f && fclose(f) && ret >= 0)
        ret = AVT_ERR(errno);
    if (f && ret < 0)
        unlink(aside);
    return ret;
}

int avt_file_replace(const char *path, int (*write)(FILE *f, const void *what), const void *what)
{
    static unsigned calls;
    char *aside = avt_sprintf(MEM_CKPT, "%s.%d.%u", path, (int)getpid(), __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED));
    int ret = aside ? write_aside(aside, write, what) : AVT_ERR(ENOMEM);

    if (ret >= 0 && rename(aside, path)) {
        ret = AVT_ERR(errno);
        unlink(aside);
    }
    avt_free(aside);
    return ret;
}

void avt_folder_make(const char *path)
{
    char *parent = avt_strdup(MEM_CKPT, path), *slash = parent ? strrchr(parent, '/') : NULL;

    if (slash && slash != parent) {
        *slash = 0;
        mkdir(parent, 0700);
    }
    mkdir(path, 0700);
    avt_free(parent);
}
