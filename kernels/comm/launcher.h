/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who else did mpirun start here, and is it still there? Linux's /proc says, where MPI waits without end for one that has gone. */
#ifndef AVT_LAUNCHER_H
#define AVT_LAUNCHER_H

/**
 * Count the processes of this one's job on this host that run, itself among them.
 * @return -1: it cannot be told, as this is no process of a job, or /proc is closed
 */
int avt_launcher_count(void);

#endif
