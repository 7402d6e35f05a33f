/* Looks at a step's groups, state and tensors, to see whether all is as the step's plan says, and where the
 * gradients are.
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

static const exchange *exchange_of(PyObject *capsule) {
    const exchange *api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (api && (api->major != 1 || !api->from_object)) {
        PyErr_SetString(PyExc_ImportError, "this is not DLPack's C interface of version 1");
        return NULL;
    }
    return api;
}

/* ---- A tensor --------------------------------------------------------------------------------------- */

enum { MOST_DIMENSIONS = 64 };

/* What tells a tensor's memory and layout. A row of so many dimensions has row_length numbers. */
typedef struct {
    int64_t address, device, dtype, ndim;
    int64_t dimensions[2 * MOST_DIMENSIONS]; /* shape, then strides in elements */
} row;

static int64_t row_length(int64_t ndim) { return 4 + 2 * ndim; }

/* Looks at a tensor; 0, without an error, for what does not lend its memory. */
static int look(from_object from, PyObject *object, tensor *t) {
    if (from(object, t) == 0 && t->ndim <= MOST_DIMENSIONS) return 1;
    PyErr_Clear();
    return 0;
}

static int64_t address_of(const tensor *t) { return (int64_t)(intptr_t)((char *)t->data + t->byte_offset); }

static int64_t device_of(const tensor *t) { return (int64_t)t->device_type << 32 | (uint32_t)t->device_id; }

static int64_t dtype_of(const tensor *t) {
    return (int64_t)t->code << 32 | (int64_t)t->bits << 16 | t->lanes;
}

/* Whether the tensor is laid out as the row says, its address apart. */
static int is_alike(const tensor *t, const row *expected) {
    const int64_t *shape = expected->dimensions, *strides = shape + t->ndim;
    int64_t step = 1;
    if (t->ndim != expected->ndim || device_of(t) != expected->device || dtype_of(t) != expected->dtype) return 0;
    for (int32_t i = t->ndim - 1; i >= 0; i--) {
        if (t->shape[i] != shape[i] || (t->strides ? t->strides[i] : step) != strides[i]) return 0;
        step *= t->shape[i];
    }
    return 1;
}

/* Whether the object lies where and as the row in the bytes says. */
static int lies(from_object from, PyObject *object, PyObject *described) {
    const row *expected = (const row *)PyBytes_AsString(described);
    tensor t;
    return look(from, object, &t) && is_alike(&t, expected) && address_of(&t) == expected->address;
}

static PyObject *described(PyObject *self, PyObject *arguments) {
    PyObject *capsule, *object;
    tensor t;
    row found;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OO", &capsule, &object)) return NULL;
    const exchange *api = exchange_of(capsule);
    if (!api) return NULL;
    if (!look(api->from_object, object, &t)) Py_RETURN_NONE;
    found.address = address_of(&t), found.device = device_of(&t), found.dtype = dtype_of(&t);
    found.ndim = t.ndim;
    int64_t step = 1;
    for (int32_t i = t.ndim - 1; i >= 0; i--) {
        found.dimensions[i] = t.shape[i];
        found.dimensions[t.ndim + i] = t.strides ? t.strides[i] : step;
        step *= t.shape[i];
    }
    return PyBytes_FromStringAndSize((const char *)&found, row_length(t.ndim) * (Py_ssize_t)sizeof(int64_t));
}

/* Whether the memory of a tensor that is laid out as the row says touches one of the spans: their first
 * bytes in order, then, for each, the end of the longest up to it. */
static int touches(int64_t begin, const row *layout, const int64_t *low, int64_t count) {
    int64_t reach = 1;
    for (int64_t i = 0; i < layout->ndim; i++) {
        if (layout->dimensions[i] == 0) return 0;
        reach += (layout->dimensions[i] - 1) * layout->dimensions[layout->ndim + i];
    }
    const int64_t end = begin + reach * (layout->dtype >> 16 & 0xffff) / 8;
    int64_t first = 0, last = count; /* the spans that begin before `end` are those up to `first` */
    while (first < last) {
        const int64_t middle = first + (last - first) / 2;
        if (low[middle] < end)
            first = middle + 1;
        else
            last = middle;
    }
    return first > 0 && low[count + first - 1] > begin;
}

/* ---- Values of groups --------------------------------------------------------------------------------- */

enum { SAME, OTHER_VALUES, OTHER_KEYS };

/* Whether the dict has these keys and values, the very objects, in this order: a list [key, value, key, ...].
 * The places of other values are appended to `found`, as (number, place), unless it is NULL. -1: an error. */
static int compare(PyObject *group, PyObject *parts, Py_ssize_t number, PyObject *found) {
    PyObject *key, *value;
    Py_ssize_t at = 0, place = 0;
    int outcome = SAME;
    if (!PyDict_Check(group) || !PyList_Check(parts) || 2 * PyDict_Size(group) != PyList_Size(parts))
        return OTHER_KEYS;
    for (; PyDict_Next(group, &at, &key, &value); place += 2) {
        if (key != PyList_GetItem(parts, place)) return OTHER_KEYS;
        if (value == PyList_GetItem(parts, place + 1)) continue;
        outcome = OTHER_VALUES;
        if (!found) break;
        PyObject *pair = Py_BuildValue("(nn)", number, place + 1);
        const int failed = !pair || PyList_Append(found, pair);
        Py_XDECREF(pair);
        if (failed) return -1;
    }
    return outcome;
}

static PyObject *differing(PyObject *self, PyObject *arguments) {
    PyObject *groups, *seen;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "O!O!", &PyList_Type, &groups, &PyList_Type, &seen)) return NULL;
    const Py_ssize_t count = PyList_Size(groups);
    if (count != PyList_Size(seen)) Py_RETURN_NONE;
    PyObject *found = PyList_New(0);
    for (Py_ssize_t i = 0; found && i < count; i++) {
        const int outcome = compare(PyList_GetItem(groups, i), PyList_GetItem(seen, i), i, found);
        if (outcome == -1) Py_CLEAR(found);
        if (outcome == OTHER_KEYS) {
            Py_DECREF(found);
            Py_RETURN_NONE;
        }
    }
    return found;
}

/* Whether all groups are as they were seen. */
static int are_seen(PyObject *groups, PyObject *seen) {
    if (!PyList_Check(groups) || !PyList_Check(seen) || PyList_Size(groups) != PyList_Size(seen)) return 0;
    for (Py_ssize_t i = 0, n = PyList_Size(groups); i < n; i++)
        if (compare(PyList_GetItem(groups, i), PyList_GetItem(seen, i), i, NULL) != SAME) return 0;
    return 1;
}

/* ---- Gradients -------------------------------------------------------------------------------------- */

enum { WITHOUT, WITH, OTHERWISE }; /* a gradient: none, as the plan says, in another layout */
enum { ANEW = -1, AS_BEFORE, REARRANGED, OTHER_GROUPS };

/* Whether the lists hold these very objects in this order. */
static int holds(PyObject *lists, PyObject *members) {
    if (!PyTuple_Check(lists)) return 0;
    Py_ssize_t k = 0, count = PyTuple_Size(members);
    for (Py_ssize_t i = 0, n = PyTuple_Size(lists); i < n; i++) {
        PyObject *list = PyTuple_GetItem(lists, i);
        if (!PyList_Check(list)) return 0;
        for (Py_ssize_t j = 0, m = PyList_Size(list); j < m; j++, k++)
            if (k >= count || PyList_GetItem(list, j) != PyTuple_GetItem(members, k)) return 0;
    }
    return k == count;
}

/* Where parts of a member's tensors were at the last look: most likely they still are. */
typedef struct {
    const void *param_shape, *grad, *grad_shape;
} whereabouts;

enum { AHEAD = 8, LINE = 64 };

/* A library's tensor has its shape within, and what else a look reads around it. */
static void fetch_around(const void *shape) {
    for (int i = -1; i <= 2; i++) __builtin_prefetch((const char *)shape + i * LINE);
}

/* Kernels stream gigabytes through the caches between two looks, and what a look reads lies all about. */
static void fetch(PyObject *member, const whereabouts *near) {
    __builtin_prefetch(member);
    fetch_around(near->param_shape);
    __builtin_prefetch(near->grad);
    fetch_around(near->grad_shape);
}

static PyObject *collect(PyObject *self, PyObject *arguments) {
    PyObject *capsule, *lists, *members, *name, *rows, *spans, *groups, *seen, *local, *local_grads;
    unsigned long long present_at, known_at, near_at, to_at;
    Py_ssize_t stride;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "(OOO!O!O!O!KKKKn)OOOO", &capsule, &lists, &PyTuple_Type, &members,
                          &PyUnicode_Type, &name, &PyBytes_Type, &rows, &PyBytes_Type, &spans, &present_at,
                          &known_at, &near_at, &to_at, &stride, &groups, &seen, &local, &local_grads))
        return NULL;
    const exchange *api = exchange_of(capsule);
    if (!api) return NULL;
    if (groups != Py_None && !are_seen(groups, seen)) return PyLong_FromLong(OTHER_GROUPS);
    if (lists != Py_None && !holds(lists, members)) return PyLong_FromLong(ANEW);
    const int64_t *words = (const int64_t *)PyBytes_AsString(rows);
    const int64_t *low = (const int64_t *)PyBytes_AsString(spans), count = PyBytes_Size(spans) / 16;
    uint8_t *present = (uint8_t *)(intptr_t)present_at;
    int64_t *known = (int64_t *)(intptr_t)known_at;
    whereabouts *near = (whereabouts *)(intptr_t)near_at;
    char *to = (char *)(intptr_t)to_at;
    const Py_ssize_t n = PyTuple_Size(members);
    long outcome = AS_BEFORE;
    for (Py_ssize_t i = 0; i < AHEAD && i < n; i++) fetch(PyTuple_GetItem(members, i), &near[i]);
    for (Py_ssize_t i = 0; i < n && outcome != ANEW; i++) {
        if (i + AHEAD < n) fetch(PyTuple_GetItem(members, i + AHEAD), &near[i + AHEAD]);
        const int64_t planned = *words++;
        PyObject *param = local == Py_None ? Py_None : PyList_GetItem(local, i), *grad;
        if (param == Py_None) {
            param = PyTuple_GetItem(members, i);
            grad = PyObject_GetAttr(param, name);
        } else {
            grad = PyList_GetItem(local_grads, i);
            Py_XINCREF(grad);
        }
        if (!grad) return NULL;
        if (planned) {
            const row *param_row = (const row *)words;
            const row *grad_row = (const row *)(words + row_length(param_row->ndim));
            uint8_t found = WITHOUT;
            tensor t;
            words = (const int64_t *)grad_row + row_length(grad_row->ndim);
            if (grad != Py_None) {
                if (!look(api->from_object, param, &t) || !is_alike(&t, param_row) ||
                    address_of(&t) != param_row->address)
                    outcome = ANEW;
                near[i].param_shape = t.shape, near[i].grad = grad;
                found = OTHERWISE;
                if (look(api->from_object, grad, &t) && is_alike(&t, grad_row)) {
                    const int64_t address = address_of(&t);
                    near[i].grad_shape = t.shape;
                    if ((*present == WITH && *known == address) || !touches(address, grad_row, low, count))
                        found = WITH;
                    *known = address;
                }
            }
            if (outcome == AS_BEFORE && (found != *present || found == OTHERWISE)) outcome = REARRANGED;
            if (*present && to) {
                memcpy(to, known, sizeof *known);
                to += stride;
            }
            *present++ = found, known++;
        } else if (grad != Py_None) {
            outcome = ANEW;
        }
        Py_DECREF(grad);
    }
    return PyLong_FromLong(outcome);
}

/* ---- State ------------------------------------------------------------------------------------------ */

/* Whether the values of the dict are these very objects in this order. */
static int has_values(PyObject *dict, PyObject *values) {
    PyObject *key, *value;
    Py_ssize_t place = 0, k = 0;
    if (!PyDict_Check(dict) || PyDict_Size(dict) != PyTuple_Size(values)) return 0;
    while (PyDict_Next(dict, &place, &key, &value))
        if (value != PyTuple_GetItem(values, k++)) return 0;
    return 1;
}

static PyObject *stays(PyObject *self, PyObject *arguments) {
    PyObject *capsule, *state, *entries, *watched;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OOO!O!", &capsule, &state, &PyTuple_Type, &entries, &PyTuple_Type,
                          &watched))
        return NULL;
    const exchange *api = exchange_of(capsule);
    if (!api) return NULL;
    if (state != Py_None && !has_values(state, entries)) Py_RETURN_FALSE;
    for (Py_ssize_t i = 0, n = PyTuple_Size(watched); i + 3 < n; i += 4) {
        PyObject *entry = PyTuple_GetItem(watched, i), *value = PyTuple_GetItem(watched, i + 2);
        PyObject *description = PyTuple_GetItem(watched, i + 3);
        if (PyDict_GetItem(entry, PyTuple_GetItem(watched, i + 1)) != value) Py_RETURN_FALSE;
        if (description == Py_None || !lies(api->from_object, value, description)) Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

static PyMethodDef methods[] = {
    {"described", described, METH_VARARGS,
     "described(interface, tensor) -> bytes or None\n\n"
     "The row of int64 that tells the tensor's memory and layout: address, device, dtype, number of\n"
     "dimensions, shape, strides in elements. None when it does not lend them.\n"
     "interface: `__dlpack_c_exchange_api__` of its class."},
    {"collect", collect, METH_VARARGS,
     "collect(fixed, groups, seen, local, local_grads) -> -1, 0, 1 or 2\n\n"
     "Looks at the groups, parameters and gradients of a plan. 0: all is as the plan says, and the same\n"
     "parameters have gradients as at the last look. 1: as the plan says but for which of its parameters have\n"
     "gradients, and how these lie. 2: the groups' values are other objects than were seen; nothing else has\n"
     "been looked at. -1: another plan is needed.\n\n"
     "fixed: (interface, lists, members, name, rows, spans, present, known, near, to, stride).\n"
     "    lists: tuple of lists that must hold the members, a tuple of tensors, in their order; or None.\n"
     "    name: 'grad'. rows: int64, for each member 0 when the plan does not have it, and then it must have\n"
     "    no gradient; else 1, the row of the parameter, the row of its gradient, whose address does not\n"
     "    matter; rows as `described` gives them.\n"
     "    spans: int64 first bytes of memory that gradients must not touch, in order, then for each the end\n"
     "    of the longest up to it.\n"
     "    present, known: addresses of uint8 and int64, one for each parameter of the plan, to be written: 0\n"
     "    for one without a gradient, 1 for one with a gradient, at this address, 2 for one whose gradient\n"
     "    lies otherwise or touches a span.\n"
     "    near: address of 3 pointers for each member, of this function's own; at first NULL.\n"
     "    to, stride: address of the first of the addresses to be written, as many as were not 0 in present,\n"
     "    and how many bytes they are apart; 0: none.\n"
     "groups, seen: as in `differing`; None: no matter.\n"
     "local, local_grads: lists of what lies here of each and of its gradient; None, also in them: itself."},
    {"stays", stays, METH_VARARGS,
     "stays(interface, state, entries, watched) -> bool\n\n"
     "Whether the values of the state, a dict, are these very entries in this order (None: no matter), and\n"
     "what is watched is there and lies where it lay.\n"
     "watched: (dict, key, the value it has, what `described` gave for it or None, dict, ...)."},
    {"differing", differing, METH_VARARGS,
     "differing(groups, seen) -> list of (number, place), or None\n\n"
     "The values of dicts that are other objects than were seen. None when keys or numbers differ.\n"
     "seen: list of lists [key, value, key, value, ...]; place: where the value stands there."},
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
