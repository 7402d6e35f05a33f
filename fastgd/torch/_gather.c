/* Looks at the gradients of a step: whether they and their parameters lie as the step's plan says, and where.
 *
 * The GIL is held throughout; fetch_for_kernels, which kernels call without it, takes it. */
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_seen.h"
#include "_tensor.h"

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

/* ---- Gradients -------------------------------------------------------------------------------------- */

enum { WITHOUT, WITH, OTHERWISE }; /* a gradient: none, as the plan says, in another layout */
enum { NOT_PLANNED, PLANNED, PLANNED_ASKING }; /* a member; ASKING: its gradient may be lazily negated */
enum { NOT_LOOKED = -2, ANEW, AS_BEFORE, REARRANGED, OTHER_GROUPS };

/* Whether the tensor stands for the negatives of what is in its memory, which DLPack does not tell. */
static int is_negated(PyObject *object) {
    PyObject *answer = PyObject_CallMethod(object, "is_neg", NULL);
    const int found = answer == NULL || PyObject_IsTrue(answer);
    PyErr_Clear();
    Py_XDECREF(answer);
    return found;
}

/* An attribute that is computed by a class, and how: found once for many objects. */
typedef struct {
    PyTypeObject *of; /* NULL: of none yet */
    PyObject *descriptor;
    descrgetfunc get; /* NULL: by the usual way */
} shortcut;

/* What an object's attribute is found by, as PyObject_GenericGetAttr finds it: a data descriptor of the class
 * comes before all else. The descriptor must be let go of. */
static shortcut shortcut_to(PyTypeObject *type, PyObject *name) {
    shortcut found = {type, NULL, NULL};
    if (PyType_GetSlot(type, Py_tp_getattro) != (void *)PyObject_GenericGetAttr) return found;
    found.descriptor = PyObject_GetAttr((PyObject *)type, name);
    PyErr_Clear();
    if (found.descriptor && PyType_GetSlot(Py_TYPE(found.descriptor), Py_tp_descr_set))
        found.get = (descrgetfunc)PyType_GetSlot(Py_TYPE(found.descriptor), Py_tp_descr_get);
    return found;
}

/* The attribute of the object; like objects are to follow each other. */
static PyObject *attribute_of(PyObject *object, PyObject *name, shortcut *by) {
    if (Py_TYPE(object) != by->of) {
        Py_XDECREF(by->descriptor);
        *by = shortcut_to(Py_TYPE(object), name);
    }
    if (!by->get) return PyObject_GetAttr(object, name);
    return by->get(by->descriptor, object, (PyObject *)by->of);
}

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
static void prefetch_around(const void *shape) {
    for (int i = -1; i <= 2; i++) __builtin_prefetch((const char *)shape + i * LINE);
}

/* Kernels stream gigabytes through the caches between two looks, and what a look reads lies all about. */
static void prefetch(PyObject *member, const whereabouts *near) {
    __builtin_prefetch(member);
    prefetch_around(near->param_shape);
    __builtin_prefetch(near->grad);
    prefetch_around(near->grad_shape);
}

/* What is looked at, and what a look leaves behind. All objects are the caller's. */
typedef struct {
    const exchange *api;
    PyObject *lists, *members, *name, *rows, *spans, *noting, *noted;
    uint8_t *present;
    int64_t *known;
    whereabouts *near;
    char *to;
    Py_ssize_t stride;
    PyObject *local, *local_grads; /* of the next look; NULL: none */
    long outcome;                  /* of the last fetch, until it is asked for */
} looking;

static const char LOOKING[] = "fastgd.torch.looking";

static void let_go(PyObject *capsule) { PyMem_Free(PyCapsule_GetPointer(capsule, LOOKING)); }

static PyObject *looking_at(PyObject *self, PyObject *arguments) {
    PyObject *capsule;
    unsigned long long present, known, near, to;
    looking found = {.outcome = NOT_LOOKED};
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OOO!O!O!O!KKKKnOO", &capsule, &found.lists, &PyTuple_Type,
                          &found.members, &PyUnicode_Type, &found.name, &PyBytes_Type, &found.rows,
                          &PyBytes_Type, &found.spans, &present, &known, &near, &to, &found.stride,
                          &found.noting, &found.noted))
        return NULL;
    found.api = exchange_of(capsule);
    if (!found.api) return NULL;
    found.present = (uint8_t *)(intptr_t)present, found.known = (int64_t *)(intptr_t)known;
    found.near = (whereabouts *)(intptr_t)near, found.to = (char *)(intptr_t)to;
    looking *kept = PyMem_Malloc(sizeof *kept);
    if (!kept) return PyErr_NoMemory();
    *kept = found;
    PyObject *made = PyCapsule_New(kept, LOOKING, let_go);
    if (!made) PyMem_Free(kept);
    return made;
}

/* The outcome, or ANEW with an error that is set. ready, unless it is NULL, counts the addresses that have
 * been written while all was as before. */
static long look_at_all(looking *l, int64_t *ready) {
    if (l->lists != Py_None && !holds(l->lists, l->members)) return ANEW;
    const from_object from = l->api->from_object;
    const int64_t *words = (const int64_t *)PyBytes_AsString(l->rows);
    const int64_t *low = (const int64_t *)PyBytes_AsString(l->spans), count = PyBytes_Size(l->spans) / 16;
    const Py_ssize_t n = PyTuple_Size(l->members);
    uint8_t *present = l->present;
    int64_t *known = l->known, written = 0;
    char *to = l->to;
    long outcome = AS_BEFORE;
    shortcut grads = {NULL, NULL, NULL};
    for (Py_ssize_t i = 0; i < AHEAD && i < n; i++) prefetch(PyTuple_GetItem(l->members, i), &l->near[i]);
    for (Py_ssize_t i = 0; i < n && outcome != ANEW; i++) {
        if (i + AHEAD < n) prefetch(PyTuple_GetItem(l->members, i + AHEAD), &l->near[i + AHEAD]);
        const int64_t planned = *words++;
        PyObject *param = l->local ? PyList_GetItem(l->local, i) : Py_None, *grad;
        if (param == Py_None) {
            param = PyTuple_GetItem(l->members, i);
            grad = attribute_of(param, l->name, &grads);
        } else {
            grad = PyList_GetItem(l->local_grads, i);
            Py_XINCREF(grad);
        }
        if (!grad) {
            outcome = ANEW;
            break;
        }
        if (planned != NOT_PLANNED) {
            const row *param_row = (const row *)words;
            const row *grad_row = (const row *)(words + row_length(param_row->ndim));
            uint8_t found = WITHOUT;
            tensor t = {0};
            words = (const int64_t *)grad_row + row_length(grad_row->ndim);
            if (grad != Py_None) {
                if (!look(from, param, &t) || !is_alike(&t, param_row)) outcome = ANEW;
                if (address_of(&t) != param_row->address) outcome = ANEW;
                l->near[i].param_shape = t.shape, l->near[i].grad = grad;
                found = OTHERWISE;
                if (look(from, grad, &t) && is_alike(&t, grad_row) &&
                    (planned != PLANNED_ASKING || !is_negated(grad))) {
                    const int64_t address = address_of(&t);
                    l->near[i].grad_shape = t.shape;
                    if ((*present == WITH && *known == address) || !touches(address, grad_row, low, count))
                        found = WITH;
                    *known = address;
                }
            }
            if (outcome == AS_BEFORE && (found != *present || found == OTHERWISE)) outcome = REARRANGED;
            if (*present && to) {
                memcpy(to, known, sizeof *known);
                to += l->stride;
                if (ready && outcome == AS_BEFORE) __atomic_store_n(ready, ++written, __ATOMIC_RELEASE);
            }
            *present++ = found, known++;
        } else if (grad != Py_None) {
            outcome = ANEW;
        }
        Py_DECREF(grad);
    }
    Py_XDECREF(grads.descriptor);
    return outcome;
}

static PyObject *collect(PyObject *self, PyObject *arguments) {
    PyObject *capsule, *groups, *seen, *local, *local_grads;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OOOOO", &capsule, &groups, &seen, &local, &local_grads)) return NULL;
    looking *l = PyCapsule_GetPointer(capsule, LOOKING);
    if (!l) return NULL;
    if (groups != Py_None && !are_seen(groups, seen)) return PyLong_FromLong(OTHER_GROUPS);
    if (local != Py_None) l->local = local, l->local_grads = local_grads;
    const long outcome = look_at_all(l, NULL);
    l->local = l->local_grads = NULL;
    return PyErr_Occurred() ? NULL : PyLong_FromLong(outcome);
}

/* fgd_fetch of csrc/fastgd.h. An error will come again when the caller looks anew. */
static int fetch_for_kernels(void *context, int64_t *ready) {
    looking *l = context;
    const PyGILState_STATE state = PyGILState_Ensure();
    l->outcome = look_at_all(l, ready);
    int fails = l->outcome != AS_BEFORE;
    if (!fails) {
        PyObject *nothing = PyObject_CallFunctionObjArgs(l->noting, l->noted, NULL);
        fails = !nothing;
        Py_XDECREF(nothing);
    }
    PyErr_Clear();
    PyGILState_Release(state);
    return fails;
}

static PyObject *fetching(PyObject *self, PyObject *capsule) {
    looking *l = PyCapsule_GetPointer(capsule, LOOKING);
    (void)self;
    if (!l) return NULL;
    const unsigned long long function = (unsigned long long)(intptr_t)fetch_for_kernels;
    return Py_BuildValue("(KK)", function, (unsigned long long)(intptr_t)l);
}

static PyObject *fetched(PyObject *self, PyObject *capsule) {
    looking *l = PyCapsule_GetPointer(capsule, LOOKING);
    (void)self;
    if (!l) return NULL;
    const long outcome = l->outcome;
    l->outcome = NOT_LOOKED;
    if (outcome == NOT_LOOKED) Py_RETURN_NONE;
    return PyLong_FromLong(outcome);
}

static PyMethodDef methods[] = {
    {"described", described, METH_VARARGS,
     "described(interface, tensor) -> bytes or None\n\n"
     "The row of int64 that tells the tensor's memory and layout: address, device, dtype, number of\n"
     "dimensions, shape, strides in elements. None when it does not lend them.\n"
     "interface: `__dlpack_c_exchange_api__` of its class."},
    {"looking_at", looking_at, METH_VARARGS,
     "looking_at(interface, lists, members, name, rows, spans, present, known, near, to, stride, noting,\n"
     "    noted) -> capsule\n\n"
     "What `collect` is to look at. All arguments must be kept for as long as the capsule is used.\n\n"
     "lists: tuple of lists that must hold the members, a tuple of tensors, in their order; or None.\n"
     "name: 'grad'. rows: int64, for each member 0 when the plan does not have it, and then it must have no\n"
     "gradient; else 1, or 2 where gradients like this may be lazily negated, the row of the parameter, the\n"
     "row of its gradient, whose address does not matter; rows as `described` gives them.\n"
     "spans: int64 first bytes of memory that gradients must not touch, in order, then for each the end of\n"
     "the longest up to it.\n"
     "present, known: addresses of uint8 and int64, one for each parameter of the plan, to be written:\n"
     "WITHOUT a gradient, WITH one, at this address, or OTHERWISE: it lies otherwise, or touches a span.\n"
     "near: address of 3 pointers for each member, of this module's own; at first NULL.\n"
     "to, stride: address of the first of the addresses to be written, as many as were not 0 in present,\n"
     "and how many bytes they are apart; 0: none.\n"
     "noting, noted: `fetching` calls noting(noted) when all is as before."},
    {"collect", collect, METH_VARARGS,
     "collect(looking, groups, seen, local, local_grads) -> AS_BEFORE, REARRANGED, OTHER_GROUPS or ANEW\n\n"
     "Looks at the groups, parameters and gradients of a plan. AS_BEFORE: all is as the plan says, and the\n"
     "same parameters have gradients as at the last look. REARRANGED: as the plan says but for which of its\n"
     "parameters have gradients, and how these lie. OTHER_GROUPS: the groups' values are other objects than\n"
     "were seen; nothing else has been looked at. ANEW: another plan is needed.\n\n"
     "groups, seen: as in `differing`; None: no matter.\n"
     "local, local_grads: lists of what lies here of each and of its gradient; None, also in them: itself."},
    {"fetching", fetching, METH_O,
     "fetching(looking) -> (function, context)\n\n"
     "The addresses of an fgd_fetch of csrc/fastgd.h, which does as `collect`, without groups, and of its\n"
     "context. It fails unless all is as before; `fetched` says what it has found."},
    {"fetched", fetched, METH_O,
     "fetched(looking) -> as `collect`; None where `fetching` was not called since the last time"},
    {"is_as_seen", is_as_seen, METH_VARARGS,
     "is_as_seen(dict, parts) -> bool\n\n"
     "Whether it has these keys and values: [key, value, ...], where `...` stands for any value."},
    {"are_as_seen", are_as_seen, METH_VARARGS,
     "are_as_seen(groups, seen) -> bool\n\nWhether `differing` would find nothing."},
    {"stays", stays, METH_VARARGS,
     "stays(interface, state, keys, entries, watched) -> bool\n\n"
     "Whether the state is a dict of these very keys and entries in this order (None: no matter), and what\n"
     "is watched is there and lies where it lay.\n"
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

PyMODINIT_FUNC PyInit__gather(void) {
    const struct {
        const char *name;
        long value;
    } constants[] = {
        {"WITHOUT", WITHOUT},       {"WITH", WITH},         {"OTHERWISE", OTHERWISE},
        {"NOT_PLANNED", NOT_PLANNED}, {"PLANNED", PLANNED}, {"PLANNED_ASKING", PLANNED_ASKING},
        {"ANEW", ANEW},             {"AS_BEFORE", AS_BEFORE}, {"REARRANGED", REARRANGED},
        {"OTHER_GROUPS", OTHER_GROUPS},
    };
    PyObject *made = PyModule_Create(&module);
    for (size_t i = 0; made && i < sizeof constants / sizeof *constants; i++)
        if (PyModule_AddIntConstant(made, constants[i].name, constants[i].value)) Py_CLEAR(made);
    return made;
}
