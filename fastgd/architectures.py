"""The models that `fastgd train` knows by name: which layers each has, for a data set and its settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fastgd import nn
from fastgd.data import DataError, Dataset
from fastgd.nn.activations import ACTIVATIONS

if TYPE_CHECKING:
    from fastgd.runs import Settings


class Architecture(NamedTuple):
    """One kind of model."""

    #: its layers, the last of which has an output for each class or target
    layers: Callable[[Settings, Dataset], list[nn.Layer]]
    #: the settings that its layers depend on
    settings: tuple[str, ...]
    #: whether it foretells a character from those before it
    reads_text: bool = False


def activated(settings: Settings, layer: nn.Layer) -> list[nn.Layer]:
    return [layer, ACTIVATIONS[settings.activation]()]


def thinned(settings: Settings) -> list[nn.Layer]:
    """A dropout layer, where one is wanted."""
    return [nn.Dropout(settings.dropout)] if settings.dropout else []


def dense(settings: Settings, inside: int, dataset: Dataset) -> list[nn.Layer]:
    """The hidden layers from `inside` numbers on, and the last layer."""
    layers: list[nn.Layer] = []
    for fan_in, fan_out in itertools.pairwise((inside, *settings.hidden)):
        layers += activated(settings, nn.Linear(fan_in, fan_out)) + thinned(settings)
    return [*layers, nn.Linear((inside, *settings.hidden)[-1], dataset.n_outputs)]


def mlp(settings: Settings, dataset: Dataset) -> list[nn.Layer]:
    return dense(settings, dataset.n_features, dataset)


def cnn(settings: Settings, dataset: Dataset) -> list[nn.Layer]:
    """For each of `channels` a 3 x 3 convolution, the activation and a maximum over 2 x 2 pixels."""
    shape = dataset.shape or ()
    if len(shape) not in (2, 3):
        raise DataError(
            f"a cnn needs images, and an example of {dataset.name} has shape {list(shape) or 'of a table'}"
        )
    channels, height, width = shape if len(shape) == 3 else (1, *shape)
    layers: list[nn.Layer] = [nn.Unflatten(1, (channels, height, width))]
    for wanted in settings.channels:
        layers += activated(settings, nn.Conv2d(channels, wanted, 3, padding=1))
        channels = wanted
        if min(height, width) >= 2:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    return [*layers, nn.Flatten(), *thinned(settings), *dense(settings, channels * height * width, dataset)]


def recurrent(kind: type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]) -> Architecture:
    """A recurrent layer for each of `hidden`; text goes through an embedding first."""

    def layers(settings: Settings, dataset: Dataset) -> list[nn.Layer]:
        if not settings.hidden:
            raise DataError("a recurrent model needs at least one hidden layer")
        of_text = dataset.task == "text"
        shape = dataset.shape or (dataset.n_features,)
        if len(shape) == 3 and shape[0] == 1:
            shape = shape[1:]
        if len(shape) > 2:
            raise DataError(
                f"a recurrent model needs sequences [time] or [time, features], and an example of "
                f"{dataset.name} has shape {list(shape)}"
            )
        time, features = shape if len(shape) == 2 else (shape[0], 1)
        first: nn.Layer = nn.Unflatten(1, (time, features))
        if of_text:
            features = settings.embedding
            first = nn.Embedding(dataset.n_outputs, features)
        made = [first]
        for i, (inside, outside) in enumerate(itertools.pairwise((features, *settings.hidden)), 1):
            is_last = i == len(settings.hidden) and not of_text
            made += [kind(inside, outside, output="last" if is_last else "sequence"), *thinned(settings)]
        return [*made, nn.Linear(settings.hidden[-1], dataset.n_outputs)]

    return Architecture(layers, ("hidden", "embedding", "dropout"), reads_text=True)


def layers_of(settings: Settings, dataset: Dataset) -> list[nn.Layer]:
    """The layers of the model that the settings name. Raises DataError when it cannot take the data."""
    architecture = ARCHITECTURES[settings.model]
    if dataset.task == "text" and not architecture.reads_text:
        readers = ", ".join(name for name, other in ARCHITECTURES.items() if other.reads_text)
        raise DataError(f"text needs a recurrent model, {readers}, and {settings.model} is none")
    return architecture.layers(settings, dataset)


ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(mlp, ("hidden", "activation", "dropout")),
    "cnn": Architecture(cnn, ("channels", "hidden", "activation", "dropout")),
    "rnn": recurrent(nn.RNN),
    "lstm": recurrent(nn.LSTM),
    "gru": recurrent(nn.GRU),
}
