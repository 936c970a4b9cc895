/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See stats.h. */
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/thread.h"
#include "engine/conductor.h"

#define LINE_FIXED 1024
#define LINE_RANK  768

/* ---- the file ------------------------------------------------------------------------------------------------------ */

/* Does it begin as our lines do? Other files of JSON, such as a model's, are somebody's. */
static int is_ours(int fd)
{
    char head[sizeof(STATS_HEAD)] = "";

    return pread(fd, head, sizeof(head) - 1, 0) == sizeof(head) - 1 && !strcmp(head, STATS_HEAD);
}

/* Was the session that wrote it before cut off within a line? */
static int ends_within_line(int fd)
{
    const off_t size = lseek(fd, 0, SEEK_END);                      // of a pipe an error
    char last;

    return size > 0 && pread(fd, &last, 1, size - 1) == 1 && last != '\n';
}

/* Not in the place of a standard stream that the host runs without, or what it prints stands among the lines. */
static int above_streams(int fd)
{
    const int other = fd < 0 || fd > 2 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 3);

    if (other != fd)
        close(fd);
    return other;
}

/* A file of ours, an empty or a new one may be written, at its end: a stream may be several sessions. For reading as well, so that a pipe
 * without a reader is no error and no signal. */
static int open_file(const char *path, const Log *log)
{
    const int fd = above_streams(open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666));
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        const int e = errno;

        if (fd >= 0)
            close(fd);
        return avt_fail(log, AVT_ERR(e), "stats=%s: %s; name a file that can be written", path, strerror(e));
    }
    if (S_ISREG(st.st_mode) && st.st_size > 0 && !is_ours(fd)) {
        close(fd);
        return avt_fail(log, AVT_ERR(EEXIST), "stats=%s: the file holds something else; name another", path);
    }
    return fd;
}

int avt_stats_open(AvatarSession *s, const char *path)
{
    Stats *t = &s->stats;

    t->fd = -1;
    if (!path || !*path)
        return 0;
    t->opened = t->last = avt_now_ns();
    t->line = avt_malloc(MEM_SESSION, LINE_FIXED + LINE_RANK * (size_t)s->e->core->plan.nb_ranks);
    if (!t->line)
        return AVT_ERR(ENOMEM);
    t->fd = open_file(path, &s->e->log);
    t->torn = t->fd >= 0 && ends_within_line(t->fd);
    s->crew.set.timed = t->fd >= 0;
    return t->fd < 0 ? t->fd : 0;
}

void avt_stats_close(AvatarSession *s)
{
    Stats *t = &s->stats;

    if (!t->line)                       // the session failed before, or nobody wanted any: fd is not ours
        return;
    if (t->fd >= 0)
        close(t->fd);
    if (t->lost && t->error == EAGAIN)
        avt_log(&s->e->log, LOG_WARNING, "stats: %lld lines found no room and are missing; read the pipe faster", (long long)t->lost);
    else if (t->lost)
        avt_log(&s->e->log, LOG_WARNING, "stats: %lld lines could not be written and are missing: %s", (long long)t->lost, strerror(t->error));
    avt_freep(&t->line);
}

/* ---- a line -------------------------------------------------------------------------------------------------------- */

/* *total: their sum. */
static int rank_times(char *p, int size, const Rank *r, int64_t before[STAGE_NB], double *total)
{
    static const char *const names[] = { "wait", "picture", "text", "sink", "sound", "layers", "decode" };
    int n = 0;

    for (int k = 0; k < STAGE_NB; k++) {
        const int64_t now = __atomic_load_n(&r->spent[k], __ATOMIC_RELAXED);
        const double ms = 1e-6 * (double)(now - before[k]);

        n += snprintf(p + n, (size_t)(size - n), "%s\"%s\": %.2f", k ? ", " : "", names[k], ms);
        before[k] = now;
        *total += ms;
    }
    return n;
}

/* To whose use `total` ms were: of ranks whose ops are counted. */
static int rank_uses(char *p, int size, const Rank *r, int64_t before[USE_NB], double total)
{
    static const char *const names[] = { "ops", "waiting", "messages" };
    int n = 0;

    if (!avt_rank_counts_ops(r))
        return 0;
    for (int k = 0; k < USE_NB; k++) {
        const int64_t now = __atomic_load_n(&r->used[k], __ATOMIC_RELAXED);
        const double ms = 1e-6 * (double)(now - before[k]);

        n += snprintf(p + n, (size_t)(size - n), "%s\"%s\": %.2f", k ? ", " : ", \"use\": {", names[k], ms);
        before[k] = now;
        total -= ms;
    }
    return n + snprintf(p + n, (size_t)(size - n), ", \"rest\": %.2f}", total);
}

static int rank_text(char *p, int size, AvatarSession *s, int r)
{
    const PlanMemory *m = &s->crew.planned[r];
    const Plan *plan = &s->e->core->plan;
    const PlanRank *place = &plan->rank[r];
    char device[PLAN_DEVICE];
    double total = 0;
    int n = snprintf(p, (size_t)size, "%s{\"device\": \"%s\", \"layers\": [%d, %d], \"vae\": %d, \"ms\": {", r ? ", " : "",
                     avt_plan_device(plan, r, device), place->l0, place->l1, place->vae);

    n += rank_times(p + n, size - n, &s->crew.rank[r], s->stats.spent[r], &total);
    n += snprintf(p + n, (size_t)(size - n), "}");
    n += rank_uses(p + n, size - n, &s->crew.rank[r], s->stats.used[r], total);
    n += snprintf(p + n, (size_t)(size - n), ", \"bytes\": {\"weights\": %zu, \"state\": %zu, \"scratch\": %zu, \"workspace\": %zu, \"messages\": %zu}}",
                  m->weights, m->state, m->scratch, m->workspace, m->messages);
    return n;
}

/* What the caller's side knows, under its lock. */
typedef struct Outside {
    int64_t heard, listened, warnings;  // samples; ns
    int queue;                          // blocks of frames that wait to be taken
} Outside;

static Outside look_outside(AvatarSession *s)
{
    Outside o;

    pthread_mutex_lock(&s->lock);
    o = (Outside){ .heard = s->sound.start + s->sound.nb, .listened = s->sound.listened, .queue = s->nb_ready };
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_lock(&s->e->log_lock);
    o.warnings = s->e->warnings;
    pthread_mutex_unlock(&s->e->log_lock);
    return o;
}

/* A clock may stand still, as one that is faked for a test: JSON knows no infinity. */
static double per_second(int64_t nb, double seconds)
{
    return seconds > 0 ? (double)nb / seconds : 0;
}

static int whole_line(AvatarSession *s, const FrameBlock *b, int64_t now)
{
    Stats *t = &s->stats;
    const Outside o = look_outside(s);
    const double seconds = 1e-9 * (double)(now - t->last), so_far = 1e-9 * (double)(now - t->opened);
    const int nb = b->end - b->first, size = LINE_FIXED + LINE_RANK * s->e->core->plan.nb_ranks;
    int n;

    t->frames += nb;
    n = snprintf(t->line, (size_t)size, "\n" STATS_HEAD " %lld, \"frame\": %lld, \"frames\": %d, \"time\": %.3f, \"block_ms\": %.2f, \"fps\": %.2f, "
                 "\"fps_mean\": %.2f, \"ahead_ms\": %.0f, \"queue\": %d, \"size\": \"%dx%d\", \"steps\": %d, \"precision\": \"%s\", \"kv\": \"%s\", \"plan\": \"%s\", "
                 "\"warnings\": %lld, \"stats_ms\": %.4f, \"front\": {\"device\": \"%s\", \"ms\": %.2f}, \"ranks\": [", (long long)b->block, (long long)b->index, nb, so_far, b->ms,
                 per_second(nb, seconds), per_second(t->frames, so_far), 1e3 * ((double)o.heard / AVATAR_SAMPLE_RATE - (double)(b->index + nb) / AVATAR_FPS), o.queue,
                 s->info.width, s->info.height, s->info.steps, s->info.precision, s->info.kv, s->info.plan, (long long)o.warnings, 1e-6 * (double)t->took,
                 s->e->core->plan.front_device, 1e-6 * (double)(o.listened - t->listened));
    t->listened = o.listened;
    for (int r = 0; r < s->e->core->plan.nb_ranks; r++)
        n += rank_text(t->line + n, size - n, s, r);
    return n + snprintf(t->line + n, (size_t)(size - n), "]}\n");
}

/* Pipes take up to 4096 bytes whole or not at all, files all of it unless the disk is full: the next line then begins one of its own. */
static void write_line(Stats *t, int size)
{
    const char *line = t->line + !t->torn;
    const ssize_t n = write(t->fd, line, (size_t)(size - !t->torn));

    if (n == size - !t->torn) {
        t->torn = 0;
        return;
    }
    t->torn |= n > 0;
    t->error = n < 0 ? errno : ENOSPC;
    t->lost++;
}

void avt_stats_block(AvatarSession *s, const struct FrameBlock *b)
{
    const int64_t now = avt_now_ns();
    locale_t point, before;

    if (s->stats.fd < 0)
        return;
    point = newlocale(LC_ALL_MASK, "C", (locale_t)0);               // JSON knows no 0,5, which is what a host's locale may write
    before = uselocale(point);
    write_line(&s->stats, whole_line(s, b, now));
    uselocale(before);
    freelocale(point);
    s->stats.last = now;
    s->stats.took = avt_now_ns() - now;
}
