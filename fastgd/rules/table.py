"""What a rule is, what its hyperparameters mean, and the checks that a table of rules is complete."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fastgd.checks import each, flag, named, number, whole

Hyperparameters = Mapping[str, Any]


class Slot(NamedTuple):
    """An array of state beside each parameter."""

    name: str
    #: the switch that must be on for the slot to exist; None: always there
    switch: str | None = None
    #: the hyperparameter that gives its first value; None: zero
    initial: str | None = None
    #: whether it is never negative and divides the step, or stands under a root: a sum, an average or a
    #: maximum of squares or sizes
    unsigned: bool = False
    #: whether it is always as precise as the arithmetic: a parameter of a kind, such as an average, or what
    #: changes by so little at a time that fewer bits would keep it from changing
    precise: bool = False
    #: the axis, counted from the end, that it has one number for in place of one for each element: -1 in rows
    #: of the last two dimensions, -2 in their columns. It lies in C order
    over: int | None = None

    def shape(self, param: tuple[int, ...]) -> tuple[int, ...]:
        """Its shape beside a parameter of this shape."""
        shape = list(param)
        if self.over is not None:
            shape[self.over] = 1
        return tuple(shape)


class Trust(NamedTuple):
    """How the step of a whole tensor is lengthened or shortened, which is the scalar `trust`."""

    #: whose norm is compared with the parameter's: "step" (with `decay` 0 and `trust` 1) or "gradient"
    of: str
    #: (norm of the parameter, that norm, root of the number of elements, the scalars by name) -> the factor,
    #: in float64
    ratio: Callable[[float, float, float, Mapping[str, float]], float]


class Factored(NamedTuple):
    """Averages of squares by rows and columns, and the factors that stand for them in a body. All float64."""

    #: (average so far, mean of the squares of the row or column, the scalars) -> the new average
    average: Callable[[Any, Any, Any], Any]
    #: (xp, a row's new average, the mean of those of its matrix, the scalars) -> its factor
    row_factor: Callable[[Any, Any, Any, Any], Any]
    #: (xp, a column's new average) -> its factor
    col_factor: Callable[[Any, Any], Any]


class Orthogonal(NamedTuple):
    """A matrix X made nearly orthogonal by products: X = P X with a polynomial P of the smaller of its Gram
    matrices G, time and again."""

    #: (norm of the matrix, the scalars) -> what it is multiplied by at first; float64
    scale: Callable[[Any, Any], Any]
    #: (an element of the identity, of G, of G G, the scalars) -> that of P
    polynomial: Callable[[Any, Any, Any, Any], Any]
    #: the scalar that says how many times
    steps: str

    def turned(self, matrix: Any, polynomial: Callable[[Any, Any], Any], steps: int) -> Any:
        """The matrix after so many times. polynomial: of (G, G G), which may be written to."""
        rows, cols = matrix.shape
        for _ in range(steps):
            gram = matrix @ matrix.T if rows <= cols else matrix.T @ matrix
            factor = polynomial(gram, gram @ gram)
            matrix = factor @ matrix if rows <= cols else matrix @ factor
        return matrix


#: float64 numbers that a parameter carries from one step to the next
Carried = tuple[float, ...]


class Hyperparameter(NamedTuple):
    """What a name means."""

    #: returns a value in its canonical type, or raises TypeError or ValueError
    check: Callable[[Any], Any]
    meaning: str
    #: the hyperparameter whose value takes the place of None when a parameter group is made
    like: str | None = None
    #: its type in annotations, where that of the default does not tell
    type: str | None = None
    #: whether it holds from the making of an optimizer on
    fixed: bool = False
    #: whether another number in place of one changes nothing but scalars that are folded at every step; then
    #: it may be a function of the step, too (fastgd.schedules)
    folded: bool = False


_BETA = number(0, 1)

#: those that mean the same in every rule that has them and does not say otherwise
HYPERPARAMETERS: dict[str, Hyperparameter] = {
    "lr": Hyperparameter(number(0), "learning rate", folded=True),
    "momentum": Hyperparameter(number(0), "what is kept of the running sum of steps; 0 for none"),
    "dampening": Hyperparameter(number(0), "what a gradient loses before it is added to the running sum"),
    "weight_decay": Hyperparameter(number(0), "how strongly parameters are drawn towards 0"),
    "nesterov": Hyperparameter(flag, "whether momentum looks ahead, as Nesterov's"),
    "lr_decay": Hyperparameter(number(0), "lr is divided by 1 + (step - 1) lr_decay"),
    "initial_accumulator_value": Hyperparameter(number(0), "first value of the sum or average of squares"),
    "eps": Hyperparameter(number(0), "added to the denominator, against division by 0"),
    "alpha": Hyperparameter(_BETA, "what is kept of the running averages at every step"),
    "rho": Hyperparameter(_BETA, "what is kept of the averages of squares at every step"),
    "centered": Hyperparameter(flag, "whether steps are divided by the root of the variance"),
    "betas": Hyperparameter(each(_BETA, _BETA), "what is kept of the averages of gradient and square"),
    "amsgrad": Hyperparameter(flag, "whether the largest average of squares so far is used"),
    "momentum_decay": Hyperparameter(number(0), "how fast momentum rises from half of betas[0] to all of it"),
    "etas": Hyperparameter(
        each(number(0, 1), number(1)), "what step sizes are multiplied by when the gradient turns, and not"
    ),
    "step_sizes": Hyperparameter(each(number(0), number(0)), "smallest and largest step size"),
    "lambd": Hyperparameter(number(0), "decay of the parameters and, with alpha, of lr"),
    "t0": Hyperparameter(number(0), "step after which the average begins"),
    "alpha_warmup": Hyperparameter(whole(0), "steps in which alpha rises from 0; 0 for none"),
    "beta3_warmup": Hyperparameter(whole(0), "steps in which the third beta rises from the first; 0: none"),
    "warmup_steps": Hyperparameter(whole(0), "steps in which lr rises to its value"),
    "r": Hyperparameter(number(0), "power of the step in its weight in the average"),
    "weight_lr_power": Hyperparameter(number(0), "power of the largest lr so far in a step's weight"),
    "no_prox": Hyperparameter(flag, "whether decay comes before the step, as AdamW's, and not after it"),
    "trust_coefficient": Hyperparameter(number(0), "the rate by which a tensor's step follows its norm"),
    "maximize": Hyperparameter(flag, "whether to climb instead of descend"),
    "decoupled_weight_decay": Hyperparameter(flag, "whether weight decay is apart from the gradient"),
    "decouple_lr": Hyperparameter(
        flag,
        "whether weight decay is apart from the gradient, and times lr / max_lr in place of lr",
    ),
    "max_lr": Hyperparameter(
        number(0), "the lr at which decouple_lr decays by weight_decay; None: lr as it is at first", like="lr"
    ),
}


class Average(NamedTuple):
    """The parameters hold y = beta x + (1 - beta) z, where z is a slot and x the average to be used."""

    #: the name of z
    slot: str
    #: hyperparameters -> beta, above 0
    beta: Callable[[Hyperparameters], float]


class Rule(NamedTuple):
    """One update rule."""

    #: the name in files and on the command line
    name: str
    #: the name of the optimizer class
    title: str
    #: one line: what it is
    summary: str
    #: paper and section
    source: str
    #: hyperparameters and their defaults, as in torch.optim and in its order
    defaults: dict[str, Any]
    #: the row of csrc/rules.def whose body it runs
    kernel: str
    slots: tuple[Slot, ...]
    #: switch -> whether it is on, in the kernel's order
    switches: dict[str, Callable[[Hyperparameters], bool]]
    #: names of what `fold` returns, in the kernel's order
    scalars: tuple[str, ...]
    #: (hyperparameters, step counted from 1, what is carried into it) -> the body's numbers, in float64
    fold: Callable[[Hyperparameters, int, Carried], tuple[float, ...]]
    #: (xp, p, g, x, s, on) -> new p; reads and sets the slots as attributes of x. Formula and paper stand
    #: in csrc/rules.h
    body: Callable[..., Any]
    #: refuses hyperparameters that do not go together
    check: Callable[[Hyperparameters], None] = lambda h: None
    #: whether torch.optim has it under this title
    in_torch: bool = True
    #: (name, value before the first step) of the numbers that each parameter carries from step to step
    carried: tuple[tuple[str, float], ...] = ()
    #: (hyperparameters, step, what is carried into it) -> what is carried out of it
    carry: Callable[[Hyperparameters, int, Carried], Carried] = lambda h, step, carried: carried
    #: None: a tensor's step is as long as the rule makes it
    trust: Trust | None = None
    #: for slots with `over`; the body is given their factors in their place
    factored: Factored | None = None
    #: what is made of minus the step of a matrix, to be added in its place times the scalar `lr`. None: the
    #: step is the body's
    orthogonal: Orthogonal | None = None
    #: how many dimensions a parameter must have; None: any number
    ndim: int | None = None
    #: (shape of a parameter, name of its dtype) -> what `fold` and the switches find beside hyperparameters
    traits: Callable[[tuple[int, ...], str], dict[str, Any]] | None = None
    #: what Optimizer.eval gives; None: the parameters are what they are
    average: Average | None = None
    #: why no part of a step may be left out, as cautious updates do; None: any part may
    whole: str | None = None
    #: hyperparameters that mean something else than in other rules
    own: Mapping[str, Hyperparameter] = {}

    @property
    def carried_at_first(self) -> Carried:
        """What is carried into the first step."""
        return tuple(value for _, value in self.carried)

    @property
    def exact(self) -> bool:
        """Whether it has the same bits everywhere; matrix products differ in their last ones."""
        return self.orthogonal is None

    @property
    def elementwise(self) -> bool:
        """Whether an element's step depends on no other element but through the norm of all gradients."""
        return self.trust is None and self.orthogonal is None

    def in_matrices(self, slots: Iterable[Slot | None]) -> bool:
        """Whether, with these slots in use, it takes the last two dimensions of a parameter as matrices."""
        return self.orthogonal is not None or any(s is not None and s.over is not None for s in slots)

    def hyperparameter(self, name: str) -> Hyperparameter:
        """What a name means in this rule."""
        return self.own[name] if name in self.own else HYPERPARAMETERS[name]

    def seen(self, values: dict[str, Any], shape: tuple[int, ...], dtype: str) -> Hyperparameters:
        """What `fold` and the switches are given for a parameter: this very dict, and traits beside it."""
        return values if self.traits is None else ChainMap(values, self.traits(shape, dtype))

    def active(self, h: Hyperparameters) -> dict[str, bool]:
        """Every switch with its state under these hyperparameters."""
        return {name: bool(test(h)) for name, test in self.switches.items()}

    def same_plan(self, old: Hyperparameters, new: Hyperparameters) -> bool:
        """Whether nothing but scalars, which are folded at every step, tells a step with the new ones from
        one with the old. False where only a parameter's traits could tell.
        """
        changed = [name for name in self.defaults if old[name] != new[name]]
        if not all(_is_plain(h[name]) for name in changed for h in (old, new)):
            return False
        if all(self.hyperparameter(name).folded for name in changed):
            return True
        # what the first step begins with is set when a plan is made, and a skipped step begins again
        lasting = {"maximize", *(slot.initial for slot in self.slots)}
        if self.traits is not None or lasting.intersection(changed) or self.active(old) != self.active(new):
            return False
        return self.orthogonal is None or self._times(old) == self._times(new)

    def _times(self, h: Hyperparameters) -> float:
        """How many times a matrix is multiplied to be made nearly orthogonal."""
        assert self.orthogonal is not None
        scalars = self.fold(at_step(self, h, 1), 1, self.carried_at_first)
        return scalars[self.scalars.index(self.orthogonal.steps)]

    def active_slots(self, h: Hyperparameters) -> tuple[Slot | None, ...]:
        """The slots in order, None where a switch leaves one out."""
        on = self.active(h)
        return tuple(s if s.switch is None or on[s.switch] else None for s in self.slots)


def _is_plain(value: Any) -> bool:
    """Whether a hyperparameter is neither missing nor a function of the step."""
    return value is not None and not callable(value)


def check_hyperparameter(rule: Rule, name: str, value: Any) -> Any:
    """The value in its canonical type; TypeError or ValueError that names the hyperparameter otherwise."""
    if name not in rule.defaults:
        known = ", ".join(rule.defaults)
        raise TypeError(f"{rule.title} has no hyperparameter {name!r}; it has {known}")
    return named(name, rule.hyperparameter(name).check, value)


def at_step(rule: Rule, values: Mapping[str, Any], step: int) -> Mapping[str, Any]:
    """Hyperparameters as they are in a step counted from 1: functions of it, which count from 0, evaluated.

    TypeError or ValueError, naming hyperparameter and step, for what a function gives that is out of range.
    """
    rates = {name: values[name](step - 1) for name in rule.defaults if callable(values[name])}
    if not rates:
        return values
    for name, value in rates.items():
        rates[name] = named(f"{name} at step {step - 1}", rule.hyperparameter(name).check, value)
    return ChainMap(rates, values)  # type: ignore[arg-type]  # it writes to the first only, and nobody does


def resolved(rule: Rule, values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a new group, with another's value in place of None where that is what None means.

    In place of a function of the step stands its `peak`, or its first value where it has none.
    """
    result = dict(values)
    for name in result.keys() & rule.defaults.keys():
        like = rule.hyperparameter(name).like
        if like is not None and result[name] is None:
            of = result[like]
            result[name] = getattr(of, "peak", of(0)) if callable(of) else of
    return result


def table(*rules: Rule) -> dict[str, Rule]:
    """Rules by name, once each is found to be complete; ValueError that says what is missing."""
    for rule in rules:
        unknown = rule.defaults.keys() - rule.own.keys() - HYPERPARAMETERS.keys()
        if unknown:
            raise ValueError(f"{rule.name}: {min(unknown)!r} has no entry in HYPERPARAMETERS")
        if "maximize" not in rule.defaults:
            raise ValueError(f"{rule.name}: every rule has the hyperparameter 'maximize'")
        kept = ["step", *(s.name for s in rule.slots), *(name for name, _ in rule.carried)]
        kept += ["residual", "average"]  # which any optimizer may keep
        if len(set(kept)) < len(kept):
            raise ValueError(f"{rule.name}: two of what it keeps have one name: {', '.join(kept)}")
        h = rule.seen(resolved(rule, rule.defaults), (1,) * (rule.ndim or 1), "float32")
        folded = rule.fold(h, 1, rule.carried_at_first)
        if len(folded) != len(rule.scalars):
            raise ValueError(f"{rule.name}: fold gives {len(folded)} scalars, {len(rule.scalars)} are named")
        if "decay" not in rule.scalars:
            raise ValueError(f"{rule.name}: every rule has the scalar 'decay'")
        numbers = rule.carry(h, 1, rule.carried_at_first)
        if len(numbers) != len(rule.carried):
            raise ValueError(
                f"{rule.name}: carry gives {len(numbers)} numbers, {len(rule.carried)} are named"
            )
    return {rule.name: rule for rule in rules}
