"""The gallery as a whole: its table, its command, and its page."""

import importlib
import inspect
import sys
from pathlib import Path

import pytest
from browser import Reader, is_near, opened

from fastgd import lab
from fastgd.lab import EXPERIMENTS, Outcome, Table, experiment
from fastgd.lab.page import save_gallery

click_testing = pytest.importorskip("click.testing", reason="the command line is the extra cli")


@pytest.fixture
def run():
    from fastgd.commands import fastgd

    return lambda *arguments: click_testing.CliRunner().invoke(fastgd, ["lab", *map(str, arguments)])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_complete(name):
    found = experiment(name)
    assert found.name == name
    assert found.title.endswith(".") and found.about
    defaults = [p.default for p in inspect.signature(found.run).parameters.values()]
    assert inspect.Parameter.empty not in defaults
    assert inspect.getdoc(found.run)


def test_the_table_is_the_folder():
    """A file with a `run` is an experiment."""
    files = {path.stem for path in Path(lab.__file__).parent.glob("*.py")}
    modules = {
        name for name in files - {"__init__"} if hasattr(importlib.import_module(f"fastgd.lab.{name}"), "run")
    }
    assert modules == set(EXPERIMENTS)


def test_a_name_that_is_none(run, tmp_path):
    result = run("tan", "--out", tmp_path)
    assert result.exit_code == 2
    assert "'tan' is none of tanh, schedules" in result.output
    with pytest.raises(ValueError, match="there is no experiment 'tan'; there are tanh, "):
        experiment("tan")


def test_help_lists_them(run):
    result = run("--help")
    assert all(name in result.output for name in EXPERIMENTS)
    assert "One value descends from 10" in result.output


def test_one_prints_its_table_and_writes_its_picture(run, tmp_path):
    result = run("tanh", "--out", tmp_path / "new" / "folder")
    assert result.exit_code == 0, result.output
    assert "10,000" in result.output and "w is 8.4e-06" in result.output
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["tanh.png"]


def test_a_folder_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("tanh", "--out", tmp_path / "file" / "folder")
    assert result.exit_code == 1
    assert "cannot write to" in result.output


def test_the_page_shows_all_and_loads_nothing_from_elsewhere(tmp_path):
    table = Table(("rule", "loss"), [("<sgd>", "1"), ("adam & co", "2")])
    outcomes = [
        Outcome(
            name,
            f"Title of {name}.",
            "One & one.\n\nTwo <b> of `a < b`.",
            table,
            "It holds.",
            (tmp_path / f"{name}.png",),
        )
        for name in ("first", "second")
    ]
    for outcome in outcomes:
        outcome.pictures[0].write_bytes(PIXEL)
    save_gallery(tmp_path / "index.html", outcomes)
    text = (tmp_path / "index.html").read_text()
    page = Reader(text).page
    assert page.links == ["#first", "#second"]
    assert {"first", "second"} <= page.anchors
    assert {"first.png", "second.png"} <= set(page.loaded)
    assert all(map(is_near, page.loaded))
    assert (
        "&lt;sgd&gt;" in text
        and "adam &amp; co" in text
        and "Two &lt;b&gt; of <code>a &lt; b</code>." in text
    )
    assert "It holds." in opened(f"file://{tmp_path}/index.html", tmp_path / "browser")


#: a PNG of one pixel
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154"
    "789c63606060000000040001f61738550000000049454e44ae426082"
)


def test_what_an_experiment_needs_is_told(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = run("vanishing", "--out", tmp_path)
    assert result.exit_code == 2
    assert 'experiments need pip install "fastgd[demo]"' in " ".join(result.output.split())
    assert "Traceback" not in result.output
