"""`fastgd train` with --monitor and --report: what is printed, and the page that stands alone."""

import json

import numpy as np
import pytest
from browser import Reader, is_near, opened

click_testing = pytest.importorskip("click.testing", reason="the command line is the extra cli")

SHORT = ("--hidden", "16", "--epochs", "2", "--batch-size", "128")


@pytest.fixture
def run():
    from fastgd.commands import fastgd

    return lambda *arguments: click_testing.CliRunner().invoke(fastgd, ["train", *map(str, arguments)])


@pytest.fixture
def spoiled(tmp_path):
    """A file of data that no training survives, with a name that HTML would take for an element."""
    path = tmp_path / "<b>&.npz"
    x = np.random.default_rng(0).normal(size=(60, 4))
    np.savez(path, x=x, y=np.where(np.arange(60) % 2, 1e30, -1e30))
    return path


def test_a_report_of_a_healthy_run(run, tmp_path):
    page = tmp_path / "report.html"
    result = run(*SHORT, "--schedule", "cosine", "--early-stopping", 5, "--report", page)
    assert result.exit_code == 0, result.output
    assert f"report in {page}" in result.output
    text = page.read_text()
    loaded = Reader(text).page.loaded
    assert [link.partition(",")[0] for link in loaded] == ["data:", *["data:image/png;base64"] * 2]
    assert all(map(is_near, loaded))
    for part in ("digits: mlp trained with adamw", "early_stopping", "instruction_set", "validation loss"):
        assert part in text
    seen = opened(f"file://{page}", tmp_path / "browser")
    assert "nothing to say against this run" in seen


def test_a_report_of_a_run_that_fails(run, spoiled, tmp_path):
    page = tmp_path / "report.html"
    arguments = ("--task", "regression", "--lr", "1e30", "--optimizer", "sgd", "--clip-norm", "none")
    result = run("--data", spoiled, *SHORT, *arguments, "--report", page)
    assert result.exit_code == 1
    text = page.read_text()
    assert "Training ended" in text and "What helps" in text
    assert "&lt;b&gt;&amp;.npz" in text and "<b>&" not in text


def test_the_monitor_speaks(run):
    quiet = run(*SHORT, "--monitor")
    assert quiet.exit_code == 0, quiet.output
    assert "looked at in detail" in quiet.output
    loud = run("--hidden", "16", "--epochs", "20", "--lr", "1e-7", "--monitor")
    assert "why:" in loud.output
    found = json.loads(run("--hidden", "16", "--epochs", "20", "--lr", "1e-7", "--monitor", "--json").output)
    assert found["findings"][0]["title"] in loud.output


def test_json_has_findings_only_where_something_watched(run):
    assert "findings" not in json.loads(run(*SHORT, "--json").output)
    found = json.loads(run(*SHORT, "--json", "--monitor", "--validation-size", "0.2").output)
    assert found["findings"] == []
    assert found["validation_loss"] > 0
    assert found["stopped"] is None


def test_early_stopping_is_told(run):
    result = run("--hidden", "64", "--epochs", "200", "--lr", "0.02", "--early-stopping", "2")
    assert result.exit_code == 0
    assert "stopped early: the validation loss has not improved for 2 epochs" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--report", "report.pdf"), "the report's name must end in .html, .htm, and report.pdf does not"),
        (("--report", "no/folder/report.html"), "cannot write no/folder/report.html"),
        (("--schedule", "sine"), "the schedule is one of constant"),
        (("--schedule", "step(evry=3)"), "schedule step takes every, factor, warmup, not evry"),
        (("--swa", "2"), "swa is a share of the epochs"),
        (("--early-stopping", "0"), "early_stopping is a number of epochs"),
    ],
)
def test_user_errors_are_a_sentence(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(*SHORT, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_what_a_report_needs(run, tmp_path, monkeypatch, name):
    from fastgd.commands import outputs

    real = outputs.find_spec
    monkeypatch.setattr(outputs, "find_spec", lambda asked: None if asked == name else real(asked))
    result = run(*SHORT, "--report", tmp_path / "report.html")
    assert result.exit_code == 2
    assert f'--report needs {name}, which is missing: pip install "fastgd[cli]"' in result.output
