/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See tuned.h: some dozens of entries, so a list. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "tuned.h"

Tuned *avt_tuned_open(void)
{
    Tuned *t = avt_calloc(MEM_BACKEND, 1, sizeof(*t));

    if (!t)
        return NULL;
    pthread_mutex_init(&t->lock, NULL);
    t->least = TUNED_LEAST;
    return t;
}

void avt_tuned_close(Tuned **t)
{
    if (!*t)
        return;
    for (TunedEntry *e = (*t)->first, *next; e; e = next) {
        next = e->next;
        avt_free(e);
    }
    pthread_mutex_destroy(&(*t)->lock);
    avt_freep(t);
}

/* The entry, or the end of the list. Lock held. */
static TunedEntry **find(Tuned *t, const char *device, const char *shape)
{
    TunedEntry **e = &t->first;

    while (*e && (strcmp((*e)->shape, shape) || strcmp((*e)->device, device)))
        e = &(*e)->next;
    return e;
}

static TunedEntry *entry_new(const char *device, const char *shape)
{
    const size_t n = strlen(device) + 1, m = strlen(shape) + 1;
    TunedEntry *e = avt_calloc(MEM_BACKEND, 1, sizeof(*e) + n + m);

    if (e) {
        e->device = memcpy((char *)(e + 1), device, n);
        e->shape = memcpy((char *)(e + 1) + n, shape, m);
    }
    return e;
}

int avt_tuned_get(Tuned *t, const char *device, const char *shape, char choice[TUNED_CHOICE])
{
    const TunedEntry *e;

    pthread_mutex_lock(&t->lock);
    e = *find(t, device, shape);
    memset(choice, 0, TUNED_CHOICE);
    if (e)
        memcpy(choice, e->choice, TUNED_CHOICE);
    pthread_mutex_unlock(&t->lock);
    return e != NULL;
}

int avt_tuned_put(Tuned *t, const char *device, const char *shape, const char *seen, char choice[TUNED_CHOICE])
{
    TunedEntry **e;
    int ret = 0;

    pthread_mutex_lock(&t->lock);
    e = find(t, device, shape);
    if (!*e)
        *e = entry_new(device, shape);
    if (!*e)
        ret = AVT_ERR(ENOMEM);
    else if (!strcmp((*e)->choice, seen)) {
        memcpy((*e)->choice, choice, TUNED_CHOICE);
        t->found++;
    }
    if (*e)
        memcpy(choice, (*e)->choice, TUNED_CHOICE);
    pthread_mutex_unlock(&t->lock);
    return ret;
}
