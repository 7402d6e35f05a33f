"""What every reader of data makes: a table of raw values, or a sentence that says what is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from fastgd.arrays import Array


class DataError(ValueError):
    """Data that cannot be used; the message is one sentence that says what is wrong and where."""


@dataclass(frozen=True)
class Table:
    """Raw values, before splitting and scaling.

    x: any real dtype [n, features]. y: numbers or text [n] or numbers [n, targets]. x_test, y_test: the same
    of a test part of the data's own, else None. class_names: those of the integer labels, where known.
    are_images: the features are pixels, in one unit. shape: of an example, whose features are its elements in
    C order: [height, width] or [channels, height, width] of an image, [time] or [time, features] of a
    sequence; None where features are in no order.
    """

    x: Array
    y: Array
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    x_test: Array | None = None
    y_test: Array | None = None
    are_images: bool = False
    shape: tuple[int, ...] | None = None
