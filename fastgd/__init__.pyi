"""Made by docs/tables.py from the table of rules."""

from collections.abc import Callable
from typing import Any

from fastgd import optim as optim
from fastgd.clip import clip_grad_adaptive_ as clip_grad_adaptive_
from fastgd.clip import clip_grad_norm_ as clip_grad_norm_
from fastgd.clip import clip_grad_value_ as clip_grad_value_
from fastgd.clip import global_norm as global_norm
from fastgd.clip import normalize_grads_ as normalize_grads_
from fastgd.clip import tensor_norms as tensor_norms
from fastgd.machine import get_cache_size as get_cache_size
from fastgd.machine import get_num_threads as get_num_threads
from fastgd.machine import info as info
from fastgd.machine import set_cache_size as set_cache_size
from fastgd.machine import set_instruction_set as set_instruction_set
from fastgd.machine import set_num_threads as set_num_threads
from fastgd.optimizer import Optimizer as Optimizer
from fastgd.report import NonFinite as NonFinite
from fastgd.report import StepReport as StepReport
from fastgd.rows import Rows as Rows
from fastgd.version import __version__ as __version__
from fastgd.stopping import EarlyStopping as EarlyStopping
from fastgd.scaling import LossScaler as LossScaler
from fastgd import averaging as averaging
from fastgd import chance as chance
from fastgd import cuda as cuda
from fastgd import curvature as curvature
from fastgd import distributed as distributed
from fastgd import fit as fit
from fastgd.embedding import get_include as get_include
from fastgd.embedding import get_library as get_library
from fastgd.own import jit as jit
from fastgd import landscape as landscape
from fastgd import monitor as monitor
from fastgd import nn as nn
from fastgd import schedules as schedules
from fastgd.verification import verify as verify

class SGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.001,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class ASGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.01,
        lambd: float = 0.0001,
        alpha: float = 0.75,
        t0: float = 1000000.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class SGDScheduleFree(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Adagrad(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Adadelta(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 1.0,
        rho: float = 0.9,
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class RMSprop(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Adam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class AdamW(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class AdamWScheduleFree(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Adamax(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class NAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        momentum_decay: float = 0.004,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class RAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class AdaBelief(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = True,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Yogi(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 0.001,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 1e-06,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Adan(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.001,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        no_prox: bool = False,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class AdEMAMix(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.001,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0,
        beta3_warmup: int = 0,
        alpha_warmup: int = 0,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Lion(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Signum(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Rprop(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-06, 50.0),
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class LAMB(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-06,
        weight_decay: float = 0.01,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class LARS(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-08,
        nesterov: bool = False,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Adafactor(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.01,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 0.001),
        d: float = 1.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...

class Muon(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 0.001,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-07,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        maximize: bool = False,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        state_dtype: Any = None,
        state_rounding: str | None = None,
        rounding: str = 'nearest',
        cautious: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
        copies: Any = None,
        backend: str = 'auto',
    ) -> None: ...
