/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every plan gives what one device gives: wave, timestep, layer against sequential, for 3, 4, 5 and 8 steps over 10 blocks with
 * the sink's refresh, with whole and with partial waves. Also: bytes on the wire, planned memory = used memory.
 * With --device NAME (cuda0, or 'cuda0|cuda1') that device's plans alone, over DEVICE_BLOCKS blocks; with --sample two of them over SAMPLE_BLOCKS.
 */
#include "plans.h"

/* The same bits: a plan moves work and messages, it computes nothing else. */
static void compare(const Result *a, const Result *b)
{
    for (int g = 0; g < nb_blocks; g++)
        REQUIRE_CLOSE(a->latents[g], b->latents[g], 16 * 3 * 8 * 8, 0);
    assert_memory_equal(a->frames, b->frames, sizeof(a->frames));
}

/* Devices of other classes compute in another order. */
static void compare_close(const Result *a, const Result *b)
{
    for (int g = 0; g < nb_blocks; g++)
        REQUIRE_CLOSE(a->latents[g], b->latents[g], 16 * 3 * 8 * 8, 1e-5);
    for (int64_t i = 0; i < nb_blocks * 12; i++)
        for (size_t k = 0; k < sizeof(a->frames[0]); k++)
            assert_in_range(a->frames[i][k] + 1 - b->frames[i][k], 0, 2);
}

static void all_plans_agree(const char *on, int steps, CommKind comm)
{
    Result *ref = new_result(), *r = new_result();
    char own[24];

    snprintf(own, sizeof(own), "%s:own", first_of(on));
    run(ref, "sequential", first_of(on), NULL, steps, 0, COMM_THREADS);
    run(r, "sequential", first_of(on), own, steps, 1, comm);
    compare(r, ref);
    run(r, "wave", first_of(on), NULL, steps, 0, comm);
    compare(r, ref);
    run(r, "wave", first_of(on), own, steps, 1, comm);
    compare(r, ref);
    run(r, "timestep", list_of(on, steps), NULL, steps, 0, comm);
    compare(r, ref);
    run(r, "timestep", list_of(on, steps + 1), NULL, steps, 1, comm);
    compare(r, ref);
    run(r, "layer", list_of(on, 2), NULL, steps, 0, comm);
    compare(r, ref);
    run(r, "layer", list_of(on, 3), own, steps, 1, comm);
    compare(r, ref);
    free(ref);
    free(r);
}

static void plans_agree(void **state)
{
    all_plans_agree(device, *(int *)*state, COMM_THREADS);
}

/* Without buffers, in order, as NCCL would have it. */
static void plans_agree_strictly(void **state)
{
    all_plans_agree(device, *(int *)*state, COMM_STRICT);
}

/* What differs most from one device: a pipe of three with a VAE of its own, and a step a device. */
static void some_plans_agree(void **state)
{
    Result *ref = new_result(), *r = new_result();

    (void)state;
    run(ref, "sequential", first_of(device), NULL, 2, 0, COMM_THREADS);
    run(r, "layer", list_of(device, 3), NULL, 2, 0, COMM_STRICT);
    compare(r, ref);
    run(r, "timestep", list_of(device, 3), NULL, 2, 0, COMM_THREADS);
    compare(r, ref);
    free(ref);
    free(r);
}

/* The same work with unreadable tensors and late queues: a mark that is missing gives other numbers. */
static void guard_agrees(void **state)
{
    (void)state;
    all_plans_agree("guard", 3, COMM_THREADS);
    all_plans_agree("guard", 3, COMM_STRICT);
}

/* What codes with a scale a head save of bf16, by hand: rings of 3 steps, sink and text. */
static double saved_by_codes(void)
{
    const DitShape s = avt_dit_shape(SIZE / 8, SIZE / 8);
    const DitConfig *c = &model.sizes.dit;

    return (double)(2 * c->nb_layers * (3 * s.ring + s.Lc + c->text_len) * (c->dim - c->nb_heads * 4));
}

/* Keys and values in another type than activations: the same bits under every plan. */
static void plans_agree_with_keys_in_codes(void **state)
{
    static const char *const names[] = { "auto", "bf16", "fp8" };
    Result *r[3];

    (void)state;
    precision = "bf16";
    for (int i = 0; i < 3; i++) {
        kv = names[i];
        r[i] = new_result();
        run(r[i], "sequential", device, NULL, 3, 0, COMM_THREADS);
    }
    compare(r[1], r[0]);
    REQUIRE(memcmp(r[2]->latents, r[0]->latents, sizeof(r[0]->latents)));
    assert_in_range((int)(100 * (double)(r[0]->memory[0].state - r[2]->memory[0].state) / saved_by_codes()), 97, 100);    // tensors begin at 64 bytes
    all_plans_agree(device, 3, COMM_THREADS);
    precision = "f32";
    all_plans_agree(device, 3, COMM_STRICT);
    all_plans_agree("guard", 3, COMM_STRICT);
    kv = "bf16";                                                                // below f32's activations
    all_plans_agree(device, 3, COMM_THREADS);
    precision = "auto";
    kv = NULL;
    for (int i = 0; i < 3; i++)
        free(r[i]);
}

static void a_device_agrees_with_keys_in_codes(void **state)
{
    (void)state;
    kv = "fp8";
    all_plans_agree(device, 3, COMM_THREADS);
    kv = NULL;
}

/* Queues of two classes of device meet in the host. */
static void classes_meet_in_the_host(void **state)
{
    Result *ref = new_result(), *r = new_result();

    (void)state;
    run(ref, "sequential", "guard", NULL, 3, 0, COMM_THREADS);
    run(r, "layer", "cpu|guard", "cpu:own", 3, 1, COMM_THREADS);
    compare_close(r, ref);
    run(r, "layer", "cpu|guard", "cpu:own", 3, 0, COMM_STRICT);
    compare_close(r, ref);
    free(ref);
    free(r);
}

/* One hop of a pipe carries N x D activations and nothing else; a step's end carries latents. */
static void bytes_are_known(void **state)
{
    const DitShape shape = avt_dit_shape(SIZE / 8, SIZE / 8);
    const int64_t D = model.sizes.dit.dim * 4, x = shape.N * D, sink = shape.Lc * D, latent = 16 * 3 * 8 * 8 * 4;
    const int64_t time = (4 + 1) * 7 * D;                                               // each step's and the sink's
    const int64_t row = model.sizes.dit.dim * (int64_t)avt_dtype_size(avt_device_act("cpu", CPU_AUTO));    // of what has been embedded
    const int64_t text = model.sizes.dit.text_len * row, sound = 3 * (model.sizes.dit.nb_audio_tokens + 2) * row;
    const int64_t handed_on = time + text + BLOCKS * sound;
    const int steps = 4;
    Result *r = new_result();

    (void)state;
    run(r, "layer", "cpu|cpu|cpu", "cpu:own", steps, 0, COMM_THREADS);
    assert_int_equal(r->bytes[0][1], BLOCKS * steps * x + 2 * sink + handed_on);
    assert_int_equal(r->bytes[1][2], BLOCKS * steps * x + 2 * sink + handed_on);
    assert_int_equal(r->bytes[2][0], BLOCKS * (steps - 1) * latent + latent / 3);       // next step's input; the refreshed reference
    assert_int_equal(r->bytes[2][3], BLOCKS * latent);
    assert_int_equal(r->bytes[3][0], latent / 3 * DIT_MOTION);                          // the picture's, reference and motion
    assert_int_equal(r->bytes[3][4], BLOCKS * 12 * SIZE * SIZE * 3 / 2);
    assert_int_equal(r->bytes[1][0] + r->bytes[0][2] + r->bytes[0][3] + r->bytes[1][3] + r->bytes[3][1] + r->bytes[3][2], 0);
    assert_int_equal(r->bytes[4][1] + r->bytes[4][2], 2 * (r->bytes[4][3] - SIZE * SIZE * 3));      // commands alone, and the picture
    // mailboxes: one of tokens, two of times, of texts, five of sound;
    assert_int_equal(r->memory[1].messages, (x > sink ? x : sink) + 2 * 7 * D + 2 * text + (steps + 1) * sound);
    assert_int_equal(r->memory[0].messages, steps * latent + latent / 3 + 2 * latent / 3 * DIT_MOTION);     // latents, reference, picture;
    assert_int_equal(r->memory[3].messages, 2 * latent);                                // results
    run(r, "layer", "cpu|cpu|cpu", "cpu:own", steps, 0, COMM_STRICT);
    assert_int_equal(r->memory[0].messages + r->memory[1].messages + r->memory[2].messages + r->memory[3].messages, 0);
    run(r, "timestep", "cpu|cpu|cpu|cpu", "cpu:own", steps, 0, COMM_THREADS);
    for (int i = 0; i < steps; i++)
        assert_int_equal(r->bytes[i][i + 1], BLOCKS * latent);
    free(r);
}

int main(int argc, char **argv)
{
    static int s3 = 3, s4 = 4, s5 = 5, s8 = 8;
    const struct CMUnitTest tests[] = {
        { "plans_agree_3_steps", plans_agree, NULL, NULL, &s3 }, { "plans_agree_4_steps", plans_agree, NULL, NULL, &s4 },
        { "plans_agree_5_steps", plans_agree, NULL, NULL, &s5 }, { "plans_agree_8_steps", plans_agree, NULL, NULL, &s8 },
        { "plans_agree_strictly_4_steps", plans_agree_strictly, NULL, NULL, &s4 },
        cmocka_unit_test(bytes_are_known), cmocka_unit_test(guard_agrees),
        cmocka_unit_test(plans_agree_with_keys_in_codes), cmocka_unit_test(classes_meet_in_the_host),
    };
    const struct CMUnitTest of_a_device[] = {
        { "plans_agree_3_steps", plans_agree, NULL, NULL, &s3 }, { "plans_agree_strictly_3_steps", plans_agree_strictly, NULL, NULL, &s3 },
        cmocka_unit_test(a_device_agrees_with_keys_in_codes),
    };

    const struct CMUnitTest sample[] = { cmocka_unit_test(some_plans_agree) };

    if (argc >= 3 && !strcmp(argv[1], "--device")) {
        device = argv[2];
        nb_blocks = SAMPLE_BLOCKS;
        if (argc > 3 && !strcmp(argv[3], "--sample"))
            return _cmocka_run_group_tests("plans", sample, 1, setup, teardown) ? 1 : 0;
        nb_blocks = DEVICE_BLOCKS;
        return _cmocka_run_group_tests("plans", of_a_device, sizeof(of_a_device) / sizeof(of_a_device[0]), setup, teardown) ? 1 : 0;
    }
    return _cmocka_run_group_tests("plans", tests, sizeof(tests) / sizeof(tests[0]), setup, teardown) ? 1 : 0;
}
