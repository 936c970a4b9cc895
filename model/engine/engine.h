/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside the engine: the loaded model (Core), shared by all handles of a process that ask for the same, and the handle
 * (AvatarEngine), which adds the opener's own log.
 */
#ifndef AVT_ENGINE_H
#define AVT_ENGINE_H

#include <pthread.h>

#include "avatar.h"
#include "engine/kept.h"
#include "engine/rank.h"
#include "files/modeldir.h"
#include "nets/tokenizer.h"

typedef struct Core {
    struct Core *next;                  // list of open engines
    char *key;                          // folder, file stamps, LoRA, devices, plan, ...: the same text is the same engine
    int users;
    int loading;                        // by its first user; others wait
    int64_t idle_since_ms;              // when the last user went

    ModelDir dir;
    int compat, level, cpu_threads;
    DType act, product;                 // precision: the type of activations on every device, and of what the layers multiply
    int process;                        // this one, as the plan's ranks name theirs
    struct World *world;                // of all processes that they live in; NULL: this one alone
    uint32_t id;                        // that workers know it by; 0: they do not
    Plan plan;
    PlanSizes sizes;
    Schedule schedule;
    RankWeights rank[PLAN_MAX_RANKS];
    int64_t weight_bytes;

    FrontWeights front;
    Ckpt *t5;                           // stays open: umT5 reads its layers when they are first wanted, or each time
    Ckpt *dit;                          // stay open with offload: layers may be read each time, merged again
    Lora *lora;
    size_t keep;                        // bytes of them that may stay
    Tuned *tuned;                       // what the sessions have found to be fastest; NULL: none is to look for it
    char *cache;                        // folder that it is kept in, or NULL
    KeptFolder kept;                    // and what is larger
    Tokenizer *tokenizer;
} Core;

struct AvatarEngine {
    Core *core;
    Log log;                            // hands lines to the opener's callback, one at a time
    AvatarLogCallback callback;
    void *callback_opaque;
    pthread_mutex_t log_lock;
    int64_t warnings;                   // lines of that level so far; under log_lock
};

#define MORE_THREADS "raise its limit (ulimit -u, pids.max)"     // what helps when the system gives no thread

typedef struct Expert {                 // AvatarOptions.opts
    double lora_alpha;                  // 0: not said
} Expert;

typedef struct Given {                  // what a worker's engine does not choose, but is told by process 0: orders.h
    uint32_t id;
    const Plan *plan;
    DType act, product;
    int process;
    struct World *world;
    uint64_t model;                     // avt_modeldir_print() of process 0's files, which this one's must equal
} Given;

/* ---- engine.c ---- */

/** As avatar_engine_open(), outside of callbacks. @param given  NULL: not a worker's */
int avt_engine_open(AvatarEngine **e, const AvatarOptions *opt, const Given *given);

/** Is the calling thread inside of a caller's log callback? What waits or logs is refused there. */
int avt_in_callback(void);

/* ---- options.c ---- */

#define DEFAULT_AREA 270336             // pixels of a frame: 704 x 384
#define SIDE_MIN 64
#define SIDE_MAX 4096
#define SIDE_STEP 16

/** Check every option without looking at a file. @return 0, or EINVAL after one sentence that names option, value, remedy */
int avt_options_check(const AvatarOptions *opt, Expert *x, const Log *log);
/** Those of them that are numbers, and the precision: for who plans without a model. */
int avt_options_numbers(const AvatarOptions *opt, const Log *log);
/** All of them, and that the model's folder is there and whole. @return as avt_options_check(), avt_options_model() */
int avt_options_try(const AvatarOptions *opt, const Log *log);
/** `precision`: be->product; and be->act, if that is said, too (else it is left alone). @return 1, 0, or EINVAL (logged) */
int avt_options_precision(BackendOptions *be, const char *precision, const Log *log);
/** "f32", "bf16", "int8", "fp8" */
const char *avt_precision_name(DType act, DType product);
/**
 * Which LoRA, if any: the option, then avatar.json, then the rule that the published transformer needs one.
 * @param path  gets it, or NULL. @return 0; ENOENT, or EINVAL for one that is named beside weights that have theirs (logged)
 */
int avt_options_lora(const char **path, const ModelDir *d, const DitConfig *cfg, const char *option, const Log *log);
/**
 * The folder of the model that is asked for into path, [PATH_MAX]; one that this user may not look into, if there is no other.
 * @return 1, or 0: it is found nowhere, path is the name as given
 */
int avt_options_folder(char *path, const AvatarOptions *opt);
/** Find and open the model that is asked for: a folder, or a name in opt->models or among the installed ones. @return as avt_modeldir_open() */
int avt_options_model(ModelDir *m, const AvatarOptions *opt, const Log *log);
/**
 * The frames' size: what `look` asks for, else the model's own (a size, or an area at the picture's ratio), else DEFAULT_AREA;
 * compat=upstream has the original's rule. *w and *h are set in any case.
 * @return 0, or EINVAL (logged, with the nearest) when a side is not a multiple of SIDE_STEP from SIDE_MIN to SIDE_MAX
 */
int avt_settle_size(int *w, int *h, const ModelDir *d, int compat, const AvatarLook *look, const Log *log);

/* ---- load.c ---- */

/** Load what `c->dir` holds, on a thread that nobody else runs ops on. @return 0 or an error (logged); avt_core_free() takes what is half loaded */
int  avt_core_load(Core *c, const AvatarOptions *opt, const Expert *x, const Given *given, const Log *log);
void avt_core_free(Core *c);
/** CPU threads of all that is no rank: loading, text, sound. */
int  avt_core_threads(const Core *c);
/** Options for a backend of this engine. */
BackendOptions avt_core_backend(const Core *c, int threads, const Log *log);

#endif
