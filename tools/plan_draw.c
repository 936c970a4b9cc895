/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar plan -o: what was found, as a picture. Above, what lies on each card, up to the mark of what can be had; below, the first blocks on their
 * way over the cards, in the order and with the waits that the conductor's waves have (engine/conductor.c), times being those on paper.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "curves.h"
#include "file.h"
#include "plan.h"

#define GB 1e9
#define WIDTH  1000
#define BAR_X  150
#define BAR_W  600
#define TIME_W (WIDTH - BAR_X - 20)
#define TOP    86                       // of the first bar
#define BAR    30                       // from card to card, above
#define LANE   22                       // and below
#define BLOCKS 4
#define KEYS   6                        // of the legend in a row

static const struct {
    const char *name, *colour;
} part[] = {                            // from the left: weights, the state's in their order, what a command takes, the front
    { "weights", "#4878a8" }, { "layers to come", "#8fb3d6" }, { "rings", "#e0903c" }, { "sinks", "#f3c48a" }, { "keys of text", "#c4a35a" },
    { "keys of sound", "#9c7a3c" }, { "VAE's past", "#d1615d" }, { "latents", "#e7a5a2" }, { "scratch", "#8c8c8c" }, { "workspace", "#b07aa1" },
    { "messages", "#59a14f" }, { "speech and text", "#d4c34a" },
};

#define PARTS ((int)(sizeof(part) / sizeof(part[0])))
static const char *const shade[] = { "#2b5d8a", "#c9742a", "#3f7f3a", "#8a4f86" };

static double fps(const Found *f)
{
    return AVATAR_BLOCK_FRAMES / f->paper.period;
}

/* ---- head -------------------------------------------------------------------------------------------------------------------- */

static void head(FILE *out, const PlanPicture *p)
{
    const Found *f = p->found;
    char name[40];

    fprintf(out, "<text x=\"8\" y=\"20\" font-weight=\"bold\">%s on %d card%s, %dx%d, %d steps, %s: ", avt_plan_name(&f->plan, name, sizeof(name)), p->cards->nb,
            p->cards->nb > 1 ? "s" : "", f->width, f->height, f->steps, p->precision);
    if (f->lack > 0)
        fprintf(out, "<tspan fill=\"#c00\">does not fit, %.2f GB are missing</tspan></text>\n", f->lack / GB);
    else
        fprintf(out, "fits, %.1f fps on paper (25 is real time)</text>\n", fps(f));
    for (int i = 0; i < PARTS; i++) {
        const int x = BAR_X + 120 * (i % KEYS), y = 36 + 20 * (i / KEYS);

        fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>\n", x, y, part[i].colour, x + 16, y + 11,
                part[i].name);
    }
    fprintf(out, "<path d=\"M%d 34 v16\" stroke=\"#c00\" stroke-width=\"2\"/><text x=\"%d\" y=\"47\">usable</text>\n", BAR_X + 120 * KEYS + 6,
            BAR_X + 120 * KEYS + 16);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------------ */

static double part_of(const PlanPicture *p, int r, int i)
{
    const PlanMemory *m = &p->found->memory[r];
    const size_t call[] = { m->scratch, m->workspace, m->messages };

    if (i < PARTS - 1)
        return (double)(!i ? m->weights : i <= STATE_NB ? m->part[i - 1] : call[i - 1 - STATE_NB]);
    return r == avt_pool_find(p->pool, p->found->plan.front_device) ? (double)avt_plan_sum(&p->found->front) : 0;
}

static void card(FILE *out, const PlanPicture *p, int r, double most)
{
    const PlanRank *rank = &p->found->plan.rank[r];
    const double used = p->found->used[r], usable = p->cards->usable[r];
    const int y = TOP + BAR * r;
    double x = BAR_X;

    fprintf(out, "<text x=\"8\" y=\"%d\">%s</text><text x=\"66\" y=\"%d\">", y + 15, rank->device, y + 15);
    fprintf(out, rank->pipe < 0 ? "VAE" : rank->vae ? "%d-%d +VAE" : "%d-%d", rank->l0, rank->l1 - 1);
    fprintf(out, "</text>\n");
    for (int i = 0; i < PARTS; i++) {
        const double w = part_of(p, r, i) / most * BAR_W;

        fprintf(out, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"20\" fill=\"%s\"/>\n", x, y, w, part[i].colour);
        x += w;
    }
    fprintf(out, "<path d=\"M%.1f %d v28\" stroke=\"#c00\" stroke-width=\"2\"/><text x=\"%d\" y=\"%d\"%s>%.2f of %.2f GB</text>\n", BAR_X + usable / most * BAR_W,
            y - 4, BAR_X + BAR_W + 20, y + 15, used > usable ? " fill=\"#c00\"" : "", used / GB, usable / GB);
}

static void memory(FILE *out, const PlanPicture *p)
{
    const Found *f = p->found;
    const int y = TOP + BAR * f->plan.nb_ranks;
    double most = 0;

    for (int c = 0; c < p->cards->nb; c++)
        most = fmax(most, fmax(p->cards->usable[c], f->used[c]));
    for (int r = 0; r < f->plan.nb_ranks; r++)
        card(out, p, r, most);
    if (f->host > 0)
        fprintf(out, "<text x=\"8\" y=\"%d\">host</text><text x=\"%d\" y=\"%d\">%.2f GB of its memory: what comes from there, encoders on the CPU</text>\n",
                y + 15, BAR_X, y + 15, f->host / GB);
}

/* ---- time -------------------------------------------------------------------------------------------------------------------- */

typedef struct Clock {                  // seconds since the first block began
    double card[PLAN_MAX_RANKS];        // when each is done with what it was given so far
    double block[BLOCKS];               // when each is through the steps, or the pictures, that it had
    double end;
} Clock;

typedef struct Drawing {
    FILE *out;                          // NULL: only the end is wanted
    const PlanPicture *p;
    Clock clock;
    double scale;                       // of a second
    int top;
} Drawing;

static void piece(const Drawing *d, int r, int block, double from, double seconds, double opacity)
{
    if (d->out)
        fprintf(d->out, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\" opacity=\"%g\" stroke=\"white\"/>\n", BAR_X + from * d->scale,
                d->top + LANE * r, seconds * d->scale, LANE - 4, shade[block], opacity);
}

/* Layers that come from the host, more slowly than others are computed, are waited for. */
static double seconds_on(const Found *f, int r, int step)
{
    const double wait = f->paper.copy > f->paper.beside && f->paper.beside > 0 ? f->paper.copy / f->paper.beside : 1;

    return wait * f->paper.item * (f->plan.rank[r].l1 - f->plan.rank[r].l0) / f->plan.rank[f->plan.last[step]].l1;
}

/* A block's step goes down its pipe when the one before is through; all parts of a layer work at once. */
static void go(Drawing *d, int block, int step)
{
    const Found *f = d->p->found;
    const int parts = avt_plan_parts(&f->plan);
    Clock *c = &d->clock;

    for (int r = f->plan.first[step]; r <= f->plan.last[step]; r += parts) {
        const double seconds = seconds_on(f, r, step);
        double from = c->block[block];

        for (int k = 0; k < parts; k++)
            from = fmax(from, c->card[r + k]);
        for (int k = 0; k < parts; k++) {
            piece(d, r + k, block, from, seconds, 1);
            c->card[r + k] = from + seconds;
        }
        c->block[block] = from + seconds;
    }
}

static void decode(Drawing *d, int block)
{
    const Plan *p = &d->p->found->plan;
    const double seconds = d->p->found->paper.decode;
    Clock *c = &d->clock;
    double from = c->block[block];

    for (int k = 0; k < p->vae_parts; k++)
        from = fmax(from, c->card[p->vae_rank + k]);
    for (int k = 0; k < p->vae_parts; k++) {
        piece(d, p->vae_rank + k, block, from, seconds, 0.45);
        c->card[p->vae_rank + k] = from + seconds;
    }
    c->block[block] = from + seconds;
    c->end = fmax(c->end, from + seconds);
}

/* Wave by wave, the youngest block first; where one is made after the other, that is all of a block. */
static void run(Drawing *d)
{
    const Plan *p = &d->p->found->plan;
    const int alone = p->in_flight == 1;

    d->clock = (Clock){ .end = 0 };
    for (int w = 0; w < (alone ? BLOCKS : BLOCKS + p->steps - 1); w++)
        for (int i = 0; i < p->steps; i++) {
            const int b = alone ? w : w - i;

            if (b < 0 || b >= BLOCKS)
                continue;
            if (alone && b && !i)
                d->clock.block[b] = d->clock.block[b - 1];
            go(d, b, i);
            if (i + 1 == p->steps)
                decode(d, b);
        }
}

static void axis(const Drawing *d, int nb)
{
    const double end = d->clock.end, tick = curves_tick(end);
    const int y = d->top + LANE * nb;

    for (int i = 0; i * tick <= end; i++)
        fprintf(d->out, "<path d=\"M%.1f %d V%d\" stroke=\"#ccc\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" fill=\"#555\">%g s</text>\n", BAR_X + i * tick * d->scale,
                d->top - 4, y, BAR_X + i * tick * d->scale, y + 14, i * tick);
    for (int b = 0; b < BLOCKS; b++)
        fprintf(d->out, "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">block %d</text>\n", BAR_X + 80 * b, y + 26, shade[b],
                BAR_X + 16 + 80 * b, y + 37, b + 1);
    fprintf(d->out, "<text x=\"%d\" y=\"%d\">pale: its pictures</text>\n", BAR_X + 80 * BLOCKS, y + 37);
}

static void timeline(FILE *out, const PlanPicture *p, int top)
{
    Drawing d = { .p = p, .top = top };

    run(&d);
    d.scale = TIME_W / d.clock.end;
    d.out = out;
    axis(&d, p->found->plan.nb_ranks);
    run(&d);
    for (int r = 0; r < p->found->plan.nb_ranks; r++)
        fprintf(out, "<text x=\"8\" y=\"%d\">%s</text>\n", top + LANE * r + 14, p->found->plan.rank[r].device);
}

/* ---- all of it ---------------------------------------------------------------------------------------------------------------- */

int plan_draw(const PlanPicture *p, const char *path)
{
    const int fits = p->found->lack <= 0, nb = p->found->plan.nb_ranks, top = TOP + BAR * (nb + (p->found->host > 0)) + 20;
    const int height = fits ? top + LANE * nb + 48 : top;
    FILE *out = file_stream(path);

    if (!out)
        return 1;
    fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"13\">\n"
            "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", WIDTH, height, WIDTH, height);
    head(out, p);
    memory(out, p);
    if (fits)
        timeline(out, p, top);
    fprintf(out, "</svg>\n");
    return fclose(out) ? fprintf(stderr, "avatar: %s: %s\n", file_shown(path), strerror(errno)), 1 : 0;
}
