/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames that stay on the GPU, on the emulated one: the bytes of those that go to the host, whole when they are handed out, and read as a
 * program reads them that has a context of its own, into rows with a pitch. Run in every schedule: SIMT_SCHEDULE.
 */
#include <cuda.h>

#include "control.h"
#include "e2e/take.h"

#undef cuCtxCreate

#define PITCH 512

/* What the driver's own header hides behind a newer one; FFmpeg calls these. */
CUresult cuCtxCreate_v2(CUcontext *c, unsigned flags, CUdevice d);

typedef struct Reader {                 // a program's context, and its memory for a frame
    CUcontext context;
    CUdeviceptr memory;
} Reader;

/* bytes of a plane in it; of a frame without pitch, at most */
enum { PLANE = PITCH * 128, FRAME = 3 * 128 * 128 };

static Reader reader_open(int device)
{
    Reader r;

    REQUIRE(!cuInit(0) && !cuCtxCreate_v2(&r.context, 0, device));
    REQUIRE(!cuMemAlloc(&r.memory, 3 * PLANE));
    return r;
}

static void reader_close(Reader *r)
{
    CUcontext c;

    REQUIRE(!cuMemFree(r->memory) && !cuCtxPopCurrent(&c) && c == r->context);
    REQUIRE(!cuCtxDestroy(c));
}

/* Queue the copy of a frame's planes, wherever they are, to rows of PITCH bytes. */
static void take_planes(const Reader *r, const AvatarFrame *f)
{
    for (int k = 0; k < 3 && f->data[k]; k++) {
        const int halves = k && (f->format == AVATAR_YUV420P || f->format == AVATAR_NV12);
        const CUDA_MEMCPY2D copy = { .srcMemoryType = CU_MEMORYTYPE_UNIFIED, .srcDevice = (CUdeviceptr)f->data[k], .srcPitch = (size_t)f->linesize[k],
                                     .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = r->memory + (CUdeviceptr)(k * PLANE), .dstPitch = PITCH,
                                     .WidthInBytes = (size_t)f->linesize[k], .Height = (size_t)(f->height >> halves) };

        REQUIRE(!cuMemcpy2DAsync(&copy, NULL));
    }
}

/* All planes of a frame, from the GPU by way of the reader's memory, or from the host. */
static void frame_bytes(uint8_t *out, const Reader *r, const AvatarFrame *f)
{
    if (r)
        take_planes(r, f);
    for (int k = 0; k < 3 && f->data[k]; k++) {
        const int halves = k && (f->format == AVATAR_YUV420P || f->format == AVATAR_NV12);
        const size_t width = (size_t)f->linesize[k], height = (size_t)(f->height >> halves);
        const CUDA_MEMCPY2D copy = { .srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = r ? r->memory + (CUdeviceptr)(k * PLANE) : 0, .srcPitch = PITCH,
                                     .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = out, .dstPitch = width, .WidthInBytes = width, .Height = height };

        if (r)
            REQUIRE(!cuMemcpy2DAsync(&copy, NULL) && !cuStreamSynchronize(NULL));
        else
            memcpy(out, f->data[k], width * height);
        out += width * height;
    }
}

static AvatarEngine *open_engine(const char *plan, const char *devices, const char *vae, int split)
{
    AvatarOptions opt = take_options(plan, devices, vae, NULL);
    AvatarEngine *e = NULL;

    opt.vae_split = split;
    opt.steps = 1;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    return e;
}

static AvatarSession *open_session(AvatarEngine *e, const AvatarLook *look, int64_t nb)
{
    float *pcm = take_sound(nb);
    AvatarSession *s = NULL;

    REQUIRE_OK(avatar_session_open(&s, e, look));
    REQUIRE_OK(avatar_session_send(s, pcm, nb));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    free(pcm);
    return s;
}

/* All frames of a session, one behind the other, FRAME bytes each. */
static uint8_t *take(AvatarEngine *e, const AvatarLook *look, int64_t nb, const Reader *r)
{
    uint8_t *out = calloc((size_t)nb, FRAME);
    AvatarSession *s = open_session(e, look, 640 * nb);
    AvatarFrame f;

    for (int64_t i = 0; i < nb; i++) {
        REQUIRE_OK(avatar_session_receive(s, &f, AVATAR_WAIT));
        REQUIRE(f.index == i && f.format == look->format && f.width <= 128 && f.height <= 128);
        frame_bytes(out + i * FRAME, r, &f);
    }
    assert_int_equal(avatar_session_receive(s, &f, AVATAR_WAIT), AVATAR_EOF);
    avatar_session_close(&s);
    return out;
}

/* Both homes, frame by frame: the same bytes. */
static void compare(AvatarEngine *e, AvatarLook look, int64_t nb)
{
    Reader r = reader_open(avatar_engine_device(e));
    uint8_t *host, *device;

    look.on_device = 0;
    host = take(e, &look, nb, NULL);
    look.on_device = 1;
    device = take(e, &look, nb, &r);
    for (int64_t i = 0; i < nb; i++)
        if (memcmp(host + i * FRAME, device + i * FRAME, FRAME))
            fail_msg("format %d: frame %d is another on the GPU", look.format, (int)i);
    free(host);
    free(device);
    reader_close(&r);
}

/* ---- one GPU -------------------------------------------------------------------------------------------------------------- */

static void the_bytes_of_the_host(void **state)
{
    AvatarEngine *e = open_engine("sequential", "cuda0", NULL, 0);
    AvatarLook look = take_look(0);

    (void)state;
    compare(e, look, 38);                                           // more blocks than the queue has places
    look.format = AVATAR_NV12;
    look.out_width = 80;
    look.out_height = 64;
    compare(e, look, 1);
    avatar_engine_close(&e);
}

/* The session writes a frame's memory again behind the next receive: what was queued before it and not waited for is a race. */
static void who_does_not_wait(void **state)
{
    AvatarEngine *e = open_engine("sequential", "cuda0", NULL, 0);
    AvatarLook look = take_look(0);
    Reader r = reader_open(0);
    AvatarSession *s;
    AvatarFrame f;

    (void)state;
    look.on_device = 1;
    look.format = AVATAR_NV12;
    s = open_session(e, &look, 4 * BLOCK_SAMPLES);
    while (avatar_session_receive(s, &f, AVATAR_WAIT) >= 0)
        take_planes(&r, &f);
    avatar_session_close(&s);
    assert_true(simt_errors("race-streams") > 0);
    simt_clear();
    reader_close(&r);
    avatar_engine_close(&e);
}

/* ---- several devices ------------------------------------------------------------------------------------------------------------ */

/* Decoded by the last of them, which reaches the other's memory; by both, some lines each, by way of the host. */
static void two_gpus(void **state)
{
    AvatarLook look = take_look(0);

    (void)state;
    look.out_width = 64;
    look.out_height = 80;
    for (int split = 0; split <= 2; split += 2) {
        AvatarEngine *e = open_engine("layer", "cuda0|cuda1", split ? NULL : "cuda1", split);

        if (!split)
            assert_int_equal(avatar_engine_device(e), 1);
        REQUIRE_OK(simt_set("PEERS", split ? "off" : "on"));
        look.format = split ? AVATAR_YUV420P : AVATAR_NV12;
        compare(e, look, 2);
        avatar_engine_close(&e);
        avatar_engine_flush();
    }
    REQUIRE_OK(simt_set("PEERS", "on"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bytes_of_the_host), cmocka_unit_test(who_does_not_wait), cmocka_unit_test(two_gpus),
    };

    return cmocka_run_group_tests(tests, take_setup, take_teardown);
}
