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
from fastgd.nn.base import Layer, Loss, LossPass
from fastgd.nn.layer_norm import LayerNorm, RMSNorm
from fastgd.nn.layers import Linear
from fastgd.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, L1Loss, MSELoss, SmoothL1Loss
from fastgd.nn.program import Builder, Value
from fastgd.nn.recurrent import GRU, LSTM, RNN
from fastgd.nn.sequential import Sequences, Sequential, TrainStep

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "BCEWithLogitsLoss",
    "Builder",
    "CrossEntropyLoss",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "HuberLoss",
    "L1Loss",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "Loss",
    "LossPass",
    "MSELoss",
    "Mish",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "Sequences",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softplus",
    "Tanh",
    "TrainStep",
    "Value",
]
