/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoint: named tensors out of files, bounds checked, nothing read before it is asked for. All reading is copying: a file
 * that somebody shortens meanwhile is an error, where a mapping would end the process (SIGBUS).
 *
 * One reader per container (ckpt_safetensors.c, ckpt_pth.c, ckpt_gguf.c), chosen by the file's first bytes and name. Everything in a
 * header is checked before the first tensor is handed out (spec: checkpoints.md 3, 4, 7.1, 7.2); every refusal is one
 * sentence that names the file, the tensor, what was wanted and what was found.
 */
#ifndef AVT_CKPT_H
#define AVT_CKPT_H

#include "base/log.h"
#include "tensor.h"

#define CKPT_MAX_DIM 8

typedef struct CkptPack {               // values in blocks, with scales of the block (GGUF): ckpt_pack.c
    const char *name;                   // "q4_k"
    int values, bytes;                  // of a block
    void (*widen)(float *out, const uint8_t *block);
} CkptPack;

typedef struct CkptTensor {
    const char *name;                   // as the file spells it; of a GGUF: as the published checkpoint does
    DType dtype;
    const CkptPack *pack;               // NULL: values are as dtype says; else dtype is DT_F32, what they widen to
    int nd;
    int64_t dim[CKPT_MAX_DIM];
    size_t size;                        // bytes
    uint64_t offset;                    // of its first byte in the file
    const struct CkptFile *file;        // the file (shard) that holds it
} CkptTensor;

typedef struct Ckpt Ckpt;

/**
 * Open a checkpoint: a .safetensors file, an index (*.safetensors.index.json) with its shards, a PyTorch .pth, or a .gguf.
 * Opens the files and checks all headers; takes milliseconds at any size.
 *
 * @return 0; ENOENT (no such file), AVT_INVALID (damaged or hostile; logged), ENOMEM. *out is NULL after an error
 */
int  avt_ckpt_open(Ckpt **out, const char *path, const Log *log);
/** The same for one file's bytes in memory (no index); they must outlive the checkpoint. For tests and fuzzers. */
int  avt_ckpt_open_memory(Ckpt **out, const char *name, const void *data, size_t size, const Log *log);
void avt_ckpt_close(Ckpt **c);

int64_t avt_ckpt_nb(const Ckpt *c);
const CkptTensor *avt_ckpt_get(const Ckpt *c, int64_t i);               // i-th in name order
const CkptTensor *avt_ckpt_find(const Ckpt *c, const char *name);       // NULL: no such tensor
const char *avt_ckpt_path(const Ckpt *c);
/** What its reader says of a file beyond the tensors, "GGUF 3, architecture wan", or "". */
const char *avt_ckpt_note(const Ckpt *c);

/**
 * Has a file changed since it was opened (size or modification time)? Asked after the weights were placed.
 * @return 0, or AVT_ERR(ESTALE), logged with the file's name
 */
int avt_ckpt_unchanged(const Ckpt *c, const Log *log);
/**
 * The same for what is read long after: the file may have another name by then, or none that this process can see (another working folder,
 * another user, a folder that was removed), so its descriptor is asked, which the host may have closed.
 */
int avt_ckpt_intact(const Ckpt *c, const Log *log);

/**
 * Copy bytes first .. first + size - 1 of a tensor, which must be there; large pieces over the cores.
 * @return 0; ESTALE: its file has become shorter since it was opened; EIO and the like (logged)
 */
int avt_ckpt_read(const CkptTensor *t, void *dst, size_t first, size_t size, const Log *log);

/** Type of a tensor's values as the file has them, "bf16", "q4_k"; how many they are; bytes of `nb` of them, a multiple of a block. */
const char *avt_ckpt_type(const CkptTensor *t);
const char *avt_ckpt_type_name(int i);                                  // i-th of those that there are; NULL: there are no more
int64_t avt_ckpt_values(const CkptTensor *t);
size_t avt_ckpt_size(const CkptTensor *t, int64_t nb);
/** The bytes of nb values, a multiple of a block, to f32; over the cores. */
void avt_ckpt_widen(float *dst, const CkptTensor *t, const void *raw, int64_t nb);
/** GGUF's type by its number; NULL: none that is packed, or not supported. */
const CkptPack *avt_ckpt_pack(uint32_t type);

/** Index of the first NaN or infinity among nb values of any alignment, or -1. */
int64_t avt_nonfinite(DType dtype, const void *values, int64_t nb);

typedef struct CkptFile {
    char *path;
    const char *name;                   // base name, inside path
    size_t size;
    int64_t mtime_ns;
    uint64_t dev, ino;
    int fd;                             // -1: the caller's memory
    const uint8_t *memory;
} CkptFile;

/* Container readers, used by ckpt.c alone: they read through avt_ckpt_bytes() and append to `c` through avt_ckpt_add(). */
int avt_ckpt_read_safetensors(Ckpt *c, const CkptFile *f, const Log *log);
int avt_ckpt_read_pth(Ckpt *c, const CkptFile *f, const Log *log);
int avt_ckpt_read_gguf(Ckpt *c, const CkptFile *f, const Log *log);
/** Copy bytes offset .. offset + size - 1 of a file; the caller has compared both with its size. As avt_ckpt_read(). */
int avt_ckpt_bytes(const CkptFile *f, void *dst, uint64_t offset, size_t size, const Log *log);
/** Copies the name. One that is given twice is found when all are there. */
int avt_ckpt_add(Ckpt *c, const CkptTensor *t, const Log *log);
/** Tensors from number `first` on, in the order in which they were added, lie `by` bytes further behind. */
void avt_ckpt_move(Ckpt *c, int64_t first, uint64_t by);
/** Set avt_ckpt_note(). */
void avt_ckpt_say(Ckpt *c, const char *fmt, ...) AVT_PRINTF(2, 3);

#endif
