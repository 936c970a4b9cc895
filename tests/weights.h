/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A safetensors file of seeded f32 weights in a temporary folder, for unit tests of networks: add tensors, write, open.
 * A test that spoils a file adds a wrong tensor, or leaves one out (weights_skip).
 */
#ifndef AVT_TESTS_WEIGHTS_H
#define AVT_TESTS_WEIGHTS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files/ckpt.h"
#include "test.h"

typedef struct Weights {
    char header[1 << 16];
    float *data;
    int64_t nb;                         // values so far
    size_t used;                        // of header
    const char *skip;                   // this tensor is left out
    char dir[64], path[96];
} Weights;

static inline void weights_init(Weights *w)
{
    memset(w, 0, sizeof(*w));
    w->used = (size_t)snprintf(w->header, sizeof(w->header), "{\"__metadata__\":{\"format\":\"pt\"}");
}

/** Values mean + spread * [-1, 1], other ones for every tensor. */
static inline void weights_add(Weights *w, float mean, float spread, const char *name, int nd, const int64_t *dim)
{
    int64_t nb = 1;

    if (w->skip && !strcmp(name, w->skip))
        return;
    for (int i = 0; i < nd; i++)
        nb *= dim[i];
    w->data = realloc(w->data, (size_t)(w->nb + nb) * sizeof(float));
    test_random(w->data + w->nb, nb, (uint64_t)w->nb + 1);
    for (int64_t i = 0; i < nb; i++)
        w->data[w->nb + i] = mean + spread * w->data[w->nb + i];
    w->used += (size_t)snprintf(w->header + w->used, sizeof(w->header) - w->used, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", name);
    for (int i = 0; i < nd; i++)
        w->used += (size_t)snprintf(w->header + w->used, sizeof(w->header) - w->used, "%s%lld", i ? "," : "", (long long)dim[i]);
    w->used += (size_t)snprintf(w->header + w->used, sizeof(w->header) - w->used, "],\"data_offsets\":[%lld,%lld]}",
                                4 * (long long)w->nb, 4 * (long long)(w->nb + nb));
    w->nb += nb;
}
#define WEIGHTS_ADD(w, mean, spread, name, ...)                                                       \
    weights_add(w, mean, spread, name, (int)(sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),                \
                (const int64_t[]){ __VA_ARGS__ })

/** Write what was added to <temporary folder>/model.safetensors. */
static inline void weights_write(Weights *w)
{
    uint64_t size;
    FILE *f;

    w->used += (size_t)snprintf(w->header + w->used, sizeof(w->header) - w->used, "}");
    while (w->used % 8)
        w->header[w->used++] = ' ';
    size = w->used;
    strcpy(w->dir, "/tmp/avatar-test-XXXXXX");
    REQUIRE(mkdtemp(w->dir) != NULL);
    snprintf(w->path, sizeof(w->path), "%s/model.safetensors", w->dir);
    f = fopen(w->path, "wb");
    REQUIRE(f != NULL);
    REQUIRE(fwrite(&size, 8, 1, f) == 1 && fwrite(w->header, w->used, 1, f) == 1);
    REQUIRE(fwrite(w->data, sizeof(float), (size_t)w->nb, f) == (size_t)w->nb);
    fclose(f);
}

static inline void weights_close(Weights *w)
{
    unlink(w->path);
    rmdir(w->dir);
    free(w->data);
}

#endif
