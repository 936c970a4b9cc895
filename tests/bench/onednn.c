/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Products as oneDNN would have them: both matrices in the order of its choice, nothing after the product but the bias. */
#include "bench.h"
#include "config.h"

#if HAVE_ONEDNN
#include <omp.h>
#include <stdlib.h>

#include <dnnl.h>

struct Product {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t run;
    dnnl_memory_t mem[4];               // src, weights, bias, dst
    int threads;
};

static const int roles[4] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST };

static dnnl_status_t describe(Product *p, const dnnl_dims_t dim[4])
{
    dnnl_memory_desc_t md[4];
    dnnl_status_t s = 0;

#if DNNL_VERSION_MAJOR >= 3
    for (int i = 0; i < 4 && !s; i++)
        s = dnnl_memory_desc_create_with_tag(&md[i], 2, dim[i], dnnl_f32, i == 1 ? dnnl_format_tag_any : dnnl_ab);
    return s ? s : dnnl_matmul_primitive_desc_create(&p->pd, p->engine, md[0], md[1], md[2], md[3], NULL);
#else
    dnnl_matmul_desc_t op;

    for (int i = 0; i < 4 && !s; i++)
        s = dnnl_memory_desc_init_by_tag(&md[i], 2, dim[i], dnnl_f32, i == 1 ? dnnl_format_tag_any : dnnl_ab);
    if (!s)
        s = dnnl_matmul_desc_init(&op, &md[0], &md[1], &md[2], &md[3]);
    return s ? s : dnnl_primitive_desc_create(&p->pd, &op, NULL, p->engine, NULL);
#endif
}

static dnnl_status_t make_memories(Product *p)
{
    static const dnnl_query_t what[4] = { dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_weights_md, dnnl_query_dst_md };
    dnnl_status_t s = 0;

    for (int i = 0; i < 4 && !s; i++)
        s = dnnl_memory_create(&p->mem[i], dnnl_primitive_desc_query_md(p->pd, what[i], i == 2), p->engine, DNNL_MEMORY_ALLOCATE);
    return s;
}

/* Numbers of ordinary size: with zeros or rubbish some machines are faster or slower. */
static void fill_memories(Product *p, const dnnl_dims_t dim[4])
{
    for (int i = 0; i < 4; i++) {
        float *v;

        dnnl_memory_get_data_handle(p->mem[i], (void **)&v);
        for (int64_t j = 0; j < dim[i][0] * dim[i][1]; j++)
            v[j] = 1e-2f * (float)(j % 97 - 48);
    }
}

Product *product_open(int64_t m, int64_t n, int64_t k, int threads)
{
    const dnnl_dims_t dim[4] = { { m, k }, { k, n }, { 1, n }, { m, n } };
    Product *p = calloc(1, sizeof(*p));
    dnnl_status_t s;

    p->threads = threads;
    omp_set_num_threads(threads);
    s = dnnl_engine_create(&p->engine, dnnl_cpu, 0);
    if (!s)
        s = dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags);
    if (!s)
        s = describe(p, dim);
    if (!s)
        s = dnnl_primitive_create(&p->run, p->pd);
    if (!s)
        s = make_memories(p);
    if (s) {
        product_close(p);
        return NULL;
    }
    fill_memories(p, dim);
    return p;
}

void product_run(Product *p)
{
    dnnl_exec_arg_t args[4];

    omp_set_num_threads(p->threads);
    for (int i = 0; i < 4; i++)
        args[i] = (dnnl_exec_arg_t){ roles[i], p->mem[i] };
    dnnl_primitive_execute(p->run, p->stream, 4, args);
    dnnl_stream_wait(p->stream);
}

void product_close(Product *p)
{
    if (!p)
        return;
    for (int i = 0; i < 4; i++)
        dnnl_memory_destroy(p->mem[i]);
    dnnl_primitive_destroy(p->run);
    if (p->pd)
        dnnl_primitive_desc_destroy(p->pd);
    dnnl_stream_destroy(p->stream);
    dnnl_engine_destroy(p->engine);
    free(p);
}

#else

Product *product_open(int64_t m, int64_t n, int64_t k, int threads)
{
    (void)m, (void)n, (void)k, (void)threads;
    return NULL;
}

void product_run(Product *p)
{
    (void)p;
}

void product_close(Product *p)
{
    (void)p;
}

#endif
