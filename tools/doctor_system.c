/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine: processor, memory against the plan, swap, NVIDIA's devices as their management library tells (opened at run time: a
 * machine without it is no fault), and the ffmpeg that a shell would find.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/thread.h"
#include "cpu/cpu.h"
#include "doctor.h"
#include "engine/engine.h"
#include "nvml.h"
#include "plan.h"

#define GB 1e9

/* ---- processor ----------------------------------------------------------------------------------------------------- */

static void look_at_cpu(Findings *f, const ToolOptions *o)
{
    static const char *const names[] = { "plain C", "oneDNN", "AVX2", "AVX-512", "AMX" };
    int level = o->engine.cpu_level < 0 ? CPU_AMX : o->engine.cpu_level;

    while (level > CPU_PLAIN && !avt_cpu_has((CpuLevel)level))
        level--;
    doctor_words(f, "devices", "processor", level < CPU_AVX2 ? DOUBTFUL : GOOD, "%d threads, %s",
                 o->engine.cpu_threads > 0 ? o->engine.cpu_threads : avt_nb_cores(), names[level]);
    doctor_remedy(f, "without AVX2 every frame takes many times as long: use a newer machine, or build with oneDNN");
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

/* A number of /proc/FILE behind `key`, or -1. */
static int64_t proc_number(const char *file, const char *key)
{
    FILE *f = fopen(file, "r");
    char line[256];
    int64_t v = -1;

    while (f && v < 0 && fgets(line, sizeof(line), f))
        if (!strncmp(line, key, strlen(key)))
            v = strtoll(line + strlen(key), NULL, 10);
    if (f)
        fclose(f);
    return v;
}

static void look_at_memory(Findings *f, const ToolOptions *o)
{
    const int64_t total = proc_number("/proc/meminfo", "SwapTotal:"), free_swap = proc_number("/proc/meminfo", "SwapFree:");
    const int64_t left = avt_host_memory_left();
    const int64_t need = plan_host_bytes(&o->engine, &o->look);

    if (need < 0)
        doctor_words(f, "memory", "plan", DOUBTFUL, "what the model needs cannot be found"), doctor_remedy(f, "see the findings on its files");
    else if (left < 0)
        doctor_number(f, "memory", "needed on the host", (double)need / GB, "GB", GOOD, "%s", "");
    else {
        doctor_words(f, "memory", "host", need > left ? BAD : need > left / 10 * 9 ? DOUBTFUL : GOOD, "%.2f GB planned, %.2f GB free", (double)need / GB,
                     (double)left / GB);
        doctor_remedy(f, "close other programs, take a smaller size or fewer steps, or precision=bf16: see avatar plan");
    }
    if (total > 0)
        doctor_number(f, "memory", "swapped out", (double)(total - free_swap) / 1e6, "GB", total - free_swap > total / 2 ? DOUBTFUL : GOOD,
                      "other programs have pushed memory to disk: what is read back from there stutters");
}

/* ---- NVIDIA -------------------------------------------------------------------------------------------------------- */

static void look_at_gpu(Findings *f, const Nvml *n, unsigned i)
{
    enum { SLOWED_BY_HEAT_OR_POWER = 0x8 | 0x20 | 0x40 | 0x80 };    // hw slowdown, sw thermal, hw thermal, hw power brake
    char name[96] = "?";
    NvmlMemory m = { 0, 0, 0 };
    unsigned long long why = 0, errors = 0;
    int major = 0, minor = 0;
    void *d;

    if (n->handle(i, &d))
        return;
    n->name(d, name, sizeof(name));
    n->memory(d, &m);
    n->capability(d, &major, &minor);
    doctor_words(f, "devices", "GPU", major < 8 ? BAD : GOOD, "cuda%u: %s, compute capability %d.%d, %.1f of %.1f GB free", i, name, major, minor,
                 (double)m.free / GB, (double)m.total / GB);
    doctor_remedy(f, "cards below 8.0 (Ampere) are not supported");
    if (m.total && m.used > m.total / 4)
        doctor_number(f, "memory", "held by others on a GPU", (double)m.used / GB, "GB", DOUBTFUL, "cuda%u: see nvidia-smi for the programs", i);
    if (!n->throttle(d, &why) && why & SLOWED_BY_HEAT_OR_POWER)
        doctor_words(f, "devices", "clocks", DOUBTFUL, "cuda%u is slowed down by heat or power", i),
            doctor_remedy(f, "look at fans and supply: nvidia-smi -q -d PERFORMANCE");
    if (!n->ecc(d, 1, 0, &errors) && errors)
        doctor_words(f, "devices", "memory errors", BAD, "cuda%u: %llu uncorrected since the driver was loaded", i, errors),
            doctor_remedy(f, "reset or replace the card");
}

static void look_at_gpus(Findings *f)
{
    char driver[96] = "?";
    unsigned nb = 0;
    Nvml n;

    if (!nvml_open(&n)) {
        doctor_words(f, "devices", "GPU", GOOD, "no NVIDIA driver on this machine: the CPU computes");
        return;
    }
    n.driver(driver, sizeof(driver));
    n.count(&nb);
    doctor_words(f, "devices", "driver", atoi(driver) < 580 ? BAD : GOOD, "%s, %u devices", driver, nb);
    doctor_remedy(f, "CUDA 13 wants driver 580 or newer");
    for (unsigned i = 0; i < nb; i++)
        look_at_gpu(f, &n, i);
    nvml_close(&n);
}

/* ---- ffmpeg -------------------------------------------------------------------------------------------------------- */

/* Does the output of a command hold a text? Its first line goes to `first`. */
static int says(const char *command, const char *text, char first[120])
{
    FILE *p = popen(command, "r");
    char line[512];
    int found = 0;

    first[0] = 0;
    while (p && fgets(line, sizeof(line), p)) {
        if (!first[0])
            snprintf(first, 120, "%.*s", (int)strcspn(line, "\n"), line);
        found |= strstr(line, text) != NULL;
    }
    return p && pclose(p) == 0 && found;
}

static void look_at_ffmpeg(Findings *f)
{
    char first[120], version[120];

    if (!says("ffmpeg -version 2>/dev/null </dev/null", "ffmpeg version", version)) {
        doctor_words(f, "ffmpeg", "on the path", DOUBTFUL, "there is none");
        doctor_remedy(f, "make ffmpeg builds one with the filter; put build/ffmpeg/bin into PATH");
    } else if (says("ffmpeg -hide_banner -filters 2>/dev/null </dev/null", " avatar ", first))
        doctor_words(f, "ffmpeg", "filter avatar", GOOD, "in %.80s", version);
    else {
        doctor_words(f, "ffmpeg", "filter avatar", DOUBTFUL, "not in %.80s", version);
        doctor_remedy(f, "that ffmpeg has not got it: make ffmpeg builds one, in build/ffmpeg/bin");
    }
}

void doctor_system(Findings *f, const ToolOptions *o)
{
    look_at_cpu(f, o);
    look_at_gpus(f);
    look_at_memory(f, o);
    doctor_words(f, "memory", "fragmentation", GOOD, "cannot be: everything is taken once, in arenas");
    look_at_ffmpeg(f);
}
