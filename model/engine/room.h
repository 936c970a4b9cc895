/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Room: bytes that a plan takes of each device, against what the devices have left; and which devices `auto` means.
 */
#ifndef AVT_ROOM_H
#define AVT_ROOM_H

#include "engine/front.h"
#include "engine/rank.h"

#define ROOM_MARGIN (1ll << 30)         // of a GPU, left to what cannot be planned: the kernels of the libraries, a display

typedef struct Room {
    int nb;
    struct {
        char device[32];                // "cpu" stands for all that lie in the host's memory
        int64_t bytes;
    } place[PLAN_MAX_RANKS + 2];
} Room;

/** Count `bytes` of the device's memory, and the host's that its queue takes besides (pinned staging). */
void avt_room_add(Room *room, const char *device, size_t bytes);
int64_t avt_room_of(const Room *room, const char *device);
/** Bytes that can be had of a device now; -1: not known, as without a driver. */
int64_t avt_room_left(const char *device);
/**
 * Is there as much of every device?
 * @param who     what takes it, and
 * @param remedy  what to do, for the sentence
 * @return 0; ENOMEM (logged) for the first device that has less
 */
int avt_room_check(const Room *room, const char *who, const char *remedy, const Log *log);

/**
 * The devices that "auto" means, joined by '|': the fewest GPUs that hold the model at sizes->width, height, with offload=auto first all of it, then
 * with layers from the host, then with all that can come; else "cpu". A line says which and, where a GPU is not taken, why.
 * @param o    `devices` and `front_device` as asked for; o->devices is not looked at
 * @return 0 or an error of the rehearsal
 */
int avt_room_devices(char *list, size_t size, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *opt);

#endif
