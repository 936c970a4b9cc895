/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Long options of the tool. See options.h. */
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "file.h"
#include "options.h"

typedef enum Kind { TEXT, INT, INT64, REAL, TIME, SIZE, CONST, FLAG, SWITCH } Kind;      // TIME: seconds, or with ms; kept in ms; SWITCH: --no-NAME is 0

typedef struct Option {
    const char *name;
    Kind kind;
    size_t at;                          // offset in ToolOptions
    const char *help;
    const char *words;                  // CONST: "a|b|c" = 0, 1, 2
} Option;

#define AT(field) offsetof(ToolOptions, field)

static const Option options[] = {
    { "model",       TEXT,  AT(engine.model),       "folder of a model, or a name in AVATAR_MODELS (default: the embedded nano)", NULL },
    { "preset",      TEXT,  AT(preset),             "none, preview, standard, long, quality: size, steps and plan for the published model", NULL },
    { "lora",        TEXT,  AT(engine.lora),        "auto, a file, or none", NULL },
    { "prompt",      TEXT,  AT(look.prompt),        "text prompt (default: the model's)", NULL },
    { "size",        SIZE,  AT(look.out_width),     "WxH of the frames, multiples of 16 (default: the picture's ratio)", NULL },
    { "compat",      CONST, AT(engine.compat),      "none, or upstream: the original's quirks", "none|upstream" },
    { "seed",        INT64, AT(look.seed),          "0 to 4294967295 (default: drawn, shown)", NULL },
    { "steps",       INT,   AT(engine.steps),       "denoising steps (default: the model's)", NULL },
    { "devices",     TEXT,  AT(engine.devices),     "auto (the GPUs that hold the model, else cpu), cpu, cuda0|cuda1, of workers 1:cuda0, ... in pipeline order", NULL },
    { "plan",        TEXT,  AT(engine.plan),        "auto, sequential, wave, timestep, layer; tensorP, ulyssesP or layer+tensorP split layers", NULL },
    { "vae_device",  TEXT,  AT(engine.vae_device),  "auto, a device, or DEVICE:own", NULL },
    { "vae_split",   INT,   AT(engine.vae_split),   "devices that decode some rows of the pictures each: vae_device and those in front of it", NULL },
    { "precision",   TEXT,  AT(engine.precision),   "auto (what the devices run fastest), f32, bf16, int8, fp8", NULL },
    { "kv",          TEXT,  AT(engine.kv),          "the attention's keys and values: auto (as between operations), bf16, fp8 (half of bf16's memory)", NULL },
    { "offload",     TEXT,  AT(engine.offload),     "layers' weights: auto (what fits), none (on the devices), weights (in host memory until their turn), all (rings, sinks as well)", NULL },
    { "resident",    REAL,  AT(engine.resident),    "offload: GB of the layers that stay on each device (default: 0)", NULL },
    { "front_device", TEXT, AT(engine.front_device), "of the encoders of speech and text: auto (the VAE's), or a device", NULL },
    { "cpu_threads", INT,   AT(engine.cpu_threads), "threads of the CPU backend (default: all cores)", NULL },
    { "cpu_level",   INT,   AT(engine.cpu_level),   "highest level to use: 0 plain C, 1 oneDNN, 2 AVX2, 3 AVX-512, 4 AMX (default: the best)", NULL },
    { "format",      CONST, AT(look.format),        "yuv420p, yuv444p, nv12, rgb24, gbrp", "yuv420p|yuv444p|nv12|rgb24|gbrp" },
    { "tail",        CONST, AT(look.tail),          "ceil, floor, block: frames at the end", "ceil|floor|block" },
    { "mode",        CONST, AT(look.mode),          "offline (hear up to 60 s at once), or live (block by block, as it comes)", "offline|live" },
    { "latency",     TIME,  AT(look.latency_ms),    "live: sound after a block that is waited for, seconds or ms (default: 160ms)", NULL },
    { "late",        CONST, AT(look.late),          "live, sound ahead of the frames: wait, repeat, drop", "wait|repeat|drop" },
    { "max_late",    TIME,  AT(look.max_late_ms),   "live: how far ahead before late acts, seconds or ms (default: 2)", NULL },
    { "tune",        SWITCH, AT(engine.tune),       "time the ways in which a GPU's libraries multiply once, keep the fastest (the default; --no-tune: the first)", NULL },
    { "opts",        TEXT,  AT(engine.opts),        "expert settings key=value:key=value", NULL },
    { "stats",       TEXT,  AT(look.stats),         "file or pipe for a line of JSON a block: times, memory, delay", NULL },
    { "output",      TEXT,  AT(output),             "file to write, or - for stdout (also -o; default: avatar.mp4)", NULL },
    { "container",   TEXT,  AT(container),          "mp4, matroska, ... (also -f; default: by the file's name, nut on stdout)", NULL },
    { "video_codec", TEXT,  AT(video_codec),        "encoder of the pictures (also -c:v; default: by the container)", NULL },
    { "audio_codec", TEXT,  AT(audio_codec),        "encoder of the sound (also -c:a; default: by the container)", NULL },
    { "input_format", TEXT, AT(input_format),       "what AUDIO is if its bytes do not say it; s16le: raw 16 kHz mono", NULL },
    { "quiet",       FLAG,  AT(quiet),              "no progress", NULL },
    { "gpus",        TEXT,  AT(gpus),               "plan: cards, 4x24 (GB), 2x48+1x24, 4x4090, h100, or here: the plan that fits and is the fastest; with --ops the least time of each on the first", NULL },
    { "link",        TEXT,  AT(link),               "plan: between cards: pcie4, pcie5, nvlink, 100g", NULL },
    { "memory",      TEXT,  AT(memory),             "plan: GB that each device has, one number or one each as in devices (22.15|22.15|80)", NULL },
    { "host_memory", TEXT,  AT(host_memory),        "plan: GB of the host's memory (128, 128G), for layers that come from there and encoders on the CPU", NULL },
    { "json",        FLAG,  AT(json),               "plan, doctor, verify: for programs, in bytes", NULL },
    { "ops",         FLAG,  AT(ops),                "plan: operations of one block at one step", NULL },
    { "damage",      FLAG,  AT(damage),             "bench: what each precision costs a film, against f32", NULL },
    { "seconds",     INT,   AT(seconds),            "bench: length of the films, over which drift is measured (default: 4.8, and no drift)", NULL },
    { "calibrate",   FLAG,  AT(calibrate),          "bench: how long this CPU takes for operations, for avatar plan to reckon with", NULL },
    { "seeded",      INT,   AT(seeded),             "verify, bench: instead of a model, random weights of the published shapes, cut to two layers of so many heads: 40 as published, or 1 to 39", NULL },
    { "record",      FLAG,  AT(record),             "verify: write the answer instead of comparing with it", NULL },
    { "picture",     TEXT,  AT(picture),            "doctor: the picture that a finished film was made of", NULL },
    { "quick",       FLAG,  AT(quick),              "doctor: make two blocks also with a large model, and look at them", NULL },
    { "full",        FLAG,  AT(full),               "doctor: read all of the model's numbers, not 2 GB of them", NULL },
    { "manifest",    FLAG,  AT(manifest),           "inspect: SHA-256 of every file, for SHA256SUMS in the folder", NULL },
    { "help",        FLAG,  AT(help),               "this list", NULL },
};

_Static_assert(sizeof(options) / sizeof(options[0]) <= TOOL_OPTIONS, "given[] has a place for each");

static int find_word(const char *words, const char *value)
{
    const size_t len = strlen(value);
    int n = 0;

    for (const char *p = words; ; p++, n++) {
        const size_t l = strcspn(p, "|");

        if (l == len && !strncmp(p, value, l))
            return n;
        p += l;
        if (!*p)
            return -1;
    }
}

/* "0.16", "0.16s", "160ms" -> 160; -1: none of these, or longer than an hour */
static int read_ms(const char *value)
{
    char *end = NULL;
    const double t = strtod(value, &end);
    const double ms = !strcmp(end, "ms") ? t : !*end || !strcmp(end, "s") ? 1000 * t : -1;

    return end != value && ms >= 0 && ms <= 3600e3 ? (int)(ms + 0.5) : -1;
}

static int set(ToolOptions *o, const Option *opt, const char *value)
{
    void *at = (char *)o + opt->at;
    char *end = NULL, *end2 = NULL;
    long long n;

    errno = 0;
    switch (opt->kind) {
    case TEXT:
        *(const char **)at = value;
        return 0;
    case FLAG: case SWITCH:
        *(int *)at = 1;
        return 0;
    case TIME:
        n = read_ms(value);
        if (n < 0)
            break;
        *(int *)at = (int)n;
        return 0;
    case REAL:
        *(double *)at = strtod(value, &end);
        if (end == value || *end || !(*(double *)at >= 0 && *(double *)at <= 1e6))
            break;
        return 0;
    case CONST:
        n = find_word(opt->words, value);
        if (n < 0)
            break;
        *(int *)at = (int)n;
        return 0;
    case SIZE:
        n = strtol(value, &end, 10);
        if (end == value || (*end != 'x' && *end != '*') || n < 1 || n > 65536)
            break;
        ((int *)at)[0] = (int)n;
        n = strtol(end + 1, &end2, 10);
        if (end2 == end + 1 || *end2 || n < 1 || n > 65536)
            break;
        ((int *)at)[1] = (int)n;
        return 0;
    default:
        n = strtoll(value, &end, 10);
        if (end == value || *end || errno || (opt->kind == INT && (n < -1 || n > 1 << 30)))
            break;
        if (opt->kind == INT)
            *(int *)at = (int)n;
        else
            *(int64_t *)at = n;
        return 0;
    }
    fprintf(stderr, "avatar: --%s: '%s' is not allowed; %s\n", opt->name, file_shown(value), opt->help);
    return 2;
}

static int same_name(const char *name, size_t len, const char *want)
{
    if (strlen(want) != len)
        return 0;
    for (size_t i = 0; i < len; i++)
        if ((name[i] == '-' ? '_' : name[i]) != want[i])
            return 0;
    return 1;
}

static const Option *find(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        if (same_name(name, len, options[i].name))
            return &options[i];
    return NULL;
}

/* The switch that "no-NAME" turns off. */
static const Option *find_switch(const char *name, size_t len)
{
    const Option *opt = len > 3 && !strncmp(name, "no", 2) && (name[2] == '-' || name[2] == '_') ? find(name + 3, len - 3) : NULL;

    return opt && opt->kind == SWITCH ? opt : NULL;
}

/* The name that an argument gives to an option: behind "--", or that of a short form; NULL for anything else. */
static const char *option_name(const char *arg)
{
    static const char *const shorts[][2] = { { "-o", "output" }, { "-h", "help" }, { "-f", "container" }, { "-c:v", "video_codec" },
                                             { "-c:a", "audio_codec" } };

    for (size_t i = 0; i < sizeof(shorts) / sizeof(shorts[0]); i++)
        if (!strcmp(arg, shorts[i][0]))
            return shorts[i][1];
    return arg[1] == '-' ? arg + 2 : NULL;
}

static int fill_preset(ToolOptions *o)
{
    int ret;

    o->engine.log = tool_log_line;
    ret = avatar_preset(o->preset, &o->engine, &o->look);
    o->engine.width = o->look.out_width;
    o->engine.height = o->look.out_height;
    o->engine.log = NULL;                                           // that is for each command to choose
    return ret < 0 ? 2 : 0;
}

int tool_options(ToolOptions *o, int argc, char **argv)
{
    int names_end = 0;

    memset(o, 0, sizeof(*o));
    avatar_options_default(&o->engine);
    avatar_look_default(&o->look);
    o->engine.cache = avatar_cache_folder(o->cache, sizeof(o->cache), getenv);
    o->engine.models = getenv("AVATAR_MODELS");
    o->engine.launched = avatar_is_launched(getenv);
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *name = option_name(arg), *value;
        const size_t len = name ? strcspn(name, "=") : 0;
        const Option *opt;
        int ret;

        if (!names_end && !strcmp(arg, "--")) {
            names_end = 1;
            continue;
        }
        if (names_end || arg[0] != '-' || !arg[1]) {
            if (o->nb_positional == 4)
                return fprintf(stderr, "avatar: too many arguments at '%s'\n", file_shown(arg)), 2;
            o->positional[o->nb_positional++] = arg;
            continue;
        }
        opt = name ? find(name, len) : NULL;
        if (!opt && name && (opt = find_switch(name, len))) {
            *(int *)((char *)o + opt->at) = 0;
            o->given[opt - options] = 1;
            continue;
        }
        if (!opt)
            return fprintf(stderr, "avatar: option '%s' is not known; see --help\n", file_shown(arg)), 2;
        if ((opt->kind == FLAG || opt->kind == SWITCH) && name[len] == '=')
            return fprintf(stderr, "avatar: --%s takes no value; leave '%s' away\n", opt->name, file_shown(name + len)), 2;
        value = name[len] == '=' ? name + len + 1 : opt->kind == FLAG || opt->kind == SWITCH ? "" : i + 1 < argc ? argv[++i] : NULL;
        if (!value)
            return fprintf(stderr, "avatar: --%s wants a value\n", opt->name), 2;
        o->given[opt - options] = 1;
        ret = set(o, opt, value);
        if (ret)
            return ret;
    }
    return fill_preset(o);
}

static int is_among(const char *names, const char *name)
{
    const size_t len = strlen(name);

    for (const char *p = names; (p = strchr(p, ' ')) != NULL; p++)
        if (!strncmp(p + 1, name, len) && (!p[1 + len] || p[1 + len] == ' '))
            return 1;
    return 0;
}

int tool_takes(const ToolOptions *o, const char *command, const char *names)
{
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        if (o->given[i] && !is_among(names, options[i].name))
            return fprintf(stderr, "avatar: %s has no use for --%s; leave it away%s%s\n", command, options[i].name,
                           *names ? ", these it takes:" : "", names), 2;
    return 0;
}

void tool_protect(const ToolOptions *o)
{
    static char folder[PATH_MAX];       // which is looked at whenever an output is opened

    avt_options_folder(folder, &o->engine);
    file_protect(folder);
    file_protect(o->engine.lora);
}

void tool_log_line(void *opaque, int level, const char *text)
{
    (void)opaque, (void)level;
    fprintf(stderr, "avatar: %s\n", text);
}

void tool_options_help(void)
{
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        printf("  --%-13s %s\n", options[i].name, options[i].help);
}

const char *tool_format_name(int format)
{
    static const char *const names[] = { "yuv420p", "yuv444p", "nv12", "rgb24", "gbrp" };

    return names[format];
}
