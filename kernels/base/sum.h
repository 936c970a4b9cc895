/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sums of bytes by which things are told apart: FNV-1a of 64 bits. Source: Fowler, Noll, Vo, "The FNV Non-Cryptographic Hash Algorithm". */
#ifndef AVT_BASE_SUM_H
#define AVT_BASE_SUM_H

#include <stddef.h>
#include <stdint.h>

#define AVT_SUM_BEGIN 14695981039346656037u         // of no bytes

/** The sum of what `sum` is of and these bytes behind it. */
static inline uint64_t avt_sum(uint64_t sum, const void *bytes, size_t size)
{
    const uint8_t *p = (const uint8_t *)bytes;

    for (size_t i = 0; i < size; i++)
        sum = (sum ^ p[i]) * 1099511628211u;
    return sum;
}

#endif
