"""Text as data: windows that foretell the next character, one vocabulary, and samples that repeat."""

import numpy as np
import pytest

from fastgd import nn
from fastgd.data import DataError
from fastgd.text import load_text, sample, scores


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("ab\u00e9c\U0001f600 " * 50, encoding="utf-8")
    return f"text:{path}"


def decoded(data, row):
    return "".join(data.scaling.class_names[i] for i in row)


def test_windows_foretell_the_next_character(file):
    data = load_text(file, context=7, test_size=0.2)
    text = "ab\u00e9c\U0001f600 " * 50
    assert data.task == "text" and data.scaling.class_names == tuple(sorted(set(text)))
    assert data.x_train.shape == data.y_train.shape == (34, 7) and data.x_train.dtype == np.int64
    assert decoded(data, data.x_train.ravel()) == text[: 34 * 7]
    assert decoded(data, data.y_train.ravel()) == text[1 : 34 * 7 + 1]
    assert decoded(data, data.x_test[0]) == text[240:247]
    assert data.x_test.shape == (8, 7)
    assert data.n_outputs == 6 and data.n_features == 7


def test_the_default_text():
    data = load_text("text")
    assert data.x_train.shape[1] == 64 and 50 < data.n_outputs < 500
    assert len(data.x_train) > 1000


def test_refusals(tmp_path, file):
    with pytest.raises(DataError, match="cannot read no/such/file: No such file"):
        load_text("text:no/such/file")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(DataError, match="is no UTF-8 text"):
        load_text(f"text:{tmp_path / 'bytes'}")
    with pytest.raises(DataError, match="has 300 characters, too few for windows of 64 in both parts"):
        load_text(file)
    with pytest.raises(DataError, match="the share to test on"):
        load_text(file, test_size=1.0)
    with pytest.raises(DataError, match="at least 1 character"):
        load_text(file, context=0)
    other = load_text(file, context=7).scaling
    (tmp_path / "other").write_text("abz" * 50)
    with pytest.raises(DataError, match="the character 'z' is none that the model was trained on"):
        load_text(f"text:{tmp_path / 'other'}", context=7, scaling=other)


def test_the_vocabulary_of_a_trained_model_is_kept(tmp_path, file):
    scaling = load_text(file, context=7).scaling
    (tmp_path / "other").write_text("cab" * 50)
    data = load_text(f"text:{tmp_path / 'other'}", context=7, scaling=scaling)
    assert decoded(data, data.x_train[0]) == "cabcabc" and data.n_outputs == 6


def knows_the_next(names):
    """A model of text "abcabc..." whose logits are sure of the next character."""
    table = np.full((3, 3), -50, np.float32)
    table[[0, 1, 2], [1, 2, 0]] = 50
    embedding = nn.Embedding(3, 3)
    embedding.parameters()["weight"][...] = table
    return nn.Sequential(embedding, loss=nn.CrossEntropyLoss())


def test_samples_are_what_the_model_foretells():
    model = knows_the_next("abc")
    assert sample(model, tuple("abc"), length=5, start="b") == "bcabca"
    assert sample(model, tuple("abc"), length=5, start="?") == "abcabc"
    uniform = nn.Sequential(nn.Embedding(3, 3, seed=0), loss=nn.CrossEntropyLoss())
    one, two, other = (sample(uniform, tuple("abc"), length=50, start="a", seed=s) for s in (1, 1, 2))
    assert one == two != other


def test_scores_are_in_bits():
    x = np.array([[0, 1, 2, 0]])
    found = scores(knows_the_next("abc"), x, (x + 1) % 3, 8)
    assert found["accuracy"] == 1 and found["bits_per_character"] < 1e-6
    embedding = nn.Embedding(4, 4)
    embedding.parameters()["weight"][...] = 0
    found = scores(nn.Sequential(embedding, loss=nn.CrossEntropyLoss()), x, x, 8)
    assert abs(found["bits_per_character"] - 2) < 1e-6
