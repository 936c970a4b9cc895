/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was found to be the fastest way on a device: a table of texts that all queues of an engine share. A backend that has several ways to
 * compute a call asks it, and where it has no answer times them and writes one.
 *
 *     device    "NVIDIA H200, sm_90, CUDA 13.0, cuBLASLt 130100, cuDNN 91900": all that the time depends on beside
 *     shape     "linear 3168x5120x5120 bf16 f32 bias gate residual"
 *     choice    "cuDNN 2"                             at most TUNED_CHOICE - 1 bytes
 *
 * And a place for what is large and costs time to make: plans of a library, by a device and a name.
 *
 * In the library, which keeps it in a file (engine/tuning.h), and in the plugins.
 */
#ifndef AVT_TUNED_H
#define AVT_TUNED_H

#include <pthread.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TUNED_CHOICE 32                 // bytes of a choice

typedef struct TunedEntry {
    struct TunedEntry *next;            // in the order of coming
    const char *device, *shape;         // behind the entry
    char choice[TUNED_CHOICE];
} TunedEntry;

typedef struct Tuned {
    pthread_mutex_t lock;
    TunedEntry *first;                  // under lock, as what follows
    int found;                          // entries that were put since it was set to 0
    double least;                       // operations of a call that is worth finding out for; may be set before a backend has the table
    /* Where larger things are kept, once it is there; NULL: nowhere. Callable by all queues at the same time. */
    const struct TunedShelf *shelf;
} Tuned;

typedef struct TunedShelf {
    /** What was kept, freed by the caller with avt_free(), as it was given: what is damaged is as if it were not there. NULL: nothing */
    void *(*take)(const struct TunedShelf *s, const char *device, const char *name, size_t *size);
    /** Keep a copy, in the place of what was there. A failure changes nothing. */
    void (*put)(const struct TunedShelf *s, const char *device, const char *name, const void *bytes, size_t size);
} TunedShelf;

/*
 * A way that a library has to compile first costs a second of a CPU, once a card; so many operations take some 30 microseconds of a large card, of
 * which a contest may win a few. All large calls of the published model have more, hardly any of nano.
 */
#define TUNED_LEAST 0x1p34

/** An empty table with that least, or NULL: no memory. */
Tuned *avt_tuned_open(void);
/** The shelf is the caller's. */
void avt_tuned_close(Tuned **t);

/** The choice of a device and shape. @return 1, 0: there is none, `choice` is "" */
int avt_tuned_get(Tuned *t, const char *device, const char *shape, char choice[TUNED_CHOICE]);

/** Write a choice in place of `seen`, what avt_tuned_get() gave; if another thread has been here since, its choice stays.
 *  @param choice  in: what was found, out: what is in the table now
 *  @return 0 or ENOMEM: the table is as it was */
int avt_tuned_put(Tuned *t, const char *device, const char *shape, const char *seen, char choice[TUNED_CHOICE]);

#ifdef __cplusplus
}
#endif

#endif
