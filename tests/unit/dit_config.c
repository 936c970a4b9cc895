/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes of the diffusion transformer: what config.json must say, what the tensors must agree with, what is told otherwise. */
#include "tiny_dit.h"

static int read_config(const TinyFiles *f, DitConfig *c, const Log *log)
{
    Ckpt *ckpt;
    int ret;

    REQUIRE_OK(avt_ckpt_open(&ckpt, f->weights, NULL));
    ret = avt_dit_config(c, f->config, ckpt, log);
    avt_ckpt_close(&ckpt);
    return ret;
}

static void sizes_are_read(void **state)
{
    TinyFiles f;
    DitConfig c;

    (void)state;
    tiny_write(&f, NULL, NULL);
    REQUIRE_OK(read_config(&f, &c, test_log()));
    REQUIRE(c.dim == TINY_D && c.nb_heads == 2 && c.nb_layers == TINY_L && c.ffn_dim == TINY_DF && c.audio_dim == TINY_A);
    REQUIRE(c.freq_dim == TINY_FREQ && c.text_dim == TINY_TEXT && c.text_len == TINY_LEN && c.nb_audio_tokens == TINY_TOKENS);
    REQUIRE(c.nb_audio_layers == TINY_STATES && c.nb_inject == 2 && c.inject[0] == 0 && c.inject[1] == 2 && c.eps == 1e-6f);
    tiny_remove(&f);
}

/* `from` in the configuration becomes `to`; the message must hold `word`. */
static void refuse(const char *from, const char *to, const char *word)
{
    char text[4096];
    const char *at = strstr(TINY_CONFIG, from);
    TinyFiles f;
    DitConfig c;

    REQUIRE(at);
    snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - TINY_CONFIG), TINY_CONFIG, to, at + strlen(from));
    tiny_write(&f, NULL, NULL);
    tiny_write_config(&f, text);
    if (read_config(&f, &c, test_log()) != AVT_INVALID || !strstr(test_log_text(), word)) {
        print_error("%s -> %s: the message is '%s'\n", from, to, test_log_text());
        fail();
    }
    tiny_remove(&f);
}

static void required_keys(void **state)
{
    static const char *const keys[] = { "dim", "ffn_dim", "num_heads", "num_layers", "cond_dim", "audio_dim", "enable_adain",
                                        "audio_inject_layers", "zero_timestep", "enable_framepack", "framepack_drop_mode", "enable_motioner" };

    (void)state;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        char from[64], to[64];

        snprintf(from, sizeof(from), "\"%s\"", keys[i]);
        snprintf(to, sizeof(to), "\"x%s\"", keys[i]);
        refuse(from, to, keys[i]);
    }
}

static void refused_values(void **state)
{
    (void)state;
    refuse("WanModel_S2V", "WanModel", "_class_name");
    refuse("\"s2v\"", "\"t2v\"", "model_type");
    refuse("\"enable_adain\": true", "\"enable_adain\": false", "enable_adain");
    refuse("\"zero_timestep\": true", "\"zero_timestep\": false", "zero_timestep");
    refuse("\"enable_framepack\": true", "\"enable_framepack\": false", "enable_framepack");
    refuse("\"padd\"", "\"drop\"", "framepack_drop_mode");
    refuse("\"enable_motioner\": false", "\"enable_motioner\": true", "enable_motioner");
    refuse("\"eps\": 1e-6", "\"enable_tsm\": true", "enable_tsm");
    refuse("\"eps\": 1e-6", "\"qk_norm\": false", "qk_norm");
    refuse("\"eps\": 1e-6", "\"cross_attn_norm\": false", "cross_attn_norm");
    refuse("\"eps\": 1e-6", "\"add_last_motion\": false", "add_last_motion");
    refuse("\"eps\": 1e-6", "\"trainable_token_pos_emb\": true", "trainable_token_pos_emb");
    refuse("\"eps\": 1e-6", "\"adain_mode\": \"norm\"", "adain_mode");
    refuse("\"eps\": 1e-6", "\"patch_size\": [1, 4, 4]", "patch_size");
    refuse("\"eps\": 1e-6", "\"window_size\": [3, 3]", "window_size");
    refuse("\"eps\": 1e-6", "\"in_dim\": 48", "in_dim");
    refuse("\"cond_dim\": 16", "\"cond_dim\": 20", "cond_dim");
    refuse("\"eps\": 1e-6", "\"eps\": 0", "eps");
    refuse("[0, 2]", "[2, 0]", "audio_inject_layers");
    refuse("[0, 2]", "[0, 3]", "audio_inject_layers");
    refuse("\"num_heads\": 2", "\"num_heads\": 3", "num_heads");
    refuse("\"num_heads\": 2", "\"num_heads\": 8", "num_heads");    // a head of 4 is too small for the three axes
}

static void tensors_disagree(void **state)
{
    (void)state;
    refuse("\"dim\": 32", "\"dim\": 64", "patch_embedding.weight");
    refuse("\"ffn_dim\": 48", "\"ffn_dim\": 64", "blocks.0.ffn.0.weight");
    refuse("\"num_layers\": 3", "\"num_layers\": 4", "num_layers");
    refuse("[0, 2]", "[0, 1, 2]", "audio_inject_layers");
    refuse("\"audio_dim\": 8", "\"audio_dim\": 16", "audio_dim");
    refuse("\"num_audio_token\": 2, ", "", "num_audio_token");      // absent: 4
    refuse("\"freq_dim\": 8", "\"freq_dim\": 256", "time_embedding.0.weight");
    refuse("\"text_dim\": 12, ", "", "text_dim");                   // absent: 4096
}

static void foreign(const char *skip, const char *extra, const char *word)
{
    TinyFiles f;
    DitConfig c;

    tiny_write(&f, skip, extra);
    REQUIRE(read_config(&f, &c, test_log()) == AVT_INVALID);
    if (!strstr(test_log_text(), word)) {
        print_error("wanted '%s', the message is '%s'\n", word, test_log_text());
        fail();
    }
    tiny_remove(&f);
}

static void other_models_are_named(void **state)
{
    (void)state;
    foreign(NULL, "img_emb.proj.0.weight", "image-to-video");
    foreign(NULL, "face_adapter.fuser_blocks.0.k_norm.weight", "Wan-Animate");
    foreign(NULL, "motion_encoder.dec.direction.weight", "Wan-Animate");
    foreign(NULL, "vace_blocks.0.before_proj.weight", "VACE");
    foreign("patch_embedding.weight", NULL, "patch_embedding.weight");
    foreign("casual_audio_encoder.", NULL, "text-to-video");
    foreign("casual_audio_encoder.weights", NULL, "casual_audio_encoder.weights");
}

static void published_sizes(void **state)
{
    DitConfig c;
    DitShape s;

    (void)state;
    avt_dit_config_published(&c);
    REQUIRE(c.dim == 5120 && c.nb_layers == 40 && c.inject[11] == 39);
    s = avt_dit_shape(88, 48);
    REQUIRE(s.n == 1056 && s.N == 3168 && s.ring == 12672 && s.Lc == 2640);
    s = avt_dit_shape(90, 50);
    REQUIRE(s.n == 1125 && s.Lc == 2778);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_read),         cmocka_unit_test(required_keys),    cmocka_unit_test(refused_values),
        cmocka_unit_test(tensors_disagree),       cmocka_unit_test(other_models_are_named),
        cmocka_unit_test(published_sizes),
    };

    return test_main("dit_config", tests);
}
