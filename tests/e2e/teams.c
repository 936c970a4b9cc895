/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plans that split layers over a team give what one device gives, by columns and by heads, alone and within the other plans, for 3, 4,
 * 5 and 8 steps over 10 blocks with the sink's refresh, with whole and with partial waves; planned memory = used memory; the bytes that
 * parts send each other. Likewise decoders that have rows of the pictures. With --device NAME (cuda0, or 'cuda0|cuda1') that device's plans alone, over
 * DEVICE_BLOCKS blocks; with --sample behind it two plans over SAMPLE_BLOCKS.
 */
#include "plans.h"

/* Plans that split layers, by heads and by columns, in equal shares and in others: the model has 3 heads. */
static void all_teams_agree(const char *on, int steps, CommKind comm, double tol)
{
    static const struct {
        const char *plan;
        int nb, a_step, own;                // devices: so many, or so many a step; a VAE of its own
    } plans[] = {
        { "tensor2", 2, 0, 0 },        { "ulysses2", 2, 0, 1 },         { "tensor3", 3, 0, 1 },           { "ulysses3", 3, 0, 0 },
        { "layer+tensor2", 4, 0, 0 },  { "layer+ulysses2", 4, 0, 1 },   { "wave+tensor2", 2, 0, 0 },      { "wave+ulysses3", 3, 0, 0 },
        { "timestep+tensor2", 2, 1, 0 }, { "timestep+ulysses2", 2, 1, 1 },
    };
    Result *ref = new_result(), *r = new_result();
    char own[24];

    snprintf(own, sizeof(own), "%s:own", first_of(on));
    run(ref, "sequential", first_of(on), NULL, steps, 0, COMM_THREADS);
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
        run(r, plans[i].plan, list_of(on, plans[i].nb * (plans[i].a_step ? steps : 1)), plans[i].own ? own : NULL, steps, (int)i % 2, comm);
        compare_near(r, ref, tol);
    }
    free(ref);
    free(r);
}

static void teams_agree(void **state)
{
    precision = "f32";
    all_teams_agree(device, *(int *)*state, COMM_THREADS, 1e-5);
    precision = "auto";
}

static void teams_agree_strictly(void **state)
{
    precision = "f32";
    all_teams_agree(device, *(int *)*state, COMM_STRICT, 1e-5);
    precision = "auto";
}

static void teams_agree_in_bf16(void **state)
{
    precision = "bf16";
    all_teams_agree(device, *(int *)*state, COMM_THREADS, 3e-2);
    precision = "auto";
}

/* Heads are exchanged before they become codes, so attention by heads has the bits of one device; sums of columns' products that differ in
 * their last bit may be another code. */
static void teams_agree_with_keys_in_codes(void **state)
{
    Result *ref = new_result(), *r = new_result();

    (void)state;
    precision = "f32";
    kv = "fp8";
    run(ref, "sequential", device, NULL, 3, 0, COMM_THREADS);
    run(r, "ulysses2", list_of(device, 2), NULL, 3, 0, COMM_THREADS);
    compare_near(r, ref, 1e-3);
    run(r, "layer+ulysses3", list_of(device, 6), NULL, 3, 0, COMM_STRICT);
    compare_near(r, ref, 1e-3);
    run(r, "layer+tensor2", list_of(device, 4), NULL, 3, 0, COMM_THREADS);
    compare_near(r, ref, 3e-2);
    run(ref, "sequential", "guard", NULL, 3, 0, COMM_THREADS);
    run(r, "ulysses2", list_of("guard", 2), NULL, 3, 0, COMM_THREADS);
    compare_near(r, ref, 1e-3);
    precision = "auto";
    kv = NULL;
    free(ref);
    free(r);
}

/* One of each kind of exchange. */
static void some_teams_agree(void **state)
{
    Result *ref = new_result(), *r = new_result();

    (void)state;
    run(ref, "sequential", first_of(device), NULL, 2, 0, COMM_THREADS);
    run(r, "ulysses2", list_of(device, 2), NULL, 2, 0, COMM_THREADS);
    compare_near(r, ref, 3e-2);
    vae_split = 2;
    run(r, "layer+tensor2", list_of(device, 4), NULL, 2, 0, COMM_STRICT);
    compare_near(r, ref, 3e-2);
    vae_split = 0;
    free(ref);
    free(r);
}

static void guarded_teams_agree(void **state)
{
    static const char *const plans[] = { "layer+tensor2", "layer+ulysses2" };
    Result *ref = new_result(), *r = new_result();

    (void)state;
    run(ref, "sequential", "guard", NULL, 3, 0, COMM_THREADS);
    for (int i = 0; i < 4; i++) {
        run(r, plans[i % 2], list_of("guard", 4), NULL, 3, 1, i < 2 ? COMM_THREADS : COMM_STRICT);
        compare_near(r, ref, 1e-5);
    }
    run(r, "tensor2", "cpu|guard", NULL, 3, 0, COMM_STRICT);
    compare_near(r, ref, 1e-5);
    run(r, "ulysses2", "guard|cpu", NULL, 3, 0, COMM_THREADS);
    compare_near(r, ref, 1e-5);
    free(ref);
    free(r);
}

/* What part 0 of 2 sends to part 1 and back, of each way of splitting, added up by hand from team.h's picture. 3 heads: 1 and 2. */
static int64_t sent_by_columns(int part, int steps)
{
    const DitShape s = avt_dit_shape(SIZE / 8, SIZE / 8);
    const DitConfig *c = &model.sizes.dit;
    const int64_t D = c->dim, half = s.N / 2, sink = s.Lc / 2, L = c->nb_layers, I = c->nb_inject, m = c->nb_audio_tokens + 1;
    const int64_t item = (3 * L + I) * 2 * half * D + (3 * L + I) * s.N + half * 64;         // gathered, summed; squares; the head
    const int64_t pass = ((3 * L - 2) + (3 * L - 3)) * sink * D + L * (s.n + s.Lc) + (2 * L - 2) * s.Lc;    // the last layer has keys alone
    const int64_t sound = I * (3 * m + 3 * D), text = L * c->text_len;                       // squares of keys, columns of tables

    (void)part;
    return 4 * (BLOCKS * steps * item + 2 * pass + BLOCKS * sound + text);
}

static int64_t sent_by_heads(int part, int steps)
{
    const DitShape s = avt_dit_shape(SIZE / 8, SIZE / 8);
    const DitConfig *c = &model.sizes.dit;
    const int64_t hd = c->dim / c->nb_heads, mine = (part ? 2 : 1) * hd, yours = (part ? 1 : 2) * hd, half = s.N / 2, sink = s.Lc / 2, L = c->nb_layers;
    const int64_t item = L * half * (3 * yours + mine) + half * 64;                          // q, k, v there, what was attended back
    const int64_t pass = L * (2 * sink + s.n / 2) * yours + (L - 1) * sink * (yours + mine);

    return 4 * (BLOCKS * steps * item + 2 * pass);
}

/* ---- the VAE ------------------------------------------------------------------------------------------------------------ */

/* Within a level: sums are taken in another order where rows are cut. */
static void compare_frames(const Result *a, const Result *b)
{
    assert_int_equal(a->nb_frames, b->nb_frames);
    for (int64_t i = 0; i < a->nb_frames; i++)
        for (size_t k = 0; k < frame_bytes(); k++)
            assert_in_range(a->frames[i][k] + 1 - b->frames[i][k], 0, 2);
}

/* 8 rows of latents over 2 and 3 parts, which share ranks with layers, with a part of them, or have their own. */
static void decoders_of_rows_agree(void **state)
{
    static const struct {
        const char *plan, *on;              // on: NULL for the device of the test
        int nb, own, split;
    } ways[] = {
        { "tensor2", NULL, 2, 0, 2 }, { "layer", NULL, 3, 0, 2 }, { "layer+ulysses2", NULL, 4, 0, 3 }, { "timestep", NULL, 3, 0, 3 },
        { "sequential", NULL, 1, 1, 3 }, { "layer", "guard", 2, 0, 2 },
    };
    Result *ref = new_result(), *r = new_result();
    char own[24];

    (void)state;
    snprintf(own, sizeof(own), "%s:own", first_of(device));
    precision = "f32";
    run(ref, "sequential", first_of(device), NULL, 3, 0, COMM_THREADS);
    for (int i = 0; i < 12; i++) {
        const int k = i / 2;

        vae_split = ways[k].split;
        run(r, ways[k].plan, list_of(ways[k].on ? ways[k].on : device, ways[k].nb), ways[k].own ? own : NULL, 3, i % 2, i % 2 ? COMM_STRICT : COMM_THREADS);
        compare_near(r, ref, 1e-5);
        compare_frames(r, ref);
    }
    vae_split = 0;
    precision = "auto";
    free(ref);
    free(r);
}

static void rows_of_every_format_are_put_together(void **state)
{
    static const int formats[] = { AVATAR_YUV444P, AVATAR_NV12, AVATAR_RGB24, AVATAR_GBRP };
    Result *ref = new_result(), *r = new_result();

    (void)state;
    precision = "f32";
    nb_blocks = 2;
    for (int i = 0; i < 4; i++) {
        format = formats[i];
        run(ref, "sequential", "cpu", NULL, 3, 0, COMM_THREADS);
        vae_split = 3;
        run(r, "layer", "cpu|cpu|cpu", NULL, 3, 0, COMM_THREADS);
        compare_frames(r, ref);
        vae_split = 0;
    }
    format = AVATAR_YUV420P;
    nb_blocks = BLOCKS;
    precision = "auto";
    free(ref);
    free(r);
}

/* Elements of a row of all inputs of the decoder's 3x3 convolutions, of one latent W wide: frames x width x channels, by hand. The first of a
 * stream is one frame, the others become four; base width C. */
static int64_t row_of_a_latent(int64_t W, int64_t C, int is_first)
{
    const int64_t two = is_first ? 1 : 2, four = is_first ? 1 : 4;

    return 16 * W +                                                                         // conv_in
           (2 * 2 + 3 * 2) * W * 4 * C + two * W * 4 * C +                                  // middle, stage 0; its step up
           two * 2 * W * (2 + 5 * 4) * C + four * 2 * W * 4 * C +                           // stage 1, whose first input is narrow
           four * 4 * W * 3 * 2 * 2 * C + four * 4 * W * 2 * C +
           four * 8 * W * (3 * 2 + 1) * C;                                                  // stage 3 and conv_out
}

/* What part a of nb decoders of rows sends part b: those rows to its neighbours, keys and values of its own rows to all, and once the picture as
 * it comes back. */
static int64_t sent_by_rows(int a, int b, int nb)
{
    const int64_t W = SIZE / 8, C = model.sizes.vae_width, own = W * (a + 1) / nb - W * a / nb, latents = PRIME_LATENTS + 3 * BLOCKS;
    const int64_t halo = abs(a - b) == 1 ? row_of_a_latent(W, C, 1) + (latents - 1) * row_of_a_latent(W, C, 0) : 0;

    return 4 * (halo + latents * 2 * own * W * 4 * C + own * 64 * W * 3);
}

/* Each part gets the picture's latents and each block's, and gives its rows. */
static void bytes_of_rows_are_known(void **state)
{
    const int64_t latent = 16 * 3 * 8 * 8 * 4, frames = BLOCKS * 12 * SIZE * SIZE * 3 / 2, picture = latent / 3 * DIT_MOTION;
    Result *r = new_result();

    (void)state;
    precision = "f32";
    vae_split = 2;
    run(r, "timestep", "cpu|cpu|cpu|cpu|cpu", NULL, 3, 0, COMM_THREADS);                     // 3 and 4 decode
    assert_int_equal(r->bytes[2][3], BLOCKS * latent);
    assert_int_equal(r->bytes[2][4], BLOCKS * latent);
    assert_int_equal(r->bytes[3][5], frames / 2);
    assert_int_equal(r->bytes[4][5], frames / 2);
    assert_int_equal(r->bytes[3][0], picture);
    assert_int_equal(r->bytes[4][0] + r->bytes[4][2], 0);
    assert_int_equal(r->bytes[3][4], sent_by_rows(0, 1, 2) + picture);
    assert_int_equal(r->bytes[4][3], sent_by_rows(1, 0, 2));
    vae_split = 3;
    run(r, "sequential", "cpu", "cpu:own", 3, 0, COMM_STRICT);                               // 1 to 3 decode
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++)
            if (a != b)
                assert_int_equal(r->bytes[1 + a][1 + b], sent_by_rows(a, b, 3) + (a ? 0 : picture));
    run(r, "layer", "cpu|cpu|cpu", NULL, 3, 0, COMM_THREADS);                                // ranks that have layers, too
    assert_int_equal(r->bytes[1][0], sent_by_rows(1, 0, 3));
    assert_int_equal(r->bytes[2][1], sent_by_rows(2, 1, 3) + BLOCKS * latent);               // the last of them hands on what it has denoised
    vae_split = 0;
    precision = "auto";
    free(r);
}

/* 704x384 in bf16, as doc/parallel.md has it. */
static void bytes_of_rows_of_the_published_model(void **state)
{
    (void)state;
    assert_int_equal(3 * 2 * row_of_a_latent(88, 96, 0), 31232256);
    assert_int_equal(3 * 2 * 2 * 24 * 88 * 4 * 96, 9732096);
}

static void bytes_of_teams_are_known(void **state)
{
    const DitConfig *c = &model.sizes.dit;
    const int64_t latent = 16 * 3 * 8 * 8 * 4, D = c->dim;
    const int steps = 4;
    const int64_t handed_on = 4 * (D * ((steps + 1) * 7 + c->text_len + BLOCKS * 3 * (c->nb_audio_tokens + 2))), picture = latent / 3 * DIT_MOTION;
    Result *r = new_result();

    (void)state;
    precision = "f32";
    for (int i = 0; i < 2; i++) {
        int64_t (*const sent)(int, int) = i ? sent_by_heads : sent_by_columns;

        run(r, i ? "ulysses2" : "tensor2", "cpu|cpu", NULL, steps, 0, COMM_THREADS);
        assert_int_equal(r->bytes[0][1], sent(0, steps) + handed_on);
        assert_int_equal(r->bytes[1][0], sent(1, steps) + picture);                          // the VAE's rank sends the picture
        vae_split = 2;
        run(r, i ? "ulysses2" : "tensor2", "cpu|cpu", NULL, steps, 0, COMM_THREADS);        // the first of the team encodes now
        assert_int_equal(r->bytes[0][1], sent(0, steps) + handed_on + sent_by_rows(0, 1, 2) + picture);
        assert_int_equal(r->bytes[1][0], sent(1, steps) + sent_by_rows(1, 0, 2));
        vae_split = 0;
    }
    precision = "auto";
    free(r);
}

int main(int argc, char **argv)
{
    static int s3 = 3, s4 = 4, s5 = 5, s8 = 8;
    const struct CMUnitTest tests[] = {
        { "teams_agree_3_steps", teams_agree, NULL, NULL, &s3 }, { "teams_agree_4_steps", teams_agree, NULL, NULL, &s4 },
        { "teams_agree_5_steps", teams_agree, NULL, NULL, &s5 }, { "teams_agree_8_steps", teams_agree, NULL, NULL, &s8 },
        { "teams_agree_strictly_4_steps", teams_agree_strictly, NULL, NULL, &s4 },
        { "teams_agree_in_bf16", teams_agree_in_bf16, NULL, NULL, &s4 },
        cmocka_unit_test(teams_agree_with_keys_in_codes), cmocka_unit_test(bytes_of_teams_are_known), cmocka_unit_test(guarded_teams_agree),
        cmocka_unit_test(decoders_of_rows_agree), cmocka_unit_test(rows_of_every_format_are_put_together), cmocka_unit_test(bytes_of_rows_are_known), cmocka_unit_test(bytes_of_rows_of_the_published_model),
    };

    const struct CMUnitTest of_a_device[] = {
        { "teams_agree_3_steps", teams_agree, NULL, NULL, &s3 }, { "teams_agree_strictly_3_steps", teams_agree_strictly, NULL, NULL, &s3 },
        cmocka_unit_test(decoders_of_rows_agree),
    };

    const struct CMUnitTest sample[] = { cmocka_unit_test(some_teams_agree) };

    if (argc >= 3 && !strcmp(argv[1], "--device")) {
        device = argv[2];
        nb_blocks = SAMPLE_BLOCKS;
        if (argc > 3 && !strcmp(argv[3], "--sample"))
            return _cmocka_run_group_tests("teams", sample, 1, setup, teardown) ? 1 : 0;
        nb_blocks = DEVICE_BLOCKS;
        return _cmocka_run_group_tests("teams", of_a_device, sizeof(of_a_device) / sizeof(of_a_device[0]), setup, teardown) ? 1 : 0;
    }
    return _cmocka_run_group_tests("teams", tests, sizeof(tests) / sizeof(tests[0]), setup, teardown) ? 1 : 0;
}
