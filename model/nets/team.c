/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Team: exchanges between the parts of a run of layers, built on messages alone, so that they are the same over threads, processes and
 * hosts. See team.h.
 *
 * An exchange says what it will receive before it sends, so it needs no buffer (comm.h). From each part to each goes one message, of whole rows
 * of the runs, or heads of a run's rows [heads, rows, hd]: no part's share need be equal to another's.
 */
#include "nets/team.h"

typedef struct Pieces {                 // what goes to a part, or comes from it
    Tensor run[COMM_PARTS];             // AVT_NONE or empty: nothing
} Pieces;

static void keep_failure(Backend *be, int ret)
{
    if (ret < 0 && be->status >= 0)
        be->status = ret;               // the comm has said why
}

static int is_there(Tensor t)
{
    return t.be && avt_numel(t) > 0;
}

typedef int (*Move)(Comm *c, Backend *be, int peer, CommTag tag, const Tensor *t, int nb);

/* To or from each part but ourselves, beginning with the next one (dir 1) or the one before (-1), so that not all send to the same. */
static void move_all(const Team *t, Backend *be, const Pieces *p, int dir, Move move)
{
    for (int k = 1; k < t->nb; k++) {
        const int peer = (t->part + dir * k + t->nb) % t->nb;
        Tensor there[COMM_PARTS];
        int nb = 0;

        for (int j = 0; j < COMM_PARTS; j++)
            if (is_there(p[peer].run[j]))
                there[nb++] = p[peer].run[j];
        if (nb)
            keep_failure(be, move(t->comm, be, t->first + peer, TAG_TEAM, there, nb));
    }
}

static void swap(const Team *t, Backend *be, const Pieces *out, const Pieces *in)
{
    move_all(t, be, in, -1, avt_comm_expect_all);
    move_all(t, be, out, 1, avt_comm_send_all);
    move_all(t, be, in, -1, avt_comm_recv_all);
}

static int64_t rows_of(const Team *t, const TeamCut *cut, int part)
{
    int64_t rows = 0;

    for (int j = 0; j < cut->nb; j++)
        rows += avt_team_share(t, cut->run[j], part);
    return rows;
}

int64_t avt_team_rows(const Team *t, const TeamCut *cut)
{
    return rows_of(t, cut, t->part);
}

/* Run j of a part: among all tokens, */
static Tensor among_all(const Team *t, Tensor all, const TeamCut *cut, int j, int part)
{
    int64_t first = avt_team_first(t, cut->run[j], part);

    for (int i = 0; i < j; i++)
        first += cut->run[i];
    return avt_rows(all, first, avt_team_share(t, cut->run[j], part));
}

/* and among the part's own. */
static Tensor among_own(const Team *t, Tensor own, const TeamCut *cut, int j, int part)
{
    int64_t first = 0;

    for (int i = 0; i < j; i++)
        first += avt_team_share(t, cut->run[i], part);
    return avt_rows(own, first, avt_team_share(t, cut->run[j], part));
}

static void copy(Backend *be, Tensor out, Tensor x)
{
    if (is_there(x))
        avt_copy(be, out, x);
}

void avt_team_own(const Team *t, Backend *be, Tensor own, Tensor all, const TeamCut *cut)
{
    for (int j = 0; j < cut->nb; j++)
        copy(be, among_own(t, own, cut, j, t->part), among_all(t, all, cut, j, t->part));
}

void avt_team_gather(const Team *t, Backend *be, Tensor all, Tensor own, const TeamCut *cut)
{
    Pieces out[TEAM_MAX] = { 0 }, in[TEAM_MAX] = { 0 };

    for (int p = 0; p < t->nb; p++)
        for (int j = 0; j < cut->nb; j++) {
            out[p].run[j] = among_own(t, own, cut, j, t->part);
            in[p].run[j] = among_all(t, all, cut, j, p);
        }
    for (int j = 0; j < cut->nb; j++)
        copy(be, in[t->part].run[j], out[t->part].run[j]);
    swap(t, be, out, in);
    if (own.scale)
        avt_team_gather(t, be, avt_scales(all), avt_scales(own), cut);
}

/* sum = the parts' tensors in their order, ours in its place; other [nb] has theirs. */
static void add_up(const Team *t, Backend *be, Tensor sum, const Tensor *other, Tensor ours)
{
    avt_add(be, sum, t->part ? other[0] : ours, t->part == 1 ? ours : other[1]);
    for (int p = 2; p < t->nb; p++)
        avt_add(be, sum, sum, p == t->part ? ours : other[p]);
}

void avt_team_sum(const Team *t, Backend *be, Arena *scratch, Tensor x)
{
    const size_t mark = avt_arena_mark(scratch);
    Pieces out[TEAM_MAX] = { 0 }, in[TEAM_MAX] = { 0 };
    Tensor other[TEAM_MAX], ours;

    if (t->nb == 1)
        return;
    ours = avt_new_dims(scratch, DT_F32, x.nd, x.dim);
    avt_copy(be, ours, x);
    for (int p = 0; p < t->nb; p++) {
        out[p].run[0] = ours;
        in[p].run[0] = other[p] = p == t->part ? ours : avt_new_dims(scratch, DT_F32, x.nd, x.dim);
    }
    swap(t, be, out, in);
    add_up(t, be, x, other, ours);
    avt_arena_release(scratch, mark);
}

/* sum [own tokens, D] = this part's rows of partial [all tokens, D] f32 of every part, added up. */
static void reduce(const Team *t, Backend *be, Arena *scratch, Tensor sum, Tensor partial, const TeamCut *cut)
{
    const size_t mark = avt_arena_mark(scratch);
    Pieces out[TEAM_MAX] = { 0 }, in[TEAM_MAX] = { 0 };
    Tensor other[TEAM_MAX];

    for (int p = 0; p < t->nb; p++) {
        other[p] = avt_new_dims(scratch, DT_F32, sum.nd, sum.dim);
        for (int j = 0; j < cut->nb; j++) {
            out[p].run[j] = among_all(t, partial, cut, j, p);
            in[p].run[j] = among_own(t, other[p], cut, j, t->part);
        }
    }
    avt_team_own(t, be, other[t->part], partial, cut);
    swap(t, be, out, in);
    add_up(t, be, sum, other, other[t->part]);
    avt_arena_release(scratch, mark);
}

/* ---- heads ------------------------------------------------------------------------------------------------------ */

/* A part's heads of [NH, rows, hd]. */
static Tensor heads_of(const Team *t, Tensor x, int64_t nb_heads, int part)
{
    return avt_rows(x, avt_team_first(t, nb_heads, part), avt_team_share(t, nb_heads, part));
}

static Tensor new_heads(Arena *scratch, Tensor like, int64_t nb_heads, int64_t rows)
{
    return avt_new(scratch, like.dtype, nb_heads, rows, like.dim[2]);
}

static void turn(Backend *be, Tensor out, Tensor x)
{
    if (is_there(x))
        avt_transpose(be, out, x);
}

/* Sent: of own tokens each part's heads. Received: of each part's tokens own heads. The pieces of one tensor, a run each, from `at` on. */
static void cut_heads(const Team *t, Backend *be, Arena *scratch, const TeamHeads *h, Pieces *out, Pieces *in, int at)
{
    const int64_t NH = h->x.dim[1];

    for (int j = 0; j < h->cut->nb; j++) {
        const Tensor run = among_own(t, h->x, h->cut, j, t->part), turned = new_heads(scratch, h->x, NH, run.dim[0]);

        turn(be, turned, run);
        for (int p = 0; p < t->nb; p++) {
            out[p].run[at + j] = heads_of(t, turned, NH, p);
            in[p].run[at + j] = p == t->part ? out[p].run[at + j] : new_heads(scratch, h->x, h->all.dim[1], avt_team_share(t, h->cut->run[j], p));
        }
    }
}

void avt_team_to_heads(const Team *t, Backend *be, Arena *scratch, const TeamHeads *h, int nb)
{
    const size_t mark = avt_arena_mark(scratch);
    Pieces out[TEAM_MAX] = { 0 }, in[TEAM_MAX] = { 0 };

    for (int i = 0; i < nb; i++)
        cut_heads(t, be, scratch, &h[i], out, in, TEAM_RUNS * i);
    swap(t, be, out, in);
    for (int i = 0; i < nb; i++)
        for (int p = 0; p < t->nb; p++)
            for (int j = 0; j < h[i].cut->nb; j++)
                turn(be, among_all(t, h[i].all, h[i].cut, j, p), in[p].run[TEAM_RUNS * i + j]);
    avt_arena_release(scratch, mark);
}

void avt_team_to_tokens(const Team *t, Backend *be, Arena *scratch, Tensor x, Tensor all, const TeamCut *cut)
{
    const size_t mark = avt_arena_mark(scratch);
    const int64_t NH = x.dim[1];
    Pieces out[TEAM_MAX] = { 0 }, in[TEAM_MAX] = { 0 };
    Tensor whole[TEAM_RUNS];

    for (int j = 0; j < cut->nb; j++) {
        whole[j] = new_heads(scratch, x, NH, avt_team_share(t, cut->run[j], t->part));
        for (int p = 0; p < t->nb; p++) {
            const Tensor run = among_all(t, all, cut, j, p);

            in[p].run[j] = heads_of(t, whole[j], NH, p);
            out[p].run[j] = p == t->part ? in[p].run[j] : new_heads(scratch, x, all.dim[1], run.dim[0]);
            turn(be, out[p].run[j], run);
        }
    }
    swap(t, be, out, in);
    for (int j = 0; j < cut->nb; j++)
        turn(be, among_own(t, x, cut, j, t->part), whole[j]);
    avt_arena_release(scratch, mark);
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

/* edge [T, W, C] = row y of every frame of x, or the other way round. */
static void copy_row(Backend *be, Tensor x, int64_t y, Tensor edge, int to_edge)
{
    for (int64_t t = 0; t < x.dim[0]; t++) {
        const Tensor row = avt_at(avt_at(x, t), y), e = avt_at(edge, t);

        avt_copy(be, to_edge ? e : row, to_edge ? row : e);
    }
}

void avt_team_halo(const Team *t, Backend *be, Arena *scratch, Tensor wide)
{
    const size_t mark = avt_arena_mark(scratch);
    const int64_t rows = wide.dim[1];
    Pieces out[TEAM_MAX] = { 0 }, in[TEAM_MAX] = { 0 };

    for (int below = 0; below < 2; below++) {
        const int peer = t->part + (below ? 1 : -1);

        if (below ? !avt_team_below(t) : !avt_team_above(t))
            continue;
        out[peer].run[0] = avt_new(scratch, wide.dtype, wide.dim[0], wide.dim[2], wide.dim[3]);
        in[peer].run[0] = avt_new(scratch, wide.dtype, wide.dim[0], wide.dim[2], wide.dim[3]);
        copy_row(be, wide, below ? rows - 2 : 1, out[peer].run[0], 1);
    }
    swap(t, be, out, in);
    if (avt_team_above(t))
        copy_row(be, wide, 0, in[t->part - 1].run[0], 0);
    if (avt_team_below(t))
        copy_row(be, wide, rows - 1, in[t->part + 1].run[0], 0);
    avt_arena_release(scratch, mark);
}

/* ---- what a forward is made of ---------------------------------------------------------------------------------- */

Tensor avt_team_all(const Team *t, Backend *be, Arena *scratch, Tensor x, const TeamCut *cut)
{
    int64_t dim[TENSOR_MAX_DIM];
    Tensor all;

    if (t->way != TEAM_COLUMNS)
        return x;
    for (int i = 1; i < x.nd; i++)
        dim[i] = x.dim[i];
    dim[0] = 0;
    for (int j = 0; j < cut->nb; j++)
        dim[0] += cut->run[j];
    all = x.scale ? avt_new_codes(scratch, x.dtype, x.nd, dim) : avt_new_dims(scratch, x.dtype, x.nd, dim);
    avt_team_gather(t, be, all, x, cut);
    return all;
}

void avt_team_linear_add(const Team *t, Backend *be, Arena *scratch, Tensor x, Tensor y, const Linear *l, Tensor gate, const TeamCut *cut)
{
    const size_t mark = avt_arena_mark(scratch);
    Tensor partial, sum;

    y = avt_factor(be, scratch, l, y);
    if (t->way != TEAM_COLUMNS) {
        avt_linear_add(be, x, x, y, l, gate);
        avt_arena_release(scratch, mark);
        return;
    }
    partial = avt_new(scratch, DT_F32, y.dim[0], x.dim[1]);
    sum = avt_new_dims(scratch, DT_F32, x.nd, x.dim);
    avt_linear(be, partial, y, l, ACT_NONE);
    reduce(t, be, scratch, sum, partial, cut);
    if (gate.be)
        avt_mul(be, sum, sum, gate);
    avt_add(be, x, x, sum);
    avt_arena_release(scratch, mark);
}

void avt_team_norm_rope(const Team *t, Backend *be, Arena *scratch, const TeamNorm *norm, int nb, float eps, int64_t width)
{
    const size_t mark = avt_arena_mark(scratch);
    int64_t rows = 0;
    Tensor squares;

    for (int i = 0; i < nb; i++)
        rows += avt_rows_of(norm[i].x);
    squares = t->way == TEAM_COLUMNS ? avt_new(scratch, DT_F32, rows) : AVT_NONE;
    rows = 0;
    for (int i = 0; i < nb && squares.be; rows += avt_rows_of(norm[i++].x))
        avt_squares(be, avt_rows(squares, rows, avt_rows_of(norm[i].x)), norm[i].x);
    if (squares.be)
        avt_team_sum(t, be, scratch, squares);
    rows = 0;
    for (int i = 0; i < nb; rows += avt_rows_of(norm[i++].x))
        avt_norm_rope_part(be, norm[i].out, norm[i].x, norm[i].w, norm[i].table, eps,
                           squares.be ? avt_rows(squares, rows, avt_rows_of(norm[i].x)) : AVT_NONE, width);
    avt_arena_release(scratch, mark);
}
