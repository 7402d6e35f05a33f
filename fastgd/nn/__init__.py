"""Neural networks: layers, losses and Sequential, forward and backward in native code."""

from fastgd.nn.base import Layer, Loss, LossPass, Pass
from fastgd.nn.layers import Linear, ReLU, Sigmoid, Tanh
from fastgd.nn.losses import CrossEntropyLoss, MSELoss
from fastgd.nn.sequential import Sequential, TrainStep

__all__ = [
    "CrossEntropyLoss",
    "Layer",
    "Linear",
    "Loss",
    "LossPass",
    "MSELoss",
    "Pass",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "TrainStep",
]
