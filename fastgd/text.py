"""Text as data for character-level models: windows of characters, each foretold from those before it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from fastgd import nn
from fastgd.arrays import Array
from fastgd.data import MAX_CLASSES, Dataset, Scaling
from fastgd.tables import DataError

#: what --data begins with for text; behind it a file, or nothing for the default text
PREFIX = "text"


def is_text(source: str) -> bool:
    return source == PREFIX or source.startswith(f"{PREFIX}:")


def load_text(
    source: str, *, context: int = 64, test_size: float = 0.2, scaling: Scaling | None = None
) -> Dataset:
    """A text cut into windows: x int64 [windows, context], characters by number, and y, the ones that follow.

    source: "text:FILE" with UTF-8 text, or "text": the documentation of the language that CPython carries in
        pydoc_data, which differs a little between its versions.
    context: characters in a window, which a model sees when it foretells the last one's successor.
    test_size: the share at the end of the text that is tested on.
    scaling: that of a trained model, whose characters these must be.

    Raises DataError.
    """
    if not 0 < test_size < 1:
        raise DataError(f"the share to test on must lie between 0 and 1, not {test_size}")
    if context < 1:
        raise DataError(f"the context must be at least 1 character, not {context}")
    text = read_text(source)
    names = scaling.class_names if scaling else tuple(sorted(set(text)))
    if len(names) > MAX_CLASSES:
        raise DataError(f"{source} has {len(names)} different characters, more than {MAX_CLASSES}")
    numbers = numbered(source, text, names)
    n_test = round(len(numbers) * test_size)
    parts = [numbers[: len(numbers) - n_test], numbers[len(numbers) - n_test :]]
    if min(map(len, parts)) <= context:
        raise DataError(
            f"{source} has {len(text)} characters, too few for windows of {context} in both parts"
        )
    (x_train, y_train), (x_test, y_test) = (windows(part, context) for part in parts)
    if scaling is None:
        none = np.zeros(0)
        scaling = Scaling(none, none, none, none, (), names)
    return Dataset(source, "text", x_train, y_train, x_test, y_test, scaling, (context,))


def read_text(source: str) -> str:
    _, _, file = source.partition(":")
    if not file:
        from pydoc_data import topics

        return "\n".join(topics.topics.values())
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text") from error
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def numbered(source: str, text: str, names: tuple[str, ...]) -> Array:
    """int64, the index in names of every character."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    known = np.array([ord(name) for name in names], np.uint32)
    order = np.argsort(known)
    places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    found: Array = order[places]
    strange = codes[known[found] != codes]
    if strange.size:
        raise DataError(f"{source}: the character {chr(strange[0])!r} is none that the model was trained on")
    return found


def windows(numbers: Array, context: int) -> tuple[Array, Array]:
    """Windows one behind the other, and for each of their characters the next one; the rest is left out."""
    n = (len(numbers) - 1) // context
    x, y = (numbers[first : first + n * context].reshape(n, context) for first in (0, 1))
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def scores(model: nn.Sequential, x: Array, y: Array, batch_size: int) -> dict[str, float]:
    """{"bits_per_character", "accuracy"} of what the model foretells."""
    found = model.evaluate(x, y, batch_size=batch_size)
    assert found.accuracy is not None
    return {"bits_per_character": found.loss / math.log(2), "accuracy": found.accuracy}


def sample(
    model: nn.Sequential,
    names: tuple[str, ...],
    *,
    length: int = 300,
    context: int = 64,
    start: str = "The ",
    temperature: float = 0.8,
    seed: Any = 0,
) -> str:
    """Text as the model writes it: `start`, then `length` characters, each drawn as the model foretells it.

    context: how many of the last characters the model sees. temperature: logits are divided by it, so that
        small values draw likely characters more often.
    """
    rng = np.random.default_rng(seed)
    number = {name: i for i, name in enumerate(names)}
    written = [number[c] for c in start if c in number] or [0]
    for _ in range(length):
        logits = model.forward(np.array([written[-context:]], np.int64))[0, -1].astype(np.float64)
        weights = np.exp((logits - logits.max()) / temperature)
        written.append(int(rng.choice(len(names), p=weights / weights.sum())))
    return "".join(names[i] for i in written)
