/* Looks at groups and state: do they hold the very objects that were seen, do tensors lie where they lay? */
#include "_seen.h"

#include "_tensor.h"

/* ---- Values of groups --------------------------------------------------------------------------------- */

enum { SAME, OTHER_VALUES, OTHER_KEYS };

/* Whether the dict has these keys and values, the very objects, in this order: a list [key, value, key, ...],
 * where `...` stands for any value. The places of other values are appended to `found`, as (number, place),
 * unless it is NULL. -1: an error. */
static int compare(PyObject *group, PyObject *parts, Py_ssize_t number, PyObject *found) {
    PyObject *key, *value;
    Py_ssize_t at = 0, place = 0;
    int outcome = SAME;
    if (!PyDict_Check(group) || !PyList_Check(parts) || 2 * PyDict_Size(group) != PyList_Size(parts))
        return OTHER_KEYS;
    for (; PyDict_Next(group, &at, &key, &value); place += 2) {
        if (key != PyList_GetItem(parts, place)) return OTHER_KEYS;
        PyObject *expected = PyList_GetItem(parts, place + 1);
        if (value == expected || expected == Py_Ellipsis) continue;
        outcome = OTHER_VALUES;
        if (!found) break;
        PyObject *pair = Py_BuildValue("(nn)", number, place + 1);
        const int failed = !pair || PyList_Append(found, pair);
        Py_XDECREF(pair);
        if (failed) return -1;
    }
    return outcome;
}

PyObject *differing(PyObject *self, PyObject *arguments) {
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
int are_seen(PyObject *groups, PyObject *seen) {
    if (!PyList_Check(groups) || !PyList_Check(seen) || PyList_Size(groups) != PyList_Size(seen)) return 0;
    for (Py_ssize_t i = 0, n = PyList_Size(groups); i < n; i++)
        if (compare(PyList_GetItem(groups, i), PyList_GetItem(seen, i), i, NULL) != SAME) return 0;
    return 1;
}

PyObject *is_as_seen(PyObject *self, PyObject *arguments) {
    PyObject *dict, *parts;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OO", &dict, &parts)) return NULL;
    return PyBool_FromLong(compare(dict, parts, 0, NULL) == SAME);
}

PyObject *are_as_seen(PyObject *self, PyObject *arguments) {
    PyObject *groups, *seen;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OO", &groups, &seen)) return NULL;
    return PyBool_FromLong(are_seen(groups, seen));
}

/* ---- State ------------------------------------------------------------------------------------------ */

/* Whether the object lies where and as the row in the bytes says. */
static int lies(from_object from, PyObject *object, PyObject *described) {
    const row *expected = (const row *)PyBytes_AsString(described);
    tensor t;
    return look(from, object, &t) && is_alike(&t, expected) && address_of(&t) == expected->address;
}

/* Whether the keys and values of the dict are these very objects in this order. */
static int is_of(PyObject *dict, PyObject *keys, PyObject *values) {
    PyObject *key, *value;
    Py_ssize_t place = 0;
    const Py_ssize_t count = PyTuple_Size(values);
    if (!PyDict_Check(dict) || PyDict_Size(dict) != count || PyTuple_Size(keys) != count) return 0;
    for (Py_ssize_t k = 0; PyDict_Next(dict, &place, &key, &value); k++)
        if (key != PyTuple_GetItem(keys, k) || value != PyTuple_GetItem(values, k)) return 0;
    return 1;
}

PyObject *stays(PyObject *self, PyObject *arguments) {
    PyObject *capsule, *state, *keys, *entries, *watched;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OOO!O!O!", &capsule, &state, &PyTuple_Type, &keys, &PyTuple_Type,
                          &entries, &PyTuple_Type, &watched))
        return NULL;
    const exchange *api = exchange_of(capsule);
    if (!api) return NULL;
    if (state != Py_None && !is_of(state, keys, entries)) Py_RETURN_FALSE;
    for (Py_ssize_t i = 0, n = PyTuple_Size(watched); i + 3 < n; i += 4) {
        PyObject *entry = PyTuple_GetItem(watched, i), *value = PyTuple_GetItem(watched, i + 2);
        PyObject *description = PyTuple_GetItem(watched, i + 3);
        if (PyDict_GetItem(entry, PyTuple_GetItem(watched, i + 1)) != value) Py_RETURN_FALSE;
        if (description == Py_None || !lies(api->from_object, value, description)) Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}
