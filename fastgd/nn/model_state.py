"""What a model keeps: its parameters and buffers by name, to be saved, loaded and exchanged with torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.base import Layer

Named = list[tuple[str, Array]]


def named(layers: Sequence[Layer], of: Callable[[Layer], Mapping[str, Array]]) -> Named:
    """(name, array) of every layer's arrays, "0.weight" being those of the first."""
    return [(f"{i}.{name}", array) for i, layer in enumerate(layers) for name, array in of(layer).items()]


class ModelState:
    """The state of a model of these layers."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._named = named(layers, lambda layer: layer.parameters())
        self._buffers = named(layers, lambda layer: layer.buffers())
        self._exchanged = self._named + named(layers, lambda layer: layer.torch_buffers())
        self._parameters = [array for _, array in self._named]

    def parameters(self) -> list[Array]:
        """The trainable arrays themselves, in the order of the layers. Change them in place."""
        return list(self._parameters)

    def named_parameters(self) -> Named:
        """(name, array) for each parameter, with torch's names: "0.weight", "0.bias", "2.weight" ..."""
        return list(self._named)

    def named_buffers(self) -> Named:
        """(name, array) for all else that belongs to the state: running statistics, counters of masks."""
        return list(self._buffers)

    def state_dict(self) -> dict[str, Array]:
        """Name -> copy of each parameter and buffer."""
        return {name: array.copy() for name, array in self._named + self._buffers}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copies each array into the parameter or buffer of its name.

        Raises KeyError for a name that is missing or unknown, TypeError for an array of another dtype than
        its parameter's and ValueError for one of another shape; nothing has changed then.
        """
        arrays = _checked(self._named + self._buffers, state)
        for name, array, new in arrays:
            if new.dtype != array.dtype:
                raise TypeError(f"{name} is {new.dtype} in state but {array.dtype} in the model")
        _copy(arrays)

    def load_torch_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies the `state_dict()` of a torch.nn.Sequential of the same layers, tensors or arrays.

        Names and layouts are the same in both. Numbers of other dtypes are rounded to the model's, as torch's
        own loading does. Buffers that torch does not have stay as they are: see `to_torch_state_dict`. Raises
        KeyError and ValueError as load_state_dict does, and TypeError for what is no tensor or array.
        """
        _copy(_checked(self._exchanged, {name: _from_torch(name, value) for name, value in state.items()}))

    def to_torch_state_dict(self) -> dict[str, Any]:
        """Name -> a torch tensor of its own for each parameter and buffer that torch's layers have.

        For `load_state_dict` of a torch.nn.Sequential of the same layers. What torch keeps elsewhere, the
        counters of dropout's masks, is not in it. Raises ImportError where torch is not installed.
        """
        import torch

        return {name: torch.from_numpy(array.copy()) for name, array in self._exchanged}

    def save(self, path: Any) -> None:
        """Writes state_dict() to a safetensors file, beside the old one and then renamed over it.

        However the process ends, `path` is the old file or all of the new; what a killed one leaves is
        removed by the next save. Raises fastgd.checkpoint.CheckpointError when it cannot be written.
        """
        from fastgd.checkpoint import save_file

        save_file(path, self.state_dict(), {})

    def load(self, path: Any) -> None:
        """load_state_dict from a safetensors file, its own or another framework's with the same names."""
        from fastgd.checkpoint import load_file

        self.load_state_dict(load_file(path)[0])


def _checked(own: Named, state: Mapping[str, Any]) -> list[tuple[str, Array, Array]]:
    """(name, own array, the state's) once all are known to be there and to have the right shapes."""
    names = {name for name, _ in own}
    missing, unknown = sorted(names - set(state)), sorted(set(state) - names)
    if missing or unknown:
        raise KeyError(f"state lacks the parameters {missing} and has {unknown}, which the model does not")
    arrays = [(name, array, np.asarray(state[name])) for name, array in own]
    for name, array, new in arrays:
        if new.shape != array.shape:
            shapes = f"{list(new.shape)} in state but {list(array.shape)} in the model"
            raise ValueError(f"{name} has shape {shapes}")
    return arrays


def _copy(arrays: list[tuple[str, Array, Array]]) -> None:
    for _, array, new in arrays:
        array[...] = new


def _from_torch(name: str, value: Any) -> Array:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16 of its own
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be a tensor or an array of numbers, not {type(value).__name__}")
    return array
