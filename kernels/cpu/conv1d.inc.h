/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conv1d over the panels of plain C ([Cout / 8][k][Cin / groups][8]). A piece of work is some times of one group: its input is laid out
 * with its padding, [times][Cin / groups], so that the k * Cin / groups numbers of a result lie side by side.
 *
 *   acc[time][channels]  over TIMES output times, a stride apart, and the panels that two vectors hold:  acc += x[i] w[i][channels]
 *
 * oneDNN is hardly faster (150 to 170 GFLOP/s with AVX-512, this 150) and wants to know the number of groups when a weight is put.
 */
#include <string.h>

#include "cpu/simd.h"

#ifdef LEVEL

enum {
    TIMES = VN == 16 ? 12 : 6, PART = VN == 16 ? 4 : 3, PARTS = TIMES / PART,
    IN_VECTOR = VN / PANEL, AT_A_TIME = 2 * IN_VECTOR,              // panels
    PIECE = 192                                                     // times
};

typedef struct Piece {
    const OpCall *c;
    int64_t t, end, group;              // output times of a group
    float *x;                           // its input
} Piece;

static void take_input(const Piece *p)
{
    const Conv1dSpec *s = &p->c->u.conv1d;
    const int64_t nb = p->c->conv1d.x.dim[0], width = p->c->conv1d.x.dim[1], cin = p->c->conv1d.w.dim[1];
    const int64_t first = p->t * s->stride - s->pad0, end = (p->end - 1) * s->stride - s->pad0 + p->c->conv1d.w.dim[2];
    float *to = p->x;

    for (int64_t t = first; t < end; t++, to += cin) {
        const int64_t edge = t < 0 ? 0 : min_i64(t, nb - 1);

        if (t == edge || s->replicate)
            memcpy(to, (const float *)p->c->conv1d.x.data + edge * width + p->group * cin, (size_t)cin * sizeof(*to));
        else
            memset(to, 0, (size_t)cin * sizeof(*to));
    }
}

/* One vector of column i out of its panels */
INLINE V weights(const float *const w[IN_VECTOR], int64_t i)
{
    return v_panels(w[0] + i * PANEL, w[IN_VECTOR - 1] + i * PANEL);
}

/* sum[TIMES][vectors] = x[time * step + i] w[i], i < nb. Times are addressed in fours from a pointer each, as pixels in conv3d.inc.h. */
INLINE void add_up(V sum[TIMES][2], const float *x, int64_t step, const float *const w[AT_A_TIME], int64_t nb, const int vectors)
{
    const float *four[PARTS];
    const int64_t step3 = 3 * step;
    V acc[TIMES][2];

    for (int f = 0; f < PARTS; f++)
        four[f] = x + f * PART * step;
    for (int t = 0; t < TIMES; t++)
        acc[t][0] = acc[t][1] = v_set(0);
    for (int64_t i = 0; i < nb; i++) {
        const V b0 = weights(w, i), b1 = vectors > 1 ? weights(w + IN_VECTOR, i) : b0;

        for (int t = 0; t < TIMES; t++) {
            const float *q = four[t / PART];
            const V a = v_set(t % PART == 0 ? q[0] : t % PART == 1 ? q[step] : t % PART == 2 ? q[2 * step] : q[step3]);

            acc[t][0] = v_fma(a, b0, acc[t][0]);
            if (vectors > 1)
                acc[t][1] = v_fma(a, b1, acc[t][1]);
        }
        for (int f = 0; f < PARTS; f++) {
            four[f]++;
            __asm__("" : "+r"(four[f]));                            // keep it in a register of its own
        }
    }
    for (int t = 0; t < TIMES; t++)
        sum[t][0] = acc[t][0], sum[t][1] = acc[t][1];
}

/* Channels first .. end - 1 of TIMES output times from t on, which lie in at most AT_A_TIME panels; times behind the piece's last are
 * sums of what happens to be there, and dropped. */
INLINE void some_times(const Piece *p, int64_t t, int64_t first, int64_t end, const int vectors)
{
    const int64_t cout = p->c->out.dim[1], cin = p->c->conv1d.w.dim[1], nb = cin * p->c->conv1d.w.dim[2];
    const int64_t step = p->c->u.conv1d.stride * cin;
    const float *bias = p->c->conv1d.b.data, *w[AT_A_TIME];
    V sum[TIMES][2];
    float row[2 * VN];

    for (int i = 0; i < AT_A_TIME; i++)                             // behind the last panel the last again
        w[i] = (const float *)p->c->conv1d.w.data + min_i64(first / PANEL + i, (end - 1) / PANEL) * nb * PANEL;
    add_up(sum, p->x + (t - p->t) * step, step, w, nb, vectors);
    for (int64_t r = 0; r < min_i64(TIMES, p->end - t); r++) {
        float *out = (float *)p->c->out.data + (t + r) * cout;

        v_store(row, sum[r][0]);
        v_store(row + VN, sum[r][1]);
        for (int64_t n = first; n < end; n++)
            out[n] = row[n - first / PANEL * PANEL] + (bias ? bias[n] : 0);
    }
}

/* The channels of the group, so many at a time that their weights stay in the cache while the times go by */
static void piece(const Piece *p)
{
    const int64_t own = p->c->out.dim[1] / p->c->u.conv1d.groups, last = (p->group + 1) * own;

    take_input(p);
    for (int64_t n = p->group * own, next; n < last; n = next) {
        next = min_i64((n / PANEL + AT_A_TIME) * PANEL, last);
        for (int64_t t = p->t; t < p->end; t += TIMES)
            if (next - n / PANEL * PANEL > VN)
                some_times(p, t, n, next, 2);
            else
                some_times(p, t, n, next, 1);
    }
}

/* Pieces long enough to pay for reading the weights, short enough for every thread to have one */
static int conv1d(Backend *be, const OpCall *c)
{
    const int64_t groups = c->u.conv1d.groups, nb = c->out.dim[0], share = (nb * groups + be->threads - 1) / be->threads;
    const int64_t times = (min_i64(share, PIECE) + TIMES - 1) / TIMES * TIMES, pieces = (nb + times - 1) / times;
    const int64_t size = ((times * c->u.conv1d.stride + c->conv1d.w.dim[2]) * c->conv1d.w.dim[1] + VN - 1) / VN * VN;
    float *work = avt_cpu_work(be, (size_t)(size * be->threads) * sizeof(*work));

    if (!work)
        return AVT_ERR(ENOMEM);
#pragma omp parallel for num_threads(be->threads) if (avt_numel(c->out) > 512)
    for (int64_t i = 0; i < pieces * groups; i++)
        if (!avt_cpu_given_up(be))
            piece(&(Piece){ c, i % pieces * times, min_i64((i % pieces + 1) * times, nb), i / pieces, work + size * avt_cpu_thread() });
    return avt_conv1d_act(be, c);
}

#endif
