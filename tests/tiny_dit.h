/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tiny diffusion transformer on disk, with seeded random weights: config.json and diffusion_pytorch_model.safetensors in a
 * folder of its own. The names and shapes are written down here once more, as published, so that a test of the binder tests.
 */
#ifndef AVT_TEST_TINY_DIT_H
#define AVT_TEST_TINY_DIT_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nets/dit.h"
#include "test.h"

#define TINY_CONFIG                                                                                   \
    "\"_class_name\": \"WanModel_S2V\", \"model_type\": \"s2v\", \"dim\": 32, \"ffn_dim\": 48, \"num_heads\": 2, \"num_layers\": 3, "  \
    "\"cond_dim\": 16, \"audio_dim\": 8, \"num_audio_token\": 2, \"freq_dim\": 8, \"text_dim\": 12, \"text_len\": 6, \"eps\": 1e-6, "  \
    "\"enable_adain\": true, \"audio_inject_layers\": [0, 2], \"zero_timestep\": true, \"enable_framepack\": true, "                 \
    "\"framepack_drop_mode\": \"padd\", \"enable_motioner\": false"

enum { TINY_D = 32, TINY_DF = 48, TINY_L = 3, TINY_A = 8, TINY_TOKENS = 2, TINY_STATES = 5, TINY_FREQ = 8, TINY_TEXT = 12, TINY_LEN = 6 };

typedef struct TinyWriter {
    char head[1 << 16];
    size_t len;
    FILE *body;
    int64_t offset;
    const char *skip, *extra;           // start of the names left out, one too many
} TinyWriter;

static void tiny_tensor(TinyWriter *w, int64_t fan_in, const char *name, int nd, const int64_t *dim)
{
    int64_t nb = 1;
    float *v;

    if (w->skip && !strncmp(name, w->skip, strlen(w->skip)))
        return;
    for (int i = 0; i < nd; i++)
        nb *= dim[i];
    v = malloc(sizeof(*v) * (size_t)nb);
    test_random(v, nb, (uint64_t)w->offset + 1);
    for (int64_t i = 0; i < nb; i++)
        v[i] = fan_in ? v[i] * sqrtf(3.f / (float)fan_in) : 0.5f + 0.3f * v[i];
    fwrite(v, sizeof(*v), (size_t)nb, w->body);
    free(v);
    w->len += (size_t)snprintf(w->head + w->len, sizeof(w->head) - w->len, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", w->offset ? "," : "", name);
    for (int i = 0; i < nd; i++)
        w->len += (size_t)snprintf(w->head + w->len, sizeof(w->head) - w->len, i ? ",%lld" : "%lld", (long long)dim[i]);
    w->len += (size_t)snprintf(w->head + w->len, sizeof(w->head) - w->len, "],\"data_offsets\":[%lld,%lld]}", (long long)w->offset,
                               (long long)(w->offset + 4 * nb));
    w->offset += 4 * nb;
}
#define TINY(w, fan_in, name, ...) tiny_tensor(w, fan_in, name, AVT_DIMS(__VA_ARGS__))

static void tiny_linear(TinyWriter *w, int64_t out, int64_t in, const char *module)
{
    char name[160];

    snprintf(name, sizeof(name), "%s.weight", module);
    TINY(w, in, name, out, in);
    snprintf(name, sizeof(name), "%s.bias", module);
    TINY(w, 16, name, out);
}

static void tiny_attention(TinyWriter *w, const char *module)
{
    static const char *const names[] = { "q", "k", "v", "o" };
    char name[128];

    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "%s.%s", module, names[i]);
        tiny_linear(w, TINY_D, TINY_D, name);
    }
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof(name), "%s.norm_%s.weight", module, names[i]);
        TINY(w, 0, name, TINY_D);
    }
}

static void tiny_layers(TinyWriter *w)
{
    char name[128];

    for (int i = 0; i < TINY_L; i++) {
        snprintf(name, sizeof(name), "blocks.%d.modulation", i);
        TINY(w, 16, name, 1, 6, TINY_D);
        snprintf(name, sizeof(name), "blocks.%d.self_attn", i);
        tiny_attention(w, name);
        snprintf(name, sizeof(name), "blocks.%d.cross_attn", i);
        tiny_attention(w, name);
        snprintf(name, sizeof(name), "blocks.%d.norm3.weight", i);
        TINY(w, 0, name, TINY_D);
        snprintf(name, sizeof(name), "blocks.%d.norm3.bias", i);
        TINY(w, 16, name, TINY_D);
        snprintf(name, sizeof(name), "blocks.%d.ffn.0", i);
        tiny_linear(w, TINY_DF, TINY_D, name);
        snprintf(name, sizeof(name), "blocks.%d.ffn.2", i);
        tiny_linear(w, TINY_D, TINY_DF, name);
    }
    for (int j = 0; j < 2; j++) {
        snprintf(name, sizeof(name), "audio_injector.injector.%d", j);
        tiny_attention(w, name);
        snprintf(name, sizeof(name), "audio_injector.injector_adain_layers.%d.linear", j);
        tiny_linear(w, 2 * TINY_D, TINY_D, name);
    }
}

static void tiny_conv(TinyWriter *w, const char *module, int nd, const int64_t *dim)
{
    int64_t fan_in = 1;
    char name[128];

    for (int i = 1; i < nd; i++)
        fan_in *= dim[i];
    snprintf(name, sizeof(name), "%s.weight", module);
    tiny_tensor(w, fan_in, name, nd, dim);
    snprintf(name, sizeof(name), "%s.bias", module);
    TINY(w, 16, name, dim[0]);
}
#define TINY_CONV(w, module, ...) tiny_conv(w, module, AVT_DIMS(__VA_ARGS__))

static void tiny_stem(TinyWriter *w)
{
    TINY_CONV(w, "patch_embedding", TINY_D, 16, 1, 2, 2);
    TINY_CONV(w, "cond_encoder", TINY_D, 16, 1, 2, 2);
    TINY_CONV(w, "frame_packer.proj", TINY_D, 16, 1, 2, 2);
    TINY_CONV(w, "frame_packer.proj_2x", TINY_D, 16, 2, 4, 4);
    TINY_CONV(w, "frame_packer.proj_4x", TINY_D, 16, 4, 8, 8);
    TINY(w, 16, "trainable_cond_mask.weight", 3, TINY_D);
    tiny_linear(w, TINY_D, TINY_TEXT, "text_embedding.0");
    tiny_linear(w, TINY_D, TINY_D, "text_embedding.2");
    tiny_linear(w, TINY_D, TINY_FREQ, "time_embedding.0");
    tiny_linear(w, TINY_D, TINY_D, "time_embedding.2");
    tiny_linear(w, 6 * TINY_D, TINY_D, "time_projection.1");
    TINY(w, 16, "head.modulation", 1, 2, TINY_D);
    tiny_linear(w, 64, TINY_D, "head.head");
    TINY(w, 0, "casual_audio_encoder.weights", 1, TINY_STATES, 1, 1);
    TINY(w, 16, "casual_audio_encoder.encoder.padding_tokens", 1, 1, 1, TINY_D);
    TINY_CONV(w, "casual_audio_encoder.encoder.conv1_local.conv", TINY_D / 4 * TINY_TOKENS, TINY_A, 3);
    TINY_CONV(w, "casual_audio_encoder.encoder.conv1_global.conv", TINY_D / 4, TINY_A, 3);
    TINY_CONV(w, "casual_audio_encoder.encoder.conv2.conv", TINY_D / 2, TINY_D / 4, 3);
    TINY_CONV(w, "casual_audio_encoder.encoder.conv3.conv", TINY_D, TINY_D / 2, 3);
    tiny_linear(w, TINY_D, TINY_D, "casual_audio_encoder.encoder.final_linear");
}

typedef struct TinyFiles {
    char dir[256], config[300], weights[300];
} TinyFiles;

static void tiny_write_config(const TinyFiles *f, const char *text)
{
    FILE *out = fopen(f->config, "w");

    REQUIRE(out);
    fprintf(out, "{%s}\n", text);
    fclose(out);
}

static void tiny_copy(FILE *out, FILE *in)
{
    char buf[4096];
    size_t n;

    rewind(in);
    while ((n = fread(buf, 1, sizeof(buf), in)) > 0)
        fwrite(buf, 1, n, out);
}

/* @param skip   tensors whose names start so are left out, or NULL
 * @param extra  a tensor too many [2, 2], or NULL */
static void tiny_write(TinyFiles *f, const char *skip, const char *extra)
{
    TinyWriter *w = calloc(1, sizeof(*w));
    const char *tmp = getenv("TMPDIR");
    uint64_t size;
    FILE *out;

    snprintf(f->dir, sizeof(f->dir), "%s/tiny_dit_XXXXXX", tmp ? tmp : "/tmp");
    REQUIRE(mkdtemp(f->dir));
    snprintf(f->config, sizeof(f->config), "%s/config.json", f->dir);
    snprintf(f->weights, sizeof(f->weights), "%s/diffusion_pytorch_model.safetensors", f->dir);
    w->skip = skip;
    w->body = tmpfile();
    REQUIRE(w->body);
    tiny_stem(w);
    tiny_layers(w);
    if (extra)
        TINY(w, 2, extra, 2, 2);
    out = fopen(f->weights, "w");
    REQUIRE(out);
    size = w->len + 2;
    fwrite(&size, sizeof(size), 1, out);
    fprintf(out, "{%s}", w->head);
    tiny_copy(out, w->body);
    fclose(out);
    fclose(w->body);
    free(w);
    tiny_write_config(f, TINY_CONFIG);
}

static void tiny_remove(const TinyFiles *f)
{
    unlink(f->config);
    unlink(f->weights);
    rmdir(f->dir);
}

#endif
