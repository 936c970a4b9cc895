/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* plan=auto: the search, over the devices that are here. */
#ifndef AVT_CHOOSE_H
#define AVT_CHOOSE_H

#include "engine/engine.h"

/**
 * A plan with its layers weighed. Where all devices are GPUs of this process with a room that is known: with o->plan left open the fastest that
 * fits at sizes->width, height, if none does the one that lacks least; with o->offload left open as much on the devices as fits.
 * Ranks on CPUs share their cores, so that no way of sharing work is faster there than another: layer, which takes the least memory.
 * A line of LOG_INFO says what was chosen; one of LOG_WARNING what comes from the host, and the price.
 * @param o  devices: a list; room: as in PlanOptions, of its plan's ranks, or NULL
 * @return 0 or an error (logged to be->log)
 */
int  avt_choose_plan(Plan *p, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be);
/**
 * "what fits: precision=int8, or steps=3, or size=624x336": what a session could be instead of frames of w x h, on what the engine's devices have left
 * now, its weights read or not. On GPUs with frames a second, on paper.
 * @return how many were found; 0: `text` is empty
 */
int  avt_choose_instead(char *text, size_t size, const Core *c, int w, int h, const Log *log);

#endif
