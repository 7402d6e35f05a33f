"""Readers of folders of images as MNIST and CIFAR are handed out: IDX files, and CIFAR's binary version."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.tables import DataError, Table


def read_folder(folder: Path) -> Table:
    """CIFAR-10's or CIFAR-100's binary files where there are some, else IDX files. Raises DataError."""
    found = next((kind for kind in CIFARS if sorted(folder.glob(kind.train))), None)
    return read_cifar(folder, found) if found else read_idx_folder(folder)


# ---- CIFAR -------------------------------------------------------------------------------------------


class Cifar(NamedTuple):
    """One of the two data sets in its binary version (Krizhevsky 2009): a record is labels and an image."""

    train: str
    test: str
    #: the number of labels in a record, of which the last one is taken
    labels: int
    #: the file with the names of the classes
    names: str


CIFARS = (
    Cifar("data_batch_*.bin", "test_batch.bin", 1, "batches.meta.txt"),
    Cifar("train.bin", "test.bin", 2, "fine_label_names.txt"),
)
CIFAR_SHAPE = (3, 32, 32)


def read_cifar(folder: Path, kind: Cifar) -> Table:
    """Training files in the order of their names, and the test file where there is one."""
    parts = [read_records(path, kind) for path in sorted(folder.glob(kind.train))]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    test = folder / kind.test
    test_images, test_labels = read_records(test, kind) if test.is_file() else (None, None)
    names = class_names(folder / kind.names)
    for part in (labels, test_labels):
        if names and part is not None and part.max() >= len(names):
            raise DataError(f"{folder}: the label {part.max()} has no name in {kind.names}")
    pixels = tuple(map(str, range(math.prod(CIFAR_SHAPE))))
    return Table(images, labels, pixels, names, test_images, test_labels, are_images=True, shape=CIFAR_SHAPE)


def read_records(path: Path, kind: Cifar) -> tuple[Array, Array]:
    """Images uint8 [n, 3, 32, 32] and labels [n]."""
    size = kind.labels + math.prod(CIFAR_SHAPE)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if content.size == 0 or content.size % size:
        raise DataError(f"{path} is damaged: {content.size} bytes are no whole number of records of {size}")
    records = content.reshape(-1, size)
    labels: Array = records[:, kind.labels - 1].astype(np.int64)
    return records[:, kind.labels :].reshape(-1, *CIFAR_SHAPE), labels


def class_names(path: Path) -> tuple[str, ...]:
    """One name on a line, in the order of the labels; () where there is no such file."""
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


# ---- IDX, the format of MNIST ------------------------------------------------------------------------

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx_folder(folder: Path) -> Table:
    """train-images-idx3-ubyte and train-labels-idx1-ubyte; t10k-... is the test part where there is one."""
    images, labels = read_idx_part(folder, "train")
    test_images = test_labels = None
    if any(folder.glob("t10k-*")):
        test_images, test_labels = read_idx_part(folder, "t10k")
        if test_images.shape[1:] != images.shape[1:]:
            raise DataError(
                f"{folder}: training images are {images.shape[1:]} and test images {test_images.shape[1:]}"
            )
    n_features = math.prod(images.shape[1:])
    names = tuple(map(str, range(n_features)))
    shape = images.shape[1:]
    return Table(images, labels, names, (), test_images, test_labels, are_images=True, shape=shape)


def read_idx_part(folder: Path, part: str) -> tuple[Array, Array]:
    images = read_idx(find_idx(folder, f"{part}-images"))
    labels = read_idx(find_idx(folder, f"{part}-labels"))
    if labels.ndim != 1 or images.ndim < 2 or len(images) != len(labels):
        raise DataError(f"{folder}: {part} has images {images.shape} and labels {labels.shape}")
    return images, labels


def find_idx(folder: Path, stem: str) -> Path:
    found = sorted(path for path in folder.glob(f"{stem}[-.]idx*") if path.is_file())
    if not found:
        raise DataError(f"the folder {folder} has no file {stem}-idx...-ubyte, plain or .gz")
    return found[0]


def read_idx(path: Path) -> Array:
    """One IDX file: two zero bytes, a code for the dtype, the number of axes, their sizes, the values.

    Raises DataError when the header is another or the file is shorter or longer than it says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_DTYPES or content[3] == 0:
        raise DataError(f"{path} is no IDX file: it begins with {content[:4].hex(' ') or 'nothing'}")
    ndim, start = content[3], 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{path} is damaged: it ends inside its header")
    shape = struct.unpack(f">{ndim}I", content[4:start])
    dtype = np.dtype(IDX_DTYPES[content[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise DataError(f"{path} is damaged: {len(content)} bytes where its header says {expected}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
