/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The schedule, and the denoising loop over several blocks: once block after block, once in waves, where
 * items of different blocks and steps go through each layer together. Both must give the same bits.
 *
 * The file's name says what the sink takes before the second clip: tpp = reference, online = reference and motion,
 * norefresh and <n>steps = nothing; and which distances are used: varied, else fixed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"
#include "nets/sampler.h"

#define MAX_BLOCKS 64

/* ---- schedule --------------------------------------------------------------------------------------------------- */

static void compare_list(Golden *g, const char *name, const Json *entry, const char *key, const float *v, int nb)
{
    const Json *list = avt_json_get(entry, key);
    double *ref = golden_alloc(g, sizeof(*ref) * (size_t)nb);

    if (json_nb(list) != nb) {
        golden_fail(g, "%s: %s has not %d values", name, key, nb);
        return;
    }
    for (int i = 0; i < nb; i++)
        ref[i] = json_number(json_at(list, i));
    golden_compare(g, name, v, ref, nb);
}

static void check_schedule(Golden *g, const Json *entry)
{
    const int steps = (int)json_int(avt_json_get(entry, "steps"));
    const double shift = json_number(avt_json_get(entry, "shift"));
    char name[64];
    Schedule s;

    snprintf(name, sizeof(name), "%d steps, shift %g", steps, shift);
    if (avt_schedule(&s, steps, shift) < 0) {
        golden_fail(g, "%s: refused", name);
        return;
    }
    compare_list(g, name, entry, "timesteps", s.timestep, s.steps);
    compare_list(g, name, entry, "sigmas", s.sigma, s.steps + 1);
}

void case_schedule(Golden *g)
{
    char path[4096];
    Json *j = NULL;

    snprintf(path, sizeof(path), "%s/schedule.json", g->dir);
    if (avt_json_read(&j, path, g->log) < 0) {
        golden_fail(g, "cannot be read");
        return;
    }
    for (const Json *m = j->first; m; m = m->next) {
        if (strcmp(m->key, "flow_match_euler"))
            golden_fail(g, "no case knows the scheduler %s", m->key);
        else
            for (const Json *entry = avt_json_first(m); entry; entry = entry->next)
                check_schedule(g, entry);
    }
    avt_json_close(&j);
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */

typedef struct Loop {
    Golden *g;
    GoldenStream st;
    Schedule schedule;
    int64_t nb_blocks, per_clip;
    int refresh_ref, refresh_motion;
    const int64_t *distance;            // [blocks, columns]
    int64_t columns;                    // 0: one value for all
    DitTime time[SAMPLER_MAX_STEPS];
    DitKeys ring[SAMPLER_MAX_STEPS], refreshed;
    Tensor x[SAMPLER_MAX_STEPS];        // one residual stream per item of a wave
    DitAudio audio[MAX_BLOCKS];
    Tensor latents[MAX_BLOCKS];
    float *result;                      // [blocks, steps, 16, 3, H, W], as the sets have it
    int64_t nb;                         // values of a block's latents
} Loop;

typedef struct Place {
    int64_t block;
    int step;
} Place;

static float *result_of(const Loop *l, int64_t block, int step)
{
    return l->result + (block * l->schedule.steps + step) * l->nb;
}

static int open_loop(Loop *l, Golden *g, const Dit *d)
{
    const float *features = golden_input_host(g, NULL, "audio_emb");
    int64_t dim[CKPT_MAX_DIM];

    if (!features || golden_dims(g, dim, "in.audio_emb") != 4 || stream_open(&l->st, g, d, 1, 0) < 0)
        return AVT_INVALID;
    l->per_clip = l->st.frames / DIT_BLOCK;
    l->nb = 16 * DIT_BLOCK * l->st.s.H * l->st.s.W;
    for (int i = 0; i < l->schedule.steps; i++) {
        avt_dit_time_open(&l->time[i], g->work, d);
        avt_dit_time(g->be, g->work, d, &l->time[i], l->schedule.timestep[i]);
        avt_dit_keys_open(&l->ring[i], g->work, d, l->st.s.ring, 0);
        l->x[i] = avt_new(g->work, DT_F32, l->st.s.N, d->cfg.dim);
    }
    for (int64_t b = 0; b < l->nb_blocks; b++) {
        avt_dit_audio_open(&l->audio[b], g->work, d, &l->st.s, 1, 0);
        stream_audio(&l->st, features, dim[3], 12 * b);
        avt_copy(g->be, l->audio[b].local, l->st.audio.local);
        avt_copy(g->be, l->audio[b].global, l->st.audio.global);
        avt_dit_audio_keys(g->be, g->work, d, &l->audio[b]);
    }
    avt_dit_keys_open(&l->refreshed, g->work, d, l->st.s.Lc, l->st.s.n);
    stream_sink(&l->st, &l->st.sink, stream_latents(g, "ref_latents"), stream_latents(g, "motion_latents"), NULL);
    return g->be->status;
}

static void close_loop(Loop *l)
{
    for (int i = 0; i < l->schedule.steps; i++)
        avt_dit_keys_close(&l->ring[i]);
    avt_dit_keys_close(&l->refreshed);
    stream_close(&l->st);
}

static void start(Loop *l)
{
    for (int64_t b = 0; b < l->nb_blocks; b++)
        l->latents[b] = stream_noise(&l->st, b);
}

/* Latent frame 0 of block 0's result, [16, H, W]. */
static float *new_reference(Loop *l)
{
    const int64_t hw = l->st.s.H * l->st.s.W;
    const float *v = result_of(l, 0, l->schedule.steps - 1);
    float *ref = golden_alloc(l->g, sizeof(*ref) * (size_t)(16 * hw));

    for (int64_t c = 0; c < 16; c++)
        memcpy(ref + c * hw, v + c * DIT_BLOCK * hw, sizeof(*ref) * (size_t)hw);
    return ref;
}

static void refresh_sink(Loop *l)
{
    Golden *g = l->g;
    const Tensor ref = avt_new(g->work, DT_F32, 1, 16, l->st.s.H, l->st.s.W);

    avt_upload(g->be, ref, new_reference(l));
    stream_sink(&l->st, &l->refreshed, ref, stream_latents(g, l->refresh_motion ? "motion_latents_clip1" : "motion_latents"), NULL);
}

static int64_t distance_of(const Loop *l, Place p)
{
    return l->distance[l->columns ? p.block * l->columns + p.step : 0];
}

/* Independent items through the layers together, then the Euler step of each. */
static void run_items(Loop *l, const Place *place, int nb)
{
    Golden *g = l->g;
    const Dit *d = l->st.d;
    DitItem items[SAMPLER_MAX_STEPS];

    for (int j = 0; j < nb; j++) {
        const Place p = place[j];

        items[j] = (DitItem){
            .x = l->x[j], .f0 = DIT_BLOCK * p.block, .relative_dist = (int)distance_of(l, p), .shape = &l->st.s,
            .time = &l->time[p.step], .text = &l->st.text, .ring = &l->ring[p.step], .audio = &l->audio[p.block],
            .sink = l->refresh_ref && p.block >= l->per_clip ? &l->refreshed : &l->st.sink,
        };
        avt_dit_embed_block(g->be, g->work, d, l->x[j], l->latents[p.block], AVT_NONE);
    }
    avt_dit_layers(g->be, g->work, d, items, nb);
    for (int j = 0; j < nb; j++) {
        const Tensor x = l->latents[place[j].block];
        const int i = place[j].step;

        avt_dit_head(g->be, g->work, d, l->st.velocity, l->x[j], &l->time[i]);
        avt_axpy(g->be, x, 1, x, l->schedule.sigma[i + 1] - l->schedule.sigma[i], l->st.velocity);
        avt_download(g->be, result_of(l, place[j].block, i), golden_turned(g, x));
    }
}

static void run_sequential(Loop *l)
{
    start(l);
    for (int64_t b = 0; b < l->nb_blocks; b++) {
        if (b == l->per_clip && l->refresh_ref)
            refresh_sink(l);
        for (int i = 0; i < l->schedule.steps; i++)
            run_items(l, &(Place){ b, i }, 1);
    }
}

/* The next block enters when there is room; the first of the second clip waits for the refreshed sink. */
static void run_waves(Loop *l)
{
    const int steps = l->schedule.steps;
    int64_t next = 0, at[SAMPLER_MAX_STEPS];                        // block that step i works on, -1: none
    int busy = 1, ready = !l->refresh_ref;

    start(l);
    for (int i = 0; i < steps; i++)
        at[i] = -1;
    while (busy) {
        Place place[SAMPLER_MAX_STEPS];

        memmove(at + 1, at, sizeof(at[0]) * (size_t)(steps - 1));
        at[0] = next < l->nb_blocks && (next < l->per_clip || ready) ? next++ : -1;
        busy = 0;
        for (int i = 0; i < steps; i++)
            if (at[i] >= 0)
                place[busy++] = (Place){ at[i], i };
        if (busy)
            run_items(l, place, busy);
        if (!ready && at[steps - 1] == 0) {
            refresh_sink(l);
            ready = 1;
        }
        busy = busy || next < l->nb_blocks;
    }
}

/* ---- the case --------------------------------------------------------------------------------------------------- */

static int parse_name(Golden *g, Loop *l)
{
    const char *what = g->name + strlen("sampling_");
    int64_t nb = 0;
    int steps, end = 0;

    if (sscanf(what, "%dsteps%n", &steps, &end) == 1 && end && !what[end])
        return avt_schedule(&l->schedule, steps, 3);
    l->refresh_ref = !strncmp(what, "tpp_", 4) || !strncmp(what, "online_", 7);
    l->refresh_motion = !strncmp(what, "online_", 7);
    if (!l->refresh_ref && strncmp(what, "norefresh_", 10))
        return AVT_INVALID;
    golden_input_host(g, &nb, "timesteps");
    return avt_schedule(&l->schedule, (int)nb, 3);
}

static int read_distances(Golden *g, Loop *l)
{
    const int varied = strstr(g->name, "_varied") != NULL;
    int64_t dim[CKPT_MAX_DIM];

    l->distance = golden_input_ints(g, NULL, varied ? "relative_dist_varied" : "relative_dist_fixed");
    if (!l->distance || golden_dims(g, dim, varied ? "in.relative_dist_varied" : "in.relative_dist_fixed") != 2)
        return AVT_INVALID;
    l->columns = varied ? dim[1] : 0;                               // fixed: the same value whatever the number of steps
    return varied && dim[0] < l->nb_blocks ? AVT_INVALID : 0;
}

/* The schedule that the set was made with is an input too. */
static void check_inputs(Golden *g, const Loop *l)
{
    int64_t nb = 0;
    const float *t = golden_input_host(g, &nb, "timesteps"), *s = golden_input_host(g, NULL, "sigmas");

    for (int i = 0; t && s && nb == l->schedule.steps && i < nb; i++)
        if (t[i] != l->schedule.timestep[i] || s[i] != l->schedule.sigma[i])
            golden_fail(g, "sampling_inputs has another schedule: step %d at %.9g, ours at %.9g", i, t[i], l->schedule.timestep[i]);
}

static void compare(Golden *g, Loop *l)
{
    const int64_t steps = l->schedule.steps;

    if (golden_has(g, "out.latents"))
        golden_expect_host(g, l->result, l->nb_blocks * steps * l->nb, "latents");
    if (golden_has(g, "out.latents_last_step")) {
        float *last = golden_alloc(g, sizeof(*last) * (size_t)(l->nb_blocks * l->nb));

        for (int64_t b = 0; b < l->nb_blocks; b++)
            memcpy(last + b * l->nb, result_of(l, b, (int)steps - 1), sizeof(*last) * (size_t)l->nb);
        golden_expect_host(g, last, l->nb_blocks * l->nb, "latents_last_step");
    }
    if (golden_has(g, "out.ref_latents_clip1"))
        golden_expect_host(g, new_reference(l), l->nb / DIT_BLOCK, "ref_latents_clip1");
}

static void run_loop(Golden *g, Loop *l)
{
    const size_t size = sizeof(float) * (size_t)(l->nb_blocks * l->schedule.steps * l->nb);
    float *in_waves = golden_alloc(g, size);

    l->result = in_waves;
    run_waves(l);
    l->result = golden_alloc(g, size);
    run_sequential(l);
    compare(g, l);
    if (memcmp(l->result, in_waves, size))
        golden_fail(g, "the loop in waves gives other numbers than block after block");
}

void case_sampling(Golden *g)
{
    Loop *l = golden_alloc(g, sizeof(*l));
    int64_t dim[CKPT_MAX_DIM] = { 0 };
    GoldenNet n;

    *l = (Loop){ .g = g };
    if (!golden_dims(g, dim, "out.latents") && !golden_dims(g, dim, "out.latents_last_step")) {
        golden_fail(g, "neither out.latents nor out.latents_last_step is in the file");
        return;
    }
    l->nb_blocks = dim[0];
    if (l->nb_blocks > MAX_BLOCKS || parse_name(g, l) < 0 || read_distances(g, l) < 0) {
        golden_fail(g, "the name says nothing that this case knows, or distances are missing");
        return;
    }
    check_inputs(g, l);
    if (net_open(g, &n, "ckpt", NULL, 0, -1) >= 0) {
        if (open_loop(l, g, &n.d) >= 0)
            run_loop(g, l);
        close_loop(l);
    }
    net_close(&n);
}
