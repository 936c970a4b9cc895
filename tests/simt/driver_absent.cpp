/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls of the driver that FFmpeg's loader wants to find, all of them, and that nothing here makes: driver.cpp has those that are made. In a
 * file without cuda.h, as they have no arguments.
 */
#include "bed.h"

#define ABSENT(name) \
    int name(void) { bed::report("driver", "%s was called, which is not emulated", #name); return 801; }

extern "C" {

ABSENT(cuDriverGetVersion) ABSENT(cuDeviceComputeCapability) ABSENT(cuCtxSetLimit) ABSENT(cuMemAllocPitch_v2)
ABSENT(cuMemAllocManaged) ABSENT(cuMemsetD8Async) ABSENT(cuMemcpy) ABSENT(cuMemcpyAsync) ABSENT(cuMemcpy2D_v2)
ABSENT(cuMemcpyHtoD_v2) ABSENT(cuMemcpyHtoDAsync_v2) ABSENT(cuMemcpyDtoH_v2) ABSENT(cuMemcpyDtoHAsync_v2) ABSENT(cuMemcpyDtoD_v2)
ABSENT(cuMemcpyDtoDAsync_v2) ABSENT(cuDevicePrimaryCtxReset) ABSENT(cuStreamCreate) ABSENT(cuStreamQuery) ABSENT(cuStreamDestroy_v2)
ABSENT(cuStreamWaitEvent) ABSENT(cuStreamAddCallback) ABSENT(cuEventCreate) ABSENT(cuEventDestroy_v2) ABSENT(cuEventSynchronize)
ABSENT(cuEventQuery) ABSENT(cuEventRecord) ABSENT(cuLaunchKernel) ABSENT(cuLinkCreate) ABSENT(cuLinkAddData) ABSENT(cuLinkComplete)
ABSENT(cuLinkDestroy) ABSENT(cuModuleLoadData) ABSENT(cuModuleUnload) ABSENT(cuModuleGetFunction) ABSENT(cuModuleGetGlobal)
ABSENT(cuTexObjectCreate) ABSENT(cuTexObjectDestroy) ABSENT(cuGLGetDevices_v2) ABSENT(cuGraphicsGLRegisterImage)
ABSENT(cuGraphicsUnregisterResource) ABSENT(cuGraphicsMapResources) ABSENT(cuGraphicsUnmapResources)
ABSENT(cuGraphicsSubResourceGetMappedArray) ABSENT(cuGraphicsResourceGetMappedPointer_v2) ABSENT(cuArrayCreate_v2)
ABSENT(cuArray3DCreate_v2) ABSENT(cuArrayDestroy)

}
