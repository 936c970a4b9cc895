/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Codes, by what the table has for f32 or bf16:
 *
 *   quantize   rows of an activation, each by one thread
 *   linear     a piece of 256 rows by 256 columns at a time: the codes of both sides become numbers of the type that the level multiplies
 *              best, f32 or bf16, which every code is exactly; then
 *              out = act(sum * scale[row] * scale[column] + b) * gate + res
 *
 * This is the definition at every level. For f8_e4m3 it is all that there is: no CPU of today multiplies it, so it saves memory and
 * costs time. The weight stays a byte a number: widening it anew for each call is a pass over N K numbers, against 2 M N K operations.
 */
#include "cpu/plain.h"
#include "quantize.h"

enum { ROWS = 256, COLUMNS = 256 };

/* ---- quantize ------------------------------------------------------------------------------------------------------ */

static void take_row(float *row, Tensor x, int64_t r, int64_t k)
{
    if (x.dtype == DT_F32)
        memcpy(row, (const float *)x.data + r * k, (size_t)k * sizeof(*row));
    else
        for (int64_t i = 0; i < k; i++)
            row[i] = avt_bf16_f32(((const uint16_t *)x.data)[r * k + i]);
}

int avt_plain_quantize(Backend *be, const OpCall *c)
{
    const int64_t rows = avt_rows_of(c->out), k = avt_last_dim(c->out);
    float *work = avt_cpu_work(be, (size_t)k * (size_t)be->threads * sizeof(*work));

    if (!work)
        return AVT_ERR(ENOMEM);
#pragma omp parallel for num_threads(be->threads) if (rows * k > PARALLEL_MIN)
    for (int64_t r = 0; r < rows; r++) {
        float *row = work + avt_cpu_thread() * k;

        take_row(row, c->x, r, k);
        ((float *)c->out.scale)[r] = avt_quantize_row((uint8_t *)c->out.data + r * k, c->out.dtype, row, k);
    }
    return 0;
}

/* ---- linear -------------------------------------------------------------------------------------------------------- */

typedef struct Scaled {
    Backend *be;
    const OpCall *c;
    DType inner;                        // of the numbers that are multiplied
    char *codes, *packed, *x;           // rows of the weight, as the level packs them; rows of x
    float *sum;                         // [ROWS, COLUMNS]
} Scaled;

static size_t packed_bytes(const Scaled *s, int64_t columns)
{
    const int64_t dim[2] = { columns, s->c->linear.w.dim[1] };

    return avt_cpu_weight_bytes(s->be, WEIGHT_LINEAR, s->inner, s->inner, 2, dim);
}

/* Codes of a whole row or several, as numbers without their scale */
static void widen(const Scaled *s, void *dst, DType type, const uint8_t *src, int64_t nb)
{
#pragma omp parallel for simd num_threads(s->be->threads) if (parallel : nb > 4 * PARALLEL_MIN)
    for (int64_t i = 0; i < nb; i++) {
        const float v = type == DT_I8 ? (float)(int8_t)src[i] : avt_e4m3_f32(src[i]);

        if (s->inner == DT_F32)
            ((float *)dst)[i] = v;
        else
            ((uint16_t *)dst)[i] = (uint16_t)(avt_f32_bits(v) >> 16);
    }
}

/* One row of a piece of sums, into the result */
static void finish_row(const OpCall *c, float *v, int64_t m, int64_t n, int64_t nb)
{
    const float *bias = c->linear.b.data, *gate = c->linear.gate.data, *scale = (const float *)c->linear.w.scale + n;
    const float own = ((const float *)c->linear.x.scale)[m];
    const int64_t at = m * c->linear.w.dim[0] + n;

    for (int64_t j = 0; j < nb; j++)
        v[j] = v[j] * (own * scale[j]) + (bias ? bias[n + j] : 0);
    avt_act_row(c->u.act, v, nb);
    for (int64_t j = 0; gate && j < nb; j++)
        v[j] *= gate[n + j];
    for (int64_t j = 0; c->linear.res.be && j < nb; j++)
        v[j] += c->linear.res.dtype == DT_F32 ? ((const float *)c->linear.res.data)[at + j]
                                              : avt_bf16_f32(((const uint16_t *)c->linear.res.data)[at + j]);
    if (c->out.dtype == DT_F32)
        memcpy((float *)c->out.data + at, v, (size_t)nb * sizeof(*v));
    else
        for (int64_t j = 0; j < nb; j++)
            ((uint16_t *)c->out.data)[at + j] = avt_f32_bf16(v[j]);
}

/* Rows m .. m + nb_m - 1, columns n .. n + nb_n - 1, whose weight is packed in w */
static int multiply(const Scaled *s, Tensor w, int64_t m, int64_t nb_m, int64_t n, int64_t nb_n)
{
    Cpu *cpu = s->be->priv;
    const OpCall *c = s->c;
    const int64_t k = w.dim[1];
    const size_t mark = avt_cpu_work_mark(cpu);
    const Tensor x = { .be = s->be, .data = s->x, .dtype = s->inner, .nd = 2, .dim = { nb_m, k } };
    const Tensor sum = { .be = s->be, .data = s->sum, .dtype = DT_F32, .nd = 2, .dim = { nb_m, nb_n } };
    const OpCall inner = { .op = OP_LINEAR, .out = sum, .in = { x, w } };
    int ret = 0;

    if (!cpu->measuring)
        widen(s, s->x, c->linear.x.dtype, (const uint8_t *)c->linear.x.data + m * k, nb_m * k);
    if (!cpu->measuring || s->inner == DT_BF16 || avt_cpu_wants(cpu, OP_LINEAR))
        ret = (s->inner == DT_BF16 ? cpu->op16 : cpu->op)[OP_LINEAR](s->be, &inner);
    avt_cpu_work_release(cpu, mark);
    if (cpu->measuring)
        return 0;
#pragma omp parallel for num_threads(s->be->threads) if (nb_m * nb_n > PARALLEL_MIN)
    for (int64_t i = 0; i < nb_m; i++)
        finish_row(c, s->sum + i * nb_n, m + i, n, nb_n);
    return ret;
}

static int columns(const Scaled *s, int64_t n, int64_t nb)
{
    const Cpu *cpu = s->be->priv;
    const OpCall *c = s->c;
    const int64_t rows = avt_rows_of(c->out), k = c->linear.w.dim[1];
    Tensor w = { .be = s->be, .data = s->packed, .nd = 2, .dim = { nb, k }, .packed = 1 + WEIGHT_LINEAR, .act = s->inner };
    int ret = 0;

    if (!cpu->measuring)
        widen(s, s->codes, c->linear.w.act, (const uint8_t *)c->linear.w.data + n * k, nb * k);
    ret = avt_cpu_weight_put(s->be, &w, WEIGHT_LINEAR, s->inner, cpu->measuring ? NULL : s->codes);
    for (int64_t m = 0; m < rows && ret >= 0 && !avt_cpu_given_up(s->be); m += ROWS)
        ret = multiply(s, w, m, min_i64(ROWS, rows - m), n, nb);
    return ret;
}

int avt_cpu_scaled(Backend *be, const OpCall *c)
{
    const Cpu *cpu = be->priv;
    const int64_t k = c->linear.w.dim[1], width = c->linear.w.dim[0];
    Scaled s = { .be = be, .c = c, .inner = cpu->op16[OP_LINEAR] == avt_cpu_widened ? DT_F32 : DT_BF16 };
    const size_t element = avt_dtype_size(s.inner);
    int ret = 0;

    s.codes = avt_cpu_work(be, (size_t)(min_i64(COLUMNS, width) * k) * element);
    s.packed = avt_cpu_work(be, packed_bytes(&s, min_i64(COLUMNS, width)));
    s.x = avt_cpu_work(be, (size_t)(min_i64(ROWS, avt_rows_of(c->out)) * k) * element);
    s.sum = avt_cpu_work(be, ROWS * COLUMNS * sizeof(float));
    if (!s.sum && !cpu->measuring)
        return AVT_ERR(ENOMEM);
    for (int64_t n = 0; n < width && ret >= 0 && !avt_cpu_given_up(be); n += COLUMNS)
        ret = columns(&s, n, min_i64(COLUMNS, width - n));
    return ret;
}
