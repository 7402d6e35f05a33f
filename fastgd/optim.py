"""The optimizers by name: a class for each row of the table of rules."""

from __future__ import annotations

import inspect
from typing import Any

from fastgd.optimizer import Optimizer
from fastgd.rules import RULES, Rule

__all__ = ["CLASSES", "Optimizer", "create"]


def _optimizer_class(rule: Rule) -> type[Optimizer]:
    settings = "\n".join(
        f"    {name}: {rule.hyperparameter(name).meaning}. Default {value!r}."
        for name, value in rule.defaults.items()
    )
    like = f", as in torch.optim.{rule.title}" if rule.in_torch else ""
    doc = (
        f"{rule.summary}\n\n{rule.source}. Hyperparameters{like}:\n\n{settings}\n\n"
        "They can be changed at any time, for a group of parameters: opt.param_groups[0]['lr'] = 1e-4.\n\n"
        "params: arrays (float32 or float64, updated in place), (name, array) pairs, a mapping from names\n"
        'to arrays, or parameter groups: dicts with "params" and the hyperparameters in which they differ.\n'
        'backend: "auto", or one that fastgd.info() lists.\n\n'
        "Raises TypeError or ValueError, naming the parameter, for what cannot be updated in place."
    )
    if rule.average:
        doc += (
            "\n\nWhile training, the parameters hold what gradients are to be taken at. eval() puts the\n"
            "average in their place, which is what has been learned; train() undoes it for the next step."
        )
    members = {"rule": rule, "__doc__": doc, "__module__": __name__, "__signature__": _signature(rule)}
    return type(rule.title, (Optimizer,), members)


def _signature(rule: Rule) -> inspect.Signature:
    plain, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("params", plain)]
    parameters += [inspect.Parameter(name, plain, default=value) for name, value in rule.defaults.items()]
    return inspect.Signature([*parameters, inspect.Parameter("backend", keyword, default="auto")])


#: rule name -> optimizer class, made from the table of rules
CLASSES: dict[str, type[Optimizer]] = {rule.name: _optimizer_class(rule) for rule in RULES.values()}
globals().update({cls.__name__: cls for cls in CLASSES.values()})


def create(name: str, params: Any, **hyperparameters: Any) -> Optimizer:
    """The optimizer of that rule name ("adamw", "sgd", ...); ValueError when there is no such rule."""
    if name not in CLASSES:
        raise ValueError(f"there is no rule {name!r}; there are {', '.join(CLASSES)}")
    return CLASSES[name](params, **hyperparameters)
