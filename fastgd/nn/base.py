"""What a layer and a loss are: the interface Sequential works with, and nothing of any particular one.

A layer knows its parameters and shapes. For each shape of batch Sequential *binds* it once: the layer then
allocates every buffer it needs, looks up its kernels and returns a pass, whose forward and backward do no
more than call them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.kernels import Kernels

if TYPE_CHECKING:
    from fastgd.nn.activations import Activation

Shape = tuple[int, ...]


class Pass(ABC):
    """One layer bound to a shape, a backend and its buffers. Handles are what Kernels.handle gives."""

    output: Array  # what forward fills, [batch, ...]

    @abstractmethod
    def forward(self, x: Any, training: bool) -> Any:
        """Fills `output` from the handle x, which stays valid until backward, and returns output's handle."""

    @abstractmethod
    def backward(self, dy: Any) -> Any:
        """From the loss's derivative with respect to output, which it may overwrite, fills the gradients.

        Returns the handle of the derivative with respect to x, or None when bound without one.
        """


class Layer(ABC):
    """A part of a model: maps [batch, ...] to [batch, ...]."""

    # Whether `bind` can do the next layer's activation in its own pass.
    fuses_activation: ClassVar[bool] = False

    @property
    def activation(self) -> Activation | None:
        """The activation this layer is, for the layer before to do in its own pass."""
        return None

    def parameters(self) -> dict[str, Array]:
        """The trainable arrays by name, in a fixed order. They stay the same objects for the layer's life."""
        return {}

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Draws the parameters anew, in place."""
        return

    @abstractmethod
    def output_shape(self, shape: Shape) -> Shape:
        """The shape [batch, ...] that comes of an input shape; ValueError says what is wrong with one."""

    @abstractmethod
    def bind(
        self,
        kernels: Kernels,
        shape: Shape,
        dtype: np.dtype[Any],
        gradients: dict[str, Array],
        needs_dx: bool,
        activation: Activation | None,
    ) -> Pass:
        """A pass for inputs of `shape` that writes the parameters' gradients into `gradients`.

        activation is None unless fuses_activation.
        """


class LossPass(ABC):
    """A loss bound to a shape, a backend and its buffers."""

    dy: Any  # the handle of the derivative that loss_and_grad fills

    @abstractmethod
    def target(self, y: Any) -> Any:
        """The handle of y, once checked; raises TypeError or ValueError that says what is wrong."""

    @abstractmethod
    def loss(self, prediction: Any, target: Any, with_grad: bool) -> float:
        """The loss; with_grad also fills dy."""


class Loss(ABC):
    """A number to make small, from the model's output and a target."""

    @abstractmethod
    def bind(self, kernels: Kernels, shape: Shape, dtype: np.dtype[Any]) -> LossPass:
        """A pass for predictions of `shape`; ValueError says what is wrong with one."""
