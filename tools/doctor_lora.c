/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The LoRA: is it there, is it of this model, and how much does it change: the norm of its update against that of what it is added to, layer by
 * layer, of the queries of self-attention, or with --full of all products that it has pairs for.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "doctor.h"
#include "engine/engine.h"
#include "files/lora.h"

/* ---- its effect ---------------------------------------------------------------------------------------------------------- */

typedef struct Effect {                             // sums of squares
    double update, weight;
} Effect;

static double sum_squares(const float *w, int64_t nb)
{
    double sum = 0;

    for (int64_t i = 0; i < nb; i++)
        sum += (double)w[i] * w[i];
    return sum;
}

static void add_effect(Effect *e, Lora *l, const CkptTensor *t, const char *module, Backend *be)
{
    const int64_t nb = t->dim[0] * t->dim[1];
    float *w = calloc((size_t)nb, sizeof(*w));
    void *raw = malloc(t->size);

    if (w && raw && avt_ckpt_read(t, raw, 0, t->size, NULL) >= 0 && avt_lora_merge(l, module, be, w, t->dim[0], t->dim[1], NULL) > 0) {
        e->update += sum_squares(w, nb);
        avt_ckpt_widen(w, t, raw, nb);
        e->weight += sum_squares(w, nb);
    }
    free(w);
    free(raw);
}

/* The layer of a weight whose module is to be looked at, which it writes; -1: not this one. */
static int layer_of(const CkptTensor *t, char module[200], int full)
{
    int layer = -1, n = 0;

    if (t->nd != 2 || t->dtype > DT_F64 || !avt_ends_with(t->name, ".weight") || sscanf(t->name, "blocks.%d.%n", &layer, &n) != 1 || !n)
        return -1;
    snprintf(module, 200, "%.*s", (int)(strlen(t->name) - strlen(".weight")), t->name);
    return layer >= 0 && layer < DOCTOR_MAX_EACH && (full || !strcmp(module + n, "self_attn.q")) ? layer : -1;
}

/* Of each layer. @return how many layers there are */
static int find_effects(Effect *e, Lora *l, const Ckpt *dit, int full)
{
    const BackendOptions opt = { .level = CPU_AUTO };
    Backend *be = NULL;
    int nb = 0;

    if (avt_backend_open(&be, "cpu", &opt) < 0)
        return 0;
    for (int64_t i = 0; i < avt_ckpt_nb(dit); i++) {
        const CkptTensor *t = avt_ckpt_get(dit, i);
        char module[200];
        const int layer = layer_of(t, module, full);

        if (layer < 0 || !avt_lora_has(l, module))
            continue;
        add_effect(&e[layer], l, t, module, be);
        nb = layer >= nb ? layer + 1 : nb;
    }
    avt_backend_close(&be);
    return nb;
}

static void judge_effect(Findings *f, Lora *l, const Ckpt *dit, int full)
{
    static Effect e[DOCTOR_MAX_EACH];
    double each[DOCTOR_MAX_EACH], sum = 0;
    const int nb = find_effects(e, l, dit, full);
    int least = 0, most = 0;

    for (int i = 0; i < nb; i++) {
        each[i] = e[i].weight > 0 ? 100 * sqrt(e[i].update / e[i].weight) : 0;
        sum += each[i];
        least = each[i] < each[least] ? i : least;
        most = each[i] > each[most] ? i : most;
    }
    if (!nb)
        return;
    if (each[most] < 1e-3)
        doctor_words(f, "files", "effect of the LoRA", DOUBTFUL, "it changes nothing"), doctor_remedy(f, "was it trained? is lora_alpha 0?");
    else if (each[least] < 1e-3)
        doctor_number(f, "files", "effect of the LoRA", sum / nb, "% of the weights", DOUBTFUL, "blocks.%d is not changed at all: the file is "
                      "damaged, or was trained of some layers alone", least);
    else
        doctor_number(f, "files", "effect of the LoRA", sum / nb, "% of the weights", doctor_judge(each[most], 100, 500),
                      "the update of blocks.%d is as large as its weights: is its alpha right, is it of this model?", most);
    doctor_each(f, each, nb);
    if (each[most] >= 1e-3)
        doctor_text(f, "least %.2g in blocks.%d, most %.3g in blocks.%d", each[least], least, each[most], most);
}

/* ---- its pairs ------------------------------------------------------------------------------------------------------------ */

/* That the transformer must have, and has. */
static int count_pairs(const Lora *l, const Ckpt *dit, int *wanted)
{
    int found = 0;

    *wanted = 0;
    for (int64_t i = 0; i < avt_ckpt_nb(dit); i++) {
        char module[200];
        const char *name = avt_ckpt_get(dit, i)->name;

        if (!avt_ends_with(name, ".weight"))
            continue;
        snprintf(module, sizeof(module), "%.*s", (int)(strlen(name) - strlen(".weight")), name);
        if (!avt_lora_is_target(module))
            continue;
        ++*wanted;
        found += avt_lora_has(l, module);
    }
    return found;
}

static void judge_pairs(Findings *f, Lora *l, const Ckpt *dit, int full)
{
    int wanted, found = count_pairs(l, dit, &wanted);

    if (found == wanted && found == avt_lora_nb(l))
        doctor_words(f, "files", "LoRA", GOOD, "%d pairs, rank %d, scale %g", found, avt_lora_rank(l), avt_lora_scale(l));
    else {
        doctor_words(f, "files", "LoRA", BAD, "%d of its %lld pairs fit, the transformer wants %d", found, (long long)avt_lora_nb(l), wanted);
        doctor_remedy(f, "it is of another model: take the liveavatar.safetensors that belongs to this one");
    }
    if (found)
        judge_effect(f, l, dit, full);
}

void doctor_lora(Findings *f, const ToolOptions *o, const ModelDir *m)
{
    const int said = o->engine.lora && strcmp(o->engine.lora, "auto");
    const char *path = said ? o->engine.lora : m->lora;
    Reason why = { "" };
    const Log log = { avt_keep_reason, &why, LOG_ERROR };
    Ckpt *dit = NULL;
    Lora *l = NULL;

    if (!path || !strcmp(path, "none")) {
        const int fine = m->lora_rule == LORA_NONE || m->lora_rule == LORA_MERGED || said;

        doctor_words(f, "files", "LoRA", fine ? GOOD : DOUBTFUL, "none");
        doctor_remedy(f, "the base model alone is soft and slow to converge at 4 steps: put liveavatar.safetensors into the folder");
        return;
    }
    if (avt_lora_open(&l, path, m->lora_alpha, &log) < 0)
        doctor_words(f, "files", "LoRA", BAD, "%s", why.text), doctor_remedy(f, "get the file again");
    else if (m->dit && avt_ckpt_open(&dit, m->dit, NULL) >= 0)
        judge_pairs(f, l, dit, o->full);
    avt_ckpt_close(&dit);
    avt_lora_close(&l);
}
