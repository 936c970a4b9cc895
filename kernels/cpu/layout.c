/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* upsample, transpose, patchify, unpatchify, channels_last, channels_first: numbers change places. */
#include <string.h>

#include "cpu/plain.h"

/* A pixel's numbers: few, for which a call takes longer than the copy. */
static inline void copy_pixel(char *restrict to, const char *restrict from, int64_t size)
{
    int64_t i = 0;

    for (; i + 32 <= size; i += 32)
        memcpy(to + i, from + i, 32);
    if (i < size)
        memcpy(to + i, from + i, (size_t)(size - i));
}

int avt_plain_upsample(Backend *be, const OpCall *c)
{
    const int64_t rows = c->x.dim[0] * c->x.dim[1], w = c->x.dim[2], ch = c->x.dim[3];
    const int64_t size = ch * (int64_t)avt_dtype_size(c->out.dtype);

#pragma omp parallel for num_threads(be->threads) if (4 * rows * w * ch > be->grain)
    for (int64_t r = 0; r < rows; r++) {
        const char *x = (const char *)c->x.data + r * w * size;
        char *out = (char *)c->out.data + r * 4 * w * size;         // two rows

        for (int64_t i = 0; i < w; i++) {
            copy_pixel(out + 2 * i * size, x + i * size, size);
            copy_pixel(out + (2 * i + 1) * size, x + i * size, size);
        }
        memcpy(out + 2 * w * size, out, (size_t)(2 * w * size));
    }
    return 0;
}

int avt_plain_transpose(Backend *be, const OpCall *c)
{
    const int64_t nb_b = c->out.dim[0], nb_a = c->out.dim[1], ch = c->out.dim[2], size = ch * (int64_t)avt_dtype_size(c->out.dtype);
    const int64_t nb = nb_a * nb_b, step = 256;

#pragma omp parallel for num_threads(be->threads) if (nb * ch > be->grain)
    for (int64_t first = 0; first < nb; first += step)
        for (int64_t i = first; i < min_i64(first + step, nb); i++)
            copy_pixel((char *)c->out.data + i * size, (const char *)c->x.data + (i % nb_a * nb_b + i / nb_a) * size, size);
    return 0;
}

int avt_plain_patchify(Backend *be, const OpCall *c)
{
    const int64_t nb_c = c->in[0].dim[1], h = c->in[0].dim[2], w = c->in[0].dim[3];
    const int pt = c->u.patch.pt, ph = c->u.patch.ph, pw = c->u.patch.pw;
    const int64_t rows = h / ph, cols = w / pw, tokens = c->out.dim[0];

#pragma omp parallel for num_threads(be->threads) if (avt_numel(c->out) > be->grain)
    for (int64_t n = 0; n < tokens; n++) {
        const int64_t t0 = n / (rows * cols) * pt, y0 = n / cols % rows * ph, x0 = n % cols * pw;
        float *out = (float *)c->out.data + n * nb_c * pt * ph * pw;

        for (int64_t ch = 0; ch < nb_c; ch++)
            for (int dt = 0; dt < pt; dt++)
                for (int dy = 0; dy < ph; dy++, out += pw)
                    memcpy(out, (const float *)c->in[0].data + (((t0 + dt) * nb_c + ch) * h + y0 + dy) * w + x0,
                           (size_t)pw * sizeof(*out));
    }
    return 0;
}

int avt_plain_unpatchify(Backend *be, const OpCall *c)
{
    const int64_t t = c->out.dim[0], nb_c = c->out.dim[1], h = c->out.dim[2], w = c->out.dim[3];
    const int ph = c->u.patch.ph, pw = c->u.patch.pw;
    const int64_t rows = t * nb_c * h;

#pragma omp parallel for num_threads(be->threads) if (rows * w > be->grain)
    for (int64_t r = 0; r < rows; r++) {
        const int64_t frame = r / (nb_c * h), ch = r / h % nb_c, y = r % h;
        float *out = (float *)c->out.data + r * w;

        for (int64_t x = 0; x < w; x++) {
            const int64_t token = (frame * (h / ph) + y / ph) * (w / pw) + x / pw;

            out[x] = ((const float *)c->in[0].data)[((token * ph + y % ph) * pw + x % pw) * nb_c + ch];
        }
    }
    return 0;
}

int avt_plain_channels_last(Backend *be, const OpCall *c)
{
    const int64_t t = c->out.dim[0], h = c->out.dim[1], w = c->out.dim[2], ch = c->out.dim[3];
    const float *mul = c->channels.mul.data, *add = c->channels.add.data;

#pragma omp parallel for num_threads(be->threads) if (t * h * w * ch > be->grain)
    for (int64_t r = 0; r < t * h; r++)
        for (int64_t k = 0; k < ch; k++) {
            const float *x = (const float *)c->in[0].data + ((r / h * ch + k) * h + r % h) * w;
            const float m = mul ? mul[k] : 1, a = add ? add[k] : 0;
            float *out = (float *)c->out.data + r * w * ch + k;

            for (int64_t i = 0; i < w; i++)
                out[i * ch] = x[i] * m + a;
        }
    return 0;
}

int avt_plain_channels_first(Backend *be, const OpCall *c)
{
    const int64_t t = c->out.dim[0], ch = c->out.dim[1], h = c->out.dim[2], w = c->out.dim[3], step = c->in[0].dim[3];
    const float *mul = c->channels.mul.data, *add = c->channels.add.data;

#pragma omp parallel for num_threads(be->threads) if (t * h * w * ch > be->grain)
    for (int64_t r = 0; r < t * h; r++)
        for (int64_t k = 0; k < ch; k++) {
            const float *x = (const float *)c->in[0].data + r * w * step + k, m = mul ? mul[k] : 1, a = add ? add[k] : 0;
            float *out = (float *)c->out.data + ((r / h * ch + k) * h + r % h) * w;

            for (int64_t i = 0; i < w; i++)
                out[i] = x[i * step] * m + a;
        }
    return 0;
}
