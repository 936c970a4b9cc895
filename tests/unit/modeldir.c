/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The model folder: which file is found, what is said of one that is missing, and avatar.json. */
#include <fcntl.h>

#include "base/mem.h"
#include "config.h"
#include "files.h"
#include "files/inspect.h"
#include "files/modeldir.h"
#include "nets/sampler.h"

static const char *const files[] = {
    "config.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "Wan2.1_VAE.pth",
    "models_t5_umt5-xxl-enc-bf16.pth",
    "google/umt5-xxl/spiece.model",
    "wav2vec2-large-xlsr-53-english/model.safetensors",
    "wav2vec2-large-xlsr-53-english/config.json",
    "wav2vec2-large-xlsr-53-english/preprocessor_config.json",
};
enum { NB = sizeof(files) / sizeof(files[0]) };

static void write_model(void)
{
    for (int i = 0; i < NB; i++)
        tmp_text(files[i], "{}");
}

static int open_dir(ModelDir *m)
{
    return avt_modeldir_open(m, tmp_dir, test_log());
}

static void test_found(void **state)
{
    ModelDir m;

    (void)state;
    tmp_open();
    write_model();
    REQUIRE_OK(open_dir(&m));
    REQUIRE(!strcmp(m.dir, tmp_dir));
    REQUIRE(!strcmp(m.config, tmp_path(files[0])) && !strcmp(m.dit, tmp_path(files[1])) && !strcmp(m.vae, tmp_path(files[2])));
    REQUIRE(!strcmp(m.t5, tmp_path(files[3])) && !strcmp(m.spiece, tmp_path(files[4])) &&
            !strcmp(m.wav2vec2, tmp_path(files[5])));
    REQUIRE(!strcmp(m.wav2vec2_config, tmp_path(files[6])) && !strcmp(m.wav2vec2_preprocessor, tmp_path(files[7])));
    REQUIRE(!m.lora && !m.name && !m.prompt && !m.steps && !m.area && !m.width && m.lora_rule == LORA_UNSAID && !m.lora_alpha);
    avt_modeldir_close(&m);
    REQUIRE(!m.dir && avt_mem_bytes(MEM_NB) == 0);
    tmp_close();
}

/* Other spellings that are accepted, and where the LoRA may lie. */
static void test_alternatives(void **state)
{
    ModelDir m;

    (void)state;
    tmp_open();
    write_model();
    tmp_text("lora/liveavatar.safetensors", "x");
    REQUIRE_OK(open_dir(&m));
    REQUIRE(m.lora && !strcmp(m.lora, tmp_path("lora/liveavatar.safetensors")));
    avt_modeldir_close(&m);
    tmp_text("liveavatar.safetensors", "x");
    for (int i = 1; i < 4; i++)
        REQUIRE_OK(remove(tmp_path(files[i])));
    tmp_text("diffusion_pytorch_model.safetensors", "x");
    tmp_text("Wan2.1_VAE.safetensors", "x");
    tmp_text("models_t5_umt5-xxl-enc-bf16.safetensors", "x");
    REQUIRE_OK(open_dir(&m));
    REQUIRE(!strcmp(m.lora, tmp_path("liveavatar.safetensors")));
    REQUIRE(!strcmp(m.dit, tmp_path("diffusion_pytorch_model.safetensors")) &&
            !strcmp(m.vae, tmp_path("Wan2.1_VAE.safetensors")));
    REQUIRE(!strcmp(m.t5, tmp_path("models_t5_umt5-xxl-enc-bf16.safetensors")));
    avt_modeldir_close(&m);
    tmp_close();
}

/* A GGUF file stands for transformer or text encoder; two files for one of them are refused by their names. */
static void test_gguf(void **state)
{
    ModelDir m;

    (void)state;
    tmp_open();
    write_model();
    tmp_text("some-Q4_K_M.gguf", "{}");
    REQUIRE(open_dir(&m) == AVT_INVALID && !m.dir);
    require_said("diffusion_pytorch_model.safetensors.index.json and some-Q4_K_M.gguf", "take one of them out");
    unlink(tmp_path(files[1]));
    REQUIRE_OK(open_dir(&m));
    REQUIRE(!strcmp(m.dit, tmp_path("some-Q4_K_M.gguf")) && !strcmp(m.t5, tmp_path(files[3])));
    avt_modeldir_close(&m);
    tmp_text("umt5-xxl-encoder-Q8_0.gguf", "{}");
    REQUIRE(open_dir(&m) == AVT_INVALID);
    require_said("the text encoder", "umt5-xxl-encoder-Q8_0.gguf");
    unlink(tmp_path(files[3]));
    REQUIRE_OK(open_dir(&m));
    REQUIRE(!strcmp(m.t5, tmp_path("umt5-xxl-encoder-Q8_0.gguf")));
    avt_modeldir_close(&m);
    tmp_text("other.gguf", "{}");
    REQUIRE(open_dir(&m) == AVT_INVALID);
    require_said("two files for the diffusion transformer", "other.gguf");
    REQUIRE(avt_mem_bytes(MEM_NB) == 0);
    tmp_close();
}

static void test_missing(void **state)
{
    char text[256];
    ModelDir m;

    (void)state;
    tmp_open();
    write_model();
    for (int i = 0; i < NB; i++) {
        REQUIRE_OK(remove(tmp_path(files[i])));
        REQUIRE(open_dir(&m) == AVT_ERR(ENOENT));
        require_said(tmp_path(files[i]), "is missing");
        require_said("Wan-AI/Wan2.2-S2V-14B", "");
        REQUIRE(!strstr(test_log_text(), "did not finish"));
        snprintf(text, sizeof(text), "%s.incomplete", files[i]);
        tmp_text(text, "half");
        REQUIRE(open_dir(&m) == AVT_ERR(ENOENT));
        require_said(tmp_path(files[i]), "did not finish");
        tmp_text(files[i], "{}");
    }
    REQUIRE_OK(remove(tmp_path(files[0])));
    tmp_text("model_index.json", "{}");
    REQUIRE(open_dir(&m) == AVT_ERR(ENOENT));
    require_said("diffusers' layout", "Wan-AI/Wan2.2-S2V-14B");
    REQUIRE(avt_modeldir_open(&m, tmp_path("nowhere"), test_log()) == AVT_ERR(ENOENT));
    require_said("nowhere", "no model folder");
    REQUIRE(avt_modeldir_open(&m, tmp_path(files[1]), test_log()) == AVT_ERR(ENOTDIR));
    require_said(files[1], "is a file");
    REQUIRE(avt_mem_bytes(MEM_NB) == 0);
    tmp_close();
}

static void test_avatar_json(void **state)
{
    ModelDir m;

    (void)state;
    tmp_open();
    write_model();
    tmp_text(
        "avatar.json",
        "{\"name\": \"nano\", \"prompt\": \"A person speaks.\", \"steps\": 4, \"size\": \"256x384\", \"lora\": \"none\", "
        "\"lora_alpha\": 32, \"motion\": 8}");
    REQUIRE_OK(open_dir(&m));
    REQUIRE(!strcmp(m.name, "nano") && !strcmp(m.prompt, "A person speaks.") && m.steps == 4 && m.width == 256 &&
            m.height == 384);
    REQUIRE(m.lora_rule == LORA_NONE && m.lora_alpha == 32 && m.motion == 8 && !m.area);
    avt_modeldir_close(&m);
    tmp_text("avatar.json", "{\"area\": 270336, \"lora\": \"required\"}");
    REQUIRE_OK(open_dir(&m));
    REQUIRE(m.area == 270336 && !m.width && m.lora_rule == LORA_REQUIRED);
    avt_modeldir_close(&m);
    tmp_close();
}

static void test_bad_avatar_json(void **state)
{
    static const char *const bad[][2] = {
        { "{", "damaged JSON" },
        { "{\"name\": 5}", "\"name\" must be a text" },
        { "{\"prompt\": []}", "\"prompt\" must be a text" },
        { "{\"steps\": 0}", "\"steps\" must be between" },
        { "{\"steps\": 4.5}", "\"steps\" must be a whole number" },
        { "{\"area\": -1}", "\"area\" must be between" },
        { "{\"size\": 704}", "\"size\" must be a text" },
        { "{\"size\": \"704\"}", "\"size\" must be WIDTHxHEIGHT" },
        { "{\"size\": \"700x384\"}", "multiples of 16, but is 700x384" },
        { "{\"size\": \"704x384x3\"}", "\"size\" must be WIDTHxHEIGHT" },
        { "{\"size\": \"0x0\"}", "\"size\" must be" },
        { "{\"size\": \"-16x16\"}", "\"size\" must be" },
        { "{\"size\": \"99999x16\"}", "\"size\" must be" },
        { "{\"lora\": \"maybe\"}", "\"lora\" must be" },
        { "{\"lora\": true}", "\"lora\" must be a text" },
        { "{\"steps\": 101}", "\"steps\" must be between 1 and 100" },
        { "\xef\xbb\xbf{}", "byte order mark" },
        { "{\"motion\": 256}", "\"motion\" must be between 0 and 255" },
        { "{\"lora_alpha\": 1e999}", "finite" },
        { "{\"lora_alpha\": -4}", "\"lora_alpha\" must be" },
        { "{\"lora_alpha\": \"x\"}", "\"lora_alpha\" must be a number" },
        { "{\"area\": 65536, \"size\": \"256x256\"}", "exclude each other" },
    };
    ModelDir m;

    (void)state;
    tmp_open();
    write_model();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        tmp_text("avatar.json", bad[i][0]);
        REQUIRE(open_dir(&m) == AVT_INVALID);
        require_said("avatar.json", bad[i][1]);
    }
    REQUIRE(avt_mem_bytes(MEM_NB) == 0);
    tmp_text("avatar.json", "{\"colour\": 5}");
    REQUIRE_OK(open_dir(&m));
    require_said("avatar.json", "\"colour\" is not known");
    avt_modeldir_close(&m);
    tmp_close();
}

/* Links that lead nowhere and folders in a file's place are named, never passed over. */
static void test_places(void **state)
{
    static const struct {
        const char *name, *link, *said;
        int code;
    } cases[] = {
        { "avatar.json", "gone.json", "cannot be opened", ENOENT },
        { "avatar.json", NULL, "is a folder", EISDIR },
        { "Wan2.1_VAE.pth", "gone.pth", "leads nowhere", ENOENT },
        { "Wan2.1_VAE.pth", "Wan2.1_VAE.pth", "Too many levels of symbolic links", ELOOP },
        { "Wan2.1_VAE.pth", NULL, "is a folder", EISDIR },
    };
    ModelDir m;

    (void)state;
    REQUIRE(MODELDIR_MAX_STEPS == SAMPLER_MAX_STEPS);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tmp_open();
        write_model();
        remove(tmp_path(cases[i].name));
        REQUIRE_OK(cases[i].link ? symlink(cases[i].link, tmp_path(cases[i].name)) : mkdir(tmp_path(cases[i].name), 0700));
        REQUIRE(open_dir(&m) == AVT_ERR(cases[i].code));
        require_said(cases[i].name, cases[i].said);
        tmp_close();
    }
    tmp_open();                                                     // a LoRA that is a link to nothing is not "none"
    write_model();
    REQUIRE_OK(symlink("gone", tmp_path("liveavatar.safetensors")));
    REQUIRE_OK(open_dir(&m));
    REQUIRE(m.lora && !strcmp(m.lora, tmp_path("liveavatar.safetensors")));
    avt_modeldir_close(&m);
    tmp_close();
}

static void test_no_memory(void **state)
{
    ModelDir m;
    int n = 0, ret;

    (void)state;
    tmp_open();
    write_model();
    tmp_text("avatar.json", "{\"name\": \"nano\", \"prompt\": \"x\"}");
    tmp_text("liveavatar.safetensors", "x");
    do {
        avt_mem_fail_at(++n);
        ret = avt_modeldir_open(&m, tmp_dir, NULL);
        avt_mem_fail_at(0);
        REQUIRE(ret == 0 || (ret == AVT_ERR(ENOMEM) && avt_mem_bytes(MEM_NB) == 0));
    } while (ret < 0 && n < 1000);
    REQUIRE(n > 10 && n < 100 && m.lora && m.prompt);
    avt_modeldir_close(&m);
    tmp_close();
}

/* ---- the summary --------------------------------------------------------------------------------------------------- */

static void require_line(const char *text, const char *one, const char *two)
{
    const char *p = strstr(text, one), *end = p ? strchr(p, '\n') : NULL, *q = p ? strstr(p, two) : NULL;

    if (!p || !end || !q || q > end)
        fail_msg("wanted a line with '%s' and '%s' in:\n%s", one, two, text);
}

static int lines_of(const char *text)
{
    int n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void test_inspect(void **state)
{
    static const float v[12];
    const FileTensor t[] = { { "a", "F32", 2, { 2, 3 }, v, 24 },
                             { "b", "BF16", 1, { 4 }, v, 8 },
                             { "c", "BF16", 1, { 2 }, v, 4 } };
    const FileTensor lora[] = { { "x.q.lora_A.weight", "F32", 2, { 2, 3 }, v, 24 },
                                { "x.q.lora_B.weight", "F32", 2, { 4, 2 }, v, 32 } };
    char *text;

    (void)state;
    tmp_open();
    write_model();
    st_write("m-1.safetensors", t, 3);
    tmp_text(files[1], "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-1.safetensors\",\"c\":\"m-1.safetensors\"}}");
    tmp_text(files[0], "{\"_class_name\":\"WanModel_S2V\",\"dim\":96,\"num_layers\":6,\"num_heads\":3,\"ffn_dim\":192}");
    st_write(files[5], t, 1);
    st_write("liveavatar.safetensors", lora, 2);
    tmp_text("avatar.json", "{\"name\":\"tiny\",\"steps\":4,\"size\":\"64x48\",\"prompt\":\"A\\u001b[2J\\nperson.\",\"lora\":\"required\"}");
    REQUIRE_OK(remove(tmp_path(files[7])));
    REQUIRE_OK(remove(tmp_path(files[6])) || mkdir(tmp_path(files[6]), 0700));
    REQUIRE_OK(avt_inspect(&text, tmp_dir, test_log()));
    require_line(text, files[1], "12 ");                            // parameters
    require_line(text, files[1], "f32 1, bf16 2");
    require_line(text, "WanModel_S2V", "96");
    require_line(text, files[2], "cannot be read");                 // "{}" is no .pth
    require_line(text, files[7], "missing");
    require_line(text, files[6], "is a folder");
    require_line(text, "liveavatar.safetensors", "1 pair");
    require_line(text, "rank 2", "scale 0.5");
    require_line(text, "tiny", "64x48");
    require_line(text, "prompt: ", "A\\x1b[2J\\nperson.");
    REQUIRE(!strchr(text, 0x1b));
    REQUIRE(lines_of(text) <= 24);
    avt_free(text);
    REQUIRE(avt_inspect(&text, tmp_path("nowhere"), test_log()) == AVT_ERR(ENOENT));
    REQUIRE(text == NULL && avt_mem_bytes(MEM_NB) == 0);
    tmp_close();
}

static void test_inspect_golden(void **state)
{
    char *text;

    (void)state;
    REQUIRE_OK(avt_inspect(&text, AVT_SRCDIR "/tests/gold/parity/ckpt", test_log()));
    require_line(text, "Wan2.1_VAE.pth", "194 tensors");
    require_line(text, "models_t5", "bf16");
    require_line(text, "complete", "");
    REQUIRE(lines_of(text) <= 24);
    avt_free(text);
}

/* Whatever is rewritten, in place too, changes the stamp; looking again does not. */
static void test_stamp(void **state)
{
    static const char *const changed[] = {
        "config.json", "diffusion_pytorch_model-00002-of-00002.safetensors", "Wan2.1_VAE.pth", "google/umt5-xxl/spiece.model",
        "wav2vec2-large-xlsr-53-english/model.safetensors", "avatar.json", "liveavatar.safetensors", "elsewhere.bin",
    };
    char lora[128];
    uint64_t before, after;
    struct stat st;
    ModelDir m;

    (void)state;
    tmp_open();
    write_model();
    tmp_text("liveavatar.safetensors", "x");
    snprintf(lora, sizeof(lora), "%s/elsewhere.bin", tmp_dir);
    REQUIRE_OK(open_dir(&m));
    before = avt_modeldir_stamp(&m, lora);
    for (size_t i = 0; i < sizeof(changed) / sizeof(changed[0]); i++) {
        tmp_text(changed[i], "other text");
        after = avt_modeldir_stamp(&m, lora);
        if (after == before || after != avt_modeldir_stamp(&m, lora))
            fail_msg("%s was changed, the stamp went from %llx to %llx", changed[i], (unsigned long long)before,
                     (unsigned long long)after);
        before = after;
    }
    REQUIRE_OK(stat(lora, &st));
    usleep(20000);                                                  // more than a file system's tick
    tmp_text("elsewhere.bin", "OTHER TEXT");                        // of the same size, its time set back
    REQUIRE_OK(utimensat(AT_FDCWD, lora, (const struct timespec[]){ st.st_atim, st.st_mtim }, 0));
    after = avt_modeldir_stamp(&m, lora);
    REQUIRE(after != before);
    before = after;
    REQUIRE_OK(remove(lora));
    REQUIRE(avt_modeldir_stamp(&m, lora) != before);
    avt_modeldir_close(&m);
    tmp_close();
}

/* A LoRA file of 100 tensors of 40 kB, tensor `other` of which has another value at byte `at`. */
static void write_tensors(const char *name, int other, int at)
{
    enum { NB = 100, SIZE = 40000 };
    char header[NB * 80], path[160];
    static uint8_t values[SIZE];
    uint64_t n = 0;
    FILE *f;

    for (int i = 0; i < NB; i++)
        n += (uint64_t)snprintf(header + n, sizeof(header) - n, "%c\"t%d\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%d,%d]}", i ? ',' : '{', i,
                                SIZE / 4, i * SIZE, (i + 1) * SIZE);
    header[n++] = '}';
    snprintf(path, sizeof(path), "%s/%s", tmp_dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(&n, sizeof(n), 1, f);
    fwrite(header, 1, n, f);
    for (int i = 0; i < NB; i++) {
        values[at] = i == other;
        fwrite(values, 1, SIZE, f);
    }
    values[at] = 0;
    fclose(f);
}

/* A change in any tensor is seen, at its beginning and at its end; a copy is the same. */
static void test_print(void **state)
{
    const ModelDir m = { 0 };
    char lora[128];
    uint64_t same, sum;

    (void)state;
    tmp_open();
    snprintf(lora, sizeof(lora), "%s/a.safetensors", tmp_dir);
    write_tensors("a.safetensors", -1, 0);
    REQUIRE_OK(avt_modeldir_print(&same, &m, lora, 0, test_log()));
    for (int i = 0; i < 100; i += 7)
        for (int end = 0; end < 2; end++) {
            write_tensors("a.safetensors", i, end ? 39999 : 0);
            REQUIRE_OK(avt_modeldir_print(&sum, &m, lora, 0, test_log()));
            if (sum == same)
                fail_msg("tensor %d is another, and the number is not", i);
        }
    write_tensors("b.safetensors", -1, 0);
    snprintf(lora, sizeof(lora), "%s/b.safetensors", tmp_dir);
    REQUIRE_OK(avt_modeldir_print(&sum, &m, lora, 0, test_log()));
    assert_true(sum == same);
    REQUIRE_OK(avt_modeldir_print(&sum, &m, lora, 0.5, test_log()));
    assert_true(sum != same);
    tmp_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found), cmocka_unit_test(test_alternatives), cmocka_unit_test(test_gguf), cmocka_unit_test(test_missing),
        cmocka_unit_test(test_avatar_json), cmocka_unit_test(test_bad_avatar_json), cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_inspect), cmocka_unit_test(test_inspect_golden),
        cmocka_unit_test(test_stamp), cmocka_unit_test(test_print), cmocka_unit_test(test_places),
    };

    return test_main("modeldir", tests);
}
