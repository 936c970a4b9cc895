/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What versions 2 and 3 of oneDNN call differently: memory descriptors (a value, a handle), post-ops, descriptions of primitives.
 * f32 but where a type is asked for; each function gives oneDNN's status.
 */
#ifndef AVT_CPU_ONEDNN_VERSION_H
#define AVT_CPU_ONEDNN_VERSION_H

#include <dnnl.h>

#if DNNL_VERSION_MAJOR >= 3

typedef dnnl_memory_desc_t Md;          // a handle, owned
#define REF(md) (*(md))

static inline dnnl_status_t md_init(Md *m, int nd, const int64_t *dim, dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_create_with_tag(m, nd, dim, dnnl_f32, tag);
}

static inline dnnl_status_t md_strided(Md *m, int nd, const int64_t *dim, dnnl_data_type_t type, const int64_t *stride)
{
    return dnnl_memory_desc_create_with_strides(m, nd, dim, type, stride);
}

static inline dnnl_status_t md_query(Md *m, const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    return dnnl_memory_desc_clone(m, dnnl_primitive_desc_query_md(pd, what, 0));
}

static inline void md_free(Md *m)
{
    if (*m)
        dnnl_memory_desc_destroy(*m);
    *m = NULL;
}

static inline dnnl_status_t add_eltwise(dnnl_post_ops_t ops, dnnl_alg_kind_t alg, float a, float b)
{
    return dnnl_post_ops_append_eltwise(ops, alg, a, b);
}

static inline dnnl_status_t add_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1, 0, dnnl_data_type_undef);
}

static inline dnnl_status_t pd_product(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const Md *src, const Md *wei, const Md *bias,
                                       const Md *dst, const_dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(pd, e, *src, *wei, bias ? *bias : NULL, *dst, attr);
}

static inline dnnl_status_t pd_conv(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const Md *src, const Md *wei, const Md *bias,
                                    const Md *dst, const int64_t *stride, const int64_t *pad0, const int64_t *pad1,
                                    const_dnnl_primitive_attr_t attr)
{
    static const dnnl_dims_t none;

    return dnnl_convolution_forward_primitive_desc_create(pd, e, dnnl_forward_inference, dnnl_convolution_direct, *src, *wei,
                                                          bias ? *bias : NULL, *dst, stride, none, pad0, pad1, attr);
}

#else

typedef dnnl_memory_desc_t Md;          // a value
#define REF(md) (md)

static inline dnnl_status_t md_init(Md *m, int nd, const int64_t *dim, dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_init_by_tag(m, nd, dim, dnnl_f32, tag);
}

static inline dnnl_status_t md_strided(Md *m, int nd, const int64_t *dim, dnnl_data_type_t type, const int64_t *stride)
{
    return dnnl_memory_desc_init_by_strides(m, nd, dim, type, stride);
}

static inline dnnl_status_t md_query(Md *m, const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    const Md *md = dnnl_primitive_desc_query_md(pd, what, 0);

    if (md)
        *m = *md;
    return md ? dnnl_success : dnnl_unimplemented;
}

static inline void md_free(Md *m)
{
    (void)m;
}

static inline dnnl_status_t add_eltwise(dnnl_post_ops_t ops, dnnl_alg_kind_t alg, float a, float b)
{
    return dnnl_post_ops_append_eltwise(ops, 1, alg, a, b);
}

static inline dnnl_status_t add_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1);
}

static inline dnnl_status_t pd_product(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const Md *src, const Md *wei, const Md *bias,
                                       const Md *dst, const_dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t op;
    const dnnl_status_t s = dnnl_matmul_desc_init(&op, src, wei, bias, dst);

    return s ? s : dnnl_primitive_desc_create(pd, &op, attr, e, NULL);
}

static inline dnnl_status_t pd_conv(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const Md *src, const Md *wei, const Md *bias,
                                    const Md *dst, const int64_t *stride, const int64_t *pad0, const int64_t *pad1,
                                    const_dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t op;
    const dnnl_status_t s = dnnl_convolution_forward_desc_init(&op, dnnl_forward_inference, dnnl_convolution_direct, src, wei, bias,
                                                               dst, stride, pad0, pad1);

    return s ? s : dnnl_primitive_desc_create(pd, &op, attr, e, NULL);
}

#endif

#endif
