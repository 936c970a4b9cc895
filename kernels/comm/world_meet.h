/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How processes find each other, for world.c alone. */
#ifndef AVT_WORLD_MEET_H
#define AVT_WORLD_MEET_H

#include "comm/world.h"

/** Open a port on every address of this host: host, address, port and key of `card` are filled.
 *  @return the listening socket, or an error */
int avt_world_listen(WorldCard *card);
/** A socket to each of the `nb` processes but `own`: fd [nb], -1 where there is none, the caller's to close, after an error too.
 *  @return 0, or ETIMEDOUT (logged) */
int avt_world_connect(int fd[], int listener, const WorldCard *card, int nb, int own, const Log *log);

#endif
