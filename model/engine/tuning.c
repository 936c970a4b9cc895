/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See tuning.h. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "engine/tuning.h"
#include "files/file.h"
#include "files/json.h"

#define MOST 4096                       // choices that a file may have: the table is a list, and dozens are found
#define REMEDY "calls are timed again in the next run; XDG_CACHE_HOME names another folder, tune=0 times none"

static char *file_in(const char *folder)
{
    return avt_sprintf(MEM_ENGINE, "%s/tuned.json", folder);
}

/* ---- reading ------------------------------------------------------------------------------------------------------------------- */

static int is_ours(const Json *file)
{
    int nb = 0;

    for (const Json *device = avt_json_first(file); device; device = device->next) {
        if (device->type != JSON_OBJECT)
            return 0;
        for (const Json *shape = avt_json_first(device); shape; shape = shape->next)
            if (shape->type != JSON_TEXT || strlen(shape->text) >= TUNED_CHOICE || ++nb > MOST)
                return 0;
    }
    return 1;
}

static void put_all(Tuned *t, const Json *file)
{
    char choice[TUNED_CHOICE];

    for (const Json *device = avt_json_first(file); device; device = device->next)
        for (const Json *shape = avt_json_first(device); shape; shape = shape->next) {
            memset(choice, 0, sizeof(choice));
            snprintf(choice, sizeof(choice), "%s", shape->text);
            avt_tuned_put(t, device->key, shape->key, "", choice);
        }
}

/* The file's choices, where the table has none; *why gets what is wrong with it, "" when there is none. */
static void read_file(Tuned *t, const char *path, Reason *why)
{
    const Log quiet = { .write = avt_keep_reason, .opaque = why, .level = LOG_ERROR };
    Json *file = NULL;

    why->text[0] = 0;
    if (access(path, F_OK))
        return;
    if (avt_json_read(&file, path, &quiet) >= 0 && is_ours(file))
        put_all(t, file);
    else if (file)
        snprintf(why->text, sizeof(why->text), "%s: is not what avatar has written", path);
    avt_json_close(&file);
}

void avt_tuning_read(Tuned *t, const char *folder, const Log *log)
{
    char *path = file_in(folder);
    Reason why;

    if (!path)
        return;
    read_file(t, path, &why);
    if (why.text[0])
        avt_log(log, LOG_WARNING, "%s; it is made anew", why.text);
    pthread_mutex_lock(&t->lock);
    t->found = 0;
    pthread_mutex_unlock(&t->lock);
    avt_free(path);
}

/* ---- writing ------------------------------------------------------------------------------------------------------------------- */

static void write_text(FILE *f, const char *text)
{
    fputc('"', f);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', f);
        fputc((unsigned char)*text < ' ' ? ' ' : *text, f);
    }
    fputc('"', f);
}

/* Is it the first of its device? */
static int is_first(const TunedEntry *list, const TunedEntry *e)
{
    while (strcmp(list->device, e->device))
        list = list->next;
    return list == e;
}

static void write_device(FILE *f, const TunedEntry *first)
{
    write_text(f, first->device);
    fprintf(f, ": {");
    for (const TunedEntry *e = first; e; e = e->next) {
        if (strcmp(e->device, first->device))
            continue;
        fprintf(f, "%s\n    ", e == first ? "" : ",");
        write_text(f, e->shape);
        fprintf(f, ": ");
        write_text(f, e->choice);
    }
    fprintf(f, "\n  }");
}

/* The table as JSON; its lock is held. */
static int write_all(FILE *f, const void *table)
{
    const Tuned *t = table;
    int nb = 0;

    fprintf(f, "{");
    for (const TunedEntry *e = t->first; e; e = e->next)
        if (is_first(t->first, e)) {
            fprintf(f, "%s\n  ", nb++ ? "," : "");
            write_device(f, e);
        }
    fprintf(f, "\n}\n");
    return ferror(f) ? AVT_ERR(EIO) : 0;
}

int avt_tuning_write(Tuned *t, const char *folder, const Log *log)
{
    char *path = file_in(folder);
    Reason why;
    int found, ret;

    pthread_mutex_lock(&t->lock);
    found = t->found;
    pthread_mutex_unlock(&t->lock);
    if (!found || !path) {
        avt_free(path);
        return found ? AVT_ERR(ENOMEM) : 0;
    }
    read_file(t, path, &why);                                       // another process may have been here
    avt_folder_make(folder);
    pthread_mutex_lock(&t->lock);
    ret = avt_file_replace(path, write_all, t);
    t->found = 0;
    pthread_mutex_unlock(&t->lock);
    if (ret < 0)
        avt_log(log, LOG_WARNING, "%s: cannot be written: %s; " REMEDY, path, strerror(-ret));
    else
        avt_log(log, LOG_INFO, "%d calls were timed on their device, the fastest ways are kept in %s", found, path);
    avt_free(path);
    return ret;
}
