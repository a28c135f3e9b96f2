/* A CUDA runtime without a GPU: one device whose memory is the host's. Kernels cannot be launched: device.py computes. */

#include <stdlib.h>
#include <string.h>

static long next_handle = 4096;

static void *memory(size_t bytes) { return aligned_alloc(512, (bytes + 511) / 512 * 512); }

int cudaGetDeviceCount(int *count) { return *count = 1, 0; }
int cudaGetDevice(int *device) { return *device = 0, 0; }
int cudaSetDevice(int device) { return 0; }
int cudaDriverGetVersion(int *version) { return *version = 13000, 0; }
int cudaRuntimeGetVersion(int *version) { return *version = 13000, 0; }
int cudaMemGetInfo(size_t *left, size_t *total) { return *left = 6UL << 30, *total = 8UL << 30, 0; }

/* The fields that PyTorch asks for, at their places in cudaDeviceProp of CUDA 12 and 13. */
int cudaGetDeviceProperties(char *properties, int device) {
    memset(properties, 0, 800);
    strcpy(properties, "fake GPU");
    *(size_t *)(properties + 288) = 8UL << 30; /* totalGlobalMem */
    *(int *)(properties + 308) = 32;           /* warpSize */
    *(int *)(properties + 320) = 1024;         /* maxThreadsPerBlock */
    *(int *)(properties + 360) = 8;            /* major */
    *(int *)(properties + 384) = 108;          /* multiProcessorCount of 13 */
    *(int *)(properties + 388) = 108;          /* and of 12 */
    return 0;
}
int cudaGetDeviceProperties_v2(char *properties, int device) { return cudaGetDeviceProperties(properties, device); }

int cudaMalloc(void **at, size_t bytes) { return (*at = memory(bytes)) ? 0 : 2; }
int cudaHostAlloc(void **at, size_t bytes, unsigned flags) { return (*at = memory(bytes)) ? 0 : 2; }
int cudaFree(void *at) { return free(at), 0; }
int cudaFreeHost(void *at) { return free(at), 0; }
int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) { return memcpy(to, from, bytes), 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    return memcpy(to, from, bytes), 0;
}
int cudaPointerGetAttributes(int *attributes, const void *at) { return memset(attributes, 0, 32), *attributes = 1, 0; }

int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    return *stream = (void *)(next_handle += 64), 0;
}
int cudaEventCreateWithFlags(void **event, unsigned flags) { return *event = (void *)(next_handle += 64), 0; }
int cudaEventElapsedTime(float *milliseconds, void *from, void *to) { return *milliseconds = 1, 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, 0; }
int cudaStreamIsCapturing(void *stream, int *status) { return *status = 0; }
int cudaStreamGetCaptureInfo(void *stream, int *status) { return *status = 0; }
int cudaStreamGetCaptureInfo_v2(void *stream, int *status) { return *status = 0; }

int cudaLaunchKernel() { abort(); }
int cudaLaunchKernelExC() { abort(); }

const char *cudaGetErrorString(int error) { return "an error of the fake GPU"; }
const char *cudaGetErrorName(int error) { return "fake"; }

#define NOTHING_TO_DO(name) int name() { return 0; }
NOTHING_TO_DO(cudaGetLastError)
NOTHING_TO_DO(cudaPeekAtLastError)
NOTHING_TO_DO(cudaDeviceSynchronize)
NOTHING_TO_DO(cudaEventDestroy)
NOTHING_TO_DO(cudaEventQuery)
NOTHING_TO_DO(cudaEventRecord)
NOTHING_TO_DO(cudaEventRecordWithFlags)
NOTHING_TO_DO(cudaEventSynchronize)
NOTHING_TO_DO(cudaStreamQuery)
NOTHING_TO_DO(cudaStreamSynchronize)
NOTHING_TO_DO(cudaStreamWaitEvent)
NOTHING_TO_DO(cudaStreamDestroy)
NOTHING_TO_DO(cudaThreadExchangeStreamCaptureMode)

/* Of the driver, libcuda.so.1, which is this library by another name. */
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { return *flags = 0, *active = 1, 0; }
int cuGetErrorString(int error, const char **text) { return *text = "fake", 0; }
NOTHING_TO_DO(cuCtxGetCurrent)
NOTHING_TO_DO(cuCtxSetCurrent)
NOTHING_TO_DO(cuDeviceGet)
NOTHING_TO_DO(cuDeviceGetAttribute)
NOTHING_TO_DO(cuDevicePrimaryCtxRetain)
NOTHING_TO_DO(cuFuncGetAttribute)
NOTHING_TO_DO(cuFuncSetAttribute)
NOTHING_TO_DO(cuFuncSetCacheConfig)
NOTHING_TO_DO(cuLinkAddData_v2)
NOTHING_TO_DO(cuLinkComplete)
NOTHING_TO_DO(cuLinkCreate_v2)
NOTHING_TO_DO(cuModuleGetFunction)
NOTHING_TO_DO(cuModuleLoad)
NOTHING_TO_DO(cuModuleLoadData)
NOTHING_TO_DO(cuModuleLoadDataEx)
NOTHING_TO_DO(cuModuleUnload)
NOTHING_TO_DO(cuOccupancyMaxActiveBlocksPerMultiprocessor)
NOTHING_TO_DO(cuPointerGetAttribute)
NOTHING_TO_DO(cuTensorMapEncodeTiled)
int cuLaunchKernel() { abort(); }
int cuLaunchCooperativeKernel() { abort(); }
