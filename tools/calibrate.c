/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See calibrate.h. The file: a line a call, "threads level flops bytes seconds together key". */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "calibrate.h"
#include "file.h"
#include "files/file.h"
#include "kernels.h"

#define MOST (1 << 20)                  // bytes of the file that are read
#define MOST_CALLS 8192                 // that are kept of it

/* ---- keys ---------------------------------------------------------------------------------------------------------------- */

static void add_form(char *key, size_t size, Tensor t)
{
    size_t n = strlen(key);

    if (!t.be) {
        snprintf(key + n, size - n, " -");
        return;
    }
    n += (size_t)snprintf(key + n, size - n, " %s%s", avt_dtype_name(t.dtype), t.packed ? "w" : "");
    for (int i = 0; i < t.nd && n < size; i++)
        n += (size_t)snprintf(key + n, size - n, "%c%lld", i ? 'x' : ':', (long long)t.dim[i]);
}

void calibration_key(char *key, size_t size, const OpCall *c)
{
    snprintf(key, size, "%s", avt_op_name(c->op));
    add_form(key, size, c->out);
    for (int i = 0; i < OP_MAX_OUT - 1; i++)
        add_form(key, size, c->more[i]);
    for (int i = 0; i < OP_MAX_IN; i++)
        add_form(key, size, c->in[i]);
}

/* ---- the file ------------------------------------------------------------------------------------------------------------- */

static void name_device(char *name, size_t size)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];

    snprintf(name, size, "cpu");
    while (f && fgets(line, sizeof(line), f))
        if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
            snprintf(name, size, "%.*s", (int)strcspn(strchr(line, ':') + 2, "\n"), strchr(line, ':') + 2);
            break;
        }
    if (f)
        fclose(f);
}

/* DEVICE.rates in the user's cache, whose folders are made if `make`. @return 0, or -1: nobody says where that is */
static int find_path(Calibration *c, int make)
{
    const int most = (int)(sizeof(c->path) - sizeof(c->device) - sizeof("/.rates"));
    size_t n;

    if (!avatar_cache_folder(c->path, most, getenv)) {
        snprintf(c->path, sizeof(c->path), "XDG_CACHE_HOME and HOME");
        return -1;
    }
    if (make)
        avt_folder_make(c->path);
    n = strlen(c->path);
    snprintf(c->path + n, sizeof(c->path) - n, "/%s.rates", c->device);
    for (char *p = c->path + n + 1; *p; p++)
        *p = strchr("/ \t()@", *p) ? '-' : *p;
    return 0;
}

static Calibrated *find(Calibration *c, const char *key, int threads, int level)
{
    for (int i = 0; i < c->nb; i++)
        if (c->call[i].threads == threads && c->call[i].level == level && !strcmp(c->call[i].key, key))
            return &c->call[i];
    return NULL;
}

void calibration_keep(Calibration *c, const Calibrated *call)
{
    Calibrated *old = find(c, call->key, call->threads, call->level);

    if (!old && c->nb == c->room) {
        Calibrated *p = realloc(c->call, sizeof(*p) * (size_t)(c->room ? 2 * c->room : 64));

        if (!p)
            return;
        c->call = p;
        c->room = c->room ? 2 * c->room : 64;
    }
    *(old ? old : &c->call[c->nb++]) = *call;
}

static int within(double v, double most)
{
    return v >= 0 && v <= most;         // a NaN is not
}

/* "threads level flops bytes seconds together key": 1 when it is one, and can be true */
static int read_line(Calibrated *c, const char *line)
{
    int at = 0;

    if (sscanf(line, "%d %d %lf %lf %lf %lf %n", &c->threads, &c->level, &c->flops, &c->bytes, &c->seconds, &c->together, &at) < 6 || !at)
        return 0;
    if (c->threads < 1 || !within(c->flops, 1e18) || !within(c->bytes, 1e18) || !within(c->seconds, 1e6) || !within(c->together, 1e6) ||
        !(c->seconds > 0 && c->together > 0))
        return 0;
    snprintf(c->key, sizeof(c->key), "%.*s", (int)strcspn(line + at, "\n"), line + at);
    for (c->op = 0; c->op < OP_NB; c->op++)
        if (strlen(avt_op_name(c->op)) == strcspn(c->key, " ") && !strncmp(c->key, avt_op_name(c->op), strcspn(c->key, " ")))
            return c->flops + c->bytes > 0;
    return !strcmp(c->key, CALIBRATION_HOP) || !strcmp(c->key, CALIBRATION_TURN) || !strcmp(c->key, CALIBRATION_FULL);
}

/* Only a regular file is one of ours; of one that has grown for years the end counts. */
static FILE *open_file(const char *path)
{
    const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    FILE *f = fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) ? fdopen(fd, "r") : NULL;

    if (!f && fd >= 0)
        close(fd);
    if (f && st.st_size > MOST)
        fseek(f, (long)(st.st_size - MOST), SEEK_SET);              // what is left of a line is none
    return f;
}

/* Take what the file knows and `c` does not. */
static void read_file(Calibration *c)
{
    char line[600];
    Calibrated call;
    FILE *f = open_file(c->path);

    while (f && c->nb < MOST_CALLS && fgets(line, sizeof(line), f))
        if (read_line(&call, line) && !find(c, call.key, call.threads, call.level))
            calibration_keep(c, &call);
    if (f)
        fclose(f);
}

int calibration_open(Calibration *c, CpuLevel level)
{
    memset(c, 0, sizeof(*c));
    c->level = level;
    name_device(c->device, sizeof(c->device));
    if (find_path(c, 0) >= 0)
        read_file(c);
    return c->nb;
}

void calibration_close(Calibration *c)
{
    free(c->call);
    memset(c, 0, sizeof(*c));
}

/* Others that write are kept out by a lock on the folder, for half a second: one of them that was stopped holds nobody up.
 * @return a descriptor to close, or -1: without one */
static int lock_folder(const char *path)
{
    const char *end = strrchr(path, '/');
    char *folder = strndup(path, (size_t)(end - path));
    const int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    for (int i = 0; fd >= 0 && i < 50 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK; i++)
        usleep(10000);
    free(folder);
    return fd;
}

/* What others have written since it was read stays. */
static int write_with_others(Calibration *c, const Log *log)
{
    FILE *f;

    read_file(c);
    f = file_stream(c->path);                                       // which says why not
    for (int i = 0; f && i < c->nb; i++)
        fprintf(f, "%d %d %.6g %.6g %.6g %.6g %s\n", c->call[i].threads, c->call[i].level, c->call[i].flops, c->call[i].bytes, c->call[i].seconds,
                c->call[i].together, c->call[i].key);
    if (f && fclose(f))
        return avt_fail(log, AVT_ERR(errno ? errno : EIO), "%s: %s; what was measured cannot be kept", c->path, strerror(errno));
    return f ? 0 : AVT_ERR(EIO);
}

int calibration_write(Calibration *c, const Log *log)
{
    int lock, ret;

    if (find_path(c, 1) < 0)
        return avt_fail(log, AVT_ERR(ENOENT), "%s are not set or too long; one of them says where what was measured is kept", c->path);
    lock = lock_folder(c->path);
    ret = write_with_others(c, log);
    if (lock >= 0)
        close(lock);
    return ret;
}

/* ---- the clock ------------------------------------------------------------------------------------------------------------- */

static double work_of(double flops, double bytes)
{
    return flops > 0 ? flops : bytes;
}

/* Of the same op, with as many threads if there is one, nearest in work; NULL: this op was never measured. */
static const Calibrated *nearest(const Calibration *c, OpId op, double work, int threads)
{
    const Calibrated *best = NULL;
    double least = INFINITY;

    for (int i = 0; i < c->nb; i++) {
        const Calibrated *k = &c->call[i];
        const double far = k->op != op || k->level != c->level ? INFINITY :
                           fabs(log(work_of(k->flops, k->bytes) / work)) + 100 * (k->threads != threads);

        if (far < least) {
            least = far;
            best = k;
        }
    }
    return best;
}

static PaperSeconds times_of(const Calibrated *k, double share)
{
    return (PaperSeconds){ k->seconds * share, k->together * share };
}

static PaperSeconds seconds_of(void *opaque, const OpCall *call, int threads)
{
    Calibration *c = opaque;
    const Calibrated *k;
    char key[sizeof(k->key)];
    double flops, bytes;
    PaperSeconds s;

    calibration_key(key, sizeof(key), call);
    k = find(c, key, threads, c->level);
    if (k) {
        c->known += k->seconds;
        return times_of(k, 1);
    }
    avt_op_cost(call, &flops, &bytes);
    k = nearest(c, call->op, work_of(flops, bytes), threads);
    s = k ? times_of(k, work_of(flops, bytes) / work_of(k->flops, k->bytes) * k->threads / threads) : (PaperSeconds){ 0, 0 };
    c->guessed += s.alone;
    return s;
}

PaperClock calibration_clock(Calibration *c)
{
    const Calibrated *hop = find(c, CALIBRATION_HOP, 1, c->level), *turn = find(c, CALIBRATION_TURN, 1, c->level);
    const Calibrated *full = find(c, CALIBRATION_FULL, 1, c->level);
    PaperClock clock = { .seconds = seconds_of, .opaque = c, .link = INFINITY };

    c->known = c->guessed = 0;
    if (hop && turn && full) {
        clock.hop = hop->seconds;
        clock.turn = turn->seconds;
        clock.link = (full->bytes - turn->bytes) / fmax(full->seconds - turn->seconds, 1e-9);
    }
    return clock;
}
