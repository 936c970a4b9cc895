/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Zip: where the stored (uncompressed) entries of an archive lie. Only what a PyTorch file needs, zip64 included;
 * nothing is copied or unpacked. Used by ckpt_pth.c alone.
 */
#ifndef AVT_ZIP_H
#define AVT_ZIP_H

#include "files/ckpt.h"

typedef struct ZipEntry {
    const char *name;                   // in Zip.directory, not ended by NUL
    size_t name_size;
    uint64_t begin;                     // of its local header, in the file
    uint64_t start;                     // of its data, in the file
    size_t size;
} ZipEntry;

typedef struct Zip {
    ZipEntry *entry;                    // sorted by name
    size_t nb;
    uint8_t *directory;                 // a copy
    uint8_t *local;                     // room for one local header with its name
} Zip;

/** @return 0, AVT_INVALID (logged) for anything that is not a plain, stored, single archive; ENOMEM */
int  avt_zip_open(Zip *z, const CkptFile *f, const Log *log);
void avt_zip_close(Zip *z);
/** Entry "<folder>/<name>" or NULL; `folder` and `name` need no NUL. */
const ZipEntry *avt_zip_find(const Zip *z, const char *folder, size_t folder_size, const char *name, size_t name_size);

#endif
