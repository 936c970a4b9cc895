/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzzer entry: a safetensors file with "l.weight" [3, 16] as codes, or as numbers, and scales beside it. What is bound has scales above 0 and
 * at most 65536 and stands for finite numbers, whether codes are wanted or what they stand for.
 */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "files/bind.h"

enum { OUT = 3, IN = 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_numbers(const float *v, int64_t nb)
{
    for (int64_t i = 0; v && i < nb; i++)
        if (!isfinite(v[i]))
            abort();
}

static void check_scales(Tensor w)
{
    const float *scale = w.scale;

    for (int i = 0; scale && i < OUT; i++)
        if (!(scale[i] > 0 && scale[i] <= 65536))
            abort();
}

static void bind(const Ckpt *c, DType product)
{
    const BackendOptions opt = { .threads = 1, .level = CPU_PLAIN, .product = product };
    Backend *be;
    Arena *a;
    Binder b;
    Linear l;
    float *host;

    if (avt_backend_open(&be, "cpu", &opt) < 0 || avt_arena_open(&a, be, "fuzz", 1 << 20) < 0 || avt_binder_open(&b, c, NULL, a, "net", DT_F32, NULL) < 0)
        abort();
    b.act = be->product;
    l = avt_bind_linear(&b, OUT, IN, 0, "l");
    host = avt_bind_host(&b, 2, (const int64_t[]){ OUT, IN }, "l.weight");
    if (avt_binder_finish(&b, 1) >= 0) {
        check_scales(l.w);
        check_numbers(host, OUT * IN);
    }
    avt_free(host);
    avt_binder_close(&b);
    avt_arena_close(&a);
    avt_backend_close(&be);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const DType product[] = { DT_F32, DT_I8, DT_F8_E4M3 };
    Ckpt *c;

    if (avt_ckpt_open_memory(&c, "fuzz", data, size, NULL) < 0)
        return 0;
    for (int i = 0; i < 3; i++)
        bind(c, product[i]);
    avt_ckpt_close(&c);
    return 0;
}
