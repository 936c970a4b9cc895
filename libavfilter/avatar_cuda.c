/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Frames of the avatar filter on the GPU. See avatar_cuda.h.
 *
 * The library's frame lies in the GPU's primary context, FFmpeg's in the one of its device, which by default is another: -init_hw_device
 * cuda makes one of its own. Within a process an address means the same in both, so a copy that says "unified" goes from one to the other.
 * The driver is FFmpeg's, loaded when the program runs; there is no other code of CUDA's here.
 */

#include "config.h"

#include "libavutil/buffer.h"
#include "libavutil/frame.h"
#include "libavutil/hwcontext.h"
#include "libavutil/log.h"
#include "libavutil/pixdesc.h"
#if CONFIG_CUDA
#include "libavutil/cuda_check.h"
#include "libavutil/hwcontext_cuda_internal.h"
#endif

#include "avatar_cuda.h"
#include "avfilter.h"

#if CONFIG_CUDA

#define CHECK(x)         FF_CUDA_CHECK_DL(ctx, cu, x)
#define MEMORY_UNIFIED   ((CUmemorytype)4)       ///< CU_MEMORYTYPE_UNIFIED, which FFmpeg's headers leave out

int ff_avatar_cuda_check(AVFilterContext *ctx)
{
    return 0;
}

static AVCUDADeviceContext *cuda_of(const AVBufferRef *device)
{
    return ((AVHWDeviceContext *)device->data)->hwctx;
}

/* The GPU of a device, as the driver counts. */
static int index_of(AVFilterContext *ctx, const AVBufferRef *device, int *index)
{
    const AVCUDADeviceContext *hw = cuda_of(device);
    CudaFunctions *cu = hw->internal->cuda_dl;
    CUcontext popped;
    CUdevice dev = 0;
    int ret = CHECK(cu->cuCtxPushCurrent(hw->cuda_ctx));

    if (ret < 0)
        return ret;
    ret = CHECK(cu->cuCtxGetDevice(&dev));
    CHECK(cu->cuCtxPopCurrent(&popped));
    *index = dev;
    return ret;
}

/* What -filter_hw_device, or the only -init_hw_device, has given the filter: is it a device that the frames can be on? */
static int check_given(AVFilterContext *ctx, int device)
{
    const enum AVHWDeviceType type = ((AVHWDeviceContext *)ctx->hw_device_ctx->data)->type;
    int index, ret;

    if (type != AV_HWDEVICE_TYPE_CUDA) {
        av_log(ctx, AV_LOG_ERROR, "format=cuda: the filter's device is %s; give it -init_hw_device cuda=g:%d -filter_hw_device g\n",
               av_hwdevice_get_type_name(type), device);
        return AVERROR(EINVAL);
    }
    if ((ret = index_of(ctx, ctx->hw_device_ctx, &index)) < 0 || index == device)
        return ret;
    av_log(ctx, AV_LOG_ERROR, "format=cuda: the filter's device is GPU %d, and pictures are decoded on cuda%d; set vae_device=cuda%d, or "
           "-init_hw_device cuda=g:%d -filter_hw_device g\n", index, device, index, device);
    return AVERROR(EINVAL);
}

/* The primary context is the library's own; another one is made where it was opened in a way that FFmpeg does not want. */
static int make_device(AVFilterContext *ctx, AVBufferRef **made, int device)
{
    char name[16];

    snprintf(name, sizeof(name), "%d", device);
    if (av_hwdevice_ctx_create(made, AV_HWDEVICE_TYPE_CUDA, name, NULL, AV_CUDA_USE_PRIMARY_CONTEXT) >= 0)
        return 0;
    av_log(ctx, AV_LOG_VERBOSE, "GPU %d gets a context of FFmpeg's own\n", device);
    return av_hwdevice_ctx_create(made, AV_HWDEVICE_TYPE_CUDA, name, NULL, 0);
}

int ff_avatar_cuda_frames(AVFilterContext *ctx, AVBufferRef **frames, int device, int sw_format, int w, int h)
{
    AVBufferRef *on = NULL;
    AVHWFramesContext *hw;
    int ret;

    if (!ctx->hw_device_ctx)
        ret = make_device(ctx, &on, device);
    else if ((ret = check_given(ctx, device)) >= 0 && !(on = av_buffer_ref(ctx->hw_device_ctx)))
        ret = AVERROR(ENOMEM);
    if (ret < 0)
        return ret;
    *frames = av_hwframe_ctx_alloc(on);
    av_buffer_unref(&on);
    if (!*frames)
        return AVERROR(ENOMEM);
    hw            = (AVHWFramesContext *)(*frames)->data;
    hw->format    = AV_PIX_FMT_CUDA;
    hw->sw_format = sw_format;
    hw->width     = w;
    hw->height    = h;
    if ((ret = av_hwframe_ctx_init(*frames)) < 0)
        av_buffer_unref(frames);
    return ret;
}

/* Frames on a GPU have rows with a pitch of their own, and U behind V in yuv420p: by plane. */
static int copy_plane(AVFilterContext *ctx, const AVCUDADeviceContext *hw, AVFrame *out, const AvatarFrame *in, int plane, int shift)
{
    CudaFunctions *cu = hw->internal->cuda_dl;
    const CUDA_MEMCPY2D copy = {
        .srcMemoryType = MEMORY_UNIFIED,
        .srcDevice     = (CUdeviceptr)in->data[plane],
        .srcPitch      = in->linesize[plane],
        .dstMemoryType = MEMORY_UNIFIED,
        .dstDevice     = (CUdeviceptr)out->data[plane],
        .dstPitch      = out->linesize[plane],
        .WidthInBytes  = in->linesize[plane],
        .Height        = in->height >> shift,
    };

    return CHECK(cu->cuMemcpy2DAsync(&copy, hw->stream));
}

int ff_avatar_cuda_copy(AVFilterContext *ctx, AVFrame *out, const AvatarFrame *in)
{
    const AVHWFramesContext *frames = (AVHWFramesContext *)out->hw_frames_ctx->data;
    const AVCUDADeviceContext *hw = cuda_of(frames->device_ref);
    CudaFunctions *cu = hw->internal->cuda_dl;
    CUcontext popped;
    int i, ret, shift_w, shift_h;

    if ((ret = av_pix_fmt_get_chroma_sub_sample(frames->sw_format, &shift_w, &shift_h)) < 0 ||
        (ret = CHECK(cu->cuCtxPushCurrent(hw->cuda_ctx))) < 0)
        return ret;
    for (i = 0; i < FF_ARRAY_ELEMS(in->data) && in->data[i] && ret >= 0; i++)
        ret = copy_plane(ctx, hw, out, in, i, i ? shift_h : 0);
    if (ret >= 0)
        ret = CHECK(cu->cuStreamSynchronize(hw->stream));       // the library's memory is its own again behind the next receive
    CHECK(cu->cuCtxPopCurrent(&popped));
    return ret;
}

#else

int ff_avatar_cuda_check(AVFilterContext *ctx)
{
    av_log(ctx, AV_LOG_ERROR, "format=cuda: this FFmpeg was built without CUDA; build it with --enable-ffnvcodec and the headers of "
           "nv-codec-headers (Debian: libffmpeg-nvenc-dev), or take another format\n");
    return AVERROR(ENOSYS);
}

int ff_avatar_cuda_frames(AVFilterContext *ctx, AVBufferRef **frames, int device, int sw_format, int w, int h)
{
    return ff_avatar_cuda_check(ctx);
}

int ff_avatar_cuda_copy(AVFilterContext *ctx, AVFrame *out, const AvatarFrame *in)
{
    return ff_avatar_cuda_check(ctx);
}

#endif
