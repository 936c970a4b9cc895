/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes by device, and devices=auto. See room.h. */
#include <stdio.h>
#include <string.h>

#include "engine/room.h"
#include "engine/sound.h"

static int on_host(const char *device)
{
    return avt_device_kind(device, strlen(device)) == DEVICE_HOST;
}

static int64_t *place_of(Room *room, const char *device)
{
    const char *name = on_host(device) ? "cpu" : device;
    int i = 0;

    while (i < room->nb && strcmp(room->place[i].device, name))
        i++;
    if (i == room->nb)
        snprintf(room->place[room->nb++].device, sizeof(room->place[0].device), "%s", name);
    return &room->place[i].bytes;
}

void avt_room_add(Room *room, const char *device, size_t bytes)
{
    *place_of(room, device) += (int64_t)bytes;
    *place_of(room, "cpu") += (int64_t)avt_device_staging(device);
}

int64_t avt_room_of(const Room *room, const char *device)
{
    for (int i = 0; i < room->nb; i++)
        if (!strcmp(room->place[i].device, on_host(device) ? "cpu" : device))
            return room->place[i].bytes;
    return 0;
}

int64_t avt_room_left(const char *device)
{
    const BackendOptions opt = { .level = CPU_PLAIN, .threads = 1, .planning = 1 };
    int64_t left = -1;
    Backend *be;

    if (on_host(device))
        return avt_host_memory_left();
    if (avt_backend_open(&be, device, &opt) >= 0)
        left = be->cls->memory_left(be);
    avt_backend_close(&be);
    return left;
}

/* In GB, or in MB what would be nothing in GB. */
static const char *bytes_text(char *buf, size_t size, int64_t bytes)
{
    const int small = bytes < 100000000;

    snprintf(buf, size, small ? "%.1f MB" : "%.2f GB", (double)bytes / (small ? 1e6 : 1e9));
    return buf;
}

int avt_room_check(const Room *room, const char *who, const char *remedy, const Log *log)
{
    for (int i = 0; i < room->nb; i++) {
        const char *device = room->place[i].device;
        const int64_t left = avt_room_left(device);
        char takes[32], has[32];

        if (left >= 0 && room->place[i].bytes > left)
            return avt_fail(log, AVT_ERR(ENOMEM), "%s %s of %s%s, %s are free; %s", who, bytes_text(takes, sizeof(takes), room->place[i].bytes),
                            on_host(device) ? "host" : device, on_host(device) ? " memory" : "'s memory", bytes_text(has, sizeof(has), left), remedy);
    }
    return 0;
}

/* ---- devices=auto ------------------------------------------------------------------------------------------------------------ */

/* All that a session of the model's own size takes under a plan, of the host as well. */
static int measure(Room *room, const Plan *plan, const PlanSizes *sizes, const BackendOptions *opt)
{
    const FrontSetup front = { .sizes = sizes, .samples = avt_sound_piece(0, 0), .tokens = sizes->dit.text_len, .log = opt->log };
    RankSetup set = { .plan = plan, .format = PIX_YUV420P, .text_len = sizes->dit.text_len, .log = opt->log,
                      .shape = avt_dit_shape(sizes->height / 8, sizes->width / 8) };
    PlanMemory m;
    int ret = avt_schedule(&set.schedule, plan->steps, 3);

    *room = (Room){ .nb = 0 };
    if (ret >= 0)
        ret = avt_front_measure(&m, &front, plan->front_device, opt, NULL);
    if (ret >= 0)
        avt_room_add(room, plan->front_device, avt_plan_sum(&m));
    for (int r = 0; r < plan->nb_ranks && ret >= 0; r++) {
        ret = avt_rank_measure(&m, &set, r, sizes, opt, NULL, NULL);
        if (ret >= 0) {
            avt_room_add(room, plan->rank[r].device, avt_plan_sum(&m));
            avt_room_add(room, "cpu", m.host + m.rings);
        }
    }
    return ret;
}

/* Does a plan over the devices of `list`, with `free` bytes each, fit? 1, 0 (`why` says why), or an error. */
static int fits(const char *list, const double *free, char *why, size_t size, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *opt)
{
    PlanOptions on = *o;
    BackendOptions quiet = *opt;
    Room room;
    Plan plan;
    int ret;

    on.devices = list;
    on.room = free;
    quiet.log = NULL;
    snprintf(why, size, "this plan= and vae_device= do not go with %s", list);
    if (avt_plan_make(&plan, &on, NULL) < 0)
        return 0;
    quiet.act = avt_plan_act(&plan, opt->level, NULL);
    ret = avt_rank_plan(&plan, &on, sizes, &quiet);
    if (ret >= 0)
        ret = measure(&room, &plan, sizes, &quiet);
    for (int i = 0; i < room.nb && ret >= 0; i++) {
        const int64_t left = avt_room_left(room.place[i].device), want = room.place[i].bytes + (on_host(room.place[i].device) ? 0 : ROOM_MARGIN);

        if (left >= 0 && want <= left)
            continue;
        snprintf(why, size, "%dx%d takes %.1f GB of %s, which has %.1f GB free", sizes->width, sizes->height, (double)want / 1e9,
                 room.place[i].device, (double)(left > 0 ? left : 0) / 1e9);
        return 0;
    }
    return ret < 0 ? ret : 1;
}

static int64_t device_left(int index)
{
    char device[32];

    snprintf(device, sizeof(device), "cuda%d", index);
    return avt_room_left(device);
}

/* The fewest of the GPUs found that hold it. @return 1, 0 or an error */
static int fewest(char *list, size_t size, char *why, size_t why_size, const int *index, int found, const PlanOptions *o, const PlanSizes *sizes,
                  const BackendOptions *opt)
{
    double free[PLAN_MAX_RANKS] = { 0 };
    size_t n = 0;
    int ret = 0;

    for (int i = 0; i < found && ret == 0; i++) {
        n += (size_t)snprintf(list + n, size - n, "%scuda%d", i ? "|" : "", index[i]);
        if (n >= size)
            break;
        free[i] = (double)(device_left(index[i]) - ROOM_MARGIN);
        free[i] = free[i] > 0 ? free[i] : 1;
        ret = fits(list, free, why, why_size, o, sizes, opt);
    }
    return ret;
}

int avt_room_devices(char *list, size_t size, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *opt)
{
    int index[16], ret = 0;
    const int found = avt_devices_found(index, 16, opt->log);
    char why[160] = "";
    PlanOptions rung;

    for (int i = 0; ret == 0 && avt_plan_rung(&rung, o, i); i++)
        ret = fewest(list, size, why, sizeof(why), index, found, &rung, sizes, opt);
    if (ret > 0 && found > 1)
        avt_log(opt->log, LOG_INFO, "devices=auto: %s, which hold the model, of %d GPUs; name more of them for a faster film", list, found);
    if (ret > 0)
        return 0;
    snprintf(list, size, "cpu");
    if (found > 0)
        avt_log(opt->log, LOG_WARNING, "devices=auto: the CPU, as %s; a smaller size= may fit", why);
    return ret;
}
