/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading and writing for the tool. See file.h.
 *
 * Nothing but a regular file is read or written before poll() says that it will not wait. Of what a pipe takes then, PIPE_BUF bytes
 * are sure.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libavutil/error.h>
#include <libavutil/macros.h>

#include "base/text.h"
#include "file.h"

#define LOOK_MS 50                      // how often a wait asks whether to stop
#define GRACE_MS 500                    // how long a write goes on to wait once it is to stop: the file's end may still get through
#define MAX_INPUTS 8
#define MAX_LINKS 40                    // of a name, as for the kernel

typedef struct Id {
    dev_t dev;
    ino_t ino;
} Id;

static struct {
    Id input[MAX_INPUTS];
    int nb_inputs;
    const char *folder[MAX_INPUTS];
    int nb_folders;
    const char *partial;                // what file_abandon() removes, in that folder
    int dir;
} files;

struct FileOut {
    char *path, *partial;               // partial: NULL when it is written at once
    FileStop stop;
    int dir;                            // the folder of both, whatever name it gets meanwhile; -1: none
    int over;                           // the file that has the name already, for where no other can take its place; -1: none
    int fd, regular, error;             // error: the first one; nothing is written behind it
};

static int wait_for(int fd, int events, FileStop stop, int grace_ms)
{
    struct pollfd p = { .fd = fd, .events = (short)events };

    for (int stopped = 0; ; stopped += LOOK_MS) {
        if (poll(&p, 1, LOOK_MS))
            return 0;
        if (!stop || !stop())
            stopped = -LOOK_MS;
        else if (stopped >= grace_ms)
            return AVERROR_EXIT;
    }
}

static int again(void)
{
    return errno == EINTR || errno == EAGAIN;
}

/* ---- standard streams -------------------------------------------------------------------------------------------------- */

void file_prepare(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd ? O_RDONLY : O_WRONLY) < 0)
            _exit(1);                                               // the lowest that is free is this one
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

int file_take_stdout(void)
{
    const int fd = fcntl(1, F_DUPFD_CLOEXEC, 3);

    if (fd < 0 || dup2(2, 1) < 0)
        return AVERROR(errno);
    return fd;
}

const char *file_name(const char *name)
{
    if (!strcmp(name, "pipe:") || !strcmp(name, "pipe:0") || !strcmp(name, "pipe:1"))
        return "-";
    return strncmp(name, "file:", 5) || !name[5] ? name : name + 5;
}

const char *file_shown(const char *name)
{
    static char text[2][PATH_MAX + 64];
    static int last;

    last = !last;
    avt_printable(text[last], sizeof(text[last]), name);
    return text[last];
}

/* ---- inputs -------------------------------------------------------------------------------------------------------------- */

static void remember(const struct stat *st)
{
    if (S_ISREG(st->st_mode) && files.nb_inputs < MAX_INPUTS)
        files.input[files.nb_inputs++] = (Id){ st->st_dev, st->st_ino };
}

int file_open_in(const char *path)
{
    const int fd = strcmp(path, "-") ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : 0;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return AVERROR(errno);
    if (S_ISDIR(st.st_mode)) {
        file_close_in(fd);
        return AVERROR(EISDIR);
    }
    remember(&st);
    return fd;
}

int file_read(int fd, void *buf, int size, FileStop stop)
{
    for (;;) {
        const int ret = wait_for(fd, POLLIN, stop, 0);              // a regular file is always ready
        const ssize_t n = ret < 0 ? ret : read(fd, buf, (size_t)size);

        if (ret < 0)
            return ret;
        if (n >= 0)
            return (int)n;
        if (!again())
            return AVERROR(errno);
    }
}

void file_close_in(int fd)
{
    if (fd > 0)
        close(fd);
}

void file_protect(const char *path)
{
    if (path && files.nb_folders < MAX_INPUTS)
        files.folder[files.nb_folders++] = path;
}

static struct stat wanted;              // nftw() takes no argument for its callback

static int is_wanted(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)path;
    if (at->level > 3)                                              // no model folder is deeper
        return FTW_SKIP_SIBLINGS;
    return type == FTW_F && st->st_dev == wanted.st_dev && st->st_ino == wanted.st_ino ? FTW_STOP : FTW_CONTINUE;
}

static int is_input(const struct stat *st)
{
    for (int i = 0; i < files.nb_inputs; i++)
        if (files.input[i].dev == st->st_dev && files.input[i].ino == st->st_ino)
            return 1;
    wanted = *st;
    for (int i = 0; i < files.nb_folders; i++)
        if (nftw(files.folder[i], is_wanted, 8, FTW_ACTIONRETVAL) == FTW_STOP)
            return 1;
    return 0;
}

/* ---- output -------------------------------------------------------------------------------------------------------------- */

static mode_t new_mode(void)
{
    const mode_t mask = umask(0);

    umask(mask);
    return 0666 & ~mask;
}

static const char *bare_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static int status_of(struct stat *st, const char *path)
{
    return strcmp(path, "-") ? stat(path, st) : fstat(1, st);
}

/* The link's target as a name of its own, or NULL: it is no link. */
static char *link_target(const char *path)
{
    char *target, *to = malloc(PATH_MAX);
    const ssize_t n = to ? readlink(path, to, PATH_MAX - 1) : -1;

    if (n < 0 || asprintf(&target, "%.*s%.*s", to[0] == '/' ? 0 : (int)(bare_name(path) - path), path, (int)n, to) < 0)
        target = NULL;
    free(to);
    return target;
}

/* The name that a file would be made under: that at the end of its links, which lead to nothing yet. @return NULL: no memory */
static char *new_name(const char *path)
{
    char *name = strdup(path), *next;

    for (int i = 0; name && i < MAX_LINKS && (next = link_target(name)); i++) {
        free(name);
        name = next;
    }
    return name;
}

int file_same(const char *a, const char *b)
{
    char *in_a = new_name(a), *in_b = new_name(b);
    struct stat s, t;
    int same = 0;

    if (!status_of(&s, a) && !status_of(&t, b))
        same = s.st_dev == t.st_dev && s.st_ino == t.st_ino && !S_ISCHR(s.st_mode);
    else if (in_a && in_b && !strcmp(bare_name(in_a), bare_name(in_b)))
        same = !stat(dirname(in_a), &s) && !stat(dirname(in_b), &t) && s.st_dev == t.st_dev && s.st_ino == t.st_ino;
    free(in_a);
    free(in_b);
    return same;
}

/* A pipe that nobody reads yet has no writer either: ask again. */
static int open_at_once(const char *path, FileStop stop)
{
    for (;;) {
        const int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);

        if (fd >= 0 || (errno != ENXIO && errno != EINTR))
            return fd >= 0 ? fd : AVERROR(errno);
        if (stop && stop())
            return AVERROR_EXIT;
        poll(NULL, 0, LOOK_MS);
    }
}

static int open_folder(const char *path)
{
    char *copy = strdup(path);
    const int fd = copy ? open(dirname(copy), O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    const int ret = fd < 0 ? AVERROR(errno) : fd;

    free(copy);
    return ret;
}

/* Beside the file that the name means in the end, with the mode of the one that is there. */
static int open_beside(FileOut *f, const struct stat *st)
{
    char *real = st ? realpath(f->path, NULL) : new_name(f->path);
    const int dir = real ? (int)(bare_name(real) - real) : 0;

    if (!real)
        return AVERROR(errno);
    free(f->path);
    f->path = real;
    if (st && (f->over = open(real, O_WRONLY | O_NONBLOCK | O_CLOEXEC)) < 0)
        return AVERROR(errno);
    f->dir = open_folder(real);
    if (f->dir < 0)
        return f->dir;
    if (asprintf(&f->partial, "%.*s.avatar-XXXXXX", dir, real) < 0) {
        f->partial = NULL;
        return AVERROR(ENOMEM);
    }
    f->fd = mkostemp(f->partial, O_CLOEXEC);
    if (f->fd < 0) {
        const int ret = AVERROR(errno);

        free(f->partial);
        f->partial = NULL;
        return ret;
    }
    files.partial = bare_name(f->partial);
    files.dir = f->dir;
    f->regular = 1;
    (void)!fchmod(f->fd, st ? st->st_mode & 0777 : new_mode());     // fails on a stick or a share, whose files have the mode of the mount
    return 0;
}

static int open_out(FileOut *f)
{
    const int std = !strcmp(f->path, "-");
    struct stat st;
    const int there = std ? !fstat(1, &st) : !stat(f->path, &st);

    if (!there && errno != ENOENT)
        return AVERROR(errno);
    if (there && S_ISREG(st.st_mode) && is_input(&st))
        return AVERROR(EEXIST);
    if (there && S_ISDIR(st.st_mode))
        return AVERROR(EISDIR);
    if (!std && (!there || S_ISREG(st.st_mode)))
        return open_beside(f, there ? &st : NULL);
    f->fd = std ? file_take_stdout() : open_at_once(f->path, f->stop);
    f->regular = std && there && S_ISREG(st.st_mode);
    return f->fd < 0 ? f->fd : 0;
}

int file_create(FileOut **out, const char *path, FileStop stop)
{
    FileOut *f = calloc(1, sizeof(*f));
    int ret = AVERROR(ENOMEM);

    *out = f;
    if (!f)
        return ret;
    f->fd = f->dir = f->over = -1;
    f->stop = stop;
    f->path = strdup(path);
    if (f->path)
        ret = open_out(f);
    if (ret < 0)
        file_close(out, 0);
    return ret;
}

const char *file_place(const FileOut *f)
{
    return f->partial;
}

int file_write(FileOut *f, const void *buf, int size)
{
    const char *p = buf, *end = p + size;

    while (!f->error && p < end) {
        const size_t part = (size_t)(f->regular ? end - p : FFMIN(end - p, PIPE_BUF));
        ssize_t n = 0;

        f->error = f->regular ? 0 : wait_for(f->fd, POLLOUT, f->stop, GRACE_MS);
        if (!f->error)
            n = write(f->fd, p, part);
        if (n < 0 && !again())
            f->error = AVERROR(errno);
        p += n > 0 ? n : 0;
    }
    return f->error ? f->error : size;
}

int64_t file_seek(FileOut *f, int64_t offset, int whence)
{
    const int64_t at = lseek(f->fd, offset, whence);

    return at < 0 ? AVERROR(errno) : at;
}

static int copy_over(const FileOut *f)
{
    const int in = openat(f->dir, bare_name(f->partial), O_RDONLY | O_CLOEXEC);
    FileOut to = { .fd = f->over, .regular = 1 };
    char buf[1 << 14];
    int n = in < 0 ? AVERROR(errno) : 0;
    off_t size = 0;

    while (n >= 0 && (n = file_read(in, buf, sizeof(buf), NULL)) > 0) {
        n = file_write(&to, buf, n);
        size += n;
    }
    if (!n && ftruncate(f->over, size) < 0)
        n = AVERROR(errno);
    file_close_in(in);
    return n;
}

/* A file that is mounted, as into a container, or another user's in a folder like /tmp keeps its place, but can be written. Where that fails,
 * too, or the file system renames nothing, what was made stays beside it, unless its place is gone or a folder's. */
static int take_name(const FileOut *f)
{
    int ret;

    if (!renameat(f->dir, bare_name(f->partial), f->dir, bare_name(f->path)))
        return 0;
    ret = AVERROR(errno);
    if (f->over >= 0 && (ret == AVERROR(EBUSY) || ret == AVERROR(EPERM) || ret == AVERROR(EACCES)))
        ret = copy_over(f);
    if (ret < 0 && ret != AVERROR(ENOENT) && ret != AVERROR(EISDIR))
        fprintf(stderr, "avatar: %s: what was made is whole in %s\n", file_shown(f->path), file_shown(f->partial));
    else
        unlinkat(f->dir, bare_name(f->partial), 0);
    return ret;
}

int file_close(FileOut **out, int keep)
{
    FileOut *f = *out;
    int ret = 0;

    if (!f)
        return 0;
    if (f->fd >= 0 && close(f->fd) < 0)
        ret = AVERROR(errno);
    ret = f->error ? f->error : ret;
    if (f->partial) {
        if (!keep || ret)
            unlinkat(f->dir, bare_name(f->partial), 0);
        else
            ret = take_name(f);
        files.partial = NULL;
    }
    if (f->dir >= 0)
        close(f->dir);
    if (f->over >= 0)
        close(f->over);
    free(f->partial);
    free(f->path);
    free(f);
    *out = NULL;
    return ret;
}

void file_say(const char *path, int error)
{
    char text[AV_ERROR_MAX_STRING_SIZE];

    av_strerror(error, text, sizeof(text));
    if (error == AVERROR(EEXIST))
        fprintf(stderr, "avatar: %s: is read as an input and would be lost; name another file\n", file_shown(path));
    else if (error != AVERROR_EXIT)
        fprintf(stderr, "avatar: %s: cannot be written: %s\n", strcmp(path, "-") ? file_shown(path) : "stdout", text);
}

static ssize_t stream_write(void *out, const char *buf, size_t size)
{
    const int ret = file_write(out, buf, (int)size);

    errno = ret < 0 ? AVUNERROR(ret) : errno;
    return ret < 0 ? 0 : ret;
}

static int stream_close(void *out)
{
    FileOut *f = out;
    const int ret = file_close(&f, 1);

    errno = ret < 0 ? AVUNERROR(ret) : errno;
    return ret < 0 ? EOF : 0;
}

FILE *file_stream(const char *path)
{
    FileOut *f;
    const int ret = file_create(&f, path, NULL);
    FILE *s = ret < 0 ? NULL : fopencookie(f, "w", (cookie_io_functions_t){ .write = stream_write, .close = stream_close });

    if (s)
        return s;
    file_say(path, ret < 0 ? ret : AVERROR(ENOMEM));
    file_close(&f, 0);
    errno = ret < 0 ? AVUNERROR(ret) : ENOMEM;
    return NULL;
}

void file_abandon(void)
{
    if (files.partial)
        unlinkat(files.dir, files.partial, 0);
}
