/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine: processor, memory against the plan, swap, NVIDIA's devices as their management library tells (opened at run time: a
 * machine without it is no fault), and the ffmpeg that a shell would find.
 */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* What is behind `key` in a line of a file of /proc, without space around it; "": no such line. */
static void proc_text(char *text, size_t size, const char *file, const char *key)
{
    FILE *f = fopen(file, "r");
    char line[256];

    text[0] = 0;
    while (f && !text[0] && fgets(line, sizeof(line), f))
        if (!strncmp(line, key, strlen(key))) {
            const char *p = line + strlen(key) + strspn(line + strlen(key), " \t");

            snprintf(text, size, "%.*s", (int)strcspn(p, "\n"), p);
        }
    if (f)
        fclose(f);
}

int64_t doctor_proc(const char *file, const char *key)
{
    char text[64], *end;
    int64_t v;

    proc_text(text, sizeof(text), file, key);
    v = strtoll(text, &end, 10);
    return end > text ? v : -1;
}

typedef struct Holder {                 // a process
    char name[32];
    long pid;
    int64_t kB;
} Holder;

#define HOLDERS 3

/* The largest, in descending order, others' processes alone. @return how many */
static int find_holders(Holder most[HOLDERS])
{
    DIR *d = opendir("/proc");
    int nb = 0;

    for (struct dirent *e; d && (e = readdir(d));) {
        Holder h = { .pid = strtol(e->d_name, NULL, 10) };
        char file[64];
        int at = nb;

        snprintf(file, sizeof(file), "/proc/%ld/status", h.pid);
        if (h.pid <= 0 || h.pid == (long)getpid() || (h.kB = doctor_proc(file, "VmRSS:")) <= 0)
            continue;
        proc_text(h.name, sizeof(h.name), file, "Name:");
        while (at > 0 && most[at - 1].kB < h.kB)
            at--;
        if (at == HOLDERS)
            continue;
        nb += nb < HOLDERS;
        memmove(&most[at + 1], &most[at], sizeof(h) * (size_t)(nb - 1 - at));
        most[at] = h;
    }
    if (d)
        closedir(d);
    return nb;
}

/* Those who have most of the host's memory; a fault only where what they have is missing. */
static void name_holders(Findings *f, int is_short)
{
    Holder most[HOLDERS];
    const int nb = find_holders(most);
    char text[160] = "";

    for (int i = 0; i < nb; i++) {
        const size_t n = strlen(text);

        snprintf(text + n, sizeof(text) - n, "%s%s (%ld) %.2f GB", n ? ", " : "", most[i].name, most[i].pid, (double)most[i].kB / 1e6);
    }
    doctor_words(f, "memory", "held by other programs", is_short ? DOUBTFUL : GOOD, "%s", nb ? text : "nothing that can be seen from here");
    doctor_remedy(f, "the plan has too little: close what is not needed of these");
}

/* Bytes of the host that the plan takes; a negative error when options and model give none, which is said. */
static int64_t needed_bytes(Findings *f, const ToolOptions *o)
{
    Reason why = { "" };
    const Log log = { avt_keep_reason, &why, LOG_ERROR };
    Expert x;
    int64_t ret = avt_options_check(&o->engine, &x, &log);

    if (ret >= 0)
        ret = plan_host_bytes(&o->engine, &o->look, &log);
    if (ret < 0)
        doctor_words(f, "options", "with this model", BAD, "nothing can be made"), doctor_remedy(f, "%.230s", why.text);
    return ret;
}

static void look_at_memory(Findings *f, const ToolOptions *o)
{
    const int64_t total = doctor_proc("/proc/meminfo", "SwapTotal:"), free_swap = doctor_proc("/proc/meminfo", "SwapFree:");
    const int64_t left = avt_host_memory_left();
    const int64_t need = needed_bytes(f, o);

    if (need < 0)
        doctor_words(f, "memory", "plan", GOOD, "none that could be counted");
    else if (left < 0)
        doctor_number(f, "memory", "needed on the host", (double)need / GB, "GB", GOOD, "%s", "");
    else {
        doctor_words(f, "memory", "host", need > left ? BAD : need > left / 10 * 9 ? DOUBTFUL : GOOD, "%.2f GB planned, %.2f GB free", (double)need / GB,
                     (double)left / GB);
        doctor_remedy(f, "close other programs, take a smaller size or fewer steps, or precision=bf16: see avatar plan");
    }
    name_holders(f, need >= 0 && left >= 0 && need > left);
    if (total > 0)
        doctor_number(f, "memory", "swapped out", (double)(total - free_swap) / 1e6, "GB", total - free_swap > total / 2 ? DOUBTFUL : GOOD,
                      "other programs have pushed memory to disk: what is read back from there stutters");
}

/* ---- NVIDIA -------------------------------------------------------------------------------------------------------- */

static void name_gpu_holders(Findings *f, const Nvml *n, void *device, unsigned i, double used)
{
    NvmlProcess list[16];
    unsigned nb = sizeof(list) / sizeof(list[0]);
    char text[120] = "";

    if (!n->processes || n->processes(device, &nb, list))
        nb = 0;
    for (unsigned k = 0; k < nb; k++) {
        const size_t at = strlen(text);
        char file[64], name[32];

        snprintf(file, sizeof(file), "/proc/%u/status", list[k].pid);
        proc_text(name, sizeof(name), file, "Name:");
        snprintf(text + at, sizeof(text) - at, ", %s (%u) %.2f GB", name[0] ? name : "process", list[k].pid, (double)list[k].used / GB);
    }
    doctor_words(f, "memory", "held by others on a GPU", DOUBTFUL, "cuda%u: %.2f GB%s", i, used, text);
    doctor_remedy(f, nb ? "end what is not needed of these" : "see nvidia-smi for the programs");
}

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
        name_gpu_holders(f, n, d, i, (double)m.used / GB);
    if (!n->throttle(d, &why) && why & SLOWED_BY_HEAT_OR_POWER)
        doctor_words(f, "devices", "clocks", DOUBTFUL, "cuda%u is slowed down by heat or power", i),
            doctor_remedy(f, "look at fans and supply: nvidia-smi -q -d PERFORMANCE");
    if (!n->ecc(d, 1, 0, &errors) && errors)
        doctor_words(f, "devices", "memory errors", BAD, "cuda%u: %llu uncorrected since the driver was loaded", i, errors),
            doctor_remedy(f, "reset or replace the card");
}

static int wants_gpu(const ToolOptions *o)
{
    const char *const named[] = { o->engine.devices, o->engine.vae_device, o->engine.front_device };

    for (size_t i = 0; i < sizeof(named) / sizeof(named[0]); i++)
        if (named[i] && strstr(named[i], "cuda"))
            return 1;
    return 0;
}

static void look_at_gpus(Findings *f, const ToolOptions *o)
{
    char driver[96] = "?";
    unsigned nb = 0;
    Nvml n;

    if (!nvml_open(&n)) {
        doctor_words(f, "devices", "GPU", wants_gpu(o) ? BAD : GOOD, "no NVIDIA driver on this machine%s", wants_gpu(o) ? "" : ": the CPU computes");
        doctor_remedy(f, "devices, vae_device or front_device names one: install the driver, or leave them at auto");
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

/* The line of a command's output that holds a text. @return 0: none does, or the command failed */
static int says(const char *command, const char *text, char found[200])
{
    FILE *p = popen(command, "r");
    char line[512];

    found[0] = 0;
    while (p && fgets(line, sizeof(line), p))
        if (!found[0] && strstr(line, text))
            snprintf(found, 200, "%.*s", (int)strcspn(line, "\n"), line);
    return p && pclose(p) == 0 && found[0];
}

/* The filter says in its description which library it was built for. */
static void judge_version(Findings *f, const char *filter)
{
    const unsigned v = avatar_version();
    const char *at = strstr(filter, "libavatar ");
    char own[32];

    snprintf(own, sizeof(own), "libavatar %u.%u.%u", v >> 16, v >> 8 & 255, v & 255);
    if (at && !strncmp(at, own, strlen(own)))
        doctor_words(f, "ffmpeg", "the filter's version", GOOD, "%s, as this tool's", own);
    else {
        doctor_words(f, "ffmpeg", "the filter's version", DOUBTFUL, "%.*s, this tool's is %s", at ? (int)strcspn(at, ")") : 30,
                     at ? at : "older than it can say", own);
        doctor_remedy(f, "they may not know each other's options: make ffmpeg builds the filter for this library");
    }
}

static void look_at_ffmpeg(Findings *f)
{
    char filter[200], version[200];

    if (!says("ffmpeg -version 2>/dev/null </dev/null", "ffmpeg version", version)) {
        doctor_words(f, "ffmpeg", "on the path", DOUBTFUL, "there is none");
        doctor_remedy(f, "make ffmpeg builds one with the filter; put build/ffmpeg/bin into PATH");
    } else if (says("ffmpeg -hide_banner -filters 2>/dev/null </dev/null", " avatar ", filter)) {
        doctor_words(f, "ffmpeg", "filter avatar", GOOD, "in %.80s", version);
        judge_version(f, filter);
    } else {
        doctor_words(f, "ffmpeg", "filter avatar", DOUBTFUL, "not in %.80s", version);
        doctor_remedy(f, "that ffmpeg has not got it: make ffmpeg builds one, in build/ffmpeg/bin");
    }
}

void doctor_system(Findings *f, const ToolOptions *o)
{
    look_at_cpu(f, o);
    look_at_gpus(f, o);
    look_at_memory(f, o);
    doctor_words(f, "memory", "fragmentation", GOOD, "cannot be: everything is taken once, in arenas");
    look_at_ffmpeg(f);
}
