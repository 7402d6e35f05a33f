"""What a backend is: the seam between the optimizer, which knows no kernels, and the kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fastgd.arrays import Array
from fastgd.rules import Hyperparameters, Rule, at_step
from fastgd.storage import BLOCK as BLOCK


class Options(NamedTuple):
    """What happens to gradients before a rule sees them: fgd_options in csrc/fastgd.h, where formulas are.

    g / grad_scale, then clamped to +-clip_value, then times min(1, clip_norm / (norm + 1e-6)).
    """

    grad_scale: float = 1.0
    clip_value: float = math.inf
    clip_norm: float = math.inf
    #: the norm that clip_norm means: 2 or inf
    norm: float = 2.0
    #: take the norm even when nothing needs it
    measure: bool = False
    skip_nonfinite: bool = False
    #: what clip_norm limits: SCOPES
    scope: str = "all"
    #: bring gradients to clip_norm also where their norm is less
    normalize: bool = False
    #: the global norm, when others have measured it; None: measure
    total_norm: float | None = None
    #: limit of the ratio of a gradient's unit to its parameter's, which counts as unit_eps at least
    clip_unit: float = math.inf
    unit_eps: float = 1e-3

    @property
    def needs_measure(self) -> bool:
        needed = self.measure or self.skip_nonfinite
        return needed or (not math.isinf(self.clip_norm) and self.total_norm is None)

    @property
    def gives_norm(self) -> bool:
        return self.needs_measure or self.total_norm is not None

    @property
    def clips_units(self) -> bool:
        return not math.isinf(self.clip_unit)


#: by fgd_scope
SCOPES = ("all", "group", "tensor")


class Measured(NamedTuple):
    """What a pass over gradients found."""

    #: global norm after grad_scale and clip_value, before clip_norm
    norm: float
    #: what the gradients are multiplied by to be clipped; the smallest where there are several
    clip_coef: float
    #: index of the first array that holds NaN or an infinity; None: all are finite
    nonfinite: int | None
    skipped: bool


#: when nothing was measured
UNMEASURED = Measured(math.nan, 1.0, None, False)


class Pending(Protocol):
    """What a pass on a device finds, which may still be going on there."""

    def read(self) -> Measured:
        """What was found, once the step has been made. May be called again, and after other steps."""


class Codes(NamedTuple):
    """An array stored in 8 bits a number; csrc/storage.h has the format."""

    #: uint8, of the parameter's shape, C-contiguous
    codes: Array
    #: float32, one for each BLOCK of codes in C order
    scales: Array


State = Array | Codes


class Item(NamedTuple):
    """One tensor to update. Arithmetic is in float64 for a float64 parameter, in float32 for all others.

    Its arrays are all in the memory of the parameter: NumPy's, or fastgd.memory.DeviceArray on a device.
    """

    param: Array
    grad: Array
    #: an array for each slot of the rule, None where its switches leave one out
    state: tuple[State | None, ...]
    #: index into Work.blocks
    block: int
    #: index into Work.steps
    counter: int
    #: the axes, slowest first, in which elements are counted
    order: tuple[int, ...]
    #: number of the parameter group, for the scope "group"
    group: int = 0
    #: what rounding a 16-bit parameter loses, as the block's rounding asks
    residual: Array | None = None
    #: running average of the parameter, in the precision of the arithmetic
    average: Array | None = None
    #: receives the new parameter, rounded to its dtype
    copy: Array | None = None
    #: int64 [n], each once: grad [n, ...] is of these rows of the parameter only; None: of all
    rows: Array | None = None
    #: the number of this tensor among the pieces that its parameter is cut into; 0 for a whole one
    piece: int = 0

    @property
    def stream(self) -> int:
        """Tells the random bits of this tensor from another's: below 2**64."""
        return self.counter + (self.piece << 40)


class Carriers(NamedTuple):
    """Parameters that carry the same numbers from step to step."""

    #: float64 [parameters, 2, numbers]: row t % 2 of a parameter holds what it carries out of its step t. So
    #: the count of steps, which a skipped step leaves alone, says which row holds; nothing else is committed
    numbers: Array
    #: indices of the parameters
    members: list[int]


class Block(NamedTuple):
    """Tensors that share hyperparameters, have made the same number of steps and carry the same numbers."""

    rule: Rule
    #: validated hyperparameters and settings (fastgd.settings), which the optimizer changes in place, and the
    #: traits that the rule asks for
    values: Mapping[str, Any]
    #: index into Work.steps of one of its tensors
    counter: int
    #: what `folding` is given; () for a rule that carries nothing
    carriers: Carriers | tuple[()] = ()


def folding(
    rule: Rule, values: Mapping[str, Any]
) -> Callable[[Hyperparameters, int, Any], tuple[float, ...]]:
    """(hyperparameters, step counted from 1, carriers of a block) -> the scalars of the step.

    values: the hyperparameters now; which of them are functions of the step must stay so. It is rule.fold
    itself for a rule that carries nothing where all are numbers. May be called again for the same step.
    """
    changing = any(callable(values[name]) for name in rule.defaults)
    if not rule.carried and not changing:
        return rule.fold

    def fold(h: Hyperparameters, step: int, carriers: Carriers) -> tuple[float, ...]:
        h = at_step(rule, h, step)
        if not rule.carried:
            return rule.fold(h, step, ())
        numbers, members = carriers
        before = tuple(numbers[members[0], (step - 1) % 2].tolist())
        numbers[members, step % 2] = rule.carry(h, step, before)
        return rule.fold(h, step, before)

    return fold


class Work(NamedTuple):
    """All that one step updates."""

    blocks: Sequence[Block]
    items: Sequence[Item]
    #: int64, steps made by every parameter of the optimizer; a step that is not skipped counts up its items'
    steps: Array
    #: of the random bits
    seed: int = 0


class Program(Protocol):
    """What fills the gradients of a step."""

    def run(self) -> None:
        """Fills them."""

    def then(self, update: Callable[..., int], *arguments: Any) -> int:
        """Fills them, calls update(*arguments) and returns what that returns."""


class Plan(Protocol):
    """A step prepared once for the same parameters, to be made again and again."""

    def set_grads(self, items: Sequence[int], grads: Sequence[Array], at: Array) -> None:
        """These items, which have no rows, have other gradients of the same dtype from now on, at these
        addresses. They are not kept alive."""

    def grad_addresses(self) -> Array | None:
        """int64: the address of the gradient of each item that steps are of, to be written when the gradient
        lies elsewhere and otherwise as before. None where arrays are needed for that: set_grads, or another
        plan. What is given is of no use after `arrange`."""

    def arrange(
        self, chosen: Array, blocks: Sequence[Block], of: Sequence[int], exchanged: Mapping[int, Item]
    ) -> bool:
        """Steps are of these items only from now on, in this order, each of the block that `of` says. The
        addresses of all gradients are to be written then. False, and nothing has changed, where another plan
        is needed for it.

        chosen: int64, numbers of items. exchanged: those whose gradient lies in another way than before, or
        is of rows, by number; all else of them is as it was.
        """

    def measure(self, options: Options) -> Measured:
        """The global norm of the gradients, their elements in the order of the step.

        Each is taken in the precision of its own dtype, as by Backend.measure.
        """

    def step(self, options: Options, program: Program | None = None) -> Measured | Pending:
        """Makes one step: all of it, or, when it is skipped or fails, nothing.

        program: fills the gradients first, in the same call if it can.
        On a device the step may be going on when this returns. UNMEASURED, that very object, when there is
        nothing to tell.
        """

    def fetching(self, options: Options, fetch: tuple[int, int]) -> Callable[[], Measured | None] | None:
        """A function that does as `step`, but the addresses of gradients are written by `fetch`, an fgd_fetch
        of csrc/fastgd.h and its context, while the first gradients are measured already. It returns None, and
        nothing has changed, when that fails. Of no use after the next call of any method here.

        None where the backend does not call such functions."""

    def settle(self) -> int:
        """How many of this plan's steps turned out to be skipped after `step` returned; each counts once.

        After it `Work.steps` is right. Waits for steps that may still be skipped; 0 where there are none.
        """


class Backend(Protocol):
    """Runs the kernels of one kind. Arrays have been checked; nothing is refused here."""

    name: str
    #: the kind of memory that its arrays are in (fastgd.memory.kind_of); those of one plan are in one memory
    memory: str
    #: whether its plans take `Plan.arrange`
    rearranges: bool

    def supports(self, rule: Rule, dtype: Any) -> bool:
        """Whether it has this rule in this dtype."""

    def plan(self, work: Work) -> Plan:
        """Prepares steps over this work."""

    def measure(self, arrays: Sequence[Array], options: Options) -> Measured:
        """The global norm of the arrays."""

    def norms(self, arrays: Sequence[Array], options: Options) -> list[float]:
        """The norm of each array."""

    def clip(self, arrays: Sequence[Array], options: Options) -> Measured:
        """Scales and clamps the arrays in place, unless it is skipped."""
