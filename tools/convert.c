/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar convert --precision int8|fp8 -o DIR [--model DIR] [--lora ...]: a model whose layers are kept as codes, once and for all.
 *
 *   transformer   the same files and names; X.weight of the layers' products as I8 or F8_E4M3, X.weight_scale [out] f32 beside it, of I8
 *                 X.weight_rotation, too; everything else as it is. The LoRA is merged, before that
 *   avatar.json   as it was, but "lora": "merged"
 *   the rest      copies; of what is large, links to the same files where links can be (convert_files.c)
 *
 * Codes are made by the functions that load a model, so such a folder gives the same bits as the one that it is made of.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/mem.h"
#include "base/text.h"
#include "convert.h"
#include "json_out.h"
#include "quantize.h"
#include "speak.h"
#include "stop.h"

/* ---- what is written ----------------------------------------------------------------------------------------------- */

/* Scales and such of a file of codes, which are made anew or not needed */
static int lies_beside(const Convert *c, const CkptTensor *t)
{
    static const char *const tail[] = { ".weight_scale", ".weight_rotation", ".scale_weight", ".scale_input", ".input_scale", ".comfy_quant" };
    char name[CONVERT_NAME];

    for (size_t i = 0; i < sizeof(tail) / sizeof(tail[0]); i++)
        if (avt_ends_with(t->name, tail[i])) {
            snprintf(name, sizeof(name), "%.*s.weight", (int)(strlen(t->name) - strlen(tail[i])), t->name);
            return avt_ckpt_find(c->ckpt, name) != NULL;
        }
    return 0;
}

/* Is the tensor changed: made codes, or merged with the LoRA, or taken out of codes or blocks that this file does not keep? */
static int is_product(const CkptTensor *t)
{
    return t->nd == 2 && avt_dit_is_product(t->name);
}

static int is_merged(const Convert *c, const CkptTensor *t)
{
    char module[CONVERT_NAME];

    snprintf(module, sizeof(module), "%.*s", (int)(strlen(t->name) - strlen(".weight")), t->name);
    return c->lora && t->nd == 2 && avt_ends_with(t->name, ".weight") && avt_lora_has(c->lora, module);
}

static Item *add(Convert *c, const char *name, const char *tail, const char *type, int nd, const int64_t *dim, size_t element)
{
    Item *it = &c->item[c->nb++];

    *it = (Item){ .name = name, .tail = tail, .type = type, .nd = nd, .size = element };
    for (int i = 0; i < nd; i++) {
        it->dim[i] = dim[i];
        it->size *= (size_t)dim[i];
    }
    return it;
}

static const char *type_name(DType t)
{
    static const char *const name[DT_NB] = { [DT_F32] = "F32", [DT_BF16] = "BF16", [DT_F16] = "F16", [DT_F64] = "F64", [DT_I64] = "I64",
                                             [DT_I32] = "I32", [DT_U8] = "U8", [DT_I8] = "I8", [DT_F8_E4M3] = "F8_E4M3", [DT_F8_E5M2] = "F8_E5M2" };

    return name[t];
}

/* Items of one of the checkpoint's files, in the order of names */
static void list_items(Convert *c, const CkptFile *f)
{
    c->nb = 0;
    for (int64_t i = 0; i < avt_ckpt_nb(c->ckpt); i++) {
        const CkptTensor *t = avt_ckpt_get(c->ckpt, i);

        if (t->file != f || lies_beside(c, t))
            continue;
        c->before += t->size;
        if (!is_product(t)) {
            const DType type = avt_is_code(t->dtype) ? DT_BF16 : t->dtype;

            add(c, t->name, "", type_name(type), t->nd, t->dim, avt_dtype_size(type))->from = t;
            continue;
        }
        add(c, t->name, "", type_name(c->type), 2, t->dim, 1)->from = t;
        add(c, t->name, "_scale", "F32", 1, t->dim, sizeof(float));
        if (c->type == DT_I8)
            add(c, t->name, "_rotation", "I32", 1, (const int64_t[]){ 1 }, sizeof(int32_t));
    }
}

static void put_name(FILE *out, const Item *it)
{
    char name[CONVERT_NAME];

    snprintf(name, sizeof(name), "%s%s", it->name, it->tail);
    json_text(out, name);
}

static char *header(const Convert *c)
{
    char *text = NULL;
    size_t size = 0, at = 0;
    FILE *f = open_memstream(&text, &size);

    if (f)
        fprintf(f, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int64_t i = 0; i < c->nb && f; i++) {
        const Item *it = &c->item[i];

        fputc(',', f);
        put_name(f, it);
        fprintf(f, ":{\"dtype\":\"%s\",\"shape\":[", it->type);
        for (int d = 0; d < it->nd; d++)
            fprintf(f, d ? ",%lld" : "%lld", (long long)it->dim[d]);
        fprintf(f, "],\"data_offsets\":[%zu,%zu]}", at, at + it->size);
        at += it->size;
    }
    if (f)
        fputc('}', f);
    while (f && ftell(f) % 8)
        fputc(' ', f);
    return json_take(f, &text);
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

/* Numbers of t as the layers would get them, the LoRA merged */
static float *values_of(Convert *c, const CkptTensor *t)
{
    c->binder.nb_problems = 0;
    c->binder.status = 0;
    return avt_bind_host(&c->binder, t->nd, t->dim, "%s", t->name);
}

static int write_codes(Convert *c, const CkptTensor *t)
{
    const int64_t rows = t->dim[0], k = t->dim[1];
    const int32_t group = (int32_t)avt_code_group(c->type, k);
    float *v = values_of(c, t), *scale = malloc((size_t)(rows + 1) * sizeof(*scale));
    uint8_t *codes = malloc((size_t)(rows * k) + 1);
    int ret = v ? scale && codes ? 0 : AVT_ERR(ENOMEM) : AVT_INVALID;

    if (ret >= 0)
        ret = avt_quantize_rows(codes, scale, c->type, DT_F32, v, rows, k);
    if (ret >= 0)
        ret = convert_write(c, codes, (size_t)(rows * k));
    if (ret >= 0)
        ret = convert_write(c, scale, (size_t)rows * sizeof(*scale));
    if (ret >= 0 && c->type == DT_I8)
        ret = convert_write(c, &group, sizeof(group));
    avt_free(v);
    free(scale);
    free(codes);
    return ret;
}

/* What is no product, changed by the LoRA, or codes of others: in its own type, or bf16 */
static int write_values(Convert *c, const CkptTensor *t)
{
    const int64_t nb = avt_ckpt_values(t);
    float *v = values_of(c, t);
    uint16_t *half = (uint16_t *)v;
    int ret = v ? 0 : AVT_INVALID;

    if (v && t->dtype != DT_F32) {
        for (int64_t i = 0; i < nb; i++)
            half[i] = t->dtype == DT_F16 ? avt_f32_f16(v[i]) : avt_f32_bf16(v[i]);          // in place: 2 i never overtakes 4 i
        ret = convert_write(c, half, (size_t)nb * sizeof(*half));
    } else if (v)
        ret = convert_write(c, v, (size_t)nb * sizeof(*v));
    avt_free(v);
    return ret;
}

static int write_raw(Convert *c, const CkptTensor *t)
{
    const size_t most = 1 << 24;
    char *piece = malloc(most);
    int ret = piece ? 0 : AVT_ERR(ENOMEM);

    for (size_t at = 0; at < t->size && ret >= 0; at += most) {
        const size_t nb = t->size - at < most ? t->size - at : most;

        ret = avt_ckpt_read(t, piece, at, nb, c->log);
        if (ret >= 0)
            ret = convert_write(c, piece, nb);
    }
    free(piece);
    return ret;
}

static int write_item(Convert *c, const Item *it)
{
    const CkptTensor *t = it->from;

    if (!t)
        return 0;                                                   // written with the codes before it
    if (is_product(t))
        return write_codes(c, t);
    return is_merged(c, t) || avt_is_code(t->dtype) || t->pack ? write_values(c, t) : write_raw(c, t);
}

/* ---- files --------------------------------------------------------------------------------------------------------- */

static int write_shard(Convert *c, const char *name)
{
    char *text = header(c);
    uint64_t len = text ? strlen(text) : 0;
    int ret = text ? convert_open(c, name) : AVT_ERR(ENOMEM);

    if (ret < 0) {
        free(text);
        return ret;
    }
    ret = convert_write(c, &len, sizeof(len));
    if (ret >= 0)
        ret = convert_write(c, text, len);
    for (int64_t i = 0; i < c->nb && ret >= 0; i++) {
        ret = write_item(c, &c->item[i]);
        c->after += c->item[i].size;
        progress_add(&c->progress, c->item[i].from ? (double)c->item[i].from->size : 0);
    }
    free(text);
    return convert_close(c, ret);
}

/* A line of the index for each item of a shard */
static void index_shard(const Convert *c, const char *shard, FILE *index)
{
    for (int64_t i = 0; i < c->nb; i++) {
        fprintf(index, ftell(index) ? ",\n    " : "\n    ");
        put_name(index, &c->item[i]);
        fprintf(index, ": ");
        json_text(index, shard);
    }
}

static int write_index(Convert *c, const char *map)
{
    char *text = avt_sprintf(MEM_MISC, "{\n  \"metadata\": {\"total_size\": %zu},\n  \"weight_map\": {%s\n  }\n}\n", c->after, map);
    const int ret = text ? convert_text(c, "diffusion_pytorch_model.safetensors.index.json", text) : AVT_ERR(ENOMEM);

    avt_free(text);
    return ret;
}

/* A file of the transformer's after the other; with several an index of them */
static int write_transformer(Convert *c)
{
    const int whole = !avt_ends_with(c->dir.dit, ".json");
    const CkptFile **seen = calloc((size_t)avt_ckpt_nb(c->ckpt) + 1, sizeof(*seen));
    char *map = NULL;
    size_t size;
    FILE *index = open_memstream(&map, &size);
    int64_t nb_seen = 0;
    int ret = seen && index ? 0 : AVT_ERR(ENOMEM);

    for (int64_t i = 0; i < avt_ckpt_nb(c->ckpt) && ret >= 0; i++) {
        const CkptFile *f = avt_ckpt_get(c->ckpt, i)->file;
        const char *name = whole ? "diffusion_pytorch_model.safetensors" : f->name;
        int64_t j = 0;

        while (j < nb_seen && seen[j] != f)
            j++;
        if (j < nb_seen)
            continue;
        seen[nb_seen++] = f;
        list_items(c, f);
        ret = write_shard(c, name);
        if (ret >= 0 && !whole)
            index_shard(c, name, index);
    }
    free(seen);
    map = json_take(index, &map);
    if (ret >= 0 && !whole)
        ret = map ? write_index(c, map) : AVT_ERR(ENOMEM);
    free(map);
    return ret;
}

/* ---- the command --------------------------------------------------------------------------------------------------- */

static int open_model(Convert *c, const ToolOptions *o)
{
    DitConfig cfg;
    const char *lora;
    int ret = avt_options_model(&c->dir, &o->engine, c->log);

    if (ret >= 0)
        ret = avt_ckpt_open(&c->ckpt, c->dir.dit, c->log);
    if (ret >= 0)
        ret = avt_dit_config(&cfg, c->dir.config, c->ckpt, c->log);
    if (ret >= 0)
        ret = avt_options_lora(&lora, &c->dir, &cfg, o->engine.lora, c->log);
    if (ret >= 0 && lora)
        ret = avt_lora_open(&c->lora, lora, c->dir.lora_alpha, c->log);
    if (ret >= 0)
        ret = avt_backend_open(&c->be, "cpu", &(BackendOptions){ .level = CPU_AUTO, .log = c->log });
    if (ret >= 0)
        ret = avt_arena_open(&c->arena, c->be, "convert", 4096);
    if (ret >= 0)
        ret = avt_binder_open(&c->binder, c->ckpt, c->lora, c->arena, "dit", DT_F32, c->log);
    c->item = calloc(3 * (size_t)(c->ckpt ? avt_ckpt_nb(c->ckpt) : 0) + 1, sizeof(*c->item));
    return ret < 0 ? ret : c->item ? 0 : AVT_ERR(ENOMEM);
}

/* That are read, of the transformer and of what is copied or linked. */
static double all_bytes(const Convert *c)
{
    double bytes = convert_rest_bytes(c);

    for (int64_t i = 0; i < avt_ckpt_nb(c->ckpt); i++)
        if (!lies_beside(c, avt_ckpt_get(c->ckpt, i)))
            bytes += (double)avt_ckpt_get(c->ckpt, i)->size;
    return bytes;
}

static void close_model(Convert *c)
{
    avt_binder_close(&c->binder);
    if (c->arena)
        avt_arena_close(&c->arena);
    avt_backend_close(&c->be);
    avt_lora_close(&c->lora);
    avt_ckpt_close(&c->ckpt);
    avt_modeldir_close(&c->dir);
    free(c->item);
}

static int convert(Convert *c, const ToolOptions *o)
{
    int ret = open_model(c, o);

    if (ret >= 0)
        ret = convert_room(c);
    if (ret >= 0)
        progress_open(&c->progress, all_bytes(c), "convert", o->quiet);
    if (ret >= 0)
        ret = write_transformer(c);
    if (ret >= 0 && c->lora)
        ret = avt_lora_finish(c->lora, c->log);
    if (ret >= 0)
        ret = avt_ckpt_unchanged(c->ckpt, c->log);
    if (ret >= 0)
        ret = convert_json(c);
    if (ret >= 0)
        ret = convert_rest(c);
    progress_close(&c->progress);
    if (ret >= 0 && !o->quiet)
        fprintf(stderr, "avatar: %s: transformer %.1f MB of %.1f%s; avatar speak --model %s --precision %s\n", file_shown(c->out), (double)c->after / 1e6,
                (double)c->before / 1e6, c->lora ? ", with the LoRA" : "", file_shown(c->out), o->engine.precision);
    return ret;
}

int cmd_convert(int argc, char **argv)
{
    const Log log = { .write = tool_log_line, .level = LOG_WARNING };
    BackendOptions be = { 0 };
    Convert c = { .log = &log };
    ToolOptions o;
    int ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional || !o.output) {
        fprintf(o.help ? stdout : stderr, "usage: avatar convert --precision int8|fp8 -o DIR [--model DIR] [--lora PATH|none]\n"
                                          "a model whose layers are kept in 8 bits, the LoRA merged: doc/precision.md\n");
        return o.help ? 0 : 2;
    }
    if (tool_takes(&o, "convert", " model lora precision output quiet"))
        return 2;
    if (!*o.output || !strcmp(o.output, "-"))
        return fprintf(stderr, "avatar: convert: -o is '%s'; name a folder\n", o.output), 2;
    if (avt_options_precision(&be, o.engine.precision, &log) < 0)
        return 2;
    if (!avt_is_code(be.product))
        return fprintf(stderr, "avatar: convert: --precision is int8 or fp8\n"), 2;
    if (stop_watch() < 0)
        return 1;
    tool_protect(&o);
    c.out = o.output;
    c.there = strlen(c.out);
    c.type = be.product;
    ret = convert(&c, &o);
    if (ret < 0)
        convert_tidy(&c);
    if (ret < 0 && stop_asked())
        fprintf(stderr, "avatar: interrupted; %s is no whole model\n", file_shown(o.output));
    else if (ret == AVT_ERR(ENOMEM))                                // of which not every place has words
        fprintf(stderr, "avatar: convert: not enough memory\n");
    close_model(&c);
    return ret < 0;
}
