/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Weights of the diffusion transformer by name, as published, and the memory that items work in.
 *
 * Patch convolutions have stride = kernel, so they are linear maps of patches: [D, 16, pt, ph, pw] is read as [D, K] with the
 * channel slowest, which is the order that avt_patchify() gives.
 */
#include <stdio.h>
#include <string.h>

#include "nets/dit.h"

static Tensor vector(Binder *b, int64_t n, const char *module, const char *name)
{
    return avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(n), "%s.%s", module, name);
}

static Linear patch_linear(Binder *b, int64_t D, int64_t pt, int64_t p, const char *name)
{
    float *w = avt_bind_host(b, AVT_DIMS(D, 16, pt, p, p), "%s.weight", name);
    Linear l;

    l.w = avt_bind_computed(b, WEIGHT_LINEAR, AVT_DIMS(D, 16 * pt * p * p), w);
    l.b = vector(b, D, name, "bias");
    avt_free(w);
    return l;
}

/* Rows (axis 0) or columns of a weight that this part of a team has, of n in units. A team that has all of them everywhere: NULL. */
static const WeightPart *own(WeightPart *p, const Team *t, int axis, int64_t n, int64_t unit)
{
    *p = (WeightPart){ axis, avt_team_first(t, n / unit, t->part) * unit, avt_team_share(t, n / unit, t->part) * unit };
    return t->way == TEAM_COLUMNS ? p : NULL;
}

/* A bias behind a sum over the parts is added by the first of them. */
static int adds_bias(const Team *t)
{
    return t->way != TEAM_COLUMNS || !t->part;
}

static void bind_attention(DitAttention *a, Binder *b, const Dit *d, const char *module)
{
    const int64_t D = d->cfg.dim, hd = D / d->cfg.nb_heads;
    WeightPart rows, columns;
    const WeightPart *out = own(&rows, &d->team, 0, D, hd), *in = own(&columns, &d->team, 1, D, hd);

    a->q = avt_bind_linear_part(b, D, D, 1, out, "%s.q", module);
    a->k = avt_bind_linear_part(b, D, D, 1, out, "%s.k", module);
    a->v = avt_bind_linear_part(b, D, D, 1, out, "%s.v", module);
    a->o = avt_bind_linear_part(b, D, D, adds_bias(&d->team), in, "%s.o", module);
    a->norm_q = avt_bind_vector_part(b, D, out, "%s.norm_q.weight", module);
    a->norm_k = avt_bind_vector_part(b, D, out, "%s.norm_k.weight", module);
}

static void bind_layer(DitLayer *l, Binder *b, const Dit *d, int i)
{
    const int64_t D = d->cfg.dim, DF = d->cfg.ffn_dim;
    const DType act = b->act;
    WeightPart rows, columns;
    char name[64];

    b->act = avt_arena_backend(b->weights)->product;
    snprintf(name, sizeof(name), "blocks.%d.self_attn", i);
    bind_attention(&l->self, b, d, name);
    snprintf(name, sizeof(name), "blocks.%d.cross_attn", i);
    bind_attention(&l->cross, b, d, name);
    l->norm3_w = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(D), "blocks.%d.norm3.weight", i);
    l->norm3_b = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(D), "blocks.%d.norm3.bias", i);
    l->ffn0 = avt_bind_linear_part(b, DF, D, 1, own(&rows, &d->team, 0, DF, 1), "blocks.%d.ffn.0", i);
    l->ffn2 = avt_bind_linear_part(b, D, DF, adds_bias(&d->team), own(&columns, &d->team, 1, DF, 1), "blocks.%d.ffn.2", i);
    b->act = act;
}

static void bind_inject(DitInject *in, Binder *b, const Dit *d, int j)
{
    const int64_t D = d->cfg.dim;
    const DType act = b->act;
    WeightPart rows;
    char name[64];

    snprintf(name, sizeof(name), "audio_injector.injector.%d", j);
    b->act = avt_arena_backend(b->weights)->product;
    bind_attention(&in->attn, b, d, name);
    b->act = act;
    in->adain = avt_bind_linear_part(b, 2 * D, D, 1, own(&rows, &d->team, 0, 2 * D, 1), "audio_injector.injector_adain_layers.%d.linear", j);
}

#define AUDIO "casual_audio_encoder."                               // the misspelling is the checkpoint's

static Conv audio_conv(Binder *b, int64_t out, int64_t in, const char *name)
{
    return avt_bind_conv(b, WEIGHT_CONV1D, AVT_DIMS(out, in, 3), AUDIO "encoder.%s.conv", name);
}

static void bind_audio(Dit *d, Binder *b, const DitConfig *c)
{
    const int64_t D = c->dim;

    d->audio_weights = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(c->nb_audio_layers), AUDIO "weights");
    d->audio_padding = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(D), AUDIO "encoder.padding_tokens");
    d->audio_local = audio_conv(b, D / 4 * c->nb_audio_tokens, c->audio_dim, "conv1_local");
    d->audio_global = audio_conv(b, D / 4, c->audio_dim, "conv1_global");
    d->audio_conv2 = audio_conv(b, D / 2, D / 4, "conv2");
    d->audio_conv3 = audio_conv(b, D, D / 2, "conv3");
    d->audio_final = avt_bind_linear(b, D, D, 1, AUDIO "encoder.final_linear");
}

/* What makes tokens out of latents, which is f32 in every precision: with layer 0. */
static void bind_stem(Dit *d, Binder *b, int64_t D)
{
    const DType act = b->act;

    b->act = DT_F32;
    d->patch = patch_linear(b, D, 1, 2, "patch_embedding");
    d->cond = patch_linear(b, D, 1, 2, "cond_encoder");
    d->pack1 = patch_linear(b, D, 1, 2, "frame_packer.proj");
    d->pack2 = patch_linear(b, D, 2, 4, "frame_packer.proj_2x");
    d->pack4 = patch_linear(b, D, 4, 8, "frame_packer.proj_4x");
    b->act = act;
    d->mask = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(3, D), "trainable_cond_mask.weight");
}

/* What makes time, text and sound ready for the layers: with layer 0, on the first part of a team. */
static void bind_encoders(Dit *d, Binder *b, const DitConfig *c)
{
    const DType act = b->act;
    const int64_t D = c->dim;

    b->act = DT_F32;                                                // modulation is f32, too
    d->time0 = avt_bind_linear(b, D, c->freq_dim, 1, "time_embedding.0");
    d->time2 = avt_bind_linear(b, D, D, 1, "time_embedding.2");
    d->time_proj = avt_bind_linear(b, 6 * D, D, 1, "time_projection.1");
    b->act = act;
    d->text0 = avt_bind_linear(b, D, c->text_dim, 1, "text_embedding.0");
    d->text2 = avt_bind_linear(b, D, D, 1, "text_embedding.2");
    bind_audio(d, b, c);
}

/* With the last layer. */
static void bind_head(Dit *d, Binder *b, int64_t D)
{
    const DType act = b->act;

    b->act = DT_F32;
    d->head = avt_bind_linear(b, 64, D, 1, "head.head");
    b->act = act;
    d->head_modulation = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(2, D), "head.modulation");
}

/* Layers l0 .. l1-1, or their part, and what is at the ends of the pipe. */
static void bind_layers(Dit *d, Binder *b)
{
    const DitConfig *cfg = &d->cfg;

    if (d->l0 == 0)
        bind_stem(d, b, cfg->dim);
    if (d->l0 == 0 && d->team.part == 0)
        bind_encoders(d, b, cfg);
    if (d->l1 == cfg->nb_layers)
        bind_head(d, b, cfg->dim);
    for (int i = d->l0; i < d->l1; i++) {
        d->layer[i - d->l0].modulation = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(6, cfg->dim), "blocks.%d.modulation", i);
        if (!b->shelf)
            bind_layer(&d->layer[i - d->l0], b, d, i);
    }
    for (int j = 0; j < cfg->nb_inject; j++)
        if (cfg->inject[j] >= d->l0 && cfg->inject[j] < d->l1) {
            bind_inject(&d->injects[j], b, d, j);
            d->injects[j].index = d->nb_held++;
            d->layer[cfg->inject[j] - d->l0].inject = &d->injects[j];
        }
}

/* A layer without what is wanted apart from its turn in a walk: times have modulations, a block's sound meets injections. */
static int bind_on_shelf(void *layer, Binder *b, const void *opaque, int i)
{
    const Dit *d = opaque;

    memset(layer, 0, sizeof(DitLayer));
    bind_layer(layer, b, d, d->l0 + i);
    return avt_binder_finish(b, 1);
}

/* A LoRA's pairs are merged when the shelf is filled, so they are not missed yet. */
static int open_shelf(Dit *d, Binder *b)
{
    const ShelfBook book = { .ckpt = b->ckpt, .lora = b->lora, .what = b->what, .dtype = b->dtype, .nb_layers = d->l1 - d->l0,
                             .size = sizeof(DitLayer), .bind = bind_on_shelf, .opaque = d };

    b->lora = NULL;
    return avt_shelf_open(&d->shelf, &book, avt_arena_backend(b->weights), *b->shelf, b);
}

int avt_dit_open_part(Dit *d, const DitConfig *cfg, Binder *b, int l0, int l1, const Team *team)
{
    const int64_t hd = cfg->dim / cfg->nb_heads;
    int ret = 0;

    memset(d, 0, sizeof(*d));
    AVT_REQUIRE(b->log, l0 >= 0 && l0 < l1 && l1 <= cfg->nb_layers);
    AVT_REQUIRE(b->log, team->nb <= TEAM_MAX && team->nb <= cfg->nb_heads);
    d->cfg = *cfg;
    d->l0 = l0;
    d->l1 = l1;
    d->team = *team;
    d->keys = avt_team_share(team, cfg->nb_heads, team->part) * hd;
    d->width = team->way == TEAM_COLUMNS ? d->keys : cfg->dim;
    d->layer = avt_calloc(MEM_NET, (size_t)(l1 - l0), sizeof(*d->layer));
    d->injects = avt_calloc(MEM_NET, (size_t)cfg->nb_inject + 1, sizeof(*d->injects));
    if (!d->layer || !d->injects) {
        avt_dit_close(d);
        return AVT_ERR(ENOMEM);
    }
    bind_layers(d, b);
    if (b->shelf)
        ret = open_shelf(d, b);
    if (ret >= 0)
        ret = avt_binder_finish(b, l1 - l0 < cfg->nb_layers || team->nb > 1);
    if (ret < 0)
        avt_dit_close(d);
    return ret;
}

DType avt_dit_storage(const Ckpt *ckpt)
{
    static const char *const name[] = { "blocks.0.self_attn.q.weight", "text_embedding.0.weight" };

    for (size_t i = 0; i < sizeof(name) / sizeof(name[0]); i++) {
        const CkptTensor *t = avt_ckpt_find(ckpt, name[i]);

        if (t && !avt_is_code(t->dtype))
            return t->dtype;
    }
    return DT_F32;
}

int avt_dit_is_product(const char *name)
{
    static const char *const tail[] = { ".q.weight", ".k.weight", ".v.weight", ".o.weight", ".ffn.0.weight", ".ffn.2.weight" };
    const size_t n = strlen(name);

    if (strncmp(name, "blocks.", 7) && strncmp(name, "audio_injector.injector.", 24))
        return 0;
    for (size_t i = 0; i < sizeof(tail) / sizeof(tail[0]); i++)
        if (n > strlen(tail[i]) && !strcmp(name + n - strlen(tail[i]), tail[i]))
            return 1;
    return 0;
}

int avt_dit_open(Dit *d, const DitConfig *cfg, Binder *b, int l0, int l1)
{
    return avt_dit_open_part(d, cfg, b, l0, l1, &(Team){ .nb = 1 });
}

void avt_dit_close(Dit *d)
{
    avt_shelf_close(&d->shelf);
    avt_freep(&d->layer);
    avt_freep(&d->injects);
}

/* ---- a walk ------------------------------------------------------------------------------------------------------ */

int avt_dit_walker_open(Dit *walker, const Dit *d, Backend *be, Backend *copy, Arena *slots)
{
    const size_t nb = (size_t)(d->l1 - d->l0);

    *walker = *d;
    if (!d->shelf)
        return 0;
    walker->layer = avt_malloc(MEM_NET, nb * sizeof(*d->layer));
    walker->reader = avt_calloc(MEM_NET, 1, sizeof(*walker->reader));
    if (!walker->layer || !walker->reader) {
        avt_freep(&walker->layer);
        avt_freep(&walker->reader);
        return AVT_ERR(ENOMEM);
    }
    memcpy(walker->layer, d->layer, nb * sizeof(*d->layer));
    return avt_shelf_begin(walker->reader, d->shelf, be, copy, slots, 1);
}

int avt_dit_walker_close(Dit *walker)
{
    int ret = 0;

    if (walker->reader) {
        ret = avt_shelf_end(walker->reader);
        avt_freep(&walker->layer);
        avt_freep(&walker->reader);
    }
    return ret;
}

int avt_dit_reach(const Dit *d, int i)
{
    DitLayer *l = &d->layer[i];
    const DitLayer stays = *l, *from;

    if (!d->shelf)
        return 0;
    from = avt_shelf_layer(d->reader, i);
    if (!from)
        return d->reader->status;
    *l = *from;
    l->modulation = stays.modulation;
    l->inject = stays.inject;
    return 0;
}

/* ---- memory of items -------------------------------------------------------------------------------------------- */

int avt_dit_time_open(DitTime *t, Arena *a, const Dit *d)
{
    t->both = avt_new(a, DT_F32, 7, d->cfg.dim);
    t->e = avt_at(t->both, 0);
    t->e0 = avt_rows(t->both, 1, 6);
    t->layers = avt_new(a, DT_F32, d->l1 - d->l0, 6, d->cfg.dim);
    t->head = avt_new(a, DT_F32, 2, d->cfg.dim);
    return avt_arena_backend(a)->status;
}

static DType kept_type(const Arena *a, const Dit *d)
{
    return d->kv == DT_F32 ? avt_arena_backend(a)->act : d->kv;
}

static Tensor kept_tensor(Arena *a, DType type, int64_t M, int64_t NH, int64_t hd)
{
    return avt_is_code(type) ? avt_new_codes(a, type, 3, (const int64_t[]){ M, NH, hd }) : avt_new(a, type, M, NH, hd);
}

static void open_layer(Tensor *k, Tensor *v, Tensor *ref, Arena *a, const Dit *d, int64_t M, int64_t nb_ref, int64_t width)
{
    const int64_t hd = d->cfg.dim / d->cfg.nb_heads, NH = width / hd;

    *k = kept_tensor(a, kept_type(a, d), M, NH, hd);
    *v = kept_tensor(a, kept_type(a, d), M, NH, hd);
    if (ref)
        *ref = avt_new(a, avt_arena_backend(a)->act, nb_ref, NH, hd);       // they are turned anew for each block, then rounded once
}

static int keys_open(DitKeys *k, Arena *a, const Dit *d, int64_t M, int64_t nb_ref, int64_t width)
{
    *k = (DitKeys){ .nb = d->l1 - d->l0 };
    k->k = avt_calloc(MEM_NET, (size_t)(3 * k->nb), sizeof(*k->k));
    if (!k->k)
        return AVT_ERR(ENOMEM);
    k->v = k->k + k->nb;
    k->ref = nb_ref ? k->v + k->nb : NULL;
    for (int64_t i = 0; i < k->nb; i++)
        open_layer(&k->k[i], &k->v[i], nb_ref ? &k->ref[i] : NULL, a, d, M, nb_ref, width);
    return avt_arena_backend(a)->status;
}

int avt_dit_keys_open(DitKeys *k, Arena *a, const Dit *d, int64_t M, int64_t nb_ref)
{
    return keys_open(k, a, d, M, nb_ref, d->keys);
}

int avt_dit_text_open(DitKeys *k, Arena *a, const Dit *d, int64_t M)
{
    return keys_open(k, a, d, M, 0, d->width);
}

void avt_dit_layer_keys(Tensor *k, Tensor *v, Tensor *ref, Arena *a, const Dit *d, int64_t M, int64_t nb_ref)
{
    open_layer(k, v, ref, a, d, M, nb_ref, d->keys);
}

void avt_dit_keep(Backend *be, Tensor keys, Tensor x)
{
    if (keys.scale)
        avt_quantize(be, keys, x);
    else
        avt_copy(be, keys, x);
}

void avt_dit_keys_close(DitKeys *k)
{
    avt_freep(&k->k);
    k->v = k->ref = NULL;
}

int avt_dit_audio_open(DitAudio *o, Arena *a, const Dit *d, const DitShape *s, int nb_actors, int with_mask)
{
    const int64_t A = nb_actors, m = d->cfg.nb_audio_tokens + 1, D = d->cfg.dim, I = d->nb_held;
    const DType type = avt_arena_backend(a)->act;

    AVT_REQUIRE(avt_arena_backend(a)->log, nb_actors == 1 || (nb_actors > 1 && with_mask));
    o->nb_actors = nb_actors;
    o->both = avt_new(a, type, A * DIT_BLOCK * (m + 1), D);
    o->local = avt_view(avt_rows(o->both, 0, A * DIT_BLOCK * m), A, DIT_BLOCK, m, D);
    o->global = avt_view(avt_rows(o->both, A * DIT_BLOCK * m, A * DIT_BLOCK), A, DIT_BLOCK, D);
    o->k = avt_new(a, type, I, A, DIT_BLOCK, m, d->width);
    o->v = avt_new(a, type, I, A, DIT_BLOCK, m, d->width);
    o->table = avt_new(a, DT_F32, I, A, 2, DIT_BLOCK, D);
    o->mask = with_mask ? avt_new(a, DT_F32, nb_actors, DIT_BLOCK, s->n) : AVT_NONE;
    return avt_arena_backend(a)->status;
}
