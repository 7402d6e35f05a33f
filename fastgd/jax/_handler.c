/* The step as XLA calls it: a handler of its foreign function interface, whose C API xla_c_api.h describes.
 *
 * It runs on XLA's threads, without the GIL, and calls fgd_update once. Arguments: the count of steps, what
 * is carried from step to step, rates, gradients, and what is updated. Results: count, carried, what is
 * updated in the same memory as the argument, and scratch memory, of which all that a call needs is taken. */
#include "_frame.h"
#include "fastgd.h"
#include "formula.h"

typedef int update_function(const fgd_group *, int64_t, const fgd_tensor *, int64_t, const fgd_options *,
                            void *, int64_t, fgd_report *);

/* Of fastgd._native, which is another library: set by bind(). */
static update_function *update;
static text_function *error_text;

/* ---- What a call has been given --------------------------------------------------------------------- */

/* The attributes, which fastgd/jax/calls.py writes. rates: arguments of programs; carried: numbers of a
 * group; registers: the most that a program has. */
typedef struct extents {
    int64_t abi, rates, carried, registers, workspace;
} extents;

/* Where a group's constants and code begin, and how many constants and scalars there are. */
typedef struct program {
    int64_t constant, code, constants, scalars;
} program;

typedef struct step {
    const XLA_FFI_Array *tensors, *places, *groups, *options, *constants, *code, *programs;
    extents sizes;
    int64_t n_tensors, n_groups;
} step;

static const char *read_step(const XLA_FFI_CallFrame *frame, step *s) {
    const XLA_FFI_Array *sizes = array(frame, "sizes", XLA_FFI_DataType_S64);
    if (!sizes || sizes->size * 8 != sizeof(extents) ||
        ((const extents *)sizes->data)->abi != FGD_ABI_VERSION)
        return "the step was compiled for another version of fastgd";
    s->sizes = *(const extents *)sizes->data;
    s->tensors = array(frame, "tensors", XLA_FFI_DataType_S64);
    s->places = array(frame, "places", XLA_FFI_DataType_S64);
    s->groups = array(frame, "groups", XLA_FFI_DataType_S64);
    s->options = array(frame, "options", XLA_FFI_DataType_S64);
    s->constants = array(frame, "constants", XLA_FFI_DataType_F64);
    s->code = array(frame, "code", XLA_FFI_DataType_S32);
    s->programs = array(frame, "programs", XLA_FFI_DataType_S64);
    if (!s->tensors || !s->places || !s->groups || !s->options || !s->constants || !s->code || !s->programs)
        return "the step lacks a table";
    s->n_tensors = (int64_t)(s->tensors->size * 8 / sizeof(fgd_tensor));
    s->n_groups = (int64_t)(s->groups->size * 8 / sizeof(fgd_group));
    if (s->tensors->size * 8 % sizeof(fgd_tensor) || s->groups->size * 8 % sizeof(fgd_group) ||
        s->options->size * 8 < sizeof(fgd_options))
        return "the step's tables have another size";
    return NULL;
}

/* ---- Tables ----------------------------------------------------------------------------------------- */

/* Pointers in the table are numbers of places. */
static int fill(const XLA_FFI_CallFrame *frame, const place *places, fgd_tensor *t) {
    int there = put(frame, places, &t->param) && put(frame, places, &t->grad);
    there = there && put(frame, places, &t->residual) && put(frame, places, &t->average);
    for (int k = 0; there && k < FGD_MAX_SLOTS; k++)
        there = put(frame, places, &t->state[k]) && put(frame, places, &t->scales[k]);
    return there;
}

static double rate_of(const XLA_FFI_Buffer *b) {
    return b->dtype == XLA_FFI_DataType_F64 ? *(const double *)b->data : *(const float *)b->data;
}

/* ---- The handler ------------------------------------------------------------------------------------ */

/* Sets the scalars of each group, and what it carries on, from the count of steps made. */
static void fold(const XLA_FFI_CallFrame *frame, const step *s, int32_t made, double *registers,
                 double *outputs, fgd_group *groups, double *carried_on) {
    const int64_t rates = s->sizes.rates, carried = s->sizes.carried, first_rate = carried ? 2 : 1;
    const double *carried_in = carried ? argument(frame, 1)->data : NULL;
    for (int64_t g = 0; g < s->n_groups; g++) {
        const program *p = (const program *)s->programs->data + g;
        double *next = registers;
        *next++ = (double)made + 1;
        for (int64_t i = 0; i < rates; i++) *next++ = rate_of(argument(frame, first_rate + i));
        for (int64_t i = 0; i < carried; i++) *next++ = carried_in[g * carried + i];
        memcpy(next, (const double *)s->constants->data + p->constant, (size_t)p->constants * sizeof(double));
        fgd_run_formula((const instruction *)s->code->data + p->code, registers, outputs);
        memcpy(groups[g].scalars, outputs, (size_t)p->scalars * sizeof(double));
        for (int64_t i = 0; i < carried; i++) carried_on[g * carried + i] = outputs[p->scalars + i];
    }
}

static XLA_FFI_Error *make_step(const XLA_FFI_CallFrame *frame, const step *s) {
    const XLA_FFI_Buffer *scratch = result(frame, frame->rets.size - 1);
    const size_t n_tensors = (size_t)s->n_tensors, n_groups = (size_t)s->n_groups;
    const size_t carried_bytes = n_groups * (size_t)s->sizes.carried * sizeof(double);
    char *memory = scratch->data;
    fgd_tensor *tensors = take(&memory, n_tensors * sizeof *tensors);
    fgd_group *groups = take(&memory, n_groups * sizeof *groups);
    int64_t *steps = take(&memory, n_tensors * sizeof *steps);
    double *carried_on = take(&memory, carried_bytes);
    double *registers = take(&memory, (size_t)s->sizes.registers * sizeof(double));
    double *outputs = take(&memory, (FGD_MAX_SCALARS + (size_t)s->sizes.carried) * sizeof(double));
    void *workspace = take(&memory, (size_t)s->sizes.workspace);
    if (memory - (char *)scratch->data > elements(scratch))
        return failed(frame, "scratch memory is too small");

    const int32_t made = *(const int32_t *)argument(frame, 0)->data;
    memcpy(tensors, s->tensors->data, n_tensors * sizeof *tensors);
    memcpy(groups, s->groups->data, n_groups * sizeof *groups);
    for (size_t t = 0; t < n_tensors; t++) {
        if (!fill(frame, s->places->data, &tensors[t])) return failed(frame, "the step lacks an operand");
        steps[t] = made;
        tensors[t].step = &steps[t];
    }
    fold(frame, s, made, registers, outputs, groups, carried_on);

    fgd_report report = {.skipped = 0};
    const int code = update(groups, s->n_groups, tensors, s->n_tensors, s->options->data, workspace,
                            s->sizes.workspace, &report);
    if (code) return failed(frame, error_text(code));
    const int32_t now = report.skipped || made == INT32_MAX ? made : made + 1;
    memcpy(result(frame, 0)->data, &now, sizeof now);
    if (!report.skipped && carried_bytes) memcpy(result(frame, 1)->data, carried_on, carried_bytes);
    return NULL;
}

static XLA_FFI_Error *call(const XLA_FFI_CallFrame *frame) {
    step s;
    const char *refusal = read_step(frame, &s);
    return refusal ? failed(frame, refusal) : make_step(frame, &s);
}

static XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) { return answered(frame, call); }

static XLA_FFI_Error *refuse(XLA_FFI_CallFrame *frame) {
    return refused(
        frame, "fastgd.jax works on CPU: put parameters and state there, or use optax on this device");
}

/* ---- The module ------------------------------------------------------------------------------------- */

static PyObject *bind(PyObject *self, PyObject *arguments) {
    uintptr_t update_at = 0;
    (void)self;
    PyObject *handlers = bound(arguments, &update_at, &error_text, handle, refuse);
    if (handlers) update = (update_function *)update_at;
    return handlers;
}

static PyMethodDef methods[] = {
    {"bind", bind, METH_VARARGS,
     "bind(update, error_text) -> (handler, refusal)\n\n"
     "For jax.ffi.register_ffi_target: the handler, which calls the functions at these addresses, and one\n"
     "that refuses, for other platforms than CPU."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "fastgd.jax._handler",
    .m_doc = "The step as XLA calls it.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__handler(void) { return PyModule_Create(&module); }
