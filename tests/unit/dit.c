/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The diffusion transformer on seeded random weights: its plan is what it takes, its parts add up to the whole, items do not
 * see each other, the guard backend and any number of threads give the bits of plain C, and the published sizes cost what
 * streaming.md 15 says. Its numbers are checked in tests/parity.
 */
#include "dry/dry.h"
#include "tiny_dit.h"

enum { H = 8, W = 10, WAVE = 3, MAX_PARTS = 3 };               // not divisible by 4 and 8

/* One rank: a backend, some layers, and all that a wave of items needs. */
typedef struct Rank {
    Backend *be;
    Arena *weights, *state, *scratch;
    Ckpt *ckpt;
    Binder binder;
    Dit d;
    DitShape s;
    DitTime zero, time[WAVE];
    DitKeys text, sink, ring[WAVE];
    DitAudio audio[WAVE];
    Tensor embedded;                    // the text, handed to the ranks behind the first
    Tensor x[WAVE], x_sink, velocity;
} Rank;

static void open_state(Rank *r, int nb_actors)
{
    r->s = avt_dit_shape(H, W);
    REQUIRE_OK(avt_dit_time_open(&r->zero, r->state, &r->d));
    REQUIRE_OK(avt_dit_keys_open(&r->text, r->state, &r->d, r->d.cfg.text_len, 0));
    REQUIRE_OK(avt_dit_keys_open(&r->sink, r->state, &r->d, r->s.Lc, r->s.n));
    for (int i = 0; i < WAVE; i++) {
        REQUIRE_OK(avt_dit_time_open(&r->time[i], r->state, &r->d));
        REQUIRE_OK(avt_dit_keys_open(&r->ring[i], r->state, &r->d, r->s.ring, 0));
        REQUIRE_OK(avt_dit_audio_open(&r->audio[i], r->state, &r->d, &r->s, nb_actors, nb_actors > 1));
        r->x[i] = avt_new(r->state, DT_F32, r->s.N, r->d.cfg.dim);
    }
    r->embedded = avt_new(r->state, r->be->act, r->d.cfg.text_len, r->d.cfg.dim);
    r->x_sink = avt_new(r->state, DT_F32, r->s.Lc, r->d.cfg.dim);
    r->velocity = avt_new(r->state, DT_F32, DIT_BLOCK, 16, H, W);
}

/* @param sizes  capacities of weights, state, scratch, or NULL: without limit */
static void open_rank(Rank *r, const TinyFiles *f, const char *device, int threads, int l0, int l1, int nb_actors, const size_t *sizes)
{
    const int dry = !strcmp(device, "dry");
    const size_t any = dry ? ARENA_UNLIMITED : (size_t)1 << 28;
    DitConfig c;

    memset(r, 0, sizeof(*r));
    REQUIRE_OK(avt_backend_open(&r->be, device, &(BackendOptions){ .threads = threads, .level = CPU_PLAIN, .plan_for = dry ? "cpu" : NULL }));
    REQUIRE_OK(avt_arena_open(&r->weights, r->be, "weights", sizes ? sizes[0] : any));
    REQUIRE_OK(avt_arena_open(&r->state, r->be, "state", sizes ? sizes[1] : any));
    REQUIRE_OK(avt_arena_open(&r->scratch, r->be, "scratch", sizes ? sizes[2] : any));
    REQUIRE_OK(avt_ckpt_open(&r->ckpt, f->weights, NULL));
    REQUIRE_OK(avt_dit_config(&c, f->config, r->ckpt, NULL));
    REQUIRE_OK(avt_binder_open(&r->binder, dry ? NULL : r->ckpt, NULL, r->weights, "dit", DT_F32, NULL));
    REQUIRE_OK(avt_dit_open(&r->d, &c, &r->binder, l0, l1));
    open_state(r, nb_actors);
}

static void close_rank(Rank *r)
{
    avt_dit_keys_close(&r->text);
    avt_dit_keys_close(&r->sink);
    for (int i = 0; i < WAVE; i++)
        avt_dit_keys_close(&r->ring[i]);
    avt_dit_close(&r->d);
    avt_binder_close(&r->binder);
    avt_ckpt_close(&r->ckpt);
    avt_arena_close(&r->weights);
    avt_arena_close(&r->state);
    avt_arena_close(&r->scratch);
    avt_backend_close(&r->be);
}

/* ---- a run: sink, then `rounds` waves of three independent items ------------------------------------------------- */

static Tensor random_tensor(Rank *r, uint64_t seed, int nd, const int64_t *dim)
{
    const Tensor t = avt_new_dims(r->scratch, DT_F32, nd, dim);
    float *v = malloc(avt_nbytes(t));

    test_random(v, avt_numel(t), seed);
    avt_upload(r->be, t, v);
    free(v);
    return t;
}
#define RANDOM(r, seed, ...) random_tensor(r, seed, AVT_DIMS(__VA_ARGS__))

static void hand_over(Rank *from, Tensor a, Rank *to, Tensor b)
{
    float *v = malloc(avt_nbytes(a));

    REQUIRE_OK(avt_download(from->be, v, a));
    avt_upload(to->be, b, v);
    free(v);
}

static DitTime *time_at(Rank *r, int i)             // -1: the sink's
{
    return i < 0 ? &r->zero : &r->time[i];
}

/* The first rank has the weights of it; `first` may be r. */
static void prepare_time(Rank *r, Rank *first, int i)
{
    DitTime *t = time_at(r, i);

    if (!r->d.l0) {
        REQUIRE_OK(avt_dit_time(r->be, r->scratch, &r->d, t, i < 0 ? 0 : 900.f - 200.f * (float)i));
        return;
    }
    hand_over(first, time_at(first, i)->both, r, t->both);
    REQUIRE_OK(avt_dit_modulation(r->be, &r->d, t));
}

static void prepare_text(Rank *r, Rank *first)
{
    const DitConfig *c = &r->d.cfg;
    const Tensor e = r->d.l0 ? avt_new(r->scratch, r->be->act, c->text_len, c->dim) : r->embedded;

    if (!r->d.l0)
        REQUIRE_OK(avt_dit_text(r->be, r->scratch, &r->d, e, RANDOM(r, 1, 4, c->text_dim)));
    else
        hand_over(first, first->embedded, r, e);
    REQUIRE_OK(avt_dit_text_keys(r->be, r->scratch, &r->d, &r->text, e));
}

static void prepare_audio(Rank *r, Rank *first, int i)
{
    const DitConfig *c = &r->d.cfg;
    DitAudio *o = &r->audio[i];

    if (!r->d.l0) {
        const Tensor features = RANDOM(r, 10 + (uint64_t)i, o->nb_actors, 12, c->nb_audio_layers, c->audio_dim);

        REQUIRE_OK(avt_dit_audio(r->be, r->scratch, &r->d, o, features));
    } else
        hand_over(first, first->audio[i].both, r, o->both);
    REQUIRE_OK(avt_dit_audio_keys(r->be, r->scratch, &r->d, o));
}

static void prepare(Rank *r, Rank *first)
{
    const size_t mark = avt_arena_mark(r->scratch);

    prepare_text(r, first);
    prepare_time(r, first, -1);
    for (int i = 0; i < WAVE; i++) {
        const int A = r->audio[i].nb_actors;

        prepare_time(r, first, i);
        prepare_audio(r, first, i);
        if (A > 1)
            avt_copy(r->be, r->audio[i].mask, RANDOM(r, 20, A, DIT_BLOCK, r->s.n));
    }
    avt_arena_release(r->scratch, mark);
}

static void embed_sink(Rank *r)
{
    const size_t mark = avt_arena_mark(r->scratch);
    const Tensor ref = RANDOM(r, 2, 1, 16, H, W), motion = RANDOM(r, 3, DIT_MOTION, 16, H, W);

    REQUIRE_OK(avt_dit_embed_sink(r->be, r->scratch, &r->d, r->x_sink, ref, motion));
    avt_arena_release(r->scratch, mark);
}

static void embed_item(Rank *r, int i, uint64_t seed)
{
    const size_t mark = avt_arena_mark(r->scratch);
    const Tensor latents = RANDOM(r, seed, DIT_BLOCK, 16, H, W);

    REQUIRE_OK(avt_dit_embed_block(r->be, r->scratch, &r->d, r->x[i], latents, AVT_NONE));
    avt_arena_release(r->scratch, mark);
}

static DitItem block_item(Rank *r, int i, int64_t block)
{
    return (DitItem){
        .x = r->x[i], .f0 = DIT_BLOCK * block, .relative_dist = 20, .shape = &r->s, .time = &r->time[i], .text = &r->text,
        .sink = &r->sink, .ring = &r->ring[i], .audio = &r->audio[i],
    };
}

static DitItem sink_item(Rank *r)
{
    return (DitItem){ .x = r->x_sink, .sink_pass = 1, .shape = &r->s, .time = &r->zero, .text = &r->text, .sink = &r->sink };
}

static void run_sink(Rank *r, int nb)
{
    embed_sink(&r[0]);
    for (int p = 0; p < nb; p++) {
        DitItem it = sink_item(&r[p]);

        REQUIRE_OK(avt_dit_layers(r[p].be, r[p].scratch, &r[p].d, &it, 1));
        if (p + 1 < nb)
            hand_over(&r[p], r[p].x_sink, &r[p + 1], r[p + 1].x_sink);
    }
}

/* One wave down a pipe of `nb` ranks; the items' velocities into out [WAVE, 3, 16, H, W]. changed: item with another noise, or -1. */
static void run_wave(Rank *r, int nb, int64_t round, int changed, float *out)
{
    Rank *last = &r[nb - 1];

    for (int i = 0; i < WAVE; i++)
        embed_item(&r[0], i, 100 + (uint64_t)(10 * round + i) + (i == changed ? 1000 : 0));
    for (int p = 0; p < nb; p++) {
        DitItem items[WAVE];

        for (int i = 0; i < WAVE; i++)
            items[i] = block_item(&r[p], i, round);
        REQUIRE_OK(avt_dit_layers(r[p].be, r[p].scratch, &r[p].d, items, WAVE));
        for (int i = 0; i < WAVE && p + 1 < nb; i++)
            hand_over(&r[p], r[p].x[i], &r[p + 1], r[p + 1].x[i]);
    }
    for (int i = 0; i < WAVE; i++) {
        REQUIRE_OK(avt_dit_head(last->be, last->scratch, &last->d, last->velocity, last->x[i], &last->time[i]));
        REQUIRE_OK(avt_download(last->be, out + i * avt_numel(last->velocity), last->velocity));
    }
}

#define NB (16 * DIT_BLOCK * H * W)             // values of a velocity

static float *run_all(Rank *r, int nb, int changed)
{
    float *out = malloc(sizeof(*out) * NB * WAVE);

    for (int p = 0; p < nb; p++)
        prepare(&r[p], &r[0]);
    run_sink(r, nb);
    for (int64_t round = 0; round < 5; round++)                     // the ring wraps
        run_wave(r, nb, round, round == 4 ? changed : -1, out);
    return out;
}

static float *run_on(const TinyFiles *f, const char *device, int threads, int nb_actors, int changed)
{
    Rank r;
    float *out;

    open_rank(&r, f, device, threads, 0, TINY_L, nb_actors, NULL);
    out = run_all(&r, 1, changed);
    close_rank(&r);
    return out;
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */

static void planned_is_measured(void **state)
{
    TinyFiles f;

    (void)state;
    tiny_write(&f, NULL, NULL);
    for (int nb_actors = 1; nb_actors <= 2; nb_actors++) {
        Rank dry, real;
        size_t peak[3];

        open_rank(&dry, &f, "dry", 1, 0, TINY_L, nb_actors, NULL);
        free(run_all(&dry, 1, -1));
        peak[0] = avt_arena_peak(dry.weights);
        peak[1] = avt_arena_peak(dry.state);
        peak[2] = avt_arena_peak(dry.scratch);
        open_rank(&real, &f, "cpu", 1, 0, TINY_L, nb_actors, peak);
        free(run_all(&real, 1, -1));
        REQUIRE(avt_arena_peak(real.weights) == peak[0] && avt_arena_peak(real.state) == peak[1]);
        REQUIRE(avt_arena_peak(real.scratch) == peak[2]);
        REQUIRE(avt_arena_used(real.scratch) == 0);                 // everything was given back
        close_rank(&dry);
        close_rank(&real);
    }
    tiny_remove(&f);
}

static void parts_add_up(void **state)
{
    static const int cut[][MAX_PARTS + 1] = { { 0, 1, 3 }, { 0, 2, 3 }, { 0, 1, 2, 3 } };
    float *whole, *out;
    TinyFiles f;

    (void)state;
    tiny_write(&f, NULL, NULL);
    whole = run_on(&f, "cpu", 1, 1, -1);
    for (int k = 0; k < 3; k++) {
        const int nb = cut[k][2] == TINY_L ? 2 : 3;
        Rank r[MAX_PARTS];

        for (int p = 0; p < nb; p++)
            open_rank(&r[p], &f, "cpu", 1, cut[k][p], cut[k][p + 1], 1, NULL);
        out = run_all(r, nb, -1);
        REQUIRE(!memcmp(whole, out, sizeof(*out) * NB * WAVE));
        for (int p = 0; p < nb; p++)
            close_rank(&r[p]);
        free(out);
    }
    free(whole);
    tiny_remove(&f);
}

static void same_bits_everywhere(void **state)
{
    TinyFiles f;

    (void)state;
    tiny_write(&f, NULL, NULL);
    for (int nb_actors = 1; nb_actors <= 2; nb_actors++) {
        float *ref = run_on(&f, "cpu", 1, nb_actors, -1), *out;

        for (int threads = 2; threads <= 3; threads++) {
            out = run_on(&f, "cpu", threads, nb_actors, -1);
            REQUIRE(!memcmp(ref, out, sizeof(*out) * NB * WAVE));
            free(out);
        }
        out = run_on(&f, "guard", 2, nb_actors, -1);
        REQUIRE(!memcmp(ref, out, sizeof(*out) * NB * WAVE));
        free(out);
        free(ref);
    }
    tiny_remove(&f);
}

static void items_do_not_meet(void **state)
{
    TinyFiles f;
    float *ref;

    (void)state;
    tiny_write(&f, NULL, NULL);
    ref = run_on(&f, "cpu", 1, 1, -1);
    for (int changed = 0; changed < WAVE; changed++) {
        float *out = run_on(&f, "cpu", 1, 1, changed);

        for (int i = 0; i < WAVE; i++) {
            double max_abs, rel;

            test_distance(out + i * NB, ref + i * NB, NB, &max_abs, &rel);
            REQUIRE(i == changed ? rel > 0.1 : max_abs == 0);
        }
        free(out);
    }
    free(ref);
    tiny_remove(&f);
}

/* All layers on one rank, ready for the sink's pass */
static void open_at_sink(Rank *r, const TinyFiles *f)
{
    open_rank(r, f, "cpu", 1, 0, TINY_L, 1, NULL);
    prepare(r, r);
    embed_sink(r);
}

/* The last layer of a sink gives keys alone; computing it to its end, as a probe makes it, changes no key. */
static void see_nothing(void *opaque, const char *name, Tensor t)
{
    (void)opaque, (void)name, (void)t;
}

static void last_sink_layer_is_cut(void **state)
{
    const DitProbe probe = { see_nothing, NULL };
    int64_t calls[2];
    float *keys[2];
    TinyFiles f;

    (void)state;
    tiny_write(&f, NULL, NULL);
    for (int k = 0; k < 2; k++) {
        DitItem it;
        Rank r;

        open_at_sink(&r, &f);
        calls[k] = -r.be->stat[OP_ATTENTION].calls;
        it = sink_item(&r);
        it.probe = k ? &probe : NULL;
        REQUIRE_OK(avt_dit_layers(r.be, r.scratch, &r.d, &it, 1));
        calls[k] += r.be->stat[OP_ATTENTION].calls;
        keys[k] = malloc(avt_nbytes(r.sink.k[TINY_L - 1]));
        REQUIRE_OK(avt_download(r.be, keys[k], r.sink.k[TINY_L - 1]));
        if (k)
            REQUIRE(!memcmp(keys[0], keys[1], avt_nbytes(r.sink.k[TINY_L - 1])));
        close_rank(&r);
    }
    REQUIRE(calls[0] == 2 * (TINY_L - 1) && calls[1] == 2 * TINY_L);
    free(keys[0]);
    free(keys[1]);
    tiny_remove(&f);
}

/* ---- what attention is given ------------------------------------------------------------------------------------- */

static struct {
    const BackendClass *real;
    BackendClass cls;
    int nb, nb_codes;                           // calls of attention; with queries and keys of i8
} spied;

static int spy_run(Backend *be, const OpCall *c)
{
    if (c->op == OP_ATTENTION) {
        spied.nb++;
        spied.nb_codes += c->attention.q.dtype == DT_I8 && c->attention.k1.dtype == DT_I8 && (!c->attention.k2.be || c->attention.k2.dtype == DT_I8);
    }
    return spied.real->run(be, c);
}

/* In int8 on a CPU of f32 the block's own attention and the text's are of codes; the sound's few keys stay, and so does everything in f32. */
static void int8_attends_in_codes(void **state)
{
    TinyFiles f;

    (void)state;
    tiny_write(&f, NULL, NULL);
    for (int codes = 0; codes < 2; codes++) {
        DitItem it;
        Rank r;

        open_at_sink(&r, &f);
        it = sink_item(&r);
        REQUIRE_OK(avt_dit_layers(r.be, r.scratch, &r.d, &it, 1));
        spied.real = r.be->cls;
        spied.cls = *r.be->cls;
        spied.cls.run = spy_run;
        spied.nb = spied.nb_codes = 0;
        r.be->cls = &spied.cls;
        if (codes)
            r.be->product = DT_I8;
        it = block_item(&r, 0, 0);
        REQUIRE_OK(avt_dit_layers(r.be, r.scratch, &r.d, &it, 1));
        r.be->cls = spied.real;
        REQUIRE(spied.nb >= 2 * TINY_L && spied.nb_codes == (codes ? 2 * TINY_L : 0));
        close_rank(&r);
    }
    tiny_remove(&f);
}

static void wrong_items_are_refused(void **state)
{
    TinyFiles f;
    DitItem it;
    Rank r;

    (void)state;
#ifdef AVT_DEBUG
    SKIP("a debug build stops at a caller's mistake");
#endif
    tiny_write(&f, NULL, NULL);
    open_rank(&r, &f, "cpu", 1, 0, TINY_L, 1, NULL);
    it = block_item(&r, 0, 0);
    it.f0 = 1;                                                      // not the start of a block
    REQUIRE(avt_dit_layers(r.be, r.scratch, &r.d, &it, 1) == AVT_ERR(EINVAL));
    it = block_item(&r, 0, 0);
    it.x = avt_rows(it.x, 0, 3);
    REQUIRE(avt_dit_layers(r.be, r.scratch, &r.d, &it, 1) == AVT_ERR(EINVAL));
    it = sink_item(&r);
    it.x = r.x[0];
    REQUIRE(avt_dit_layers(r.be, r.scratch, &r.d, &it, 1) == AVT_ERR(EINVAL));
    REQUIRE_OK(avt_sync(r.be));
    close_rank(&r);
    tiny_remove(&f);
}

static int bind(const TinyFiles *f, int l0, int l1, const Log *log)
{
    Backend *be;
    Arena *weights;
    Ckpt *ckpt;
    Binder b;
    DitConfig c;
    Dit d;
    int ret;

    REQUIRE_OK(avt_backend_open(&be, "cpu", NULL));
    REQUIRE_OK(avt_arena_open(&weights, be, "weights", (size_t)1 << 26));
    REQUIRE_OK(avt_ckpt_open(&ckpt, f->weights, NULL));
    REQUIRE_OK(avt_dit_config(&c, f->config, ckpt, NULL));
    REQUIRE_OK(avt_binder_open(&b, ckpt, NULL, weights, "dit", DT_F32, log));
    ret = avt_dit_open(&d, &c, &b, l0, l1);
    avt_dit_close(&d);
    avt_binder_close(&b);
    avt_ckpt_close(&ckpt);
    avt_arena_close(&weights);
    avt_backend_close(&be);
    return ret;
}

static void binding_is_exact(void **state)
{
    TinyFiles f;

    (void)state;
    tiny_write(&f, "blocks.1.ffn.2.bias", NULL);
    REQUIRE(bind(&f, 0, TINY_L, test_log()) == AVT_INVALID && strstr(test_log_text(), "blocks.1.ffn.2.bias"));
    REQUIRE_OK(bind(&f, 2, 3, test_log()));                         // a rank without layer 1 does not miss it
    tiny_remove(&f);
    tiny_write(&f, NULL, "blocks.1.self_attn.norm_v.weight");
    REQUIRE(bind(&f, 0, TINY_L, test_log()) == AVT_INVALID && strstr(test_log_text(), "norm_v"));
    REQUIRE_OK(bind(&f, 0, 2, test_log()));
    tiny_remove(&f);
}

/* Everything that is opened, with whatever allocation fails: an error that says so, and nothing left behind. */
static int open_and_close(const TinyFiles *f)
{
    Backend *be = NULL;
    Arena *weights = NULL;
    Ckpt *ckpt = NULL;
    Binder b = { 0 };
    Dit d = { 0 };
    DitConfig c;
    DitKeys keys = { 0 };
    int ret = avt_backend_open(&be, "cpu", NULL);

    if (ret >= 0)
        ret = avt_arena_open(&weights, be, "weights", (size_t)1 << 26);
    if (ret >= 0)
        ret = avt_ckpt_open(&ckpt, f->weights, NULL);
    if (ret >= 0)
        ret = avt_dit_config(&c, f->config, ckpt, NULL);
    if (ret >= 0)
        ret = avt_binder_open(&b, ckpt, NULL, weights, "dit", DT_F32, NULL);
    if (ret >= 0)
        ret = avt_dit_open(&d, &c, &b, 0, c.nb_layers);
    if (ret >= 0)
        ret = avt_dit_keys_open(&keys, weights, &d, 8, 0);
    avt_dit_keys_close(&keys);
    avt_dit_close(&d);
    avt_binder_close(&b);
    avt_ckpt_close(&ckpt);
    avt_arena_close(&weights);
    avt_backend_close(&be);
    return ret;
}

static void memory_runs_out(void **state)
{
    TinyFiles f;
    int64_t before;
    int n = 0, ret;

    (void)state;
    tiny_write(&f, NULL, NULL);
    REQUIRE_OK(open_and_close(&f));                                 // what is kept for good is there now
    before = avt_mem_bytes(MEM_NB);
    do {
        avt_mem_fail_at(++n);
        ret = open_and_close(&f);
        REQUIRE(ret == 0 || ret == AVT_ERR(ENOMEM));
        REQUIRE(avt_mem_bytes(MEM_NB) == before);
    } while (ret < 0);
    avt_mem_fail_at(0);
    REQUIRE(n > 10);
    tiny_remove(&f);
}

/* ---- the published model ---------------------------------------------------------------------------------------- */

/* One block pass with a full ring at 704x384, bf16 weights. */
static void published_costs(void **state)
{
    const DitShape s = avt_dit_shape(88, 48);
    DitConfig c;
    Backend *be;
    Arena *weights, *st, *scratch;
    Binder b;
    Dit d;
    DitTime time;
    DitKeys text, sink, ring;
    double products;
    DitAudio audio;
    DitItem it = { .f0 = 36, .relative_dist = 25, .shape = &s, .time = &time, .text = &text, .sink = &sink, .ring = &ring, .audio = &audio };

    (void)state;
    avt_dit_config_published(&c);
    REQUIRE_OK(avt_backend_open(&be, "dry", NULL));
    REQUIRE_OK(avt_arena_open(&weights, be, "weights", ARENA_UNLIMITED));
    REQUIRE_OK(avt_arena_open(&st, be, "state", ARENA_UNLIMITED));
    REQUIRE_OK(avt_arena_open(&scratch, be, "scratch", ARENA_UNLIMITED));
    REQUIRE_OK(avt_binder_open(&b, NULL, NULL, weights, "dit", DT_BF16, NULL));
    REQUIRE_OK(avt_dit_open(&d, &c, &b, 0, c.nb_layers));
    REQUIRE_OK(avt_dit_time_open(&time, st, &d));
    REQUIRE_OK(avt_dit_keys_open(&text, st, &d, c.text_len, 0));
    REQUIRE_OK(avt_dit_keys_open(&sink, st, &d, s.Lc, s.n));
    REQUIRE_OK(avt_dit_keys_open(&ring, st, &d, s.ring, 0));
    REQUIRE_OK(avt_dit_audio_open(&audio, st, &d, &s, 1, 0));
    it.x = avt_new(st, DT_F32, s.N, c.dim);
    REQUIRE_OK(avt_dit_layers(be, scratch, &d, &it, 1));
    products = be->stat[OP_LINEAR].flops + be->stat[OP_LINEAR_GROUP].flops;
    print_message("dit 14B, 704x384: weights %.3f GB, scratch %.1f MB, %.2f + %.2f TFLOP\n", (double)avt_arena_peak(weights) / 1e9,
                  (double)avt_arena_peak(scratch) / 1e6, products / 1e12, be->stat[OP_ATTENTION].flops / 1e12);
    REQUIRE(fabs((double)avt_arena_peak(weights) / 32591511218. - 1) < 2e-3);
    REQUIRE(fabs(products / 79.73e12 - 1) < 1e-3);
    REQUIRE(fabs(be->stat[OP_ATTENTION].flops / 41.07e12 - 1) < 1e-3);
    REQUIRE(avt_arena_peak(scratch) < (size_t)(s.N * (c.dim + c.ffn_dim) * 4 + (4 << 20)));     // the FFN of one item, and tables
    avt_dit_keys_close(&text);
    avt_dit_keys_close(&sink);
    avt_dit_keys_close(&ring);
    avt_dit_close(&d);
    avt_binder_close(&b);
    avt_arena_close(&weights);
    avt_arena_close(&st);
    avt_arena_close(&scratch);
    avt_backend_close(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planned_is_measured),    cmocka_unit_test(parts_add_up),           cmocka_unit_test(same_bits_everywhere),
        cmocka_unit_test(items_do_not_meet),      cmocka_unit_test(last_sink_layer_is_cut), cmocka_unit_test(int8_attends_in_codes), cmocka_unit_test(wrong_items_are_refused),
        cmocka_unit_test(binding_is_exact),       cmocka_unit_test(memory_runs_out),        cmocka_unit_test(published_costs),
    };

    return test_main("dit", tests);
}
