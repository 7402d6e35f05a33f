"""Settings to try each rule with: away from the defaults, every switch on and off."""

from __future__ import annotations

from typing import Any

#: rule name -> how many steps to try, where 4 do not show all of the formula
STEPS = {"radam": 7}  # up to the fifth, the average of squares is too short to be used

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
    "asgd": [
        {"lr": 0.05, "lambd": 0.3, "alpha": 0.6, "t0": 1.0},
        {"lr": 0.05, "lambd": 0.3, "alpha": 0.75, "t0": 0.0, "weight_decay": 0.07, "maximize": True},
    ],
    "sgd_schedule_free": [
        {"lr": 0.05, "momentum": 0.8},
        {"lr": 0.05, "momentum": 0.7, "weight_decay": 0.07, "maximize": True},
        {"lr": 0.05, "momentum": 0.7, "warmup_steps": 3, "r": 0.5, "weight_lr_power": 1.5},
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
    "adadelta": [
        {"lr": 0.5, "rho": 0.7, "eps": 1e-3},
        {"lr": 0.5, "rho": 0.7, "eps": 1e-2, "weight_decay": 0.07, "maximize": True},
    ],
    "adam": [
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3},
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.07, "maximize": True},
        {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-3, "amsgrad": True},
        {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-3, "amsgrad": True, "weight_decay": 0.07},
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3, "decoupled_weight_decay": True},
        {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.05, "decouple_lr": True, "max_lr": 0.03},
    ],
    "adamw": [
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.0},
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-3, "weight_decay": 0.3, "amsgrad": True},
        {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.05, "decouple_lr": True, "max_lr": 0.03},
    ],
    "adamw_schedule_free": [
        {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3},
        {"lr": 0.03, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "maximize": True},
        {"lr": 0.03, "eps": 1e-3, "weight_decay": 0.02, "warmup_steps": 3, "r": 1.0, "decouple_lr": True},
        {"lr": 0.03, "weight_decay": 0.02, "weight_lr_power": 0.7, "decouple_lr": True, "max_lr": 0.05},
    ],
    "adamax": [
        {"lr": 0.03, "betas": (0.8, 0.7), "eps": 1e-2},
        {"lr": 0.03, "betas": (0.8, 0.7), "eps": 1e-2, "weight_decay": 0.07, "maximize": True},
    ],
    "nadam": [
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "momentum_decay": 0.3},
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.07, "maximize": True},
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3, "decoupled_weight_decay": True},
        {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.05, "decouple_lr": True, "max_lr": 0.03},
    ],
    "radam": [
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3},
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.07, "maximize": True},
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3, "decoupled_weight_decay": True},
        {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.05, "decouple_lr": True, "max_lr": 0.03},
    ],
    "adabelief": [
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3},
        {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-3, "weight_decay": 0.3, "amsgrad": True},
        {
            "lr": 0.02,
            "betas": (0.8, 0.95),
            "eps": 1e-3,
            "weight_decay": 0.07,
            "decoupled_weight_decay": False,
            "maximize": True,
        },
        {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.05, "decouple_lr": True, "max_lr": 0.03},
    ],
    "yogi": [
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-2, "initial_accumulator_value": 0.3},
        {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-2, "weight_decay": 0.07, "maximize": True},
    ],
    "adan": [
        {"lr": 0.02, "betas": (0.8, 0.7, 0.95), "eps": 1e-3},
        {"lr": 0.02, "betas": (0.8, 0.7, 0.95), "eps": 1e-3, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.02, "betas": (0.8, 0.7, 0.95), "eps": 1e-3, "weight_decay": 0.3, "no_prox": True},
        {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.05, "decouple_lr": True, "max_lr": 0.03},
    ],
    "ademamix": [
        {"lr": 0.02, "betas": (0.8, 0.95, 0.98), "alpha": 3.0, "eps": 1e-3},
        {"lr": 0.02, "betas": (0.8, 0.95, 0.98), "eps": 1e-3, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.02, "betas": (0.7, 0.95, 0.98), "eps": 1e-3, "alpha_warmup": 3, "beta3_warmup": 4},
        {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.05, "decouple_lr": True, "max_lr": 0.03},
    ],
    "lion": [
        {"lr": 0.02, "betas": (0.8, 0.7)},
        {"lr": 0.02, "betas": (0.8, 0.7), "weight_decay": 0.3, "maximize": True},
        {"lr": 0.02, "weight_decay": 0.05, "decouple_lr": True, "max_lr": 0.03},
    ],
    "signum": [
        {"lr": 0.02, "momentum": 0.7},
        {"lr": 0.02, "momentum": 0.0, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.02, "weight_decay": 0.05, "decouple_lr": True, "max_lr": 0.03},
    ],
    "rprop": [
        {"lr": 0.02, "etas": (0.4, 1.3), "step_sizes": (1e-2, 0.03)},
        {"lr": 0.02, "maximize": True},
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
