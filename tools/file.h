/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files as the tool reads and writes them: a signal is heard wherever a read or a write waits, an output never takes the place of an
 * input, and it lies beside its name until it is whole. Errors are negative AVERRORs; AVERROR_EXIT: the stop callback said so.
 */
#ifndef AVT_TOOL_FILE_H
#define AVT_TOOL_FILE_H

#include <stdint.h>
#include <stdio.h>

/** Asked while a read or write waits; 1 ends the wait. */
typedef int (*FileStop)(void);

/**
 * Take those of the descriptors 0 to 2 that are closed, so that no file becomes one of them; what uses them fails. Called first.
 * A file that is too large for a limit and a reader that has gone become errors of write from here on.
 */
void file_prepare(void);
/** A descriptor of its own for standard output; what libraries print goes to standard error from here on. */
int  file_take_stdout(void);

/** A name without FFmpeg's prefix: "file:x" is x; "pipe:", "pipe:0", "pipe:1" are "-". */
const char *file_name(const char *name);

/** A name, or another text of the user's, for a sentence: control characters spelled out, as a file may be called what commands a terminal.
 *  Good until the second call behind this one. */
const char *file_shown(const char *name);

/** Open for reading, "-" is standard input; a FIFO without a writer does not keep it. Descriptor, or an error. */
int  file_open_in(const char *path);
/** Bytes read, 0 at the end of the file, or an error. */
int  file_read(int fd, void *buf, int size, FileStop stop);
/** Standard input is left open. */
void file_close_in(int fd);
/** Do two names mean one file or pipe, which need not be there yet? "-" is standard output. */
int  file_same(const char *a, const char *b);
/** A file or folder, such as a model, whose files are inputs too. */
void file_protect(const char *path);

typedef struct FileOut FileOut;
/** A regular file is written beside `path`; a pipe or device, or "-", at once. @return 0 or an error, of which nothing was said */
int  file_create(FileOut **f, const char *path, FileStop stop);
/** Where the bytes are before file_close(), or NULL for what cannot be sought in. */
const char *file_place(const FileOut *f);
int  file_write(FileOut *f, const void *buf, int size);
/** As lseek(). */
int64_t file_seek(FileOut *f, int64_t offset, int whence);
/** `keep`: the file takes its name; else, or after an error, it goes, and what had that name stays. 0 or the first error, also of writing. */
int  file_close(FileOut **f, int keep);
/** A FILE that writes as file_create() does, and gets its name when fclose() finds no error. @return NULL with errno, of which was said */
FILE *file_stream(const char *path);
/** Say that `path` cannot be written, and why: an error of the functions above. */
void file_say(const char *path, int error);
/** Remove what lies beside; for a program that is about to end. */
void file_abandon(void);

#endif
