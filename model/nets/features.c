/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Feature rows of video frames: wav2vec2's 50 Hz rows -> 30 Hz (linear) -> one row a frame at 25 fps.
 *
 *   frame i -> 30 Hz row j = (12 i + 5) div 10 -> 50 Hz position p -> (1 - w) h[i0] + w h[i0 + 1]
 *
 * product   p = 5 j / 3, clamped to the last row
 * upstream  p = j (T - 1) / (L - 1), stretched so that the last rows meet; zeros from j = L on. In f32, as the original has it
 * Both interpolations fall on one read, so no 30 Hz sequence is kept.
 * Source: reference audio_encoder.py linear_interpolation, get_audio_embed_bucket_fps.
 */
#include <math.h>

#include "nets/wav2vec2.h"

#define RATE50 50
#define RATE30 30
#define FPS 25
#define PIECE 96                        // frames that are picked at a time

int64_t avt_features_len30(int64_t t50)
{
    return (int64_t)((double)t50 / (double)RATE50 * (double)RATE30);
}

int64_t avt_features_clips(int64_t len30, int clip, int fps)
{
    const double scale = (double)RATE30 / (double)fps;

    return (int64_t)((double)len30 / ((double)clip * scale)) + 1;
}

int64_t avt_features_row(int64_t i, int64_t nb, int fps)
{
    const double step = (double)nb / (double)fps / (double)nb;      // as numpy's linspace has it: not always 1 / fps

    return (int64_t)rint((double)i * step * (double)RATE30);
}

/* Where a 30 Hz row lies between the T rows at 50 Hz, the first of which is the stream's row0. */
static void place_product(int32_t *i0, float *w, int64_t j, int64_t row0, int64_t T)
{
    const int64_t thirds = 5 * j - 3 * row0;

    *i0 = (int32_t)(thirds / 3 < T - 1 ? thirds / 3 : T - 1);
    *w = thirds / 3 < T - 1 ? (float)(thirds % 3) / 3 : 0;
}

static void place_upstream(int32_t *i0, float *w, int64_t j, int64_t T, int64_t len)
{
    const float stretch = len > 1 ? (float)(T - 1) / (float)(len - 1) : 0;
    const float p = len == T ? (float)j : (float)j * stretch;
    int64_t i = (int64_t)floorf(p);

    if (i > T - 1)
        i = T - 1;
    *i0 = j < len ? (int32_t)i : -1;                                // -1: zeros
    *w = j < len ? fminf(fmaxf(p - (float)i, 0), 1) : 0;
}

typedef struct Places {                 // of the rows of one piece
    Tensor i, w;                        // [nb]
} Places;

/* Rows first .. first + nb - 1, of 30 Hz (all 0) or of a video of `all` frames. nb <= PIECE. */
static Places upload_places(Backend *be, Arena *scratch, int64_t first, int64_t nb, int64_t row0, int64_t T, int64_t all, int mode)
{
    const Places p = { avt_new(scratch, DT_I32, nb), avt_new(scratch, DT_F32, nb) };
    const int64_t len = avt_features_len30(T);
    int32_t i[PIECE];
    float w[PIECE];

    for (int64_t r = 0; r < nb; r++) {
        const int64_t j = all ? avt_features_row(first + r, all, FPS) : first + r;

        if (mode == FEATURES_PRODUCT)
            place_product(&i[r], &w[r], j, row0, T);
        else
            place_upstream(&i[r], &w[r], j, T, len);
    }
    avt_upload(be, p.i, i);
    avt_upload(be, p.w, w);
    return p;
}

static int pick(Backend *be, Arena *scratch, Tensor out, Tensor hidden, int64_t first, int64_t row0, int mode)
{
    AVT_REQUIRE(be->log, out.nd == 3 && hidden.nd == 3 && out.dim[1] == hidden.dim[0] && out.dim[2] == hidden.dim[2]);
    AVT_REQUIRE(be->log, first >= 0 && hidden.dim[1] > 0);
    for (int64_t f = 0; f < out.dim[0]; f += PIECE) {
        const size_t mark = avt_arena_mark(scratch);
        const int64_t nb = out.dim[0] - f < PIECE ? out.dim[0] - f : PIECE;
        const Tensor layers = avt_new(scratch, DT_F32, hidden.dim[0], nb, hidden.dim[2]);
        const Places p = upload_places(be, scratch, first + f, nb, row0, hidden.dim[1], first + out.dim[0], mode);

        for (int64_t l = 0; l < hidden.dim[0]; l++)
            avt_lerp_rows(be, avt_at(layers, l), avt_at(hidden, l), p.i, p.w);
        avt_transpose(be, avt_rows(out, f, nb), layers);            // [nb, L + 1, D]
        avt_arena_release(scratch, mark);
    }
    return be->status;
}

int avt_features_pick(Backend *be, Arena *scratch, Tensor out, Tensor hidden, int64_t first, int mode)
{
    return pick(be, scratch, out, hidden, first, 0, mode);
}

int avt_features_pick_window(Backend *be, Arena *scratch, Tensor out, Tensor hidden, int64_t first, int64_t row0)
{
    AVT_REQUIRE(be->log, row0 >= 0 && 3 * row0 <= 5 * avt_features_row(first, first + out.dim[0], FPS));
    return pick(be, scratch, out, hidden, first, row0, FEATURES_PRODUCT);
}

int avt_features_30hz(Backend *be, Arena *scratch, Tensor out, Tensor hidden)
{
    AVT_REQUIRE(be->log, out.nd == 2 && hidden.nd == 2 && out.dim[0] == avt_features_len30(hidden.dim[0]));
    for (int64_t f = 0; f < out.dim[0]; f += PIECE) {
        const size_t mark = avt_arena_mark(scratch);
        const int64_t nb = out.dim[0] - f < PIECE ? out.dim[0] - f : PIECE;
        const Places p = upload_places(be, scratch, f, nb, 0, hidden.dim[0], 0, FEATURES_UPSTREAM);

        avt_lerp_rows(be, avt_rows(out, f, nb), hidden, p.i, p.w);
        avt_arena_release(scratch, mark);
    }
    return be->status;
}
