/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the emulated runtime's calls have in common: see runtime.cpp. */
#ifndef AVT_SIMT_CALLS_H
#define AVT_SIMT_CALLS_H

#include "bed.h"

namespace bed {

/* Every call begins so: a lost device answers it with its error. */
#define BEGIN \
    Guard guard(lock); \
    start(); \
    if (sticky) \
        return sticky

/** The call's error, which cudaGetLastError() tells again. */
cudaError_t failed(cudaError_t e);
/** A stream that work of this thread may go to now, or NULL: refused. */
Stream *usable(cudaStream_t s, const char *what);
void submit_work(Stream *s, const char *name, std::function<void()> run);
/** Of the running operation: bytes from any memory to any other. */
void copy_bytes(void *dst, const void *src, size_t size);
/** May work of a device touch memory of another one? */
bool reaches(int device, int other);
/** Dynamic shared memory that a kernel may ask for on this architecture. */
size_t most_shared();

}   // namespace bed

#endif
