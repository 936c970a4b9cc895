/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine's side of avatar.h: what options and folders are told, one model for all who ask for the same, how long it is kept,
 * whose log gets which line, too little memory, what a caller finds unchanged.
 */
#include <fenv.h>
#include <locale.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "take.h"

static pid_t keeper;                                // see keeps_ten_seconds

static int64_t weights(void)
{
    return avt_mem_bytes(MEM_TENSOR);
}

/* ---- options ----------------------------------------------------------------------------------------------------------- */

static void set_steps(AvatarOptions *o)       { o->steps = 0; }
static void set_many_steps(AvatarOptions *o)  { o->steps = 101; }
static void set_threads(AvatarOptions *o)     { o->cpu_threads = -1; }
static void set_level(AvatarOptions *o)       { o->cpu_level = 9; }
static void set_compat(AvatarOptions *o)      { o->compat = 2; }
static void set_opts(AvatarOptions *o)        { o->opts = "lora_alpha=1:speed=9"; }
static void set_opts_value(AvatarOptions *o)  { o->opts = "lora_alpha=much"; }
static void set_opts_inf(AvatarOptions *o)    { o->opts = "lora_alpha=inf"; }
static void set_plan(AvatarOptions *o)        { o->plan = "fast"; }
static void set_plan_devices(AvatarOptions *o) { o->plan = "wave"; o->devices = "cpu|cpu"; }
static void set_timestep(AvatarOptions *o)    { o->plan = "timestep"; o->devices = "cpu|cpu"; o->steps = 4; }
static void set_empty_device(AvatarOptions *o) { o->devices = "cpu||cpu"; }
static void set_device(AvatarOptions *o)      { o->devices = "gpu"; }
static void set_dry(AvatarOptions *o)         { o->devices = "dry"; }
static void set_vae(AvatarOptions *o)         { o->vae_device = "cpu:mine"; }
static void set_front_device(AvatarOptions *o) { o->front_device = "cpu:own"; }
static void set_vae_device(AvatarOptions *o)  { o->vae_device = "tpu"; }
static void set_lora(AvatarOptions *o)        { o->lora = "/nonexistent/lora.safetensors"; }
static void set_layers(AvatarOptions *o)      { o->devices = "cpu|cpu|cpu|cpu|cpu|cpu"; }
static void set_model(AvatarOptions *o)       { o->model = "/nonexistent/model"; }
static void set_model_file(AvatarOptions *o)  { o->model = "/etc/passwd"; }

static int nb_lines(const Lines *l)
{
    int nb = 0;

    for (const char *p = l->text; *p; p++)
        nb += *p == '\n';
    return nb;
}

/* One sentence, which names the option (or the file) and the value. */
static void bad_options_are_named(void **state)
{
    static const struct {
        void (*set)(AvatarOptions *o);
        int early;                                  // avatar_options_check() sees it
        const char *name, *value;
    } bad[] = {
        { set_steps, 1, "steps=0", "1 to 100" }, { set_many_steps, 1, "steps=101", "1 to 100" }, { set_threads, 1, "cpu_threads=-1", "1024" },
        { set_level, 1, "cpu_level=9", "AVX2" }, { set_compat, 1, "compat=2", "upstream" }, { set_opts, 1, "opts", "speed" },
        { set_opts_value, 1, "lora_alpha", "much" }, { set_opts_inf, 1, "lora_alpha", "inf" },
        { set_plan, 1, "plan=fast", "layer" }, { set_plan_devices, 1, "plan=wave", "devices=cpu|cpu" },
        { set_timestep, 1, "plan=timestep", "4 devices" }, { set_empty_device, 1, "devices=cpu||cpu", "empty" }, { set_device, 1, "devices=gpu", "cpu" },
        { set_dry, 1, "devices=dry", "cpu" }, { set_vae, 1, "vae_device=cpu:mine", "own" }, { set_vae_device, 1, "vae_device=tpu", "cpu" },
        { set_front_device, 1, "front_device=cpu:own", "cuda0" },
        { set_lora, 0, "/nonexistent/lora.safetensors", "" }, { set_layers, 0, "plan=layer", "4 layers" },
        { set_model, 1, "/nonexistent/model", "folder" }, { set_model_file, 1, "/etc/passwd", "folder" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Lines lines = { "" };
        AvatarOptions opt = take_options(NULL, NULL, NULL, &lines);
        AvatarEngine *e = (AvatarEngine *)&lines;
        int ret;

        opt.log_level = AVATAR_LOG_WARNING;
        bad[i].set(&opt);
        ret = avatar_engine_open(&e, &opt);
        if (ret >= 0 || e || !strstr(lines.text, bad[i].name) || !strstr(lines.text, bad[i].value) || nb_lines(&lines) != 1)
            print_error("%s: %d, %d lines: %s", bad[i].name, ret, nb_lines(&lines), lines.text);
        assert_true(ret < 0 && !e);
        assert_true(strstr(lines.text, bad[i].name) && strstr(lines.text, bad[i].value));
        assert_int_equal(nb_lines(&lines), 1);
        lines.text[0] = 0;
        assert_int_equal(avatar_options_check(&opt), bad[i].early ? ret : 0);
        assert_int_equal(nb_lines(&lines), bad[i].early);
    }
}

/* The size to plan for; a bad one is for the session to name. */
static void planned_for_the_size_asked_for(void **state)
{
    static const struct {
        int w, h, planned_w, planned_h;
    } cases[] = { { 0, 0, 64, 64 }, { 96, 80, 96, 80 }, { 97, 80, 64, 64 }, { 96, 0, 64, 64 } };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
        AvatarEngine *e = NULL;

        opt.width = cases[i].w;
        opt.height = cases[i].h;
        REQUIRE_OK(avatar_engine_open(&e, &opt));
        assert_int_equal(e->core->sizes.width, cases[i].planned_w);
        assert_int_equal(e->core->sizes.height, cases[i].planned_h);
        avatar_engine_close(&e);
        avatar_engine_flush();
    }
}

static void bad_looks_are_named(void **state)
{
    static const struct {
        int w, h, format, tail;
        int64_t seed, stride;
        const char *name;
    } bad[] = {
        { 65, 64, 0, 0, 1, 0, "size=65x64" }, { 64, 48, 0, 0, 1, 0, "size=64x48" }, { 8192, 64, 0, 0, 1, 0, "size=8192x64" },
        { 64, 0, 0, 0, 1, 0, "size=64x0" }, { 64, 64, 5, 0, 1, 0, "format=5" }, { 64, 64, -1, 0, 1, 0, "format=-1" },
        { 64, 64, 0, 3, 1, 0, "tail=3" }, { 64, 64, 0, 0, -2, 0, "seed=-2" }, { 64, 64, 0, 0, 4294967296, 0, "seed=4294967296" },
        { 64, 64, 0, 0, 1, 191, "stride of 191" },
    };
    Lines lines = { "" };
    const AvatarOptions opt = take_options(NULL, NULL, NULL, &lines);
    AvatarEngine *e = NULL;
    AvatarLook look = take_look(0);
    AvatarSession *s = NULL;
    int w, h;

    (void)state;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        look.out_width = bad[i].w;
        look.out_height = bad[i].h;
        look.format = bad[i].format;
        look.tail = bad[i].tail;
        look.seed = bad[i].seed;
        look.stride = bad[i].stride;
        lines.text[0] = 0;
        assert_int_equal(avatar_session_open(&s, e, &look), AVATAR_ERR(EINVAL));
        assert_null(s);
        if (!strstr(lines.text, bad[i].name))
            print_error("%s: %s", bad[i].name, lines.text);
        assert_non_null(strstr(lines.text, bad[i].name));
        assert_int_equal(nb_lines(&lines), 1);
        if (!strncmp(bad[i].name, "size", 4))
            assert_int_equal(avatar_engine_size(e, &look, &w, &h), AVATAR_ERR(EINVAL));
    }
    look = take_look(0);
    look.rgb = NULL;
    lines.text[0] = 0;
    assert_int_equal(avatar_session_open(&s, e, &look), AVATAR_ERR(EINVAL));
    assert_non_null(strstr(lines.text, "picture"));
    REQUIRE_OK(avatar_engine_size(e, &look, &w, &h));
    assert_true(w == 64 && h == 64);
    avatar_engine_close(&e);
}

/* Frames stay on a GPU where one decodes; of what happens then: tests/gpu/frames.c */
static void frames_of_a_cpu_are_the_hosts(void **state)
{
    Lines lines = { "" };
    const AvatarOptions opt = take_options(NULL, "cpu", NULL, &lines);
    AvatarLook look = take_look(0);
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;

    (void)state;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    for (look.on_device = 1; look.on_device <= 2; look.on_device++) {
        lines.text[0] = 0;
        assert_int_equal(avatar_session_open(&s, e, &look), AVATAR_ERR(look.on_device == 1 ? ENOSYS : EINVAL));
        assert_null(s);
        assert_non_null(strstr(lines.text, look.on_device == 1 ? "decoded on cpu" : "on_device=2"));
        assert_int_equal(nb_lines(&lines), 1);
    }
    assert_int_equal(avatar_engine_device(e), AVATAR_ERR(ENOSYS));
    avatar_engine_close(&e);
}

/* ---- folders ------------------------------------------------------------------------------------------------------------ */

/* What the readers say about a bad file comes through, and nothing stays behind. */
static void bad_folders_are_told(void **state)
{
    static const struct {
        const char *file, *damage, *says;
    } bad[] = {
        { "config.json", "rm", "config.json" }, { "google/umt5-xxl/spiece.model", "rm", "spiece.model" },
        { "google/umt5-xxl/spiece.model", "truncate -s 100", "spiece.model" },
        { "diffusion_pytorch_model.safetensors", "truncate -s 5000", "diffusion_pytorch_model.safetensors" },
        { "Wan2.1_VAE.safetensors", "truncate -s 0", "Wan2.1_VAE.safetensors" },
        { "models_t5_umt5-xxl-enc-bf16.safetensors", "truncate -s 4", "models_t5_umt5-xxl-enc-bf16" },
        { "wav2vec2-large-xlsr-53-english/model.safetensors", "truncate -s -1", "model.safetensors" },
        { "wav2vec2-large-xlsr-53-english/config.json", "truncate -s 10", "config.json" },
        { "diffusion_pytorch_model.safetensors", "sed -i s/blocks.3.ffn.0.weight/blocks.3.ffn.1.weight/", "blocks.3.ffn.0.weight" },
        { "wav2vec2-large-xlsr-53-english/model.safetensors", "sed -i s/encoder.layer_norm.bias/encoder.layer_morm.bias/", "encoder.layer_norm.bias" },
    };

    (void)state;
    avatar_engine_flush();                          // what another test left goes away when it likes
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Lines lines = { "" };
        AvatarOptions opt = take_options(NULL, NULL, NULL, &lines);
        AvatarEngine *e = NULL;
        char dir[64];

        snprintf(dir, sizeof(dir), "%s.bad", take_dir);
        test_shell("cp -r %s %s && %s %s/%s", take_dir, dir, bad[i].damage, dir, bad[i].file);
        opt.model = dir;
        opt.log_level = AVATAR_LOG_WARNING;
        assert_true(avatar_engine_open(&e, &opt) < 0);
        assert_null(e);
        if (!strstr(lines.text, bad[i].says))
            print_error("%s %s: %s", bad[i].damage, bad[i].file, lines.text);
        assert_non_null(strstr(lines.text, bad[i].says));
        assert_int_equal(avt_mem_bytes(MEM_NB), 0);
        test_shell("rm -r %s", dir);
    }
}

/* ---- one model for all ------------------------------------------------------------------------------------------------------ */

static void weights_are_shared(void **state)
{
    AvatarOptions opt = take_options(NULL, "cpu", NULL, NULL);
    AvatarEngine *e[3] = { NULL };
    int64_t one;

    (void)state;
    avatar_engine_flush();
    assert_int_equal(weights(), 0);
    REQUIRE_OK(avatar_engine_open(&e[0], &opt));
    one = weights();
    assert_true(one > 100000);
    REQUIRE_OK(avatar_engine_open(&e[1], &opt));
    assert_int_equal(weights(), one);
    assert_ptr_equal(e[0]->core, e[1]->core);
    opt.devices = "cpu|cpu";                        // another plan is another engine
    REQUIRE_OK(avatar_engine_open(&e[2], &opt));
    assert_true(weights() > one && e[2]->core != e[0]->core);
    avatar_engine_close(&e[2]);
    avatar_engine_close(&e[0]);
    avatar_engine_flush();                          // e[1] is still in use
    assert_int_equal(weights(), one);
    avatar_engine_close(&e[1]);
    assert_int_equal(weights(), one);               // kept for the next one
    opt.devices = "cpu";
    REQUIRE_OK(avatar_engine_open(&e[0], &opt));
    assert_int_equal(weights(), one);
    avatar_engine_close(&e[0]);
    avatar_engine_flush();
    assert_int_equal(avt_mem_bytes(MEM_NB), 0);
    avatar_engine_flush();
}

/* Loading has begun: this is the line before the first weight. */
static void give_up(void *cancel, int level, const char *text)
{
    (void)level;
    if (strstr(text, "precision"))
        __atomic_store_n((int *)cancel, 1, __ATOMIC_RELAXED);
}

/* In the middle of loading: an error, nothing left, and the next one loads as if nothing had been. */
static void loading_is_given_up(void **state)
{
    AvatarOptions opt = take_options(NULL, "cpu|cpu", NULL, NULL);
    AvatarEngine *e = NULL;
    int cancel = 0;

    (void)state;
    avatar_engine_flush();
    opt.cancel = &cancel;
    opt.log = give_up;
    opt.log_opaque = &cancel;
    opt.log_level = AVATAR_LOG_INFO;
    assert_int_equal(avatar_engine_open(&e, &opt), AVATAR_ERR(ECANCELED));
    assert_true(cancel && !e);
    assert_int_equal(avt_mem_bytes(MEM_NB), 0);
    opt.log = NULL;
    cancel = 0;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    avatar_engine_close(&e);
    avatar_engine_flush();
}

/* A file that changed makes another engine, also one that the layout does not name: the folder's own stamp. */
static void changed_files_are_read_again(void **state)
{
    const AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    AvatarEngine *e[4] = { NULL };

    (void)state;
    REQUIRE_OK(avatar_engine_open(&e[0], &opt));
    test_shell("touch -d '2001-01-01' %s/Wan2.1_VAE.safetensors", take_dir);
    REQUIRE_OK(avatar_engine_open(&e[1], &opt));
    assert_true(e[1]->core != e[0]->core);
    test_shell("touch %s/note && rm %s/note", take_dir, take_dir);
    REQUIRE_OK(avatar_engine_open(&e[2], &opt));
    assert_ptr_equal(e[2]->core, e[1]->core);           // nobody reads a note
    test_shell("touch %s/avatar.json", take_dir);
    REQUIRE_OK(avatar_engine_open(&e[3], &opt));
    assert_true(e[3]->core != e[0]->core && e[3]->core != e[2]->core);
    for (int i = 0; i < 4; i++)
        avatar_engine_close(&e[i]);
    avatar_engine_flush();
}

/* Each handle's lines go to its own callback, and the one who loaded may be gone. */
static void lines_go_home(void **state)
{
    Lines a = { "" }, b = { "" };
    const AvatarOptions oa = take_options(NULL, NULL, NULL, &a), ob = take_options(NULL, NULL, NULL, &b);
    AvatarLook look = take_look(0);
    AvatarEngine *ea = NULL, *eb = NULL;
    float *pcm = take_sound(640);
    Take *t = take_new();

    (void)state;
    REQUIRE_OK(avatar_engine_open(&ea, &oa));
    assert_non_null(strstr(a.text, "weights"));
    REQUIRE_OK(avatar_engine_open(&eb, &ob));
    assert_ptr_equal(ea->core, eb->core);
    avatar_engine_close(&ea);
    a.text[0] = 0;
    take_all(t, eb, &look, NULL, pcm, 640);
    assert_int_equal(t->nb, 1);
    assert_non_null(strstr(b.text, "seed 5"));
    look.out_width = 65;
    look.out_height = 64;
    assert_int_equal(avatar_session_open(&(AvatarSession *){ NULL }, eb, &look), AVATAR_ERR(EINVAL));
    assert_non_null(strstr(b.text, "size=65x64"));
    assert_string_equal(a.text, "");
    avatar_engine_close(&eb);
    free(t);
    free(pcm);
}

/* A call that opens nothing, but finds what is over. */
static void look_around(void)
{
    AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    AvatarEngine *e;

    opt.model = "/nonexistent";
    avatar_engine_open(&e, &opt);
}

/* A child that started with this program. 0: kept for 10 s, and gone with the first call that comes later, not by itself. */
static int keep(void)
{
    const AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    AvatarEngine *e = NULL;

    if (avatar_engine_open(&e, &opt) < 0 || weights() <= 0)
        return 1;
    avatar_engine_close(&e);
    sleep(5);
    look_around();
    if (weights() <= 0)
        return 2;
    usleep(5200000);
    if (weights() <= 0)
        return 3;
    look_around();
    return avt_mem_bytes(MEM_NB) ? 4 : 0;
}

static void keeps_ten_seconds(void **state)
{
    int status = -1;

    (void)state;
    REQUIRE(waitpid(keeper, &status, 0) == keeper);
    assert_int_equal(status, 0);
}

/* ---- too little memory ------------------------------------------------------------------------------------------------------ */

static int64_t address_space(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long pages = 0;

    if (!f || fscanf(f, "%ld", &pages) != 1)
        return 0;
    fclose(f);
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

/* With `room` bytes of address space left: 0 frames came, 1 refused with a sentence, 2 refused in silence, 3 another error. */
static int run_in(int64_t room)
{
    Lines lines = { "" };
    AvatarOptions opt = take_options(NULL, "cpu", NULL, &lines);
    const AvatarLook look = take_look(0);
    const struct rlimit lim = { (rlim_t)(address_space() + room), RLIM_INFINITY };
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;
    AvatarFrame f;
    float pcm[640] = { 0 };
    int ret;

    opt.log_level = AVATAR_LOG_ERROR;
    setrlimit(RLIMIT_AS, &lim);
    ret = avatar_engine_open(&e, &opt);
    if (ret >= 0)
        ret = avatar_session_open(&s, e, &look);
    if (ret >= 0)
        ret = avatar_session_send(s, pcm, 640);
    if (ret >= 0)
        ret = avatar_session_send(s, NULL, 0);
    while (ret >= 0)
        ret = avatar_session_receive(s, &f, AVATAR_WAIT);
    avatar_session_close(&s);
    avatar_engine_close(&e);
    avatar_engine_flush();
    if (ret == AVATAR_EOF)
        return 0;
    return ret != AVATAR_ERR(ENOMEM) ? 3 : strpbrk(lines.text, "0123456789") ? 1 : 2;
}

static void little_memory_is_told(void **state)
{
    static const int64_t kb[] = { 0, 100, 300, 1000, 2000, 3000, 4000, 6000, 8000, 12000, 16000, 24000, 40000, 1000000 };
    int results[sizeof(kb) / sizeof(kb[0])], nb = sizeof(kb) / sizeof(kb[0]);

    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("a sanitizer wants the address space for itself");
#endif
    for (int i = 0; i < nb; i++) {
        const pid_t pid = fork();

        REQUIRE(pid >= 0);
        if (!pid)
            _exit(run_in(kb[i] * 1000));
        REQUIRE(waitpid(pid, &results[i], 0) == pid);
        if (!WIFEXITED(results[i]) || WEXITSTATUS(results[i]) > 1)
            print_error("%lld kB: status %x\n", (long long)kb[i], (unsigned)results[i]);
    }
    for (int i = 0; i < nb; i++)
        assert_true(WIFEXITED(results[i]) && WEXITSTATUS(results[i]) <= 1);
    assert_int_equal(WEXITSTATUS(results[0]), 1);
    assert_int_equal(WEXITSTATUS(results[nb - 1]), 0);
}

/* ---- what a caller finds unchanged ---------------------------------------------------------------------------------------------- */

static void caller_is_left_alone(void **state)
{
    const AvatarOptions opt = take_options("layer", "cpu|cpu", NULL, NULL);
    const AvatarLook look = take_look(0);
    char *locale = strdup(setlocale(LC_ALL, NULL));
    cpu_set_t mask, mask_after;
    fenv_t env, env_after;
    float *pcm = take_sound(640);
    Take *t = take_new();
    AvatarEngine *e = NULL;

    (void)state;
    sched_getaffinity(0, sizeof(mask), &mask);
    feclearexcept(FE_ALL_EXCEPT);
    fegetenv(&env);
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    take_all(t, e, &look, NULL, pcm, 640);
    avatar_engine_close(&e);
    avatar_engine_flush();
    feclearexcept(FE_ALL_EXCEPT);                   // an inexact result leaves its flag, as anywhere
    fegetenv(&env_after);
    assert_memory_equal(&env, &env_after, sizeof(env));
    sched_getaffinity(0, sizeof(mask_after), &mask_after);
    assert_true(CPU_EQUAL(&mask, &mask_after));
    assert_string_equal(setlocale(LC_ALL, NULL), locale);
    free(locale);
    free(t);
    free(pcm);
}

/* A locale that writes 0,5, made by localedef without any package. */
static int use_decimal_comma(void)
{
    char cmd[512];

    snprintf(cmd, sizeof(cmd), "cd %s && printf 'LC_NUMERIC\\ndecimal_point \",\"\\nthousands_sep \"\"\\ngrouping -1\\nEND LC_NUMERIC\\n' >comma.src && "
             "localedef --no-archive -c -i comma.src -f ANSI_X3.4-1968 ./comma >/dev/null 2>&1", take_dir);
    (void)!system(cmd);                             // its exit code tells of categories that were not given
    setenv("LOCPATH", take_dir, 1);
    return setlocale(LC_NUMERIC, "comma") && strtod("0.5", NULL) == 0;
}

/* A line with "time": 0,5 is none. */
static void statistics_are_json(void)
{
    const AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    AvatarLook look = take_look(0);
    float *pcm = take_sound(640);
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;
    AvatarFrame f;
    char path[300];

    snprintf(path, sizeof(path), "%s/stats.jsonl", take_dir);
    look.stats = path;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    REQUIRE_OK(avatar_session_open(&s, e, &look));
    REQUIRE_OK(avatar_session_send(s, pcm, 640));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    REQUIRE_OK(avatar_session_receive(s, &f, AVATAR_WAIT));
    avatar_session_close(&s);
    avatar_engine_close(&e);
    test_shell("python3 -c 'import json; [json.loads(l) for l in open(\"%s\")]'", path);
    free(pcm);
}

/* The C library's, for all of this program: it stands still while a test wants that. */
static int clock_stands;
int clock_gettime(clockid_t id, struct timespec *t);
int clock_gettime(clockid_t id, struct timespec *t)
{
    const int ret = (int)syscall(SYS_clock_gettime, id, t);

    if (clock_stands && id == CLOCK_MONOTONIC)
        *t = (struct timespec){ 1000, 0 };
    return ret;
}

static void statistics_of_a_clock_that_stands(void **state)
{
    (void)state;
    clock_stands = 1;
    statistics_are_json();
    clock_stands = 0;
}

static void numbers_do_not_follow_the_locale(void **state)
{
    AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);

    (void)state;
    if (!use_decimal_comma())
        SKIP("no locale with a decimal comma could be made: install locales");
    opt.opts = "lora_alpha=0.5";
    assert_int_equal(avatar_options_check(&opt), 0);
    opt.opts = "lora_alpha=0,5";
    assert_int_equal(avatar_options_check(&opt), AVATAR_ERR(EINVAL));
    statistics_are_json();
    setlocale(LC_NUMERIC, "C");
    unsetenv("LOCPATH");
}

static void errors_have_words(void **state)
{
    static const int codes[] = { AVATAR_EAGAIN, AVATAR_EOF, AVATAR_INVALID, AVATAR_ERR(EINVAL), AVATAR_ERR(ENOMEM), AVATAR_ERR(ECANCELED),
                                 AVATAR_ERR(EPERM), AVATAR_ERR(ECHILD), AVATAR_ERR(EDEADLK), AVATAR_ERR(ESTALE), AVATAR_ERR(ETIMEDOUT) };

    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        assert_non_null(avatar_error_text(codes[i]));
        assert_string_not_equal(avatar_error_text(codes[i]), avatar_error_text(-12345));
    }
    assert_int_equal(avatar_version() >> 16, AVATAR_VERSION_MAJOR);
}

static int setup(void **state)
{
    const int ret = take_setup(state);

    keeper = fork();                                // before there are threads; it waits while the other tests run
    if (!keeper)
        _exit(keep());
    return ret;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_options_are_named), cmocka_unit_test(planned_for_the_size_asked_for), cmocka_unit_test(bad_looks_are_named),
        cmocka_unit_test(frames_of_a_cpu_are_the_hosts), cmocka_unit_test(bad_folders_are_told),
        cmocka_unit_test(weights_are_shared), cmocka_unit_test(loading_is_given_up), cmocka_unit_test(lines_go_home), cmocka_unit_test(little_memory_is_told),
        cmocka_unit_test(caller_is_left_alone), cmocka_unit_test(errors_have_words),
        cmocka_unit_test(statistics_of_a_clock_that_stands), cmocka_unit_test(numbers_do_not_follow_the_locale),
        cmocka_unit_test(keeps_ten_seconds), cmocka_unit_test(changed_files_are_read_again),
    };

    return _cmocka_run_group_tests("engine", tests, sizeof(tests) / sizeof(tests[0]), setup, take_teardown) ? 1 : 0;
}
