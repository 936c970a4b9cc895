/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans: what the loop asks of one, how layers are split, devices that would have no work. */
#include <stdio.h>
#include <string.h>

#include "engine/rank.h"
#include "model.h"
#include "test.h"

#define L 40

static int make(Plan *p, const char *plan, const char *devices, const char *vae, int steps, int nb_layers, const PlanLoads *loads)
{
    const PlanOptions o = { .plan = plan, .devices = devices, .vae_device = vae, .steps = steps, .nb_layers = nb_layers, .cpu_threads = 8,
                            .loads = loads };

    return avt_plan_make(p, &o, test_log());
}

static const char *cudas(int nb)
{
    static char list[256];

    list[0] = 0;
    for (int i = 0; i < nb; i++)
        snprintf(list + strlen(list), sizeof(list) - strlen(list), "%scuda%d", i ? "|" : "", i);
    return list;
}

/* ---- fields ------------------------------------------------------------------------------------------------------------- */

static void loop_finds_its_way(void **state)
{
    Plan p;

    (void)state;
    REQUIRE_OK(make(&p, "sequential", "cpu", NULL, 4, L, NULL));
    REQUIRE(p.nb_ranks == 1 && p.in_flight == 1 && p.versions == 1 && p.batch == 1 && p.first[3] == 0 && p.last[3] == 0);
    REQUIRE(p.rank[0].prev == -1 && p.rank[0].next == -1 && p.rank[0].l1 == L && p.rank[0].vae && p.rank[0].nb_parts == 1);
    REQUIRE_OK(make(&p, "wave", "cpu", "cpu:own", 4, L, NULL));
    REQUIRE(p.nb_ranks == 2 && p.in_flight == 4 && p.versions == 2 && p.batch == 4 && p.vae_rank == 1 && p.rank[1].pipe == -1);
    REQUIRE(p.rank[0].threads == 4 && p.rank[1].threads == 4);
    REQUIRE_OK(make(&p, "timestep", cudas(5), NULL, 4, L, NULL));
    REQUIRE(p.nb_ranks == 5 && p.in_flight == 4 && p.batch == 1 && p.vae_rank == 4 && p.rank[4].pipe == -1);
    for (int i = 0; i < 4; i++)
        REQUIRE(p.first[i] == i && p.last[i] == i && p.rank[i].prev == -1 && p.rank[i].next == -1 && p.rank[i].l1 - p.rank[i].l0 == L);
    REQUIRE(avt_plan_holds(&p, 2, 2) && !avt_plan_holds(&p, 2, 1) && !avt_plan_holds(&p, 4, 3));
    REQUIRE_OK(make(&p, "layer", cudas(3), "cpu", 4, L, NULL));
    REQUIRE(p.nb_ranks == 4 && p.in_flight == 4 && p.batch == 1 && p.vae_rank == 3 && !strcmp(p.rank[3].device, "cpu"));
    for (int i = 0; i < 3; i++)
        REQUIRE(p.rank[i].prev == i - 1 && p.rank[i].next == (i < 2 ? i + 1 : -1) && p.first[i] == 0 && p.last[i] == 2);
    REQUIRE(avt_plan_holds(&p, 1, 2) && !avt_plan_holds(&p, 3, 2));
}

/* Where layers are split, a place of the plan is a team, and parts meet the same parts of the team behind. */
static void teams_find_their_way(void **state)
{
    Plan p;

    (void)state;
    REQUIRE_OK(make(&p, "tensor2", cudas(2), NULL, 4, L, NULL));
    REQUIRE(p.nb_ranks == 2 && p.in_flight == 1 && p.batch == 1 && p.split == TEAM_COLUMNS && avt_plan_parts(&p) == 2 && p.vae_rank == 1);
    for (int r = 0; r < 2; r++)
        REQUIRE(p.rank[r].part == r && p.rank[r].nb_parts == 2 && p.rank[r].prev == -1 && p.rank[r].next == -1 && p.rank[r].l1 == L);
    REQUIRE_OK(make(&p, "layer+ulysses2", cudas(4), "cpu", 4, L, NULL));
    REQUIRE(p.nb_ranks == 5 && p.in_flight == 4 && p.split == TEAM_HEADS && p.vae_rank == 4 && p.rank[4].nb_parts == 1 && p.rank[4].pipe == -1);
    for (int r = 0; r < 4; r++)
        REQUIRE(p.rank[r].part == r % 2 && p.rank[r].prev == (r < 2 ? -1 : r - 2) && p.rank[r].next == (r < 2 ? r + 2 : -1) &&
                p.rank[r].l0 == r / 2 * L / 2 && p.rank[r].l1 == p.rank[r].l0 + L / 2 && p.first[r] == 0 && p.last[r] == 3);
    REQUIRE_OK(make(&p, "timestep+tensor3", cudas(7), NULL, 2, L, NULL));
    REQUIRE(p.nb_ranks == 7 && p.vae_rank == 6 && p.first[1] == 3 && p.last[1] == 5 && p.rank[4].part == 1 && p.rank[4].pipe == 1);
    REQUIRE(avt_plan_holds(&p, 3, 1) && avt_plan_holds(&p, 5, 1) && !avt_plan_holds(&p, 2, 1) && !avt_plan_holds(&p, 6, 1));
}

static void name_is(const char *plan, int nb, const char *want)
{
    char name[40];
    Plan p;

    REQUIRE_OK(make(&p, plan, cudas(nb), NULL, 2, L, NULL));
    if (strcmp(avt_plan_name(&p, name, sizeof(name)), want))
        fail_msg("plan=%s is called %s", plan, name);
}

static void plans_have_names(void **state)
{
    (void)state;
    name_is("auto", 1, "sequential");
    name_is("tensor1", 1, "sequential");
    name_is("ulysses4", 4, "ulysses4");
    name_is("sequential+tensor2", 2, "tensor2");
    name_is("wave+ulysses3", 3, "wave+ulysses3");
    name_is("layer+tensor2", 6, "layer+tensor2");
    name_is("timestep+tensor2", 4, "timestep+tensor2");
}

static void refused(const char *plan, int nb, int nb_heads, const char *why)
{
    const PlanOptions o = { .plan = plan, .devices = cudas(nb), .steps = 4, .nb_layers = L, .nb_heads = nb_heads };
    Plan p;

    test_log();
    REQUIRE(avt_plan_make(&p, &o, test_log()) == AVT_ERR(EINVAL));
    if (!strstr(test_log_text(), why))
        fail_msg("plan=%s on %d devices: '%s' does not say '%s'", plan, nb, test_log_text(), why);
}

/* The decoder is on the VAE's rank and those in front of it, on as many that have no layers, or on as many of its own. */
static void decoders_find_their_place(void **state)
{
    PlanOptions o = { .plan = "layer", .devices = "cuda0|cuda1|cuda2|cuda3", .vae_split = 3, .steps = 4, .nb_layers = L };
    Plan p;

    (void)state;
    REQUIRE_OK(avt_plan_make(&p, &o, test_log()));
    REQUIRE(p.nb_ranks == 4 && p.vae_rank == 1 && p.vae_parts == 3 && !p.rank[0].vae && p.rank[1].vae && p.rank[2].vae && p.rank[3].vae);
    o.vae_device = "cuda2";
    REQUIRE_OK(avt_plan_make(&p, &o, test_log()));
    REQUIRE(p.vae_rank == 0 && p.vae_parts == 3 && !p.rank[3].vae);
    o.vae_device = "cpu:own";
    REQUIRE_OK(avt_plan_make(&p, &o, test_log()));
    REQUIRE(p.nb_ranks == 7 && p.vae_rank == 4 && p.rank[6].vae && p.rank[6].pipe == -1 && !strcmp(p.rank[5].device, "cpu"));
    o = (PlanOptions){ .plan = "timestep", .devices = "cuda0|cuda1|cuda2|cuda3", .vae_split = 2, .steps = 2, .nb_layers = L };
    REQUIRE_OK(avt_plan_make(&p, &o, test_log()));
    REQUIRE(p.nb_ranks == 4 && p.vae_rank == 2 && p.vae_parts == 2 && p.rank[3].pipe == -1 && !strcmp(p.rank[3].device, "cuda3"));
    o.vae_split = 1;
    REQUIRE(avt_plan_make(&p, &o, test_log()) == AVT_ERR(EINVAL));
    o.vae_split = 17;
    REQUIRE(avt_plan_make(&p, &o, test_log()) == AVT_ERR(EINVAL) && strstr(test_log_text(), "vae_split=17: 0 or 1 (not split) to 16"));
    o = (PlanOptions){ .plan = "layer", .devices = "cuda0|cuda1", .vae_split = 3, .steps = 2, .nb_layers = L };
    REQUIRE(avt_plan_make(&p, &o, test_log()) == AVT_ERR(EINVAL) && strstr(test_log_text(), "are 2; split over 2"));
}

/* What cannot be split so is refused with the nearest that can. */
static void teams_are_refused(void **state)
{
    (void)state;
    refused("tensor4", 4, 3, "3 heads, too few for 4 devices to have one each; the nearest is tensor3");
    refused("layer+ulysses4", 8, 3, "the nearest is layer+ulysses3");
    refused("tensor2", 1, 40, "wants 2 devices, devices=cuda0 names 1; name 2,");
    refused("tensor2", 3, 40, "names 3; name 2, or 3 and for the last of them, the VAE's, say vae_device=");
    refused("layer+tensor2", 5, 40, "a multiple of 2 devices, devices=cuda0|cuda1|cuda2|cuda3|cuda4 names 5; name 4 or 6");
    refused("layer+tensor4", 3, 40, "names 3; name 4 or 8");
    refused("timestep+ulysses2", 4, 40, "with 4 steps wants 8 devices (or 9");
    refused("tensor17", 17, 40, "P of 2 to 16");
    refused("tensor", 2, 40, "is not known");
    refused("tensor2x", 2, 40, "is not known");
    refused("layer+", 2, 40, "is not known");
    refused("layer+wave", 2, 40, "is not known");
}

/* The front is where the VAE is, or where one says; the text names it only there. */
static void front_has_its_place(void **state)
{
    const PlanOptions o = { .plan = "layer", .devices = "cuda0|cuda1", .front_device = "cpu", .steps = 4, .nb_layers = L, .cpu_threads = 8 };
    char text[64];
    Plan p;

    (void)state;
    REQUIRE_OK(make(&p, "layer", cudas(3), "cuda1", 4, L, NULL));
    REQUIRE(!strcmp(p.front_device, "cuda1") && p.front_threads == 8 && !strstr(avt_plan_text(&p, text, sizeof(text)), "front"));
    REQUIRE_OK(avt_plan_make(&p, &o, test_log()));
    REQUIRE(!strcmp(p.front_device, "cpu") && !strcmp(avt_plan_text(&p, text, sizeof(text)), "layer on cuda0|cuda1+VAE, front on cpu"));
}

static void text_names_all_ranks(void **state)
{
    char text[64];
    Plan p;

    (void)state;
    REQUIRE_OK(make(&p, NULL, "cpu|cpu|cpu", NULL, 4, L, NULL));
    assert_string_equal(avt_plan_text(&p, text, sizeof(text)), "layer on cpu|cpu|cpu+VAE");
    REQUIRE_OK(make(&p, "layer", "cpu|cuda1", "cpu:own", 4, L, NULL));
    assert_string_equal(avt_plan_text(&p, text, sizeof(text)), "layer on cpu|cuda1|cpu (VAE)");
}

/* ---- how layers are split ------------------------------------------------------------------------------------------------- */

/* Every layer once, in order, one at least for each rank. */
static void check_layers(const Plan *p, int nb, int nb_layers)
{
    int l = 0;

    for (int r = 0; r < nb; r++) {
        assert_int_equal(p->rank[r].l0, l);
        assert_in_range(p->rank[r].l1, l + 1, nb_layers);
        l = p->rank[r].l1;
    }
    assert_int_equal(l, nb_layers);
}

/* With nothing weighed: as even as can be, the shorter ones behind. */
static void layers_are_even(void **state)
{
    (void)state;
    for (int nb = 1; nb <= 8; nb++) {
        Plan p;

        REQUIRE_OK(make(&p, "layer", cudas(nb), nb % 2 ? "cuda0:own" : NULL, 4, L, NULL));
        check_layers(&p, nb, L);
        for (int r = 0; r < nb; r++)
            assert_int_equal(p.rank[r].l1 - p.rank[r].l0, L / nb + (r < L % nb));
    }
}

typedef struct Case {                   // a small model, whose layers are not alike, on devices with and without limits
    PlanLoads loads;
    PlanCost layer[9];
    double room[5];
    int nb, nb_layers, vae, front;      // vae: rank, or nb: its own, on the last device
} Case;

static double draw(uint64_t *x, int n)
{
    *x = *x * 6364136223846793005u + 1442695040888963407u;
    return (double)((*x >> 33) % (uint64_t)n);
}

static void draw_case(Case *c, uint64_t seed)
{
    uint64_t x = seed;
    double sum = 0;

    *c = (Case){ .nb = 2 + (int)draw(&x, 3), .nb_layers = 5 + (int)draw(&x, 5) };
    for (int l = 0; l < c->nb_layers; l++) {
        c->layer[l] = (PlanCost){ 1 + draw(&x, 5), 10 + draw(&x, 40) };
        sum += c->layer[l].bytes;
    }
    c->loads = (PlanLoads){ .layer = c->layer, .any = { draw(&x, 2), draw(&x, 20) }, .first = { draw(&x, 2), draw(&x, 30) },
                            .last = { draw(&x, 2), draw(&x, 9) }, .vae = { draw(&x, 9), draw(&x, 60) }, .vae_alone = 60, .front = draw(&x, 30) };
    for (int r = 0; r < c->nb; r++)
        c->room[r] = draw(&x, 3) ? sum / c->nb + draw(&x, 100) : 0;
    c->vae = (int)draw(&x, c->nb + 1);
    c->front = (int)draw(&x, c->nb);
}

/* What a split comes to: most bytes beyond the room, most FLOPs. */
static PlanCost judge(const Case *c, const int *begin)
{
    PlanCost worst = { 0, 0 };

    for (int r = 0; r < c->nb; r++) {
        const PlanCost ends = r == 0 ? c->loads.first : r == c->nb - 1 ? c->loads.last : (PlanCost){ 0 };
        PlanCost k = { c->loads.any.flops + ends.flops, c->loads.any.bytes + ends.bytes };

        for (int l = begin[r]; l < begin[r + 1]; l++) {
            k.flops += c->layer[l].flops;
            k.bytes += c->layer[l].bytes;
        }
        k.flops += r == c->vae ? c->loads.vae.flops : 0;
        k.bytes += r == c->vae ? c->loads.vae.bytes : c->vae == c->nb && r == c->nb - 1 ? c->loads.vae_alone : 0;
        k.bytes += r == c->front ? c->loads.front : 0;
        k.bytes -= c->room[r] > 0 ? c->room[r] : 1e9;
        worst.flops = k.flops > worst.flops ? k.flops : worst.flops;
        worst.bytes = k.bytes > worst.bytes ? k.bytes : worst.bytes;
    }
    return worst;
}

static int better(PlanCost a, PlanCost b)
{
    return a.bytes < b.bytes || (a.bytes == b.bytes && a.flops < b.flops);
}

/* The best of all splits, each looked at. */
static PlanCost try_all(const Case *c, int *begin, int r, PlanCost best)
{
    if (r == c->nb) {
        const PlanCost k = judge(c, begin);

        return better(k, best) ? k : best;
    }
    for (begin[r] = begin[r - 1] + 1; begin[r] <= c->nb_layers - (c->nb - r); begin[r]++)
        best = try_all(c, begin, r + 1, best);
    return best;
}

static void no_split_is_better(void **state)
{
    int tight = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 2000; seed++) {
        int begin[6] = { 0 };
        char vae[24], front[8];
        PlanCost best, got;
        Case c;
        Plan p;

        draw_case(&c, seed);
        snprintf(vae, sizeof(vae), "cuda%d%s", c.vae < c.nb ? c.vae : c.nb - 1, c.vae < c.nb ? "" : ":own");
        snprintf(front, sizeof(front), "cuda%d", c.front);
        REQUIRE_OK(avt_plan_make(&p, &(PlanOptions){ .plan = "layer", .devices = cudas(c.nb), .vae_device = vae, .front_device = front, .steps = 4,
                                                     .nb_layers = c.nb_layers, .loads = &c.loads, .room = c.room }, test_log()));
        check_layers(&p, c.nb, c.nb_layers);
        begin[c.nb] = c.nb_layers;
        best = try_all(&c, begin, 1, (PlanCost){ 1e30, 1e30 });
        for (int r = 0; r < c.nb; r++)
            begin[r] = p.rank[r].l0;
        got = judge(&c, begin);
        if (got.bytes != best.bytes || got.flops != best.flops)
            fail_msg("case %d: %g beyond the room and %g FLOPs, not %g and %g", (int)seed, got.bytes, got.flops, best.bytes, best.flops);
        tight += best.bytes > 0;
    }
    assert_in_range(tight, 100, 1900);                              // cases of both kinds
}

/* Ranks on one device share its room. */
static void a_device_is_counted_once(void **state)
{
    PlanCost layer[12];
    const PlanLoads w = { .layer = layer };
    const double room[] = { 60, 60, 120 };
    Plan p;

    (void)state;
    for (int l = 0; l < 12; l++)
        layer[l] = (PlanCost){ 1, 10 };
    REQUIRE_OK(avt_plan_make(&p, &(PlanOptions){ .plan = "layer", .devices = "cuda0|cuda0|cuda1", .steps = 4, .nb_layers = 12, .loads = &w,
                                                 .room = room }, test_log()));
    REQUIRE(p.rank[0].l1 == 3 && p.rank[1].l1 == 6);
}

/* However heavy the VAE, its rank keeps a layer; as many devices as layers. */
static void tiny_models_are_split(void **state)
{
    PlanCost layer[6] = { { 1, 1 }, { 1, 1 }, { 1, 1 }, { 1, 1 }, { 1, 1 }, { 1, 1 } };
    const PlanLoads heavy = { .layer = layer, .vae = { 1000, 1000 } };

    (void)state;
    for (int nb_layers = 2; nb_layers <= 6; nb_layers++)
        for (int nb = 2; nb <= nb_layers; nb++) {
            Plan p;

            REQUIRE_OK(make(&p, "layer", cudas(nb), NULL, 4, nb_layers, &heavy));
            check_layers(&p, nb, nb_layers);
            assert_int_equal(p.rank[nb - 1].l1 - p.rank[nb - 1].l0, 1);
        }
}

/* ---- the published model ------------------------------------------------------------------------------------------------------ */

static double flops_of(const OpStat *stat)
{
    double sum = 0;

    for (int i = 0; i < OP_NB; i++)
        sum += stat[i].flops;
    return sum;
}

/* Rank by rank, what the loads say is what a rehearsal of the plan finds. */
static void check_loads(const Plan *p, const RankSetup *set, const PlanSizes *sizes, const BackendOptions *opt, double *slowest)
{
    PlanLoads w;

    REQUIRE_OK(avt_rank_loads(&w, sizes, "cuda0", p, opt));
    *slowest = 0;
    for (int r = 0; r < p->nb_ranks; r++) {
        PlanCost c = w.any;
        OpStat stat[OP_NB];
        PlanMemory m;

        for (int l = p->rank[r].l0; l < p->rank[r].l1; l++)
            c = (PlanCost){ c.flops + w.layer[l].flops, c.bytes + w.layer[l].bytes };
        c.flops += (r ? 0 : w.first.flops) + (r + 1 == p->nb_ranks ? w.last.flops + w.vae.flops : 0);
        c.bytes += (r ? 0 : w.first.bytes) + (r + 1 == p->nb_ranks ? w.last.bytes + w.vae.bytes : 0);
        REQUIRE_OK(avt_rank_measure(&m, set, r, sizes, opt, NULL, stat));
        REQUIRE(c.flops > 0.9999 * flops_of(stat) && c.flops < 1.0001 * flops_of(stat));
        REQUIRE(c.bytes > 0.9999 * (double)avt_plan_sum(&m) && c.bytes < 1.0001 * (double)avt_plan_sum(&m));
        *slowest = c.flops > *slowest ? c.flops : *slowest;
    }
    avt_free(w.layer);
}

/* 14B at 704x384 in bf16 on cards of 24 GB, of which 22.15 can be had; and no slower for it than if there were no limit. */
static void four_small_cards_are_enough(void **state)
{
    const BackendOptions opt = { .act = DT_BF16, .log = test_log() };
    double room[PLAN_MAX_RANKS], slowest, free_of_limits, lack;
    PlanSizes sizes;
    Plan plan;
    RankSetup set = { .plan = &plan, .format = PIX_YUV420P, .text_len = 512, .shape = avt_dit_shape(48, 88) };
    int rank;

    (void)state;
    avt_plan_sizes_published(&sizes);
    REQUIRE_OK(avt_schedule(&set.schedule, 4, 3));
    for (int i = 0; i < PLAN_MAX_RANKS; i++)
        room[i] = 22.15e9;
    for (int nb = 3; nb <= 5; nb++) {
        PlanOptions o = { .plan = "layer", .devices = cudas(nb), .steps = 4, .nb_layers = L };

        REQUIRE_OK(avt_rank_plan(&plan, &o, &sizes, &opt));
        check_layers(&plan, nb, L);
        check_loads(&plan, &set, &sizes, &opt, &free_of_limits);
        o.room = room;
        REQUIRE_OK(avt_rank_plan(&plan, &o, &sizes, &opt));
        check_loads(&plan, &set, &sizes, &opt, &slowest);
        REQUIRE_OK(avt_rank_lack(&lack, &rank, &set, room, &sizes, &opt));
        if (nb == 3)
            REQUIRE(lack > 1e9 && rank >= 0);                       // not on three
        else
            REQUIRE(lack == 0 && rank == -1 && slowest <= free_of_limits);
    }
}

/* ---- refusals ------------------------------------------------------------------------------------------------------------- */

static void no_device_is_dropped(void **state)
{
    static const struct {
        const char *plan, *devices, *vae, *says[2];
    } bad[] = {
        { "timestep", "cpu|cpu|cpu|cpu|cuda4", "cpu", { "cuda4 would have no work", "vae_device=cuda4" } },
        { "timestep", "cuda0|cuda1|cuda2|cuda3|cuda4", "cuda0:own", { "cuda4 would have no work", "leave it out" } },
        { "sequential", "cpu|cuda1|cuda0", "cuda0", { "plan=sequential", "names 3" } },
        { "sequential", "cpu|cuda1", "cuda0", { "cuda1 would have no work", "vae_device=cuda1" } },
        { "wave", "cpu|cuda1", "cpu", { "cuda1 would have no work", "leave it out" } },
        { "wave", "cpu|cpu", NULL, { "plan=wave", "plan=layer" } },
        { "layer", "cpu|cpu|cpu", NULL, { "3 devices for 2 layers", "at most 2" } },
    };
    Plan p;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const int nb_layers = !strcmp(bad[i].plan, "layer") ? 2 : L;

        assert_int_equal(make(&p, bad[i].plan, bad[i].devices, bad[i].vae, 4, nb_layers, NULL), AVT_ERR(EINVAL));
        for (int k = 0; k < 2; k++)
            if (!strstr(test_log_text(), bad[i].says[k]))
                fail_msg("'%s' is not in: %s", bad[i].says[k], test_log_text());
    }
}

static int does_nothing(const PlanRank *r)
{
    return r->l1 == r->l0 && !r->vae;
}

/* A device of another process is another device, its ranks share that one's cores, and what is said without a process is here. */
static void ranks_have_processes(void **state)
{
    const PlanProcess there[] = { { .cores = 8, .shares = 0 }, { .cores = 8, .shares = 0 }, { .cores = 6, .shares = 2 } };
    PlanOptions o = { .plan = "layer", .devices = "cpu|1:cpu|2:cpu|2:cuda1", .steps = 4, .nb_layers = L, .process = there, .nb_processes = 3 };
    char text[96];
    Plan p;

    (void)state;
    REQUIRE_OK(avt_plan_make(&p, &o, test_log()));
    assert_string_equal(avt_plan_text(&p, text, sizeof(text)), "layer on 0:cpu|1:cpu|2:cpu|2:cuda1+VAE, front on cpu");
    REQUIRE(p.rank[0].threads == 4 && p.rank[1].threads == 4 && p.rank[2].threads == 6 && !strcmp(p.rank[3].device, "cuda1"));
    REQUIRE(avt_plan_is_spread(&p) && !avt_plan_same_device(&p.rank[0], &p.rank[1]));
    o.vae_device = "1:cpu";
    REQUIRE_OK(avt_plan_make(&p, &o, test_log()));
    REQUIRE(p.vae_rank == 1 && p.nb_ranks == 4);
    o.vae_device = "1:cpu:own";
    REQUIRE_OK(avt_plan_make(&p, &o, test_log()));
    REQUIRE(p.vae_rank == 4 && p.rank[4].process == 1 && !strcmp(p.rank[4].device, "cpu"));
    o.vae_device = "3:cpu";
    assert_int_equal(avt_plan_make(&p, &o, test_log()), AVT_ERR(EINVAL));
    REQUIRE(strstr(test_log_text(), "no process 3"));
    o = (PlanOptions){ .plan = "layer", .devices = "cpu|1:cpu", .steps = 4, .nb_layers = L };
    assert_int_equal(avt_plan_make(&p, &o, test_log()), AVT_ERR(EINVAL));
    REQUIRE(strstr(test_log_text(), "mpirun"));
}

/* Whatever plan is made, each device that is named works on it, as often as it is named. */
static void every_device_works(void **state)
{
    static const char *const plans[] = { "sequential", "wave", "timestep", "layer" };
    static const char *const vaes[] = { NULL, "cuda0", "cuda2", "cuda0:own", "cuda3:own", "cpu" };

    (void)state;
    for (int k = 0; k < 4; k++)
        for (int nb = 1; nb <= 6; nb++)
            for (size_t v = 0; v < sizeof(vaes) / sizeof(vaes[0]); v++) {
                Plan p;
                int idle = 0;

                if (make(&p, plans[k], cudas(nb), vaes[v], 3, L, NULL) < 0)
                    continue;
                REQUIRE(p.nb_ranks >= nb);
                for (int r = 0; r < p.nb_ranks; r++)
                    idle += does_nothing(&p.rank[r]);
                assert_int_equal(idle, 0);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loop_finds_its_way), cmocka_unit_test(teams_find_their_way), cmocka_unit_test(plans_have_names),
        cmocka_unit_test(teams_are_refused), cmocka_unit_test(decoders_find_their_place), cmocka_unit_test(front_has_its_place), cmocka_unit_test(text_names_all_ranks),
        cmocka_unit_test(layers_are_even), cmocka_unit_test(no_split_is_better), cmocka_unit_test(a_device_is_counted_once),
        cmocka_unit_test(tiny_models_are_split), cmocka_unit_test(four_small_cards_are_enough),
        cmocka_unit_test(no_device_is_dropped), cmocka_unit_test(ranks_have_processes), cmocka_unit_test(every_device_works),
    };

    return test_main("unit/plan", tests);
}
