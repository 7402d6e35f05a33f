"""The optimizers by name: a class for each row of the table of rules."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from textwrap import fill
from typing import Any

from fastgd.optimizer import Optimizer
from fastgd.rules import RULES, Rule
from fastgd.settings import DEFAULTS, SETTINGS

__all__ = ["CLASSES", "Optimizer", "create"]


#: keyword arguments beside the hyperparameters and settings -> (type, default, meaning)
KEYWORDS: dict[str, tuple[str, Any, str]] = {
    "seed": ("int", 0, "of the random bits of stochastic rounding, from 0 to 2**64 - 1"),
    "copies": (
        "Any",
        None,
        "arrays in the shapes of the parameters, or None for one without, in order or by name: written with "
        "the new parameters in the same pass, rounded to their dtype, for a model to use",
    ),
    "backend": ("str", "auto", "'auto', by where the parameters are, or one that fastgd.info() lists"),
}


_FIXED = [name for name, (_, entry) in SETTINGS.items() if entry.fixed]


def _described(entries: Mapping[str, tuple[Any, str]]) -> str:
    return "\n".join(
        fill(
            f"{name}: {meaning}. Default {default!r}.", 106, initial_indent="    ", subsequent_indent=" " * 8
        )
        for name, (default, meaning) in entries.items()
    )


def optimizer_class(rule: Rule, module: str = __name__) -> type[Optimizer]:
    """The class of a rule's optimizers. module: where it is to be found."""
    own = {name: (value, rule.hyperparameter(name).meaning) for name, value in rule.defaults.items()}
    settings = {name: (value, entry.meaning) for name, (value, entry) in SETTINGS.items()}
    others = {name: (value, meaning) for name, (_, value, meaning) in KEYWORDS.items()}
    like = f", as in torch.optim.{rule.title}" if rule.in_torch else ""
    doc = (
        f"{rule.summary}\n\n{rule.source}. Hyperparameters{like}:\n\n{_described(own)}\n\n"
        f"Settings, which every optimizer has:\n\n{_described(settings)}\n\n"
        "Both can be changed at any time, for a group of parameters: opt.param_groups[0]['lr'] = 1e-4.\n"
        f"Only {' and '.join(_FIXED)} stay as they are.\n\n"
        "params: arrays (float32, float64, bfloat16 or float16, updated in place), (name, array) pairs, a\n"
        'mapping from names to arrays, or parameter groups: dicts with "params" and the hyperparameters and\n'
        "settings in which they differ. Those in float64 are computed in float64, all others in float32.\n\n"
        f"{_described(others)}\n\n"
        "Raises TypeError or ValueError, naming the parameter, for what cannot be updated in place."
    )
    if rule.average:
        doc += (
            "\n\nWhile training, the parameters hold what gradients are to be taken at. eval() puts the\n"
            "average in their place, which is what has been learned; train() undoes it for the next step."
        )
    members = {"rule": rule, "__doc__": doc, "__module__": module, "__signature__": _signature(rule)}
    return type(rule.title, (Optimizer,), members)


def _signature(rule: Rule) -> inspect.Signature:
    plain, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("params", plain)]
    parameters += [inspect.Parameter(name, plain, default=value) for name, value in rule.defaults.items()]
    beside = {**DEFAULTS, **{name: default for name, (_, default, _) in KEYWORDS.items()}}
    parameters += [inspect.Parameter(name, keyword, default=value) for name, value in beside.items()]
    return inspect.Signature(parameters)


#: rule name -> optimizer class, made from the table of rules
CLASSES: dict[str, type[Optimizer]] = {rule.name: optimizer_class(rule) for rule in RULES.values()}
globals().update({cls.__name__: cls for cls in CLASSES.values()})


def create(name: str, params: Any, **hyperparameters: Any) -> Optimizer:
    """The optimizer of that rule name ("adamw", "sgd", ...); ValueError when there is no such rule."""
    if name not in CLASSES:
        raise ValueError(f"there is no rule {name!r}; there are {', '.join(CLASSES)}")
    return CLASSES[name](params, **hyperparameters)
