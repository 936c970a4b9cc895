/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arithmetic of the libraries' doubles. */
#ifndef AVT_SIMT_PRODUCTS_H
#define AVT_SIMT_PRODUCTS_H

#include <stddef.h>
#include <stdint.h>
#include <vector>

namespace bed {

enum class Number { F32, BF16, F16, I32, I8, E4M3 };

size_t size_of(Number t);
float get_number(const void *p, size_t i, Number t);
void put_number(void *p, size_t i, Number t, float v);          // rounded to nearest, ties to even; not to E4M3
/** The nearest number with TF32's 10 bits. */
float to_tf32(float v);

/** out[m, n] = a[m, k] b[n, k]^T, all row-major and dense. */
void multiply(float *out, const float *a, const float *b, int64_t m, int64_t n, int64_t k);
/** The same of whole numbers up to 127, exact; a float holds each of the sums as near as it can. */
void multiply_whole(int32_t *out, const float *a, const float *b, int64_t m, int64_t n, int64_t k);

}   // namespace bed

#endif
