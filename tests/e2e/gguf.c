/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A folder whose transformer is a GGUF file: the embedded model, converted here, makes the film of its safetensors, bit for bit where the
 * values are the same (bf16, and the text encoder's too), and as near as its blocks allow (q8_0). The LoRA is merged into it as ever.
 */
#include <math.h>
#include <unistd.h>

#include "base/half.h"
#include "base/mem.h"
#include "config.h"
#include "engine/session.h"
#include "files.h"

enum { SIZE = 64, BLOCKS = 2, FRAMES = 12 * BLOCKS, FRAME = SIZE * SIZE * 3, SAMPLES = FRAMES * 640 };

typedef struct Film {
    uint8_t frames[FRAMES][FRAME];
    int nb;
} Film;

static float speech[SAMPLES];
static uint8_t picture[FRAME];
static Film safetensors, gguf;

static void put_q8_0(Buf *b, const float *v, int64_t nb)
{
    for (int64_t i = 0; i < nb; i += 32) {
        float most = 0, d;

        for (int k = 0; k < 32; k++)
            most = fmaxf(most, fabsf(v[i + k]));
        d = avt_f16_f32(avt_f32_f16(most / 127));
        buf_int(b, avt_f32_f16(d), 2);
        for (int k = 0; k < 32; k++)
            buf_int(b, (uint8_t)(int8_t)(d > 0 ? fminf(fmaxf(roundf(v[i + k] / d), -127), 127) : 0), 1);
    }
}

/* The tensor as it is, or in blocks of q8_0 where it is a matrix of a layer. */
static GgufTensor convert(const CkptTensor *t, Buf *data, int q8_0, const char *name)
{
    GgufTensor g = { name, t->dtype == DT_BF16 ? 30 : 0, t->nd, { 0 }, NULL, 0 };
    void *raw = ckpt_bytes(t);
    float *v = malloc((size_t)avt_ckpt_values(t) * sizeof(*v));

    memcpy(g.dim, t->dim, sizeof(g.dim[0]) * (size_t)t->nd);
    if (q8_0 && t->nd == 2 && t->dim[1] % 32 == 0 && !strncmp(t->name, "blocks.", 7) && strstr(t->name, ".weight")) {
        avt_ckpt_widen(v, t, raw, avt_ckpt_values(t));
        put_q8_0(data, v, avt_ckpt_values(t));
        g.type = 8;
    } else {
        buf_put(data, raw, t->size);
    }
    free(raw);
    free(v);
    g.data = data->p;
    g.size = data->n;
    return g;
}

static void write_gguf(const char *from, const char *to, int q8_0, const char *prefix)
{
    static GgufTensor tensor[400];
    static Buf data[400];
    static char name[400][200];
    Buf file;
    Ckpt *c;

    REQUIRE_OK(avt_ckpt_open(&c, from, test_log()));
    REQUIRE(avt_ckpt_nb(c) < 400);
    for (int i = 0; i < avt_ckpt_nb(c); i++) {
        data[i] = (Buf){ 0 };
        snprintf(name[i], sizeof(name[i]), "%s%s", prefix, avt_ckpt_get(c, i)->name);
        tensor[i] = convert(avt_ckpt_get(c, i), &data[i], q8_0, name[i]);
    }
    file = gguf_make(tensor, (int)avt_ckpt_nb(c));
    tmp_write(to, file.p, file.n);
    buf_free(&file);
    for (int i = 0; i < avt_ckpt_nb(c); i++)
        buf_free(&data[i]);
    avt_ckpt_close(&c);
}

/* nano in the temporary folder, but for its transformer. */
static void link_model(void)
{
    static const char *const names[] = { "avatar.json", "config.json", "Wan2.1_VAE.pth", "google", "liveavatar.safetensors",
                                         "models_t5_umt5-xxl-enc-bf16.pth", "wav2vec2-large-xlsr-53-english" };
    char from[600];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(from, sizeof(from), AVT_SRCDIR "/model/nano/%s", names[i]);
        REQUIRE(!symlink(from, tmp_path(names[i])));
    }
}

static void make_film(Film *f, const char *model, const char *precision)
{
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;
    AvatarOptions opt;
    AvatarFrame frame;
    AvatarLook look;

    avatar_options_default(&opt);
    opt.model = model;
    opt.precision = precision;
    avatar_look_default(&look);
    look.rgb = picture;
    look.width = look.height = look.out_width = look.out_height = SIZE;
    look.seed = 3;
    look.format = AVATAR_RGB24;
    f->nb = 0;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    REQUIRE_OK(avatar_session_open(&s, e, &look));
    REQUIRE_OK(avatar_session_send(s, speech, SAMPLES));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    while (avatar_session_receive(s, &frame, AVATAR_WAIT) >= 0 && f->nb < FRAMES)
        memcpy(f->frames[f->nb++], frame.data[0], FRAME);
    avatar_session_close(&s);
    avatar_engine_close(&e);
    assert_int_equal(f->nb, FRAMES);
}

static double psnr(void)
{
    double sum = 1e-9;

    for (int i = 0; i < FRAMES; i++)
        for (int k = 0; k < FRAME; k++)
            sum += (double)(safetensors.frames[i][k] - gguf.frames[i][k]) * (safetensors.frames[i][k] - gguf.frames[i][k]);
    return 10 * log10(255.0 * 255 * FRAMES * FRAME / sum);
}

static int setup(void **state)
{
    (void)state;
    test_read_speech(speech, SAMPLES);
    for (int i = 0; i < FRAME; i++)
        picture[i] = (uint8_t)(90 + i / 3 % SIZE + i / (3 * SIZE) + 30 * (i % 3));
    tmp_open();
    link_model();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    avatar_engine_flush();
    tmp_close();
    return 0;
}

/* Both networks, the transformer under its prefix; in both precisions. */
static void test_same_values(void **state)
{
    (void)state;
    REQUIRE(!remove(tmp_path("models_t5_umt5-xxl-enc-bf16.pth")));
    write_gguf(AVT_SRCDIR "/model/nano/models_t5_umt5-xxl-enc-bf16.pth", "umt5-encoder.gguf", 0, "");
    write_gguf(AVT_SRCDIR "/model/nano/diffusion_pytorch_model.safetensors.index.json", "Nano-BF16.gguf", 0, "model.diffusion_model.");
    for (int i = 0; i < 2; i++) {
        make_film(&safetensors, "nano", i ? "bf16" : "f32");
        make_film(&gguf, tmp_dir, i ? "bf16" : "f32");
        REQUIRE(!memcmp(safetensors.frames, gguf.frames, sizeof(gguf.frames)));
    }
    REQUIRE(!remove(tmp_path("Nano-BF16.gguf")));
}

static void test_q8_0(void **state)
{
    double db;

    (void)state;
    write_gguf(AVT_SRCDIR "/model/nano/diffusion_pytorch_model.safetensors.index.json", "Nano-Q8_0.gguf", 1, "");
    make_film(&safetensors, "nano", "f32");
    make_film(&gguf, tmp_dir, "f32");
    db = psnr();
    print_message("           q8_0 against bf16 weights: %.1f dB\n", db);
    REQUIRE(db > 42 && db < 90);
    REQUIRE(!remove(tmp_path("Nano-Q8_0.gguf")));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_same_values), cmocka_unit_test(test_q8_0) };

    return _cmocka_run_group_tests("gguf", tests, sizeof(tests) / sizeof(tests[0]), setup, teardown) ? 1 : 0;
}
