/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What `avatar plan` and `avatar doctor` know of a model before a weight is read. */
#ifndef AVT_TOOL_PLAN_H
#define AVT_TOOL_PLAN_H

#include "avatar.h"
#include "cards.h"
#include "comm/world.h"
#include "dry/dry.h"
#include "engine/search.h"
#include "options.h"

/** Sizes of the model that the options name; "published": those of Live Avatar's 14B. @return 0 or an error (logged) */
int plan_sizes(PlanSizes *s, const AvatarOptions *opt, const Log *log);
/** Steps of a block: what is asked for, else the model's. */
int plan_steps(const AvatarOptions *opt, const PlanSizes *s);
/** Settle the frames' size in `look`. @return 0 or EINVAL (logged) */
int plan_size(AvatarLook *look, const PlanSizes *s, const Log *log);
/** Bytes of this machine's memory that the plan of these options takes, weights included, or an error (logged). */
int64_t plan_host_bytes(const AvatarOptions *opt, const AvatarLook *look, const Log *log);
/** --host-memory, bytes; 0: not said. @return 0, or -1 after a sentence on stderr */
int plan_read_host(double *bytes, const ToolOptions *o);
typedef struct Planned {                // from the tool's options
    PlanSizes sizes;
    PlanOptions p;
    Plan plan;
    BackendOptions opt;
    PlanProcess process[WORLD_MAX];
    char list[PLAN_MAX_RANKS * 16];     // devices, where they are found
    double room[PLAN_MAX_RANKS];
} Planned;

/** Sizes and what is asked for; q must not move afterwards. @return 0, or an exit code after a sentence */
int plan_read(Planned *q, ToolOptions *o);
/** The plan and the precision, of what was read. @return 0, or an exit code after a sentence */
int plan_make(Planned *q, const ToolOptions *o);
/** Memory of a rank or of the front as an object of JSON. */
void plan_json_memory(const char *device, const PlanMemory *m);
/** avatar plan --gpus: plan_gpus.c. @return exit code */
int plan_for_cards(const ToolOptions *o, const PlanSizes *sizes, const Log *log);
typedef struct PlanPicture {
    const Found *found;
    const Cards *cards;
    const Pool *pool;
    const char *precision;
} PlanPicture;

/** avatar plan --gpus -o: plan_draw.c. @return exit code, after a sentence */
int plan_draw(const PlanPicture *p, const char *path);
/** avatar plan --ops: plan_ops.c. A line an op and their sum, or JSON with each shape; with a card (opt) the least time on it. */
void plan_print_ops(const DryCall *c, int64_t nb, const Card *g, int json);

#endif
