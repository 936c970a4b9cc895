/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SIGINT and SIGTERM: the first one gives the session up and lets the file be closed, a second one ends the program. */
#ifndef AVT_TOOL_STOP_H
#define AVT_TOOL_STOP_H

#include "avatar.h"

/** Start to watch, in a thread of its own. Called once, before any other thread is there: the others must not get these signals.
 *  @return 0 or an error, which was said */
int  stop_watch(void);
/** Has a signal come? */
int  stop_asked(void);
/** What goes when a signal ends the program at once, and how; it may be "", nothing, for now. NULL: nothing any more. */
void stop_removes(void (*remove_it)(const char *path), const char *path);
/** The session to abort when one comes (or has come); NULL before it is closed. */
void stop_session(AvatarSession *s);
/** From here to the same with 0 there is nothing to save and nothing that could be told to stop: a signal ends the program. */
void stop_at_once(int on);

#endif
