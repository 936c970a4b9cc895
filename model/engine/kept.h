/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The shelf of kernels/tuned.h as a folder: "plans" in the one that AvatarOptions.cache names, a file a thing.
 *
 *     avatar's plan, LENGTH bytes with the sum SUM        16 digits of base 16
 *     DEVICE
 *     NAME
 *     the bytes
 *
 * A file's name is a sum of device and name; both are inside, so that a plan for another card or version is never taken. Who deletes the folder
 * has its plans made again.
 */
#ifndef AVT_KEPT_H
#define AVT_KEPT_H

#include "tuned.h"

typedef struct KeptFolder {
    TunedShelf shelf;                   // first
    char *cache, *folder;
} KeptFolder;

/** @return 0 or ENOMEM. Files are looked for when they are asked for. */
int avt_kept_open(KeptFolder *k, const char *cache);
void avt_kept_close(KeptFolder *k);

#endif
