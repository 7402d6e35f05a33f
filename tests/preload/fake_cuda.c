/* libcuda.so.1 for machines without a GPU: one device with host memory, whose kernels only tell that they are
 * launched. It shows that the driver is called as it wants to be; what kernels compute, the simulator shows. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int status;

/* numbers of CUresult, CUdevice_attribute and CUpointer_attribute */
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200 };
enum { INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500 };
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };
enum { MEMORY_TYPE = 2, DEVICE_ORDINAL = 9 };

enum { MEMORY = 1 << 24, ALIGNMENT = 256, LAST_STREAM = 2 };

static int the_context, depth;
static size_t used;
#define CONTEXT ((void *)&the_context)

static status in_context(void) { return depth > 0 ? OK : INVALID_CONTEXT; }

static status on_stream(void *stream) {
    return (uintptr_t)stream > LAST_STREAM ? INVALID_HANDLE : in_context();
}

status cuInit(unsigned flags) { return flags ? INVALID_VALUE : OK; }

status cuDriverGetVersion(int *version) {
    *version = 13000;
    return OK;
}

status cuGetErrorName(status error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_HANDLE";
    return OK;
}

status cuGetErrorString(status error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : "invalid resource handle";
    return OK;
}

/* ---- The device ------------------------------------------------------------------------------------- */

status cuDeviceGetCount(int *count) {
    *count = 1;
    return OK;
}

status cuDeviceGet(int *device, int number) {
    *device = number;
    return number ? INVALID_DEVICE : OK;
}

status cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, (size_t)length, "Fake GPU %d", device);
    return OK;
}

status cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == CAPABILITY_MAJOR ? 9 : attribute == CAPABILITY_MINOR ? 0 : 1;
    return device ? INVALID_DEVICE : OK;
}

/* ---- Its context ------------------------------------------------------------------------------------ */

status cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = CONTEXT;
    return device ? INVALID_DEVICE : OK;
}

status cuCtxPushCurrent_v2(void *context) {
    depth++;
    return context == CONTEXT ? OK : INVALID_CONTEXT;
}

status cuCtxPopCurrent_v2(void **context) {
    if (context) *context = CONTEXT;
    return depth-- > 0 ? OK : INVALID_CONTEXT;
}

status cuCtxGetCurrent(void **context) {
    *context = depth > 0 ? CONTEXT : NULL;
    return OK;
}

status cuCtxGetDevice(int *device) {
    *device = 0;
    return in_context();
}

status cuCtxSynchronize(void) { return in_context(); }

/* ---- Its memory ------------------------------------------------------------------------------------- */

status cuMemGetInfo_v2(size_t *available, size_t *total) {
    *available = MEMORY - used;
    *total = MEMORY;
    return in_context();
}

status cuMemAlloc_v2(uint64_t *pointer, size_t size) {
    const size_t whole = (size + 2 * ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (in_context()) return in_context();
    if (used + size > MEMORY) return OUT_OF_MEMORY;
    size_t *memory = aligned_alloc(ALIGNMENT, whole);
    if (!memory) return OUT_OF_MEMORY;
    used += *memory = size;
    *pointer = (uint64_t)memory + ALIGNMENT;
    return OK;
}

status cuMemFree_v2(uint64_t pointer) {
    size_t *memory = (size_t *)(pointer - ALIGNMENT);
    used -= *memory;
    free(memory);
    return in_context();
}

status cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *stream) {
    memcpy((void *)to, from, n);
    return on_stream(stream);
}

status cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *stream) {
    memcpy(to, (void *)from, n);
    return on_stream(stream);
}

status cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void *stream) {
    memcpy((void *)to, (void *)from, n);
    return on_stream(stream);
}

status cuMemsetD8Async(uint64_t to, unsigned char value, size_t n, void *stream) {
    memset((void *)to, value, n);
    return on_stream(stream);
}

status cuPointerGetAttribute(void *value, int attribute, uint64_t pointer) {
    if (attribute != MEMORY_TYPE && attribute != DEVICE_ORDINAL) return INVALID_VALUE;
    *(int *)value = attribute == MEMORY_TYPE ? 2 : 0;
    return pointer ? OK : INVALID_VALUE;
}

/* ---- Its streams ------------------------------------------------------------------------------------ */

status cuStreamSynchronize(void *stream) { return on_stream(stream); }

status cuStreamIsCapturing(void *stream, int *state) {
    *state = 0;
    return on_stream(stream);
}

status cuThreadExchangeStreamCaptureMode(int *mode) {
    *mode = 0;
    return OK;
}

status cuStreamGetCtx(void *stream, void **context) {
    *context = CONTEXT;
    return on_stream(stream);
}

/* ---- Code: a library is its bytes, a kernel its name ------------------------------------------------ */

typedef struct launch_config {
    unsigned grid[3], block[3], shared;
    void *stream, *attributes;
    unsigned n_attributes;
} launch_config;

status cuLibraryLoadData(void **library, const void *code, void *options, void *values, unsigned n,
                         void *library_options, void *library_values, unsigned library_n) {
    (void)options, (void)values, (void)n, (void)library_options, (void)library_values, (void)library_n;
    *library = (void *)(uintptr_t)code;
    return memcmp(code, "\177ELF", 4) ? INVALID_IMAGE : OK;
}

status cuLibraryUnload(void *library) { return library ? OK : INVALID_VALUE; }

status cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    *kernel = strdup(name);
    return library ? OK : INVALID_VALUE;
}

status cuKernelGetFunction(void **function, void *kernel) {
    *function = kernel;
    return OK;
}

status cuLaunchKernelEx(const launch_config *how, void *function, void **arguments, void **extra) {
    (void)extra;
    if (on_stream(how->stream)) return on_stream(how->stream);
    printf("launch %s %u %u %llu\n", (char *)function, how->grid[0], how->block[0],
           *(unsigned long long *)arguments[0]);
    fflush(stdout);
    return OK;
}

/* The form that a function had in the version asked for; two have had another one since their first. */
status cuGetProcAddress_v2(const char *symbol, void **address, int version, uint64_t flags, int *found) {
    static const struct {
        const char *name;
        int since;
    } changed[] = {{"cuStreamGetCtx", 12050}, {"cuCtxGetDevice", 13000}};
    void *self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY);
    char name[128];
    int second = 1;
    (void)flags;
    for (int i = 0; i < 2; i++)
        if (!strcmp(symbol, changed[i].name)) second = version >= changed[i].since;
    snprintf(name, sizeof name, "%s_v2", symbol);
    *address = second ? dlsym(self, name) : NULL;
    if (!*address) *address = dlsym(self, symbol);
    if (found) *found = *address ? 0 : 1;
    return *address ? OK : NOT_FOUND;
}

status cuGetProcAddress(const char *symbol, void **address, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, address, version, flags, NULL);
}
