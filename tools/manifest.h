/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SHA256SUMS of a model folder, as sha256sum writes and reads them: a line "HEX  NAME" a file, by name. */
#ifndef AVT_TOOL_MANIFEST_H
#define AVT_TOOL_MANIFEST_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define MANIFEST_NAME "SHA256SUMS"

/** The sums of every file of a folder and its folders, but of MANIFEST_NAME and of hidden ones. @return 0, or -1 with errno */
int manifest_write(const char *dir, FILE *out);

typedef struct ManifestCheck {
    int same, left;                     // files that are as they were; files that were left out for their size
    int unread;                         // `bad` is of the list itself
    char bad[256];                      // a sentence on the first that is not, or ""
} ManifestCheck;

/** Compare the folder's files with its MANIFEST_NAME, up to `most` bytes. @return 0, or -1: there is none */
int manifest_check(ManifestCheck *c, const char *dir, int64_t most);

/**
 * Compare the folder's files that are as large as the published ones with the sums of these that are known, up to `most` bytes. Others are
 * of another model, and are not looked at.
 */
void manifest_published(ManifestCheck *c, const char *dir, int64_t most);

#endif
