/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* wav2vec2 and the picking of feature rows against the reference. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "nets/wav2vec2.h"
#include "parity.h"

static int clip_frames(Golden *g)
{
    int64_t clip = 48;

    if (avt_json_int(g->config, "infer_frames", &clip, 1, 1 << 20, 0) < 0)
        golden_fail(g, "golden_config.json: infer_frames is no number");
    return (int)clip;
}

/* ---- wav2vec2 --------------------------------------------------------------------------------------------------- */

static int open_network(Golden *g, Wav2Vec2 *w, Ckpt **ckpt)
{
    char dir[4000], weights[4096], config[4096], preprocessor[4096];
    Wav2Vec2Config cfg;
    Binder b;
    int ret;

    snprintf(dir, sizeof(dir), "%s/ckpt/wav2vec2-large-xlsr-53-english", g->dir);
    snprintf(weights, sizeof(weights), "%s/model.safetensors", dir);
    snprintf(config, sizeof(config), "%s/config.json", dir);
    snprintf(preprocessor, sizeof(preprocessor), "%s/preprocessor_config.json", dir);
    if (avt_wav2vec2_config(&cfg, config, preprocessor, g->log) < 0 || avt_ckpt_open(ckpt, weights, g->log) < 0)
        return -1;
    ret = avt_binder_open(&b, *ckpt, NULL, g->weights, "wav2vec2", DT_F32, g->log);
    if (ret >= 0)
        ret = avt_wav2vec2_open(w, &cfg, &b);
    avt_binder_close(&b);
    return ret;
}

/* Hidden state that entry i of m stands for: all of them, or five that show where a fault starts. */
static int64_t shown_state(int64_t i, int64_t m, int64_t L)
{
    const int64_t five[5] = { 0, 1, L / 2, L - 1, L };

    return m == L + 1 ? i : m == 5 ? five[i] : -1;
}

static void check_states(Golden *g, Tensor hidden, const char *name)
{
    const int64_t L = hidden.dim[0] - 1;
    int64_t dim[CKPT_MAX_DIM] = { 0 };
    Tensor shown;

    if (golden_dims(g, dim, "out.%s.hidden", name) != 3 || shown_state(0, dim[0], L) < 0) {
        golden_fail(g, "out.%s.hidden has a shape of its own", name);
        return;
    }
    shown = avt_new(g->work, DT_F32, dim[0], hidden.dim[1], hidden.dim[2]);
    for (int64_t i = 0; i < dim[0]; i++)
        avt_copy(g->be, avt_at(shown, i), avt_at(hidden, shown_state(i, dim[0], L)));
    golden_expect(g, shown, "%s.hidden", name);
}

/* [L + 1, T, D] -> every step-th state, picked for the clips that `want` [.., N] has -> [m, D, N] */
static Tensor pick(Golden *g, Tensor hidden, int64_t m, int64_t N)
{
    const int64_t step = m > 1 ? (hidden.dim[0] - 1) / (m - 1) : 1, T = hidden.dim[1], D = hidden.dim[2];
    const Tensor some = avt_new(g->work, DT_F32, m, T, D), rows = avt_new(g->work, DT_F32, N, m, D);
    const Tensor out = avt_new(g->work, DT_F32, m, D, N);

    for (int64_t i = 0; i < m; i++)
        avt_copy(g->be, avt_at(some, i), avt_at(hidden, i * step));
    if (avt_features_pick(g->be, g->work, rows, some, 0, FEATURES_UPSTREAM) < 0)
        golden_fail(g, "the picking failed");
    avt_transpose(g->be, avt_view(out, m * D, N, 1), avt_view(rows, N, m * D, 1));
    return out;
}

static void check_features(Golden *g, Tensor hidden, const char *name)
{
    const int64_t L = hidden.dim[0] - 1, len = avt_features_len30(hidden.dim[1]);
    const int clip = clip_frames(g);
    int64_t dim[CKPT_MAX_DIM] = { 0 };

    if (golden_dims(g, dim, "out.%s.features25", name) != 4 || dim[1] < 2 || L % (dim[1] - 1)) {
        golden_fail(g, "out.%s.features25 has a shape of its own", name);
        return;
    }
    if (dim[3] != clip * avt_features_clips(len, clip, 25)) {
        golden_fail(g, "out.%s.features25 has %lld frames, wanted %lld clips of %d", name, (long long)dim[3],
                    (long long)avt_features_clips(len, clip, 25), clip);
        return;
    }
    golden_expect(g, pick(g, hidden, dim[1], dim[3]), "%s.features25", name);
}

static void check_wave(Golden *g, const Wav2Vec2 *w, const char *name)
{
    const size_t mark = avt_arena_mark(g->work);
    int64_t n = 0;
    const float *wave = golden_in_host(g, &n, "%s.wave", name);
    float *pcm = golden_alloc(g, sizeof(*pcm) * (size_t)(n + 1));
    const Tensor hidden = avt_new(g->work, DT_F32, w->cfg.nb_layers + 1, avt_wav2vec2_frames(n), w->cfg.dim);

    avt_wav2vec2_normalize(pcm, wave, n, n);
    golden_expect_host(g, pcm, n, "%s.normalized", name);
    if (avt_wav2vec2_encode(g->be, g->work, w, hidden, pcm, n) < 0) {
        golden_fail(g, "%s: the network failed", name);
        return;
    }
    check_states(g, hidden, name);
    if (golden_has(g, "out.%s.features25", name))
        check_features(g, hidden, name);
    avt_arena_release(g->work, mark);
}

void case_wav2vec2(Golden *g)
{
    Wav2Vec2 w = { 0 };
    Ckpt *ckpt = NULL;

    if (open_network(g, &w, &ckpt) < 0)
        golden_fail(g, "the network of this set cannot be opened");
    for (int64_t i = 0; i < avt_ckpt_nb(g->file) && !g->failed; i++) {
        const char *name = avt_ckpt_get(g->file, i)->name, *end = strstr(name, ".wave");
        char wave[128];

        if (strncmp(name, "in.", 3) || !end || end[5])
            continue;
        snprintf(wave, sizeof(wave), "%.*s", (int)(end - name - 3), name + 3);
        check_wave(g, &w, wave);
    }
    avt_wav2vec2_close(&w);
    avt_ckpt_close(&ckpt);
}

/* ---- features --------------------------------------------------------------------------------------------------- */

void case_audio_features(Golden *g)
{
    const Tensor hidden = golden_in(g, "hidden_50fps");
    const int clip = clip_frames(g);
    int64_t len, clips;
    Tensor rows;

    if (hidden.nd != 3) {
        golden_fail(g, "in.hidden_50fps is not [layers, T, D]");
        return;
    }
    len = avt_features_len30(hidden.dim[1]);
    clips = avt_features_clips(len, clip, 25);
    rows = avt_new(g->work, DT_F32, hidden.dim[0], len, hidden.dim[2]);
    for (int64_t l = 0; l < hidden.dim[0]; l++)
        avt_features_30hz(g->be, g->work, avt_at(rows, l), avt_at(hidden, l));
    golden_expect(g, rows, "feat_30fps");
    golden_expect(g, pick(g, hidden, hidden.dim[0], clips * clip), "audio_emb");
    golden_expect_ints(g, &clips, 1, "num_clips");
}

/* ---- the functions alone ---------------------------------------------------------------------------------------- */

static int64_t int_of(const Json *o, const char *key)
{
    const Json *v = avt_json_get(o, key);

    return v ? json_int(v) : -1;
}

static const Json *list_of(const Json *o, const char *key)
{
    const Json *v = avt_json_get(o, key);

    return json_is(v, JSON_LIST) ? v : NULL;
}

/* Video frame i takes row index[i] of the interpolation, through the pick itself: a ramp tells the rows apart. */
static void check_pick(Golden *g, const int64_t *index, int64_t nb, int64_t len)
{
    int64_t T = 1;

    while (avt_features_len30(T) < len)
        T++;
    const Tensor hidden = avt_new(g->work, DT_F32, 1, T, 1), rows = avt_new(g->work, DT_F32, len, 1);
    const Tensor out = avt_new(g->work, DT_F32, nb, 1, 1);
    float *ramp = golden_alloc(g, sizeof(*ramp) * (size_t)T), *want = golden_alloc(g, sizeof(*want) * (size_t)len);
    float *have = golden_alloc(g, sizeof(*have) * (size_t)nb);

    for (int64_t i = 0; i < T; i++)
        ramp[i] = (float)(i + 1);
    avt_upload(g->be, hidden, ramp);
    avt_features_30hz(g->be, g->work, rows, avt_at(hidden, 0));
    avt_features_pick(g->be, g->work, out, hidden, 0, FEATURES_UPSTREAM);
    if (avt_download(g->be, want, rows) < 0 || avt_download(g->be, have, out) < 0) {
        golden_fail(g, "the picking failed");
        return;
    }
    for (int64_t i = 0; i < nb; i++)
        if (have[i] != (index[i] < 0 ? 0 : want[index[i]])) {
            golden_fail(g, "%lld rows: frame %lld has another row than %lld", (long long)len, (long long)i,
                        (long long)index[i]);
            return;
        }
}

static void check_bucket(Golden *g, const Json *o)
{
    const int64_t len = int_of(o, "feature_frames"), clip = int_of(o, "batch_frames"), fps = int_of(o, "fps");
    const Json *index = list_of(o, "index");
    const int64_t nb = json_nb(index);
    int64_t *want = golden_alloc(g, sizeof(*want) * (size_t)(nb + 1)), clips;

    if (len < 1 || clip < 1 || fps < 1 || int_of(o, "m") != 0 || nb < 1) {
        golden_fail(g, "a bucket that is not ours (feature_frames %lld, fps %lld, m %lld)", (long long)len, (long long)fps,
                    (long long)int_of(o, "m"));
        return;
    }
    g->nb_compared++;
    clips = avt_features_clips(len, (int)clip, (int)fps);
    if (clips != int_of(o, "num_clips") || nb != clips * clip) {
        golden_fail(g, "%lld rows at %lld fps: %lld clips, wanted %lld", (long long)len, (long long)fps, (long long)clips,
                    (long long)int_of(o, "num_clips"));
        return;
    }
    for (int64_t i = 0; i < nb; i++) {
        const int64_t row = avt_features_row(i, nb, (int)fps);

        want[i] = json_int(json_at(index, i));
        if (want[i] != (row < len ? row : -1)) {
            golden_fail(g, "%lld rows at %lld fps: frame %lld takes %lld, wanted %lld", (long long)len, (long long)fps,
                        (long long)i, (long long)row, (long long)want[i]);
            return;
        }
    }
    if (fps == 25)
        check_pick(g, want, nb, len);
}

static double number_at(const Json *row, int64_t i)
{
    return json_number(json_at(row, i));
}

static float *matrix(Golden *g, const Json *rows, int64_t *nb, int64_t *width)
{
    const Json *first = avt_json_first(rows);
    float *v;

    *nb = json_nb(rows);
    *width = json_nb(first);
    v = golden_alloc(g, sizeof(*v) * (size_t)(*nb * *width + 1));
    for (int64_t i = 0; i < *nb; i++)
        for (int64_t d = 0; d < *width; d++)
            v[i * *width + d] = (float)number_at(json_at(rows, i), d);
    return v;
}

static void check_interpolation(Golden *g, const Json *o)
{
    int64_t T, D, len, width;
    const float *in = matrix(g, list_of(o, "input"), &T, &D), *want = matrix(g, list_of(o, "output"), &len, &width);
    float *have = golden_alloc(g, sizeof(*have) * (size_t)(len * width + 1));

    if (int_of(o, "input_fps") != 50 || int_of(o, "output_fps") != 30 || T < 1 || D != width || len != avt_features_len30(T)) {
        golden_fail(g, "an interpolation that is not ours (%lld rows to %lld)", (long long)T, (long long)len);
        return;
    }
    const Tensor x = avt_new(g->work, DT_F32, T, D), y = avt_new(g->work, DT_F32, len, D);
    avt_upload(g->be, x, in);
    avt_features_30hz(g->be, g->work, y, x);
    if (avt_download(g->be, have, y) < 0) {
        golden_fail(g, "the interpolation failed");
        return;
    }
    g->nb_compared++;
    for (int64_t i = 0; i < len * width; i++) {
        g->max_abs = fmax(g->max_abs, fabs((double)have[i] - want[i]));
        if (!(fabs((double)have[i] - want[i]) <= 1e-5 * fmax(1, fabs(want[i])))) {
            golden_fail(g, "interpolation of %lld rows: value %lld is %g, wanted %g", (long long)T, (long long)i, have[i],
                        want[i]);
            return;
        }
    }
}

static void check_length(Golden *g, const Json *pair)
{
    const int64_t in = json_int(json_at(pair, 0));
    const int64_t out = json_int(json_at(pair, 1));

    g->nb_compared++;
    if (avt_features_len30(in) != out)
        golden_fail(g, "%lld rows at 50 Hz are %lld at 30 Hz, wanted %lld", (long long)in,
                    (long long)avt_features_len30(in), (long long)out);
}

void case_audio_functions(Golden *g)
{
    static const struct { const char *key; void (*check)(Golden *g, const Json *o); } lists[] = {
        { "bucket", check_bucket }, { "interp_length_50_to_30", check_length }, { "linear_interpolation", check_interpolation },
    };
    Json *j = NULL;
    char path[4096];

    snprintf(path, sizeof(path), "%s/audio_functions.json", g->dir);
    if (avt_json_read(&j, path, g->log) < 0) {
        golden_fail(g, "%s cannot be read", path);
        return;
    }
    for (const Json *m = j->first; m; m = m->next) {
        int known = !strcmp(m->key, "video_rate") && json_int(m) == 30;

        for (size_t k = 0; k < sizeof(lists) / sizeof(lists[0]); k++)
            if (!strcmp(m->key, lists[k].key) && json_is(m, JSON_LIST)) {
                known = 1;
                for (const Json *v = m->first; v && !g->failed; v = v->next)
                    lists[k].check(g, v);
            }
        if (!known)
            golden_fail(g, "%s: no case knows %s", path, m->key);
    }
    avt_json_close(&j);
}
