/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A libcuda.so.1 for machines without a driver, on which cuDNN can be asked for plans: loading a compiled kernel "succeeds", and that is
 * all that planning wants. Every other entry point answers that there is no device; simt.mak writes their list (no_driver_rest.h).
 */
#include <cuda.h>

#undef cuGetProcAddress

static int some;                                // its address stands for any handle

CUresult cuInit(unsigned flags) { (void)flags; return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *v) { *v = 13000; return CUDA_SUCCESS; }
CUresult cuLibraryUnload(CUlibrary l) { (void)l; return CUDA_SUCCESS; }
CUresult cuLibraryGetModule(CUmodule *m, CUlibrary l) { (void)l; *m = (CUmodule)&some; return CUDA_SUCCESS; }
CUresult cuKernelGetFunction(CUfunction *f, CUkernel k) { (void)k; *f = (CUfunction)&some; return CUDA_SUCCESS; }
CUresult cuModuleLoadData(CUmodule *m, const void *p) { (void)p; *m = (CUmodule)&some; return CUDA_SUCCESS; }

CUresult cuLibraryLoadData(CUlibrary *l, const void *code, CUjit_option *o, void **v, unsigned n, CUlibraryOption *lo, void **lv, unsigned nl)
{
    (void)code, (void)o, (void)v, (void)n, (void)lo, (void)lv, (void)nl;
    *l = (CUlibrary)&some;
    return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernel(CUkernel *k, CUlibrary l, const char *name)
{
    (void)l, (void)name;
    *k = (CUkernel)&some;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name)
{
    (void)m, (void)name;
    *f = (CUfunction)&some;
    return CUDA_SUCCESS;
}

CUresult cuKernelSetAttribute(CUfunction_attribute a, int v, CUkernel k, CUdevice d)
{
    (void)a, (void)v, (void)k, (void)d;
    return CUDA_SUCCESS;
}

CUresult cuKernelGetAttribute(int *v, CUfunction_attribute a, CUkernel k, CUdevice d)
{
    (void)a, (void)k, (void)d;
    *v = 0;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v)
{
    (void)f, (void)a, (void)v;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f)
{
    (void)a, (void)f;
    *v = 0;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult e, const char **s)
{
    (void)e;
    *s = "there is no driver";
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult e, const char **s)
{
    return cuGetErrorString(e, s);
}

#include "no_driver_rest.h"
