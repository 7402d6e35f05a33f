/* What a handler of XLA's foreign function interface reads from its call and answers to it, and how Python
 * gets it. */
#ifndef FASTGD_JAX_FRAME_H
#define FASTGD_JAX_FRAME_H

#include <Python.h>
#include <fenv.h>
#include <stdint.h>
#include <string.h>

#include "xla_c_api.h"

static inline XLA_FFI_Error *failed(const XLA_FFI_CallFrame *frame, const char *message) {
    XLA_FFI_Error_Create_Args args = {.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE,
                                      .message = message,
                                      .errc = XLA_FFI_Error_Code_INVALID_ARGUMENT};
    return frame->api->XLA_FFI_Error_Create(&args);
}

static inline const XLA_FFI_Buffer *argument(const XLA_FFI_CallFrame *frame, int64_t i) {
    return i < frame->args.size ? frame->args.args[i] : NULL;
}

static inline const XLA_FFI_Buffer *result(const XLA_FFI_CallFrame *frame, int64_t i) {
    return i < frame->rets.size ? frame->rets.rets[i] : NULL;
}

/* The buffer of an operand's number, from 1: first the arguments, then the results. */
static inline const XLA_FFI_Buffer *operand(const XLA_FFI_CallFrame *frame, int64_t number) {
    const int64_t i = number - 1 - frame->args.size;
    return i < 0 ? argument(frame, number - 1) : result(frame, i);
}

/* Where an array lies: an operand, and bytes from its begin. */
typedef struct place {
    int64_t operand, offset;
} place;

/* Turns the number of a place, from 1, into a pointer, and leaves NULL; whether there is such an operand. */
static inline int put(const XLA_FFI_CallFrame *frame, const place *places, void *pointer_field) {
    intptr_t number;
    memcpy(&number, pointer_field, sizeof number);
    if (!number) return 1;
    const place at = places[number - 1];
    const XLA_FFI_Buffer *b = operand(frame, at.operand);
    if (!b) return 0;
    const char *pointer = (const char *)b->data + at.offset;
    memcpy(pointer_field, &pointer, sizeof pointer);
    return 1;
}

static inline int64_t elements(const XLA_FFI_Buffer *b) {
    int64_t n = 1;
    for (int64_t i = 0; i < b->rank; i++) n *= b->dims[i];
    return n;
}

/* An attribute that is an array of that type; NULL: there is none. */
static inline const XLA_FFI_Array *array(const XLA_FFI_CallFrame *frame, const char *name,
                                         XLA_FFI_DataType dtype) {
    for (int64_t i = 0; i < frame->attrs.size; i++) {
        const XLA_FFI_ByteSpan *span = frame->attrs.names[i];
        if (span->len != strlen(name) || memcmp(span->ptr, name, span->len)) continue;
        const XLA_FFI_Array *found = frame->attrs.attrs[i];
        return frame->attrs.types[i] == XLA_FFI_AttrType_ARRAY && found->dtype == dtype ? found : NULL;
    }
    return NULL;
}

/* Splits scratch memory; aligned for every type. */
static inline void *take(char **memory, size_t bytes) {
    void *taken = *memory;
    *memory += (bytes + 63) / 64 * 64;
    return taken;
}

/* Whether the call only asks which version of the interface is used here; then it is answered. */
static inline int tells_version(XLA_FFI_CallFrame *frame) {
    XLA_FFI_Extension_Base *extension = frame->extension_start;
    if (!extension || extension->type != XLA_FFI_Extension_Metadata) return 0;
    XLA_FFI_Metadata *metadata = ((XLA_FFI_Metadata_Extension *)extension)->metadata;
    const int minor = frame->api ? frame->api->api_version.minor_version : XLA_FFI_API_MINOR;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    /* what is used here has been the same since minor version 0, and an older XLA asks for its own */
    metadata->api_version.minor_version = minor < XLA_FFI_API_MINOR ? minor : XLA_FFI_API_MINOR;
    return 1;
}

typedef XLA_FFI_Error *call_function(const XLA_FFI_CallFrame *);

/* A handler's work on CPU. */
static inline XLA_FFI_Error *answered(XLA_FFI_CallFrame *frame, call_function *call) {
    if (tells_version(frame)) return NULL;
    /* XLA has its threads take denormal numbers for 0, which fastgd's own do not */
    fenv_t before;
    fegetenv(&before);
    fesetenv(FE_DFL_ENV);
    XLA_FFI_Error *error = call(frame);
    fesetenv(&before);
    return error;
}

/* A handler's work on other platforms. */
static inline XLA_FFI_Error *refused(XLA_FFI_CallFrame *frame, const char *reason) {
    return tells_version(frame) ? NULL : failed(frame, reason);
}

/* Of fastgd._native, which is another library. */
typedef const char *text_function(int);

/* What a module's bind(function, error_text) does with the two addresses: it keeps them, and gives what
 * jax.ffi.register_ffi_target takes, (handler, refusal). */
static inline PyObject *bound(PyObject *arguments, uintptr_t *function, text_function **error_text,
                              XLA_FFI_Handler *handle, XLA_FFI_Handler *refuse) {
    unsigned long long function_at, error_text_at;
    if (!PyArg_ParseTuple(arguments, "KK", &function_at, &error_text_at)) return NULL;
    *function = (uintptr_t)function_at;
    *error_text = (text_function *)(uintptr_t)error_text_at;
    const char *kind = "xla._CUSTOM_CALL_TARGET";
    return Py_BuildValue("NN", PyCapsule_New((void *)(uintptr_t)handle, kind, NULL),
                         PyCapsule_New((void *)(uintptr_t)refuse, kind, NULL));
}

#endif
