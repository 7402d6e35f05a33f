"""The optimizers of fastgd.jax by name: a function for each row of the table of rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from textwrap import fill
from typing import Any

from fastgd.jax.optimizer import BESIDE, Optimizer
from fastgd.optim import KEYWORDS
from fastgd.options import LABELLING, LASTING
from fastgd.rules import RULES, Rule
from fastgd.settings import DEFAULTS, SETTINGS


def _signature(rule: Rule) -> inspect.Signature:
    plain, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, plain, default=value) for name, value in rule.defaults.items()]
    beside = {**DEFAULTS, **BESIDE}
    parameters += [inspect.Parameter(name, keyword, default=value) for name, value in beside.items()]
    return inspect.Signature(parameters, return_annotation=Optimizer)


def _doc(rule: Rule, signature: inspect.Signature) -> str:
    meanings = {name: rule.hyperparameter(name).meaning for name in rule.defaults}
    meanings |= {name: entry.meaning for name, (_, entry) in SETTINGS.items()}
    meanings |= {name: meaning for name, (_, _, meaning) in {**LASTING, **KEYWORDS, **LABELLING}.items()}
    entries = [
        fill(
            f"{p.name}: {meanings[p.name]}. Default {p.default!r}.",
            106,
            initial_indent="    ",
            subsequent_indent=" " * 8,
        )
        for p in signature.parameters.values()
    ]
    return (
        f"{rule.summary}\n\n{rule.source}.\n\n" + "\n".join(entries) + "\n\n"
        "lr may be a schedule of fastgd.schedules, a function of the count of steps that JAX can trace, as\n"
        "those of optax, or an array. Returns an Optimizer. Raises TypeError or ValueError, naming the\n"
        "argument, for one that is out of range."
    )


def _function(rule: Rule) -> Callable[..., Optimizer]:
    def make(*positional: Any, **given: Any) -> Optimizer:
        return Optimizer(rule, positional, given)

    signature = _signature(rule)
    make.__name__ = make.__qualname__ = rule.name
    make.__module__ = "fastgd.jax"
    make.__doc__ = _doc(rule, signature)
    make.__signature__ = signature  # type: ignore[attr-defined]
    return make


#: rule name -> what makes its optimizers
FUNCTIONS = {rule.name: _function(rule) for rule in RULES.values()}
