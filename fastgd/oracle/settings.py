"""Settings to try each rule with: away from the defaults, every switch on and off."""

from __future__ import annotations

from typing import Any

#: rule name -> settings
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {"lr": 0.03},
        {"lr": 0.03, "weight_decay": 0.07, "maximize": True},
        {"lr": 0.02, "momentum": 0.8, "dampening": 0.3},
        {"lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.07},
        {"lr": 0.02, "momentum": 0.7, "nesterov": True},
        {"lr": 0.02, "momentum": 0.7, "nesterov": True, "weight_decay": 0.05, "maximize": True},
    ],
    "adagrad": [
        {"lr": 0.05, "eps": 1e-3},
        {"lr": 0.05, "lr_decay": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-3},
        {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.07, "eps": 1e-3, "maximize": True},
    ],
    "rmsprop": [
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-2},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.07, "maximize": True},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-1, "centered": True},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-1, "centered": True, "weight_decay": 0.07},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-2, "momentum": 0.7},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-2, "momentum": 0.7, "weight_decay": 0.07},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-1, "momentum": 0.7, "centered": True},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-1, "momentum": 0.7, "centered": True, "weight_decay": 0.07},
    ],
    "adam": [
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3},
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.07, "maximize": True},
        {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-3, "amsgrad": True},
        {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-3, "amsgrad": True, "weight_decay": 0.07},
    ],
    "adamw": [
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.0},
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-3, "weight_decay": 0.3, "amsgrad": True},
    ],
    "lamb": [
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3},
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.0, "maximize": True},
    ],
    "lars": [
        {"lr": 0.5, "momentum": 0.0, "trust_coefficient": 0.1},
        {"lr": 0.5, "momentum": 0.0, "trust_coefficient": 0.1, "weight_decay": 0.07, "maximize": True},
        {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.1, "eps": 0.3},
        {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.1, "weight_decay": 0.07},
        {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.1, "nesterov": True},
        {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.1, "nesterov": True, "weight_decay": 0.07},
    ],
    "adafactor": [
        {"lr": 0.3, "beta2_decay": -0.6, "eps": (1e-3, 0.5), "d": 1.2},
        {"lr": 0.3, "eps": (1e-30, 1e-3), "weight_decay": 0.07, "maximize": True},
        {"lr": 0.05, "beta2_decay": 0.0, "eps": (0.9, 2.0), "d": 1.2, "weight_decay": 0.07},
    ],
    "muon": [
        {"lr": 0.02, "momentum": 0.7, "nesterov": False, "weight_decay": 0.3},
        {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.02, "ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 7, "adjust_lr_fn": "original"},
        {"lr": 0.02, "ns_steps": 0, "eps": 30.0, "adjust_lr_fn": "match_rms_adamw", "momentum": 0.0},
    ],
}
