"""Data sets ready for training: split by a seed, scaled by their training part, cut into mini-batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastgd.arrays import Array
from fastgd.readers import DataError, Table, read

__all__ = ["DataError", "Dataset", "Scaling", "batches", "load", "prepare"]

Task = Literal["classification", "regression", "text"]
BatchSize = int | Literal["full"]
MAX_INFERRED_CLASSES = 20
MAX_CLASSES = 10_000
CHUNK = 4096


@dataclass(frozen=True)
class Scaling:
    """What turns raw values into those the model sees, kept so that a loaded model sees the same.

    x = (raw - x_mean) / x_std, likewise y of a regression (float64; a constant column has std 1).
    class_names[label] is the class a label stands for; empty for a regression.
    """

    x_mean: Array
    x_std: Array
    y_mean: Array
    y_std: Array
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """A training and a test part, standardised by the training part's mean and standard deviation.

    x_train, x_test: float32 [n, features]. y_train, y_test: int64 labels [n] of a classification, or
    float32 [n, targets] of a regression, standardised: an error times scaling.y_std is in the data's units.
    Of text both are int64 [n, characters]: see fastgd.text. shape: of an example, as in fastgd.tables.Table.
    x_validation, y_validation: a part that is neither trained nor tested on, if one was held out.
    """

    name: str
    task: Task
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    scaling: Scaling
    shape: tuple[int, ...] | None = None
    x_validation: Array | None = None
    y_validation: Array | None = None

    @property
    def n_features(self) -> int:
        return int(self.x_train.shape[1])

    @property
    def n_outputs(self) -> int:
        """The classes of a classification, the targets of a regression."""
        return len(self.scaling.class_names) or int(self.y_train.shape[1])


def load(
    source: str,
    *,
    target: str | None = None,
    task: Task | None = None,
    test_size: float = 0.2,
    seed: int = 0,
    scaling: Scaling | None = None,
) -> Dataset:
    """Reads and prepares a data set.

    source: "digits", "breast_cancer" or "diabetes" (from scikit-learn), a CSV or NPZ file, or a folder of
    IDX files or of CIFAR's binary files. NPZ files hold x [n, ...] and y, or x_train, y_train, x_test and
    y_test.
    target: the column of a CSV file to predict. Default: the last.
    task: Default: classification for text, and for at most 20 different whole numbers.
    test_size: the share of the rows to test on, for data without a test part of their own; stratified by
    class. Default 0.2. seed: what the split is drawn from. Default 0.
    scaling: that of a trained model, to use instead of this data's own.

    Raises DataError, one sentence that says what is wrong and where.
    """
    return prepare(source, read(source, target), task=task, test_size=test_size, seed=seed, scaling=scaling)


def prepare(
    name: str,
    table: Table,
    *,
    task: Task | None = None,
    test_size: float = 0.2,
    seed: int = 0,
    scaling: Scaling | None = None,
) -> Dataset:
    """As `load`, from a table of raw values. Raises DataError."""
    x, y = check(name, table.x, table.y)
    if task is None:
        task = infer_task(y)
    if scaling is not None:
        if bool(scaling.class_names) != (task == "classification"):
            raise DataError(f"{name} is a {task}, for which the loaded model was not trained")
        if scaling.feature_names != table.feature_names:
            raise DataError(f"{name} has other feature columns than the loaded model was trained on")
    class_names: tuple[str, ...] = ()
    if task == "classification":
        if y.ndim != 1:
            raise DataError(f"{name}: a classification needs one target column, and there are {y.shape[1]}")
        class_names = scaling.class_names if scaling else find_classes(name, y, table.class_names)
        y = to_labels(name, y, class_names, table.class_names)
    if table.x_test is not None and table.y_test is not None:
        x_test, y_test = check(f"{name}, test part", table.x_test, table.y_test)
        if x_test.shape[1] != x.shape[1]:
            raise DataError(f"{name}: {x.shape[1]} features to train on and {x_test.shape[1]} to test on")
        if y_test.shape[1:] != y.shape[1:]:
            raise DataError(f"{name}: the training and the test part have different numbers of targets")
        if task == "classification":
            y_test = to_labels(f"{name}, test part", y_test, class_names, table.class_names)
        x_train, y_train = x, y
    else:
        train, test = split(name, y if class_names else None, len(x), test_size, seed)
        x_train, y_train, x_test, y_test = x[train], y[train], x[test], y[test]
    if not class_names:
        y_train, y_test = as_columns(name, y_train), as_columns(name, y_test)
    if scaling is None:
        scaling = measure(x_train, y_train, table, class_names)
    if not class_names:
        if len(scaling.y_mean) != y_train.shape[1]:
            raise DataError(f"{name} has another number of targets than the loaded model was trained on")
        y_train = standardise(y_train, scaling.y_mean, scaling.y_std)
        y_test = standardise(y_test, scaling.y_mean, scaling.y_std)
    x_train = standardise(x_train, scaling.x_mean, scaling.x_std)
    x_test = standardise(x_test, scaling.x_mean, scaling.x_std)
    return Dataset(name, task, x_train, y_train, x_test, y_test, scaling, table.shape)


def batches(
    n: int,
    batch_size: BatchSize,
    rng: np.random.Generator,
    start: int = 0,
    *,
    replacement: bool = False,
) -> Iterator[NDArray[np.int64]]:
    """The mini-batches of one epoch: n of the numbers below n, cut into pieces, the last may be shorter.

    batch_size: "full" for batch, 1 for stochastic, any other number for mini-batch gradient descent.
    start: the number of examples of this epoch that have been used already. Default 0.
    replacement: False (default): a permutation, each example once. True: n independent draws, among which an
    example may be several times or, with a probability that goes to 1 / e, not at all.
    Raises ValueError for a batch size below 1.
    """
    size = n if batch_size == "full" else batch_size
    if size < 1:
        raise ValueError(f"the batch size must be at least 1, not {size}")
    order = rng.integers(n, size=n) if replacement and n else rng.permutation(n)
    return (order[first : first + size] for first in range(start, n, size))


def check(name: str, x: Array, y: Array) -> tuple[Array, Array]:
    """x as [n, features] and y as [n] or [n, targets], refused when shapes, dtypes or values will not do."""
    if x.ndim < 1 or y.ndim not in (1, 2) or len(x) != len(y):
        raise DataError(f"{name}: x {x.shape} and y {y.shape} are not one row for each example")
    if len(x) == 0 or x.size == 0 or y.size == 0:
        raise DataError(f"{name}: x {x.shape} and y {y.shape} hold no values")
    x = x.reshape(len(x), -1)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.dtype.kind not in "biufUS" or x.dtype.kind not in "biuf":
        wrong, dtype = ("x", x.dtype) if x.dtype.kind not in "biuf" else ("y", y.dtype)
        raise DataError(f"{name}: {wrong} has dtype {dtype}, which is neither numbers nor labels")
    for what, values in (("x", x), ("y", y)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise DataError(f"{name}: {what} is NaN or infinite in row {row} (rows count from 0)")
    return x, y


def infer_task(y: Array) -> Task:
    """Text and few different whole numbers are classes, everything else is measured."""
    if y.dtype.kind in "USb":
        return "classification"
    if y.ndim != 1 or (y.dtype.kind == "f" and (y != np.floor(y)).any()):
        return "regression"
    n_distinct = len(np.unique(y))
    return "classification" if n_distinct <= min(MAX_INFERRED_CLASSES, len(y) // 2) else "regression"


def find_classes(name: str, y: Array, known: tuple[str, ...]) -> tuple[str, ...]:
    if known:
        return known
    distinct = np.unique(y)
    if len(distinct) < 2:
        raise DataError(f"{name}: every example has the label {label_name(distinct[0])}; two are needed")
    if len(distinct) > min(MAX_CLASSES, len(y) // 2):
        raise DataError(f"{name}: {len(distinct)} different labels in {len(y)} rows are no classes")
    return tuple(map(label_name, distinct))


def label_name(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    is_whole = not isinstance(value, str) and float(value).is_integer()
    return str(int(value)) if is_whole else str(value)


def to_labels(name: str, y: Array, class_names: tuple[str, ...], known: tuple[str, ...]) -> Array:
    """The index in class_names of every value; known: the names that the integers in y stand for, if any."""
    distinct, inverse = np.unique(y, return_inverse=True)
    number = {class_name: index for index, class_name in enumerate(class_names)}
    names = [known[int(value)] if known else label_name(value) for value in distinct]
    unknown = next((label for label in names if label not in number), None)
    if unknown is not None:
        raise DataError(f"{name}: the label {unknown} is none of the classes {', '.join(class_names[:20])}")
    labels: Array = np.array([number[label] for label in names], np.int64)[inverse]
    return labels


def split(name: str, labels: Array | None, n: int, test_size: float, seed: int) -> tuple[Array, Array]:
    """Row numbers of a training and a test part, shuffled; every class is in the training part."""
    if not 0 < test_size < 1:
        raise DataError(f"the share to test on must lie between 0 and 1, not {test_size}")
    if n < 2:
        raise DataError(f"{name}: one row cannot be split into a training and a test part")
    rng = np.random.default_rng((seed, 0))
    order = rng.permutation(n)
    n_test = min(max(1, round(n * test_size)), n - 1)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
        is_test = np.zeros(n, bool)
        is_test[((np.arange(n_test) + 0.5) * (n / n_test)).astype(np.int64)] = True
        is_first = np.ones(n, bool)
        is_first[1:] = labels[order][1:] != labels[order][:-1]
        is_test &= ~(is_first & lone_in_test(labels[order], is_test))
        if not is_test.any():
            raise DataError(f"{name}: too few rows of each class to test on a share of {test_size}")
        return rng.permutation(order[~is_test]), rng.permutation(order[is_test])
    return order[n_test:], order[:n_test]


def lone_in_test(ordered: Array, is_test: Array) -> Array:
    """For every row: whether its class has no row in the training part."""
    in_training = np.unique(ordered[~is_test])
    return ~np.isin(ordered, in_training)


def as_columns(name: str, y: Array) -> Array:
    if y.dtype.kind in "US":
        raise DataError(f"{name}: a regression needs numbers to predict, and these are texts")
    return y.reshape(len(y), -1)


def measure(x: Array, y: Array, table: Table, class_names: tuple[str, ...]) -> Scaling:
    x_mean, x_std = mean_and_std(x, shared=table.are_images)
    y_mean, y_std = (np.zeros(0), np.zeros(0)) if class_names else mean_and_std(y)
    return Scaling(x_mean, x_std, y_mean, y_std, table.feature_names, class_names)


def mean_and_std(values: Array, shared: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each column, in float64 and two passes; a constant column has standard deviation 1.

    shared: one standard deviation, the root of the mean variance. Pixels need it: at the edge of an image
    some are nearly constant, and their own would blow up the rare example in which they are not.
    """
    mean = values.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for first in range(0, len(values), CHUNK):
        squares += np.square(values[first : first + CHUNK] - mean).sum(axis=0)
    variance = squares / len(values)
    is_constant = values.max(axis=0) == values.min(axis=0)
    variance[is_constant] = 0
    mean = np.where(is_constant, values[0], mean)
    if shared:
        variance[:] = variance.mean()
    return mean, np.sqrt(np.where(variance > 0, variance, 1.0))


def standardise(values: Array, mean: Array, std: Array) -> NDArray[np.float32]:
    scaled = np.empty(values.shape, np.float32)
    for first in range(0, len(values), CHUNK):
        scaled[first : first + CHUNK] = (values[first : first + CHUNK] - mean) / std
    return scaled
