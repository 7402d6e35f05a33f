/* A look at a tensor through the C interface that its library lends by DLPack (dlpack.h, DLPackExchangeAPI,
 * version 1.3): `__dlpack_c_exchange_api__` on its class. The GIL is held. */
#ifndef FASTGD_TENSOR_H
#define FASTGD_TENSOR_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape;
    int64_t *strides; /* in elements; NULL: C order */
    uint64_t byte_offset;
} tensor; /* DLTensor */

typedef int (*from_object)(void *object, tensor *to); /* DLPackDLTensorFromPyObjectNoSync; owns nothing */

typedef struct {
    uint32_t major, minor;
    void *older;
    void *allocator, *managed_from_object, *managed_to_object;
    from_object from_object;
    void *stream;
} exchange; /* DLPackExchangeAPI */

static inline const exchange *exchange_of(PyObject *capsule) {
    const exchange *api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (api && (api->major != 1 || !api->from_object)) {
        PyErr_SetString(PyExc_ImportError, "this is not DLPack's C interface of version 1");
        return NULL;
    }
    return api;
}

enum { MOST_DIMENSIONS = 64 };

/* What tells a tensor's memory and layout. A row of so many dimensions has row_length numbers. */
typedef struct {
    int64_t address, device, dtype, ndim;
    int64_t dimensions[2 * MOST_DIMENSIONS]; /* shape, then strides in elements */
} row;

static inline int64_t row_length(int64_t ndim) { return 4 + 2 * ndim; }

/* Looks at a tensor; 0, without an error, for what does not lend its memory. */
static inline int look(from_object from, PyObject *object, tensor *t) {
    if (from(object, t) == 0 && t->ndim <= MOST_DIMENSIONS) return 1;
    PyErr_Clear();
    return 0;
}

static inline int64_t address_of(const tensor *t) {
    return (int64_t)(intptr_t)((char *)t->data + t->byte_offset);
}

static inline int64_t device_of(const tensor *t) {
    return (int64_t)t->device_type << 32 | (uint32_t)t->device_id;
}

static inline int64_t dtype_of(const tensor *t) {
    return (int64_t)t->code << 32 | (int64_t)t->bits << 16 | t->lanes;
}

/* Whether the tensor is laid out as the row says, its address apart. */
static inline int is_alike(const tensor *t, const row *expected) {
    const int64_t *shape = expected->dimensions, *strides = shape + t->ndim;
    int64_t step = 1;
    if (t->ndim != expected->ndim || device_of(t) != expected->device) return 0;
    if (dtype_of(t) != expected->dtype) return 0;
    for (int32_t i = t->ndim - 1; i >= 0; i--) {
        if (t->shape[i] != shape[i] || (t->strides ? t->strides[i] : step) != strides[i]) return 0;
        step *= t->shape[i];
    }
    return 1;
}

#endif
