/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * wav2vec2 with layer norms everywhere ("layer" feature norm, pre-norm encoder):
 *
 *   pcm [n] -> 7 x { conv, LN over channels, gelu } -> [T, C] -> LN, linear -> x [T, D]
 *   x += gelu(posconv(x));  hidden[0] = x
 *   L x { x += o(attention(LN x));  x += down(gelu(up(LN x))) };  hidden[l] = x, but hidden[L] = LN(x)
 *
 * hidden is f32, what lies between has the backend's type of activations; the samples meet the first convolution in f32.
 * Row k hears samples 320 k .. 320 k + 399. The convolutions see nothing else, so they run in pieces of PIECE rows, exactly;
 * the stream lives in `hidden` itself, and attention keeps no T x T matrix.
 * Traps: posconv's kernel is even, so its last output is dropped (one zero less behind); the weight norm is per tap, over all
 * channels; only the last hidden state is normalized; gelu is the exact one.
 * Source: audio-encoder.md 4; transformers modeling_wav2vec2.py, Wav2Vec2EncoderStableLayerNorm.
 */
#include <math.h>
#include <string.h>

#include "files/json.h"
#include "nets/wav2vec2.h"

#define EPS 1e-5f
#define PIECE 250                       // rows of a convolution piece (5 s): 64 MB of scratch at the published width
#define FFN_ROWS 1500                   // rows of a feed-forward piece
#define MAX_TAPS 128                    // of the position conv
#define HOP WAV2VEC2_HOP
#define WINDOW 400
#define PREFIX "wav2vec2."
#define POSCONV "encoder.pos_conv_embed.conv."

static const int kernels[7] = { 10, 3, 3, 3, 3, 2, 2 };
static const int strides[7] = { 5, 2, 2, 2, 2, 2, 2 };

/* ---- configuration ------------------------------------------------------------------------------------------- */

static int wants_text(const Json *j, const char *path, const char *key, const char *wanted, int required, const Log *log)
{
    const char *value = wanted;
    const int ret = avt_json_string(j, key, &value, required);

    if (ret >= 0 && strcmp(value, wanted))
        return avt_fail(log, AVT_INVALID, "wav2vec2: %s: %s is \"%s\", only \"%s\" is supported", path, key, value, wanted);
    return ret;
}

static int wants_int(const Json *j, const char *path, const char *key, int64_t wanted, int required, const Log *log)
{
    int64_t value = wanted;
    const int ret = avt_json_int(j, key, &value, INT32_MIN, INT32_MAX, required);

    if (ret >= 0 && value != wanted)
        return avt_fail(log, AVT_INVALID, "wav2vec2: %s: %s is %lld, only %lld is supported", path, key, (long long)value,
                        (long long)wanted);
    return ret;
}

static int wants_bool(const Json *j, const char *path, const char *key, int wanted, int required, const Log *log)
{
    int value = wanted;
    const int ret = avt_json_bool(j, key, &value, required);

    if (ret >= 0 && value != wanted)
        return avt_fail(log, AVT_INVALID, "wav2vec2: %s: %s is %s, only %s is supported", path, key, value ? "true" : "false",
                        wanted ? "true" : "false");
    return ret;
}

static int wants_seven(const Json *j, const char *path, const char *key, const int *wanted, const Log *log)
{
    int64_t value[7];
    int nb = 0;
    const int ret = avt_json_ints(j, key, value, &nb, 7, 1);

    for (int i = 0; i < 7 && ret >= 0; i++)
        if (nb != 7 || value[i] != wanted[i])
            return avt_fail(log, AVT_INVALID, "wav2vec2: %s: %s must be %d %d %d %d %d %d %d", path, key, wanted[0], wanted[1],
                            wanted[2], wanted[3], wanted[4], wanted[5], wanted[6]);
    return ret;
}

static int wants_eps(const Json *j, const char *path, const Log *log)
{
    double eps = EPS;
    const int ret = avt_json_float(j, "layer_norm_eps", &eps, 0);

    if (ret >= 0 && fabs(eps - 1e-5) > 1e-9)
        return avt_fail(log, AVT_INVALID, "wav2vec2: %s: layer_norm_eps is %g, only 1e-5 is supported", path, eps);
    return ret;
}

/* What the structure depends on; keys that are absent mean transformers' defaults. */
static int check_structure(const Json *j, const char *path, const Log *log)
{
    if (wants_text(j, path, "model_type", "wav2vec2", 1, log) < 0 ||
        wants_text(j, path, "feat_extract_norm", "layer", 1, log) < 0 ||
        wants_text(j, path, "feat_extract_activation", "gelu", 0, log) < 0 ||
        wants_text(j, path, "hidden_act", "gelu", 0, log) < 0 ||
        wants_bool(j, path, "do_stable_layer_norm", 1, 1, log) < 0 ||
        wants_bool(j, path, "conv_bias", 1, 1, log) < 0 ||
        wants_bool(j, path, "add_adapter", 0, 0, log) < 0 ||
        wants_seven(j, path, "conv_kernel", kernels, log) < 0 ||
        wants_seven(j, path, "conv_stride", strides, log) < 0 ||
        wants_eps(j, path, log) < 0)
        return AVT_INVALID;
    return 0;
}

static int read_int(const Json *j, const char *key, int *value, int64_t max, int required)
{
    int64_t v = *value;
    const int ret = avt_json_int(j, key, &v, 1, max, required);

    *value = (int)v;
    return ret;
}

static int read_sizes(Wav2Vec2Config *c, const Json *j, const char *path, const Log *log)
{
    int64_t conv[7];
    int nb = 0;

    c->pos_kernel = 128;                                            // transformers' defaults
    c->pos_groups = 16;
    if (read_int(j, "hidden_size", &c->dim, 1 << 16, 1) < 0 ||
        read_int(j, "num_hidden_layers", &c->nb_layers, 1 << 10, 1) < 0 ||
        read_int(j, "num_attention_heads", &c->nb_heads, 1 << 10, 1) < 0 ||
        read_int(j, "intermediate_size", &c->ffn_dim, 1 << 18, 1) < 0 ||
        read_int(j, "num_conv_pos_embeddings", &c->pos_kernel, 1 << 16, 0) < 0 ||
        read_int(j, "num_conv_pos_embedding_groups", &c->pos_groups, 1 << 16, 0) < 0 ||
        avt_json_ints(j, "conv_dim", conv, &nb, 7, 1) < 0)
        return AVT_INVALID;
    for (int i = 0; i < 7; i++) {
        if (nb != 7 || conv[i] < 1 || conv[i] > 1 << 16)
            return avt_fail(log, AVT_INVALID, "wav2vec2: %s: conv_dim must be seven widths", path);
        c->conv_dim[i] = (int)conv[i];
    }
    if (c->pos_kernel > MAX_TAPS || c->pos_kernel % 2)
        return avt_fail(log, AVT_INVALID, "wav2vec2: %s: num_conv_pos_embeddings is %d, wanted an even number up to %d", path,
                        c->pos_kernel, MAX_TAPS);
    if (c->dim % c->nb_heads || c->dim % c->pos_groups)
        return avt_fail(log, AVT_INVALID, "wav2vec2: %s: hidden_size %d does not divide into %d heads and %d groups", path, c->dim,
                        c->nb_heads, c->pos_groups);
    return 0;
}

static int check_preprocessor(const char *path, const Log *log)
{
    Json *j = NULL;
    int ret = avt_json_read(&j, path, log);

    if (ret >= 0 && (wants_int(j, path, "sampling_rate", 16000, 1, log) < 0 || wants_bool(j, path, "do_normalize", 1, 1, log) < 0 ||
                     wants_int(j, path, "feature_size", 1, 0, log) < 0))
        ret = AVT_INVALID;
    avt_json_close(&j);
    return ret;
}

int avt_wav2vec2_config(Wav2Vec2Config *cfg, const char *config, const char *preprocessor, const Log *log)
{
    Json *j = NULL;
    int ret = avt_json_read(&j, config, log);

    memset(cfg, 0, sizeof(*cfg));
    if (ret >= 0)
        ret = check_structure(j, config, log);
    if (ret >= 0)
        ret = read_sizes(cfg, j, config, log);
    avt_json_close(&j);
    if (ret >= 0 && preprocessor)
        ret = check_preprocessor(preprocessor, log);
    return ret;
}

/* ---- weights ------------------------------------------------------------------------------------------------- */

/* w[o, i, k] = g[k] v[o, i, k] / |v[:, :, k]|, over v itself: [rows, taps]. A tap of zeros stays zero. */
static void fold_weight_norm(float *v, const float *g, int64_t rows, int taps)
{
    double gain[MAX_TAPS] = { 0 };

    for (int64_t r = 0; r < rows; r++)
        for (int k = 0; k < taps; k++)
            gain[k] += (double)v[r * taps + k] * v[r * taps + k];
    for (int k = 0; k < taps; k++)
        gain[k] = gain[k] > 0 ? g[k] / sqrt(gain[k]) : 0;
    for (int64_t r = 0; r < rows; r++)
        for (int k = 0; k < taps; k++)
            v[r * taps + k] = (float)(v[r * taps + k] * gain[k]);
}

static Conv bind_posconv(Binder *b, const Wav2Vec2Config *c)
{
    const int64_t D = c->dim, in = D / c->pos_groups, taps = c->pos_kernel;
    const int old = avt_bind_has(b, POSCONV "weight_g");            // two spellings of torch's weight norm
    float *g = avt_bind_host(b, AVT_DIMS(taps), POSCONV "%s", old ? "weight_g" : "parametrizations.weight.original0");
    float *v = avt_bind_host(b, AVT_DIMS(D, in, taps), POSCONV "%s", old ? "weight_v" : "parametrizations.weight.original1");
    Conv conv;

    if (g && v)
        fold_weight_norm(v, g, D * in, c->pos_kernel);
    conv.w = avt_bind_computed(b, WEIGHT_CONV1D, AVT_DIMS(D, in, taps), v);
    conv.b = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(D), POSCONV "bias");
    avt_free(g);
    avt_free(v);
    return conv;
}

static void bind_features(Wav2Vec2 *w, Binder *b)
{
    const Wav2Vec2Config *c = &w->cfg;
    const DType act = b->act;

    for (int i = 0; i < 7; i++) {
        b->act = i ? act : DT_F32;                                  // samples have more digits than bf16
        const int64_t in = i ? c->conv_dim[i - 1] : 1, out = c->conv_dim[i];

        w->conv[i] = avt_bind_conv(b, WEIGHT_CONV1D, AVT_DIMS(out, in, kernels[i]), "feature_extractor.conv_layers.%d.conv", i);
        w->conv_norm_w[i] = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(out), "feature_extractor.conv_layers.%d.layer_norm.weight", i);
        w->conv_norm_b[i] = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(out), "feature_extractor.conv_layers.%d.layer_norm.bias", i);
    }
    w->proj_norm_w = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(c->conv_dim[6]), "feature_projection.layer_norm.weight");
    w->proj_norm_b = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(c->conv_dim[6]), "feature_projection.layer_norm.bias");
    w->proj = avt_bind_linear(b, c->dim, c->conv_dim[6], 1, "feature_projection.projection");
}

static void bind_layer(Wav2Vec2Layer *w, Binder *b, const Wav2Vec2Config *c, int l)
{
    const int64_t D = c->dim, F = c->ffn_dim;

    w->norm1_w = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(D), "encoder.layers.%d.layer_norm.weight", l);
    w->norm1_b = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(D), "encoder.layers.%d.layer_norm.bias", l);
    w->q = avt_bind_linear(b, D, D, 1, "encoder.layers.%d.attention.q_proj", l);
    w->k = avt_bind_linear(b, D, D, 1, "encoder.layers.%d.attention.k_proj", l);
    w->v = avt_bind_linear(b, D, D, 1, "encoder.layers.%d.attention.v_proj", l);
    w->o = avt_bind_linear(b, D, D, 1, "encoder.layers.%d.attention.out_proj", l);
    w->norm2_w = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(D), "encoder.layers.%d.final_layer_norm.weight", l);
    w->norm2_b = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(D), "encoder.layers.%d.final_layer_norm.bias", l);
    w->up = avt_bind_linear(b, F, D, 1, "encoder.layers.%d.feed_forward.intermediate_dense", l);
    w->down = avt_bind_linear(b, D, F, 1, "encoder.layers.%d.feed_forward.output_dense", l);
}

int avt_wav2vec2_open(Wav2Vec2 *w, const Wav2Vec2Config *cfg, Binder *b)
{
    memset(w, 0, sizeof(*w));
    AVT_REQUIRE(b->log, cfg->nb_layers > 0 && cfg->pos_kernel >= 2 && cfg->pos_kernel <= MAX_TAPS);
    w->cfg = *cfg;
    w->layer = avt_calloc(MEM_NET, (size_t)cfg->nb_layers, sizeof(*w->layer));
    if (!w->layer)
        return AVT_ERR(ENOMEM);
    if (avt_bind_has(b, PREFIX "encoder.layer_norm.weight"))
        b->prefix = PREFIX;
    avt_bind_ignore(b, "lm_head.*");                                // the letters' head
    avt_bind_ignore(b, "masked_spec_embed");
    bind_features(w, b);
    w->pos = bind_posconv(b, cfg);
    for (int l = 0; l < cfg->nb_layers; l++)
        bind_layer(&w->layer[l], b, cfg, l);
    w->norm_w = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(cfg->dim), "encoder.layer_norm.weight");
    w->norm_b = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(cfg->dim), "encoder.layer_norm.bias");
    const int ret = avt_binder_finish(b, 0);
    if (ret < 0)
        avt_wav2vec2_close(w);
    return ret;
}

void avt_wav2vec2_close(Wav2Vec2 *w)
{
    avt_freep(&w->layer);
}

/* ---- forward ------------------------------------------------------------------------------------------------- */

int64_t avt_wav2vec2_frames(int64_t n)
{
    return n < WINDOW ? 0 : (n - WINDOW) / HOP + 1;
}

void avt_wav2vec2_normalize(float *out, const float *pcm, int64_t n, int64_t nb_stat)
{
    double sum = 0, square = 0, mean, gain;

    for (int64_t i = 0; i < nb_stat; i++)
        sum += pcm[i];
    mean = nb_stat > 0 ? sum / (double)nb_stat : 0;
    for (int64_t i = 0; i < nb_stat; i++)
        square += (pcm[i] - mean) * (pcm[i] - mean);
    gain = 1 / sqrt((nb_stat > 0 ? square / (double)nb_stat : 0) + 1e-7);
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((pcm[i] - mean) * gain);
}

/* x [T, D] = projected convolution features of the whole sound, a piece at a time. pcm NULL: planning. */
static void feature_rows(Backend *be, Arena *scratch, const Wav2Vec2 *w, Tensor x, const float *pcm)
{
    for (int64_t first = 0; first < x.dim[0]; first += PIECE) {
        const size_t mark = avt_arena_mark(scratch);
        const int64_t nb = x.dim[0] - first < PIECE ? x.dim[0] - first : PIECE;
        int64_t len = HOP * (nb - 1) + WINDOW;
        Tensor t = avt_new(scratch, DT_F32, len, 1);

        if (pcm)
            avt_upload(be, t, pcm + HOP * first);
        for (int i = 0; i < 7; i++) {
            len = (len - kernels[i]) / strides[i] + 1;
            const Tensor y = avt_new(scratch, be->act, len, w->cfg.conv_dim[i]);

            avt_conv1d(be, y, t, &w->conv[i], (Conv1dSpec){ .stride = strides[i], .groups = 1 }, ACT_NONE);
            avt_layer_norm(be, y, y, w->conv_norm_w[i], w->conv_norm_b[i], EPS, ACT_GELU_ERF);
            t = y;
        }
        avt_layer_norm(be, t, t, w->proj_norm_w, w->proj_norm_b, EPS, ACT_NONE);        // [nb, C]
        avt_linear(be, avt_rows(x, first, nb), t, &w->proj, ACT_NONE);
        avt_arena_release(scratch, mark);
    }
}

/* x += gelu(posconv(x)) */
static void add_positions(Backend *be, Arena *scratch, const Wav2Vec2 *w, Tensor x)
{
    const size_t mark = avt_arena_mark(scratch);
    const Tensor p = avt_new(scratch, be->act, x.dim[0], x.dim[1]);
    const Tensor in = be->act == x.dtype ? x : avt_new(scratch, be->act, x.dim[0], x.dim[1]);
    const int half = w->cfg.pos_kernel / 2;
    const Conv1dSpec spec = { .stride = 1, .groups = w->cfg.pos_groups, .pad0 = half, .pad1 = half - 1 };

    if (in.dtype != x.dtype)
        avt_copy(be, in, x);
    avt_conv1d(be, p, in, &w->pos, spec, ACT_GELU_ERF);
    avt_add(be, x, x, p);
    avt_arena_release(scratch, mark);
}

static Tensor heads(const Wav2Vec2 *w, Tensor t)
{
    return avt_view(t, t.dim[0], w->cfg.nb_heads, w->cfg.dim / w->cfg.nb_heads);
}

/* out = x + attention */
static void attend(Backend *be, Arena *scratch, const Wav2Vec2 *w, const Wav2Vec2Layer *l, Tensor out, Tensor x)
{
    const size_t mark = avt_arena_mark(scratch);
    const int64_t T = x.dim[0], D = x.dim[1];
    const Tensor u = avt_new(scratch, be->act, T, D), q = avt_new(scratch, be->act, T, D);
    const Tensor k = avt_new(scratch, be->act, T, D), v = avt_new(scratch, be->act, T, D);

    avt_layer_norm(be, u, x, l->norm1_w, l->norm1_b, EPS, ACT_NONE);
    avt_linear(be, q, u, &l->q, ACT_NONE);
    avt_linear(be, k, u, &l->k, ACT_NONE);
    avt_linear(be, v, u, &l->v, ACT_NONE);
    avt_attention(be, heads(w, u), heads(w, q), heads(w, k), heads(w, v), AVT_NONE, AVT_NONE, AVT_NONE,
                  1 / sqrtf((float)(D / w->cfg.nb_heads)));
    avt_linear_add(be, out, x, u, &l->o, AVT_NONE);
    avt_arena_release(scratch, mark);
}

/* x += feed-forward, a piece of rows at a time */
static void feed_forward(Backend *be, Arena *scratch, const Wav2Vec2 *w, const Wav2Vec2Layer *l, Tensor x)
{
    for (int64_t first = 0; first < x.dim[0]; first += FFN_ROWS) {
        const size_t mark = avt_arena_mark(scratch);
        const int64_t nb = x.dim[0] - first < FFN_ROWS ? x.dim[0] - first : FFN_ROWS;
        const Tensor rows = avt_rows(x, first, nb);
        const Tensor u = avt_new(scratch, be->act, nb, w->cfg.dim), h = avt_new(scratch, be->act, nb, w->cfg.ffn_dim);

        avt_layer_norm(be, u, rows, l->norm2_w, l->norm2_b, EPS, ACT_NONE);
        avt_linear(be, h, u, &l->up, ACT_GELU_ERF);
        avt_linear_add(be, rows, rows, h, &l->down, AVT_NONE);
        avt_arena_release(scratch, mark);
    }
}

int avt_wav2vec2_encode(Backend *be, Arena *scratch, const Wav2Vec2 *w, Tensor hidden, const float *pcm, int64_t n)
{
    const int64_t T = avt_wav2vec2_frames(n);
    const int L = w->cfg.nb_layers;

    if (!T)
        return avt_fail(be->log, AVT_ERR(EINVAL), "wav2vec2: %lld samples are less than one window of %d; pad the sound with "
                        "silence", (long long)n, WINDOW);
    AVT_REQUIRE(be->log, hidden.nd == 3 && hidden.dim[0] == L + 1 && hidden.dim[1] == T && hidden.dim[2] == w->cfg.dim);
    AVT_REQUIRE(be->log, pcm || avt_backend_is_dry(be));
    feature_rows(be, scratch, w, avt_at(hidden, 0), pcm);
    add_positions(be, scratch, w, avt_at(hidden, 0));
    for (int l = 0; l < L; l++) {
        attend(be, scratch, w, &w->layer[l], avt_at(hidden, l + 1), avt_at(hidden, l));
        feed_forward(be, scratch, w, &w->layer[l], avt_at(hidden, l + 1));
    }
    avt_layer_norm(be, avt_at(hidden, L), avt_at(hidden, L), w->norm_w, w->norm_b, EPS, ACT_NONE);
    return avt_sync(be);
}
