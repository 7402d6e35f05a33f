"""Training convolutional and recurrent models: on images, sequences and text, resumed to the same bits."""

import json

import numpy as np
import pytest

from fastgd import nn
from fastgd.architectures import ARCHITECTURES
from fastgd.data import DataError, prepare
from fastgd.readers import read
from fastgd.runs import SettingsError, build_model
from fastgd.tables import Table
from fastgd.training import Settings, load_checkpoint, save_checkpoint, train

RECURRENT = [name for name, architecture in ARCHITECTURES.items() if architecture.reads_text]


@pytest.fixture
def run():
    from click.testing import CliRunner

    from fastgd.commands import fastgd

    return lambda *arguments: CliRunner().invoke(fastgd, list(map(str, arguments)))


def shaped(shape, n=120, task="classification"):
    """Examples of this shape whose class, or value, is that of the mean of their second half."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, *shape))
    later = x.reshape(n, -1)[:, x[0].size // 2 :].mean(axis=1)
    y = np.digitize(later, np.quantile(later, [1 / 3, 2 / 3])) if task == "classification" else later
    names = tuple(map(str, range(x[0].size)))
    return prepare("shaped", Table(x.reshape(n, -1), y, names, shape=shape), task=task)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return f"text:{path}"


@pytest.mark.slow
def test_a_cnn_reads_digits():
    result = train(Settings(model="cnn"))
    assert result.scores["accuracy"] >= 0.985
    assert [type(layer).__name__ for layer in result.model.layers[:4]] == [
        "Unflatten",
        "Conv2d",
        "ReLU",
        "MaxPool2d",
    ]


@pytest.mark.parametrize("model", RECURRENT)
def test_a_recurrent_model_reads_the_rows_of_digits(model):
    result = train(Settings(model=model, hidden=(64,), epochs=12))
    assert result.scores["accuracy"] >= 0.93


@pytest.mark.parametrize("model", RECURRENT)
def test_bits_per_character_fall(model, text):
    settings = Settings(data=text, model=model, hidden=(48,), context=16, epochs=8, options={"lr": 5e-3})
    result = train(settings)
    bits = [epoch.scores["bits_per_character"] for epoch in result.history]
    assert bits[-1] < bits[0] / 2 and bits[-1] < 1.5


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"model": "cnn", "channels": (4, 6), "hidden": (8,), "dropout": 0.3}, (6, 8)),
        ({"model": "cnn", "channels": (3,), "hidden": ()}, (2, 5, 7)),
        ({"model": "lstm", "hidden": (6, 5), "dropout": 0.2}, (7, 3)),
        ({"model": "gru", "hidden": (6,)}, (9,)),
        ({"model": "rnn", "hidden": (4,)}, (1, 5, 3)),
        ({"model": "mlp", "hidden": (4,), "dropout": 0.5}, (4, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_n_and_m_epochs_are_n_plus_m(settings, shape, task, tmp_path):
    data = shaped(shape, task=task)
    whole = train(Settings(**settings, epochs=3), dataset=data)
    part = train(Settings(**settings, epochs=1), dataset=data)
    save_checkpoint(tmp_path / "run", part)
    saved = load_checkpoint(tmp_path / "run")
    rest = train(Settings(**settings, epochs=2), dataset=data, resume=saved)
    state, again = whole.model.state_dict(), rest.model.state_dict()
    assert all(np.array_equal(state[name], again[name]) for name in state)
    assert whole.scores == rest.scores and whole.grad_norms == rest.grad_norms


def test_text_is_resumed_to_the_same_bits(text, tmp_path):
    settings = {"data": text, "model": "lstm", "hidden": (8,), "context": 16, "dropout": 0.1}
    whole = train(Settings(**settings, epochs=2))
    save_checkpoint(tmp_path / "run", train(Settings(**settings, epochs=1)))
    rest = train(resume=load_checkpoint(tmp_path / "run"), settings=Settings(**settings, epochs=1))
    state, again = whole.model.state_dict(), rest.model.state_dict()
    assert all(np.array_equal(state[name], again[name]) for name in state)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"model": "cnn"}, None, "a cnn needs images, and an example of shaped has shape of a table"),
        ({"model": "cnn"}, (12,), r"has shape \[12\]"),
        ({"model": "lstm"}, (3, 2, 2), r"needs sequences .* has shape \[3, 2, 2\]"),
        ({"model": "gru", "hidden": ()}, (6, 2), "a recurrent model needs at least one hidden layer"),
    ],
)
def test_models_refuse_data_of_another_shape(settings, shape, message):
    data = shaped(shape or (12,))
    if shape is None:
        data = prepare("shaped", Table(data.x_train, data.y_train, tuple(map(str, range(12)))))
    with pytest.raises(DataError, match=message):
        train(Settings(**settings), dataset=data)


@pytest.mark.parametrize("model", [name for name in ARCHITECTURES if name not in RECURRENT])
def test_text_needs_a_recurrent_model(model, text):
    with pytest.raises(DataError, match=f"text needs a recurrent model, rnn, lstm, gru, and {model} is none"):
        train(Settings(data=text, model=model, context=16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "transformer"}, "the model is one of mlp, cnn, rnn, lstm, gru, not transformer"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"channels": (4, 0)}, "at least 1 channel, not 0"),
        ({"embedding": 0}, "embedding must be at least 1"),
        ({"context": 0}, "context must be at least 1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(SettingsError, match=message):
        train(Settings(**changes))


def test_another_model_is_refused(tmp_path):
    data = shaped((6, 8))
    save_checkpoint(tmp_path / "run", train(Settings(model="cnn", channels=(2,), epochs=1), dataset=data))
    saved = load_checkpoint(tmp_path / "run")
    for changed in ({"model": "mlp"}, {"model": "cnn", "channels": (3,)}):
        with pytest.raises(SettingsError, match="which cannot become"):
            train(Settings(**changed, epochs=1), dataset=data, resume=saved)


def test_npz_sequences_keep_their_shape(tmp_path):
    x, y = np.ones((12, 5, 3)), np.arange(12) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    table = read(str(tmp_path / "a.npz"))
    assert table.shape == (5, 3)
    model = build_model(Settings(model="gru", hidden=(4, 6)), prepare("a", table))
    kinds = [type(layer) for layer in model.layers]
    assert kinds == [nn.Unflatten, nn.GRU, nn.GRU, nn.Linear]


def test_the_command_prints_epochs_and_a_sample(run, text, tmp_path):
    options = ("train", "--data", text, "--model", "gru", "--hidden", 8, "--context", 16, "--embedding", 5)
    done = run(*options, "--epochs", 3, "--save", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "bits per character" in done.output and "the model writes:\nThe " not in done.output
    assert "the model writes:\nhe " in done.output  # the text has no capital T
    found = json.loads(run("train", "--load", tmp_path / "run", "--epochs", 0, "--json").output)
    assert len(found["sample"]) == 3 + 300
    assert found["test_bits_per_character"] == found["history"][-1]["scores"]["bits_per_character"]
    assert found["settings"]["context"] == 16 and found["settings"]["embedding"] == 5


def test_cnn_on_the_command_line(run):
    done = run("train", "--model", "cnn", "--channels", "4,4", "--hidden", "none", "--epochs", 8, "--json")
    found = json.loads(done.output)
    assert found["settings"]["channels"] == [4, 4] and found["settings"]["hidden"] == []
    assert found["test_accuracy"] > 0.5
