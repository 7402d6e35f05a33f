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


def adafactor(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Shazeer and Stern 2018, algorithms 4 and 5, as torch.optim.Adafactor's documentation writes them."""
    eps1, eps2 = h["eps"]
    weight = t ** h["beta2_decay"]
    if p.ndim > 1:
        x["R"] = (1 - weight) * x.get("R", 0) + weight * np.mean(g**2, axis=-1, keepdims=True)
        x["C"] = (1 - weight) * x.get("C", 0) + weight * np.mean(g**2, axis=-2, keepdims=True)
        v = x["R"] * x["C"] / np.maximum(np.mean(x["R"], axis=-2, keepdims=True), eps1)
    else:
        v = x["V"] = (1 - weight) * x.get("V", 0) + weight * g**2
    u = g / np.maximum(np.sqrt(v), eps1)
    u = u / max(1, np.sqrt(np.mean(u**2)) / h["d"])
    size = max(eps2, np.sqrt(np.mean(p**2)))
    return p - h["lr"] * h["weight_decay"] * p - min(h["lr"], 1 / np.sqrt(t)) * size * u


def muon(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Jordan et al. 2024, as torch.optim.Muon has it; the polynomial is of the singular values alone."""
    a, b, c = h["ns_coefficients"]
    x["b"] = h["momentum"] * x.get("b", 0) + (1 - h["momentum"]) * g
    u = h["momentum"] * x["b"] + (1 - h["momentum"]) * g if h["nesterov"] else x["b"]
    left, s, right = np.linalg.svd(u, full_matrices=False)
    s = s / max(np.sqrt(np.sum(s**2)), h["eps"])
    for _ in range(h["ns_steps"]):
        s = a * s + b * s**3 + c * s**5
    rows, cols = p.shape
    like_adamw = h["adjust_lr_fn"] == "match_rms_adamw"
    lr = h["lr"] * (0.2 * max(rows, cols) ** 0.5 if like_adamw else max(1, rows / cols) ** 0.5)
    return p - h["lr"] * h["weight_decay"] * p - lr * (left * s) @ right
