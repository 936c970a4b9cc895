/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plans of cuDNN as texts, in JSON, with the compiled kernel in it: on be->tuned's shelf, from one run to the next.
 *
 *      graph's sum, wish --take--> text --cuDNN--> plan                        10 to 20 ms
 *      graph --choose, compile--> plan --cuDNN--> text --put-->                a second
 *
 * The shelf gives what it got or nothing: cuDNN is not asked to read damaged text. What it refuses all the same is made anew, and takes the
 * old one's place. Choosing is not asked again then: a kept plan is the heuristics' choice of that day, for the same card and versions.
 * Trap: engines that were compiled beforehand have no text; NVRTC must be there although nothing is compiled.
 */
#include <stdio.h>

#include "cuda/dnn.cuh"

static int names_of(Backend *be, uint64_t sum, const DnnWish *wish, char *device, size_t device_size, char *name, size_t name_size)
{
    snprintf(name, name_size, "cuDNN's plan of %016llx, engine %d, %s, workspace %lld", (unsigned long long)sum, wish->engine,
             wish->exact ? "exact" : "any", (long long)wish->library);
    return avt_cuda_device_name(be, device, device_size);
}

static bool is_open(const Backend *be)
{
    return be->tuned && be->tuned->shelf;
}

int avt_dnn_take(Backend *be, DnnPlan *plan, const DnnWish *wish, uint64_t sum)
{
    char device[256], name[128];
    size_t size = 0;
    bool taken;
    int ret = is_open(be) ? names_of(be, sum, wish, device, sizeof(device), name, sizeof(name)) : AVT_ERR(ENOSYS);
    char *text = ret < 0 ? NULL : (char *)be->tuned->shelf->take(be->tuned->shelf, device, name, &size);

    if (!text)
        return ret < 0 ? ret : AVT_ERR(ENOSYS);
    taken = avt_dnn_plan_from(plan, avt_cuda(be), NULL, text, size, wish->library);
    avt_free(text);
    return taken ? 0 : AVT_ERR(ENOSYS);
}

void avt_dnn_keep(Backend *be, const DnnPlan *plan, const DnnWish *wish, uint64_t sum)
{
    char device[256], name[128], *text;
    int64_t size = 0;

    if (!is_open(be) || cudnnBackendGetAttribute(plan->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, 0, &size, NULL) || size <= 0)
        return;
    text = (char *)avt_malloc(MEM_BACKEND, (size_t)size);
    if (text && !cudnnBackendGetAttribute(plan->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, size, &size, text) &&
        names_of(be, sum, wish, device, sizeof(device), name, sizeof(name)) >= 0)
        be->tuned->shelf->put(be->tuned->shelf, device, name, text, (size_t)size);
    avt_free(text);
}
