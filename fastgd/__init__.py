"""fastgd: fused gradient-descent kernels for Python. The public names, and nothing else."""

from typing import Any as _Any

try:
    from fastgd import optim as _optim
except ModuleNotFoundError as error:
    if error.name != "fastgd._native":
        raise
    raise ImportError(
        "fastgd is imported from a source folder that was not compiled: "
        "run pip install -e . there, or start Python in another folder to use the installed package"
    ) from error

from fastgd.clip import (
    clip_grad_adaptive_,
    clip_grad_norm_,
    clip_grad_value_,
    global_norm,
    normalize_grads_,
    tensor_norms,
)
from fastgd.machine import (
    get_cache_size,
    get_num_threads,
    info,
    set_cache_size,
    set_instruction_set,
    set_num_threads,
)
from fastgd.optimizer import Optimizer
from fastgd.report import NonFinite, StepReport
from fastgd.rows import Rows
from fastgd.version import __version__

#: names that are imported when first used
_LAZY = {
    "EarlyStopping": "fastgd.stopping",
    "LossScaler": "fastgd.scaling",
    "averaging": "fastgd.averaging",
    "chance": "fastgd.chance",
    "cuda": "fastgd.cuda",
    "curvature": "fastgd.curvature",
    "distributed": "fastgd.distributed",
    "fit": "fastgd.fit",
    "get_include": "fastgd.embedding",
    "get_library": "fastgd.embedding",
    "jit": "fastgd.own",
    "landscape": "fastgd.landscape",
    "monitor": "fastgd.monitor",
    "nn": "fastgd.nn",
    "schedules": "fastgd.schedules",
    "verify": "fastgd.verification",
}

__all__ = [  # the optimizers are those of the table of rules
    "NonFinite",
    "Optimizer",
    "Rows",
    "StepReport",
    "__version__",
    "clip_grad_adaptive_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "get_cache_size",
    "get_num_threads",
    "global_norm",
    "info",
    "normalize_grads_",
    "set_cache_size",
    "set_instruction_set",
    "set_num_threads",
    "tensor_norms",
    *(cls.__name__ for cls in _optim.CLASSES.values()),
    *_LAZY,
]

globals().update({cls.__name__: cls for cls in _optim.CLASSES.values()})


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> _Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fastgd' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(_LAZY[name])
    value = getattr(module, name, module)
    globals()[name] = value
    return value
