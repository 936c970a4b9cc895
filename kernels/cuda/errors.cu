/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a call of CUDA, cuBLASLt or cuDNN answers, as one sentence and a code of the backend's.
 *
 * Trap: an error that does not stick is told once, to whoever asks next, and may be a library: cudaGetLastError() takes it away.
 */
#include "cuda/cuda.h"

/* What leaves the context useless: later calls fail as well, whatever they are. */
static int is_lost(cudaError_t e)
{
    switch (e) {
    case cudaErrorDevicesUnavailable: case cudaErrorECCUncorrectable: case cudaErrorNvlinkUncorrectable: case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout: case cudaErrorIllegalAddress: case cudaErrorMisalignedAddress: case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace: case cudaErrorInvalidPc: case cudaErrorHardwareStackError: case cudaErrorAssert:
    case cudaErrorContextIsDestroyed: case cudaErrorDeviceUninitialized: case cudaErrorExternalDevice: case cudaErrorUnknown:
        return 1;
    default:
        return 0;
    }
}

int avt_cuda_check(Backend *be, cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return 0;
    cudaGetLastError();                                             // what does not stick is told once
    if (e == cudaErrorMemoryAllocation) {
        avt_backend_fail(be, AVT_ERR(ENOMEM), "%s: no memory for %s; choose a smaller size=, more devices=, or end what else runs on it", be->device,
                         what);
        return AVT_ERR(ENOMEM);
    }
    if (is_lost(e)) {
        avt_backend_fail(be, AVT_ERR(EIO), "%s: %s: the device is lost (%s); look for Xid in the kernel's log (dmesg) and start the program again",
                         be->device, what, cudaGetErrorString(e));
        return AVT_ERR(EIO);
    }
    avt_backend_fail(be, AVT_ERR(EINVAL), "%s: %s: %s", be->device, what, cudaGetErrorString(e));
    return AVT_ERR(EINVAL);
}

int avt_cuda_check_lt(Backend *be, cublasStatus_t e, const char *what)
{
    const int code = e == CUBLAS_STATUS_ALLOC_FAILED ? AVT_ERR(ENOMEM) : e == CUBLAS_STATUS_EXECUTION_FAILED ? AVT_ERR(EIO) : AVT_ERR(EINVAL);

    if (e == CUBLAS_STATUS_SUCCESS)
        return 0;
    avt_backend_fail(be, code, "%s: %s: cuBLASLt says %s", be->device, what, cublasLtGetStatusString(e));
    return code;
}

int avt_cuda_check_dnn(Backend *be, cudnnStatus_t e, const char *what)
{
    const int code = e == CUDNN_STATUS_ALLOC_FAILED ? AVT_ERR(ENOMEM) : CUDNN_STATUS_CATEGORY(e) == CUDNN_STATUS_EXECUTION_FAILED ? AVT_ERR(EIO)
                                                                                                                         : AVT_ERR(EINVAL);

    if (e == CUDNN_STATUS_SUCCESS)
        return 0;
    avt_backend_fail(be, code, "%s: %s: cuDNN says %s", be->device, what, cudnnGetErrorString(e));
    return code;
}

int avt_cuda_is_done(Backend *be, cudaEvent_t event, const char *what)
{
    const cudaError_t e = cudaEventQuery(event);

    if (e != cudaErrorNotReady)
        return e == cudaSuccess ? 1 : avt_cuda_check(be, e, what);
    cudaGetLastError();
    return 0;
}
