/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a golden file and comparing with it: distances in f64, one verdict a tensor, the worst one kept for the line.
 *
 * A distance is judged as a share of its limit, so that max-abs and relative L2 of tensors of any size can be
 * ranked; above 1 the tensor fails, and so does a NaN.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parity.h"
#include "quantize.h"

#define LIMIT_L2  1e-5
#define LIMIT_MAX 1e-4
#define LIMIT_BF16 1e-2                     // relative L2 of what one forward of the transformer gives
#define LIMIT_BF16_STEPS 3e-2               // of latents that went through many
#define LIMIT_BF16_DEEP 2e-2                // of what the other networks give; frames: 45 dB
#define LIMIT_I8 3e-2                       // the same of codes, which are of the transformer's layers alone: of one forward,
#define LIMIT_I8_STEPS 3e-2                 // of latents after many; frames: 38 dB
#define LIMIT_F8 12e-2                      // measured on nets of random weights, about three quarters of these: on trained ones codes lose
#define LIMIT_F8_STEPS 8e-2                 // less, see doc/precision.md; frames: 26 dB
#define LIMIT_KV 5e-2                       // with keys and values in e4m3
#define LIMIT_KV_STEPS 3e-2                 // frames: 32 dB

typedef struct GoldenMem {
    struct GoldenMem *next;
} GoldenMem;

void *golden_alloc(Golden *g, size_t size)
{
    const size_t head = 64;                                         // keeps the values aligned
    GoldenMem *m = calloc(1, head + size);

    if (!m) {
        fprintf(stderr, "parity: out of memory\n");
        exit(1);
    }
    m->next = g->mem;
    g->mem = m;
    return (char *)m + head;
}

int golden_open(Golden *g, const char *path)
{
    int ret;

    g->failed = 0;
    g->nb_compared = 0;
    g->max_abs = g->rel_l2 = g->worst_ratio = 0;
    g->worst[0] = 0;
    g->file = NULL;
    g->seen = NULL;
    g->mem = NULL;
    if (!path)
        return 0;
    ret = avt_ckpt_open(&g->file, path, g->log);
    if (ret < 0)
        golden_fail(g, "cannot be opened");
    else
        g->seen = golden_alloc(g, (size_t)avt_ckpt_nb(g->file) + 1);
    return ret;
}

void golden_close(Golden *g)
{
    while (g->mem) {
        GoldenMem *next = g->mem->next;

        free(g->mem);
        g->mem = next;
    }
    avt_ckpt_close(&g->file);
    avt_arena_release(g->work, 0);
    avt_arena_release(g->weights, 0);
    avt_reset(g->be);
}

void golden_finish(Golden *g)
{
    for (int64_t i = 0; g->file && i < avt_ckpt_nb(g->file); i++) {
        const CkptTensor *t = avt_ckpt_get(g->file, i);

        if (!g->seen[i] && strncmp(t->name, "in.", 3))
            golden_fail(g, "%s was not compared", t->name);
    }
}

void golden_fail(Golden *g, const char *fmt, ...)
{
    va_list ap;

    if (g->failed)                                                  // the first reason explains the rest
        return;
    g->failed = 1;
    va_start(ap, fmt);
    vsnprintf(g->worst, sizeof(g->worst), fmt, ap);
    va_end(ap);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

typedef struct Name {
    char text[256];
} Name;

static Name make_name(const char *prefix, const char *fmt, va_list ap)
{
    Name n;
    const int len = snprintf(n.text, sizeof(n.text), "%s", prefix);

    vsnprintf(n.text + len, sizeof(n.text) - (size_t)len, fmt, ap);
    return n;
}

#define NAME(n, prefix, fmt)                                                                          \
    do {                                                                                              \
        va_list ap;                                                                                   \
                                                                                                      \
        va_start(ap, fmt);                                                                            \
        n = make_name(prefix, fmt, ap);                                                               \
        va_end(ap);                                                                                   \
    } while (0)

static const CkptTensor *look_up(Golden *g, const Ckpt *c, const char *name)
{
    const CkptTensor *t = c ? avt_ckpt_find(c, name) : NULL;

    if (!t)
        golden_fail(g, "%s is not in the file", name);
    for (int64_t i = 0; t && c == g->file && i < avt_ckpt_nb(c); i++)
        if (avt_ckpt_get(c, i) == t)
            g->seen[i] = 1;
    return t;
}

static int64_t count(const CkptTensor *t)
{
    int64_t n = 1;

    for (int i = 0; i < t->nd; i++)
        n *= t->dim[i];
    return n;
}

void *golden_bytes(Golden *g, const CkptTensor *t)
{
    void *p = golden_alloc(g, t->size + 1);

    if (avt_ckpt_read(t, p, 0, t->size, g->log) < 0)
        golden_fail(g, "%s cannot be read", t->name);
    return p;
}

float *golden_floats(Golden *g, const CkptTensor *t)
{
    const int64_t nb = count(t);
    float *v = golden_alloc(g, sizeof(*v) * (size_t)nb);

    avt_to_f32(v, t->dtype, golden_bytes(g, t), 0, nb);
    return v;
}

/* Leading dimensions beyond the fifth are merged. */
static Tensor to_tensor(Golden *g, const CkptTensor *t)
{
    int64_t dim[TENSOR_MAX_DIM];
    const int extra = t->nd > TENSOR_MAX_DIM ? t->nd - TENSOR_MAX_DIM : 0, nd = t->nd - extra;
    Tensor x;

    for (int i = 0; i < nd; i++)
        dim[i] = t->dim[i + extra];
    for (int i = 0; i < extra; i++)
        dim[0] *= t->dim[i];
    x = avt_new_dims(g->work, DT_F32, nd, dim);
    avt_upload(g->be, x, golden_floats(g, t));
    return x;
}

Tensor golden_in(Golden *g, const char *fmt, ...)
{
    const CkptTensor *t;
    Name n;

    NAME(n, "in.", fmt);
    t = look_up(g, g->file, n.text);
    return t ? to_tensor(g, t) : AVT_NONE;
}

Tensor golden_input(Golden *g, const char *fmt, ...)
{
    const CkptTensor *t;
    Name n;

    NAME(n, "in.", fmt);
    t = look_up(g, g->inputs, n.text);
    return t ? to_tensor(g, t) : AVT_NONE;
}

static float *host_values(Golden *g, const Ckpt *c, int64_t *nb, const char *name)
{
    const CkptTensor *t = look_up(g, c, name);

    if (nb)
        *nb = t ? count(t) : 0;
    return t ? golden_floats(g, t) : NULL;
}

float *golden_in_host(Golden *g, int64_t *nb, const char *fmt, ...)
{
    Name n;

    NAME(n, "in.", fmt);
    return host_values(g, g->file, nb, n.text);
}

float *golden_input_host(Golden *g, int64_t *nb, const char *fmt, ...)
{
    Name n;

    NAME(n, "in.", fmt);
    return host_values(g, g->inputs, nb, n.text);
}

static int64_t int_at(DType dtype, const char *p, int64_t i)
{
    int64_t v64;
    int32_t v32;

    if (dtype == DT_U8)
        return (uint8_t)p[i];
    if (dtype == DT_I32) {
        memcpy(&v32, p + 4 * i, 4);
        return v32;
    }
    memcpy(&v64, p + 8 * i, 8);
    return v64;
}

static int64_t *int_values(Golden *g, const Ckpt *c, int64_t *nb, const char *name)
{
    const CkptTensor *t = look_up(g, c, name);
    const char *raw;
    int64_t *v;

    if (nb)
        *nb = t ? count(t) : 0;
    if (t && t->dtype != DT_I64 && t->dtype != DT_I32 && t->dtype != DT_U8) {
        golden_fail(g, "%s holds %s, not integers", name, avt_dtype_name(t->dtype));
        t = NULL;
    }
    v = t ? golden_alloc(g, sizeof(*v) * (size_t)count(t)) : NULL;
    raw = t ? golden_bytes(g, t) : NULL;
    for (int64_t i = 0; t && i < count(t); i++)
        v[i] = int_at(t->dtype, raw, i);
    return v;
}

int64_t *golden_in_ints(Golden *g, int64_t *nb, const char *fmt, ...)
{
    Name n;

    NAME(n, "in.", fmt);
    return int_values(g, g->file, nb, n.text);
}

int64_t *golden_input_ints(Golden *g, int64_t *nb, const char *fmt, ...)
{
    Name n;

    NAME(n, "in.", fmt);
    return int_values(g, g->inputs, nb, n.text);
}

int golden_has(const Golden *g, const char *fmt, ...)
{
    Name n;

    NAME(n, "", fmt);
    return g->file && avt_ckpt_find(g->file, n.text) != NULL;
}

int golden_dims(const Golden *g, int64_t *dim, const char *fmt, ...)
{
    const CkptTensor *t;
    Name n;

    NAME(n, "", fmt);
    t = avt_ckpt_find(g->file, n.text);
    if (!t)
        t = g->inputs ? avt_ckpt_find(g->inputs, n.text) : NULL;
    for (int i = 0; t && i < t->nd; i++)
        dim[i] = t->dim[i];
    return t ? t->nd : 0;
}

/* ---- comparing -------------------------------------------------------------------------------------------------- */

static double value_at(DType dtype, const char *p, int64_t i)
{
    double d;
    float f;

    if (dtype == DT_F64) {                                          // tables are stored in double
        memcpy(&d, p + 8 * i, 8);
        return d;
    }
    avt_to_f32(&f, dtype, p, i, 1);
    return f;
}

static void judge(Golden *g, const char *name, double max_abs, double rel, double ratio)
{
    g->nb_compared++;
    if (!(max_abs <= g->max_abs))
        g->max_abs = max_abs;
    if (!(rel <= g->rel_l2))
        g->rel_l2 = rel;
    if (!(ratio <= 1))
        golden_fail(g, "%s: max-abs %.3g, relative L2 %.3g", name, max_abs, rel);
    if (!g->failed && ratio >= g->worst_ratio)
        snprintf(g->worst, sizeof(g->worst), "%s", name);
    if (!(ratio <= g->worst_ratio))
        g->worst_ratio = ratio;
}

/* Does the case look at what codes give, of products or of keys? */
static int is_coded(const Golden *g)
{
    const int codes = avt_is_code(g->be->product) || avt_is_code(g->kv);
    static const char *const cases[] = { "dit_", "transformer_", "lora_", "sampling_", "e2e_" };
    int found = 0;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]) && codes; i++)
        found |= !strncmp(g->name, cases[i], strlen(cases[i]));
    return found;
}

static int has_many_steps(const Golden *g)
{
    return !strncmp(g->name, "sampling_", 9) || !strncmp(g->name, "e2e_", 4);
}

static double limit_of_codes(const Golden *g)
{
    const int steps = has_many_steps(g);

    if (g->be->product == DT_F8_E4M3)
        return steps ? LIMIT_F8_STEPS : LIMIT_F8;
    if (avt_is_code(g->kv))
        return steps ? LIMIT_KV_STEPS : LIMIT_KV;
    return steps ? LIMIT_I8_STEPS : LIMIT_I8;
}

static double limit_l2(const Golden *g)
{
    if (is_coded(g))
        return limit_of_codes(g);
    if (g->be->act == DT_F32)
        return LIMIT_L2;
    if (!strncmp(g->name, "vae", 3) || !strncmp(g->name, "wav2vec2", 8) || !strcmp(g->name, "t5"))
        return LIMIT_BF16_DEEP;
    return has_many_steps(g) ? LIMIT_BF16_STEPS : LIMIT_BF16;
}

void golden_compare(Golden *g, const char *name, const float *v, const double *ref, int64_t nb)
{
    double max_abs = 0, diff = 0, sum = 0, top = 1, by_max, by_l2;

    for (int64_t i = 0; i < nb; i++) {
        const double d = v[i] - ref[i];

        if (!(fabs(d) <= max_abs))
            max_abs = fabs(d);
        diff += d * d;
        sum += ref[i] * ref[i];
        top = fmax(top, fabs(ref[i]));
    }
    by_l2 = sqrt(diff / (sum > 0 ? sum : 1));
    by_max = limit_l2(g) == LIMIT_L2 ? max_abs / (LIMIT_MAX * top) : by_l2;       // NaN stays NaN
    judge(g, name, max_abs, by_l2, fmax(by_max, by_l2 / limit_l2(g)) + 0 * (by_max + by_l2));
}

static void expect(Golden *g, const float *v, int64_t nb, const char *name)
{
    const CkptTensor *t = look_up(g, g->file, name);
    const char *raw;
    double *ref;

    if (!t)
        return;
    if (nb != count(t)) {
        golden_fail(g, "%s has %lld values, we have %lld", name, (long long)count(t), (long long)nb);
        return;
    }
    raw = golden_bytes(g, t);
    ref = golden_alloc(g, sizeof(*ref) * (size_t)nb);
    for (int64_t i = 0; i < nb; i++)
        ref[i] = value_at(t->dtype, raw, i);
    golden_compare(g, name, v, ref, nb);
}

/* Numbers that codes stand for. */
static int read_codes(Golden *g, float *v, Tensor t)
{
    const int64_t rows = avt_rows_of(t);
    const Tensor scales = { .be = t.be, .data = t.scale, .nd = 1, .dim = { rows } };
    uint8_t *codes = golden_alloc(g, avt_nbytes(t));
    float *scale = golden_alloc(g, (size_t)rows * sizeof(*scale));

    if (avt_download(g->be, codes, t) < 0 || avt_download(g->be, scale, scales) < 0)
        return AVT_ERR(EIO);
    avt_dequantize_rows(v, t.dtype, codes, scale, rows, avt_last_dim(t), 1);
    return 0;
}

int golden_read(Golden *g, float *v, Tensor t)
{
    void *as_it_is = t.data && t.dtype <= DT_BF16 ? golden_alloc(g, avt_nbytes(t)) : NULL;

    if (t.scale)
        return read_codes(g, v, t);
    if (!as_it_is || avt_download(g->be, as_it_is, t) < 0)
        return AVT_ERR(EIO);
    avt_to_f32(v, t.dtype, as_it_is, 0, avt_numel(t));
    return 0;
}

Tensor golden_picture(Golden *g, const uint8_t *rgb, int64_t nb, int64_t h, int64_t w)
{
    const Tensor u8 = avt_new(g->work, DT_U8, nb, h, w, 3), px = avt_new(g->work, DT_F32, nb, h, w, 3);

    avt_upload(g->be, u8, rgb);
    avt_picture(g->be, px, u8);
    return px;
}

Tensor golden_turned(Golden *g, Tensor t)
{
    const int64_t hw = t.nd == 4 ? t.dim[2] * t.dim[3] : 0;
    Tensor out;

    if (!hw) {
        golden_fail(g, "latents are missing, or have another shape than [16, T, H, W]");
        return AVT_NONE;
    }
    out = avt_new(g->work, DT_F32, t.dim[1], t.dim[0], t.dim[2], t.dim[3]);
    avt_transpose(g->be, avt_view(out, t.dim[1], t.dim[0], hw), avt_view(t, t.dim[0], t.dim[1], hw));
    return out;
}

float *golden_turned_host(Golden *g, const float *v, int64_t a, int64_t b, int64_t n)
{
    float *out = golden_alloc(g, sizeof(*out) * (size_t)(a * b * n));

    for (int64_t i = 0; i < a; i++)
        for (int64_t k = 0; k < b; k++)
            memcpy(out + (k * a + i) * n, v + (i * b + k) * n, sizeof(*out) * (size_t)n);
    return out;
}

void golden_expect(Golden *g, Tensor t, const char *fmt, ...)
{
    float *v = golden_alloc(g, (size_t)avt_numel(t) * sizeof(*v));
    Name n;

    NAME(n, "out.", fmt);
    if (golden_read(g, v, t) < 0)
        golden_fail(g, "%s: nothing was computed", n.text);
    else
        expect(g, v, avt_numel(t), n.text);
}

void golden_expect_host(Golden *g, const float *v, int64_t nb, const char *fmt, ...)
{
    Name n;

    NAME(n, "out.", fmt);
    expect(g, v, nb, n.text);
}

/* Pictures in another precision: peak signal to noise in dB. */
static void expect_picture(Golden *g, const uint8_t *v, int64_t nb, const char *name)
{
    int64_t nb_ref;
    const int64_t *ref = int_values(g, g->file, &nb_ref, name);
    const double least = !is_coded(g) ? 45 : g->be->product == DT_F8_E4M3 ? 26 : avt_is_code(g->kv) ? 32 : 38;
    double sum = 0, worst = 0, dB;

    for (int64_t i = 0; ref && i < nb && nb == nb_ref; i++) {
        sum += (double)(v[i] - ref[i]) * (double)(v[i] - ref[i]);
        worst = fmax(worst, fabs((double)(v[i] - ref[i])));
    }
    dB = 10 * log10(255.0 * 255.0 * (double)nb / fmax(sum, 1e-9));
    if (ref && nb != nb_ref)
        golden_fail(g, "%s has %lld values, we have %lld", name, (long long)nb_ref, (long long)nb);
    else if (ref)
        judge(g, name, worst, 0, dB >= least ? 0 : 2);
}

/* Integers of any kind: largest difference at most `slack`. */
static void expect_exact(Golden *g, const int64_t *ints, const uint8_t *bytes, int64_t nb, int slack, const char *name)
{
    int64_t nb_ref, worst = 0;
    const int64_t *ref = int_values(g, g->file, &nb_ref, name);

    if (!ref)
        return;
    if (nb != nb_ref) {
        golden_fail(g, "%s has %lld values, we have %lld", name, (long long)nb_ref, (long long)nb);
        return;
    }
    for (int64_t i = 0; i < nb; i++) {
        const int64_t d = (ints ? ints[i] : bytes[i]) - ref[i];

        worst = llabs(d) > worst ? llabs(d) : worst;
    }
    judge(g, name, (double)worst, 0, worst > slack ? 2 : 0);
}

void golden_expect_ints(Golden *g, const int64_t *v, int64_t nb, const char *fmt, ...)
{
    Name n;

    NAME(n, "out.", fmt);
    expect_exact(g, v, NULL, nb, 0, n.text);
}

void golden_expect_u8(Golden *g, const uint8_t *v, int64_t nb, int slack, const char *fmt, ...)
{
    Name n;

    NAME(n, "out.", fmt);
    if (slack && (g->be->act != DT_F32 || is_coded(g)))
        expect_picture(g, v, nb, n.text);
    else
        expect_exact(g, NULL, v, nb, slack, n.text);
}

void golden_note(Golden *g, const char *fmt, ...)
{
    Name n;

    NAME(n, "out.", fmt);
    look_up(g, g->file, n.text);
}
