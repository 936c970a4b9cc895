/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans: what the loop asks of one, layers beside the VAE, devices that would have no work. */
#include <stdio.h>
#include <string.h>

#include "engine/rank.h"
#include "test.h"

#define L 40

static int make(Plan *p, const char *plan, const char *devices, const char *vae, int steps, int nb_layers, const PlanLoad *load)
{
    const PlanOptions o = { .plan = plan, .devices = devices, .vae_device = vae, .steps = steps, .nb_layers = nb_layers, .cpu_threads = 8,
                            .load = load ? *load : (PlanLoad){ 0 } };

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

/* ---- layers beside the VAE ------------------------------------------------------------------------------------------------ */

/* Every layer once, in order; ranks without the VAE differ by a layer at most, and only those behind hold fewer. */
static void check_layers(const Plan *p, int nb, int nb_layers)
{
    int l = 0, before = nb_layers, least = nb_layers, most = 0;

    for (int r = 0; r < nb; r++) {
        const int own = p->rank[r].l1 - p->rank[r].l0;

        assert_int_equal(p->rank[r].l0, l);
        assert_in_range(own, 1, nb_layers);
        l = p->rank[r].l1;
        if (p->rank[r].vae)
            continue;
        REQUIRE(own <= before);
        before = own;
        least = own < least ? own : least;
        most = own > most ? own : most;
    }
    assert_int_equal(l, nb_layers);
    REQUIRE(nb == 1 || most - least <= 1);
}

/* Largest load of a rank without the VAE, and that of the VAE's. */
static void loads(const Plan *p, int nb, double layer, double vae, double *others, double *own)
{
    *others = *own = 0;
    for (int r = 0; r < nb; r++) {
        const double v = (p->rank[r].l1 - p->rank[r].l0) * layer + (p->rank[r].vae ? vae : 0);

        if (p->rank[r].vae)
            *own = v;
        else if (v > *others)
            *others = v;
    }
}

static void vae_rank_is_neither_slowest_nor_fullest(void **state)
{
    static const PlanLoad weight[] = { { 1, 3, 1, 0.5 }, { 1, 0.2, 1, 2.5 }, { 12, 30, 3e9, 5e9 }, { 1, 0, 1, 0 } };

    (void)state;
    for (int nb = 2; nb <= 8; nb++)
        for (size_t k = 0; k < sizeof(weight) / sizeof(weight[0]); k++)
            for (int at = 0; at < nb; at++) {
                const PlanLoad *w = &weight[k];
                double others, own;
                char vae[8];
                Plan p;

                snprintf(vae, sizeof(vae), "cuda%d", at);
                REQUIRE_OK(make(&p, "layer", cudas(nb), vae, 4, L, w));
                assert_int_equal(p.vae_rank, at);
                check_layers(&p, nb, L);
                loads(&p, nb, w->layer_flops, w->vae_flops, &others, &own);
                REQUIRE(own <= others);
                loads(&p, nb, w->layer_bytes, w->vae_bytes, &others, &own);
                REQUIRE(own <= others);
            }
}

/* No layer is taken away that need not be: with one more the rank would be the slowest or the fullest, or have its even share. */
static void vae_rank_is_not_spared_too_much(void **state)
{
    const PlanLoad w = { 1, 3, 1, 0.5 };

    (void)state;
    for (int nb = 2; nb <= 8; nb++) {
        Plan p;
        int one_more;

        REQUIRE_OK(make(&p, "layer", cudas(nb), NULL, 4, L, &w));
        one_more = p.rank[nb - 1].l1 - p.rank[nb - 1].l0 + 1;
        REQUIRE(one_more > L / nb || one_more + w.vae_flops > (L - one_more + nb - 2) / (nb - 1));
    }
}

static void own_rank_leaves_layers_even(void **state)
{
    const PlanLoad heavy = { 1, 1000, 1, 1000 };

    (void)state;
    for (int nb = 2; nb <= 8; nb++) {
        Plan p;

        REQUIRE_OK(make(&p, "layer", cudas(nb), "cuda0:own", 4, L, &heavy));
        check_layers(&p, nb, L);
        REQUIRE(p.vae_rank == nb && p.rank[0].l1 == (L + nb - 1) / nb);
    }
}

/* However heavy the VAE, its rank keeps a layer; as many devices as layers. */
static void tiny_models_are_split(void **state)
{
    const PlanLoad heavy = { 1, 1000, 1, 1000 };

    (void)state;
    for (int nb_layers = 2; nb_layers <= 6; nb_layers++)
        for (int nb = 2; nb <= nb_layers; nb++) {
            Plan p;

            REQUIRE_OK(make(&p, "layer", cudas(nb), NULL, 4, nb_layers, &heavy));
            check_layers(&p, nb, nb_layers);
            assert_int_equal(p.rank[nb - 1].l1 - p.rank[nb - 1].l0, 1);
        }
}

static void published(PlanSizes *s)
{
    memset(s, 0, sizeof(*s));
    avt_dit_config_published(&s->dit);
    s->vae_width = 96;
    s->dtype = DT_BF16;
    s->width = 704;
    s->height = 384;
}

/* The published model at its own size: what is rehearsed, not what is assumed. */
static void published_model_is_balanced(void **state)
{
    PlanSizes sizes;
    Plan plan;
    RankSetup set = { .plan = &plan, .format = PIX_YUV420P, .text_len = 512, .shape = avt_dit_shape(48, 88) };
    const BackendOptions opt = { .log = test_log() };

    (void)state;
    published(&sizes);
    for (int nb = 2; nb <= 4; nb += 2) {
        double others[2] = { 0 }, own[2] = { 0 };

        REQUIRE_OK(avt_rank_plan(&plan, &(PlanOptions){ .plan = "layer", .devices = cudas(nb), .steps = 4, .nb_layers = L }, &sizes, &opt));
        REQUIRE_OK(avt_schedule(&set.schedule, 4, 3));
        for (int r = 0; r < nb; r++) {
            double *to = plan.rank[r].vae ? own : others, v[2] = { 0 };
            OpStat stat[OP_NB];
            PlanMemory m;

            REQUIRE_OK(avt_rank_measure(&m, &set, r, &sizes, &opt, NULL, stat));
            v[0] = (double)(m.weights + m.state + m.scratch);
            for (int i = 0; i < OP_NB; i++)
                v[1] += stat[i].flops;
            for (int i = 0; i < 2; i++)
                to[i] = v[i] > to[i] ? v[i] : to[i];
        }
        REQUIRE(own[0] > 0 && own[0] <= others[0]);
        REQUIRE(own[1] > 0 && own[1] <= others[1]);
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
        cmocka_unit_test(loop_finds_its_way), cmocka_unit_test(front_has_its_place), cmocka_unit_test(text_names_all_ranks),
        cmocka_unit_test(vae_rank_is_neither_slowest_nor_fullest), cmocka_unit_test(vae_rank_is_not_spared_too_much),
        cmocka_unit_test(own_rank_leaves_layers_even), cmocka_unit_test(tiny_models_are_split),
        cmocka_unit_test(published_model_is_balanced), cmocka_unit_test(no_device_is_dropped), cmocka_unit_test(every_device_works),
    };

    return test_main("unit/plan", tests);
}
