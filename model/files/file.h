/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of a model are regular files, read by copying: one that shrinks meanwhile gives an error, where touching a mapping
 * would end the process (SIGBUS).
 */
#ifndef AVT_FILE_H
#define AVT_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/log.h"

/** Open a regular file for reading. A folder, a FIFO, a device is refused, none is waited for.
 *  @return 0; *fd is the caller's to close. Or the error of open(), EISDIR, EINVAL (logged), *fd -1 */
int avt_file_open(int *fd, struct stat *st, const char *path, const Log *log);

/** Copy bytes offset .. offset + size - 1; large pieces over the cores. `path` is for messages.
 *  @return 0; ESTALE: the file has become shorter; EIO and the like (logged) */
int avt_file_read(int fd, void *dst, uint64_t offset, size_t size, const char *path, const Log *log);

/** A whole small file, and a zero byte behind it.
 *  @param data  the bytes, freed by the caller with avt_free(); NULL after an error
 *  @return 0, AVT_INVALID for more than `max` bytes, ENOMEM, or as the two above */
int avt_file_read_all(void **data, size_t *size, const char *path, size_t max, const Log *log);

/** Write a file whole or not at all: aside, under a name of this call's own, then into its place at once, so that who reads finds all of it.
 *  @param write  gives what is to be in it; returns 0 or an error
 *  @return 0, or an error: write()'s, or the system's (not logged); what was there is there still */
int avt_file_replace(const char *path, int (*write)(FILE *f, const void *what), const void *what);

/** Make a folder for the user alone, and the one that it is in; what is there stays. Whether it worked, who writes into it sees. */
void avt_folder_make(const char *path);

#endif
