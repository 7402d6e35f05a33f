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


def adadelta(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Zeiler 2012, algorithm 1."""
    g = g + h["weight_decay"] * p
    rho, eps = h["rho"], h["eps"]
    x["g2"] = rho * x.get("g2", 0) + (1 - rho) * g**2
    delta = -np.sqrt(x.get("d2", 0) + eps) / np.sqrt(x["g2"] + eps) * g
    x["d2"] = rho * x.get("d2", 0) + (1 - rho) * delta**2
    return p + h["lr"] * delta


def asgd(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Xu 2011, as torch.optim.ASGD writes it; the average of parameters does not come back into them."""
    eta = h["lr"] / (1 + h["lambd"] * h["lr"] * (t - 1)) ** h["alpha"]
    return p - eta * (g + h["weight_decay"] * p + h["lambd"] * p)


def decay(p: Any, h: Mapping[str, Any]) -> Any:
    """What decoupled weight decay takes of p; lr is eta_t alpha of Loshchilov and Hutter 2019."""
    if h["decouple_lr"]:
        max_lr = h["lr"] if h["max_lr"] is None else h["max_lr"]
        return h["lr"] / max_lr * h["weight_decay"] * p
    return h["lr"] * h["weight_decay"] * p


def decayed(p: Any, g: Any, h: Mapping[str, Any]) -> tuple[Any, Any]:
    """Parameter and gradient after weight decay of either kind."""
    if h["decoupled_weight_decay"] or h["decouple_lr"]:
        return p - decay(p, h), g
    return p, g + h["weight_decay"] * p


def adam(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Kingma and Ba 2015, algorithm 1; Reddi, Kale and Kumar 2018, algorithm 2, corrected as in torch."""
    p, g = decayed(p, g, h)
    return _adam(p, g, x, t, h)


def adamw(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Loshchilov and Hutter 2019, algorithm 2; as in torch, the decay is lr times weight_decay."""
    return _adam(p - decay(p, h), g, x, t, h)


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
    """You, Gitman and Ginsburg 2017, algorithm 1, eps in equation 6; the ratio is 1 where a norm is 0."""
    norm, other = np.linalg.norm(p), np.linalg.norm(g)
    ratio = h["trust_coefficient"] * norm / (other + h["weight_decay"] * norm + h["eps"])
    v = h["lr"] * (ratio if norm and other else 1) * (g + h["weight_decay"] * p)
    x["v"] = h["momentum"] * x.get("v", 0) + v
    return p - (v + h["momentum"] * x["v"] if h["nesterov"] else x["v"])


def adamax(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Kingma and Ba 2015, algorithm 2; eps as in torch."""
    g = g + h["weight_decay"] * p
    beta1, beta2 = h["betas"]
    x["m"] = beta1 * x.get("m", 0) + (1 - beta1) * g
    x["u"] = np.maximum(beta2 * x.get("u", 0), np.abs(g) + h["eps"])
    return p - h["lr"] / (1 - beta1**t) * x["m"] / x["u"]


def nadam(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Dozat 2016, algorithm 2, with torch's schedule of mu."""
    p, g = decayed(p, g, h)
    beta1, beta2 = h["betas"]
    mu = [beta1 * (1 - 0.96 ** (k * h["momentum_decay"]) / 2) for k in range(1, t + 2)]
    x["m"] = beta1 * x.get("m", 0) + (1 - beta1) * g
    x["v"] = beta2 * x.get("v", 0) + (1 - beta2) * g**2
    m_bar = (1 - mu[-2]) * g / (1 - np.prod(mu[:-1])) + mu[-1] * x["m"] / (1 - np.prod(mu))
    return p - h["lr"] * m_bar / (np.sqrt(x["v"] / (1 - beta2**t)) + h["eps"])


def radam(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Liu et al. 2020, algorithm 2; from a length above 5 on and with eps as in torch."""
    p, g = decayed(p, g, h)
    beta1, beta2 = h["betas"]
    x["m"] = beta1 * x.get("m", 0) + (1 - beta1) * g
    x["v"] = beta2 * x.get("v", 0) + (1 - beta2) * g**2
    m_hat = x["m"] / (1 - beta1**t)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho <= 5:
        return p - h["lr"] * m_hat
    r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    return p - h["lr"] * r * m_hat * np.sqrt(1 - beta2**t) / (np.sqrt(x["v"]) + h["eps"])


def adabelief(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Zhuang et al. 2020, algorithm 2."""
    p, g = decayed(p, g, h)
    beta1, beta2 = h["betas"]
    x["m"] = beta1 * x.get("m", 0) + (1 - beta1) * g
    x["s"] = beta2 * x.get("s", 0) + (1 - beta2) * (g - x["m"]) ** 2 + h["eps"]
    s = x["s"]
    if h["amsgrad"]:
        s = x["largest"] = np.maximum(x.get("largest", 0), s)
    return p - h["lr"] * x["m"] / (1 - beta1**t) / (np.sqrt(s / (1 - beta2**t)) + h["eps"])


def yogi(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Zaheer et al. 2018, algorithm 2, with both averages corrected."""
    g = g + h["weight_decay"] * p
    beta1, beta2 = h["betas"]
    v = x.get("v", h["initial_accumulator_value"])
    x["m"] = beta1 * x.get("m", 0) + (1 - beta1) * g
    x["v"] = v - (1 - beta2) * np.sign(v - g**2) * g**2
    return p - h["lr"] * x["m"] / (1 - beta1**t) / (np.sqrt(x["v"] / (1 - beta2**t)) + h["eps"])


def adan(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Xie et al. 2022, algorithm 1, whose betas are 1 minus these; bias corrected as in the authors' code."""
    beta1, beta2, beta3 = (1 - b for b in h["betas"])
    difference = g - x.get("g", g)
    x["m"] = (1 - beta1) * x.get("m", 0) + beta1 * g
    x["v"] = (1 - beta2) * x.get("v", 0) + beta2 * difference
    x["n"] = (1 - beta3) * x.get("n", 0) + beta3 * (g + (1 - beta2) * difference) ** 2
    x["g"] = g
    m, v, n = (x[k] / (1 - (1 - b) ** t) for k, b in (("m", beta1), ("v", beta2), ("n", beta3)))
    update = h["lr"] / (np.sqrt(n) + h["eps"]) * (m + (1 - beta2) * v)
    if h["no_prox"]:
        return p - decay(p, h) - update
    return (p - update) / (1 + decay(1.0, h))


def ademamix(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Pagliardini, Ablin and Grangier 2024, algorithm 1, with the schedules of section 3."""
    beta1, beta2, beta3 = h["betas"]
    alpha = h["alpha"]
    if t < h["alpha_warmup"]:
        alpha = alpha * t / h["alpha_warmup"]
    if t < h["beta3_warmup"]:
        start, end = (np.log(0.5) / np.log(b + 1e-8) - 1 for b in (beta1, beta3))
        beta3 = 0.5 ** (1 / (start + (end - start) * t / h["beta3_warmup"] + 1))
    x["m1"] = beta1 * x.get("m1", 0) + (1 - beta1) * g
    x["m2"] = beta3 * x.get("m2", 0) + (1 - beta3) * g
    x["v"] = beta2 * x.get("v", 0) + (1 - beta2) * g**2
    update = x["m1"] / (1 - beta1**t) + alpha * x["m2"]
    return p - h["lr"] * update / (np.sqrt(x["v"] / (1 - beta2**t)) + h["eps"]) - decay(p, h)


def lion(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Chen et al. 2023, algorithm 2."""
    beta1, beta2 = h["betas"]
    m = x.get("m", 0)
    x["m"] = beta2 * m + (1 - beta2) * g
    return p - h["lr"] * np.sign(beta1 * m + (1 - beta1) * g) - decay(p, h)


def signum(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Bernstein et al. 2018, algorithm 2."""
    x["m"] = h["momentum"] * x.get("m", 0) + (1 - h["momentum"]) * g
    return p - h["lr"] * np.sign(x["m"]) - decay(p, h)


def rprop(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Igel and Huesken 2000, iRprop-."""
    size, before = x.get("size", np.full_like(p, h["lr"])), x.get("g", np.zeros_like(p))
    turned, kept = g * before < 0, g * before > 0
    size = np.where(turned, size * h["etas"][0], np.where(kept, size * h["etas"][1], size))
    x["size"] = np.clip(size, *h["step_sizes"])
    x["g"] = np.where(turned, 0.0, g)
    return p - x["size"] * np.sign(x["g"])


def sgd_schedule_free(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Defazio et al. 2024, equations 3 to 5, with weight decay at y."""
    return _schedule_free(p, g + h["weight_decay"] * p, x, t, h, h["momentum"])


def adamw_schedule_free(p: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any]) -> Any:
    """Defazio et al. 2024, algorithm 1."""
    beta1, beta2 = h["betas"]
    x["v"] = beta2 * x.get("v", 0) + (1 - beta2) * g**2
    g = g / (np.sqrt(x["v"] / (1 - beta2**t)) + h["eps"])
    return _schedule_free(p, g + decay(p, h) / h["lr"], x, t, h, beta1)


def _schedule_free(y: Any, g: Any, x: dict[str, Any], t: int, h: Mapping[str, Any], beta: float) -> Any:
    """z steps, x is the weighted average of all z so far, and y is between the two."""
    lr = h["lr"] * min(1, t / h["warmup_steps"]) if h["warmup_steps"] else h["lr"]
    x.setdefault("steps", []).append(lr)
    weights = [k ** h["r"] * max(x["steps"][:k]) ** h["weight_lr_power"] for k in range(1, t + 1)]
    x["z"] = x.get("z", y) - lr * g
    share = weights[-1] / sum(weights)
    x["x"] = (1 - share) * x.get("x", y) + share * x["z"]
    return (1 - beta) * x["z"] + beta * x["x"]


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
