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
from fastgd.nn.attention import MultiheadAttention
from fastgd.nn.base import Layer, Loss, LossPass
from fastgd.nn.batch_norm import BatchNorm1d, BatchNorm2d
from fastgd.nn.conv import Conv1d, Conv2d
from fastgd.nn.dropout import Dropout
from fastgd.nn.embedding import Embedding
from fastgd.nn.flatten import Flatten, Unflatten
from fastgd.nn.layer_norm import LayerNorm, RMSNorm
from fastgd.nn.layers import Linear
from fastgd.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, L1Loss, MSELoss, SmoothL1Loss
from fastgd.nn.on_device import OnDevice
from fastgd.nn.pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
)
from fastgd.nn.positions import PositionalEmbedding
from fastgd.nn.program import Builder, Value
from fastgd.nn.recurrent import GRU, LSTM, RNN
from fastgd.nn.residual import Residual
from fastgd.nn.sequential import Sequences, Sequential, TrainStep
from fastgd.nn.softmax import LogSoftmax, Softmax

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Builder",
    "Conv1d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
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
    "MaxPool1d",
    "MaxPool2d",
    "Mish",
    "MultiheadAttention",
    "OnDevice",
    "PositionalEmbedding",
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
    "Unflatten",
    "Value",
    "functional",
    "init",
]
