/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Settings, faults and how they are told, numbers by chance. */
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bed.h"

namespace bed {

Settings settings __attribute__((init_priority(101)));              // made before read_settings() fills it
SimtStats stats;
std::recursive_mutex lock;

enum { SAID_OF_A_KIND = 3 };

static std::map<std::string, long> &faults = *new std::map<std::string, long>;      // lives until after the last atexit()
static uint64_t chance = 88172645463325252;
static void *place;

uint32_t random_below(uint32_t n)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (uint32_t)(chance >> 16) % n;
}

void set_place(void *pc)
{
    place = pc;
}

/* "norms.cu:41": the innermost line at `place` that is not one of the bed's wrappers */
static std::string source_line()
{
    char cmd[PATH_MAX + 64], line[512];
    std::string found;
    char program[32];
    link_map *file = NULL;
    Dl_info info;
    FILE *p;

    snprintf(program, sizeof(program), "/proc/%d/exe", getpid());
    if (!dladdr1(place, &info, (void **)&file, RTLD_DL_LINKMAP))
        return found;
    snprintf(cmd, sizeof(cmd), "addr2line -s -i -e '%s' %p 2>/dev/null", *file->l_name ? file->l_name : program,
             (void *)((char *)place - 1 - file->l_addr));
    p = popen(cmd, "r");
    while (p && fgets(line, sizeof(line), p))
        if (found.empty() || found.find("simt.h") == 0 || found.find("gpu.cuh") == 0)
            found.assign(line, strcspn(line, " \n"));
    if (p)
        pclose(p);
    return found;
}

void report(const char *kind, const char *fmt, ...)
{
    const std::string where = where_in_kernel();
    char text[512];
    va_list ap;

    if (++faults[kind] > SAID_OF_A_KIND)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (where.empty())
        fprintf(stderr, "simt: %s: %s\n", kind, text);
    else
        fprintf(stderr, "simt: %s: %s [%s, %s]\n", kind, text, where.c_str(), place ? source_line().c_str() : "?");
}

/* ---- settings ------------------------------------------------------------------------------------------------------------------------- */

/* The index of a word in a list that ends with NULL, or -1. */
static int word(const char *value, const char *const *list)
{
    for (int i = 0; list[i]; i++)
        if (!strcmp(list[i], value))
            return i;
    return -1;
}

static int set_failure(const char *value)
{
    static const char *const kinds[] = { "memory", "lost", "ecc", "product", NULL };
    const char *colon = strchr(value, ':');
    const int kind = colon ? word(std::string(value, colon).c_str(), kinds) : -1;

    if (kind < 0)
        return -1;
    (kind == 0 ? settings.fail_memory : kind == 3 ? settings.fail_product : settings.fail_device) = atoll(colon + 1);
    settings.fail_with = kind == 1 ? cudaErrorDevicesUnavailable : cudaErrorECCUncorrectable;
    return 0;
}

/* "cuDNN 7=3,cuBLASLt 1=20" */
static int set_pace(const char *value)
{
    settings.pace.clear();
    while (*value) {
        const size_t name = strcspn(value, "=");
        char *end = NULL;
        const double us = value[name] ? strtod(value + name + 1, &end) : 0;

        if (!(us > 0) || (*end && *end != ','))
            return -1;
        settings.pace[std::string(value, name)] = us;
        value = end + (*end == ',');
    }
    return 0;
}

double pace_of(const char *library, int number)
{
    const auto i = settings.pace.find(std::string(library) + " " + std::to_string(number));

    return i == settings.pace.end() ? PACE : i->second;
}

static int set_number(const char *name, int64_t v)
{
    if (!strcmp(name, "SEED"))
        chance = 88172645463325252 + (uint64_t)v * 7919;
    else if (!strcmp(name, "DEVICES"))
        settings.devices = (int)v;
    else if (!strcmp(name, "ARCH"))
        settings.arch = (int)v;
    else if (!strcmp(name, "MEMORY"))
        settings.memory = (size_t)v;
    else if (!strcmp(name, "DRIVER"))
        settings.driver = (int)v;
    else if (!strcmp(name, "FLAGS"))
        settings.flags = (int)v;
    else if (!strcmp(name, "HOST"))
        settings.host = (int)v;
    else if (!strcmp(name, "PATIENCE"))
        settings.patience = (int)v;
    else
        return -1;
    return 0;
}

static int set(const char *name, const char *value)
{
    static const char *const schedules[] = { "eager", "lazy", "random", NULL }, *const orders[] = { "forward", "reverse", "random", NULL };
    static const char *const off[] = { "off", "on", NULL }, *const nccl[] = { "off", "on", "stuck", NULL };
    int i;

    if (!strcmp(name, "SCHEDULE") && (i = word(value, schedules)) >= 0)
        settings.schedule = (Schedule)i;
    else if (!strcmp(name, "ORDER") && (i = word(value, orders)) >= 0)
        settings.order = (Order)i;
    else if (!strcmp(name, "CHECKS") && (i = word(value, off)) >= 0)
        settings.checks = i;
    else if (!strcmp(name, "PEERS") && (i = word(value, off)) >= 0)
        settings.peers = i;
    else if (!strcmp(name, "NCCL") && (i = word(value, nccl)) >= 0)
        settings.nccl = i;
    else if (!strcmp(name, "KERNELS"))
        settings.kernels = value;
    else if (!strcmp(name, "FAIL"))
        return set_failure(value);
    else if (!strcmp(name, "PACE"))
        return set_pace(value);
    else
        return set_number(name, atoll(value));
    return 0;
}

/* What was found is a failure of the program, whatever the program itself thinks of it. */
static void say_at_exit()
{
    if (faults.empty())
        return;
    fflush(stdout);
    fprintf(stderr, "simt: FAILED: %s\n", simt_kinds());
    _exit(SIMT_FOUND);
}

__attribute__((constructor)) static void read_settings()
{
    static const char *const names[] = { "SCHEDULE", "ORDER", "SEED", "CHECKS", "DEVICES", "PEERS", "NCCL", "HOST", "PATIENCE", "ARCH", "KERNELS", "MEMORY", "DRIVER", "FLAGS", "FAIL", "PACE" };

    for (const char *name : names) {
        const char *value = getenv((std::string("SIMT_") + name).c_str());

        if (value && set(name, value) < 0) {
            fprintf(stderr, "simt: SIMT_%s=%s is not known\n", name, value);
            _exit(2);
        }
    }
    atexit(say_at_exit);
}

}   // namespace bed

using namespace bed;

extern "C" {

const SimtStats *simt_stats(void)
{
    return &stats;
}

const char *simt_kernels(void)
{
    return settings.kernels.c_str();
}

int simt_set(const char *name, const char *value)
{
    Guard guard(lock);

    return set(name, value);
}

long simt_errors(const char *kind)
{
    Guard guard(lock);
    long n = 0;

    for (const auto &f : faults)
        if (!kind || f.first == kind)
            n += f.second;
    return n;
}

const char *simt_kinds(void)
{
    static std::string &all = *new std::string;
    Guard guard(lock);

    all.clear();
    for (const auto &f : faults)
        all += f.first + ":" + std::to_string(f.second) + " ";
    return all.c_str();
}

void simt_clear(void)
{
    Guard guard(lock);

    faults.clear();
    sticky = cudaSuccess;
    settings.fail_memory = settings.fail_device = settings.fail_product = -1;
}

}
