/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar top FILE|PID: the last line of a running session's statistics on one screen, again and again; a pipe or a file that ends is
 * shown to its end. avatar plot FILE -o x.svg: all lines as curves.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <libavutil/error.h>

#include "curves.h"
#include "engine/stats.h"
#include "file.h"
#include "options.h"
#include "speak.h"
#include "stats_in.h"
#include "stop.h"

#define BAR  32                                     // characters
#define LONGEST (4 << 20)                           // bytes of a line: some 20 kB with 64 ranks
#define GONE 5                                      // seconds without a line: the session is through, or stands still

/* ---- finding the file ---------------------------------------------------------------------------------------------------- */

static int is_stats(const char *path)
{
    char head[sizeof(STATS_HEAD)] = "";
    struct stat st;
    FILE *f = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? fopen(path, "r") : NULL;
    const int is = f && fread(head, 1, sizeof(head) - 1, f) == sizeof(head) - 1 && !strcmp(head, STATS_HEAD);

    if (f)
        fclose(f);
    return is;
}

/* Of a process: the one of its open files that holds statistics. */
static int file_of(const char *pid, char *path, size_t size)
{
    char folder[64];
    DIR *d;
    const struct dirent *e;
    int found = 0;

    snprintf(folder, sizeof(folder), "/proc/%.20s/fd", pid);
    d = opendir(folder);
    while (d && !found && (e = readdir(d))) {
        snprintf(path, size, "%s/%.20s", folder, e->d_name);
        found = is_stats(path);
    }
    if (d)
        closedir(d);
    return found;
}

/* ---- the screen ------------------------------------------------------------------------------------------------------------ */

static void bar(double share, char mark)
{
    const int n = share <= 0 ? 0 : share >= 1 ? BAR : (int)(share * BAR + 0.5);

    putchar('[');
    for (int i = 0; i < BAR; i++)
        putchar(i < n ? mark : ' ');
    putchar(']');
}

static void amount(const char *name, double bytes)
{
    if (bytes >= 1e9)
        printf("  %s%.2f GB", name, bytes / 1e9);
    else
        printf("  %s%.1f MB", name, bytes / 1e6);
}

static void show_rank(const StatsRank *r, double most)
{
    double all = 0, bytes = 0;

    for (int i = 0; i < STAGE_NB; i++)
        all += r->ms[i];
    for (int i = 0; i < 5; i++)
        bytes += r->bytes[i];
    printf("\n%s", r->device);
    if (r->l1 > r->l0)
        printf(", layers %d-%d", r->l0, r->l1 - 1);
    printf("%s\n", r->vae ? ", VAE" : "");
    printf("  busy    ");
    bar(all > 0 ? 1 - r->ms[STAGE_WAIT] / all : 0, '#');
    for (int i = 0; i < STAGE_NB; i++)
        if (r->ms[i] > 0.005 * all)
            printf("  %s %.0f ms", stats_stages[i], r->ms[i]);
    printf("\n  memory  ");
    bar(most > 0 ? bytes / most : 0, '=');
    amount("", bytes);
    for (int i = 0; i < 5; i++)
        if (r->bytes[i] > 0.005 * bytes) {
            char name[32];

            snprintf(name, sizeof(name), "%s ", stats_memory[i]);
            amount(name, r->bytes[i]);
        }
    printf("\n");
}

static void show(const StatsLine *l, int clear)
{
    double most = 0;

    printf("%s%s, %s, %lld steps, %s\n", clear ? "\033[H\033[2J" : "", l->plan, l->size, (long long)l->steps, l->precision);
    printf("block %lld  %.1f fps (%.1f in the mean)  %.0f ms a block  sound %.1f s ahead  %lld blocks wait  %lld warning%s\n", (long long)l->block, l->fps,
           l->fps_mean, l->block_ms, l->ahead_ms / 1e3, (long long)l->queue, (long long)l->warnings, l->warnings == 1 ? "" : "s");
    printf("real time ");
    bar(l->fps / AVATAR_FPS, '#');
    printf("  speech encoder on %s: %.0f ms\n", l->front, l->front_ms);
    for (int r = 0; r < l->nb_ranks; r++) {
        double bytes = 0;

        for (int i = 0; i < 5; i++)
            bytes += l->rank[r].bytes[i];
        most = bytes > most ? bytes : most;
    }
    for (int r = 0; r < l->nb_ranks; r++)
        show_rank(&l->rank[r], most);
    fflush(stdout);
}

/* ---- following ------------------------------------------------------------------------------------------------------------- */

typedef struct Follow {
    int fd;
    char *text;                         // what has come and is no whole line yet
    size_t nb, room;
    StatsLine last;
    int64_t lines;
} Follow;

/* @return bytes read, 0 for none now, or -1: also of what is no text of lines */
static ssize_t read_some(Follow *f)
{
    ssize_t n;

    if (f->nb > LONGEST)
        return -1;
    if (f->room - f->nb < 65536) {
        char *p = realloc(f->text, f->room + 131072);

        if (!p)
            return -1;
        f->text = p;
        f->room += 131072;
    }
    n = read(f->fd, f->text + f->nb, f->room - f->nb);
    if (n > 0)
        f->nb += (size_t)n;
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : n;
}

static void take_lines(Follow *f, void (*each)(void *opaque, const StatsLine *l), void *opaque)
{
    char *end, *p = f->text;
    StatsLine l;

    while ((end = memchr(p, '\n', f->nb - (size_t)(p - f->text)))) {
        if (stats_parse(&l, p, (size_t)(end - p))) {
            f->last = l;
            f->lines++;
            if (each)
                each(opaque, &l);
        }
        p = end + 1;
    }
    f->nb -= (size_t)(p - f->text);
    memmove(f->text, p, f->nb);
}

static int open_stats(Follow *f, const char *name)
{
    char path[128];
    struct stat st;

    memset(f, 0, sizeof(*f));
    if (strspn(name, "0123456789") == strlen(name) && access(name, F_OK)) {
        if (!file_of(name, path, sizeof(path)))
            return fprintf(stderr, "avatar: process %s has no file of statistics open; run it with stats=FILE\n", file_shown(name)), -1;
        name = path;
    }
    f->fd = file_open_in(name);
    if (f->fd < 0)
        return fprintf(stderr, "avatar: %s: %s\n", file_shown(name), strerror(AVUNERROR(f->fd))), -1;
    if (fstat(f->fd, &st) < 0 || S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
        close(f->fd);
        return fprintf(stderr, "avatar: %s is a device, which holds no statistics\n", file_shown(name)), -1;
    }
    return 0;
}

static int follow(Follow *f, int live)
{
    const struct timespec nap = { .tv_nsec = 200000000 };
    double quiet = 0;
    int64_t shown = -1;

    while (!stop_asked()) {
        const ssize_t n = read_some(f);

        if (n < 0)
            return fprintf(stderr, "avatar: this is no file of statistics\n"), 1;
        take_lines(f, NULL, NULL);
        if (n > 0) {
            quiet = 0;
            continue;
        }
        if (f->lines > 0 && f->lines != shown)
            show(&f->last, live);
        shown = f->lines;
        if (!live || (quiet += 0.2) > GONE)
            break;
        nanosleep(&nap, NULL);
    }
    if (live && quiet > GONE)
        printf("\nno line for %d s\n", GONE);
    return f->lines ? 0 : (fprintf(stderr, "avatar: no line of statistics yet\n"), 1);
}

int cmd_top(int argc, char **argv)
{
    ToolOptions o;
    Follow f;
    int ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional != 1) {
        fprintf(o.help ? stdout : stderr, "usage: avatar top FILE|PID\nFILE: what stats=FILE writes; PID: a process that does. Not on a terminal: its last state, once.\n");
        return o.help ? 0 : 2;
    }
    if (tool_takes(&o, "top", ""))
        return 2;
    if (open_stats(&f, o.positional[0]) < 0)
        return 1;
    stop_watch();
    ret = follow(&f, isatty(1));
    close(f.fd);
    free(f.text);
    return ret;
}

/* ---- plot ------------------------------------------------------------------------------------------------------------------ */

typedef struct Lines {
    StatsLine first;
    double *v;                          // [nb, rows]: fps, ms of a block, ms that the sound is ahead, how busy each rank is
    int64_t nb, room, rows;
    int full;                           // there is no memory for more
} Lines;

static double busy_of(const StatsLine *l, int rank)
{
    double all = 0;

    for (int i = 0; i < STAGE_NB && rank < l->nb_ranks; i++)
        all += l->rank[rank].ms[i];
    return all > 0 ? 100 * (1 - l->rank[rank].ms[STAGE_WAIT] / all) : 0;
}

/* What is drawn of a line; of weeks there are millions. */
static void keep(void *opaque, const StatsLine *l)
{
    Lines *all = opaque;
    double *to;

    if (!all->nb) {
        all->first = *l;
        all->rows = 3 + l->nb_ranks;
    }
    if (all->nb == all->room) {
        const int64_t room = all->room ? 2 * all->room : 256;
        double *p = all->full ? NULL : realloc(all->v, sizeof(*p) * (size_t)(room * all->rows));

        all->full = !p;
        if (!p)
            return;
        all->v = p;
        all->room = room;
    }
    to = all->v + all->nb++ * all->rows;
    to[0] = l->fps;
    to[1] = l->block_ms;
    to[2] = l->ahead_ms;
    for (int i = 3; i < all->rows; i++)
        to[i] = busy_of(l, i - 3);
}

typedef struct Curve {
    const Lines *all;
    int row;
} Curve;

static double value_of(const void *opaque, int64_t i)
{
    const Curve *c = opaque;

    return c->all->v[i * c->all->rows + c->row];
}

static int plot(const Lines *all, const char *path)
{
    static const char *const names[] = { "frames a second", "ms of a block", "ms that the sound is ahead" };
    FILE *out = curves_open(path, (int)all->rows, (double)(all->nb - 1), " blocks");

    for (int i = 0; i < all->rows && out; i++) {
        char rank[80];

        snprintf(rank, sizeof(rank), "rank %d, %.40s: %% busy", i - 3, i < 3 ? "" : all->first.rank[i - 3].device);
        curves_add(out, i, i < 3 ? names[i] : rank, all->nb, 0, value_of, &(Curve){ all, i });
    }
    if (!out)
        return 1;
    return curves_close(out) < 0 ? fprintf(stderr, "avatar: %s: %s\n", file_shown(path), strerror(errno)), 1 : 0;
}

int cmd_plot(int argc, char **argv)
{
    Lines all = { .nb = 0 };
    ToolOptions o;
    Follow f;
    ssize_t n;
    int ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional != 1 || !o.output) {
        fprintf(o.help ? stdout : stderr, "usage: avatar plot FILE -o CURVES.svg\nFILE: what stats=FILE has written.\n");
        return o.help ? 0 : 2;
    }
    if (tool_takes(&o, "plot", " output"))
        return 2;
    if (open_stats(&f, o.positional[0]) < 0)
        return 1;
    while ((n = read_some(&f)) > 0)
        take_lines(&f, keep, &all);
    if (all.full)
        ret = (fprintf(stderr, "avatar: %s: not enough memory for more than %lld lines\n", file_shown(o.positional[0]), (long long)all.nb), 1);
    else
        ret = n < 0 || !all.nb ? (fprintf(stderr, "avatar: %s holds no statistics\n", file_shown(o.positional[0])), 1) : plot(&all, o.output);
    close(f.fd);
    free(f.text);
    free(all.v);
    return ret;
}
