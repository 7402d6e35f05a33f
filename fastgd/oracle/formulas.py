"""The formulas of the oracle.

A function takes the parameter `p`, the gradient `g`, a dict `x`
of its own for state, the step `t` counted from 1, and the hyperparameters `h`; it returns the new `p`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


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


def lamb(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """You et al. 2020, algorithm 2; phi is the identity, and the ratio 1 where a norm is 0."""
    beta1, beta2 = h["betas"]
    x["m"] = beta1 * x.get("m", 0) + (1 - beta1) * g
    x["v"] = beta2 * x.get("v", 0) + (1 - beta2) * g**2
    r = x["m"] / (1 - beta1**t) / (np.sqrt(x["v"] / (1 - beta2**t)) + h["eps"]) + h["weight_decay"] * p
    norm, step = np.linalg.norm(p), np.linalg.norm(r)
    return p - h["lr"] * (norm / step if norm and step else 1) * r


def lars(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """You, Gitman and Ginsburg 2017, algorithm 1, with eps in equation 6 and the ratio 1 where a norm is 0."""
    norm, other = np.linalg.norm(p), np.linalg.norm(g)
    ratio = h["trust_coefficient"] * norm / (other + h["weight_decay"] * norm + h["eps"])
    v = h["lr"] * (ratio if norm and other else 1) * (g + h["weight_decay"] * p)
    x["v"] = h["momentum"] * x.get("v", 0) + v
    return p - (v + h["momentum"] * x["v"] if h["nesterov"] else x["v"])
