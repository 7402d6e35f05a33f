"""The table of update rules: names, state slots, hyperparameters, step scalars and the body of each.

Everything else follows from this table: optimizer classes, bindings, tests, benchmarks and the tables in the
documentation. A body is the formula for one element, written for anything that has `+ - * /` and
comparisons; `xp` supplies `sqrt` and `where`. The order of operations is part of it, because it fixes
the bits; `csrc/rules.h` has the same bodies in C. No backend is known here.

Every body ends in `s.decay * p - <the step>`, where `decay` is 1 when nothing decays. Callers rely on it:
with `decay` 0 a body gives exactly minus the step. So the parameter enters the step only where the formula
names it, as an L2 weight decay does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fastgd.checks import flag, named, number, pair

Hyperparameters = Mapping[str, Any]


class Slot(NamedTuple):
    """An array of state beside each parameter, of its shape and dtype."""

    name: str
    #: the switch that must be on for the slot to exist; None: always there
    switch: str | None = None
    #: the hyperparameter that gives its first value; None: zero
    initial: str | None = None
    #: whether it is never negative and divides the step: a sum, an average or a maximum of squares
    unsigned: bool = False


class Trust(NamedTuple):
    """How the step of a whole tensor is lengthened or shortened, which is the scalar `trust`."""

    #: whose norm is compared with the parameter's: "step" (with `decay` 0 and `trust` 1) or "gradient"
    of: str
    #: (norm of the parameter, that norm, the scalars by name) -> the factor, in float64
    ratio: Callable[[float, float, Mapping[str, float]], float]


#: float64 numbers that a parameter carries from one step to the next
Carried = tuple[float, ...]


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
    #: (xp, p, g, x, s, on) -> new p; reads and sets the slots as attributes of x
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

    @property
    def carried_at_first(self) -> Carried:
        """What is carried into the first step."""
        return tuple(value for _, value in self.carried)

    def active(self, h: Hyperparameters) -> dict[str, bool]:
        """Every switch with its state under these hyperparameters."""
        return {name: bool(test(h)) for name, test in self.switches.items()}

    def active_slots(self, h: Hyperparameters) -> tuple[Slot | None, ...]:
        """The slots in order, None where a switch leaves one out."""
        on = self.active(h)
        return tuple(s if s.switch is None or on[s.switch] else None for s in self.slots)


class Hyperparameter(NamedTuple):
    """What a name means, whatever the rule."""

    #: returns a value in its canonical type, or raises TypeError or ValueError
    check: Callable[[Any], Any]
    meaning: str


HYPERPARAMETERS: dict[str, Hyperparameter] = {
    "lr": Hyperparameter(number(0), "learning rate"),
    "momentum": Hyperparameter(number(0), "what is kept of the running sum of steps; 0 for none"),
    "dampening": Hyperparameter(number(0), "what a gradient loses before it is added to the running sum"),
    "weight_decay": Hyperparameter(number(0), "how strongly parameters are drawn towards 0"),
    "nesterov": Hyperparameter(flag, "whether momentum looks ahead, as Nesterov's"),
    "lr_decay": Hyperparameter(number(0), "lr is divided by 1 + (step - 1) lr_decay"),
    "initial_accumulator_value": Hyperparameter(number(0), "first value of the sum of squares"),
    "eps": Hyperparameter(number(0), "added to the denominator, against division by 0"),
    "alpha": Hyperparameter(number(0, 1), "what is kept of the running averages at every step"),
    "centered": Hyperparameter(flag, "whether steps are divided by the root of the variance"),
    "betas": Hyperparameter(pair(number(0, 1)), "what is kept of the averages of gradient and square"),
    "amsgrad": Hyperparameter(flag, "whether the largest average of squares so far is used"),
    "maximize": Hyperparameter(flag, "whether to climb instead of descend"),
}


def check_hyperparameter(rule: Rule, name: str, value: Any) -> Any:
    """The value in its canonical type; TypeError or ValueError that names the hyperparameter otherwise."""
    if name not in rule.defaults:
        known = ", ".join(rule.defaults)
        raise TypeError(f"{rule.title} has no hyperparameter {name!r}; it has {known}")
    return named(name, HYPERPARAMETERS[name].check, value)


def _power(base: float, n: int) -> float:
    result = 1.0
    while n:
        if n & 1:
            result *= base
        base *= base
        n >>= 1
    return result


@functools.lru_cache(maxsize=64)
def _powers(base: float, block: int) -> tuple[float, ...]:
    if block == 0:
        return tuple([_power(base, n) for n in range(256)])
    start = _power(base, block << 8)
    return tuple([start * low for low in _powers(base, 0)])


def power(base: float, n: int) -> float:
    """base**n from multiplications alone, so that every machine gets the same bits (pow differs among them).

    256 neighbouring powers are computed together, which makes it cheap for a counter.
    """
    return _powers(base, n >> 8)[n & 0xFF]


def _decays(h: Hyperparameters) -> bool:
    return bool(h["weight_decay"] != 0)


# ---- The rules --------------------------------------------------------------------------------------


def _sgd(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    if on.momentum:
        x.momentum_buffer = s.momentum * x.momentum_buffer + s.grad_weight * g
        g = g + s.momentum * x.momentum_buffer if on.nesterov else x.momentum_buffer
    return s.decay * p - s.lr * g


def _sgd_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    # torch's first momentum is the gradient itself, without dampening
    return h["lr"], h["weight_decay"], 1.0, h["momentum"], 1.0 if step == 1 else 1.0 - h["dampening"]


def _sgd_check(h: Hyperparameters) -> None:
    if h["nesterov"] and (h["momentum"] == 0 or h["dampening"] != 0):
        raise ValueError("nesterov needs momentum above 0 and dampening 0")


SGD = Rule(
    name="sgd",
    title="SGD",
    summary="Stochastic gradient descent with momentum, dampening and Nesterov's variant.",
    source="Robbins and Monro 1951; momentum: Sutskever et al. 2013, section 2, in torch's form",
    defaults={
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "maximize": False,
    },
    kernel="sgd",
    slots=(Slot("momentum_buffer", switch="momentum"),),
    switches={
        "weight_decay": _decays,
        "momentum": lambda h: h["momentum"] != 0,
        "nesterov": lambda h: h["nesterov"],
    },
    scalars=("lr", "weight_decay", "decay", "momentum", "grad_weight"),
    fold=_sgd_fold,
    body=_sgd,
    check=_sgd_check,
)


def _adagrad(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.sum = x.sum + g * g
    return s.decay * p - s.lr * (g / (xp.sqrt(x.sum) + s.eps))


def _adagrad_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    return h["lr"] / (1.0 + (step - 1) * h["lr_decay"]), h["weight_decay"], 1.0, h["eps"]


ADAGRAD = Rule(
    name="adagrad",
    title="Adagrad",
    summary="Steps divided by the root of the sum of all squared gradients so far.",
    source="Duchi, Hazan and Singer 2011, section 1.1",
    defaults={
        "lr": 1e-2,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
        "maximize": False,
    },
    kernel="adagrad",
    slots=(Slot("sum", initial="initial_accumulator_value", unsigned=True),),
    switches={"weight_decay": _decays},
    scalars=("lr", "weight_decay", "decay", "eps"),
    fold=_adagrad_fold,
    body=_adagrad,
)


def _rmsprop(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.square_avg = s.alpha * x.square_avg + s.one_minus_alpha * (g * g)
    variance = x.square_avg
    if on.centered:
        x.grad_avg = x.grad_avg + s.one_minus_alpha * (g - x.grad_avg)
        variance = variance - x.grad_avg * x.grad_avg
        variance = xp.where(variance < 0, 0, variance)
    update = g / (xp.sqrt(variance) + s.eps)
    if on.momentum:
        x.momentum_buffer = s.momentum * x.momentum_buffer + update
        update = x.momentum_buffer
    return s.decay * p - s.lr * update


def _rmsprop_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    return h["lr"], h["weight_decay"], 1.0, h["alpha"], 1.0 - h["alpha"], h["eps"], h["momentum"]


RMSPROP = Rule(
    name="rmsprop",
    title="RMSprop",
    summary="Steps divided by the root of a running average of squared gradients, or of their variance.",
    source="Tieleman and Hinton 2012, lecture 6.5; centered: Graves 2013, section 4.2",
    defaults={
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
        "maximize": False,
    },
    kernel="rmsprop",
    slots=(
        Slot("square_avg", unsigned=True),
        Slot("momentum_buffer", switch="momentum"),
        Slot("grad_avg", switch="centered"),
    ),
    switches={
        "weight_decay": _decays,
        "momentum": lambda h: h["momentum"] != 0,
        "centered": lambda h: h["centered"],
    },
    scalars=("lr", "weight_decay", "decay", "alpha", "one_minus_alpha", "eps", "momentum"),
    fold=_rmsprop_fold,
    body=_rmsprop,
)


def _adam(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.exp_avg = x.exp_avg + s.one_minus_beta1 * (g - x.exp_avg)
    x.exp_avg_sq = s.beta2 * x.exp_avg_sq + s.one_minus_beta2 * (g * g)
    second = x.exp_avg_sq
    if on.amsgrad:
        second = xp.where(x.max_exp_avg_sq > second, x.max_exp_avg_sq, second)
        x.max_exp_avg_sq = second
    denominator = xp.sqrt(second) * s.inv_sqrt_bias_correction2 + s.eps
    return s.decay * p - s.step_size * (x.exp_avg / denominator)


def _adam_scalars(h: Hyperparameters, step: int, decay: float) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    bias_correction1, bias_correction2 = 1.0 - power(beta1, step), 1.0 - power(beta2, step)
    return (
        h["lr"] / bias_correction1,
        h["weight_decay"],
        decay,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        1.0 / math.sqrt(bias_correction2),
        h["eps"],
    )


ADAM = Rule(
    name="adam",
    title="Adam",
    summary="Bias-corrected running averages of the gradient and of its square; weight decay as an L2 term.",
    source="Kingma and Ba 2015, algorithm 1; amsgrad: Reddi, Kale and Kumar 2018, algorithm 2",
    defaults={
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
    },
    kernel="adam",
    slots=(
        Slot("exp_avg"),
        Slot("exp_avg_sq", unsigned=True),
        Slot("max_exp_avg_sq", switch="amsgrad", unsigned=True),
    ),
    switches={"weight_decay": _decays, "amsgrad": lambda h: h["amsgrad"]},
    scalars=(
        "step_size",
        "weight_decay",
        "decay",
        "one_minus_beta1",
        "beta2",
        "one_minus_beta2",
        "inv_sqrt_bias_correction2",
        "eps",
    ),
    fold=lambda h, step, carried: _adam_scalars(h, step, 1.0),
    body=_adam,
)

ADAMW = ADAM._replace(
    name="adamw",
    title="AdamW",
    summary="Adam with weight decay decoupled from the gradient.",
    source="Loshchilov and Hutter 2019, algorithm 2; amsgrad: Reddi, Kale and Kumar 2018, algorithm 2",
    defaults={**ADAM.defaults, "weight_decay": 1e-2},
    switches={**ADAM.switches, "weight_decay": lambda h: False},
    fold=lambda h, step, carried: _adam_scalars(h, step, 1.0 - h["lr"] * h["weight_decay"]),
)


def table(*rules: Rule) -> dict[str, Rule]:
    """Rules by name, once each is found to be complete; ValueError that says what is missing."""
    for rule in rules:
        unknown = rule.defaults.keys() - HYPERPARAMETERS.keys()
        if unknown:
            raise ValueError(f"{rule.name}: {sorted(unknown)[0]!r} has no entry in HYPERPARAMETERS")
        if "maximize" not in rule.defaults:
            raise ValueError(f"{rule.name}: every rule has the hyperparameter 'maximize'")
        kept = ["step", *(s.name for s in rule.slots), *(name for name, _ in rule.carried)]
        if len(set(kept)) < len(kept):
            raise ValueError(f"{rule.name}: two of what it keeps have one name: {', '.join(kept)}")
        folded = rule.fold(rule.defaults, 1, rule.carried_at_first)
        if len(folded) != len(rule.scalars):
            raise ValueError(f"{rule.name}: fold gives {len(folded)} scalars, {len(rule.scalars)} are named")
        if "decay" not in rule.scalars:
            raise ValueError(f"{rule.name}: every rule has the scalar 'decay'")
        numbers = rule.carry(rule.defaults, 1, rule.carried_at_first)
        if len(numbers) != len(rule.carried):
            raise ValueError(
                f"{rule.name}: carry gives {len(numbers)} numbers, {len(rule.carried)} are named"
            )
    return {rule.name: rule for rule in rules}


#: name -> rule, in the order of the documentation
RULES = table(SGD, ADAGRAD, RMSPROP, ADAM, ADAMW)
