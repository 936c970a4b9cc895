/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See stats_in.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "files/json.h"
#include "stats_in.h"

#define MOST 1e15                       // of a number, whichever it is: a petabyte, thirty thousand years

const char *const stats_stages[STAGE_NB] = { "wait", "picture", "text", "sink", "sound", "layers", "decode" };
const char *const stats_memory[5] = { "weights", "state", "scratch", "workspace", "messages" };

static void text_of(char *to, size_t size, const Json *j, const char *key)
{
    const char *text = "";

    avt_json_string(j, key, &text, 0);
    avt_printable(to, size, text);
}

/* What no session measures is none: bars and curves are finite. */
static void number_of(double *to, const Json *j, const char *key)
{
    avt_json_float(j, key, to, 0);
    if (!(fabs(*to) <= MOST))
        *to = 0;
}

static void rank_of(StatsRank *r, const Json *j)
{
    const Json *ms = avt_json_get(j, "ms"), *bytes = avt_json_get(j, "bytes"), *layers = avt_json_first(avt_json_get(j, "layers"));
    int64_t vae = 0;

    memset(r, 0, sizeof(*r));
    text_of(r->device, sizeof(r->device), j, "device");
    avt_json_int(j, "vae", &vae, 0, 1, 0);
    r->vae = (int)vae;
    r->l0 = layers ? (int)layers->i : 0;
    r->l1 = layers && layers->next ? (int)layers->next->i : 0;
    for (int i = 0; i < STAGE_NB; i++)
        number_of(&r->ms[i], ms, stats_stages[i]);
    for (int i = 0; i < 5; i++)
        number_of(&r->bytes[i], bytes, stats_memory[i]);
}

int stats_parse(StatsLine *l, const char *text, size_t size)
{
    const struct {
        const char *key;
        double *value;
    } numbers[] = { { "time", &l->time }, { "block_ms", &l->block_ms }, { "fps", &l->fps }, { "fps_mean", &l->fps_mean },
                    { "ahead_ms", &l->ahead_ms } };
    const Json *front;
    Json *j;

    memset(l, 0, sizeof(*l));
    if (avt_json_parse(&j, text, size, "stats", NULL) < 0)
        return 0;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        number_of(numbers[i].value, j, numbers[i].key);
    avt_json_int(j, "block", &l->block, 0, INT64_MAX, 0);
    avt_json_int(j, "frame", &l->frame, 0, INT64_MAX, 0);
    avt_json_int(j, "frames", &l->frames, 0, INT64_MAX, 0);
    avt_json_int(j, "queue", &l->queue, 0, INT64_MAX, 0);
    avt_json_int(j, "steps", &l->steps, 0, INT64_MAX, 0);
    avt_json_int(j, "warnings", &l->warnings, 0, INT64_MAX, 0);
    text_of(l->size, sizeof(l->size), j, "size");
    text_of(l->precision, sizeof(l->precision), j, "precision");
    text_of(l->plan, sizeof(l->plan), j, "plan");
    front = avt_json_get(j, "front");
    text_of(l->front, sizeof(l->front), front, "device");
    number_of(&l->front_ms, front, "ms");
    for (const Json *r = avt_json_first(avt_json_get(j, "ranks")); r && l->nb_ranks < PLAN_MAX_RANKS; r = r->next)
        rank_of(&l->rank[l->nb_ranks++], r);
    avt_json_close(&j);
    return l->nb_ranks > 0;
}
