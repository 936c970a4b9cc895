/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames that stay on the GPU (AvatarLook.on_device), read as FFmpeg reads them: by the driver, in a context of the program's own, into rows
 * with a pitch. They are the bytes of those that go to the host, and whole when they are handed out; repeated ones (late=repeat) too.
 *
 *   frames [--tiny] [--careless] [--model DIR] [--devices LIST] [--plan WORD] [--vae-device NAME] [--vae-split N]
 *
 * --tiny: the model of random weights beside the tests, not nano. --careless waits for no copy before the next frame is asked for, which is
 * wrong: the emulated GPU says so.
 *
 * Linked with libavatar.so, so that one program serves a card and the emulated GPU (LD_LIBRARY_PATH=build/simt/lib: the driver too).
 */
#include <cuda.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "avatar.h"

#define FRAME_SAMPLES (AVATAR_SAMPLE_RATE / AVATAR_FPS)

enum { BLOCK = 12, LATE_SOUND = 106240, LATE_FRAMES = LATE_SOUND / FRAME_SAMPLES };   // frames of a block; 13.8 blocks of sound
enum { SIDE = 96, PITCH = 512, PLANE = PITCH * SIDE, FRAME = 3 * SIDE * SIDE };    // of the largest frame; bytes of a plane with its pitch

static struct {                         // what is asked of the driver, by the names that FFmpeg loads
    CUresult (*init)(unsigned);
    CUresult (*create)(CUcontext *, unsigned, CUdevice);
    CUresult (*destroy)(CUcontext);
    CUresult (*alloc)(CUdeviceptr *, size_t);
    CUresult (*free)(CUdeviceptr);
    CUresult (*copy)(const CUDA_MEMCPY2D *, CUstream);
    CUresult (*sync)(CUstream);
} driver;

static CUdeviceptr own;                 // our context's memory for a frame

static void check(int ok, const char *what)
{
    if (ok)
        return;
    printf("FAIL %s\n0 passed, 1 failed\n", what);
    exit(1);
}

static void load_driver(void)
{
    static const char *const names[] = { "cuInit", "cuCtxCreate_v2", "cuCtxDestroy_v2", "cuMemAlloc_v2", "cuMemFree_v2", "cuMemcpy2DAsync_v2",
                                         "cuStreamSynchronize" };
    void *lib = dlopen("libcuda.so.1", RTLD_NOW), **f = (void **)&driver;

    check(lib != NULL, "libcuda.so.1 is not there: no driver");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        check((f[i] = dlsym(lib, names[i])) != NULL, names[i]);
}

static int plane_height(const AvatarFrame *f, int k)
{
    return k && (f->format == AVATAR_YUV420P || f->format == AVATAR_NV12) ? f->height / 2 : f->height;
}

/* From the library's context to ours; nobody has waited for it yet. */
static void take(const AvatarFrame *f)
{
    for (int k = 0; k < 3 && f->data[k]; k++) {
        const CUDA_MEMCPY2D c = { .srcMemoryType = CU_MEMORYTYPE_UNIFIED, .srcDevice = (CUdeviceptr)f->data[k], .srcPitch = (size_t)f->linesize[k],
                                  .dstMemoryType = CU_MEMORYTYPE_UNIFIED, .dstDevice = own + (CUdeviceptr)k * PLANE, .dstPitch = PITCH,
                                  .WidthInBytes = (size_t)f->linesize[k], .Height = (size_t)plane_height(f, k) };

        check(!driver.copy(&c, NULL), "a plane is not copied from context to context");
    }
}

/* The planes of a frame, without what is between rows. */
static void frame_bytes(uint8_t *out, const AvatarFrame *f, int on_device)
{
    if (on_device)
        take(f);
    for (int k = 0; k < 3 && f->data[k]; k++) {
        const size_t width = (size_t)f->linesize[k], height = (size_t)plane_height(f, k);
        const CUDA_MEMCPY2D c = { .srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = own + (CUdeviceptr)k * PLANE, .srcPitch = PITCH,
                                  .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = out, .dstPitch = width, .WidthInBytes = width, .Height = height };

        if (on_device)
            check(!driver.copy(&c, NULL) && !driver.sync(NULL), "a plane does not come to the host");
        else
            memcpy(out, f->data[k], width * height);
        out += width * height;
    }
}

static float *make_sound(int nb_samples)
{
    float *pcm = malloc(sizeof(*pcm) * (size_t)nb_samples);

    for (int i = 0; i < nb_samples; i++)
        pcm[i] = 0.3f * sinf((float)i * 0.05f) * sinf((float)i * 0.0007f);
    return pcm;
}

static AvatarSession *open_session(AvatarEngine *e, const AvatarLook *look, int nb)
{
    float *pcm = make_sound(nb * FRAME_SAMPLES);
    AvatarSession *s = NULL;

    check(!avatar_session_open(&s, e, look), "no session");
    check(!avatar_session_send(s, pcm, (int64_t)nb * FRAME_SAMPLES) && !avatar_session_send(s, NULL, 0), "the sound is not taken");
    free(pcm);
    return s;
}

static uint8_t *film(AvatarEngine *e, AvatarLook look, int nb, int on_device)
{
    uint8_t *out = calloc((size_t)nb, FRAME);
    AvatarSession *s;
    AvatarFrame f;

    look.on_device = on_device;
    s = open_session(e, &look, nb);
    for (int i = 0; i < nb; i++) {
        check(!avatar_session_receive(s, &f, AVATAR_WAIT) && f.index == i && f.width <= SIDE && f.height <= SIDE, "a frame is missing");
        frame_bytes(out + (size_t)i * FRAME, &f, on_device);
    }
    check(avatar_session_receive(s, &f, AVATAR_WAIT) == AVATAR_EOF, "there is more than the frames");
    avatar_session_close(&s);
    return out;
}

static void compare(AvatarEngine *e, const AvatarLook *look, int nb)
{
    uint8_t *host = film(e, *look, nb, 0), *device = film(e, *look, nb, 1);

    check(!memcmp(host, device, (size_t)nb * FRAME), "frames on the GPU are others than in the host's memory");
    printf("ok   %d frames of %dx%d in format %d\n", nb, look->out_width, look->out_height, look->format);
    free(host);
    free(device);
}

/* The frames that there are until `end`. @return how many of them are the one before once more, which is the first block's last */
static int take_late(uint8_t *out, AvatarSession *s, int on_device, int end)
{
    int repeated = 0, ret;
    AvatarFrame f;

    while (!(ret = avatar_session_receive(s, &f, AVATAR_WAIT))) {
        check(f.index < LATE_FRAMES, "there are more frames than sound");
        frame_bytes(out + (size_t)f.index * FRAME, &f, on_device);
        check(!f.repeated || !memcmp(out + (size_t)f.index * FRAME, out + (BLOCK - 1) * FRAME, FRAME), "a repeated frame is another one");
        repeated += f.repeated;
    }
    check(ret == end, "the stream is not where it should be");
    return repeated;
}

/* Sound that runs ahead after the first block: 11 blocks are left out, one frame stands for them. */
static uint8_t *late_film(AvatarEngine *e, AvatarLook look, int on_device)
{
    const int first = BLOCK * FRAME_SAMPLES + 160 * AVATAR_SAMPLE_RATE / 1000;
    uint8_t *out = calloc(LATE_FRAMES, FRAME);
    float *pcm = make_sound(LATE_SOUND);
    AvatarSession *s = NULL;

    look.mode = AVATAR_LIVE;
    look.late = AVATAR_LATE_REPEAT;
    look.max_late_ms = 1000;
    look.on_device = on_device;
    check(!avatar_session_open(&s, e, &look) && !avatar_session_send(s, pcm, first), "no live session");
    check(!take_late(out, s, on_device, AVATAR_EAGAIN), "the first block is repeated");
    check(!avatar_session_send(s, pcm + first, LATE_SOUND - first), "the sound is not taken");
    check(take_late(out, s, on_device, AVATAR_EAGAIN) == 11 * BLOCK && !avatar_session_send(s, NULL, 0), "11 blocks are not left out");
    take_late(out, s, on_device, AVATAR_EOF);
    avatar_session_close(&s);
    free(pcm);
    return out;
}

static void compare_late(AvatarEngine *e, const AvatarLook *look)
{
    uint8_t *host = late_film(e, *look, 0), *device = late_film(e, *look, 1);

    check(!memcmp(host, device, (size_t)LATE_FRAMES * FRAME), "repeated frames on the GPU are others than in the host's memory");
    printf("ok   %d frames of a stream that is late, %d of them repeated\n", LATE_FRAMES, 11 * BLOCK);
    free(host);
    free(device);
}

static void read_without_waiting(AvatarEngine *e, AvatarLook look)
{
    AvatarSession *s;
    AvatarFrame f;

    look.on_device = 1;
    s = open_session(e, &look, 37);                                 // a block more than the session's queue has places
    while (!avatar_session_receive(s, &f, AVATAR_WAIT))
        take(&f);
    avatar_session_close(&s);
}

/* The options, into *opt. @return --careless */
static int read_options(AvatarOptions *opt, int argc, char **argv)
{
    static char tiny[4096];
    const struct {
        const char *name, **value;
    } words[] = { { "--devices", &opt->devices }, { "--plan", &opt->plan }, { "--vae-device", &opt->vae_device }, { "--model", &opt->model } };
    int careless = 0;

    for (int i = 1; i < argc; i++) {
        careless |= !strcmp(argv[i], "--careless");
        if (!strcmp(argv[i], "--tiny")) {
            snprintf(tiny, sizeof(tiny), "%.*s../tiny", (int)(strrchr(argv[0], '/') + 1 - argv[0]), argv[0]);
            opt->model = tiny;
        }
        for (int k = 0; k < 4 && i + 1 < argc; k++)
            if (!strcmp(argv[i], words[k].name))
                *words[k].value = argv[i + 1];
        if (!strcmp(argv[i], "--vae-split") && i + 1 < argc)
            opt->vae_split = atoi(argv[i + 1]);
    }
    return careless;
}

static void log_line(void *opaque, int level, const char *text)
{
    (void)opaque;
    if (level <= AVATAR_LOG_WARNING)
        fprintf(stderr, "%s\n", text);
}

int main(int argc, char **argv)
{
    static uint8_t rgb[64 * 64 * 3];
    int careless, device;
    AvatarOptions opt;
    AvatarLook look;
    AvatarEngine *e = NULL;
    CUcontext context;

    avatar_options_default(&opt);
    opt.devices = "cuda0";
    opt.steps = 1;
    opt.log = log_line;
    careless = read_options(&opt, argc, argv);
    for (size_t i = 0; i < sizeof(rgb); i++)
        rgb[i] = (uint8_t)(i * 7 + i / 192 * 3);
    avatar_look_default(&look);
    look.rgb = rgb;
    look.width = look.height = look.out_width = look.out_height = 64;
    look.seed = 5;
    check(!avatar_engine_open(&e, &opt), "no engine");
    device = avatar_engine_device(e);
    check(device >= 0, "no GPU decodes");
    load_driver();
    check(!driver.init(0) && !driver.create(&context, 0, device) && !driver.alloc(&own, 3 * PLANE), "no context of our own");
    if (careless)
        read_without_waiting(e, look);
    if (!careless && !opt.plan) {
        compare(e, &look, 38);                                      // more blocks than the session's queue has places
        compare_late(e, &look);
    }
    look.format = AVATAR_NV12;
    look.out_width = look.out_height = 80;
    if (!careless)
        compare(e, &look, 2);
    driver.free(own);
    driver.destroy(context);
    avatar_engine_close(&e);
    avatar_engine_flush();
    printf("1 passed, 0 failed\n");
    return 0;
}
