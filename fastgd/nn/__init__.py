"""Neural networks: layers, losses and Sequential, forward and backward in native code."""

from fastgd.nn.activations import (
    ELU,
    GELU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from fastgd.nn.base import Layer, Loss, LossPass, Pass
from fastgd.nn.layers import Linear
from fastgd.nn.losses import CrossEntropyLoss, MSELoss
from fastgd.nn.sequential import Sequential, TrainStep

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "CrossEntropyLoss",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Layer",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "Loss",
    "LossPass",
    "MSELoss",
    "Mish",
    "Pass",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "TrainStep",
]
