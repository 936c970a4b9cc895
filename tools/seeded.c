/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Model folders with random weights. See seeded.h. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "base/half.h"
#include "base/philox.h"
#include "base/text.h"
#include "base/thread.h"
#include "engine/engine.h"
#include "seeded.h"

#define MAX_TENSORS 4096

typedef struct Item {
    char name[200];
    int nd;
    int64_t dim[CKPT_MAX_DIM];
} Item;

typedef struct List {
    Item *item;
    int nb, ret;                        // ret: the first error; what comes behind it does nothing
} List;

static void record(void *opaque, const char *name, int nd, const int64_t *dim)
{
    List *l = opaque;
    Item *it;

    if (l->ret < 0)
        return;
    if (l->nb == MAX_TENSORS) {
        l->ret = AVT_ERR(E2BIG);
        return;
    }
    it = &l->item[l->nb++];
    snprintf(it->name, sizeof(it->name), "%s", name);
    it->nd = nd;
    memcpy(it->dim, dim, sizeof(*dim) * (size_t)nd);
}

static void add(List *l, int nd, const int64_t *dim, const char *fmt, ...) AVT_PRINTF(4, 5);

static void add(List *l, int nd, const int64_t *dim, const char *fmt, ...)
{
    char name[200];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(name, sizeof(name), fmt, ap);
    va_end(ap);
    record(l, name, nd, dim);
}

/* Few are made by the caller's thread: a process that was forked from one with OpenMP's threads has none of them, and would wait. */
void seeded_random(float *v, int64_t nb, uint64_t seed)
{
#pragma omp parallel for if (nb > 1 << 20)
    for (int64_t q = 0; q < (nb + 3) / 4; q++) {
        uint32_t x[4];

        avt_philox(x, seed, (uint32_t)q, 0, 0, 77);
        for (int i = 0; i < 4 && 4 * q + i < nb; i++)
            v[4 * q + i] = (float)((int32_t)x[i] * 0x1p-31);
    }
}

static int64_t count(const Item *it)
{
    int64_t n = 1;

    for (int i = 0; i < it->nd; i++)
        n *= it->dim[i];
    return n;
}

static int is_norm(const char *name)
{
    return (strstr(name, "norm") && !strstr(name, "bias")) || strstr(name, "gamma") || strstr(name, "residual.0.") || strstr(name, "weight_g");
}

/* Matrices keep the scale of their input, norms are near one, the rest is small: numbers as in a trained network. */
static void fill(float *v, const Item *it, uint64_t seed, const SeededGain *gain)
{
    const int64_t n = count(it), fan = it->nd > 1 && it->dim[0] ? n / it->dim[0] : 1;
    float scale = it->nd > 1 ? sqrtf(3.0f / (float)fan) : 0.1f;
    int norm;

    for (const char *p = it->name; *p; p++)
        seed = seed * 1099511628211u ^ (uint8_t)*p;
    for (; gain && gain->part; gain++)
        scale *= strstr(it->name, gain->part) ? gain->gain : 1;
    seeded_random(v, n, seed);
    norm = is_norm(it->name);
#pragma omp parallel for simd if (n > 65536)
    for (int64_t i = 0; i < n; i++)
        v[i] = norm ? 1 + 0.1f * v[i] : scale * v[i];
}

/* 0 or an error, said: a disk may be full. */
static int close_written(FILE *f, const char *path)
{
    const int failed = ferror(f) | fclose(f);

    return failed ? fprintf(stderr, "%s: %s\n", path, strerror(errno)), AVT_ERR(EIO) : 0;
}

/* The list of tensors that a safetensors file begins with. */
static void write_head(const List *l, FILE *f, DType dtype, char *head)
{
    const int half = dtype == DT_BF16;
    char shape[160];
    uint64_t at = 0, n = (uint64_t)sprintf(head, "{");

    for (int i = 0; i < l->nb; i++) {
        const Item *it = &l->item[i];
        const uint64_t size = (uint64_t)count(it) * (half ? 2 : 4);

        avt_shape_text(shape, sizeof(shape), it->nd, it->dim);
        n += (uint64_t)sprintf(head + n, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%llu,%llu]}", i ? "," : "", it->name,
                               half ? "BF16" : "F32", shape, (unsigned long long)at, (unsigned long long)(at + size));
        at += size;
    }
    n += (uint64_t)sprintf(head + n, "}");
    while (n % 8)
        head[n++] = ' ';
    fwrite(&n, 8, 1, f);
    fwrite(head, 1, n, f);
}

/* v: room for the largest tensor. */
static int write_tensors(const List *l, FILE *f, DType dtype, float *v, uint64_t seed, const SeededGain *gain, int (*stop)(void))
{
    uint16_t *h = (uint16_t *)v;

    for (int i = 0; i < l->nb && !ferror(f); i++) {
        const int64_t nb = count(&l->item[i]);

        if (stop && stop())
            return AVT_ERR(ECANCELED);
        fill(v, &l->item[i], seed, gain);
        for (int64_t j = 0; dtype == DT_BF16 && j < nb; j++)
            h[j] = avt_f32_bf16(v[j]);
        fwrite(v, dtype == DT_BF16 ? 2 : 4, (size_t)nb, f);
    }
    return 0;
}

/* One room for all tensors: fresh pages for each cost as much as its numbers. */
static int write_safetensors(const List *l, const char *path, DType dtype, uint64_t seed, const SeededGain *gain, int (*stop)(void))
{
    int64_t most = 0;
    char *head = NULL;
    float *v = NULL;
    FILE *f = NULL;
    int ret = l->ret;

    for (int i = 0; i < l->nb; i++)
        most = count(&l->item[i]) > most ? count(&l->item[i]) : most;
    if (ret >= 0 && (!(head = malloc((size_t)l->nb * 512 + 16)) || !(v = malloc((size_t)most * 4 + 1))))
        ret = AVT_ERR(ENOMEM);
    if (ret >= 0)
        f = fopen(path, "wb");
    if (!f) {
        fprintf(stderr, "avatar: %s: %s\n", path, ret < 0 ? avatar_error_text(ret) : strerror(errno));
        ret = ret < 0 ? ret : AVT_ERR(EIO);
    } else {
        write_head(l, f, dtype, head);
        ret = write_tensors(l, f, dtype, v, seed, gain, stop);
        ret = close_written(f, path) < 0 && ret >= 0 ? AVT_ERR(EIO) : ret;
    }
    free(head);
    free(v);
    return ret;
}

typedef struct Bench {                  // a dry backend whose binder records
    Backend *be;
    Arena *arena;
    Binder binder;
} Bench;

static int bench_open(Bench *b, List *l, const char *what)
{
    int ret;

    *b = (Bench){ .be = NULL };
    l->nb = l->ret = 0;
    if ((ret = avt_backend_open(&b->be, "dry", NULL)) < 0 || (ret = avt_arena_open(&b->arena, b->be, "weights", ARENA_UNLIMITED)) < 0)
        return ret;
    ret = avt_binder_open(&b->binder, NULL, NULL, b->arena, what, DT_F32, NULL);
    b->binder.record = record;
    b->binder.record_opaque = l;
    return ret;
}

/* `ret`: of what the network said. */
static void bench_close(Bench *b, List *l, int ret)
{
    avt_binder_close(&b->binder);
    avt_arena_close(&b->arena);
    avt_backend_close(&b->be);
    l->ret = l->ret < 0 ? l->ret : ret;
}

static void list_dit(List *l, const PlanSizes *s)
{
    Dit d = { .l0 = 0 };
    Bench b;
    int ret = bench_open(&b, l, "dit");

    if (ret >= 0)
        ret = avt_dit_open(&d, &s->dit, &b.binder, 0, s->dit.nb_layers);
    avt_dit_close(&d);
    bench_close(&b, l, ret);
}

static void list_vae(List *l, const PlanSizes *s)
{
    Bench b;
    Vae v;
    int ret = bench_open(&b, l, "vae");

    if (ret >= 0)
        ret = avt_vae_open(&v, &b.binder, s->vae_width, VAE_ENCODER | VAE_DECODER);
    bench_close(&b, l, ret);
}

static void list_wav2vec2(List *l, const PlanSizes *s)
{
    Wav2Vec2 w = { .cfg.dim = 0 };
    Bench b;
    int ret = bench_open(&b, l, "wav2vec2");

    if (ret >= 0)
        ret = avt_wav2vec2_open(&w, &s->wav2vec2, &b.binder);
    avt_wav2vec2_close(&w);
    bench_close(&b, l, ret);
}

static void list_umt5(List *l, const Umt5Config *c)
{
    l->nb = l->ret = 0;
    add(l, AVT_DIMS(c->vocab, c->dim), "token_embedding.weight");
    for (int i = 0; i < c->nb_layers; i++) {
        add(l, AVT_DIMS(c->dim), "blocks.%d.norm1.weight", i);
        add(l, AVT_DIMS(c->dim), "blocks.%d.norm2.weight", i);
        add(l, AVT_DIMS(c->attn_dim, c->dim), "blocks.%d.attn.q.weight", i);
        add(l, AVT_DIMS(c->attn_dim, c->dim), "blocks.%d.attn.k.weight", i);
        add(l, AVT_DIMS(c->attn_dim, c->dim), "blocks.%d.attn.v.weight", i);
        add(l, AVT_DIMS(c->dim, c->attn_dim), "blocks.%d.attn.o.weight", i);
        add(l, AVT_DIMS(c->ffn_dim, c->dim), "blocks.%d.ffn.gate.0.weight", i);
        add(l, AVT_DIMS(c->ffn_dim, c->dim), "blocks.%d.ffn.fc1.weight", i);
        add(l, AVT_DIMS(c->dim, c->ffn_dim), "blocks.%d.ffn.fc2.weight", i);
        add(l, AVT_DIMS(c->nb_buckets, c->nb_heads), "blocks.%d.pos_embedding.embedding.weight", i);
    }
    add(l, AVT_DIMS(c->dim), "norm.weight");
}

/* A pair for each q, k, v, o, ffn.0, ffn.2 of the transformer's list. */
static void list_lora(List *out, const List *dit, int rank)
{
    static const char *const ends[] = { ".q.weight", ".k.weight", ".v.weight", ".o.weight", ".ffn.0.weight", ".ffn.2.weight" };

    out->nb = out->ret = 0;
    for (int i = 0; i < dit->nb; i++)
        for (size_t e = 0; e < sizeof(ends) / sizeof(ends[0]); e++) {
            const Item *it = &dit->item[i];
            const size_t n = strlen(it->name), m = strlen(ends[e]);

            if (n < m || strcmp(it->name + n - m, ends[e]))
                continue;
            add(out, AVT_DIMS(rank, it->dim[1]), "%.*s.lora_A.default.weight", (int)(n - 7), it->name);
            add(out, AVT_DIMS(it->dim[0], rank), "%.*s.lora_B.default.weight", (int)(n - 7), it->name);
        }
}

static int write_text(const char *dir, const char *name, const char *fmt, ...) AVT_PRINTF(3, 4);

static int write_text(const char *dir, const char *name, const char *fmt, ...)
{
    char path[1200];
    va_list ap;
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    if (!f)
        return fprintf(stderr, "%s: %s\n", path, strerror(errno)), AVT_ERR(EIO);
    va_start(ap, fmt);
    vfprintf(f, fmt, ap);
    va_end(ap);
    return close_written(f, path);
}

static int write_configs(const SeededModel *m, const char *dir)
{
    const DitConfig *d = &m->sizes.dit;
    const Wav2Vec2Config *w = &m->sizes.wav2vec2;
    char list[256] = "";
    int ret;

    for (int i = 0; i < d->nb_inject; i++)
        snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%d", i ? ", " : "", d->inject[i]);
    ret = write_text(dir, "config.json",
               "{\"_class_name\": \"WanModel_S2V\", \"model_type\": \"s2v\", \"dim\": %d, \"ffn_dim\": %d, \"num_heads\": %d, \"num_layers\": %d,\n"
               " \"in_dim\": 16, \"out_dim\": 16, \"cond_dim\": 16, \"audio_dim\": %d, \"num_audio_token\": %d, \"freq_dim\": %d,\n"
               " \"text_dim\": %d, \"text_len\": %d, \"eps\": 1e-06, \"enable_adain\": true, \"adain_mode\": \"attn_norm\",\n"
               " \"audio_inject_layers\": [%s], \"zero_init\": true, \"zero_timestep\": true, \"add_last_motion\": true,\n"
               " \"enable_framepack\": true, \"framepack_drop_mode\": \"padd\", \"enable_motioner\": false, \"enable_tsm\": false,\n"
               " \"trainable_token_pos_emb\": false, \"motion_token_num\": 1024}\n",
               d->dim, d->ffn_dim, d->nb_heads, d->nb_layers, d->audio_dim, d->nb_audio_tokens, d->freq_dim, d->text_dim, d->text_len, list);
    ret = ret < 0 ? ret : write_text(dir, "wav2vec2-large-xlsr-53-english/config.json",
               "{\"model_type\": \"wav2vec2\", \"hidden_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d,\n"
               " \"intermediate_size\": %d, \"conv_dim\": [%d, %d, %d, %d, %d, %d, %d], \"conv_kernel\": [10, 3, 3, 3, 3, 2, 2],\n"
               " \"conv_stride\": [5, 2, 2, 2, 2, 2, 2], \"num_conv_pos_embeddings\": %d, \"num_conv_pos_embedding_groups\": %d,\n"
               " \"feat_extract_norm\": \"layer\", \"do_stable_layer_norm\": true, \"conv_bias\": true, \"layer_norm_eps\": 1e-05,\n"
               " \"hidden_act\": \"gelu\", \"feat_extract_activation\": \"gelu\"}\n",
               w->dim, w->nb_layers, w->nb_heads, w->ffn_dim, w->conv_dim[0], w->conv_dim[1], w->conv_dim[2], w->conv_dim[3], w->conv_dim[4],
               w->conv_dim[5], w->conv_dim[6], w->pos_kernel, w->pos_groups);
    ret = ret < 0 ? ret : write_text(dir, "wav2vec2-large-xlsr-53-english/preprocessor_config.json",
               "{\"sampling_rate\": 16000, \"do_normalize\": true, \"feature_size\": 1}\n");
    return ret < 0 || !m->avatar_json ? ret : write_text(dir, "avatar.json", "%s", m->avatar_json);
}

static int copy_file(const char *from, const char *dir, const char *name)
{
    char path[1200], buf[65536];
    FILE *in = fopen(from, "rb"), *out;
    size_t n;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    out = in ? fopen(path, "wb") : NULL;
    if (!out) {
        fprintf(stderr, "avatar: %s: cannot be copied to %s: %s\n", from, path, strerror(errno));
        return in ? fclose(in), AVT_ERR(EIO) : AVT_ERR(EIO);
    }
    while ((n = fread(buf, 1, sizeof(buf), in)) > 0)
        fwrite(buf, 1, n, out);
    fclose(in);
    return close_written(out, path);
}

int seeded_network(const SeededModel *m, const char *network, const char *path)
{
    List l = { .item = calloc(MAX_TENSORS, sizeof(Item)) };
    DType type = DT_F32;
    int ret;

    if (!l.item)
        return AVT_ERR(ENOMEM);
    if (!strcmp(network, "dit"))
        list_dit(&l, &m->sizes), type = m->sizes.dtype;
    else if (!strcmp(network, "vae"))
        list_vae(&l, &m->sizes);
    else if (!strcmp(network, "wav2vec2"))
        list_wav2vec2(&l, &m->sizes);
    else
        list_umt5(&l, &m->sizes.umt5), type = m->t5_dtype;
    ret = write_safetensors(&l, path, type, m->seed, m->gain, NULL);
    free(l.item);
    return ret;
}

static const char *const folders[] = { "", "/google", "/google/umt5-xxl", "/wav2vec2-large-xlsr-53-english" };

int seeded_write(const SeededModel *m, const char *dir)
{
    List l = { .item = calloc(MAX_TENSORS, sizeof(Item)) }, lora = { .item = calloc(MAX_TENSORS, sizeof(Item)) };
    char path[1200];
    int ret = 0;

    if (!l.item || !lora.item) {
        free(l.item);
        free(lora.item);
        return fprintf(stderr, "avatar: %s: no memory for the names of its tensors\n", dir), AVT_ERR(ENOMEM);
    }
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof(path), "%s%s", dir, folders[i]);
        mkdir(path, 0777);
    }
#define WRITE(list, name, type) \
    (snprintf(path, sizeof(path), "%s/%s", dir, name), ret = ret < 0 ? ret : write_safetensors(list, path, type, m->seed, m->gain, m->stop))
    list_dit(&l, &m->sizes);
    WRITE(&l, "diffusion_pytorch_model.safetensors", m->sizes.dtype);
    if (m->lora_rank) {
        list_lora(&lora, &l, m->lora_rank);
        WRITE(&lora, "liveavatar.safetensors", DT_BF16);
    }
    list_vae(&l, &m->sizes);
    WRITE(&l, "Wan2.1_VAE.safetensors", DT_F32);
    list_wav2vec2(&l, &m->sizes);
    WRITE(&l, "wav2vec2-large-xlsr-53-english/model.safetensors", DT_F32);
    list_umt5(&l, &m->sizes.umt5);
    WRITE(&l, "models_t5_umt5-xxl-enc-bf16.safetensors", m->t5_dtype);
#undef WRITE
    ret = ret < 0 ? ret : write_configs(m, dir);
    free(l.item);
    free(lora.item);
    return ret < 0 ? ret : copy_file(m->spiece, dir, "google/umt5-xxl/spiece.model");
}

void seeded_remove(const char *dir)
{
    static const char *const names[] = { "diffusion_pytorch_model.safetensors", "liveavatar.safetensors", "Wan2.1_VAE.safetensors", "config.json",
                                         "wav2vec2-large-xlsr-53-english/model.safetensors", "wav2vec2-large-xlsr-53-english/config.json",
                                         "wav2vec2-large-xlsr-53-english/preprocessor_config.json", "models_t5_umt5-xxl-enc-bf16.safetensors",
                                         "google/umt5-xxl/spiece.model", "avatar.json" };
    char path[1200];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        unlink(path);
    }
    for (int i = 3; i >= 0; i--) {
        snprintf(path, sizeof(path), "%s%s", dir, folders[i]);
        rmdir(path);
    }
}

void seeded_published(SeededModel *m, int heads, const char *spiece)
{
    PlanSizes *s = &m->sizes;

    *m = (SeededModel){ .t5_dtype = DT_BF16, .seed = 1, .spiece = spiece,
                        .avatar_json = "{\"name\": \"random weights\", \"lora\": \"none\", \"prompt\": \"a talk\", \"size\": \"64x64\"}\n" };
    avt_plan_sizes_published(s);
    s->dit.nb_layers = 2;
    s->dit.nb_inject = 1;
    s->dit.inject[0] = 0;
    s->dit.nb_audio_layers = 3;
    s->wav2vec2.nb_layers = 2;
    s->umt5.nb_layers = 1;
    s->umt5.vocab = 2048;
    if (heads == s->dit.nb_heads)
        return;
    s->dit.ffn_dim = s->dit.ffn_dim * heads / s->dit.nb_heads / 16 * 16;
    s->dit.dim = 128 * heads;
    s->dit.nb_heads = heads;
    s->dit.audio_dim = s->dit.text_dim = 64;
    s->wav2vec2 = (Wav2Vec2Config){ 64, 2, 4, 128, { 16, 16, 16, 16, 16, 16, 16 }, 4, 16 };
    s->umt5 = (Umt5Config){ .dim = 64, .attn_dim = 64, .ffn_dim = 128, .nb_heads = 4, .nb_layers = 1, .nb_buckets = 32, .vocab = 2048, .dtype = DT_BF16 };
    s->vae_width = 8;
}

/* Where libgomp cannot make its threads it ends the program: then it is to make none. */
static void try_threads(void)
{
#if defined(_OPENMP)
    if (avt_thread_team(omp_get_max_threads(), NULL) < 0)
        omp_set_num_threads(1);
#endif
}

int seeded_open(char *folder, size_t size, int heads, const char *models, int (*stop)(void))
{
    const char *tmp = getenv("TMPDIR");
    char nano[PATH_MAX], spiece[PATH_MAX + 64];
    SeededModel m;

    folder[0] = 0;
    if (heads < 1 || heads > 40)
        return fprintf(stderr, "avatar: --seeded: %d heads; 40 as published, or 1 to 39\n", heads), AVT_ERR(EINVAL);
    avt_options_folder(nano, &(AvatarOptions){ .models = models });
    snprintf(spiece, sizeof(spiece), "%s/google/umt5-xxl/spiece.model", nano);
    snprintf(folder, size, "%s/avatar-seeded-XXXXXX", tmp && *tmp ? tmp : "/var/tmp");
    if (!mkdtemp(folder)) {
        const int error = errno;
        char shown[PATH_MAX + 64];

        avt_printable(shown, sizeof(shown), folder);
        fprintf(stderr, "avatar: %s: %s; name another place in TMPDIR\n", shown, strerror(error));
        folder[0] = 0;
        return AVT_ERR(EIO);
    }
    seeded_published(&m, heads, spiece);
    m.stop = stop;
    try_threads();
    return seeded_write(&m, folder);
}
