/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * parity DIR [--case NAME] [--device cpu|guard|cuda0] [--level plain|onednn|avx2|avx512|amx] [--threads N] [--precision f32|bf16|int8|fp8] [--kv fp8]
 *
 * Walks DIR (tests/README.md: one file a case), runs the case of each file, prints one line each. A file that has no case and a
 * result that no case compared are failures; files of the single-GPU original are the one thing that is skipped.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/cpu.h"
#include "parity.h"

#define ARENA_BYTES ((size_t)6 << 30)       // address space: pages are touched only when used

enum { KIND_CASE, KIND_INPUT, KIND_SKIP };

static const struct {
    const char *name;                       // '*' at the end matches any rest; the first match counts
    const char *ext;
    int kind;
    GoldenCase run;
} table[] = {
    { "golden_config", ".json", KIND_INPUT, NULL },
    { "sampling_inputs", ".safetensors", KIND_INPUT, NULL },
    { "e2e_single_gpu_*", ".safetensors", KIND_SKIP, NULL },
    { "t5", ".safetensors", KIND_CASE, case_t5 },
    { "tokenizer", ".json", KIND_CASE, case_tokenizer },
    { "wav2vec2", ".safetensors", KIND_CASE, case_wav2vec2 },
    { "audio_features", ".safetensors", KIND_CASE, case_audio_features },
    { "audio_functions", ".json", KIND_CASE, case_audio_functions },
    { "vae", ".safetensors", KIND_CASE, case_vae },
    { "vae_stages", ".safetensors", KIND_CASE, case_vae_stages },
    { "image_preprocess", ".safetensors", KIND_CASE, case_image_preprocess },
    { "resolution", ".json", KIND_CASE, case_resolution },
    { "rope", ".safetensors", KIND_CASE, case_rope },
    { "audio_encoder", ".safetensors", KIND_CASE, case_audio_encoder },
    { "frame_packer", ".safetensors", KIND_CASE, case_frame_packer },
    { "time_embedding", ".safetensors", KIND_CASE, case_time_embedding },
    { "dit_forward", ".safetensors", KIND_CASE, case_dit_forward },
    { "dit_forward_bf16ckpt", ".safetensors", KIND_CASE, case_dit_forward_bf16ckpt },
    { "dit_two_speakers", ".safetensors", KIND_CASE, case_dit_two_speakers },
    { "transformer_block", ".safetensors", KIND_CASE, case_transformer_block },
    { "lora_merge", ".safetensors", KIND_CASE, case_lora_merge },
    { "schedule", ".json", KIND_CASE, case_schedule },
    { "sampling_*", ".safetensors", KIND_CASE, case_sampling },
    { "e2e_tpp", ".safetensors", KIND_CASE, case_e2e_tpp },
};
enum { TABLE_NB = sizeof(table) / sizeof(table[0]) };

typedef struct Options {
    const char *dir, *only, *device;
    CpuLevel level;
    DType act, product, kv;
    int threads;
} Options;

typedef struct Tally {
    int passed, failed, skipped;
} Tally;

static int find_case(const char *name, const char *ext)
{
    for (int i = 0; i < TABLE_NB; i++) {
        const size_t n = strlen(table[i].name);
        const int any = table[i].name[n - 1] == '*';

        if (!strcmp(ext, table[i].ext) && !strncmp(name, table[i].name, any ? n - 1 : n + 1))
            return i;
    }
    return -1;
}

static void fail_line(Tally *tally, const char *name, const char *why)
{
    printf("FAIL %-28s %s\n", name, why);
    tally->failed++;
}

static void check_input(Golden *g, Tally *tally, const char *path)
{
    if (golden_open(g, path) == 0)
        golden_finish(g);                                           // an input file with results in it is not what we think
    if (g->failed)
        fail_line(tally, g->name, g->worst);
    golden_close(g);
}

static void run_case(Golden *g, Tally *tally, GoldenCase run, const char *path)
{
    if (golden_open(g, path) == 0) {
        run(g);
        if (avt_sync(g->be) < 0)
            golden_fail(g, "the backend failed (%d)", g->be->status);
        golden_finish(g);
        if (!g->nb_compared)
            golden_fail(g, "nothing was compared");
    }
    printf("%s %-28s %4lld tensors  max-abs %8.2e  rel-L2 %8.2e  %s\n", g->failed ? "FAIL" : "PASS", g->name,
           (long long)g->nb_compared, g->max_abs, g->rel_l2, g->worst);
    *(g->failed ? &tally->failed : &tally->passed) += 1;
    golden_close(g);
}

/* One file of the set: `name` without, `ext` with the dot; `sub` is the folder inside the set. */
static void run_file(Golden *g, Tally *tally, const Options *opt, const char *path, const char *name, const char *ext)
{
    const int i = find_case(name, ext);

    if (opt->only && strcmp(opt->only, name))
        return;
    g->name = name;
    if (i < 0)
        fail_line(tally, name, "no case knows this file");
    else if (table[i].kind == KIND_SKIP) {
        printf("SKIP %-28s a record of the single-GPU original, whose differences are not ours\n", name);
        tally->skipped++;
    } else if (table[i].kind == KIND_INPUT) {
        if (!strcmp(ext, ".safetensors"))
            check_input(g, tally, path);
    } else
        run_case(g, tally, table[i].run, strcmp(ext, ".json") ? path : NULL);
    fflush(stdout);
}

static int is_data(const struct dirent *e)
{
    const char *dot = strrchr(e->d_name, '.');

    return dot && (!strcmp(dot, ".safetensors") || !strcmp(dot, ".json"));
}

static int run_set(Golden *g, Tally *tally, const Options *opt)
{
    struct dirent **list = NULL;
    const int nb = scandir(opt->dir, &list, is_data, alphasort);
    char path[4096];

    if (nb < 0) {
        fprintf(stderr, "parity: %s: cannot be listed\n", opt->dir);
        return 1;
    }
    for (int i = 0; i < nb; i++) {
        char *dot = strrchr(list[i]->d_name, '.'), ext[32];

        snprintf(path, sizeof(path), "%s/%s", opt->dir, list[i]->d_name);
        snprintf(ext, sizeof(ext), "%s", dot);
        *dot = 0;
        run_file(g, tally, opt, path, list[i]->d_name, ext);
        free(list[i]);
    }
    free(list);
    snprintf(path, sizeof(path), "%s/tokenizer/cases.json", opt->dir);
    if (access(path, R_OK) == 0)
        run_file(g, tally, opt, path, "tokenizer", ".json");
    return 0;
}

static void write_log(void *opaque, int level, const char *text)
{
    (void)opaque;
    (void)level;
    fprintf(stderr, "parity: %s\n", text);
}

static int open_golden(Golden *g, const Options *opt, const Log *log)
{
    const DType act = avt_is_code(opt->product) ? avt_device_act(opt->device, opt->level) : opt->act;     // as the engine chooses
    const BackendOptions bo = { .threads = opt->threads, .level = opt->level, .act = act, .product = opt->product, .log = log };
    char path[4096];
    int ret = avt_backend_open(&g->be, opt->device, &bo);

    g->dir = opt->dir;
    g->log = log;
    g->kv = opt->kv;
    if (ret >= 0)
        ret = avt_arena_open(&g->weights, g->be, "weights", ARENA_BYTES);
    if (ret >= 0)
        ret = avt_arena_open(&g->work, g->be, "work", ARENA_BYTES);
    snprintf(path, sizeof(path), "%s/golden_config.json", opt->dir);
    if (ret >= 0)
        ret = avt_json_read(&g->config, path, log);
    snprintf(path, sizeof(path), "%s/sampling_inputs.safetensors", opt->dir);
    if (ret >= 0 && access(path, R_OK) == 0)
        ret = avt_ckpt_open(&g->inputs, path, log);
    return ret;
}

static int parse_level(const char *text, CpuLevel *level)
{
    static const char *const names[] = { "plain", "onednn", "avx2", "avx512", "amx", "auto" };

    for (int i = 0; i <= CPU_AUTO; i++)
        if (!strcmp(text, names[i])) {
            *level = (CpuLevel)i;
            return 1;
        }
    return 0;
}

/* f32, bf16, or codes. */
static int parse_precision(const char *text, Options *opt)
{
    opt->act = strcmp(text, "bf16") ? DT_F32 : DT_BF16;
    opt->product = !strcmp(text, "int8") ? DT_I8 : !strcmp(text, "fp8") ? DT_F8_E4M3 : DT_F32;
    return opt->act == DT_BF16 || avt_is_code(opt->product) || !strcmp(text, "f32");
}

static int parse(Options *opt, int argc, char **argv)
{
    *opt = (Options){ .device = "cpu", .level = CPU_AUTO };
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (argv[i][0] != '-' && !opt->dir) {
            opt->dir = argv[i];
            continue;
        }
        if (!value)
            return 0;
        if (!strcmp(argv[i], "--case"))
            opt->only = value;
        else if (!strcmp(argv[i], "--device"))
            opt->device = value;
        else if (!strcmp(argv[i], "--threads"))
            opt->threads = atoi(value);
        else if (!strcmp(argv[i], "--precision") && parse_precision(value, opt))
            ;
        else if (!strcmp(argv[i], "--kv") && !strcmp(value, "fp8"))
            opt->kv = DT_F8_E4M3;
        else if (strcmp(argv[i], "--level") || !parse_level(value, &opt->level))
            return 0;
        i++;
    }
    return opt->dir != NULL;
}

int main(int argc, char **argv)
{
    const Log log = { .write = write_log, .level = LOG_WARNING };
    Tally tally = { 0 };
    Golden g = { 0 };
    Options opt;
    int ret;

    if (!parse(&opt, argc, argv)) {
        fprintf(stderr, "usage: parity DIR [--case NAME] [--device cpu|guard|cuda0] [--level plain|onednn|avx2|avx512|amx|auto]\n"
                        "              [--threads N] [--precision f32|bf16|int8|fp8] [--kv fp8]\n");
        return 2;
    }
    if (opt.level < CPU_AUTO && !avt_cpu_has(opt.level)) {
        printf("[  SKIPPED ] this CPU or build has no such level\n0 passed, 0 failed, 1 skipped\n");
        return 0;
    }
    ret = open_golden(&g, &opt, &log);
    if (ret >= 0)
        ret = run_set(&g, &tally, &opt);
    if (ret == 0 && tally.passed + tally.failed + tally.skipped == 0)
        fail_line(&tally, opt.only ? opt.only : opt.dir, "no such case in the set");
    if (ret == 0)
        printf("%d passed, %d failed, %d skipped\n", tally.passed, tally.failed, tally.skipped);
    avt_ckpt_close(&g.inputs);
    avt_json_close(&g.config);
    avt_arena_close(&g.work);
    avt_arena_close(&g.weights);
    avt_backend_close(&g.be);
    return ret || tally.failed ? 1 : 0;
}
