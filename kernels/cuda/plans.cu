/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans by key: a table of lists; see plans.h. */
#include <string.h>

#include "cuda/plans.h"

enum { BUCKETS = 256, KEY_MOST = 256 };

typedef struct Entry {
    struct Entry *next;                 // of the same bucket
    uint64_t used;                      // when it was asked for last
    void *plan;
    void (*close)(void *plan);
    size_t size;
    unsigned char key[KEY_MOST];
} Entry;

struct CudaPlans {
    Entry *bucket[BUCKETS];
    int nb;
    uint64_t clock;
    cudaStream_t stream;
    LtFacts lt;
    DnnFacts dnn;
};

/* FNV-1a */
static unsigned bucket_of(const void *key, size_t size)
{
    const unsigned char *p = (const unsigned char *)key;
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 16777619u;
    return (h ^ h >> 16) % BUCKETS;
}

static void drop(CudaPlans *plans, Entry **at)
{
    Entry *e = *at;

    *at = e->next;
    e->close(e->plan);
    avt_free(e);
    plans->nb--;
}

static void drop_oldest(CudaPlans *plans)
{
    Entry **oldest = NULL;

    for (int i = 0; i < BUCKETS; i++)
        for (Entry **at = &plans->bucket[i]; *at; at = &(*at)->next)
            if (!oldest || (*at)->used < (*oldest)->used)
                oldest = at;
    cudaStreamSynchronize(plans->stream);                           // its kernel may still run
    if (oldest)
        drop(plans, oldest);
}

void *avt_cuda_plan_get(CudaPlans *plans, const void *key, size_t size)
{
    for (Entry *e = plans->bucket[bucket_of(key, size)]; e; e = e->next)
        if (e->size == size && !memcmp(e->key, key, size)) {
            e->used = ++plans->clock;
            return e->plan;
        }
    return NULL;
}

int avt_cuda_plan_put(CudaPlans *plans, const void *key, size_t size, void *plan, void (*close)(void *plan))
{
    Entry *e = size <= KEY_MOST ? (Entry *)avt_calloc(MEM_BACKEND, 1, sizeof(*e)) : NULL;
    Entry **head = &plans->bucket[bucket_of(key, size)];

    if (!e)
        return AVT_ERR(ENOMEM);
    if (plans->nb >= PLANS_MOST)
        drop_oldest(plans);
    e->plan = plan;
    e->close = close;
    e->size = size;
    e->used = ++plans->clock;
    memcpy(e->key, key, size);
    e->next = *head;
    *head = e;
    plans->nb++;
    return 0;
}

LtFacts *avt_cuda_lt_facts(CudaPlans *plans)
{
    return &plans->lt;
}

DnnFacts *avt_cuda_dnn_facts(CudaPlans *plans)
{
    return &plans->dnn;
}

CudaPlans *avt_cuda_plans_open(Backend *be)
{
    CudaPlans *plans = (CudaPlans *)avt_calloc(MEM_BACKEND, 1, sizeof(*plans));
    Cuda *cuda = avt_cuda(be);

    if (!plans) {
        avt_backend_fail(be, AVT_ERR(ENOMEM), "%s: no memory for plans", be->device);
        return NULL;
    }
    plans->stream = cuda->stream;
    cuda->plans = plans;
    if (avt_cuda_lt_ask(be) < 0)
        avt_cuda_plans_close(&cuda->plans);
    return cuda->plans;
}

void avt_cuda_plans_close(CudaPlans **plans)
{
    if (!*plans)
        return;
    for (int i = 0; i < BUCKETS; i++)
        while ((*plans)->bucket[i])
            drop(*plans, &(*plans)->bucket[i]);
    avt_free(*plans);
    *plans = NULL;
}
