/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening a backend by name, and the sticky failure. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/thread.h"
#include "cuda/facts.h"
#include "kernels.h"

DeviceKind avt_device_kind(const char *name, size_t len)
{
    const size_t digits = len > 4 ? strspn(name + 4, "0123456789") : 0;

    if ((len == 3 && !strncmp(name, "cpu", 3)) || (len == 5 && !strncmp(name, "guard", 5)))
        return DEVICE_HOST;
    return !strncmp(name, "cuda", 4) && digits > 0 && digits < 4 && 4 + digits == len ? DEVICE_CUDA : DEVICE_NONE;
}

DType avt_device_act(const char *device, CpuLevel level)
{
    if (avt_device_kind(device, strlen(device)) == DEVICE_CUDA)
        return DT_BF16;
    return !strcmp(device, "cpu") ? avt_cpu_act(level) : DT_F32;
}

int avt_device_reaches(const char *name, const char *other)
{
    return !strcmp(name, other) || avt_device_kind(name, strlen(name)) != DEVICE_CUDA || avt_cuda_reaches(name, other);
}

size_t avt_device_staging(const char *device)
{
    return avt_device_kind(device, strlen(device)) == DEVICE_CUDA ? CUDA_STAGING : 0;
}

int avt_backend_open(Backend **out, const char *device, const BackendOptions *opt)
{
    static const struct {
        const char *name;
        int (*open)(Backend *be);
    } kinds[] = { { "cpu", avt_backend_cpu_open }, { "guard", avt_backend_guard_open }, { "dry", avt_backend_dry_open } };
    Backend *be = avt_calloc(MEM_BACKEND, 1, sizeof(*be));
    int (*open)(Backend *be) = NULL;
    int ret = AVT_ERR(ENOMEM);

    *out = NULL;
    if (!be)
        return ret;
    snprintf(be->device, sizeof(be->device), "%s", device);
    be->log = opt ? opt->log : NULL;
    be->threads = opt && opt->threads > 0 ? opt->threads : avt_nb_cores();
    be->level = opt ? opt->level : CPU_AUTO;
    be->act = opt ? opt->act : DT_F32;
    be->product = opt && avt_is_code(opt->product) ? opt->product : be->act;
    be->tuned = opt ? opt->tuned : NULL;
    snprintf(be->plan_for, sizeof(be->plan_for), "%s", opt && opt->plan_for ? opt->plan_for : "cuda0");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (!strcmp(device, kinds[i].name))
            open = kinds[i].open;
    if (!open && avt_device_kind(device, strlen(device)) == DEVICE_CUDA)
        open = opt && opt->planning ? avt_backend_cuda_facts_open : avt_backend_cuda_open;
    if (open)
        ret = open(be);
    else
        ret = avt_fail(be->log, AVT_ERR(EINVAL), "device '%s' is not known: cpu or cudaN", device);
    if (ret < 0) {
        avt_free(be);
        return ret;
    }
    *out = be;
    return 0;
}

void avt_backend_close(Backend **be)
{
    if (!*be)
        return;
    (*be)->cls->close(*be);
    avt_freep(be);
}

int avt_workspace_open(Backend *be, size_t size)
{
    if (be->cls->workspace_open(be, size) < 0)
        return avt_fail(be->log, AVT_ERR(ENOMEM), "%s: no %.1f MB for the workspace of its operations", be->device, (double)size / 1e6);
    return 0;
}

int avt_backend_is_dry(const Backend *be)
{
    return !strcmp(be->device, "dry");
}

void avt_backend_fail(Backend *be, int code, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    if (be->status < 0)
        return;
    be->status = code;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    avt_log(be->log, LOG_ERROR, "%s", text);
}

/* Nobody wants the result any more: the sticky failure, without a line in the log. */
static int given_up(Backend *be)
{
    if (be->cancel && __atomic_load_n(be->cancel, __ATOMIC_RELAXED) && be->status >= 0)
        be->status = AVT_ERR(ECANCELED);
    return be->status < 0;
}

void avt_backend_run(Backend *be, const OpCall *c)
{
    OpStat *s = &be->stat[c->op];
    const int64_t start = be->profile ? avt_now_ns() : 0;
    double flops, bytes;
    int ret;

    if (given_up(be))
        return;
    avt_op_cost(c, &flops, &bytes);
    ret = be->cls->run(be, c);
    if (!given_up(be) && ret < 0)                                   // an op may have stopped in its middle, with a result that is none
        avt_backend_fail(be, ret, "%s: %s failed (%d)", be->device, avt_op_name(c->op), ret);
    s->calls++;
    s->flops += flops;
    s->bytes += bytes;
    if (be->profile)
        s->seconds += 1e-9 * (double)(avt_now_ns() - start);
}
