"""What a layer and a loss are: the interface Sequential works with, and nothing of any particular one.

A layer knows its parameters and shapes. For each shape of batch Sequential *binds* it once: the layer then
writes the operations of its forward pass into a program, and returns what will write those of its backward
pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.program import Builder, Shape, Value

if TYPE_CHECKING:
    from fastgd.nn.activations import Activation

#: From the loss's derivative with respect to a layer's output, which may be overwritten, writes the
#: operations that fill the gradients of its parameters (Builder.gradient), and returns the derivative with
#: respect to its input, or None when the second argument says that nobody needs it.
Backward = Callable[[Value, bool], Value | None]


class Layer(ABC):
    """A part of a model: maps [batch, ...] to [batch, ...]."""

    #: Whether `bind` can do the next layer's activation in its own operation.
    fuses_activation: ClassVar[bool] = False
    #: The dtype of its input where that is not the model's.
    input_dtype: ClassVar[np.dtype[Any] | None] = None

    @property
    def activation(self) -> Activation | None:
        """The activation this layer is, for the layer before to do in its own operation."""
        return None

    @property
    def inside(self) -> tuple[Layer, ...]:
        """The layers it is made of, such as a Residual's."""
        return ()

    def parameters(self) -> dict[str, Array]:
        """The trainable arrays by name, in a fixed order. They stay the same objects for the layer's life."""
        return {}

    def buffers(self) -> dict[str, Array]:
        """Arrays that belong to its state and are not trained, by name. They stay the same objects, too."""
        return {}

    @property
    def mixes_rows(self) -> bool:
        """Whether, while training, a row's output depends on other rows of the batch."""
        return any(layer.mixes_rows for layer in self.inside)

    @property
    def keeps(self) -> tuple[str, ...]:
        """Names of what passes read or change beside parameters and input; () where there is nothing."""
        return tuple(self.buffers())

    def torch_buffers(self) -> dict[str, Array]:
        """Those of its buffers that torch's layer of this name has, too."""
        return self.buffers()

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Draws the parameters anew, in place."""
        return

    @abstractmethod
    def output_shape(self, shape: Shape) -> Shape:
        """The shape [batch, ...] that comes of an input shape; ValueError says what is wrong with one."""

    @abstractmethod
    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        """Writes the forward pass of x into a program; returns its output and what writes the backward pass.

        x stays as it is until the backward pass. activation is None unless fuses_activation.
        """


class LossPass(ABC):
    """A loss bound to a shape and a program, whose operation reads the input "target"."""

    #: receives the loss at every run, float64 [1]
    value: Array
    #: the derivative with respect to the prediction; None without gradients
    dy: Value | None

    @abstractmethod
    def target(self, y: Any) -> Array:
        """y as the operation takes it; raises TypeError or ValueError that says what is wrong with it."""

    @abstractmethod
    def weight(self, target: Array) -> float | None:
        """What this loss counts in the mean over several batches; None where losses of batches add up."""

    def hits(self, prediction: Array, target: Array) -> tuple[int, int]:
        """How many labels the prediction has right, and how many there are; 0 and 0 where y has no labels."""
        return 0, 0


class Loss(ABC):
    """A number to make small, from the model's output and a target."""

    #: What turns the model's output into what it predicts: "identity", "softmax" or "sigmoid".
    link: ClassVar[str] = "identity"

    @property
    def adds_up(self) -> bool:
        """Whether the loss of a batch is the sum of its rows' losses."""
        return False

    @abstractmethod
    def bind(self, to: Builder, prediction: Value) -> LossPass:
        """Writes the loss, and its gradient if there is a backward pass, into a program.

        Raises ValueError that says what is wrong with the prediction's shape.
        """
