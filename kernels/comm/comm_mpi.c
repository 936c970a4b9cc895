/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libavatar_mpi.so: processes that were started together exchange their cards, once. The only file that sees MPI's header; built with mpicc.
 *
 * MPI is initialized when the program has not done so, and then finalized again before this returns: no program's second MPI_Init or
 * MPI_Finalize can meet ours, and a process that is killed later leaves nobody in MPI_Finalize. A program that has initialized it keeps it.
 */
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "comm/mpi_plugin.h"

/* 0, or an error with a sentence. *mine: it was initialized here. */
static int begin(int *mine, WorldMeeting *m)
{
    int there = 0, over = 0, level = 0;

    MPI_Initialized(&there);
    MPI_Finalized(&over);
    if (over) {
        snprintf(m->why, sizeof(m->why), "this program has finalized MPI before it opened an engine; open the engine first");
        return AVT_ERR(EINVAL);
    }
    if (there ? MPI_Query_thread(&level) : MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level)) {
        snprintf(m->why, sizeof(m->why), "MPI does not start");
        return AVT_ERR(EIO);
    }
    *mine = !there;
    if (level < MPI_THREAD_MULTIPLE) {
        snprintf(m->why, sizeof(m->why), there ? "this program has MPI without threads; let it ask MPI_Init_thread for MPI_THREAD_MULTIPLE"
                                               : "this MPI has no MPI_THREAD_MULTIPLE; install one that has");
        return AVT_ERR(ENOSYS);
    }
    return 0;
}

/* On a communicator of our own, whose errors come back. */
static int exchange(const MpiHost *host, WorldMeeting *m, const WorldCard *own)
{
    MPI_Comm comm;
    int bad = MPI_Comm_dup(MPI_COMM_WORLD, &comm);

    if (!bad) {
        MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
        bad = MPI_Comm_size(comm, &m->nb) || MPI_Comm_rank(comm, &m->own);
        m->card = bad ? NULL : host->malloc(MEM_COMM, sizeof(*own) * (size_t)m->nb);
        if (m->card)
            memset(m->card, 0, sizeof(*own) * (size_t)m->nb);       // another version's card may be shorter
        bad = !m->card || MPI_Allgather(own, sizeof(*own), MPI_BYTE, m->card, sizeof(*own), MPI_BYTE, comm);
        MPI_Comm_free(&comm);
    }
    if (bad)
        snprintf(m->why, sizeof(m->why), "MPI does not connect the processes");
    return bad ? AVT_ERR(EIO) : 0;
}

__attribute__((visibility("default"))) int avatar_mpi_meet(const MpiHost *host, WorldMeeting *m, const WorldCard *own)
{
    int mine = 0, ret;

    if (host->abi != MPI_PLUGIN_ABI) {
        snprintf(m->why, sizeof(m->why), "the libavatar_mpi.so that is installed belongs to another version of avatar");
        return AVT_ERR(ENOSYS);
    }
    ret = begin(&mine, m);
    if (ret >= 0)
        ret = exchange(host, m, own);
    if (mine)
        MPI_Finalize();
    return ret;
}
