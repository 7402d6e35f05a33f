"""Training: accuracy on real data, resuming to the same bits, clean endings, and the command line."""

import json
import math
import os
import signal
import sys

import numpy as np
import pytest

from fastgd import training
from fastgd.checkpoint import CheckpointError, load_file, save_file
from fastgd.data import prepare
from fastgd.readers import Table
from fastgd.runs import SettingsError
from fastgd.training import Settings, evaluate, load_checkpoint, save_checkpoint, train

SMALL = {"hidden": (8,), "epochs": 2, "batch_size": 16}


def make_table(n=90, scale=1.0):
    rng = np.random.default_rng(3)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, 4)) + 2 * np.eye(3, 4)[y]
    return Table(x * scale, y, tuple("abcd"))


@pytest.fixture
def small():
    return prepare("small", make_table())


def weights(result):
    return {name: array.copy() for name, array in dict(result.model.named_parameters()).items()}


def same_bits(one, other):
    """Weights, optimizer state and where the run stands."""
    states = [result.optimizer.state_dict()["state"] for result in (one, other)]
    pairs = [(weights(one)[name], array) for name, array in weights(other).items()]
    for index, slots in states[0].items():
        pairs += [(value, states[1][index][name]) for name, value in slots.items()]
    return one.position == other.position and all(np.array_equal(a, b) for a, b in pairs)


# ---- real data


@pytest.mark.parametrize("seed", range(5))
def test_digits_with_default_settings(seed):
    result = train(Settings(seed=seed))
    assert result.scores["accuracy"] >= 0.97
    assert 0 < result.clipped_share < 1
    assert result.largest_grad_norm > 1
    assert result.problem is None
    assert not result.interrupted


def test_breast_cancer_and_diabetes():
    assert train(Settings(data="breast_cancer")).scores["accuracy"] >= 0.93
    scores = train(Settings(data="diabetes", epochs=10)).scores
    assert 45 < scores["rmse"] < 65
    assert scores["r2"] > 0.35


@pytest.mark.parametrize(("batch_size", "steps"), [("full", 2), (1, 144), (16, 10), (1000, 2)])
def test_batch_sizes(small, batch_size, steps):
    result = train(Settings(**{**SMALL, "batch_size": batch_size}), dataset=small)
    assert result.steps == steps
    assert [epoch.examples for epoch in result.history] == [72, 72]
    assert len(result.grad_norms) == steps


def test_train_loss_is_the_mean_over_examples(small):
    """With a learning rate of 0 every mini-batch sees the same model, whatever the sizes."""
    losses = [
        train(Settings(hidden=(8,), epochs=1, batch_size=size, options={"lr": 0.0}), dataset=small).history
        for size in ("full", 1, 50)
    ]
    assert [epoch.train_loss for (epoch,) in losses] == pytest.approx([losses[0][0].train_loss] * 3, rel=1e-5)


def test_regression_errors_are_in_the_targets_units():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = 1000 + 50 * x @ np.array([[1.0, 2.0], [0.5, 0.0], [0.0, -1.0]])
    result = train(
        Settings(hidden=(), epochs=60, options={"lr": 0.02}), dataset=prepare("t", Table(x, y, tuple("abc")))
    )
    assert result.scores["rmse"] < 5
    assert result.scores["r2"] > 0.99
    untrained = train(Settings(hidden=(), epochs=0), dataset=result.dataset)
    assert 30 < untrained.scores["rmse"] < 500


def test_clipping_can_be_turned_off(small):
    clipped = train(Settings(**SMALL, clip_norm=1e-3), dataset=small)
    free = train(Settings(**SMALL, clip_norm=None), dataset=small)
    assert (clipped.clipped_share, free.clipped_share) == (1.0, 0.0)
    assert math.isfinite(free.largest_grad_norm)


def test_an_average_of_the_weights_is_what_is_evaluated():
    x = np.random.default_rng(0).normal(size=(90, 3))
    dataset = prepare("t", Table(x, x @ [1.0, 2.0, 3.0], tuple("abc")))
    options = {"lr": 0.02, "warmup_steps": 5}
    result = train(Settings(**SMALL, optimizer="adamw_schedule_free", options=options), dataset=dataset)
    assert result.optimizer.training
    assert evaluate(result.model, dataset) != result.scores
    result.optimizer.eval()
    assert evaluate(result.model, dataset) == result.scores


# ---- resuming


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "nadam", "adamw_schedule_free"])
def test_n_and_m_epochs_are_n_plus_m(tmp_path, small, optimizer):
    settings = Settings(**{**SMALL, "optimizer": optimizer, "options": {"lr": 0.01, "weight_decay": 0.1}})
    whole = train(Settings(**{**vars(settings), "epochs": 5}), dataset=small)
    save_checkpoint(tmp_path / "run", train(settings, dataset=small))
    resumed = train(
        Settings(**{**vars(settings), "epochs": 3}), dataset=small, resume=load_checkpoint(tmp_path / "run")
    )
    assert same_bits(whole, resumed)
    assert [epoch.train_loss for epoch in whole.history] == [epoch.train_loss for epoch in resumed.history]
    assert whole.grad_norms == resumed.grad_norms
    assert not same_bits(whole, train(Settings(**{**vars(settings), "epochs": 4}), dataset=small))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd_schedule_free"])
def test_interrupted_in_an_epoch_and_resumed(tmp_path, small, optimizer):
    def interrupt(progress):
        if progress.epoch == 2 and progress.consumed == 32:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    settings = {**SMALL, "optimizer": optimizer}
    stopped = train(Settings(**{**settings, "epochs": 9}), dataset=small, on_step=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert stopped.interrupted
    assert stopped.scores
    assert (stopped.position.epoch, stopped.position.consumed, stopped.steps) == (1, 32, 7)
    save_checkpoint(tmp_path / "run", stopped)
    resumed = train(Settings(**settings), dataset=small, resume=load_checkpoint(tmp_path / "run"))
    whole = train(Settings(**{**settings, "epochs": 3}), dataset=small)
    assert same_bits(whole, resumed)
    assert [epoch.steps for epoch in resumed.history] == [5, 5, 5]


def test_an_interrupted_run_is_finished_by_default(tmp_path, small):
    def interrupt(at):
        if at.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    stopped = train(Settings(**{**SMALL, "epochs": 4}), dataset=small, on_step=interrupt)
    assert stopped.interrupted
    save_checkpoint(tmp_path / "run", stopped)
    resumed = train(resume=load_checkpoint(tmp_path / "run"), dataset=small)
    assert resumed.position.epoch == 4
    assert same_bits(resumed, train(Settings(**{**SMALL, "epochs": 4}), dataset=small))
    save_checkpoint(tmp_path / "run", resumed)
    assert train(resume=load_checkpoint(tmp_path / "run"), dataset=small).position.epoch > 4


def test_no_epochs_only_evaluates(tmp_path, small):
    trained = train(Settings(**SMALL), dataset=small)
    save_checkpoint(tmp_path / "run", trained)
    loaded = train(
        Settings(**{**SMALL, "epochs": 0}), dataset=small, resume=load_checkpoint(tmp_path / "run")
    )
    assert loaded.scores == trained.scores
    assert same_bits(loaded, trained)


def test_hyperparameters_are_kept_and_can_be_changed(tmp_path, small):
    save_checkpoint(tmp_path / "run", train(Settings(**SMALL, options={"lr": 0.5}), dataset=small))
    checkpoint = load_checkpoint(tmp_path / "run")
    for options, lr in (({}, 0.5), ({"lr": 0.25}, 0.25)):
        result = train(Settings(**SMALL, options=options), dataset=small, resume=checkpoint)
        assert result.optimizer.state_dict()["param_groups"][0]["lr"] == lr


def test_another_model_is_refused(tmp_path, small):
    save_checkpoint(tmp_path / "run", train(Settings(**SMALL), dataset=small))
    checkpoint = load_checkpoint(tmp_path / "run")
    with pytest.raises(SettingsError, match=r"trained with hidden \(8,\), which cannot become \(9,\)"):
        train(Settings(hidden=(9,)), dataset=small, resume=checkpoint)


def test_checkpoints_of_something_else_are_refused(tmp_path, small):
    result = train(Settings(**SMALL), dataset=small)
    result.optimizer.save(tmp_path / "optimizer")
    with pytest.raises(CheckpointError, match="it holds no training run"):
        load_checkpoint(tmp_path / "optimizer")
    save_checkpoint(tmp_path / "run", result)
    tensors, metadata = load_file(tmp_path / "run")
    save_file(tmp_path / "less", dict(list(tensors.items())[1:]), metadata)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "less")


# ---- what is not finite


def poisoned(small):
    """The same data with one NaN: the third mini-batch of size 16 or a later one meets it."""
    small.x_train[40, 1] = math.nan
    return small


def test_nonfinite_gradients_end_the_training_by_name(small):
    result = train(Settings(**SMALL), dataset=poisoned(small))
    assert "the gradient of 0.weight is NaN or infinite in epoch 1, step " in result.problem
    assert all(np.isfinite(array).all() for array in weights(result).values())
    assert result.scores


def test_nonfinite_gradients_are_skipped_when_asked_for(small):
    result = train(Settings(**SMALL, skip_nonfinite=True), dataset=poisoned(small))
    assert result.problem is None
    assert (result.skipped_steps, result.steps) == (2, 10)
    assert [epoch.examples < 72 for epoch in result.history] == [True, True]
    assert all(math.isfinite(epoch.train_loss) for epoch in result.history)


def test_an_epoch_of_skipped_steps_ends_the_training(small):
    small.x_train[:] = math.nan
    result = train(Settings(**SMALL, skip_nonfinite=True), dataset=small)
    assert "every step of epoch 1" in result.problem


def test_divergence_is_told(small):
    result = train(
        Settings(**{**SMALL, "epochs": 50}, optimizer="sgd", options={"lr": 1e30}, clip_norm=None),
        dataset=small,
    )
    assert "in epoch 1, step" in result.problem


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "swish"}, "activation is one of relu, tanh, sigmoid, .*, not swish"),
        ({"optimizer": "adamq"}, "optimizer is one of .*, not adamq"),
        ({"options": {"beta": 1}}, "adamw has no hyperparameter beta; it has "),
        ({"options": {"lr": -1.0}}, "adamw: .*lr"),
        ({"batch_size": 0}, "batch size is full or at least 1, not 0"),
        ({"hidden": (8, 0)}, "at least 1 wide, not 0"),
        ({"epochs": -1}, "epochs must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"clip_norm": 0.0}, "clip_norm must be greater than 0"),
        ({"clip_value": math.nan}, "clip_value must be greater than 0"),
    ],
)
def test_bad_settings(small, changes, message):
    with pytest.raises(SettingsError, match=message):
        train(Settings(**changes), dataset=small)


# ---- the command line


@pytest.fixture
def run():
    from click.testing import CliRunner

    from fastgd.commands import fastgd

    return lambda *arguments: CliRunner().invoke(fastgd, list(map(str, arguments)))


QUICK = ("train", "--data", "diabetes", "--hidden", "8", "--epochs", "2")


def test_table(run):
    done = run("train", "--epochs", 1)
    assert done.exit_code == 0, done.output
    for words in (
        "training loss",
        "test accuracy",
        "time per epoch",
        "steps clipped",
        "largest gradient norm",
    ):
        assert words in done.output


def test_json_and_options(run):
    done = run(
        *QUICK, "--json", "--lr", 0.02, "-o", "betas=0.8,0.9", "--batch-size", "full", "--clip-norm", "none"
    )
    found = json.loads(done.stdout)
    assert found["settings"]["options"] == {"lr": 0.02, "betas": [0.8, 0.9]}
    assert (found["settings"]["batch_size"], found["settings"]["clip_norm"], found["steps"]) == (
        "full",
        None,
        2,
    )
    assert found["test_rmse"] == found["history"][-1]["scores"]["rmse"]


def test_save_load_and_plot(run, tmp_path):
    path, picture = tmp_path / "run.safetensors", tmp_path / "curves.png"
    first = run(*QUICK, "--json", "--save", path, "--plot", picture)
    assert first.exit_code == 0, first.output
    header = picture.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(header[16:20], "big") == 1000
    again = run("train", "--json", "--load", path, "--epochs", 0)
    assert json.loads(again.stdout)["test_rmse"] == json.loads(first.stdout)["test_rmse"]
    assert json.loads(again.stdout)["settings"]["data"] == "diabetes"


def test_quiet(run):
    assert run(*QUICK, "--quiet").output == ""


@pytest.mark.parametrize("clip_norm", [1.0, None])
@pytest.mark.parametrize("epochs", [0, 1])
def test_plots_of_no_epochs_and_of_no_clipping(tmp_path, small, epochs, clip_norm):
    from fastgd.plots import save_curves

    settings = Settings(hidden=(8,), epochs=epochs, clip_norm=clip_norm)
    save_curves(tmp_path / "a.svg", train(settings, dataset=small))
    picture = (tmp_path / "a.svg").read_text()
    assert ("gradient norm before clipping" in picture) == (epochs > 0)
    assert ("clipped above 1" in picture) == (clip_norm is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.csv"], "there is no file or folder nowhere.csv"),
        (["--lr", "-1"], "lr"),
        (["--lr", "fast"], "'fast' is not a valid float"),
        (["--hidden", "8,x"], "is no list of widths"),
        (["--batch-size", "some"], "neither full nor a number"),
        (["--clip-norm", "much"], "neither a number nor none"),
        (["-o", "betas"], "not of the form name=value"),
        (["-o", "eps=import os"], "neither a number, a list nor a truth value"),
        (["-o", "eps={[]: 1}"], "neither a number, a list nor a truth value"),
        (["--threads", "1025"], "1025 is not in the range 1<=x<=1024"),
        (["--load", "nothing.safetensors"], "there is no such file"),
        (["--save", "no/such/folder/f"], "its folder is missing"),
        (["--plot", "curves.txt"], "must end in .png"),
        (["--epochs", "-1"], "epochs must be at least 0"),
    ],
)
def test_user_errors_are_a_sentence(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run("train", *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
    assert os.listdir(tmp_path) == []


def test_a_training_that_diverges_saves_nothing(run, tmp_path):
    path = tmp_path / "run"
    done = run(*QUICK, "--optimizer", "sgd", "--lr", "1e30", "--clip-norm", "none", "--save", path)
    assert done.exit_code == 1
    assert "Training ended: " in done.output
    assert not path.exists()


def test_ctrl_c_saves(run, tmp_path, monkeypatch):
    evaluate = training.evaluate

    def interrupt(model, dataset):
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(model, dataset)

    monkeypatch.setattr(training, "evaluate", interrupt)
    done = run("train", "--data", "diabetes", "--epochs", 5, "--save", tmp_path / "run")
    assert done.exit_code == 130
    assert "interrupted in epoch" in done.output
    assert load_checkpoint(tmp_path / "run").position.epoch == 1


def test_info(run):
    done = run("info")
    assert done.exit_code == 0
    assert done.output.strip()


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_packages_of_the_command_line(monkeypatch, missing):
    from fastgd.cli import main

    for name in [name for name in sys.modules if name.startswith("fastgd.commands")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert 'pip install "fastgd[cli]"' in ended.value.code
