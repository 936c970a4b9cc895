/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How long this machine's CPU takes for an op: measured call by call with `avatar bench --calibrate`, kept in the user's cache, and used by
 * `avatar plan` for times on CPU ranks.
 */
#ifndef AVT_TOOL_CALIBRATE_H
#define AVT_TOOL_CALIBRATE_H

#include "engine/search.h"
#include "options.h"

typedef struct Calibrated {             // a call that was measured
    char key[400];                      // the op and the forms of its operands
    OpId op;
    int threads, level;
    double flops, bytes;
    double seconds, together;           // with the other cores idle; with all of them at the same work
} Calibrated;

typedef struct Calibration {
    char device[64];                    // the processor, as it calls itself
    char path[1024];                    // its file
    int level;                          // that calls are looked up for
    Calibrated *call;
    int nb, room;
    double known, guessed;              // seconds that the clock took from calls of the same form, and from others of the same op
} Calibration;

/** Read the file of this machine's processor. @return how many calls it knows; 0: there is no file */
int  calibration_open(Calibration *c, CpuLevel level);
void calibration_close(Calibration *c);
/** What it knows as a clock, for as long as it is open. A call of a form that it does not know takes as long for its work as the one of the same
 *  op, and if there is any, number of threads, that is nearest in work. */
PaperClock calibration_clock(Calibration *c);
/** calibrate_calls.c: measure the calls of a plan's ranks, all of which are on the CPU, for some seconds, and write the file. @return 0 or an error (logged) */
int  calibration_measure(Calibration *c, const Plan *plan, const PlanSizes *sizes, const BackendOptions *be, double seconds);

/* Keys of messages between two threads: one that wakes the other up; an exchange of small ones, and of large ones. */
#define CALIBRATION_HOP   "hop"
#define CALIBRATION_TURN  "turn"
#define CALIBRATION_FULL  "full"
#define CALIBRATION_SMALL 64            // bytes
#define CALIBRATION_LARGE (1 << 16)

/** calibrate_turns.c: keep how long messages take. @return 0 or an error */
int  calibration_measure_turns(Calibration *c, const Log *log);

/* For what measures: the key of a call, a call that replaces the one of its key, the file. */
void calibration_key(char *key, size_t size, const OpCall *c);
void calibration_keep(Calibration *c, const Calibrated *call);
int  calibration_write(Calibration *c, const Log *log);

#endif
