"""All kinds of kernels of layers on CUDA, by name, for tests of what they are compiled to."""

import numpy as np

from fastgd.cuda.layers import (
    activations,
    batch_norm,
    columns,
    dropout,
    embedding,
    gates,
    layer_norm,
    linear,
    losses,
    ordered,
    positions,
    softmax,
)
from fastgd.nn.reference import bound
from fastgd.nn.reference_activations import FUNCTIONS
from fastgd.nn.reference_batch_norm import BatchNorm
from fastgd.nn.reference_layer_norm import LayerNorm
from fastgd.nn.reference_losses import LOSSES
from fastgd.nn.reference_recurrent import CELLS

BATCH, RUNNING = BatchNorm(False, 1e-5, 0.1), BatchNorm(True, 1e-5, 0.1)
ROWS = LayerNorm(True, 1e-5)

#: name -> dtype -> a kernel that computes elements each by itself, and how many arrays it reads and writes
ELEMENTS = {
    **{
        f"{name} forward": (lambda real, name=name: activations.forward_kernel(bound(name, 1.0, 2.0), real))
        for name in FUNCTIONS
    },
    **{
        f"{name} backward": (lambda real, name=name: activations.backward_kernel(bound(name, 1.0, 2.0), real))
        for name in FUNCTIONS
    },
    **{
        f"{name} slope": (lambda real, name=name: losses.slope_kernel(LOSSES[name], 1.0, real))
        for name in LOSSES
    },
    "add": lambda real: activations.add_kernel(bound("relu"), real, True),
    "linear": lambda real: linear.behind_kernel(bound("gelu"), real, True, True),
    "dropout": dropout.kernel_of,
    "positions": positions.forward_kernel,
}

#: those that take what is float64 in every precision: statistics
NORMALISED = {
    "batch norm forward": lambda real: batch_norm.forward_kernel(real, True, True),
    "batch norm dx": lambda real: batch_norm.dx_kernel(real, True),
}

#: name -> dtype -> text of any other kernel
OTHERS = {
    "softmax forward": lambda real: softmax.forward_text(False, real),
    "log softmax forward": lambda real: softmax.forward_text(True, real),
    "softmax backward": lambda real: softmax.backward_text(False, real),
    "log softmax backward": lambda real: softmax.backward_text(True, real),
    "layer norm forward": lambda real: layer_norm.forward_text(ROWS, real, True, True),
    "layer norm dx": lambda real: layer_norm.dx_text(ROWS, real, True),
    "layer norm pieces": layer_norm.pieces_text,
    "batch norm running": lambda real: batch_norm.running_text(RUNNING, real),
    **{
        f"batch norm statistics, single {single}": (
            lambda real, single=single: batch_norm.stats_text(BATCH, real, True, single=single)
        )
        for single in (False, True)
    },
    **{
        f"batch norm sums, single {single}": (
            lambda real, single=single: batch_norm.sums_text(BATCH, real, single=single)
        )
        for single in (False, True)
    },
    **{
        f"{name} chunks": (lambda real, name=name: losses.chunks_text(LOSSES[name], 1.0, real))
        for name in LOSSES
    },
    "label weights": lambda real: losses.weights_text(real, True),
    "cross entropy": lambda real: losses.rows_text(real, 0.0, 1000, False, True),
    "smooth cross entropy": lambda real: losses.rows_text(real, 0.1, 1000, True, True),
    "ordered sum": lambda real: ordered.text(),
    "column sums": lambda real: columns.sums_text(real, real),
    "gather": lambda real: embedding.gather_text(real, 16 // real.itemsize),
    "scatter": embedding.scatter_text,
    **{
        f"{name} gates": (lambda real, name=name: gates.forward_text(name, real, True, False))
        for name in CELLS
    },
    **{
        f"{name} gates back": (lambda real, name=name: gates.backward_text(name, real, True))
        for name in CELLS
    },
    "places": lambda real: gates.scatter_text(real, True),
}

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
