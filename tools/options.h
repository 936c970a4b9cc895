/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The filter's options as long options of the tool: one table for every subcommand. */
#ifndef AVT_TOOL_OPTIONS_H
#define AVT_TOOL_OPTIONS_H

#include <limits.h>

#include "avatar.h"

#define TOOL_OPTIONS 80                 // at most

/* Names for tool_takes(): what says where the model is and what it adds, how it runs, which frames it makes. */
#define TAKES_MODEL " model lora opts"
#define TAKES_FRAMES " preset size steps"
#define TAKES_PLAN " plan vae_device vae_split precision kv offload resident front_device"
#define TAKES_CPU " cpu_threads cpu_level"
#define TAKES_RUN TAKES_PLAN TAKES_CPU " devices tune"

typedef struct ToolOptions {
    AvatarOptions engine;
    AvatarLook look;
    char cache[PATH_MAX];               // engine.cache
    const char *preset, *output, *container, *video_codec, *audio_codec, *input_format, *picture, *gpus, *link, *memory, *host_memory;
    const char *positional[4];
    int nb_positional;
    int quiet, help, json, ops, full, quick, manifest, record, damage, calibrate, seeded, seconds;
    unsigned char given[TOOL_OPTIONS];  // which of the table were
} ToolOptions;

/**
 * Read "--name value", "--name=value", ffmpeg's "-f", "-c:v", "-c:a", and positional arguments, of which those behind "--" may begin with
 * '-'; '-' and '_' in names are the same.
 * @return 0, or 2 after a sentence on stderr
 */
int tool_options(ToolOptions *o, int argc, char **argv);
/**
 * Refuse what was given and is not among `names`, each behind a blank: a command leaves no option out in silence.
 * @param command  for the sentence; with the option that chooses what it does, as in "bench --damage"
 * @return 0, or 2 after a sentence on stderr
 */
int tool_takes(const ToolOptions *o, const char *command, const char *names);
/** Outputs spare the model's folder and its LoRA from here on: file_protect() of both. */
void tool_protect(const ToolOptions *o);
/** A log callback: a line on stderr, whatever its level. */
void tool_log_line(void *opaque, int level, const char *text);
/** The options, a line each. */
void tool_options_help(void);
/** FFmpeg's name of a format of avatar.h. */
const char *tool_format_name(int format);

#endif
