/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * precision=: the embedded model speaks the same sentences in f32 and in bf16. Noise and sink distances are the same, so block after
 * block differs by rounding alone: latents of ten blocks, after four steps each, by at most 3e-2 (relative L2), frames by at most what
 * 45 dB are in the worst block, 50 dB over all. On every CPU level that this machine has; what `auto` takes, and the log's line of it. In int8
 * and fp8 as far as doc/precision.md says.
 * With --device NAME (cuda0): that device's films, of DEVICE_BLOCKS blocks, against the CPU's in f32; with --sample the one in bf16.
 */
#include <math.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "cpu/cpu.h"
#include "engine/session.h"
#include "test.h"

enum { SIZE = 128, BLOCKS = 10, DEVICE_BLOCKS = 2, BLOCK = 12, FRAME = SIZE * SIZE * 3, SAMPLES = BLOCKS * BLOCK * 640, LATENTS = 16 * 3 * 16 * 16 };

typedef struct Limits {
    double latents;                                 // relative L2
    double worst_block, all_blocks;                 // dB
} Limits;

static const Limits of_bf16 = { 3e-2, 45, 50 }, of_f32 = { 1e-4, 70, 70 }, of_int8 = { 2e-2, 48, 50 }, of_fp8 = { 6e-2, 40, 42 },
                    of_kv = { 3e-2, 47, 48 };

typedef struct Film {
    float latents[BLOCKS][LATENTS];
    uint8_t frames[BLOCKS * BLOCK][FRAME];
    AvatarInfo info;
    char log[8192];
    int nb;
} Film;

static float speech[SAMPLES];
static AvatarLook look;
static int nb_blocks = BLOCKS;
static const char *device;                          // of --device
static int sample;                                  // of --sample

static int setup(void **state)
{
    png_image png = { .version = PNG_IMAGE_VERSION };
    png_bytep rgb;

    (void)state;
    test_read_speech(speech, SAMPLES);
    REQUIRE(png_image_begin_read_from_file(&png, AVT_SRCDIR "/model/nano/faces/anna.png"));
    png.format = PNG_FORMAT_RGB;
    rgb = malloc(PNG_IMAGE_SIZE(png));
    REQUIRE(rgb && png_image_finish_read(&png, NULL, rgb, 0, NULL));
    avatar_look_default(&look);
    look.rgb = rgb;
    look.width = (int)png.width;
    look.height = (int)png.height;
    look.format = AVATAR_RGB24;
    look.seed = 1;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free((void *)look.rgb);
    avatar_engine_flush();
    return 0;
}

static void keep_line(void *opaque, int level, const char *text)
{
    Film *f = opaque;
    const size_t n = strlen(f->log);

    (void)level;
    snprintf(f->log + n, sizeof(f->log) - n, "%s\n", text);
}

static void see_latents(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Film *f = opaque;

    assert_int_equal(nb, LATENTS);
    assert_in_range(block, 0, BLOCKS - 1);
    memcpy(f->latents[block], v, sizeof(f->latents[block]));
}

static const char *kv;                              // of the films that are made

static AvatarOptions options(Film *f, const char *precision, int level)
{
    AvatarOptions opt;

    avatar_options_default(&opt);
    opt.precision = precision;
    opt.kv = kv;
    opt.cpu_level = level;
    opt.log = keep_line;
    opt.log_opaque = f;
    return opt;
}

static void make_film(Film *f, const char *devices, const char *precision, int level)
{
    const SessionHooks hooks = { .rank = { .opaque = f, .latents = see_latents } };
    AvatarOptions opt = options(f, precision, level);
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;
    AvatarFrame frame;

    opt.devices = devices;
    memset(f, 0, sizeof(*f));
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    REQUIRE_OK(avt_session_open(&s, e, &look, &hooks));
    avatar_session_info(s, &f->info);
    REQUIRE_OK(avatar_session_send(s, speech, nb_blocks * BLOCK * 640));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    while (avatar_session_receive(s, &frame, AVATAR_WAIT) >= 0) {
        assert_in_range(f->nb, 0, BLOCKS * BLOCK - 1);
        memcpy(f->frames[f->nb++], frame.data[0], FRAME);
    }
    assert_int_equal(f->nb, nb_blocks * BLOCK);
    avatar_session_close(&s);
    avatar_engine_close(&e);
}

static double squares(const uint8_t *a, const uint8_t *b, int64_t nb)
{
    double sum = 0;

    for (int64_t i = 0; i < nb; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sum;
}

static double dB(double sum, double nb)
{
    return 10 * log10(255.0 * 255.0 * nb / fmax(sum, 1e-9));
}

static void compare(const Film *a, const Film *b, const Limits *limit, const char *name)
{
    double worst = INFINITY, all = 0, far = 0;

    for (int g = 0; g < nb_blocks; g++) {
        const double sum = squares(a->frames[g * BLOCK], b->frames[g * BLOCK], BLOCK * FRAME);
        double max, l2;

        test_distance(a->latents[g], b->latents[g], LATENTS, &max, &l2);
        far = fmax(far, l2);
        worst = fmin(worst, dB(sum, BLOCK * FRAME));
        all += sum;
    }
    print_message("%s against f32 of the CPU: latents %.2e, frames %.1f dB in the worst block, %.1f dB in all\n", name, far, worst,
                  dB(all, (double)nb_blocks * BLOCK * FRAME));
    REQUIRE(far > 0 && far <= limit->latents);
    REQUIRE(worst >= limit->worst_block && dB(all, (double)nb_blocks * BLOCK * FRAME) >= limit->all_blocks);
}

static void bf16_stays_close(void **state)
{
    static const char *const name[] = { "plain", "onednn", "bf16 at avx2", "bf16 at avx512", "bf16 at amx" };
    Film *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));

    (void)state;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    SKIP("films take half an hour under a sanitizer, and the code is that of the other tests");
#endif
    REQUIRE(a && b);
    make_film(a, NULL, "f32", -1);
    assert_string_equal(a->info.precision, "f32");
    for (int level = CPU_AVX2; level < CPU_AUTO; level++) {
        if (!avt_cpu_has((CpuLevel)level)) {
            print_message("SKIPPED: this CPU has no %s\n", name[level]);
            continue;
        }
        make_film(b, NULL, "bf16", level);
        assert_string_equal(b->info.precision, "bf16");
        REQUIRE(strstr(b->log, "precision bf16, as asked for"));
        REQUIRE(level == CPU_AMX || strstr(b->log, "slower than f32 on cpu"));
        compare(a, b, &of_bf16, name[level]);
    }
    free(a);
    free(b);
}

/* Codes, with the activations that the engine takes and with the other ones. */
static void codes_stay_close(void **state)
{
    static const struct {
        const char *name, *label;
        int level;
        const Limits *limit;
    } way[] = { { "int8", "int8", -1, &of_int8 }, { "int8", "int8 at avx512", CPU_AVX512, &of_int8 }, { "int8", "int8 at avx2", CPU_AVX2, &of_int8 },
                { "fp8", "fp8", -1, &of_fp8 }, { "fp8", "fp8 at avx512", CPU_AVX512, &of_fp8 } };
    Film *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));

    (void)state;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    SKIP("films take half an hour under a sanitizer, and the code is that of the other tests");
#endif
    REQUIRE(a && b);
    make_film(a, NULL, "f32", -1);
    for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
        if (way[i].level >= 0 && !avt_cpu_has((CpuLevel)way[i].level)) {
            print_message("SKIPPED: this CPU has no level %d\n", way[i].level);
            continue;
        }
        make_film(b, NULL, way[i].name, way[i].level);
        assert_string_equal(b->info.precision, way[i].name);
        REQUIRE(strstr(b->log, "as asked for: of the layers' products"));
        REQUIRE(!strstr(b->log, "slower") == !strcmp(way[i].name, "int8"));
        REQUIRE(!strstr(b->log, "precision fp8: lips may follow") == !strcmp(way[i].name, "int8"));     // what misses a goal is named
        compare(a, b, way[i].limit, way[i].label);
    }
    free(a);
    free(b);
}

/* Keys and values in e4m3 beside activations of each type; in bf16 beside those of f32. */
static void kept_keys_stay_close(void **state)
{
    static const struct {
        const char *precision, *kv, *label;
        const Limits *limit;
    } way[] = { { "f32", "bf16", "kv bf16 under f32", &of_bf16 }, { "f32", "fp8", "kv fp8 under f32", &of_kv }, { "bf16", "fp8", "kv fp8 under bf16", &of_kv } };
    Film *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));

    (void)state;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    SKIP("films take half an hour under a sanitizer, and the code is that of the other tests");
#endif
    REQUIRE(a && b);
    make_film(a, NULL, "f32", -1);
    assert_string_equal(a->info.kv, "f32");
    for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
        kv = way[i].kv;
        make_film(b, NULL, way[i].precision, -1);
        kv = NULL;
        assert_string_equal(b->info.precision, way[i].precision);
        assert_string_equal(b->info.kv, way[i].kv);
        REQUIRE(b->info.state_bytes < a->info.state_bytes);
        compare(a, b, way[i].limit, way[i].label);
    }
    free(a);
    free(b);
}

/* bf16 holds half the memory in rings and weights. */
static void auto_takes_what_is_faster(void **state)
{
    const int has_amx = avt_cpu_has(CPU_AMX);
    Film *f = calloc(1, sizeof(*f));

    (void)state;
    for (int i = 0; i < 2; i++) {
        const AvatarOptions opt = options(f, i ? NULL : "auto", i ? (int)CPU_AVX512 : -1);      // below AMX it is f32
        AvatarEngine *e = NULL;
        AvatarSession *s = NULL;
        AvatarInfo info;

        f->log[0] = 0;
        REQUIRE_OK(avatar_engine_open(&e, &opt));
        REQUIRE_OK(avatar_session_open(&s, e, &look));
        avatar_session_info(s, &info);
        assert_string_equal(info.precision, has_amx && !i ? "bf16" : "f32");
        REQUIRE(strstr(f->log, has_amx && !i ? "precision bf16, which cpu runs faster than f32" : "precision f32, as cpu has nothing"));
        avatar_session_close(&s);
        avatar_engine_close(&e);
    }
    free(f);
}

static void other_words_are_refused(void **state)
{
    Film *f = calloc(1, sizeof(*f));
    const AvatarOptions opt = options(f, "fp12", -1);
    AvatarEngine *e = NULL;

    (void)state;
    assert_int_equal(avatar_options_check(&opt), AVATAR_ERR(EINVAL));
    assert_int_equal(avatar_engine_open(&e, &opt), AVATAR_ERR(EINVAL));
    REQUIRE(!e && strstr(f->log, "precision=fp12") && strstr(f->log, "auto, f32, bf16, int8 or fp8"));
    free(f);
}

/* A device's film is the CPU's, within what its precision rounds. */
static void a_device_stays_close(void **state)
{
    static const struct {
        const char *name, *kv;
        const Limits *limit;
        int in_sample;
    } way[] = { { "bf16", NULL, &of_bf16, 1 }, { "bf16", "fp8", &of_kv, 0 }, { "f32", NULL, &of_f32, 0 }, { "f32", "fp8", &of_kv, 0 },
                { "int8", NULL, &of_int8, 0 }, { "fp8", NULL, &of_fp8, 0 } };
    Film *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));

    (void)state;
    REQUIRE(a && b);
    make_film(a, "cpu", "f32", -1);
    for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
        if (sample && !way[i].in_sample)
            continue;
        kv = way[i].kv;
        make_film(b, device, way[i].name, -1);
        kv = NULL;
        assert_string_equal(b->info.precision, way[i].name);
        assert_string_equal(b->info.kv, way[i].kv ? way[i].kv : !strcmp(way[i].name, "f32") ? "f32" : "bf16");
        compare(a, b, way[i].limit, way[i].kv ? "kv fp8" : way[i].name);
    }
    free(a);
    free(b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest of_a_device[] = { cmocka_unit_test(a_device_stays_close) };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_stays_close), cmocka_unit_test(codes_stay_close), cmocka_unit_test(kept_keys_stay_close),
        cmocka_unit_test(auto_takes_what_is_faster), cmocka_unit_test(other_words_are_refused),
    };

    if (argc >= 3 && !strcmp(argv[1], "--device")) {
        device = argv[2];
        sample = argc > 3 && !strcmp(argv[3], "--sample");
        nb_blocks = DEVICE_BLOCKS;
        return _cmocka_run_group_tests("precision", of_a_device, 1, setup, teardown) ? 1 : 0;
    }
    return _cmocka_run_group_tests("precision", tests, sizeof(tests) / sizeof(tests[0]), setup, teardown) ? 1 : 0;
}
