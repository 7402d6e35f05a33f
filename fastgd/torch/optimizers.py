"""The optimizers of fastgd.torch by name: a class for each row of the table of rules."""

from __future__ import annotations

import inspect
from textwrap import fill
from typing import Any

import torch

from fastgd.optim import KEYWORDS
from fastgd.options import LASTING
from fastgd.rules import RULES, Rule
from fastgd.settings import DEFAULTS, SETTINGS
from fastgd.torch.optimizer import WHOLE, Native


def _parameters(rule: Rule, torch_class: type[Any] | None) -> list[inspect.Parameter]:
    """What the class takes: torch's arguments, then fastgd's own."""
    plain, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    if torch_class:
        first = list(inspect.signature(torch_class).parameters.values())
    else:
        first = [inspect.Parameter("params", plain)]
        first += [inspect.Parameter(name, plain, default=value) for name, value in rule.defaults.items()]
    known = {p.name for p in first}
    beside = {**rule.defaults, **DEFAULTS, **WHOLE}
    own = [inspect.Parameter(k, keyword, default=v) for k, v in beside.items() if k not in known]
    return [*first, *own]


def _doc(rule: Rule, parameters: list[inspect.Parameter], torch_class: type[Any] | None) -> str:
    meanings = {name: rule.hyperparameter(name).meaning for name in rule.defaults}
    meanings |= {name: entry.meaning for name, (_, entry) in SETTINGS.items()}
    meanings |= {name: meaning for name, (_, _, meaning) in {**LASTING, **KEYWORDS}.items()}
    entries = [
        fill(
            f"{p.name}: {meanings[p.name]}. Default {p.default!r}.",
            106,
            initial_indent="    ",
            subsequent_indent=" " * 8,
        )
        for p in parameters
        if p.name in meanings
    ]
    as_torch = ""
    if torch_class:
        as_torch = (
            f"As torch.optim.{rule.title}, of which it is a subclass: arguments, groups, state and errors.\n"
            "foreach, fused and capturable change nothing; differentiable hands the steps to torch.\n\n"
        )
    arguments = "\n".join(entries)
    return (
        f"{rule.summary}\n\n{rule.source}.\n\n{as_torch}"
        "params: tensors, (name, tensor) pairs or groups, in float32, float64, bfloat16, float16 or complex\n"
        "numbers; of any layout, on the CPU or a CUDA device, DTensors too. Arguments:\n\n"
        f"{arguments}"
    )


def _class(rule: Rule, made: dict[str, type[Native]]) -> type[Native]:
    torch_class = getattr(torch.optim, rule.title) if rule.in_torch else None
    parameters = _parameters(rule, torch_class)
    signature = inspect.Signature(parameters)
    torch_names = inspect.signature(torch_class).parameters if torch_class else {}
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)

    def __init__(self: Native, *positional: Any, **given: Any) -> None:
        arguments = signature.bind(*positional, **given).arguments
        self._make(arguments.pop("params"), arguments)

    __init__.__signature__ = inspect.Signature([itself, *parameters])  # type: ignore[attr-defined]
    bases: tuple[type[Any], ...] = (Native,)
    if torch_class:
        parents = [made[base.__name__] for base in torch_class.__mro__[1:] if base.__name__ in made]
        bases = (*(parents or [Native]), torch_class)
    members = {
        "__init__": __init__,
        "__doc__": _doc(rule, parameters, torch_class),
        "__module__": "fastgd.torch",
        "rule": rule,
        "torch_class": torch_class,
        "own": {k: v for k, v in {**rule.defaults, **DEFAULTS}.items() if k not in torch_names},
    }
    return type(rule.title, bases, members)


def classes() -> dict[str, type[Native]]:
    """Class by title, made from the table of rules."""
    made: dict[str, type[Native]] = {}
    for rule in RULES.values():
        made[rule.title] = _class(rule, made)
    return made


CLASSES = classes()
