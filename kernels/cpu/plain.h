/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plain C, shared by its ops: their prototypes, the weight forms, and the one inner loop of every product.
 *
 * A matrix that is multiplied is read as panels: 8 columns side by side, [K][8], so that the loop over columns is
 * contiguous and vectorizes on any machine without reordering a sum. Each result is the sum of chunks of at most CHUNK
 * products, every chunk in order: the same bits whoever computes it, and smaller rounding than one long sum.
 */
#ifndef AVT_CPU_PLAIN_H
#define AVT_CPU_PLAIN_H

#include <math.h>

#include "cpu/cpu.h"

enum { PANEL = 8, TILE = 4, CHUNK = 256 };

/* Below this many elements a second thread costs more than it brings. Bodies in vectors and tiles ask Backend.grain instead: in numbers that a
 * vector op passes, or of which tiles multiply TILED times as many. */
#define PARALLEL_MIN 8192
enum { TILED = 512 };

static inline int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t panels_of(int64_t columns)
{
    return (columns + PANEL - 1) / PANEL;
}

/* sum[TILE][PANEL] += x[TILE][nb] w[nb][PANEL], nb <= CHUNK; x: four rows, each contiguous. */
static inline void panel_add(float sum[TILE][PANEL], const float *const x[TILE], const float *restrict w, int64_t nb)
{
    float acc[TILE][PANEL] = { { 0 } };

    for (int64_t k = 0; k < nb; k++)
        for (int i = 0; i < TILE; i++)
#pragma omp simd                                // without it gcc vectorizes over k and adds up lane by lane: four times slower
            for (int j = 0; j < PANEL; j++)
                acc[i][j] += x[i][k] * w[PANEL * k + j];
    for (int i = 0; i < TILE; i++)
        for (int j = 0; j < PANEL; j++)
            sum[i][j] += acc[i][j];
}

/* Largest of nb values and their sum, in eight interleaved parts: one fixed order that vectorizes. */
static inline float row_max(const float *x, int64_t nb)
{
    float part[PANEL], top;
    int64_t i = 0;

    for (int j = 0; j < PANEL; j++)
        part[j] = -INFINITY;
    for (; i + PANEL <= nb; i += PANEL)
#pragma omp simd
        for (int j = 0; j < PANEL; j++)
            part[j] = x[i + j] > part[j] ? x[i + j] : part[j];
    top = part[0];
    for (int j = 1; j < PANEL; j++)
        top = part[j] > top ? part[j] : top;
    for (; i < nb; i++)
        top = x[i] > top ? x[i] : top;
    return top;
}

static inline float row_sum(const float *x, int64_t nb)
{
    float part[PANEL] = { 0 }, sum = 0;
    int64_t i = 0;

    for (; i + PANEL <= nb; i += PANEL)
#pragma omp simd
        for (int j = 0; j < PANEL; j++)
            part[j] += x[i + j];
    for (int j = 0; j < PANEL; j++)
        sum += part[j];
    for (; i < nb; i++)
        sum += x[i];
    return sum;
}

/* v[nb], each to the nearest bf16 */
void avt_round_bf16(float *v, int64_t nb);

size_t avt_plain_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim);
int    avt_plain_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src);

/* layer_norm: rows that share a w and a b, at least 1. */
static inline int64_t avt_norm_run(const OpCall *c)
{
    const int64_t values = avt_numel(c->norm.w.be ? c->norm.w : c->norm.b), all = avt_numel(c->x);

    return c->norm.w.be || c->norm.b.be ? (values ? all / values : 1) : all + 1;
}

/* The activation of a convolution that computes it apart, in place. */
int avt_conv1d_act(Backend *be, const OpCall *c);

/* One file an op or a family; all are CpuOp. */
int avt_plain_copy(Backend *be, const OpCall *c);
int avt_plain_fill(Backend *be, const OpCall *c);
int avt_plain_linear(Backend *be, const OpCall *c);
int avt_plain_squares(Backend *be, const OpCall *c);
int avt_plain_norm_rope(Backend *be, const OpCall *c);
int avt_plain_channel_norm(Backend *be, const OpCall *c);
int avt_plain_layer_norm(Backend *be, const OpCall *c);
int avt_plain_rope_table(Backend *be, const OpCall *c);
int avt_plain_rope(Backend *be, const OpCall *c);
int avt_plain_attention(Backend *be, const OpCall *c);
int avt_plain_conv3d(Backend *be, const OpCall *c);
int avt_plain_conv1d(Backend *be, const OpCall *c);
int avt_plain_upsample(Backend *be, const OpCall *c);
int avt_plain_act(Backend *be, const OpCall *c);
int avt_plain_add(Backend *be, const OpCall *c);
int avt_plain_mul(Backend *be, const OpCall *c);
int avt_plain_axpy(Backend *be, const OpCall *c);
int avt_plain_gate_add(Backend *be, const OpCall *c);
int avt_plain_gather(Backend *be, const OpCall *c);
int avt_plain_lerp_rows(Backend *be, const OpCall *c);
int avt_plain_layer_mix(Backend *be, const OpCall *c);
int avt_plain_transpose(Backend *be, const OpCall *c);
int avt_plain_patchify(Backend *be, const OpCall *c);
int avt_plain_unpatchify(Backend *be, const OpCall *c);
int avt_plain_channels_last(Backend *be, const OpCall *c);
int avt_plain_channels_first(Backend *be, const OpCall *c);
int avt_plain_picture(Backend *be, const OpCall *c);
int avt_plain_count_nonfinite(Backend *be, const OpCall *c);
int avt_plain_pixels(Backend *be, const OpCall *c);
int avt_plain_quantize(Backend *be, const OpCall *c);

#endif
