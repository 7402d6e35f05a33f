"""Neural networks: layers, losses and Sequential, forward and backward in native code."""

from fastgd.nn import functional, init
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
from fastgd.nn.batch_norm import BatchNorm1d, BatchNorm2d
from fastgd.nn.dropout import Dropout
from fastgd.nn.embedding import Embedding
from fastgd.nn.layer_norm import LayerNorm, RMSNorm
from fastgd.nn.layers import Linear
from fastgd.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, L1Loss, MSELoss, SmoothL1Loss
from fastgd.nn.program import Builder, Value
from fastgd.nn.residual import Residual
from fastgd.nn.sequential import Sequences, Sequential, TrainStep
from fastgd.nn.softmax import LogSoftmax, Softmax

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Builder",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
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
    "LogSoftmax",
    "Loss",
    "LossPass",
    "MSELoss",
    "Mish",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "Residual",
    "Sequences",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "Tanh",
    "TrainStep",
    "Value",
    "functional",
    "init",
]
