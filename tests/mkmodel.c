/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* mkmodel DIR [tiny|nano] [SEED]: a model folder with seeded random weights, for trying things by hand and for scripts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

int main(int argc, char **argv)
{
    TestModel m;

    if (argc < 2 || argv[1][0] == '-')
        return fprintf(stderr, "usage: mkmodel DIR [tiny|nano] [SEED]\n"), 2;
    test_model_default(&m);
    m.avatar_json = "{\"name\": \"tiny random weights\", \"lora\": \"none\", \"size\": \"64x64\"}\n";
    if (argc > 2 && !strcmp(argv[2], "nano"))
        test_model_nano(&m);
    if (argc > 3)
        m.seed = strtoull(argv[3], NULL, 10);
    return test_model_write(&m, argv[1]) < 0;
}
