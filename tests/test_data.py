"""Data sets: every reader with good and bad files, the split, the scaling and the mini-batches."""

import gzip
import struct

import numpy as np
import pytest

from fastgd.data import DataError, batches, load, prepare
from fastgd.readers import Table, read

RNG = np.random.default_rng(5)


def raw(data):
    """The features of both parts in the data's own units."""
    both = np.concatenate([data.x_train, data.x_test])
    return both * data.scaling.x_std + data.scaling.x_mean


@pytest.mark.parametrize(
    ("name", "task", "n", "features", "outputs"),
    [
        ("digits", "classification", 1797, 64, 10),
        ("breast_cancer", "classification", 569, 30, 2),
        ("breast-cancer", "classification", 569, 30, 2),
        ("diabetes", "regression", 442, 10, 1),
    ],
)
def test_built_in(name, task, n, features, outputs):
    data = load(name)
    assert (data.task, data.n_features, data.n_outputs) == (task, features, outputs)
    assert len(data.x_train) + len(data.x_test) == len(data.y_train) + len(data.y_test) == n
    assert len(data.x_test) == round(0.2 * n)
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == (np.int64 if task == "classification" else np.float32)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(DataError, match=r'pip install "fastgd\[demo\]"'):
        load("digits")


def test_unknown_name():
    with pytest.raises(
        DataError, match="no file or folder mnist, and the built-in data sets are breast_cancer"
    ):
        load("mnist")


# ---- split and scaling


def table(n=100, classes=4, **kwargs):
    y = np.arange(n) % classes
    return Table(np.arange(n * 2.0).reshape(n, 2), y, ("a", "b"), **kwargs)


def test_split_is_a_partition_and_depends_on_the_seed_only():
    one, again, other = (prepare("t", table(), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.x_train, again.x_train)
    assert not np.array_equal(one.x_train, other.x_train)
    assert np.allclose(np.sort(raw(one)[:, 0]), np.arange(0, 200, 2), atol=1e-3)


def test_rows_and_labels_stay_together():
    data = prepare("t", table())
    y = np.concatenate([data.y_train, data.y_test])
    assert np.array_equal(np.rint(raw(data)[:, 0] / 2).astype(int) % 4, y)


@pytest.mark.parametrize("test_size", [0.1, 0.25, 0.5])
def test_split_is_stratified(test_size):
    y = np.repeat([0, 1, 2], [60, 30, 10])
    data = prepare("t", Table(np.arange(100.0)[:, None], y, ("a",)), test_size=test_size)
    counts = np.bincount(data.y_test, minlength=3)
    assert counts.sum() == round(100 * test_size)
    assert np.abs(counts - test_size * np.array([60, 30, 10])).max() <= 1


def test_every_class_is_trained_on():
    y = np.array([0, 1, 2, 2, 2, 2, 2, 2])
    for seed in range(20):
        data = prepare("t", Table(np.arange(8.0)[:, None], y, ("a",)), test_size=0.5, seed=seed)
        assert set(data.y_train) == {0, 1, 2}


@pytest.mark.parametrize("test_size", [0.0, 1.0, -0.1, float("nan")])
def test_test_size_out_of_range(test_size):
    with pytest.raises(DataError, match="between 0 and 1"):
        prepare("t", table(), test_size=test_size)


def test_scaling_is_that_of_the_training_part():
    x = RNG.normal(1e6, 3.0, (200, 3))
    x[:, 1] = 7.1
    data = prepare("t", Table(x, RNG.normal(50, 10, 200), ("a", "b", "c")), test_size=0.3)
    assert np.allclose(data.x_train.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(data.x_train.std(axis=0), [1, 0, 1], atol=1e-5)
    assert not data.x_test[:, 1].any()
    assert abs(data.x_test[:, 0].mean()) > 1e-3
    assert np.allclose(data.y_train.mean(), 0, atol=1e-5)
    assert 5 < data.scaling.y_std[0] < 15


def test_pixels_share_a_standard_deviation():
    x = np.zeros((50, 3), np.uint8)
    x[:, 0], x[0, 1] = RNG.integers(0, 255, 50), 1
    y = np.arange(50) % 2
    data = prepare("t", Table(x, y, ("0", "1", "2"), are_images=True))
    assert len(set(data.scaling.x_std)) == 1
    assert np.abs(data.x_train[:, 1]).max() < 0.1


def test_a_loaded_scaling_is_used_and_checked():
    first = prepare("t", table())
    again = prepare("t", Table(table().x + 100, table().y, ("a", "b")), scaling=first.scaling)
    assert again.x_train.mean() > 0.5
    with pytest.raises(DataError, match="other feature columns"):
        prepare("t", Table(table().x, table().y, ("a", "c")), scaling=first.scaling)
    with pytest.raises(DataError, match="label 4 is none of the classes 0, 1, 2, 3"):
        prepare("t", table(classes=5), scaling=first.scaling)
    with pytest.raises(DataError, match="is a regression"):
        prepare("t", Table(table().x, table().x[:, 0] + 0.5, ("a", "b")), scaling=first.scaling)


@pytest.mark.parametrize(
    ("y", "task"),
    [
        (np.array(["no", "yes"] * 10), "classification"),
        (np.array([3.0, 5.0] * 10), "classification"),
        (np.array([True, False] * 10), "classification"),
        (np.arange(20), "regression"),
        (np.array([0.5, 1.0] * 10), "regression"),
        (np.ones((20, 2)), "regression"),
    ],
)
def test_task_is_inferred(y, task):
    assert prepare("t", Table(RNG.normal(size=(20, 1)), y, ("a",))).task == task


def test_task_is_overridden():
    x = RNG.normal(size=(20, 1))
    assert prepare("t", Table(x, np.arange(20) % 2, ("a",)), task="regression").task == "regression"
    with pytest.raises(DataError, match="texts"):
        prepare("t", Table(x, np.array(["a", "b"] * 10), ("a",)), task="regression")
    with pytest.raises(DataError, match="20 different labels in 20 rows"):
        prepare("t", Table(x, np.arange(20), ("a",)), task="classification")
    with pytest.raises(DataError, match="every example has the label 1"):
        prepare("t", Table(x, np.ones(20), ("a",)))


# ---- mini-batches


@pytest.mark.parametrize(("size", "lengths"), [("full", [10]), (1, [1] * 10), (4, [4, 4, 2]), (99, [10])])
def test_batches_draw_without_replacement(size, lengths):
    cut = list(batches(10, size, np.random.default_rng(0)))
    assert [len(rows) for rows in cut] == lengths
    assert sorted(np.concatenate(cut)) == list(range(10))


def test_batches_differ_between_epochs_and_go_on_where_they_stopped():
    rng = np.random.default_rng(0)
    first, second = (np.concatenate(list(batches(50, 7, rng))) for _ in range(2))
    assert not np.array_equal(first, second)
    rest = np.concatenate(list(batches(50, 7, np.random.default_rng(0), start=21)))
    assert np.array_equal(rest, first[21:])


def test_batch_size_below_one():
    with pytest.raises(ValueError, match="at least 1"):
        batches(10, 0, np.random.default_rng(0))


# ---- CSV


def write(tmp_path, text, name="data.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("header", [True, False])
def test_csv(tmp_path, delimiter, header):
    rows = [["width", "height", "kind"]] * header + [["1.5", "2", "cat"], ["-3e2", "4", "dog"]] * 5
    found = read(write(tmp_path, "\n".join(delimiter.join(row) for row in rows)))
    assert found.feature_names == (("width", "height") if header else ("1", "2"))
    assert found.x.tolist() == [[1.5, 2.0], [-300.0, 4.0]] * 5
    assert found.y.tolist() == ["cat", "dog"] * 5


def test_csv_quotes_byte_order_mark_blank_lines_and_windows_ends(tmp_path):
    text = '\ufeff"name, first","y"\r\n"a, ""b""\nc",1\r\n\r\nd,2\r\n'
    found = read(write(tmp_path, text))
    assert found.feature_names == ('name, first=a, "b"\nc', "name, first=d")
    assert found.y.tolist() == [1, 2]


def test_csv_rows_end_where_lines_end(tmp_path):
    """Not at the other characters that Unicode counts as the end of a line."""
    found = read(write(tmp_path, "a,y\nx\u2028y,1\nz\f,2\nx\x85,3\n"))
    assert found.feature_names == ("a=x", "a=x\u2028y", "a=z")
    assert found.y.tolist() == [1, 2, 3]


def test_csv_target_by_name_and_number(tmp_path):
    path = write(tmp_path, "a,b,c\n1,2,3\n4,5,6\n")
    found = read(path, "b")
    assert (found.feature_names, found.y.tolist()) == (("a", "c"), [2, 5])
    assert read(write(tmp_path, "1,2,3\n4,5,6\n", "plain.csv"), "1").y.tolist() == [1, 4]
    with pytest.raises(DataError, match="no column named d; the columns are a, b, c"):
        read(path, "d")
    with pytest.raises(DataError, match="several columns named a"):
        read(write(tmp_path, "a,a,b\n1,2,3\n"), "a")


def test_csv_categories_become_columns(tmp_path):
    found = read(write(tmp_path, "colour,y\nred,1\nblue,2\nred,3\n"))
    assert found.feature_names == ("colour=blue", "colour=red")
    assert found.x.tolist() == [[0, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one feature column"),
        ("a\n1\n2\n", "at least one feature column"),
        ("a,b\n", "holds no rows"),
        ("a,b\n1,2\n3\n", "line 3: 1 values where the first line has 2"),
        ("a,b\n1,2\n,4\n", "line 3, column a: the value is missing"),
        ("a,b\n1,2\n3,NaN\n", "line 3, column b: the value is missing"),
        ("a,b\n1,2\n2,2\ninf,4\n", "line 4, column a: 'inf' is not a finite number"),
        ("a,b\n1,2\n2,2\nx,4\n", "line 4, column a: 'x' is not a finite number"),
        ("a;b\n1,5;2\n2,5;3\n", "line 2, column a: '1,5' has a decimal comma"),
        ("a,b\n" + "".join(f"name{i},1\n" for i in range(21)), "column a: 'name0' is not a finite number"),
        ('a,b\n"1,2\n', "is no CSV file"),
        ("a,b\n\0,2\n", "neither an NPZ file nor text"),
    ],
)
def test_csv_refusals_name_the_place(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, text))


def test_not_text(tmp_path):
    (tmp_path / "f.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="neither an NPZ file nor UTF-8 text"):
        read(str(tmp_path / "f.csv"))


# ---- NPZ


def test_npz_with_and_without_a_test_part(tmp_path):
    x, y = RNG.normal(size=(40, 2, 3)), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    data = load(str(tmp_path / "a.npz"))
    assert (data.n_features, data.n_outputs, len(data.x_test)) == (6, 2, 8)
    np.savez(tmp_path / "b.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
    data = load(str(tmp_path / "b.npz"))
    assert len(data.x_train) == 40
    assert np.array_equal(data.x_test, data.x_train[:5])
    assert np.array_equal(data.y_test, data.y_train[:5])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 2))}, "needs arrays x and y, .* it holds x"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, "not one row for each example"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "hold no values"),
        ({"x": np.array([[1.0], [np.nan]]), "y": np.zeros(2)}, "x is NaN or infinite in row 1"),
        ({"x": np.zeros((2, 1)), "y": np.array([np.inf, 0])}, "y is NaN or infinite in row 0"),
        ({"x": np.zeros((2, 1), complex), "y": np.zeros(2)}, "x has dtype complex128"),
        ({"x": np.array([[None], [1]]), "y": np.zeros(2)}, "without pickles"),
    ],
)
def test_npz_refusals(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / "a.npz"))


def test_target_is_for_csv_only(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 1)), y=np.zeros(2))
    with pytest.raises(DataError, match="in a CSV file only"):
        load(str(tmp_path / "a.npz"), target="y")


# ---- IDX


def idx(array, code=0x08):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES = RNG.integers(0, 256, (20, 4, 5)).astype(np.uint8)
LABELS = (np.arange(20) % 3).astype(np.uint8)


def write_idx(folder, part="train", images=IMAGES, labels=LABELS, separator="-", packed=False):
    for stem, array in (
        (f"{part}-images{separator}idx3-ubyte", images),
        (f"{part}-labels{separator}idx1-ubyte", labels),
    ):
        content = idx(array)
        if packed:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / stem).write_bytes(content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("separator", ["-", "."])
def test_idx_folder(tmp_path, packed, separator):
    write_idx(tmp_path, separator=separator, packed=packed)
    write_idx(tmp_path, "t10k", IMAGES[:6], LABELS[:6], separator, packed)
    data = load(str(tmp_path))
    assert (data.task, data.n_features, data.n_outputs, len(data.x_test)) == ("classification", 20, 3, 6)
    assert np.array_equal(data.y_train, LABELS)
    assert np.allclose(raw(data)[:20], IMAGES.reshape(20, 20), atol=1e-3)


def test_idx_without_a_test_part_is_split(tmp_path):
    write_idx(tmp_path)
    assert len(load(str(tmp_path)).x_test) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file: it begins with nothing"),
        (b"\x89PNG....", "is no IDX file: it begins with 89 50 4e 47"),
        (idx(IMAGES, code=0x0A), "is no IDX file"),
        (idx(IMAGES)[:10], "it ends inside its header"),
        (idx(IMAGES)[:-1], "415 bytes where its header says 416"),
        (idx(IMAGES) + b"\0", "417 bytes where its header says 416"),
        (idx(IMAGES[:5]), "train has images"),
    ],
)
def test_idx_refusals(tmp_path, content, message):
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path))


def test_idx_damaged_gzip_and_missing_files(tmp_path):
    with pytest.raises(DataError, match="has no file train-images-idx"):
        load(str(tmp_path))
    write_idx(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is damaged"):
        load(str(tmp_path))


@pytest.mark.parametrize("code", [0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E])
def test_idx_value_types(tmp_path, code):
    from fastgd.images import read_idx

    dtype = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}[code]
    values = np.array([[1, 100], [3, 7]], dtype)
    (tmp_path / "f").write_bytes(idx(values, code))
    assert read_idx(tmp_path / "f").dtype == dtype
    assert np.array_equal(read_idx(tmp_path / "f"), values)
