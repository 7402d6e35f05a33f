"""Trains a network of two layers on a CSV file with nothing but ctypes and the library of fastgd."""

import csv
import ctypes
import math
import os
import random
import sys
from ctypes import byref, c_char, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_uint32, c_uint64
from ctypes import c_void_p as pointer
from statistics import fmean, pstdev

HIDDEN, STEPS = 16, 200
SLOTS, SCALARS, SIZES, POINTERS, HYPERPARAMETERS = 8, 16, 8, 24, 24  # FGD_MAX_...


def struct(*fields):
    """A struct of fastgd.h, of types and the names of the fields that have them."""
    named = [(name, kind) for kind, names in fields for name in names.split()]
    return type("struct", (ctypes.Structure,), {"_fields_": named})


Activation = struct((c_int32, "kind"), (c_double, "a b"))
Labels = struct((pointer, "weights"), (c_double, "label_smoothing divisor"), (c_int64, "ignored"))
Op = struct(
    (c_int32, "entry dtype"), (pointer, "of"), (c_int64 * SIZES, "sizes"), (pointer * POINTERS, "pointers"),
    (c_int64, "first_gradient n_gradients"),
)  # fmt: skip
Tensor = struct(
    (c_int64, "size"), (c_int32, "group norm_group dtype grad_dtype copy_dtype"),
    (c_int32 * SLOTS, "state_dtype"), (pointer, "param grad"), (pointer * SLOTS, "state scales"),
    (pointer, "residual average copy step"), (c_uint64, "stream"), (c_int64, "unit"), (pointer, "rows"),
    (c_int64, "n_rows width"), (pointer, "layout"), (c_int64, "factor_rows factor_cols matrix_rows"),
)  # fmt: skip
Group = struct(
    (c_int32, "rule"), (c_uint32, "switches"), (c_int32, "maximize cautious rounding state_rounding"),
    (c_uint64, "seed"), (c_double, "average_weight"), (c_double * SCALARS, "scalars"),
)  # fmt: skip
Options = struct(
    (c_double, "grad_scale clip_value clip_norm clip_unit unit_eps total_norm"),
    (c_int32, "norm scope normalize measure skip_nonfinite"),
)
Report = struct(
    (c_int32, "measured skipped"), (c_double, "norm sumsq clip_coef"),
    (c_int64, "nonfinite_tensor nonfinite_element error_tensor"),
)  # fmt: skip
MATRIX = (ctypes.POINTER(c_float), c_int64)
Product = ctypes.CFUNCTYPE(c_int, c_char, c_char, *[c_int64] * 3, c_float, *MATRIX * 2, c_float, *MATRIX)


@Product
def product(transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """The program's own: plain here, and sgemm_ of a BLAS where time matters."""
    rows = [[a[i * lda + row] if transa == b"T" else a[row * lda + i] for i in range(k)] for row in range(m)]
    cols = [[b[col * ldb + i] if transb == b"T" else b[i * ldb + col] for i in range(k)] for col in range(n)]
    for row, left in enumerate(rows):
        for col, right in enumerate(cols):
            before = beta * c[row * ldc + col] if beta else 0.0
            c[row * ldc + col] = alpha * sum(map(float.__mul__, left, right)) + before
    return 0


def load(path):
    """The library, with the types of the functions that are called here."""
    library, counted = ctypes.CDLL(path), [pointer, c_int64]
    library.fgd_error_text.restype = c_char_p
    library.fgd_workspace_size.restype = c_int64
    library.fgd_workspace_size.argtypes = counted
    library.fgd_fold.argtypes = [c_int, pointer, pointer, c_int64, pointer, pointer]
    library.fgd_hyperparameter_set.argtypes = [c_int, pointer, c_char_p, c_double]
    library.fgd_train.argtypes = [*counted, pointer, *counted * 2, pointer, *counted, pointer]

    def checked(code):
        if code < 0:
            sys.exit(library.fgd_error_text(code).decode())
        return code

    setting = "hyperparameter_defaults hyperparameter_set fold"
    for name in f"set_gemm activation_find op_find optimizer_find {setting} train".split():
        getattr(library, f"fgd_{name}").restype = checked
    return library


def read(path):
    """The columns, each brought to mean 0 and variance 1, row after row; the classes."""
    with open(path, newline="") as file:
        *columns, classes = zip(*list(csv.reader(file))[1:], strict=True)
    columns = [[float(cell) for cell in column] for column in columns]
    moments = [(fmean(column), pstdev(column)) for column in columns]
    scaled = [[(v - mean) / by for v in column] for column, (mean, by) in zip(columns, moments, strict=True)]
    return [v for row in zip(*scaled, strict=True) for v in row], [int(label) for label in classes]


def train(library, path):
    library.fgd_set_gemm(0, 1, product)  # FGD_F32, FGD_GEMM_ROW_MAJOR
    x, labels = read(path)
    n, classes, inputs = len(labels), max(labels) + 1, len(x) // len(labels)
    x, labels = (c_float * len(x))(*x), (c_int64 * n)(*labels)
    hidden, dhidden, logits, dlogits = ((c_float * (n * k))() for k in (HIDDEN, HIDDEN, classes, classes))
    row_loss, loss = (c_double * n)(), c_double()

    # weight1, bias1, weight2, bias2: weights begin uniform within 1 / sqrt(inputs), biases at 0
    sizes, bounds = (HIDDEN * inputs, HIDDEN, classes * HIDDEN, classes), (inputs**-0.5, 0, HIDDEN**-0.5, 0)
    params, grads, averages, squares = ([(c_float * size)() for size in sizes] for _ in range(4))
    uniform = random.Random(1).uniform
    for param, bound in zip(params, bounds, strict=True):
        param[:] = [uniform(-bound, bound) for _ in param]

    tanh, identity = (Activation(library.fgd_activation_find(name)) for name in (b"tanh", b"identity"))
    mean, first, second = Labels(divisor=n, ignored=-1), (n, inputs, HIDDEN), (n, HIDDEN, classes)

    def op(name, of, sizes, *arrays):
        pointers = [None if each is None else ctypes.addressof(each) for each in arrays]
        sizes, pointers = (c_int64 * SIZES)(*sizes), (pointer * POINTERS)(*pointers)
        return Op(library.fgd_op_find(name), 0, ctypes.addressof(of), sizes, pointers)

    # the passes of a step: each has the sizes and pointers of its function in fastgd_layers.h
    ops = (Op * 5)(
        op(b"linear_forward", tanh, first, x, params[0], params[1], None, hidden),
        op(b"linear_forward", identity, second, hidden, params[2], params[3], None, logits),
        op(b"softmax_cross_entropy", mean, (n, classes), logits, labels, dlogits, row_loss, loss),
        op(b"linear_backward", identity, second, hidden, params[2], None, dlogits, dhidden, *grads[2:]),
        op(b"linear_backward", tanh, first, x, params[0], hidden, dhidden, None, *grads[:2]),
    )
    tensors, steps = (Tensor * 4)(), (c_int64 * 4)()
    for i, tensor in enumerate(tensors):
        tensor.size, tensor.step = sizes[i], ctypes.addressof(steps) + 8 * i
        tensor.param, tensor.grad = ctypes.addressof(params[i]), ctypes.addressof(grads[i])
        tensor.state[:2] = ctypes.addressof(averages[i]), ctypes.addressof(squares[i])
    options = Options(1, math.inf, 1, math.inf, 0, -1, skip_nonfinite=1)  # gradients of norm 1 at most
    workspace = (c_int64 * (library.fgd_workspace_size(tensors, 4) // 8 + 1))()
    size, failed, report = ctypes.sizeof(workspace), c_int64(), Report()
    adamw, hyper, group = library.fgd_optimizer_find(b"adamw"), (c_double * HYPERPARAMETERS)(), Group()
    library.fgd_hyperparameter_defaults(adamw, hyper)
    library.fgd_hyperparameter_set(adamw, hyper, b"lr", 0.02)
    for step in range(STEPS + 1):
        library.fgd_fold(adamw, hyper, None, step + 1, None, byref(group))
        groups = byref(group), 1
        update = tensors, 4, byref(options), workspace, size, byref(report)
        library.fgd_train(ops, 5, byref(failed), *groups, *update)
        if step % 50 == 0:
            print(f"step {step}: loss {loss.value:.4f}, norm of the gradients {report.norm:.4f}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python train.py FILE.csv [LIBRARY]")
    train(load(sys.argv[2] if len(sys.argv) > 2 else os.environ["FASTGD_LIBRARY"]), sys.argv[1])
