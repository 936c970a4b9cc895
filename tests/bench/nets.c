/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The networks of the table: weights and inputs are written once, then bound like a model's; the peer reads the same files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "test.h"

#define GB ((size_t)1 << 30)

static void sizes(TestModel *m)
{
    test_model_default(m);
    m->sizes.dit = (DitConfig){ .dim = 1536, .nb_heads = 12, .nb_layers = 4, .ffn_dim = 8960, .freq_dim = 256, .text_dim = 64, .text_len = 512,
                                .audio_dim = 32, .nb_audio_layers = 4, .nb_audio_tokens = 4, .eps = 1e-6f };
    m->sizes.wav2vec2 = (Wav2Vec2Config){ 1024, 24, 16, 4096, { 512, 512, 512, 512, 512, 512, 512 }, 16, 128 };
    m->sizes.umt5 = (Umt5Config){ .dim = 4096, .attn_dim = 4096, .ffn_dim = 10240, .nb_heads = 64, .nb_layers = 2, .nb_buckets = 32,
                                  .vocab = 512, .dtype = DT_BF16 };
    m->sizes.vae_width = 96;
    m->sizes.dtype = m->t5_dtype = DT_BF16;
}

static int open_file(const Bench *b, Ckpt **c, const char *network)
{
    char path[1024];
    TestModel m;

    snprintf(path, sizeof(path), "%s", bench_path(b, "%s.safetensors", network));
    sizes(&m);
    if (access(path, R_OK)) {
        char part[1100];

        fprintf(stderr, "bench: writing %s\n", path);
        snprintf(part, sizeof(part), "%s.part", path);
        if (test_network_write(&m, network, part) < 0 || rename(part, path))
            return -1;
    }
    return avt_ckpt_open(c, path, b->log);
}

/* A tensor of random values, which are written for the peer, too. */
static Tensor input(Bench *b, const char *name, int nd, const int64_t *dim)
{
    const Tensor t = avt_new_dims(b->weights, DT_F32, nd, dim);
    const int64_t nb = avt_numel(t);
    char file[64];
    float *v = malloc((size_t)nb * sizeof(*v));
    uint64_t seed = 3;

    for (const char *p = name; *p; p++)
        seed = seed * 31 + (uint8_t)*p;
    test_random(v, nb, seed);
    avt_upload(b->be, t, v);
    snprintf(file, sizeof(file), "%s.f32", name);
    bench_write(b, file, v, nb);
    free(v);
    return t;
}

/* What the backend has made is written for the peer. */
static int give(Bench *b, const char *name, Tensor t)
{
    float *v = malloc(avt_nbytes(t));
    char file[64];
    int ret = avt_download(b->be, v, t);

    snprintf(file, sizeof(file), "%s.f32", name);
    ret = ret < 0 ? ret : bench_write(b, file, v, avt_numel(t));
    free(v);
    return ret;
}

/* ---- the transformer ------------------------------------------------------------------------------------------------ */

enum { LATENT_SIZE = 32, FIRST_FRAME = 30 };    // 256 tokens a frame; a block in the middle of a stream

typedef struct DitWork {
    Bench *b;
    Dit d;
    DitShape shape;
    DitTime time;
    DitKeys text, sink, ring;
    DitItem item;
    Tensor x, x0;
} DitWork;

static int dit_before(void *arg)
{
    DitWork *w = arg;

    avt_copy(w->b->be, w->x, w->x0);
    return 0;
}

static int dit_run(void *arg)
{
    DitWork *w = arg;

    return avt_dit_layers(w->b->be, w->b->scratch, &w->d, &w->item, 1);
}

static void fill_keys(Bench *b, DitKeys *k, const char *name)
{
    char file[64];

    for (int64_t i = 0; i < k->nb; i++) {
        snprintf(file, sizeof(file), "dit.%s_k%d", name, (int)i);
        avt_copy(b->be, k->k[i], input(b, file, k->k[i].nd, k->k[i].dim));
        snprintf(file, sizeof(file), "dit.%s_v%d", name, (int)i);
        avt_copy(b->be, k->v[i], input(b, file, k->v[i].nd, k->v[i].dim));
    }
}

static int dit_prepare(DitWork *w)
{
    Bench *b = w->b;
    const int64_t hd = w->d.cfg.dim / w->d.cfg.nb_heads, D = w->d.cfg.dim;
    RopeGrid g;
    Tensor table;
    int ret = 0;

    w->shape = avt_dit_shape(LATENT_SIZE, LATENT_SIZE);
    if (avt_dit_time_open(&w->time, b->weights, &w->d) < 0 || avt_dit_keys_open(&w->text, b->weights, &w->d, w->d.cfg.text_len, 0) < 0
        || avt_dit_keys_open(&w->sink, b->weights, &w->d, w->shape.Lc, w->shape.n) < 0 || avt_dit_keys_open(&w->ring, b->weights, &w->d, w->shape.ring, 0) < 0)
        return -1;
    w->x0 = input(b, "dit.x", 2, (const int64_t[]){ w->shape.N, D });
    w->x = avt_new(b->weights, DT_F32, w->shape.N, D);
    avt_copy(b->be, w->time.e0, input(b, "dit.e0", 2, (const int64_t[]){ 6, D }));
    avt_dit_modulation(b->be, &w->d, &w->time);
    fill_keys(b, &w->text, "text");
    fill_keys(b, &w->sink, "sink");
    fill_keys(b, &w->ring, "ring");
    w->item = (DitItem){ .x = w->x, .f0 = FIRST_FRAME, .shape = &w->shape, .time = &w->time, .text = &w->text, .sink = &w->sink, .ring = &w->ring };
    avt_dit_grid_block(&g, &w->shape, FIRST_FRAME, 0);
    table = avt_new(b->weights, DT_F32, w->shape.N, hd / 2, 2);
    avt_rope_table(b->be, table, &g);
    ret = give(b, "dit.rope", table);
    avt_dit_grid_sink(&g, &w->shape, 0, 0);
    table = avt_new(b->weights, DT_F32, w->shape.Lc, hd / 2, 2);
    avt_rope_table(b->be, table, &g);
    for (int64_t i = 0; i < w->sink.nb; i++) {                      // motion keys stand still, the reference's are turned in each pass
        avt_copy(b->be, w->sink.ref[i], avt_rows(w->sink.k[i], 0, w->shape.n));
        avt_rope(b->be, w->sink.k[i], w->sink.k[i], table);
    }
    return ret < 0 ? ret : give(b, "dit.rope_sink", table);
}

/* The products of a pass alone, as many as it has: ours as the layers call them, and oneDNN's own. */
typedef struct Products {
    Bench *b;
    const Dit *d;
    Tensor x, y, wide;
    Product *square, *up, *down;
} Products;

static int products_run(void *arg)
{
    Products *p = arg;
    Backend *be = p->b->be;

    for (int i = 0; i < p->d->cfg.nb_layers; i++) {
        const DitLayer *l = &p->d->layer[i];

        avt_linear(be, p->y, p->x, &l->self.q, ACT_NONE);
        avt_linear(be, p->y, p->x, &l->self.k, ACT_NONE);
        avt_linear(be, p->y, p->x, &l->self.v, ACT_NONE);
        avt_linear_add(be, p->y, p->y, p->x, &l->self.o, l->norm3_w);
        avt_linear(be, p->y, p->x, &l->cross.q, ACT_NONE);
        avt_linear_add(be, p->y, p->y, p->x, &l->cross.o, AVT_NONE);
        avt_linear(be, p->wide, p->x, &l->ffn0, ACT_GELU_TANH);
        avt_linear_add(be, p->y, p->y, p->wide, &l->ffn2, l->norm3_w);
    }
    return be->status;
}

static void products_of_onednn(const Products *p)
{
    for (int i = 0; i < p->d->cfg.nb_layers; i++) {
        for (int j = 0; j < 6; j++)
            product_run(p->square);
        product_run(p->up);
        product_run(p->down);
    }
}

static int products(DitWork *w)
{
    Bench *b = w->b;
    const int64_t N = w->shape.N, D = w->d.cfg.dim, F = w->d.cfg.ffn_dim;
    Products p = { b, &w->d, avt_new(b->weights, b->act, N, D), avt_new(b->weights, b->act, N, D), avt_new(b->weights, b->act, N, F), product_open(N, D, D, b->threads),
                   product_open(N, F, D, b->threads), product_open(N, D, F, b->threads) };
    Row *r = bench_row(b, "dit_products", "  its matrix products alone", ">= 0.9 of oneDNN's own");
    double ours[64], theirs[64], start = b->be->stat[OP_LINEAR].flops;
    const int reps = b->reps < 64 ? b->reps : 64;

    avt_copy(b->be, p.x, w->x0);
    avt_fill(b->be, p.y, 0);
    products_run(&p);
    if (p.square && p.up && p.down)
        products_of_onednn(&p);
    start = b->be->stat[OP_LINEAR].flops;
    for (int i = 0; i < reps; i++) {
        double t = bench_now(b);

        products_run(&p);
        ours[i] = 1e3 * (bench_now(b) - t);
        t = bench_now(b);
        if (p.square && p.up && p.down)
            products_of_onednn(&p);
        theirs[i] = 1e3 * (bench_now(b) - t);
    }
    r->flops = (b->be->stat[OP_LINEAR].flops - start) / reps;
    r->ms = bench_median(ours, reps);
    r->peer = "oneDNN";
    r->peer_ms = p.square ? bench_median(theirs, reps) : 0;
    r->value = r->peer_ms / r->ms;
    snprintf(r->note, sizeof(r->note), "oneDNN's own without activation, gate and residual");
    product_close(p.square), product_close(p.up), product_close(p.down);
    bench_say(b, r);
    return b->be->status;
}

int work_dit(Bench *b)
{
    DitWork w = { .b = b };
    Row *r = bench_row(b, "dit", "DiT: a block, 4 layers of width 1536", ">= 1.3 x PyTorch");
    TestModel m;
    Binder binder;
    Ckpt *c = NULL;
    int ret = bench_begin(b, 2 * GB, GB) < 0 ? -1 : open_file(b, &c, "dit");

    sizes(&m);
    r->peer = "PyTorch";
    if (ret >= 0)
        ret = avt_binder_open(&binder, c, NULL, b->weights, "dit", DT_F32, b->log);
    if (ret >= 0) {
        ret = avt_dit_open(&w.d, &m.sizes.dit, &binder, 0, m.sizes.dit.nb_layers);
        avt_binder_close(&binder);
    }
    if (ret >= 0)
        ret = dit_prepare(&w);
    if (ret >= 0)
        ret = bench_measure(b, r, &(Task){ dit_before, dit_run, &w, &w.x }, "dit");
    if (ret >= 0)
        bench_say(b, r), ret = avt_is_code(b->product) ? 0 : products(&w);
    avt_dit_keys_close(&w.text);
    avt_dit_keys_close(&w.sink);
    avt_dit_keys_close(&w.ring);
    avt_dit_close(&w.d);
    avt_ckpt_close(&c);
    return ret;
}

/* ---- the VAE ---------------------------------------------------------------------------------------------------------- */

typedef struct VaeWork {
    Bench *b;
    Vae v;
    VaeState enc, dec;
    Tensor still, z, px, out;           // pixels of the still; three latents and their frames; the still's latents
} VaeWork;

static int decode_run(void *arg)
{
    VaeWork *w = arg;

    return avt_vae_decode(w->b->be, w->b->scratch, &w->v, &w->dec, w->px, w->z, NULL);
}

static int encode_run(void *arg)
{
    VaeWork *w = arg;

    return avt_vae_encode_still(w->b->be, w->b->scratch, &w->v, &w->enc, w->out, w->still);
}

/* A picture is encoded in f32 in every precision: once is enough. */
static int encodes(const Bench *b)
{
    return b->act == DT_F32;
}

/* The decoder has seen two latents, so that the block is one of a stream. */
static int vae_prepare(VaeWork *w)
{
    Bench *b = w->b;
    const int64_t s = LATENT_SIZE;
    const Tensor first = input(b, "vae.z0", 4, (const int64_t[]){ 2, VAE_LATENT, s, s });
    const Tensor px = avt_new(b->weights, DT_F32, 5, 8 * s, 8 * s, 3);

    w->z = input(b, "vae.z", 4, (const int64_t[]){ DIT_BLOCK, VAE_LATENT, s, s });
    w->still = input(b, "vae.still", 4, (const int64_t[]){ 1, 8 * s, 8 * s, 3 });
    w->px = avt_new(b->weights, DT_F32, 4 * DIT_BLOCK, 8 * s, 8 * s, 3);
    w->out = avt_new(b->weights, DT_F32, DIT_MOTION, VAE_LATENT, s, s);
    if (encodes(b) && avt_vae_state_open(&w->enc, b->weights, &w->v, VAE_ENCODER, s, s) < 0)
        return -1;
    if (avt_vae_state_open(&w->dec, b->weights, &w->v, VAE_DECODER, s, s) < 0)
        return -1;
    return avt_vae_decode(b->be, b->scratch, &w->v, &w->dec, px, first, NULL);
}

int work_vae(Bench *b)
{
    VaeWork w = { .b = b };
    Row *dec = bench_row(b, "vae_decode", "VAE: decode a block, 12 frames of 256x256", ">= 1.3 x PyTorch");
    Row *enc = encodes(b) ? bench_row(b, "vae_encode", "VAE: encode a picture and 72 repeats", ">= 1.3 x PyTorch") : NULL;
    Binder binder;
    Ckpt *c = NULL;
    int ret = bench_begin(b, 3 * GB, 2 * GB) < 0 ? -1 : open_file(b, &c, "vae");

    dec->peer = "diffusers";
    if (ret >= 0)
        ret = avt_binder_open(&binder, c, NULL, b->weights, "vae", DT_F32, b->log);
    if (ret >= 0) {
        ret = avt_vae_open(&w.v, &binder, 96, enc ? VAE_ENCODER | VAE_DECODER : VAE_DECODER);
        avt_binder_close(&binder);
    }
    if (ret >= 0)
        ret = vae_prepare(&w);
    if (ret >= 0)
        ret = bench_measure(b, dec, &(Task){ NULL, decode_run, &w, &w.px }, "vae_decode");
    if (ret >= 0)
        bench_say(b, dec);
    if (ret >= 0 && enc) {
        enc->peer = "diffusers";
        ret = bench_measure(b, enc, &(Task){ NULL, encode_run, &w, &w.out }, "vae_encode");
    }
    if (ret >= 0 && enc)
        bench_say(b, enc);
    avt_ckpt_close(&c);
    return ret;
}

/* ---- the encoders of sound and text ------------------------------------------------------------------------------------- */

enum { SAMPLES = 160000, TOKENS = 128 };

typedef struct SoundWork {
    Bench *b;
    Wav2Vec2 w;
    Tensor hidden, last;
    float *pcm;
} SoundWork;

static int sound_run(void *arg)
{
    SoundWork *s = arg;

    return avt_wav2vec2_encode(s->b->be, s->b->scratch, &s->w, s->hidden, s->pcm, SAMPLES);
}

int work_wav2vec2(Bench *b)
{
    SoundWork s = { .b = b, .pcm = malloc(SAMPLES * sizeof(float)) };
    Row *r = bench_row(b, "wav2vec2", "wav2vec2-large, 10 s of sound", ">= 1.2 x PyTorch");
    TestModel m;
    Binder binder;
    Ckpt *c = NULL;
    int ret = bench_begin(b, 2 * GB, GB) < 0 ? -1 : open_file(b, &c, "wav2vec2");

    sizes(&m);
    r->peer = "transformers";
    test_random(s.pcm, SAMPLES, 9);
    if (ret >= 0)
        ret = bench_write(b, "wav2vec2.pcm.f32", s.pcm, SAMPLES);
    if (ret >= 0)
        ret = avt_binder_open(&binder, c, NULL, b->weights, "wav2vec2", DT_F32, b->log);
    if (ret >= 0) {
        ret = avt_wav2vec2_open(&s.w, &m.sizes.wav2vec2, &binder);
        avt_binder_close(&binder);
    }
    s.hidden = avt_new(b->weights, DT_F32, 25, avt_wav2vec2_frames(SAMPLES), 1024);
    s.last = avt_at(s.hidden, 24);
    if (ret >= 0)
        ret = bench_measure(b, r, &(Task){ NULL, sound_run, &s, &s.last }, "wav2vec2");
    if (ret >= 0)
        bench_say(b, r);
    avt_wav2vec2_close(&s.w);
    avt_ckpt_close(&c);
    free(s.pcm);
    return ret;
}

typedef struct TextWork {
    Bench *b;
    Umt5Config cfg;
    Ckpt *ckpt;
    Umt5 encoder;
    Tensor out;
    int32_t ids[TOKENS];
} TextWork;

static int text_run(void *arg)
{
    TextWork *t = arg;

    return avt_umt5_encode(t->b->be, t->b->be, t->b->scratch, &t->encoder, t->out, t->ids, TOKENS, TOKENS);
}

/* As the peer has its weights in memory, what is compared is a prompt of an encoder that has theirs; the first one reads and packs them. */
int work_umt5(Bench *b)
{
    TextWork t = { .b = b };
    double start, first = 0;
    Row *r = bench_row(b, "umt5", "umT5, 2 layers of width 4096, 128 tokens", ">= 1.2 x PyTorch");
    int ret = bench_begin(b, GB, 3 * GB) < 0 ? -1 : open_file(b, &t.ckpt, "umt5");

    r->peer = "transformers";
    for (int i = 0; i < TOKENS; i++)
        t.ids[i] = i * 7 % 500;
    if (ret >= 0)
        ret = avt_umt5_config(&t.cfg, t.ckpt, b->log);
    t.out = avt_new(b->weights, DT_F32, TOKENS, 4096);
    if (ret >= 0)
        ret = avt_umt5_open(&t.encoder, &t.cfg, t.ckpt, b->be, (size_t)4 * GB, 1);
    start = bench_now(b);
    if (ret >= 0)
        ret = text_run(&t);
    first = 1e3 * (bench_now(b) - start);
    if (ret >= 0)
        ret = bench_measure(b, r, &(Task){ NULL, text_run, &t, &t.out }, "umt5");
    snprintf(r->note, sizeof(r->note), "second prompt of an open encoder; the first, which reads and packs the layers: %.0f ms", first);
    if (ret >= 0)
        bench_say(b, r);
    avt_umt5_close(&t.encoder);
    avt_ckpt_close(&t.ckpt);
    return ret;
}
