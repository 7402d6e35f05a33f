"""The rules once more, as the textbooks have them: float64, raw hyperparameters, no thought of speed.

Nothing here is shared with rules.py. A function takes the parameter `p`, the gradient `g`, a dict `x`
of its own for state, the step `t` counted from 1, and the hyperparameters `h`; it returns the new `p`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Function = Callable[[Any, Any, dict[str, Any], int, Mapping[str, Any]], Any]


def sgd(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Sutskever et al. 2013, section 2, as the documentation of torch.optim.SGD writes it."""
    g = g + h["weight_decay"] * p
    if h["momentum"]:
        x["b"] = g if t == 1 else h["momentum"] * x["b"] + (1 - h["dampening"]) * g
        g = g + h["momentum"] * x["b"] if h["nesterov"] else x["b"]
    return p - h["lr"] * g


def adagrad(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Duchi, Hazan and Singer 2011, section 1.1, diagonal form."""
    g = g + h["weight_decay"] * p
    x["s"] = x.get("s", h["initial_accumulator_value"]) + g**2
    return p - h["lr"] / (1 + (t - 1) * h["lr_decay"]) * g / (np.sqrt(x["s"]) + h["eps"])


def rmsprop(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Tieleman and Hinton 2012, lecture 6.5; Graves 2013, section 4.2, equations 38 to 45."""
    g = g + h["weight_decay"] * p
    x["n"] = h["alpha"] * x.get("n", 0) + (1 - h["alpha"]) * g**2
    variance = x["n"]
    if h["centered"]:
        x["g"] = h["alpha"] * x.get("g", 0) + (1 - h["alpha"]) * g
        variance = np.maximum(variance - x["g"] ** 2, 0)
    x["b"] = h["momentum"] * x.get("b", 0) + g / (np.sqrt(variance) + h["eps"])
    return p - h["lr"] * x["b"]


def adam(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Kingma and Ba 2015, algorithm 1; Reddi, Kale and Kumar 2018, algorithm 2, corrected as in torch."""
    return _adam(p, g + h["weight_decay"] * p, x, t, h)


def adamw(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Loshchilov and Hutter 2019, algorithm 2; as in torch, the decay is lr times weight_decay."""
    return _adam(p - h["lr"] * h["weight_decay"] * p, g, x, t, h)


def _adam(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    beta1, beta2 = h["betas"]
    x["m"] = beta1 * x.get("m", 0) + (1 - beta1) * g
    x["v"] = beta2 * x.get("v", 0) + (1 - beta2) * g**2
    v = x["v"]
    if h["amsgrad"]:
        v = x["largest"] = np.maximum(x.get("largest", 0), v)
    m_hat = x["m"] / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - h["lr"] * m_hat / (np.sqrt(v_hat) + h["eps"])


#: rule name -> (its function, settings to try it with: away from the defaults, every switch on and off)
ORACLE: dict[str, tuple[Function, list[dict[str, Any]]]] = {
    "sgd": (
        sgd,
        [
            {"lr": 0.03},
            {"lr": 0.03, "weight_decay": 0.07, "maximize": True},
            {"lr": 0.02, "momentum": 0.8, "dampening": 0.3},
            {"lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.07},
            {"lr": 0.02, "momentum": 0.7, "nesterov": True},
            {"lr": 0.02, "momentum": 0.7, "nesterov": True, "weight_decay": 0.05, "maximize": True},
        ],
    ),
    "adagrad": (
        adagrad,
        [
            {"lr": 0.05, "eps": 1e-3},
            {"lr": 0.05, "lr_decay": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-3},
            {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.07, "eps": 1e-3, "maximize": True},
        ],
    ),
    "rmsprop": (
        rmsprop,
        [
            {"lr": 0.02, "alpha": 0.8, "eps": 1e-2},
            {"lr": 0.02, "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.07, "maximize": True},
            {"lr": 0.02, "alpha": 0.8, "eps": 1e-1, "centered": True},
            {"lr": 0.02, "alpha": 0.8, "eps": 1e-1, "centered": True, "weight_decay": 0.07},
            {"lr": 0.02, "alpha": 0.8, "eps": 1e-2, "momentum": 0.7},
            {"lr": 0.02, "alpha": 0.8, "eps": 1e-2, "momentum": 0.7, "weight_decay": 0.07},
            {"lr": 0.02, "alpha": 0.8, "eps": 1e-1, "momentum": 0.7, "centered": True},
            {"lr": 0.02, "alpha": 0.8, "eps": 1e-1, "momentum": 0.7, "centered": True, "weight_decay": 0.07},
        ],
    ),
    "adam": (
        adam,
        [
            {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3},
            {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.07, "maximize": True},
            {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-3, "amsgrad": True},
            {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-3, "amsgrad": True, "weight_decay": 0.07},
        ],
    ),
    "adamw": (
        adamw,
        [
            {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.0},
            {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3, "maximize": True},
            {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-3, "weight_decay": 0.3, "amsgrad": True},
        ],
    ),
}


def trajectory(
    name: str, params: list[Any], grads: list[list[Any]], h: Mapping[str, Any], coefs: list[float]
) -> list[Any]:
    """The parameters after len(grads) steps; grads[t] are one step's, multiplied by coefs[t]."""
    function, _ = ORACLE[name]
    result = [np.asarray(p, np.float64) for p in params]
    states: list[dict[str, Any]] = [{} for _ in params]
    sign = -1.0 if h["maximize"] else 1.0
    for t, (step_grads, coef) in enumerate(zip(grads, coefs, strict=True), start=1):
        for i, g in enumerate(step_grads):
            result[i] = function(result[i], sign * coef * np.asarray(g, np.float64), states[i], t, h)
    return result
