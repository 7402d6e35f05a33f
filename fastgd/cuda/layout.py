"""Where things lie in the memory that kernels share: tables of tensors, of tiles, and the numbers of a step.

All entries are 8 bytes. Kernels are given addresses of tables; the offsets in them are part of their text.
"""

from __future__ import annotations

from fastgd.backends.reference_norms import CHUNK as CHUNK
from fastgd.backends.reference_norms import LANES as LANES

#: slots of state that a rule may have: FGD_MAX_SLOTS
MOST_SLOTS = 8

#: dimensions that an array may have once neighbouring ones are merged, if it has gaps or another order
MOST_DIMENSIONS = 8

#: a tensor: pointers, but for size and unit (elements), noise (of storage.noise_key), block (a number), width
#: (elements of a row), lines and columns (of one of its matrices)
TENSOR = (
    "size",
    "param",
    "grad",
    "residual",
    "average",
    "copy",
    "noise",
    "scope",
    "block",
    "unit",
    "unit_coefs",
    "unit_sums",
    "ratios",
    "layout",
    "rows",
    "width",
    "lines",
    "columns",
    "row_sums",
    "band_sums",
    "row_factors",
    "col_factors",
    "work",
    "turned",
    *(f"state{k}" for k in range(MOST_SLOTS)),
    *(f"scales{k}" for k in range(MOST_SLOTS)),
)

#: bytes of a tensor's row
TENSOR_BYTES = 8 * len(TENSOR)

#: elements of a tensor that one block of threads updates; a multiple of all vectors and of blocks of codes
TILE = 4096

#: bytes of a tile: tensor, and number in it; of a chunk: these, its number among all, and nothing
TILE_BYTES, CHUNK_BYTES = 16, 32

#: the numbers of a step, and of all steps
CONTROL = (
    # what the host says
    "rows",  # address of [steps, blocks, scalars] float64
    "rows32",  # the same in float32
    "row_bytes",  # of one step in `rows`
    "least_made",  # what `made` is at the first of the rows
    "row_count",  # how many there are
    "unscale",  # 1 / grad_scale
    "unscale32",
    "bound",  # clip_value
    "bound32",
    "clip_norm",
    "total_norm",  # the norm, if others have measured it
    "clip_unit",
    "unit_eps",
    "reports",  # address of the last REPORTS reports
    # what kernels find
    "made",  # steps since the plan was made
    "row",  # address of this step's row in `rows`
    "row32",
    "skipped",  # whether this step is
    "nonfinite",  # the first tensor with NaN or infinity, or -1
    "rescaled",  # whether squares overflow or vanish, so that another pass is needed
    "issued",  # reports so far
)

#: bytes of a scope's row: what gradients are multiplied by, in float64 and in float32; the power of two that
#: squares are scaled by when they must be, and then the coefficient of clipping; the norm
SCOPE_BYTES = 32

#: reports that are kept, and the bytes of one: norm, coefficient, first tensor that is not finite, skipped
REPORTS, REPORT_BYTES = 256, 32

#: bytes of what a chunk's gradients sum up to: sum of squares, largest magnitude
SUM_BYTES = 16

#: of what is tried for a chunk: squares of the parameter, of the other vector, elements that descend
TRIED_BYTES = 24

#: bytes of a tensor's ratios: trust and cautious scale, float64, then both in float32
RATIO_BYTES = 24


#: columns of TENSOR whose arrays may lie in memory in any way
STRIDED = ("param", "grad", "residual", "average", "copy", *(f"state{k}" for k in range(MOST_SLOTS)))

#: words of a tensor's layout: how many dimensions, their lengths, then strides in bytes for each of STRIDED
LAYOUT_WORDS = 1 + MOST_DIMENSIONS * (1 + len(STRIDED))


def stride(column: str, dimension: int = 0) -> int:
    """The offset in a tensor's layout of an array's stride."""
    return 8 * (1 + MOST_DIMENSIONS * (1 + STRIDED.index(column)) + dimension)


def tensor(name: str) -> int:
    """The offset in a tensor's row."""
    return 8 * TENSOR.index(name)


def control(name: str) -> int:
    """The offset among the numbers of a step."""
    return 8 * CONTROL.index(name)
