/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The CUDA runtime's calls about devices: how many, what they are, whether two of them reach each other's memory. */
#include <stdio.h>
#include <string.h>
#include <set>

#include "calls.h"

using namespace bed;

static std::set<std::pair<int, int>> opened_ways;                   // who reaches whose memory, by cudaDeviceEnablePeerAccess

bool bed::reaches(int device, int other)
{
    return device == other || opened_ways.count({ device, other });
}

size_t bed::most_shared()
{
    return (settings.arch == 80 ? 163 : settings.arch == 90 || settings.arch == 100 ? 227 : 99) << 10;
}

extern "C" {

/* ---- devices ------------------------------------------------------------------------------------------------------------------------------ */

cudaError_t cudaDriverGetVersion(int *v)
{
    *v = settings.driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *v)
{
    *v = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = settings.driver ? settings.devices : 0;
    return failed(!settings.driver || settings.driver < CUDART_VERSION / 1000 * 1000 ? cudaErrorInsufficientDriver : !*n ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int d)
{
    BEGIN;
    if (d < 0 || d >= settings.devices)
        return failed(cudaErrorInvalidDevice);
    device_now = d;
    return cudaSuccess;
}

cudaError_t cudaInitDevice(int d, unsigned, unsigned)
{
    BEGIN;
    return d < 0 || d >= settings.devices ? failed(cudaErrorInvalidDevice) : cudaSuccess;
}

cudaError_t cudaGetDevice(int *d)
{
    *d = device_now;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned)
{
    BEGIN;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr which, int d)
{
    if (d < 0 || d >= settings.devices)
        return failed(cudaErrorInvalidDevice);
    switch (which) {
    case cudaDevAttrComputeCapabilityMajor:         *v = settings.arch / 10; break;
    case cudaDevAttrComputeCapabilityMinor:         *v = settings.arch % 10; break;
    case cudaDevAttrMultiProcessorCount:            *v = settings.arch == 80 ? 108 : settings.arch == 90 ? 132 : 148; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:   *v = (int)most_shared(); break;
    case cudaDevAttrMaxThreadsPerBlock:             *v = 1024; break;
    case cudaDevAttrWarpSize:                       *v = 32; break;
    case cudaDevAttrL2CacheSize:                    *v = 50 << 20; break;
    case cudaDevAttrUnifiedAddressing:              *v = 1; break;
    default:
        fprintf(stderr, "simt: device attribute %d is not emulated\n", which);
        return failed(cudaErrorNotSupported);
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int d)
{
    if (d < 0 || d >= settings.devices)
        return failed(cudaErrorInvalidDevice);
    memset(p, 0, sizeof(*p));
    snprintf(p->name, sizeof(p->name), "emulated sm_%d", settings.arch);
    p->major = settings.arch / 10;
    p->minor = settings.arch % 10;
    p->totalGlobalMem = settings.memory;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->sharedMemPerBlockOptin = most_shared();
    p->unifiedAddressing = 1;
    return cudaDeviceGetAttribute(&p->multiProcessorCount, cudaDevAttrMultiProcessorCount, d);
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int d)
{
    snprintf(text, (size_t)size, "%04x:%02x:00.0", settings.host, d + 1);
    return d < 0 || d >= settings.devices ? failed(cudaErrorInvalidDevice) : cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b)
{
    if (a < 0 || b < 0 || a >= settings.devices || b >= settings.devices)
        return failed(cudaErrorInvalidDevice);
    *can = a != b && settings.peers;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int other, unsigned)
{
    BEGIN;
    if (other < 0 || other >= settings.devices || other == device_now)
        return failed(cudaErrorInvalidDevice);
    if (!settings.peers)
        return failed(cudaErrorPeerAccessUnsupported);
    return opened_ways.insert({ device_now, other }).second ? cudaSuccess : failed(cudaErrorPeerAccessAlreadyEnabled);
}

cudaError_t cudaDeviceSynchronize(void)
{
    BEGIN;
    wait_for_all(guard);
    return failed(sticky);
}

}
