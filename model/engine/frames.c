/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finished blocks of frames, in the host's memory or on the GPU: see frames.h. */
#include "engine/frames.h"

#define ALIGN 64                        // of an arena's tensors

/* The planes of a format: a row has so many bytes for two pixels of width, and there is one for every `lines` of height. */
static const struct {
    int nb;
    struct {
        int bytes, lines;
    } plane[3];
} layouts[PIX_NB] = {
    [PIX_RGB24]   = { 1, { { 6, 1 } } },
    [PIX_YUV420P] = { 3, { { 2, 1 }, { 1, 2 }, { 1, 2 } } },
    [PIX_YUV444P] = { 3, { { 2, 1 }, { 2, 1 }, { 2, 1 } } },
    [PIX_NV12]    = { 2, { { 2, 1 }, { 2, 2 } } },
    [PIX_GBRP]    = { 3, { { 2, 1 }, { 2, 1 }, { 2, 1 } } },
};

static int64_t row_bytes(PixelFormat format, int plane, int64_t w)
{
    return layouts[format].plane[plane].bytes * w / 2;
}

static int64_t height(const Crew *c) { return 8 * c->set.shape.H; }
static int64_t width(const Crew *c)  { return 8 * c->set.shape.W; }

/* Bytes of so many lines of a block's frames. */
static int64_t block_bytes(const Crew *c, int64_t lines)
{
    return BLOCK_FRAMES * avt_pixels_size(c->set.format, lines, width(c));
}

/* Bytes of the largest part of a block; 0 where the VAE is one. */
static int64_t slice_bytes(const Crew *c)
{
    const int64_t parts = c->set.plan->vae_parts, lines = 8 * ((c->set.shape.H + parts - 1) / parts);

    return parts > 1 ? block_bytes(c, lines) : 0;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

const char *avt_frames_device(const Crew *c)
{
    return c->set.receiver ? c->set.receiver : "cpu";
}

static size_t aligned(int64_t bytes)
{
    return ((size_t)bytes + ALIGN - 1) / ALIGN * ALIGN;
}

size_t avt_frames_bytes(const Crew *c)
{
    return FRAME_QUEUE * aligned(block_bytes(c, height(c))) + aligned(slice_bytes(c)) + avt_crew_mailboxes(c, c->set.plan->nb_ranks);
}

int avt_frames_open(Frames *f, const Crew *c)
{
    const BackendOptions opt = avt_core_backend(c->core, 1, c->set.log);
    int ret = avt_backend_open(&f->be, avt_frames_device(c), &opt);

    f->crew = c;
    if (ret >= 0)
        ret = avt_arena_open(&f->arena, f->be, "frames", avt_frames_bytes(c));
    if (ret < 0)
        return ret;
    for (int i = 0; i < FRAME_QUEUE; i++)
        f->block[i] = avt_new(f->arena, DT_U8, BLOCK_FRAMES, block_bytes(c, height(c)) / BLOCK_FRAMES);
    f->slice = avt_new(f->arena, DT_U8, slice_bytes(c));
    ret = avt_comm_attach(avt_crew_conductor(c), f->arena);
    return ret < 0 ? ret : avt_sync(f->be);
}

void avt_frames_close(Frames *f)
{
    if (f->be)
        avt_sync(f->be);
    if (f->arena) {
        avt_comm_detach(avt_crew_conductor(f->crew));
        avt_arena_close(&f->arena);
    }
    avt_backend_close(&f->be);
}

/* ---- from the ranks ------------------------------------------------------------------------------------------------------ */

static Tensor bytes_of(Tensor t, int64_t first, int64_t nb)
{
    return avt_rows(avt_view(t, avt_numel(t)), first, nb);
}

static int recv(Frames *f, int part, Tensor t)
{
    return avt_comm_recv(avt_crew_conductor(f->crew), f->be, f->crew->set.plan->vae_rank + part, TAG_FRAMES, t);
}

/* A part's lines from `first` on, frame by frame and plane by plane, into those of whole frames. */
static void place_lines(Frames *f, Tensor block, Tensor slice, int64_t first, int64_t lines)
{
    const PixelFormat format = f->crew->set.format;
    int64_t to = 0, from = 0;

    for (int i = 0; i < BLOCK_FRAMES; i++)
        for (int k = 0; k < layouts[format].nb; k++) {
            const int64_t row = row_bytes(format, k, width(f->crew)), each = layouts[format].plane[k].lines, nb = lines / each * row;

            avt_copy(f->be, bytes_of(block, to + first / each * row, nb), bytes_of(slice, from, nb));
            to += height(f->crew) / each * row;
            from += nb;
        }
}

static int take_part(Frames *f, Tensor block, const Team *team, int part)
{
    const Crew *c = f->crew;
    const int64_t first = 8 * avt_team_first(team, c->set.shape.H, part), lines = 8 * avt_team_share(team, c->set.shape.H, part);
    const Tensor slice = bytes_of(f->slice, 0, block_bytes(c, lines));
    const int ret = recv(f, part, slice);

    if (ret >= 0)
        place_lines(f, block, slice, first, lines);
    return ret;
}

int avt_frames_take(Frames *f, int place)
{
    const Team team = { .nb = f->crew->set.plan->vae_parts };
    int ret = 0;

    for (int i = 0; i < team.nb && ret >= 0; i++)
        ret = team.nb > 1 ? take_part(f, f->block[place], &team, i) : recv(f, i, f->block[place]);
    return ret < 0 ? ret : avt_sync(f->be);
}

int avt_frames_repeat(Frames *f, int place, int from, int at)
{
    avt_copy(f->be, avt_at(f->block[place], 0), avt_at(f->block[from], at));
    return avt_sync(f->be);
}

/* ---- to the caller -------------------------------------------------------------------------------------------------------- */

void avt_frames_describe(const Frames *f, AvatarFrame *out, int place, int at)
{
    const PixelFormat format = f->crew->set.format;
    const uint8_t *p = avt_at(f->block[place], at).data;

    out->width = (int)width(f->crew);
    out->height = (int)height(f->crew);
    for (int k = 0; k < layouts[format].nb; k++) {
        out->linesize[k] = (int)row_bytes(format, k, out->width);
        out->data[k] = p;
        p += out->height / layouts[format].plane[k].lines * (int64_t)out->linesize[k];
    }
}
