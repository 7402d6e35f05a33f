/* A model's passes as XLA calls them: a handler that runs a program of csrc/fastgd_layers.h over the call's
 * memory.
 *
 * It runs on XLA's threads, without the GIL, and calls fgd_run once. The attribute "program", which
 * fastgd/jax/plans.py writes, is the program without addresses; it is completed in scratch memory, the last
 * result, of which all that a call needs is taken. */
#include "_frame.h"
#include "fastgd.h"

typedef int run_function(const fgd_op *, int64_t, int64_t *);

/* Of fastgd._native, which is another library: set by bind(). */
static run_function *run;
static text_function *error_text;

/* What the attribute begins with; the parts follow in this order. */
typedef struct header {
    int64_t abi, places, links, description_bytes, ops, scratch;
} header;

/* In the descriptions, which operations name by their offset + 1: a pointer, and the offset it points to. */
typedef struct relocation {
    int64_t pointer, target;
} relocation;

typedef struct program {
    header sizes;
    const place *places; /* what the pointers of operations are numbers of */
    const relocation *links;
    const char *descriptions;
    const fgd_op *ops;
} program;

static const char *read_program(const XLA_FFI_CallFrame *frame, program *p) {
    const XLA_FFI_Array *found = array(frame, "program", XLA_FFI_DataType_S64);
    if (!found || found->size * 8 < sizeof(header) || ((const header *)found->data)->abi != FGD_ABI_VERSION)
        return "the model was compiled for another version of fastgd";
    p->sizes = *(const header *)found->data;
    p->places = (const place *)((const header *)found->data + 1);
    p->links = (const relocation *)(p->places + p->sizes.places);
    p->descriptions = (const char *)(p->links + p->sizes.links);
    p->ops = (const fgd_op *)(p->descriptions + p->sizes.description_bytes);
    const char *end = (const char *)(p->ops + p->sizes.ops);
    return end == (const char *)found->data + found->size * 8 ? NULL : "the program has another size";
}

/* Turns an offset + 1, or 0 for NULL, into a pointer. */
static const void *described(char *descriptions, const void *number) {
    return number ? descriptions + (intptr_t)number - 1 : NULL;
}

static XLA_FFI_Error *run_program(const XLA_FFI_CallFrame *frame, const program *p) {
    const XLA_FFI_Buffer *scratch = result(frame, frame->rets.size - 1);
    if (!scratch || elements(scratch) < p->sizes.scratch) return failed(frame, "scratch memory is too small");
    const size_t description_bytes = (size_t)p->sizes.description_bytes, n_ops = (size_t)p->sizes.ops;
    char *memory = scratch->data;
    char *descriptions = take(&memory, description_bytes);
    fgd_op *ops = take(&memory, n_ops * sizeof *ops);
    memcpy(descriptions, p->descriptions, description_bytes);
    memcpy(ops, p->ops, n_ops * sizeof *ops);
    for (int64_t i = 0; i < p->sizes.links; i++) {
        char *target = descriptions + p->links[i].target;
        memcpy(descriptions + p->links[i].pointer, &target, sizeof target);
    }
    for (size_t i = 0; i < n_ops; i++) {
        ops[i].of = described(descriptions, ops[i].of);
        for (int k = 0; k < FGD_MAX_POINTERS; k++)
            if (!put(frame, p->places, &ops[i].pointers[k]))
                return failed(frame, "the program lacks an operand");
    }
    int64_t at;
    const int code = run(ops, p->sizes.ops, &at);
    return code ? failed(frame, error_text(code)) : NULL;
}

static XLA_FFI_Error *call(const XLA_FFI_CallFrame *frame) {
    program p;
    const char *refusal = read_program(frame, &p);
    return refusal ? failed(frame, refusal) : run_program(frame, &p);
}

static XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) { return answered(frame, call); }

static XLA_FFI_Error *refuse(XLA_FFI_CallFrame *frame) {
    return refused(frame, "models of fastgd.jax work on CPU: put parameters and input there");
}

/* ---- The module ------------------------------------------------------------------------------------- */

static PyObject *bind(PyObject *self, PyObject *arguments) {
    uintptr_t run_at = 0;
    (void)self;
    PyObject *handlers = bound(arguments, &run_at, &error_text, handle, refuse);
    if (handlers) run = (run_function *)run_at;
    return handlers;
}

static PyMethodDef methods[] = {
    {"bind", bind, METH_VARARGS,
     "bind(run, error_text) -> (handler, refusal)\n\n"
     "For jax.ffi.register_ffi_target: the handler, which calls the functions at these addresses, and one\n"
     "that refuses, for other platforms than CPU."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "fastgd.jax._passes",
    .m_doc = "A model's passes as XLA calls them.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__passes(void) { return PyModule_Create(&module); }
