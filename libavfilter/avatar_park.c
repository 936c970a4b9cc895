/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Hand-over between instances of the avatar filter. See avatar_park.h.
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libavutil/mem.h"
#include "libavutil/time.h"

#include "avatar_park.h"

#define KEEP 120000000                  ///< microseconds; a filter beside may wait for a network while the graph is built anew

typedef struct Parked {
    struct Parked *next;
    char *key;
    void *what;
    void (*release)(void *what);
    int64_t since;
} Parked;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t list_key;          // each thread's list
static int have_key;

static void release(Parked *p)
{
    p->release(p->what);
    av_free(p->key);
    av_free(p);
}

static void release_all(void *list)
{
    Parked *p = list, *next;

    for (; p; p = next) {
        next = p->next;
        release(p);
    }
}

/* The main thread's end runs no destructor of a key; and when this library is closed, no thread may find one any more. */
static void release_at_exit(void)
{
    void *list = pthread_getspecific(list_key);

    have_key = 0;
    pthread_key_delete(list_key);
    release_all(list);
}

static void make_key(void)
{
    have_key = !pthread_key_create(&list_key, release_all) && !atexit(release_at_exit);
}

/* The list without what is too old. */
static Parked *fresh_list(void)
{
    Parked *list = pthread_getspecific(list_key), **at = &list;

    while (*at) {
        Parked *p = *at;

        if (av_gettime_relative() - p->since > KEEP) {
            *at = p->next;
            release(p);
        } else {
            at = &p->next;
        }
    }
    return list;
}

void ff_avatar_park(const char *key, void *what, void (*release_what)(void *what))
{
    Parked *p = av_mallocz(sizeof(*p));

    pthread_once(&once, make_key);
    if (!p || !have_key || !(p->key = av_strdup(key))) {
        av_free(p);
        release_what(what);
        return;
    }
    p->what    = what;
    p->release = release_what;
    p->since   = av_gettime_relative();
    p->next    = fresh_list();
    if (pthread_setspecific(list_key, p)) {
        pthread_setspecific(list_key, p->next);
        release(p);
    }
}

void *ff_avatar_unpark(const char *key)
{
    Parked *list, **at = &list;
    void *what = NULL;

    pthread_once(&once, make_key);
    if (!have_key)
        return NULL;
    list = fresh_list();
    while (*at && strcmp((*at)->key, key))
        at = &(*at)->next;
    if (*at) {
        Parked *p = *at;

        *at  = p->next;
        what = p->what;
        av_free(p->key);
        av_free(p);
    }
    pthread_setspecific(list_key, list);
    return what;
}
