/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The search of plans: what fits is found, the fastest of it is taken, what does not fit comes with what does; and plan=auto is it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/thread.h"
#include "engine/cards.h"
#include "engine/choose.h"
#include "engine/room.h"
#include "model.h"
#include "test.h"

static const BackendOptions bf16 = { .level = CPU_AUTO, .act = DT_BF16 };

static PlanOptions options(int steps)
{
    return (PlanOptions){ .steps = steps, .nb_layers = 40, .nb_heads = 40, .cpu_threads = 8 };
}

static void cards(Pool *pool, int nb, const char *card, double room)
{
    char device[16];

    avt_pool_open(pool, avt_link_named("pcie4"));
    for (int i = 0; i < nb; i++) {
        snprintf(device, sizeof(device), "cuda%d", i);
        avt_pool_add(pool, device, avt_card_named(card, strlen(card)), room, 0);
    }
}

/* The case this project began with: 14B, 704x384, cards of 24 GB of which 22.15 can be had, bf16. */
static void small_cards(void **state)
{
    static Found f;
    PlanSizes sizes;
    Pool pool;

    (void)state;
    avt_plan_sizes_published(&sizes);
    for (int nb = 3; nb <= 5; nb++) {
        PlanOptions o = options(4);

        o.offload = "none";
        cards(&pool, nb, "3090", 22.15e9);
        REQUIRE_OK(avt_search_plan(&f, &pool, &o, &sizes, &bf16));
        REQUIRE((f.lack > 0) == (nb == 3) && f.steps == 4 && f.width == 704 && f.height == 384 && !f.plan.offload);
        for (int i = 0; i < nb && nb > 3; i++)
            REQUIRE(f.used[i] > 1e9 && f.used[i] <= 22.15e9);
        REQUIRE(nb == 3 || (f.plan.kind == PLAN_LAYER && f.paper.period > 0 && f.paper.first > f.paper.period));
    }
}

/* offload=auto takes from the cards what does not fit and nothing else: as much as must be, at the size and the steps asked for. */
static void offload_by_itself(void **state)
{
    static const struct {
        const char *card;
        double room;
        int nb;
        Offload offload;
    } cases[] = { { "3090", 22.15e9, 4, OFFLOAD_NONE }, { "a100-80", 84e9, 1, OFFLOAD_NONE }, { "a100-80", 75.6e9, 1, OFFLOAD_WEIGHTS },
                  { "3090", 22.15e9, 2, OFFLOAD_ALL }, { "3090", 22.15e9, 1, OFFLOAD_ALL }, { "4080", 14.767e9, 1, OFFLOAD_ALL } };
    static Found f, none;
    PlanSizes sizes;
    Pool pool;

    (void)state;
    avt_plan_sizes_published(&sizes);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        PlanOptions o = options(4);

        cards(&pool, cases[i].nb, cases[i].card, cases[i].room);
        REQUIRE_OK(avt_search_plan(&f, &pool, &o, &sizes, &bf16));
        REQUIRE(f.plan.offload == cases[i].offload && f.lack <= 0 && f.steps == 4 && f.width == 704 && f.height == 384);
        o.offload = "none";
        REQUIRE_OK(avt_search_plan(&none, &pool, &o, &sizes, &bf16));
        REQUIRE(f.plan.offload ? f.missing == none.lack && f.misses == none.lacks && f.missing > 0 : f.missing == 0 && none.lack <= 0);
        for (int c = 0; c < cases[i].nb; c++)
            REQUIRE(f.used[c] <= cases[i].room);
    }
}

/* As drivers name them, with the memory that they show. */
static void cards_as_drivers_call_them(void **state)
{
    static const struct {
        const char *called;
        double shown;
        const char *name;
    } cases[] = {
        { "NVIDIA GeForce RTX 4090", 25.76e9, "4090" },  { "NVIDIA GeForce RTX 4060 Ti", 17.18e9, "4060ti" }, { "NVIDIA L4", 24.15e9, "l4" },
        { "NVIDIA L40S", 48.3e9, "l40s" },               { "NVIDIA A10", 24.15e9, "a10" },                    { "NVIDIA A100-SXM4-80GB", 85.9e9, "a100-80" },
        { "NVIDIA A100-PCIE-40GB", 42.9e9, "a100-40" },  { "NVIDIA H100 PCIe", 85.5e9, "h100-pcie" },         { "NVIDIA H100 80GB HBM3", 85.5e9, "h100" },
        { "NVIDIA H200", 150.7e9, "h200" },              { "NVIDIA RTX A6000", 51.5e9, "a6000" },             { "NVIDIA GeForce RTX 5090", 34.2e9, "5090" },
        { "NVIDIA B200", 192e9, "b200" },                { "NVIDIA GeForce RTX 2080 Ti", 11.8e9, NULL },      { "", 25e9, NULL },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const Card *c = avt_card_called(cases[i].called, cases[i].shown / 1.1e9);

        if (cases[i].name ? !c || strcmp(c->name, cases[i].name) : c != NULL)
            fail_msg("%s is %s", cases[i].called, c ? c->name : "none");
    }
}

/* resident= is obeyed on the rungs where it means something. */
static void rungs(void **state)
{
    const PlanOptions open = { .offload = "auto", .resident = 8 }, said = { .offload = "all", .resident = 8 };
    PlanOptions o;

    (void)state;
    REQUIRE(avt_plan_rung(&o, &open, 0) && !strcmp(o.offload, "none") && o.resident == 0);
    REQUIRE(avt_plan_rung(&o, &open, 1) && !strcmp(o.offload, "weights") && o.resident == 8);
    REQUIRE(avt_plan_rung(&o, &open, 2) && !strcmp(o.offload, "all") && o.resident == 8 && !avt_plan_rung(&o, &open, 3));
    REQUIRE(avt_plan_rung(&o, &said, 0) && !strcmp(o.offload, "all") && o.resident == 8 && !avt_plan_rung(&o, &said, 1));
}

/* Nothing else is taken away by itself: what does not fit says how much it lacks, and what fits is another answer. */
static void instead(void **state)
{
    static Found f, list[4];
    PlanOptions o = options(4);
    PlanSizes sizes;
    Pool pool;
    int nb;

    (void)state;
    avt_plan_sizes_published(&sizes);
    cards(&pool, 1, "a100-80", 75.6e9);
    o.offload = "none";
    REQUIRE_OK(avt_search_plan(&f, &pool, &o, &sizes, &bf16));
    REQUIRE(f.lack > 5e9 && f.lacks == 0 && f.steps == 4 && f.width == 704 && !f.plan.offload);
    REQUIRE(avt_search_instead(list, 4, &pool, &o, &sizes, &bf16) == 2 && !list[0].plan.offload && !list[1].plan.offload);
    o.offload = NULL;                                               // of a stream whose engine is open with all on the card
    nb = avt_search_instead(list, 4, &pool, &o, &sizes, &bf16);
    REQUIRE(nb == 3 && list[0].steps == 3 && list[0].width == 704 && list[1].steps == 4 && list[1].width < 704 && list[2].plan.offload);
    for (int i = 0; i < nb; i++)
        REQUIRE(list[i].lack <= 0 && list[i].used[0] <= 75.6e9 && list[i].paper.period > 0);
}

/* Ranks that take the same are rehearsed once: what stands for the others is what each would have found. */
static void check_ranks(const Found *f, const PlanSizes *sizes)
{
    RankSetup set;

    REQUIRE_OK(avt_search_setup(&set, &f->plan, sizes));
    for (int r = 0; r < f->plan.nb_ranks; r++) {
        CommTraffic t;
        PlanMemory m;

        REQUIRE_OK(avt_rank_measure(&m, &set, r, sizes, &bf16, NULL, NULL));
        REQUIRE_OK(avt_rank_traffic(NULL, &t, &set, r, sizes, &bf16));
        assert_memory_equal(&m, &f->memory[r], sizeof(m));
        REQUIRE(t.bytes == f->traffic[r].bytes && t.turns == f->traffic[r].turns);
    }
}

static void twins(void **state)
{
    static const struct {
        const char *plan, *offload;
        int nb, width;
    } cases[] = { { "layer", "none", 8, 704 }, { "layer", "all", 9, 704 }, { "timestep", "none", 5, 704 }, { "tensor8", "none", 8, 704 }, { "tensor8", "all", 9, 704 },
                  { "tensor3", "none", 3, 704 }, { "ulysses5", "none", 5, 720 }, { "ulysses4", "weights", 4, 704 }, { "layer+tensor2", "none", 8, 704 },
                  { "layer+ulysses4", "all", 16, 720 }, { "timestep+ulysses2", "none", 8, 704 }, { "timestep+tensor3", "none", 13, 688 },
                  { "timestep+tensor16", "none", 64, 704 }, { "timestep+ulysses15", "none", 60, 704 }, { "layer+tensor7", "none", 28, 704 } };
    static Found f;
    PlanSizes sizes;
    Pool pool;

    (void)state;
    avt_plan_sizes_published(&sizes);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        PlanOptions o = options(4);

        o.plan = cases[i].plan;
        o.offload = cases[i].offload;
        sizes.width = cases[i].width;
        cards(&pool, cases[i].nb, "3090", 22.15e9);
        REQUIRE_OK(avt_search_plan(&f, &pool, &o, &sizes, &bf16));
        check_ranks(&f, &sizes);
    }
}

static void host_memory(void **state)
{
    static Found f;
    PlanOptions o = options(4);
    PlanSizes sizes;
    Pool pool;

    (void)state;
    avt_plan_sizes_published(&sizes);
    o.offload = "weights";
    cards(&pool, 1, "a100-80", 84e9);
    for (int i = 0; i < 3; i++) {
        const double host[] = { 0, 20e9, 128e9 };

        pool.host = host[i];
        REQUIRE_OK(avt_search_plan(&f, &pool, &o, &sizes, &bf16));
        REQUIRE(f.host > 28e9 && (f.lack > 0) == (i == 1) && (i != 1 || f.lacks == LACKS_HOST));
    }
}

static void vae_where_it_is_asked_for(void **state)
{
    static Found f;
    PlanOptions o = options(4);
    PlanSizes sizes;
    Pool pool;

    (void)state;
    avt_plan_sizes_published(&sizes);
    cards(&pool, 5, "a100-80", 84e9);
    o.vae_device = "cuda0";
    REQUIRE_OK(avt_search_plan(&f, &pool, &o, &sizes, &bf16));
    REQUIRE(!strcmp(f.plan.rank[f.plan.vae_rank].device, "cuda0"));
    o.vae_device = "cuda7:own";
    REQUIRE(avt_search_plan(&f, &pool, &o, &sizes, &bf16) == AVT_ERR(EINVAL));
}

/* A model the ops of which are over at once is no faster than the host starts them. */
static void small_ops_wait_for_the_host(void **state)
{
    static Found f;
    PlanOptions o = options(4);
    TestModel m;
    Pool pool;

    (void)state;
    test_model_default(&m);
    m.sizes.width = m.sizes.height = 64;
    o.nb_layers = m.sizes.dit.nb_layers;
    o.nb_heads = m.sizes.dit.nb_heads;
    cards(&pool, 1, "h100", 84e9);
    REQUIRE_OK(avt_search_plan(&f, &pool, &o, &m.sizes, &bf16));
    REQUIRE(f.paper.item > 50 * 4e-6 && f.paper.item < 1000 * 4e-6 && f.paper.period > 4 * f.paper.item);
}

static char said[2][512];              // lines of LOG_WARNING, of LOG_INFO

static void hear(void *opaque, int level, const char *text)
{
    (void)opaque;
    snprintf(said[level == LOG_INFO], sizeof(said[0]), "%s", text);
}

/* The engine's plan is what the search finds, and what it takes from a card by itself it says with its price; a plan that was named stays. */
static void offload_is_said(void **state)
{
    static const Log log = { .write = hear, .level = LOG_INFO };
    const BackendOptions loud = { .level = CPU_AUTO, .act = DT_BF16, .log = &log };
    static const char *const plans[] = { NULL, "wave", "sequential" };
    double room[PLAN_MAX_RANKS] = { 22.15e9 };
    PlanOptions o = options(4);
    PlanSizes sizes;
    Plan p;

    (void)state;
    avt_plan_sizes_published(&sizes);
    o.devices = "cuda0";
    o.room = room;
    for (int i = 0; i < 3; i++) {
        o.plan = plans[i];
        said[0][0] = said[1][0] = 0;
        REQUIRE_OK(avt_choose_plan(&p, &o, &sizes, &loud));
        REQUIRE(p.offload == OFFLOAD_ALL && p.kind == (i == 1 ? PLAN_WAVE : PLAN_SEQUENTIAL));
        REQUIRE(strstr(said[0], "offload=auto: layers, rings and sinks come from the host") && strstr(said[0], "on paper 1.") && strstr(said[0], "cuda0 would lack"));
        REQUIRE(!said[1][0] == (i > 0));
    }
    o.offload = "none";
    said[0][0] = 0;
    REQUIRE_OK(avt_choose_plan(&p, &o, &sizes, &loud));
    REQUIRE(!p.offload && !said[0][0]);
    o.offload = NULL;
    o.host = 32e9;                                                  // rings need more
    REQUIRE_OK(avt_choose_plan(&p, &o, &sizes, &loud));
    REQUIRE(p.offload && strstr(said[0], "still lacks"));
}

/* On GPUs plan=auto is what avatar plan shows; CPUs have one set of cores, so there layer is as fast as any. */
static void auto_is_the_search(void **state)
{
    static Found f;
    PlanOptions o = options(4);
    double room[PLAN_MAX_RANKS];
    PlanSizes sizes;
    Pool pool;
    Plan p;

    (void)state;
    avt_plan_sizes_published(&sizes);
    for (int i = 0; i < PLAN_MAX_RANKS; i++)
        room[i] = 84e9;
    cards(&pool, 5, "a100-80", 84e9);
    REQUIRE_OK(avt_search_plan(&f, &pool, &o, &sizes, &bf16));
    REQUIRE(f.plan.kind == PLAN_TIMESTEP && f.plan.rank[4].pipe < 0);
    o.devices = "cuda0|cuda1|cuda2|cuda3|cuda4";
    o.room = room;
    REQUIRE_OK(avt_choose_plan(&p, &o, &sizes, &bf16));
    REQUIRE(p.kind == PLAN_TIMESTEP && p.nb_ranks == 5 && p.rank[4].pipe < 0 && !strcmp(p.rank[4].device, "cuda4"));
    o.plan = "layer";
    REQUIRE_OK(avt_choose_plan(&p, &o, &sizes, &bf16));
    REQUIRE(p.kind == PLAN_LAYER);
    o = (PlanOptions){ .devices = "cpu|cpu|cpu", .steps = 2, .nb_layers = 40, .nb_heads = 40, .cpu_threads = 8 };
    REQUIRE_OK(avt_choose_plan(&p, &o, &sizes, &bf16));
    REQUIRE(p.kind == PLAN_LAYER && p.nb_ranks == 3);
}

/* An engine whose weights leave no room for a session offers what avatar plan does: the same in 8 bits, unless it has those. */
static void refusal_offers_a_precision(void **state)
{
    static Core c;
    const double left = (double)avt_host_memory_left();
    PlanOptions o = { .plan = "sequential", .devices = "cpu", .steps = 4, .nb_layers = 4, .nb_heads = 40, .cpu_threads = 1 };
    char text[256];

    (void)state;
    if (left < 6e9)
        SKIP("less than 6 GB of memory are free");
    c = (Core){ .level = -1, .act = DT_BF16, .product = DT_BF16, .cpu_threads = 1 };
    avt_plan_sizes_published(&c.sizes);
    c.sizes.dit.nb_layers = 4;
    c.sizes.dit.nb_inject = 1;
    c.sizes.dit.ffn_dim = (int)(1.2 * left / (4.0 * 2 * c.sizes.dit.dim * 2)) / 256 * 256;      // two matrices a layer, in 16 bits
    REQUIRE_OK(avt_plan_make(&c.plan, &o, NULL));
    REQUIRE_OK(avt_backend_open(&c.rank[0].be, "dry", &bf16));
    REQUIRE_OK(avt_arena_open(&c.rank[0].arena, c.rank[0].be, "weights", ARENA_UNLIMITED));
    for (int light = 0; light < 2; light++) {
        c.product = light ? DT_I8 : DT_BF16;
        REQUIRE(avt_choose_instead(text, sizeof(text), &c, 128, 128, NULL) > 0);
        REQUIRE((strstr(text, "precision=int8") != NULL) == !light && strstr(text, light ? "steps=3" : "offload=weights"));
    }
    avt_arena_close(&c.rank[0].arena);
    avt_backend_close(&c.rank[0].be);
}

/* ---- by a clock ---------------------------------------------------------------------------------------------------- */

static PaperSeconds same_time(void *opaque, const OpCall *call, int threads)
{
    (void)call;
    (void)threads;
    return (PaperSeconds){ 1e-6, *(double *)opaque * 1e-6 };
}

/* By a clock of a microsecond for each call, `crowded` times as much where the other cores are at work. */
static void clocked(Found *f, const char *devices, const char *plan, const char *vae, double crowded)
{
    const PaperClock clock = { .seconds = same_time, .opaque = &crowded, .link = INFINITY, .turn = 1e-6 };
    TestModel m;
    PlanOptions o = { .devices = devices, .plan = plan, .vae_device = vae, .steps = 4, .cpu_threads = 1 };

    test_model_default(&m);
    m.sizes.width = m.sizes.height = 64;
    o.nb_layers = m.sizes.dit.nb_layers;
    o.nb_heads = m.sizes.dit.nb_heads;
    REQUIRE_OK(avt_plan_make(&f->plan, &o, NULL));
    REQUIRE_OK(avt_paper_clocked(f, &clock, &m.sizes, &bf16));
}

static int near(double a, double b)
{
    return fabs(a - b) < 1e-3 * b;
}

/* A call takes its time alone where nobody else works meanwhile: of blocks one after the other only the parts of layers meet. */
static void who_works_alone_has_the_machine(void **state)
{
    static Found one, slow, team, slow_team;

    (void)state;
    clocked(&one, "cpu", "sequential", NULL, 1);
    clocked(&slow, "cpu", "sequential", NULL, 3);
    REQUIRE(near(slow.paper.period, one.paper.period) && near(one.paper.period, 4 * one.paper.item + one.paper.decode));
    clocked(&team, "cpu|cpu", "tensor2", NULL, 1);
    clocked(&slow_team, "cpu|cpu", "tensor2", NULL, 3);
    REQUIRE(near(slow_team.paper.decode, team.paper.decode) && near(slow_team.paper.exchange, team.paper.exchange) && team.paper.exchange > 10e-6);
    REQUIRE(near(slow_team.paper.item - team.paper.exchange, 3 * (team.paper.item - team.paper.exchange)));
}

/* In a pipe the others work for a share of the time, which their own times and the period say; and all share the cores. */
static void who_works_beside_others_shares(void **state)
{
    static Found quick, slow, many;
    const int cores = avt_nb_cores();
    double crowd, work = 0;

    (void)state;
    clocked(&quick, "cpu", "wave", "cpu:own", 1);
    clocked(&slow, "cpu", "wave", "cpu:own", 3);
    if (cores > 1) {
        crowd = fmin(1, slow.paper.busy[0] / slow.paper.period / (cores - 1));
        REQUIRE(crowd > 0.01 / cores && fabs(slow.paper.busy[1] / quick.paper.busy[1] - 1 - 2 * crowd) < 0.05);
    }
    clocked(&many, "cpu|cpu|cpu|cpu|cpu", "timestep", "cpu:own", 1);
    for (int r = 0; r < many.plan.nb_ranks; r++)
        work += many.paper.busy[r];
    REQUIRE(many.paper.period >= 0.999 * work / cores && (cores > 1 || strstr(many.paper.bound, "share")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_cards), cmocka_unit_test(offload_by_itself), cmocka_unit_test(rungs), cmocka_unit_test(cards_as_drivers_call_them), cmocka_unit_test(instead), cmocka_unit_test(twins),
        cmocka_unit_test(offload_is_said), cmocka_unit_test(refusal_offers_a_precision), cmocka_unit_test(host_memory), cmocka_unit_test(vae_where_it_is_asked_for),
        cmocka_unit_test(small_ops_wait_for_the_host),
        cmocka_unit_test(auto_is_the_search), cmocka_unit_test(who_works_alone_has_the_machine), cmocka_unit_test(who_works_beside_others_shares),
    };

    return test_main("unit/search", tests);
}
