/* What was seen of groups and state, and whether it still is so: _seen.c. */
#ifndef FASTGD_SEEN_H
#define FASTGD_SEEN_H

#include <Python.h>

/* Whether all groups are as they were seen: as the Python functions below. */
int are_seen(PyObject *groups, PyObject *seen);

/* Python functions, which `methods` of _gather.c describes. */
PyObject *differing(PyObject *self, PyObject *arguments);
PyObject *is_as_seen(PyObject *self, PyObject *arguments);
PyObject *are_as_seen(PyObject *self, PyObject *arguments);
PyObject *stays(PyObject *self, PyObject *arguments);

#endif
