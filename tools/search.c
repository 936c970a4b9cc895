/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * See search.h. Time on paper: an op takes its FLOPs over the rate of its kind or its bytes over the bandwidth, whichever is longer; the sum
 * over an item's ops is spread over ranks by their layers. A pipe gives a block in the time of its busiest rank, or, when too few blocks
 * are under way to keep all busy, in the time of a block's whole way over their number.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "engine/sound.h"
#include "plan.h"
#include "search.h"

#define ENCODED_FRAMES 73                           // of the reference picture, as a film

/* ---- time ---------------------------------------------------------------------------------------------------------- */

static double op_seconds(OpId op, double flops, double bytes, const Card *c)
{
    const double share = op == OP_CONV3D || op == OP_CONV1D ? SHARE_CONV : SHARE_PRODUCTS;
    const double compute = flops / (c->tflops * 1e12 * share), memory = bytes / (c->bandwidth * 1e9 * SHARE_BYTES);

    return compute > memory ? compute : memory;
}

static double stat_seconds(const OpStat *stat, const Card *c)
{
    double s = 0;

    for (int i = 0; i < OP_NB; i++)
        s += op_seconds((OpId)i, stat[i].flops, stat[i].bytes, c);
    return s;
}

typedef struct Work {                   // what there is to do, whatever the plan: found once
    OpStat item[OP_NB], decode[OP_NB], sound[OP_NB], text[OP_NB];
    double hop_bytes;
} Work;

static int add_item(Work *w, const RankSetup *set, const PlanSizes *sizes, const BackendOptions *be)
{
    DryCall *calls = NULL;
    int64_t nb = 0;
    const int ret = avt_rank_item(&calls, &nb, set, sizes, be);

    for (int64_t i = 0; i < nb && ret >= 0; i++) {
        OpStat *s = &w->item[calls[i].first.op];

        s->flops += calls[i].flops;
        s->bytes += calls[i].bytes;
    }
    avt_free(calls);
    return ret;
}

static int setup_for(RankSetup *set, const Plan *plan, int w, int h, const PlanSizes *sizes)
{
    *set = (RankSetup){ .plan = plan, .format = PIX_YUV420P, .text_len = sizes->dit.text_len, .shape = avt_dit_shape(h / 8, w / 8) };
    return avt_schedule(&set->schedule, plan->steps, 3);
}

/* One device alone, its VAE on a rank of its own, separates what there is to do. */
static int find_work(Work *w, int width, int height, int steps, const PlanSizes *sizes, const BackendOptions *be)
{
    const FrontSetup sound = { .sizes = sizes, .samples = avt_sound_piece(0, 0) }, text = { .sizes = sizes, .tokens = sizes->dit.text_len };
    const PlanOptions p = { .plan = "sequential", .devices = "cuda0", .vae_device = "cuda0:own", .steps = steps, .nb_layers = sizes->dit.nb_layers };
    PlanMemory m;
    RankSetup set;
    Plan plan;
    int ret = avt_plan_make(&plan, &p, NULL);

    memset(w, 0, sizeof(*w));
    if (ret >= 0)
        ret = setup_for(&set, &plan, width, height, sizes);
    if (ret >= 0)
        ret = add_item(w, &set, sizes, be);
    if (ret >= 0)
        ret = avt_rank_measure(&m, &set, plan.vae_rank, sizes, be, NULL, w->decode);
    if (ret >= 0)
        ret = avt_front_measure(&m, &sound, "cuda0", be, w->sound);
    if (ret >= 0)
        ret = avt_front_measure(&m, &text, "cuda0", be, w->text);
    w->hop_bytes = (double)width / 16 * height / 16 * 3 * (double)sizes->dit.dim * 4;
    return ret;
}

static double share_of(const PlanRank *r, const PlanSizes *s)
{
    return (double)(r->l1 - r->l0) / s->dit.nb_layers;
}

/* busy[], and the way of a block through all steps, without its pictures. */
static double walk(Found *f, const Work *w, const Cards *cards, const PlanSizes *sizes, double link)
{
    Paper *p = &f->paper;
    double way = 0;

    p->hop = w->hop_bytes / link;
    for (int r = 0; r < f->plan.nb_ranks; r++) {
        const PlanRank *rank = &f->plan.rank[r];
        const Card *card = cards->card[atoi(rank->device + 4)];
        const double item = stat_seconds(w->item, card) * share_of(rank, sizes);
        int steps = 0;

        for (int i = 0; i < f->plan.steps; i++)
            steps += rank->pipe >= 0 && avt_plan_holds(&f->plan, r, i);
        p->busy[r] = steps * item;
        way += steps * (item + (rank->prev >= 0 ? p->hop : 0));
        p->item += rank->pipe <= 0 ? item : 0;
        if (rank->vae) {
            p->decode = stat_seconds(w->decode, card);
            p->busy[r] += p->decode;
            p->encode = p->decode * ENCODED_FRAMES / AVATAR_BLOCK_FRAMES / 2;       // the encoder is half of the decoder
            p->front = stat_seconds(w->sound, card) + stat_seconds(w->text, card);
        }
    }
    return way;
}

static void reckon(Found *f, const Work *w, const Cards *cards, const PlanSizes *sizes, double link)
{
    Paper *p = &f->paper;
    const double way = walk(f, w, cards, sizes, link);
    const int alone = f->plan.in_flight == 1;                       // then the next block waits for the pictures, too
    const double turn = alone ? way + p->decode : way / f->plan.in_flight;
    int most = 0;

    for (int r = 1; r < f->plan.nb_ranks; r++)
        most = p->busy[r] > p->busy[most] ? r : most;
    p->period = fmax(turn, p->busy[most]);
    p->first = p->front + p->encode + way + p->decode;
    p->bound = alone ? "one block is made after the other" : p->busy[most] < turn ? "too few blocks are under way to keep all cards busy" :
               f->plan.rank[most].pipe < 0 ? "the VAE" : f->plan.rank[most].vae ? "the card with the VAE" : "the layers";
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static int card_of(const char *device)
{
    return atoi(device + 4);                                        // cudaN
}

static int measure(Found *f, const Cards *cards, const PlanSizes *sizes, const BackendOptions *be)
{
    const FrontSetup front = { .sizes = sizes, .samples = avt_sound_piece(0, 0), .tokens = sizes->dit.text_len };
    OpStat stat[OP_NB];
    RankSetup set;
    int ret = setup_for(&set, &f->plan, f->width, f->height, sizes);

    for (int r = 0; r < f->plan.nb_ranks && ret >= 0; r++) {
        ret = avt_rank_measure(&f->memory[r], &set, r, sizes, be, NULL, stat);
        f->used[card_of(f->plan.rank[r].device)] += (double)avt_plan_sum(&f->memory[r]);
    }
    if (ret >= 0)
        ret = avt_front_measure(&f->front, &front, f->plan.front_device, be, stat);
    f->used[card_of(f->plan.front_device)] += (double)avt_plan_sum(&f->front);
    for (int c = 0; c < cards->nb; c++)
        if (f->used[c] - cards->usable[c] > f->lack) {
            f->lack = f->used[c] - cards->usable[c];
            f->lacks = c;
        }
    return ret;
}

/* ---- candidates ---------------------------------------------------------------------------------------------------- */

static void device_list(char *text, size_t size, int nb)
{
    size_t n = 0;

    for (int i = 0; i < nb && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%scuda%d", i ? "|" : "", i);
}

/* A candidate of `nb` cards; vae_own: the last of them has the VAE alone. @return 1 when it is one */
static int try_one(Found *f, const char *kind, int nb, int vae_own, const Cards *cards, const ToolOptions *o, const PlanSizes *sizes,
                   const BackendOptions *be)
{
    char devices[PLAN_MAX_RANKS * 8], vae[32];
    const PlanOptions p = { .plan = kind, .devices = devices, .vae_device = vae_own ? vae : NULL, .front_device = o->engine.front_device,
                            .steps = f->steps, .nb_layers = sizes->dit.nb_layers, .nb_heads = sizes->dit.nb_heads, .room = cards->usable };
    PlanSizes sized = *sizes;

    sized.width = f->width;
    sized.height = f->height;
    device_list(devices, sizeof(devices), nb - vae_own);
    snprintf(vae, sizeof(vae), "cuda%d", nb - 1);
    return avt_rank_plan(&f->plan, &p, &sized, be) >= 0 && measure(f, cards, &sized, be) >= 0;
}

static int better(const Found *a, const Found *b)
{
    return a->lack != b->lack ? a->lack < b->lack : a->paper.period < b->paper.period * 0.999;
}

static int try_all(Found *best, const Cards *cards, double link, const ToolOptions *o, const PlanSizes *sizes, const BackendOptions *be)
{
    static const char *const kinds[] = { "sequential", "wave", "timestep", "layer" };
    const char *asked = o->engine.plan && strcmp(o->engine.plan, "auto") ? o->engine.plan : NULL;
    const int steps = best->steps, width = best->width, height = best->height;
    Work work;
    int found = 0, ret = find_work(&work, width, height, steps, sizes, be);

    for (int k = 0; k < 4 && ret >= 0; k++)
        for (int own = 0; own < 2; own++) {
            const int layers = cards->nb - own, fits_kind = k < 2 ? layers == 1 : k == 2 ? layers == steps : layers > 1;
            Found f = { .width = width, .height = height, .steps = steps };

            if (!fits_kind || (asked && strcmp(asked, kinds[k])) || !try_one(&f, kinds[k], cards->nb, own, cards, o, sizes, be))
                continue;
            reckon(&f, &work, cards, sizes, link);
            if (!found++ || better(&f, best))
                *best = f;
        }
    return ret < 0 ? ret : found ? 0 : AVT_ERR(EINVAL);
}

int search_plan(Found *f, const Cards *cards, double link, const ToolOptions *o, const PlanSizes *sizes, const Log *log)
{
    BackendOptions be = { .level = CPU_AUTO, .act = DT_BF16 };
    int ret = avt_options_precision(&be.act, o->engine.precision, log);

    memset(f, 0, sizeof(*f));
    f->width = o->look.out_width;
    f->height = o->look.out_height;
    f->steps = o->engine.steps > 0 ? o->engine.steps : 4;
    if (ret >= 0)
        ret = try_all(f, cards, link, o, sizes, &be);
    if (ret == AVT_ERR(EINVAL))
        avt_fail(log, ret, "no plan of the kind '%s' for %d cards and %d steps; leave --plan away", o->engine.plan, cards->nb, f->steps);
    return ret;
}

/* ---- what fits instead --------------------------------------------------------------------------------------------- */

static int try_instead(Found *f, int w, int h, int steps, const Cards *cards, double link, const ToolOptions *o, const PlanSizes *sizes)
{
    const Log silent = { .level = -1 };
    ToolOptions other = *o;

    other.look.out_width = w;
    other.look.out_height = h;
    other.engine.steps = steps;
    return search_plan(f, cards, link, &other, sizes, &silent) >= 0 && f->lack <= 0;
}

int search_instead(Found *list, int max, const Cards *cards, double link, const ToolOptions *o, const PlanSizes *sizes)
{
    const int steps = o->engine.steps > 0 ? o->engine.steps : 4;
    int nb = 0;

    for (int s = steps - 1; s >= 2 && nb < max; s--)
        if (try_instead(&list[nb], o->look.out_width, o->look.out_height, s, cards, link, o, sizes)) {
            nb++;
            break;
        }
    for (int k = 9; k >= 4 && nb < max; k--) {                      // tenths of each side
        const int w = o->look.out_width * k / 10 / 16 * 16, h = o->look.out_height * k / 10 / 16 * 16;

        if (w >= 64 && h >= 64 && try_instead(&list[nb], w, h, steps, cards, link, o, sizes)) {
            nb++;
            break;
        }
    }
    return nb;
}

void search_options(char *text, size_t size, const Found *f)
{
    static const char *const kinds[] = { [PLAN_SEQUENTIAL] = "sequential", [PLAN_WAVE] = "wave", [PLAN_TIMESTEP] = "timestep", [PLAN_LAYER] = "layer" };
    const PlanRank *vae = &f->plan.rank[f->plan.vae_rank];
    char devices[PLAN_MAX_RANKS * 8];

    device_list(devices, sizeof(devices), f->plan.nb_ranks - (vae->pipe < 0));
    snprintf(text, size, "devices=%s:plan=%s", devices, kinds[f->plan.kind]);
    if (vae->pipe < 0)
        snprintf(text + strlen(text), size - strlen(text), ":vae_device=%s", vae->device);
}
