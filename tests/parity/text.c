/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umT5 and the tokenizer against the reference: every "in.<case>.ids" of t5.safetensors, every prompt of tokenizer/cases.json. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "nets/tokenizer.h"
#include "nets/umt5.h"
#include "parity.h"

#define MAX_TOKENS 512

/* ---- umT5 ------------------------------------------------------------------------------------------------------- */

static int open_encoder(Golden *g, Ckpt **ckpt, Umt5Config *cfg)
{
    static const char *const names[] = { "models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors" };
    char path[4096];

    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/ckpt/%s", g->dir, names[i]);
        if (access(path, R_OK) == 0)
            break;
    }
    if (avt_ckpt_open(ckpt, path, g->log) < 0 || avt_umt5_config(cfg, *ckpt, g->log) < 0) {
        golden_fail(g, "%s cannot be used", path);
        return -1;
    }
    return 0;
}

/* The first n tokens, of which `keys` are seen. */
static Tensor encode(Golden *g, const Ckpt *ckpt, const Umt5Config *cfg, const int64_t *ids, int64_t n, int64_t keys)
{
    const Tensor out = avt_new(g->work, DT_F32, n, cfg->dim);
    int32_t *ids32 = golden_alloc(g, sizeof(*ids32) * (size_t)n);
    Umt5 t;

    for (int64_t i = 0; i < n; i++)
        ids32[i] = (int32_t)ids[i];
    if (avt_umt5_open(&t, cfg, ckpt, g->be, 0, 1) < 0 || avt_umt5_encode(g->be, g->be, g->work, &t, out, ids32, n, keys) < 0)
        golden_fail(g, "the encoder failed");
    avt_umt5_close(&t);
    return out;
}

static void check_prompt(Golden *g, const Ckpt *ckpt, const Umt5Config *cfg, const char *name)
{
    int64_t nb = 0, nb_mask = 0, keys = 0;
    const int64_t *ids = golden_in_ints(g, &nb, "%s.ids", name), *mask = golden_in_ints(g, &nb_mask, "%s.mask", name);

    if (!ids || !mask || nb != nb_mask) {
        golden_fail(g, "%s: ids and mask do not agree", name);
        return;
    }
    while (keys < nb && mask[keys])
        keys++;
    for (int64_t i = keys; i < nb; i++)
        if (mask[i]) {
            golden_fail(g, "%s: the mask has a hole", name);
            return;
        }
    golden_expect(g, encode(g, ckpt, cfg, ids, nb, keys), "%s.hidden", name);
    golden_expect(g, encode(g, ckpt, cfg, ids, keys, keys), "%s.context", name);
}

static void check_buckets(Golden *g)
{
    int64_t nb = 0;
    const int64_t *rel = golden_in_ints(g, &nb, "relpos");
    int64_t *bucket = golden_alloc(g, sizeof(*bucket) * (size_t)(nb + 1));

    for (int64_t i = 0; i < nb; i++)
        bucket[i] = avt_umt5_bucket(rel[i]);
    golden_expect_ints(g, bucket, nb, "relpos_bucket");
}

void case_t5(Golden *g)
{
    Umt5Config cfg;
    Ckpt *ckpt = NULL;

    if (open_encoder(g, &ckpt, &cfg) == 0)
        for (int64_t i = 0; i < avt_ckpt_nb(g->file); i++) {
            const char *name = avt_ckpt_get(g->file, i)->name, *end = strstr(name, ".ids");
            char prompt[128];

            if (strncmp(name, "in.", 3) || !end || end[4])
                continue;
            snprintf(prompt, sizeof(prompt), "%.*s", (int)(end - name - 3), name + 3);
            check_prompt(g, ckpt, &cfg, prompt);
        }
    if (golden_has(g, "in.relpos"))
        check_buckets(g);
    avt_ckpt_close(&ckpt);
}

/* ---- tokenizer -------------------------------------------------------------------------------------------------- */

static const char *text_of(const Json *o, const char *key)
{
    const Json *v = avt_json_get(o, key);

    return json_is(v, JSON_TEXT) ? v->text : NULL;
}

static void check_ids(Golden *g, const Tokenizer *t, const char *cleaned, const Json *wanted, const char *key, int index)
{
    int32_t ids[MAX_TOKENS];
    const int nb = avt_tokenizer_encode(t, ids, MAX_TOKENS, cleaned, NULL);

    g->nb_compared++;
    if (nb != json_nb(wanted)) {
        golden_fail(g, "%s, prompt %d: %d ids, wanted %d", key, index, nb, json_nb(wanted));
        return;
    }
    for (int i = 0; i < nb; i++)
        if (ids[i] != (int)json_int(json_at(wanted, i))) {
            golden_fail(g, "%s, prompt %d: id %d is %d, wanted %d", key, index, i, ids[i],
                        (int)json_int(json_at(wanted, i)));
            return;
        }
}

static void check_cleaning(Golden *g, const Json *prompt, int index)
{
    const char *text = text_of(prompt, "prompt"), *wanted = text_of(prompt, "cleaned");
    char *cleaned = NULL;

    if (!text || !wanted) {
        golden_fail(g, "prompt %d has no text", index);
        return;
    }
    if (avt_text_clean(&cleaned, text, g->log) < 0) {
        golden_fail(g, "prompt %d was refused", index);
        return;
    }
    g->nb_compared++;
    if (strcmp(cleaned, wanted))
        golden_fail(g, "prompt %d: cleaned \"%.60s\", wanted \"%.60s\"", index, cleaned, wanted);
    avt_free(cleaned);
}

/* The model of ids named `key`: "small" is the checkpoint's own, others lie beside the cases. */
static void check_model(Golden *g, const Json *prompts, const char *key)
{
    Tokenizer *t = NULL;
    char path[4096];

    if (!strcmp(key, "small"))
        snprintf(path, sizeof(path), "%s/ckpt/google/umt5-xxl/spiece.model", g->dir);
    else
        snprintf(path, sizeof(path), "%s/tokenizer/%s.model", g->dir, key);
    if (avt_tokenizer_open(&t, path, g->log) < 0) {
        golden_fail(g, "%s cannot be used", path);
        return;
    }
    for (int i = 0; i < json_nb(prompts); i++) {
        const Json *prompt = json_at(prompts, i), *ids = avt_json_get(prompt, key);

        if (!json_is(ids, JSON_LIST))
            golden_fail(g, "prompt %d has no ids of %s", i, key);
        else if (text_of(prompt, "cleaned"))
            check_ids(g, t, text_of(prompt, "cleaned"), ids, key, i);
    }
    avt_tokenizer_close(&t);
}

void case_tokenizer(Golden *g)
{
    const Json *prompts;
    Json *j = NULL;
    char path[4096];

    snprintf(path, sizeof(path), "%s/tokenizer/cases.json", g->dir);
    if (avt_json_read(&j, path, g->log) < 0) {
        golden_fail(g, "%s cannot be read", path);
        return;
    }
    prompts = avt_json_get(j, "cases");
    if (!json_nb(prompts))
        golden_fail(g, "%s has no cases", path);
    else {
        for (int i = 0; i < json_nb(prompts); i++)
            check_cleaning(g, json_at(prompts, i), i);
        for (const Json *m = avt_json_first(prompts->first); m; m = m->next)
            if (json_is(m, JSON_LIST))
                check_model(g, prompts, m->key);
    }
    avt_json_close(&j);
}
