/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Packed values: the block types of GGUF, widened to f32 as their definition says: PyPI package gguf, quants.py, whose bits
 * tests/unit/ckpt_gguf.c compares with.
 *
 *   q8_0, q4_0, q5_0   scale * q                        32 values a block, one f16 scale
 *   q4_1, q5_1         scale * q + offset               the same, and one f16 offset
 *   q2_k .. q6_k       (d * s) * q - (dmin * m)         256 values: groups of 16 or 32 with small integers s, m of their own
 *
 * Each product and difference is rounded by itself, so nothing here may be contracted to a fused multiply-add; -std=c11 sees to it.
 */
#include <string.h>

#include "base/half.h"
#include "files/ckpt.h"

#define K 256                           // values of a large block

static float half_at(const uint8_t *p)
{
    uint16_t h;

    memcpy(&h, p, 2);
    return avt_f16_f32(h);
}

/* ---- blocks of 32 -------------------------------------------------------------------------------------------------- */

static void widen_q8_0(float *out, const uint8_t *b)
{
    const float d = half_at(b);

    for (int i = 0; i < 32; i++)
        out[i] = (float)(int8_t)b[2 + i] * d;
}

static int nibble(const uint8_t *qs, int i)                         // of 32: the low halves first
{
    return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}

static int fifth(const uint8_t *qh, int i)                          // bit i of 32
{
    return qh[i / 8] >> i % 8 & 1;
}

static void widen_q4_0(float *out, const uint8_t *b)
{
    const float d = half_at(b);

    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(nibble(b + 2, i) - 8);
}

static void widen_q4_1(float *out, const uint8_t *b)
{
    const float d = half_at(b), m = half_at(b + 2);

    for (int i = 0; i < 32; i++)
        out[i] = d * (float)nibble(b + 4, i) + m;
}

static void widen_q5_0(float *out, const uint8_t *b)
{
    const float d = half_at(b);

    for (int i = 0; i < 32; i++)
        out[i] = d * (float)((nibble(b + 6, i) | fifth(b + 2, i) << 4) - 16);
}

static void widen_q5_1(float *out, const uint8_t *b)
{
    const float d = half_at(b), m = half_at(b + 2);

    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(nibble(b + 8, i) | fifth(b + 4, i) << 4) + m;
}

/* ---- blocks of 256 ------------------------------------------------------------------------------------------------- */

/* Scale and offset of group g of 8, six bits each: the first four whole, the upper bits of the others beside them. */
static void scale_min(const uint8_t *s, int g, int *scale, int *min)
{
    if (g < 4) {
        *scale = s[g] & 63;
        *min = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
        *min = s[g + 4] >> 4 | (s[g] >> 6) << 4;
    }
}

/* Group g of 32, of bytes that hold two groups each: its low or high halves. */
static int half_of(const uint8_t *qs, int g, int i)
{
    return qs[g / 2 * 32 + i] >> 4 * (g % 2) & 15;
}

static void widen_q4_k(float *out, const uint8_t *b)
{
    const float d = half_at(b), dmin = half_at(b + 2);

    for (int g = 0; g < 8; g++) {
        int s, m;

        scale_min(b + 4, g, &s, &m);
        for (int i = 0; i < 32; i++)
            out[32 * g + i] = d * (float)s * (float)half_of(b + 16, g, i) - dmin * (float)m;
    }
}

static void widen_q5_k(float *out, const uint8_t *b)
{
    const float d = half_at(b), dmin = half_at(b + 2);

    for (int g = 0; g < 8; g++) {
        int s, m;

        scale_min(b + 4, g, &s, &m);
        for (int i = 0; i < 32; i++)
            out[32 * g + i] = d * (float)s * (float)(half_of(b + 48, g, i) | (b[16 + i] >> g & 1) << 4) - dmin * (float)m;
    }
}

/* Groups of 16; the halves of 64 bytes are two groups of 64, the quarters of 32 bytes four of 32. */
static void widen_q6_k(float *out, const uint8_t *b)
{
    const float d = half_at(b + 208);

    for (int i = 0; i < K; i++) {
        const int low = b[i / 128 * 64 + i % 64] >> 4 * (i / 64 % 2) & 15, high = b[128 + i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3;

        out[i] = d * (float)(int8_t)b[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}

static int quarter_of(const uint8_t *qs, int i)
{
    return qs[i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3;
}

static void widen_q2_k(float *out, const uint8_t *b)
{
    const float d = half_at(b + 80), dmin = half_at(b + 82);

    for (int i = 0; i < K; i++)
        out[i] = d * (float)(b[i / 16] & 15) * (float)quarter_of(b + 16, i) - dmin * (float)(b[i / 16] >> 4);
}

/* Scale g of 16 has six bits: four in the first 8 bytes, two in the next 4. */
static int third_scale(const uint8_t *s, int g)
{
    return ((s[g % 8] >> 4 * (g / 8) & 15) | (s[8 + g % 4] >> 2 * (g / 4) & 3) << 4) - 32;
}

/* Trap: a bit of the mask that is set takes nothing off. */
static void widen_q3_k(float *out, const uint8_t *b)
{
    const float d = half_at(b + 108);

    for (int i = 0; i < K; i++) {
        const int q = quarter_of(b + 32, i) - ((b[i % 32] >> i / 32 & 1) ? 0 : 4);

        out[i] = d * (float)third_scale(b + 96, i / 16) * (float)q;
    }
}

/* ---- the interface ------------------------------------------------------------------------------------------------- */

static const CkptPack packs[] = {       // by GGUF's numbers
    [2] = { "q4_0", 32, 18, widen_q4_0 }, [3] = { "q4_1", 32, 20, widen_q4_1 }, [6] = { "q5_0", 32, 22, widen_q5_0 },
    [7] = { "q5_1", 32, 24, widen_q5_1 }, [8] = { "q8_0", 32, 34, widen_q8_0 }, [10] = { "q2_k", K, 84, widen_q2_k },
    [11] = { "q3_k", K, 110, widen_q3_k }, [12] = { "q4_k", K, 144, widen_q4_k }, [13] = { "q5_k", K, 176, widen_q5_k },
    [14] = { "q6_k", K, 210, widen_q6_k },
};

const CkptPack *avt_ckpt_pack(uint32_t type)
{
    return type < sizeof(packs) / sizeof(packs[0]) && packs[type].name ? &packs[type] : NULL;
}

const char *avt_ckpt_type(const CkptTensor *t)
{
    return t->pack ? t->pack->name : avt_dtype_name(t->dtype);
}

const char *avt_ckpt_type_name(int i)
{
    const int nb = (int)(sizeof(packs) / sizeof(packs[0]));
    int k = i - DT_NB;

    if (i < DT_NB)
        return avt_dtype_name((DType)i);
    for (int p = 0; p < nb; p++)
        if (packs[p].name && !k--)
            return packs[p].name;
    return NULL;
}

size_t avt_ckpt_size(const CkptTensor *t, int64_t nb)
{
    return t->pack ? (size_t)(nb / t->pack->values) * (size_t)t->pack->bytes : (size_t)nb * avt_dtype_size(t->dtype);
}

int64_t avt_ckpt_values(const CkptTensor *t)
{
    if (t->pack)
        return (int64_t)t->size / t->pack->bytes * t->pack->values;
    return (int64_t)(t->size / avt_dtype_size(t->dtype));
}

void avt_ckpt_widen(float *dst, const CkptTensor *t, const void *raw, int64_t nb)
{
    const CkptPack *p = t->pack;

    if (!p) {
        avt_to_f32(dst, t->dtype, raw, 0, nb);
        return;
    }
#pragma omp parallel for if (nb > 65536)
    for (int64_t i = 0; i < nb / p->values; i++)
        p->widen(dst + i * p->values, (const uint8_t *)raw + i * p->bytes);
}
