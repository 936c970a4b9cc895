/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs a fuzzer's entry over files and folders of files: the corpus without libFuzzer. NAME FILE|FOLDER... */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int nb_run, nb_failed;

/* Each input in a block of its own size, so that a sanitizer sees a byte too far. */
static void run_file(const char *path)
{
    uint8_t *data = NULL;
    size_t size = 0;
    FILE *f = fopen(path, "rb");
    char buf[4096];
    size_t n;

    while (f && (n = fread(buf, 1, sizeof(buf), f)) > 0) {
        data = realloc(data, size + n);
        if (!data)
            abort();
        memcpy(data + size, buf, n);
        size += n;
    }
    if (!f || ferror(f)) {
        fprintf(stderr, "%s: cannot be read\n", path);
        nb_failed++;
    } else {
        fprintf(stderr, "%s\n", path);                              // the last name shown is the one that crashed
        LLVMFuzzerTestOneInput(data, size);
        nb_run++;
    }
    if (f)
        fclose(f);
    free(data);
}

static int is_file(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static void run_path(const char *path)
{
    struct dirent **list;
    const int nb = scandir(path, &list, is_file, alphasort);
    char name[1024];

    if (nb < 0) {
        run_file(path);
        return;
    }
    for (int i = 0; i < nb; i++) {
        snprintf(name, sizeof(name), "%s/%s", path, list[i]->d_name);
        run_file(name);
        free(list[i]);
    }
    free(list);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        run_path(argv[i]);
    printf("%d passed, %d failed, 0 skipped\n", nb_run, nb_failed + !nb_run);
    return nb_failed || !nb_run;
}
