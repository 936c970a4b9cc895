/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where plugins are. See plugin.h. */
#include <dlfcn.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/plugin.h"
#include "config.h"

/* Folder of the file that this code was loaded from: the library, or a program that it is linked into. */
static int own_folder(char path[PATH_MAX])
{
    Dl_info info;
    char *slash;

    if (!dladdr((void *)(uintptr_t)&avt_plugin_open, &info) || !info.dli_fname || !realpath(info.dli_fname, path))
        return 0;
    slash = strrchr(path, '/');
    *slash = 0;
    return 1;
}

/* The plugin of a folder. *there: the file is, whether it can be loaded or not. */
static void *load_from(const char *folder, const char *file, int mode, int *there)
{
    char path[PATH_MAX];

    *there = snprintf(path, sizeof(path), "%s/%s", folder, file) < (int)sizeof(path) && !access(path, R_OK);
    return *there ? dlopen(path, mode) : NULL;
}

void *avt_plugin_open(const char *file, int mode, const char **why)
{
    char folder[PATH_MAX] = "";
    int there = 0;
    void *lib = own_folder(folder) ? load_from(folder, file, mode, &there) : NULL;

    if (!lib && !there)
        lib = load_from(AVT_LIBDIR, file, mode, &there);
    if (!lib && !there)
        lib = dlopen(file, mode);
    *why = lib ? NULL : dlerror();
    if (!there && *why && !strncmp(*why, file, strlen(file)) && (*why)[strlen(file)] == ':')
        *why = NULL;
    return lib;
}
