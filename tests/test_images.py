"""CIFAR's binary files: images, labels and names as they are, and refusals that name the file."""

import numpy as np
import pytest

from fastgd.data import DataError, load
from fastgd.readers import read

RNG = np.random.default_rng(0)


def records(n, labels=1, classes=10):
    """(bytes of a file, images, the label of each that counts)."""
    content = RNG.integers(0, 256, (n, labels + 3072)).astype(np.uint8)
    content[:, :labels] %= classes
    return (
        content.tobytes(),
        content[:, labels:].reshape(n, 3, 32, 32),
        content[:, labels - 1].astype(np.int64),
    )


def test_cifar_10(tmp_path):
    parts = [records(n) for n in (3, 4)]
    for i, (content, _, _) in enumerate(parts, 1):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(content)
    content, test_images, test_labels = records(2)
    (tmp_path / "test_batch.bin").write_bytes(content)
    names = [f"class {i}" for i in range(10)]
    (tmp_path / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    table = read(str(tmp_path))
    assert np.array_equal(table.x, np.concatenate([images for _, images, _ in parts]))
    assert np.array_equal(table.y, np.concatenate([labels for _, _, labels in parts]))
    assert np.array_equal(table.x_test, test_images) and np.array_equal(table.y_test, test_labels)
    assert table.class_names == tuple(names) and table.are_images and table.shape == (3, 32, 32)


def test_cifar_100_takes_the_fine_labels(tmp_path):
    content, _, labels = records(20, labels=2, classes=100)
    (tmp_path / "train.bin").write_bytes(content)
    table = read(str(tmp_path))
    assert np.array_equal(table.y, labels) and table.x_test is None and table.class_names == ()


def test_cifar_is_split_and_scaled(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(records(40, classes=2)[0])
    data = load(str(tmp_path))
    assert data.task == "classification" and data.shape == (3, 32, 32)
    assert data.x_train.shape == (32, 3072) and data.x_test.shape == (8, 3072)
    assert abs(data.x_train.std() - 1) < 0.1


def test_cifar_refusals(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(records(2)[0][:-1])
    with pytest.raises(DataError, match=r"data_batch_1\.bin is damaged: 6145 bytes are no whole number"):
        read(str(tmp_path))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="0 bytes are no whole number of records of 3073"):
        read(str(tmp_path))
    path.write_bytes(bytes([9]) + bytes(3072))
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"the label 9 has no name in batches\.meta\.txt"):
        read(str(tmp_path))
