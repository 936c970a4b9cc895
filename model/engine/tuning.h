/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file of kernels/tuned.h: tuned.json in the folder that AvatarOptions.cache names, an object of devices, each an object of shapes and their
 * choices. Who deletes it has all of them timed again.
 */
#ifndef AVT_TUNING_H
#define AVT_TUNING_H

#include "base/log.h"
#include "tuned.h"

/** Put the file's choices into the table, where it has none. No file is no news; one that is damaged is a warning, and counts for nothing. */
void avt_tuning_read(Tuned *t, const char *folder, const Log *log);

/**
 * Write the table, and what the file has that the table has not, if something was found since the last read or write; a line says what. The
 * folder is made, and the one that it is in; the file is put in its place at once: who reads finds the old one or the new.
 * @return 0, or an error after a warning that names file and remedy: the next run times again
 */
int avt_tuning_write(Tuned *t, const char *folder, const Log *log);

#endif
