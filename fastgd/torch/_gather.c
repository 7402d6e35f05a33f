/* Collects the addresses of a step's tensors, once it has seen that all lie as the step's plan says.
 *
 * A tensor is read through the C interface that its library lends by DLPack (dlpack.h, DLPackExchangeAPI,
 * version 1.3): `__dlpack_c_exchange_api__` on its class. The GIL is held throughout. */

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

enum { MOST_DIMENSIONS = 64 };

/* What tells a tensor's memory and layout; a row of `length` numbers. */
typedef struct {
    int64_t address, device, dtype, ndim;
    int64_t dimensions[2 * MOST_DIMENSIONS]; /* shape, then strides in elements */
} row;

enum { HEAD = 4 };

static const exchange *exchange_of(PyObject *capsule) {
    const exchange *api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (api && (api->major != 1 || !api->from_object)) {
        PyErr_SetString(PyExc_ImportError, "this is not DLPack's C interface of version 1");
        return NULL;
    }
    return api;
}

/* Fills the row; returns its length in bytes, or 0, without an error, for what does not lend its memory. */
static size_t describe(from_object from, PyObject *object, row *to) {
    tensor t;
    if (from(object, &t) || t.ndim > MOST_DIMENSIONS) {
        PyErr_Clear();
        return 0;
    }
    to->address = (int64_t)(intptr_t)((char *)t.data + t.byte_offset);
    to->device = (int64_t)t.device_type << 32 | (uint32_t)t.device_id;
    to->dtype = (int64_t)t.code << 32 | (int64_t)t.bits << 16 | t.lanes;
    to->ndim = t.ndim;
    int64_t step = 1;
    for (int32_t i = t.ndim - 1; i >= 0; i--) {
        to->dimensions[i] = t.shape[i];
        to->dimensions[t.ndim + i] = t.strides ? t.strides[i] : step;
        step *= t.shape[i];
    }
    return (size_t)(HEAD + 2 * t.ndim) * sizeof(int64_t);
}

/* Whether the tensor lies as the row in `expected` says, its address apart. */
static int lies_alike(const row *found, size_t length, PyObject *expected) {
    const size_t first = sizeof(int64_t);
    return length && (size_t)PyBytes_Size(expected) == length &&
           memcmp(&found->device, PyBytes_AsString(expected) + first, length - first) == 0;
}

static PyObject *described(PyObject *self, PyObject *arguments) {
    PyObject *capsule, *object;
    row found;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OO", &capsule, &object)) return NULL;
    const exchange *api = exchange_of(capsule);
    if (!api) return NULL;
    size_t length = describe(api->from_object, object, &found);
    if (!length) Py_RETURN_NONE;
    return PyBytes_FromStringAndSize((const char *)&found, (Py_ssize_t)length);
}

/* Whether the lists hold these very objects in this order. */
static int holds(PyObject *lists, PyObject *members) {
    Py_ssize_t k = 0, count = PyTuple_Size(members);
    for (Py_ssize_t i = 0; i < PyList_Size(lists); i++) {
        PyObject *list = PyList_GetItem(lists, i);
        if (!PyList_Check(list)) return 0;
        for (Py_ssize_t j = 0, n = PyList_Size(list); j < n; j++, k++)
            if (k >= count || PyList_GetItem(list, j) != PyTuple_GetItem(members, k)) return 0;
    }
    return k == count;
}

/* Whether every dict still has the value under the key, and that lies where it lay: (dict, key, value, its
 * description or None, dict, ...). */
static int keeps(from_object from, PyObject *entries) {
    for (Py_ssize_t i = 0, n = PyTuple_Size(entries); i + 3 < n; i += 4) {
        PyObject *value = PyTuple_GetItem(entries, i + 2), *lies = PyTuple_GetItem(entries, i + 3);
        if (PyDict_GetItem(PyTuple_GetItem(entries, i), PyTuple_GetItem(entries, i + 1)) != value) return 0;
        if (lies == Py_None) continue;
        row found;
        size_t length = describe(from, value, &found);
        if (!length || (size_t)PyBytes_Size(lies) != length || memcmp(&found, PyBytes_AsString(lies), length))
            return 0;
    }
    return 1;
}

/* Whether the memory of a tensor touches one of the spans: their first bytes in order, then, for each, the
 * end of the longest up to it. */
static int touches(const row *found, PyObject *spans) {
    const int64_t *low = (const int64_t *)PyBytes_AsString(spans);
    int64_t count = (int64_t)PyBytes_Size(spans) / 16, reach = 1;
    for (int64_t i = 0; i < found->ndim; i++) {
        if (found->dimensions[i] == 0) return 0;
        reach += (found->dimensions[i] - 1) * found->dimensions[found->ndim + i];
    }
    int64_t begin = found->address, end = begin + reach * (found->dtype >> 16 & 0xffff) / 8;
    int64_t first = 0, last = count; /* the spans that begin before `end` are those up to `first` */
    while (first < last) {
        int64_t middle = first + (last - first) / 2;
        if (low[middle] < end)
            first = middle + 1;
        else
            last = middle;
    }
    return first > 0 && low[count + first - 1] > begin;
}

static PyObject *collect(PyObject *self, PyObject *arguments) {
    PyObject *capsule, *lists, *members, *local, *local_grads, *entries;
    PyObject *params_lie, *grads_lie, *spans, *name;
    unsigned long long shown_at, counts_at, to_at;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OO!O!OOO!O!O!O!O!KKK", &capsule, &PyList_Type, &lists, &PyTuple_Type,
                          &members, &local, &local_grads, &PyTuple_Type, &entries, &PyTuple_Type, &params_lie,
                          &PyTuple_Type, &grads_lie, &PyBytes_Type, &spans, &PyUnicode_Type, &name,
                          &shown_at, &counts_at, &to_at))
        return NULL;
    const exchange *api = exchange_of(capsule);
    if (!api) return NULL;
    if (!holds(lists, members) || !keeps(api->from_object, entries)) Py_RETURN_FALSE;
    const float *shown = (const float *)(intptr_t)shown_at;
    const int64_t *counts = (const int64_t *)(intptr_t)counts_at;
    int64_t *to = (int64_t *)(intptr_t)to_at;
    for (Py_ssize_t i = 0, n = PyTuple_Size(members); i < n; i++) {
        PyObject *param_lies = PyTuple_GetItem(params_lie, i), *grad_lies = PyTuple_GetItem(grads_lie, i);
        PyObject *param = local == Py_None ? Py_None : PyList_GetItem(local, i), *grad;
        if (param == Py_None) {
            param = PyTuple_GetItem(members, i);
            grad = PyObject_GetAttr(param, name);
        } else {
            grad = PyList_GetItem(local_grads, i);
            Py_XINCREF(grad);
        }
        if (!grad) return NULL;
        int alike = shown[i] == (float)counts[i];
        if (grad_lies == Py_None) {
            alike &= grad == Py_None;
        } else {
            row found;
            size_t length = describe(api->from_object, param, &found);
            alike &= lies_alike(&found, length, param_lies) &&
                     memcmp(&found.address, PyBytes_AsString(param_lies), sizeof(int64_t)) == 0 &&
                     lies_alike(&found, describe(api->from_object, grad, &found), grad_lies) &&
                     !touches(&found, spans);
            *to++ = found.address;
        }
        Py_DECREF(grad);
        if (!alike) Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

static PyObject *has_values(PyObject *self, PyObject *arguments) {
    PyObject *dict, *values, *key, *value;
    Py_ssize_t place = 0, k = 0;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OO!", &dict, &PyTuple_Type, &values)) return NULL;
    if (!PyDict_Check(dict) || PyDict_Size(dict) != PyTuple_Size(values)) Py_RETURN_FALSE;
    while (PyDict_Next(dict, &place, &key, &value))
        if (value != PyTuple_GetItem(values, k++)) Py_RETURN_FALSE;
    Py_RETURN_TRUE;
}

static PyMethodDef methods[] = {
    {"has_values", has_values, METH_VARARGS,
     "has_values(dict, values) -> bool\n\n"
     "Whether the values of the dict are these very objects in this order: a tuple."},
    {"described", described, METH_VARARGS,
     "described(interface, tensor) -> bytes or None\n\n"
     "What tells the tensor's memory and layout; None when it does not lend them.\n"
     "interface: `__dlpack_c_exchange_api__` of its class."},
    {"collect", collect, METH_VARARGS,
     "collect(interface, lists, members, local, local_grads, entries, params_lie, grads_lie, spans, name,\n"
     "    shown, counts, to) -> bool\n\n"
     "Writes the addresses of the gradients of the members that have one to `to`, an address, and returns\n"
     "True, if all is as these say; False as soon as something is not.\n\n"
     "lists: lists that hold the members in their order. members: tuple of tensors.\n"
     "local, local_grads: lists of what lies here of each and of its gradient; None, also in them: itself.\n"
     "entries: (dict, key, the value it has, what `described` gave for it or None) of each entry that is\n"
     "watched, one after the other.\n"
     "params_lie, grads_lie: tuples with what `described` gave for each; None for one without a gradient.\n"
     "spans: int64 first bytes of memory that gradients must not touch, in order, then for each the end of\n"
     "the longest up to it. name: 'grad'.\n"
     "shown, counts: addresses of the step counts of the members, as float32 and as int64: they must agree."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "fastgd.torch._gather",
    .m_doc = "Where the tensors of a step lie.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__gather(void) { return PyModule_Create(&module); }
