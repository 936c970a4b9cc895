/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening what is not linked in: libavatar_cuda.so, libavatar_mpi.so. */
#ifndef AVT_BASE_PLUGIN_H
#define AVT_BASE_PLUGIN_H

/**
 * Open a plugin of ours: beside the file that this code is in, in the folder of libraries, by the loader's path.
 *
 * @param mode  as for dlopen()
 * @param why   after a failure: NULL when there is no such file in any of these places, else the loader's words
 * @return a handle as dlopen() gives, which stays open; NULL
 */
void *avt_plugin_open(const char *file, int mode, const char **why);

#endif
