"""Readers of data sets as they come: scikit-learn's, CSV, NPZ and folders of images, each into a table."""

from __future__ import annotations

import csv
import io
import math
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.images import read_folder
from fastgd.tables import DataError, Table

__all__ = ["BUILT_IN", "DataError", "Table", "read"]

MAX_CATEGORIES = 20
MISSING = frozenset(["", "na", "n/a", "nan", "null", "?"])
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def read(source: str, target: str | None = None) -> Table:
    """The table of a built-in data set by name, a CSV or NPZ file, or a folder of IDX or CIFAR files.

    target: the column of a CSV file to predict, by name, or by number from 1 where there is no header.
    Default: the last. Raises DataError.
    """
    name = re.sub(r"[ -]", "_", source)
    path = Path(source)
    if name not in BUILT_IN and not path.exists():
        known = ", ".join(sorted(BUILT_IN))
        raise DataError(f"there is no file or folder {source}, and the built-in data sets are {known}")
    is_csv = name not in BUILT_IN and not path.is_dir() and not zipfile.is_zipfile(path)
    if target is not None and not is_csv:
        raise DataError(f"a target column can be chosen in a CSV file only, and {source} is none")
    try:
        if name in BUILT_IN:
            return read_sklearn(name)
        if path.is_dir():
            return read_folder(path)
        return read_csv(path, target) if is_csv else read_npz(path)
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror or error}") from error


BUILT_IN = {"digits": "load_digits", "breast_cancer": "load_breast_cancer", "diabetes": "load_diabetes"}


def read_sklearn(name: str) -> Table:
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise DataError(
            f'the data set {name} comes from scikit-learn, which is missing: pip install "fastgd[demo]"'
        ) from error
    load: Callable[[], Any] = getattr(datasets, BUILT_IN[name])
    bunch = load()
    classes = tuple(str(label) for label in bunch.get("target_names", ()))
    images = bunch.get("images")
    shape = None if images is None else images.shape[1:]
    names = tuple(map(str, bunch.feature_names))
    return Table(bunch.data, bunch.target, names, classes, are_images=images is not None, shape=shape)


# ---- CSV ---------------------------------------------------------------------------------------------


def read_csv(path: Path, target: str | None) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is neither an NPZ file nor UTF-8 text") from error
    if "\0" in text:
        raise DataError(f"{path} is neither an NPZ file nor text")
    try:
        lines, rows = parse_rows(text, sniff_delimiter(text))
    except csv.Error as error:
        raise DataError(f"{path} is no CSV file: {error}") from error
    width = len(rows[0]) if rows else 0
    for line, row in zip(lines, rows, strict=True):
        if len(row) != width:
            raise DataError(f"{path}, line {line}: {len(row)} values where the first line has {width}")
    if width < 2:
        raise DataError(f"{path}: at least one feature column and a target column are needed")
    if has_header(rows, target):
        names, rows, lines = rows[0], rows[1:], lines[1:]
    else:
        names = [str(number) for number in range(1, width + 1)]
    if not rows:
        raise DataError(f"{path} holds no rows of data")
    column = width - 1 if target is None else find_column(path, names, target)
    cells = Cells(path, lines)
    features, feature_names = [], []
    for index, (name, *values) in enumerate(zip(names, *rows, strict=True)):
        cells.refuse_missing(name, values)
        if index == column:
            y = cells.target(name, values)
        else:
            parts, part_names = cells.feature(name, values)
            features += parts
            feature_names += part_names
    return Table(np.stack(features, axis=1), y, tuple(feature_names))


def parse_rows(text: str, delimiter: str, strict: bool = True) -> tuple[list[int], list[list[str]]]:
    """The number of the line each row ends on, and its cells; blank lines are left out."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=strict
    )
    pairs = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    return [line for line, _ in pairs], [row for _, row in pairs]


def sniff_delimiter(text: str) -> str:
    """The first of tab ; | , and space that cuts the first lines into equally many cells, else the comma."""
    lines = list(io.StringIO(text, newline=""))
    head = "".join(lines[:50])
    for delimiter in "\t;|, ":
        rows = parse_rows(head, delimiter, strict=False)[1]
        if len(lines) > 50:
            rows = rows[:-1]
        widths = {len(row) for row in rows}
        if len(widths) == 1 and widths != {1}:
            return delimiter
    return ","


def has_header(rows: list[list[str]], target: str | None) -> bool:
    """The first row is a header when it holds no number and differs from what stands below it."""
    first, sample = rows[0], rows[1:200]
    if target in first and not is_number(target):
        return True
    if any(is_number(cell) for cell in first):
        return False
    columns = list(zip(*sample, strict=True))
    return any(all(map(is_number, column)) for column in columns) or not any(
        cell in column for cell, column in zip(first, columns, strict=False)
    )


def find_column(path: Path, names: list[str], target: str) -> int:
    if names.count(target) == 1:
        return names.index(target)
    many = "several columns" if target in names else "no column"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    raise DataError(f"{path} has {many} named {target}; the columns are {shown}")


def is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        return False


@dataclass(frozen=True)
class Cells:
    """The cells of one column at a time, judged; errors name the file's line and the column."""

    path: Path
    lines: list[int]

    def refuse_missing(self, name: str, values: list[str]) -> None:
        for line, value in zip(self.lines, values, strict=True):
            if value.lower() in MISSING:
                raise DataError(f"{self.path}, line {line}, column {name}: the value is missing")

    def target(self, name: str, values: list[str]) -> Array:
        numeric = [is_number(value) for value in values]
        if all(numeric):
            return np.array([float(value) for value in values])
        return np.array(values)

    def feature(self, name: str, values: list[str]) -> tuple[list[Array], list[str]]:
        """A column of numbers as it is; one of few texts as a column of 0 and 1 for each text."""
        wrong = next((index for index, value in enumerate(values) if not is_number(value)), None)
        if wrong is None:
            return [np.array([float(value) for value in values])], [name]
        where = f"{self.path}, line {self.lines[wrong]}, column {name}: {values[wrong]!r}"
        if DECIMAL_COMMA.fullmatch(values[wrong]):
            raise DataError(f"{where} has a decimal comma; numbers need a decimal point")
        categories = sorted(set(values))
        if len(categories) > MAX_CATEGORIES or sum(map(is_number, values)) > len(values) / 2:
            raise DataError(
                f"{where} is not a finite number, and a column is taken as categories only when "
                f"most of it is text and it has at most {MAX_CATEGORIES} different values"
            )
        column = np.array(values)
        parts: list[Array] = [(column == category).astype(np.float64) for category in categories]
        return parts, [f"{name}={category}" for category in categories]


# ---- NPZ ---------------------------------------------------------------------------------------------


def read_npz(path: Path) -> Table:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = set(file.files)
            names = ("x_train", "y_train", "x_test", "y_test") if "x_train" in found else ("x", "y")
            missing = [name for name in names if name not in found]
            if missing:
                has = ", ".join(sorted(found)) or "nothing"
                raise DataError(
                    f"{path} needs arrays x and y, or x_train, y_train, x_test and y_test; it holds {has}"
                )
            arrays = [file[name] for name in names]
    except DataError:
        raise
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} cannot be read as arrays without pickles: {error}") from error
    x, y = arrays[:2]
    n_features = math.prod(x.shape[1:])
    feature_names = tuple(str(index) for index in range(n_features))
    shape = x.shape[1:] if x.ndim > 2 else None
    x_test, y_test = arrays[2:] or (None, None)
    return Table(x, y, feature_names, (), x_test, y_test, shape=shape)
