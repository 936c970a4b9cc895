/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Team: the parts of one run of layers, each on a rank of its own, that make an item together. Tokens are cut within each frame, so
 * that x, what is added to it, norms and the FFN's ends belong to a token's part; what needs all tokens or all columns is exchanged:
 *
 *   heads (Ulysses)    every part has all weights.     q, k, v of own tokens, all heads --exchange--> own heads, all tokens
 *                                                      attention of these --exchange--> own tokens, all heads
 *   columns (tensor)   own columns of q, k, v, FFN-up, own rows of o, FFN-down.
 *                                                      u of own tokens --gather--> u of all tokens, product
 *                                                      product, all tokens, summed over the parts --reduce--> own tokens
 *
 * Keys and rings hold own heads. A token's sums are made on one part, in the order of the parts: what parts share has the same bits
 * everywhere, and the result does not depend on timing. Shares need not be equal: part p of P has n p / P .. n (p + 1) / P - 1 of n.
 *
 * Every part calls the same functions in the same order. A team of one part does nothing, costs nothing: there is one forward.
 * A failure of the comm becomes the backend's.
 */
#ifndef AVT_TEAM_H
#define AVT_TEAM_H

#include "comm/comm.h"

#define TEAM_MAX  16                    // parts
#define TEAM_RUNS 3                     // of a cut

typedef enum TeamWay { TEAM_ALONE, TEAM_HEADS, TEAM_COLUMNS, TEAM_ROWS } TeamWay;      // rows: of a picture, in the VAE

typedef struct Team {
    TeamWay way;
    int part, nb;                       // 0 of 1: alone
    int first;                          // rank of part 0, others follow
    Comm *comm;                         // of a session; NULL: the team has weights alone
} Team;

typedef struct TeamCut {                // how tokens are cut: each run by itself, such as the frames of a block
    int nb;
    int64_t run[TEAM_RUNS];
} TeamCut;

static inline int64_t avt_team_first(const Team *t, int64_t n, int part)
{
    return t->nb > 1 ? n * part / t->nb : 0;
}

/** How many of n a part has. */
static inline int64_t avt_team_share(const Team *t, int64_t n, int part)
{
    return t->nb > 1 ? avt_team_first(t, n, part + 1) - avt_team_first(t, n, part) : n;
}

/** Tokens of this part. */
int64_t avt_team_rows(const Team *t, const TeamCut *cut);

/** own [own tokens, ..] = this part's rows of all [all tokens, ..]; nothing is sent. */
void avt_team_own(const Team *t, Backend *be, Tensor own, Tensor all, const TeamCut *cut);
/** all [all tokens, ..] from own [own tokens, ..] of every part; codes with their scales, a row each. */
void avt_team_gather(const Team *t, Backend *be, Tensor all, Tensor own, const TeamCut *cut);
/** x f32, any shape, the same on every part afterwards: the sum over the parts. For small tensors: each part gets all of each. */
void avt_team_sum(const Team *t, Backend *be, Arena *scratch, Tensor x);
typedef struct TeamHeads {
    Tensor all;                         // [all tokens, own heads, hd]
    Tensor x;                           // [own tokens, NH, hd]
    const TeamCut *cut;
} TeamHeads;

/** `all` from `x` of every part, of up to COMM_PARTS / TEAM_RUNS tensors at once; and back, of one. */
void avt_team_to_heads(const Team *t, Backend *be, Arena *scratch, const TeamHeads *h, int nb);
void avt_team_to_tokens(const Team *t, Backend *be, Arena *scratch, Tensor x, Tensor all, const TeamCut *cut);

/** Pictures cut into rows: has a part a neighbour above, below? As many rows of each it sees besides its own. */
static inline int avt_team_above(const Team *t)
{
    return t->part > 0;
}

static inline int avt_team_below(const Team *t)
{
    return t->part + 1 < t->nb;
}

/** wide [T, above + own + below, W, C]: the neighbours' nearest rows into the first and the last, own rows being in place. */
void avt_team_halo(const Team *t, Backend *be, Arena *scratch, Tensor wide);

/* ---- what a forward is made of: for a team of one, or of the other way, the operand itself ---------------------- */

/** Columns: x of all tokens, in scratch. */
Tensor avt_team_all(const Team *t, Backend *be, Arena *scratch, Tensor x, const TeamCut *cut);
/** Columns' product and sum, x [own tokens, D] += gate[D] (opt) * (y w^T + b), where each part has columns of y [all tokens, K] and of w
 *  (and one of them b); else avt_linear_add(). */
void avt_team_linear_add(const Team *t, Backend *be, Arena *scratch, Tensor x, Tensor y, const Linear *l, Tensor gate, const TeamCut *cut);

typedef struct TeamNorm {               // operands of avt_norm_rope()
    Tensor out, x, w, table;
} TeamNorm;

/** Norms one after another; of columns' rows, which are `width` wide, the sums of squares are added up over the parts, of all before the
 *  first norm. */
void avt_team_norm_rope(const Team *t, Backend *be, Arena *scratch, const TeamNorm *norm, int nb, float eps, int64_t width);

#endif
