/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Parity: each network against numbers of the reference Python, from a directory laid out as tests/README.md says.
 * Nothing about a set's sizes is built in. One line a case with max-abs and relative L2; limits: tests/README.md.
 */
#ifndef AVT_PARITY_H
#define AVT_PARITY_H

#include "files/bind.h"
#include "files/json.h"
#include "kernels.h"

typedef struct Golden {
    const char *dir;                    // the set
    const char *name;                   // case: file name without .safetensors / .json
    Ckpt *file;                         // the case's tensors ("in.*", "out.*"), NULL for JSON cases
    Ckpt *inputs;                       // sampling_inputs.safetensors of the set, or NULL
    Json *config;                       // golden_config.json
    Backend *be;
    DType kv;                           // Dit.kv
    Arena *weights, *work;              // generous; `work` is released after each case
    const Log *log;
    /* filled by golden_expect */
    int failed;
    int64_t nb_compared;
    double max_abs, rel_l2;             // worst of the case
    char worst[256];                    // the tensor that had it, or the reason of the failure
    double worst_ratio;                 // distance over limit of `worst`: above 1 is a failure
    uint8_t *seen;                      // per tensor of `file`: compared or read
    struct GoldenMem *mem;              // host values handed out, freed after the case
} Golden;

/* Used by main.c: set up and tear down around one case. `path` may be NULL for a JSON case. */
int  golden_open(Golden *g, const char *path);
void golden_close(Golden *g);
/** Host memory that lives until the case ends; never NULL (the program stops when there is none). */
void *golden_alloc(Golden *g, size_t size);
/** After a case: a result of the file that nobody compared is a failure that names it. */
void golden_finish(Golden *g);

/** "in.<name>" as a tensor on g->be (f32; integers are converted), AVT_NONE and a failure when absent. */
Tensor golden_in(Golden *g, const char *fmt, ...) AVT_PRINTF(2, 3);
/** The same out of sampling_inputs. */
Tensor golden_input(Golden *g, const char *fmt, ...) AVT_PRINTF(2, 3);
/** "in.<name>" as host f32 / int64 values, in g's memory; *nb (opt) = count. */
float   *golden_in_host(Golden *g, int64_t *nb, const char *fmt, ...) AVT_PRINTF(3, 4);
int64_t *golden_in_ints(Golden *g, int64_t *nb, const char *fmt, ...) AVT_PRINTF(3, 4);
/** The same out of sampling_inputs. */
float   *golden_input_host(Golden *g, int64_t *nb, const char *fmt, ...) AVT_PRINTF(3, 4);
int64_t *golden_input_ints(Golden *g, int64_t *nb, const char *fmt, ...) AVT_PRINTF(3, 4);
/** Shape of a tensor by full name ("out.t4.local"), looked up in the case's file, then in sampling_inputs.
 *  @param dim  CKPT_MAX_DIM values  @return number of dimensions, 0: no such tensor */
int golden_dims(const Golden *g, int64_t *dim, const char *fmt, ...) AVT_PRINTF(3, 4);
/** Is there "in." or "out." + name ("out.t4.local")? */
int golden_has(const Golden *g, const char *fmt, ...) AVT_PRINTF(2, 3);

/** Values of a tensor, f32 or bf16, in f32. @return 0, or EIO when there are none */
int golden_read(Golden *g, float *v, Tensor t);
/** Frames of 8 bits, [nb, H, W, 3] on the host, as networks take them: f32 in [-1, 1]. */
Tensor golden_picture(Golden *g, const uint8_t *rgb, int64_t nb, int64_t h, int64_t w);
/** [A, B, H, W] -> [B, A, H, W]: the sets keep latents as [16, T, H, W], the networks take and give [T, 16, H, W]. */
Tensor golden_turned(Golden *g, Tensor t);
/** The same of host values [a, b, n], in g's memory. */
float *golden_turned_host(Golden *g, const float *v, int64_t a, int64_t b, int64_t n);
/** Compare with "out.<name>": relative L2 <= 1e-5 and max-abs <= 1e-4 * max(1, max|ref|); integers and u8 exactly. In bf16: the
 *  limits at the head of golden.c. */
void golden_expect(Golden *g, Tensor t, const char *fmt, ...) AVT_PRINTF(3, 4);
void golden_expect_host(Golden *g, const float *v, int64_t nb, const char *fmt, ...) AVT_PRINTF(4, 5);
void golden_expect_ints(Golden *g, const int64_t *v, int64_t nb, const char *fmt, ...) AVT_PRINTF(4, 5);
/** u8 against u8, `slack` levels allowed (0: exactly). */
void golden_expect_u8(Golden *g, const uint8_t *v, int64_t nb, int slack, const char *fmt, ...) AVT_PRINTF(5, 6);
/** The same against values of a JSON case: `name` is for the line, the limits are those above. */
void golden_compare(Golden *g, const char *name, const float *v, const double *ref, int64_t nb);
/** The case fails with this sentence. */
void golden_fail(Golden *g, const char *fmt, ...) AVT_PRINTF(2, 3);
/** A result that the case names but which another case's run covers or which is only a record: mark it seen. */
void golden_note(Golden *g, const char *fmt, ...) AVT_PRINTF(2, 3);

/** All bytes of a tensor; all its values as f32. In g's memory. */
void *golden_bytes(Golden *g, const CkptTensor *t);
float *golden_floats(Golden *g, const CkptTensor *t);

/** A PNG of the set, [h][w][3] RGB in g's memory; NULL after a failure. */
uint8_t *golden_png(Golden *g, const char *name, int *w, int *h);

/* Values of the cases in JSON: what is not there, or of another type, is 0. */
static inline int json_is(const Json *v, JsonType type)
{
    return v && v->type == type;
}

static inline int64_t json_int(const Json *v)
{
    return json_is(v, JSON_INT) ? v->i : 0;
}

static inline double json_number(const Json *v)
{
    return json_is(v, JSON_REAL) ? v->f : (double)json_int(v);
}

static inline int json_nb(const Json *list)
{
    return json_is(list, JSON_LIST) ? list->nb : 0;
}

static inline const Json *json_at(const Json *list, int64_t i)
{
    const Json *v = avt_json_first(list);

    while (v && i--)
        v = v->next;
    return v;
}

typedef void (*GoldenCase)(Golden *g);
/* Cases live beside the network that they test: text.c audio.c vae.c picture.c dit.c sampling.c e2e.c; main.c has the table. */
void case_t5(Golden *g);
void case_tokenizer(Golden *g);
void case_wav2vec2(Golden *g);
void case_audio_features(Golden *g);
void case_audio_functions(Golden *g);
void case_vae(Golden *g);
void case_vae_stages(Golden *g);
void case_image_preprocess(Golden *g);
void case_resolution(Golden *g);
void case_rope(Golden *g);
void case_audio_encoder(Golden *g);
void case_frame_packer(Golden *g);
void case_time_embedding(Golden *g);
void case_dit_forward(Golden *g);
void case_dit_forward_bf16ckpt(Golden *g);
void case_dit_two_speakers(Golden *g);
void case_transformer_block(Golden *g);
void case_lora_merge(Golden *g);
void case_schedule(Golden *g);
void case_sampling(Golden *g);          // every sampling_* with results: the file's name says which
void case_e2e_tpp(Golden *g);

#endif
