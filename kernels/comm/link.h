/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between a group of ranks (threads.h) and the processes in which others of them live (world.h).
 *
 *   send: box, as ever --Errand--> writer's thread ==socket==> reader's thread --> the same box there: recv, as ever
 *   its place is free again <================================ taken
 *
 * Both sides have the box of a route, with the same room: what is written there always finds a place here, so a reader never waits
 * for a rank, and a sender goes on as soon as its message is in the box.
 */
#ifndef AVT_LINK_H
#define AVT_LINK_H

#include "comm/threads.h"
#include "comm/world.h"

typedef struct Errand {                 // something to be written to a process; in its queue once at most
    struct Errand *next;
    Group *group;
    int box;                            // letters or takings of this box; -1: the group's failure
    int queued;
} Errand;

typedef struct Link {                   // a group's, when not all ranks live here
    World *world;
    struct Group *next;                 // of the world's groups
    uint32_t id;
    int busy;                           // readers and writers that are at it
    int told;                           // why it failed, here: another process's failure may come before what is seen here of its reason
    int nb_processes;
    char with[WORLD_MAX];               // processes with ranks of the group
    Errand *errand;                     // [nb_boxes + nb_processes]
} Link;

/** Take part in the group `opt->id` of opt->world. @return 0, ENOMEM, or (logged) the error of a process that is lost */
int  avt_link_open(Group *g, const CommOptions *opt);
/** No errand of the group is under way any more. */
void avt_link_close(Group *g);
/** There is a letter in box `i`, or one was taken out of it: tell the other process. Locks must not be held. */
void avt_link_tell(Group *g, int i);
/** The group has failed: tell all. */
void avt_link_abort(Group *g);

/* ---- for world.c, which has the threads ---- */

typedef struct Frame {                  // what goes over a socket, `size` bytes behind it
    uint32_t kind, group;
    int32_t box, count;
    uint64_t size;
} Frame;

/* LETTER: a message; SENT: the size, uint64_t, of one that goes from card to card; TAKEN: of `count` places; NAME: of a way (comm_nccl.h) */
enum { FRAME_BEAT = 0x41560001, FRAME_BYE, FRAME_TALK, FRAME_LETTER, FRAME_SENT, FRAME_TAKEN, FRAME_NAME, FRAME_ABORT };

/** Put an errand behind those of a process. */
void avt_world_queue(World *w, int process, Errand *e);
void avt_world_join(World *w, Group *g);
void avt_world_part(World *w, Group *g);
/** Write and read whole pieces. @return 0, or EPIPE when the process is gone */
int  avt_world_write(World *w, int process, const Frame *f, const void *data);
int  avt_world_read(World *w, int process, void *data, size_t size);
/** Do an errand, from a writer's thread. */
void avt_link_do(const Errand *e, int process);
/** A frame of a kind from LETTER on has come for a group; its bytes are yet to be read. @return 0, EPIPE, EINVAL: against the rules */
int  avt_link_take(Group *g, int process, const Frame *f);
/** Has the group ranks in this process, and has not failed, or not yet said why? */
int  avt_link_minds(Group *g, int process);
/** Fail the group, here and elsewhere, with a sentence if it has not failed yet. */
void avt_link_lost(Group *g, int code, const char *why);

#endif
