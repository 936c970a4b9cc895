/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between the library and libavatar_mpi.so, which holds all that needs MPI and is opened only in a process that mpirun or srun started.
 * Both are built from one tree; no MPI header here.
 */
#ifndef AVT_MPI_PLUGIN_H
#define AVT_MPI_PLUGIN_H

#include "base/mem.h"
#include "comm/world.h"

#define MPI_PLUGIN_ABI ((unsigned)(sizeof(WorldCard) << 16 ^ sizeof(WorldMeeting) << 2 ^ 1))

typedef struct MpiHost {
    unsigned abi;                       // MPI_PLUGIN_ABI
    void *(*malloc)(MemTag tag, size_t size);
} MpiHost;

/** The plugin's one symbol: the exchange of cards by MPI. As a WorldMeet; ENOSYS when `host` is of another layout. */
typedef int MpiPluginMeet(const MpiHost *host, WorldMeeting *m, const WorldCard *own);
MpiPluginMeet avatar_mpi_meet;

/** The exchange of cards with the processes that mpirun or srun started beside this one. MPI's own waits have no end: after
 *  WORLD_MEETING_MS it is left alone with them. A WorldMeet. */
int avt_mpi_meet(WorldMeeting *m, const WorldCard *own);

#endif
