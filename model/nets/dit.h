/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The diffusion transformer: Wan2.2-S2V, block-causal, one K/V ring per denoise step, condition keys (the "sink").
 *
 *   latents [3, 16, H, W] -> patches [N, D] -> layers 0 .. L-1 (self-attention over ring + sink, text, FFN; audio after some)
 *                         -> head -> velocity [3, 16, H, W]
 *
 * The unit of work is an item: block g at step i, or a sink prefill. A Dit may hold only layers l0 .. l1-1 (a rank of a
 * pipeline), and of these only a part (team.h). Of the stem, embeddings are there with layer 0, time, text and audio encoder with its
 * first part, the head with the last layer. Rings, sink and positions: doc/model.md.
 */
#ifndef AVT_DIT_H
#define AVT_DIT_H

#include "files/shelf.h"
#include "nets/team.h"

#define DIT_MAX_INJECT 64
#define DIT_BLOCK 3                     // latent frames of a block
#define DIT_MOTION 19                   // motion latents
#define DIT_RING 12                     // latent frames of a ring

typedef struct DitConfig {
    int dim, nb_heads, nb_layers, ffn_dim;
    int freq_dim, text_dim, text_len;
    int audio_dim, nb_audio_layers;     // width and number of hidden states of the audio features
    int nb_audio_tokens;                // local ones, without the padding token
    int nb_inject, inject[DIT_MAX_INJECT];
    float eps;
} DitConfig;

/** Read config.json and check it against the tensors (checkpoints.md 1.1, 7.3). @param ckpt  gives nb_audio_layers, may not be NULL */
int avt_dit_config(DitConfig *cfg, const char *path, const Ckpt *ckpt, const Log *log);
/** In which type a checkpoint has matrices, for plans that are made without it: of codes those that are none, or what they stand for. */
DType avt_dit_storage(const Ckpt *ckpt);
/** The published model's sizes, for plans and messages. */
void avt_dit_config_published(DitConfig *cfg);

/** Is the tensor of this name, [out, in], a weight of the layers' products, which Backend.product is for? */
int avt_dit_is_product(const char *name);

typedef struct DitShape {               // all that follows from a latent size
    int64_t H, W;                       // latent rows, columns (even)
    int64_t h, w, n;                    // tokens: rows, columns, of a latent frame
    int64_t N;                          // tokens of a block, 3 n
    int64_t ring;                       // keys of a ring, 12 n
    int64_t bucket[3];                  // motion tokens of the 1-, 2-, 16-frame bucket
    int64_t Lc;                         // sink tokens: n + the buckets
} DitShape;
DitShape avt_dit_shape(int64_t H, int64_t W);

typedef struct DitAttention {
    Linear q, k, v, o;
    Tensor norm_q, norm_k;              // [D]
} DitAttention;

typedef struct DitInject {              // audio injection after a layer
    int index;                          // among those of the layers held
    DitAttention attn;
    Linear adain;                       // [2D, D]: shift first
} DitInject;

typedef struct DitLayer {
    Tensor modulation;                  // [6, D]
    DitAttention self, cross;
    Tensor norm3_w, norm3_b;            // [D]
    Linear ffn0, ffn2;                  // [DF, D], [D, DF]
    DitInject *inject;                  // or NULL
} DitLayer;

typedef struct Dit {
    DitConfig cfg;
    int l0, l1;                         // layers held
    Team team;                          // whose part of them this is; a session gives its copy a comm
    int64_t width;                      // columns of q, k, v: D, or a part's
    int64_t keys;                       // of the rings' and the sink's keys: D, or those of a part's heads
    DType kv;                           // of rings, sinks and a text's keys: f8_e4m3 codes, bf16, or DT_F32: the activations'
    int rope_half;                      // 1: rotary tables rounded to f16, as the original does (compat)
    Linear patch, cond, pack1, pack2, pack4;        // patch embedding, pose, motion buckets: [D, 16 pt ph pw]
    Tensor mask;                        // [3, D]: noisy, reference, motion
    Linear time0, time2, time_proj;
    Linear text0, text2;
    Tensor head_modulation;             // [2, D]: shift, scale
    Linear head;                        // [64, D]
    Tensor audio_weights;               // [nb_audio_layers]
    Conv audio_local, audio_global, audio_conv2, audio_conv3;
    Tensor audio_padding;               // [D]
    Linear audio_final;
    DitLayer *layer;                    // [l1 - l0], owned
    DitInject *injects;                 // owned
    int nb_held;                        // injections after layers held
    Shelf *shelf;                       // where layers are, but for their modulations and injections; or NULL: here
    ShelfReader *reader;                // of avt_dit_walker_open()
    struct Rings *rings;                // of a rank whose rings and sinks come from the host: rings.h; or NULL
} Dit;

/** Bind stem and layers l0 .. l1-1; with b->shelf the layers are put on a shelf, which is to be filled, and `d` stays where it is.
 *  Leftovers are looked at when all layers are bound.
 *  @return avt_binder_finish()'s value, or ENOMEM; nothing is open after an error */
int  avt_dit_open(Dit *d, const DitConfig *cfg, Binder *b, int l0, int l1);
/** The same for a part of these layers: of columns' weights its slices alone are read and held. The number of heads is at least that
 *  of the parts. */
int  avt_dit_open_part(Dit *d, const DitConfig *cfg, Binder *b, int l0, int l1, const Team *team);
void avt_dit_close(Dit *d);

/** A network that one queue walks through, layer by layer, again and again: `d` itself, or when its layers are on a shelf, with handles of
 *  its own and slots in the arena. @param copy  queue that layers come on: as for avt_shelf_begin()
 *  @return 0 or ENOMEM; avt_dit_walker_close() in any case */
int  avt_dit_walker_open(Dit *walker, const Dit *d, Backend *be, Backend *copy, Arena *slots);
/** Waits for both queues. @return 0 or the walk's first failure */
int  avt_dit_walker_close(Dit *walker);
/** The walk comes to the i-th of the layers held: later work finds its weights there. In order, each time from the first to the last.
 *  @return 0; the first failure of the shelf: AVT_INVALID (logged), ESTALE, ECANCELED, ENOMEM */
int  avt_dit_reach(const Dit *d, int i);

/* ---- what an item needs, made once and reused; each lives in an arena of the caller ----------------------------- */

typedef struct DitTime {                // of one timestep, f32
    Tensor both;                        // [7, D]: e, e0
    Tensor e;                           // [D] to the head
    Tensor e0;                          // [6, D] to the layers
    Tensor layers;                      // [l1 - l0, 6, D]: a layer's own modulation + e0
    Tensor head;                        // [2, D]: the head's + e
} DitTime;

typedef struct DitKeys {                // keys and values of the layers held: text, sink, or a ring
    Tensor *k, *v;                      // [l1 - l0] tensors [M, heads held, hd]; the array is owned (avt_dit_keys_close)
    Tensor *ref;                        // sink: [l1 - l0] tensors [n, heads held, hd], the reference's keys before rotation; else NULL
    int64_t nb;                         // layers
    void **home;                        // [l1 - l0] where a ring or sink that comes is in the host's memory, owned (rings.h); NULL: it stands
} DitKeys;

typedef struct DitAudio {               // of one block
    int nb_actors;
    Tensor both;                        // [A 3 (tokens + 2), D]: local, then global, as the encoder gives them
    Tensor local;                       // [A, 3, tokens + 1, D]
    Tensor global;                      // [A, 3, D]
    Tensor mask;                        // [A, 3, n] f32, or AVT_NONE (then one actor)
    Tensor k, v;                        // [nb_held, A, 3, tokens + 1, width]: what each injection makes of local
    Tensor table;                       // [nb_held, A, 2, 3, D] f32: and of global; shift first
} DitAudio;

int  avt_dit_time_open(DitTime *t, Arena *a, const Dit *d);
/** Keys of rings and sinks. @param nb_ref  sink: tokens of the reference; else 0 */
int  avt_dit_keys_open(DitKeys *k, Arena *a, const Dit *d, int64_t M, int64_t nb_ref);
/** Keys of a text, M rows: their heads are those of the products. */
int  avt_dit_text_open(DitKeys *k, Arena *a, const Dit *d, int64_t M);
void avt_dit_keys_close(DitKeys *k);
/** Those of rings and sinks, of one layer. @param ref  NULL: of a ring */
void avt_dit_layer_keys(Tensor *k, Tensor *v, Tensor *ref, Arena *a, const Dit *d, int64_t M, int64_t nb_ref);
/** Rows of keys or values [M, heads, hd] in the type that they are kept in, from activations. */
void avt_dit_keep(Backend *be, Tensor keys, Tensor x);
int  avt_dit_audio_open(DitAudio *o, Arena *a, const Dit *d, const DitShape *s, int nb_actors, int with_mask);

/** out[freq_dim] on the host: cosines, then sines, of t * 10000^(-i / half); angles in f64. Reference: wan/modules/model.py, sinusoidal_embedding_1d. */
void avt_dit_sinusoid(float *out, int freq_dim, float t);
/** t in 0 .. 1000; the sink's is 0. With the encoders alone: other ranks are given `both` and do the second half. */
int avt_dit_time(Backend *be, Arena *scratch, const Dit *d, DitTime *out, float t);
/** The second half of it: `layers` and, with the last layer, `head` out of e0 and e. */
int avt_dit_modulation(Backend *be, const Dit *d, DitTime *out);
/** Text embedding [text_len, D] of context [L, text_dim] (L <= text_len, padded here with zero rows). With the encoders alone. */
int avt_dit_text(Backend *be, Arena *scratch, const Dit *d, Tensor embedded, Tensor context);
/** Keys per layer of embedded rows [text_len, D]. */
int avt_dit_text_keys(Backend *be, Arena *scratch, const Dit *d, DitKeys *out, Tensor embedded);
/** Audio encoder on feature rows [A, 12, layers, audio_dim] of a block, first row replicated in front: `both` of `out`. With the
 *  encoders alone. */
int avt_dit_audio(Backend *be, Arena *scratch, const Dit *d, DitAudio *out, Tensor features);
/** Keys, values and tables of the injections out of local and global. mask of `out` is left alone. */
int avt_dit_audio_keys(Backend *be, Arena *scratch, const Dit *d, DitAudio *out);
/** The encoder itself on any window: features [T, layers, audio_dim] -> local [T', tokens + 1, D], global [T', D], T' = ceil(ceil(T/2)/2). */
int avt_dit_audio_encode(Backend *be, Arena *scratch, const Dit *d, Tensor local, Tensor global, Tensor features);

/** Motion latents [T, 16, H, W] (the last 19 are used, fewer are padded with zeros in front) -> tokens [sum of buckets, D], without the mask row. */
int avt_dit_pack_motion(Backend *be, Arena *scratch, const Dit *d, Tensor out, Tensor motion);

/* ---- forward ----------------------------------------------------------------------------------------------------- */

typedef struct DitProbe {               // for parity tests: sees named results ("layer_in_0", "layer_3_after_block", ...)
    void (*see)(void *opaque, const char *name, Tensor t);
    void *opaque;
} DitProbe;

typedef struct DitItem {
    Tensor x;                           // [N, D] (block) or [Lc, D] (sink) f32, of a team own tokens: the residual stream, changed in place
    int sink_pass;                      // fill `sink` instead of using it
    int64_t f0;                         // block: its first latent frame, counted from the stream's start
    int relative_dist;                  // block: the reference sits at frame max(30, f0 + relative_dist)
    const DitShape *shape;
    const DitTime *time;
    const DitKeys *text;
    DitKeys *sink;                      // [Lc, heads held, hd], keys rotated, those of the reference anew in each block
    DitKeys *ring;                      // block: [12 n, heads held, hd], keys rotated, written at slot f0 mod 12
    const DitAudio *audio;              // block; NULL: none is injected
    const DitProbe *probe;              // or NULL; then the last layer of a sink is computed to its end, too
    Tensor given_rope, given_rope_sink; // position tables, for tests of one rank; absent ones are computed
    Tensor rope;                        // in use, set by each call: of x;
    Tensor rope_sink;                   // of the keys that a sink pass keeps [Lc], of the reference in a block [n]
} DitItem;

/** How the tokens of a block, of a sink, are cut between the parts of a team; rows of x that this part has. */
TeamCut avt_dit_cut(const DitShape *s, int sink_pass);
int64_t avt_dit_rows(const Dit *d, const DitShape *s, int sink_pass);
/** x of a block: patch embedding + pose [3, 16, H, W] (opt; absent = zeros) + mask row 0. latents [3, 16, H, W]. */
int avt_dit_embed_block(Backend *be, Arena *scratch, const Dit *d, Tensor x, Tensor latents, Tensor pose);
/** x of a sink: reference [1, 16, H, W] and motion [T, 16, H, W] tokens with mask rows 1 and 2. Absent motion leaves only its mask row. */
int avt_dit_embed_sink(Backend *be, Arena *scratch, const Dit *d, Tensor x, Tensor ref, Tensor motion);
/** The layers held, over one or several items: layer by layer, within a layer item by item, so that a wave touches each
 *  layer's weights once. Items must be independent of each other (different rings, or a sink that no other item uses). */
int avt_dit_layers(Backend *be, Arena *scratch, const Dit *d, DitItem *items, int nb_items);
/** What follows layer `in` of the injection list: x [3 n, D] (of a team own tokens) += cross-attention to the audio tokens of each frame. cut: avt_dit_cut()
 *  of a block. A team has one actor. */
int avt_dit_inject(Backend *be, Arena *scratch, const Dit *d, const DitInject *in, Tensor x, const DitAudio *audio, const TeamCut *cut);
/** Velocity [3, 16, H, W] of x [N, D] after the last layer: all of it, on every part of a team. */
int avt_dit_head(Backend *be, Arena *scratch, const Dit *d, Tensor velocity, Tensor x, const DitTime *time);

/** Position grids (doc/model.md, "Ring, sink, positions"), for tests and for the layers. roll: frames that the reference is moved by. */
void avt_dit_grid_block(RopeGrid *g, const DitShape *s, int64_t f0, int half);
void avt_dit_grid_sink(RopeGrid *g, const DitShape *s, int64_t roll, int half);
void avt_dit_grid_reference(RopeGrid *g, const DitShape *s, int64_t roll, int half);      // its first group

#endif
