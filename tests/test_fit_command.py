"""`fastgd fit`: tables, JSON, pictures, comparison, and errors of one line."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from test_fit import FORMULA, START, decay, sorted_into

from fastgd import fit

pytest.importorskip("click", reason="the command line needs click")
pytest.importorskip("scipy", reason="p values and comparisons need SciPy")

T, DECAY = decay()
FIT_DECAY = ["--formula", FORMULA, "--start", "a=1,b=1,c=0"]


@pytest.fixture
def run(monkeypatch):
    from click.testing import CliRunner

    from fastgd.commands import fastgd

    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: CliRunner().invoke(fastgd, ["fit", *map(str, arguments)])


@pytest.fixture
def decay_csv(tmp_path):
    path = tmp_path / "decay.csv"
    rows = [f"{t!r},{y!r}" for t, y in zip(T.tolist(), DECAY.tolist(), strict=True)]
    path.write_text("\n".join(["t,y", *rows]))
    return path


@pytest.fixture
def mixed_csv(tmp_path):
    """x, colour, weight, z and kind, of which kind depends on x and z on x and colour."""
    x, labels = sorted_into(2, n=90)
    rng = np.random.default_rng(0)
    colours = rng.choice(["blue", "green", "red"], 90)
    z = 1 + 2 * x[:, 0] + 3 * (colours == "red") + rng.normal(size=90)
    kinds = np.array(["no", "yes"])[labels]
    weights = rng.integers(1, 4, 90)
    rows = zip(x[:, 0].tolist(), colours, weights, z.tolist(), kinds, strict=True)
    path = tmp_path / "mixed.csv"
    path.write_text("\n".join(["x,colour,weight,z,kind", *(",".join(map(str, row)) for row in rows)]))
    return path


def test_a_curve_as_a_table(run, decay_csv):
    result = run(decay_csv, *FIT_DECAY, "--compare")
    assert result.exit_code == 0, result.output
    expected = fit.curve(FORMULA, T, DECAY, START)
    for value in expected.estimates:
        assert f"{value:.7g}" in result.output
        assert result.output.count(f"{value:.9g}"[:9]) >= 2
    assert "curve_fit" in result.output
    assert f"R²: {expected.r2:.6g}" in result.output


def test_json_has_what_the_interface_has(run, decay_csv):
    found = json.loads(run(decay_csv, *FIT_DECAY, "--json", "--compare").output)
    expected = fit.curve(FORMULA, T, DECAY, START)
    for name, values in found["parameters"].items():
        assert values["estimate"] == expected.parameters[name]
        assert values["standard_error"] == expected.standard_errors[name]
        assert values["t"] == expected.statistics[name]
        assert values["p_value"] == expected.p_values[name]
        assert values["interval"] == list(expected.intervals()[name])
        assert found["compared"]["parameters"][name]["estimate"] == pytest.approx(
            values["estimate"], rel=1e-6
        )
    assert found["converged"] is True
    assert found["iterations"] == expected.iterations


def test_columns_of_text_lose_their_first_value(run, mixed_csv):
    arguments = ("--target", "z", "--columns", "x,colour", "--weights", "weight", "--json", "--compare")
    found = json.loads(run(mixed_csv, *arguments).output)
    assert list(found["parameters"]) == ["intercept", "x", "colour=green", "colour=red"]
    for name, values in found["compared"]["parameters"].items():
        for what, value in values.items():
            assert found["parameters"][name][what] == pytest.approx(value, rel=1e-7)
    bare = json.loads(
        run(mixed_csv, "--target", "z", "--columns", "colour", "--no-intercept", "--json").output
    )
    assert list(bare["parameters"]) == ["colour=blue", "colour=green", "colour=red"]


@pytest.mark.parametrize("l2", [0, 2])
def test_classes_beside_scipy(run, mixed_csv, l2):
    arguments = ("--logistic", "--columns", "x,colour", "--l2", l2, "--json", "--compare")
    found = json.loads(run(mixed_csv, *arguments).output)
    assert found["classes"] == ["no", "yes"]
    assert found["residual_standard_error"] is None
    for name, values in found["compared"]["parameters"].items():
        for what, value in values.items():
            assert found["parameters"][name][what] == pytest.approx(value, rel=1e-6)


def test_several_classes_and_a_ridge_of_built_in_data(run):
    pytest.importorskip("sklearn", reason="the data are scikit-learn's")
    for arguments in (("diabetes", "--l2", 0.5), ("breast_cancer", "--logistic", "--l2", 1)):
        found = json.loads(run(*arguments, "--json", "--compare").output)
        assert found["converged"]
        for name, values in found["compared"]["parameters"].items():
            assert found["parameters"][name]["estimate"] == pytest.approx(
                values["estimate"], rel=1e-4, abs=1e-6
            )
    assert found["classes"] == ["benign", "malignant"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_pictures(run, decay_csv, tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    path = tmp_path / f"fit{suffix}"
    result = run(decay_csv, *FIT_DECAY, "--plot", path)
    assert result.exit_code == 0, result.output
    assert f"picture in {path}" in result.output.replace("\n", "")
    assert path.stat().st_size > 5000
    if suffix == ".png":
        assert int.from_bytes(path.read_bytes()[16:20], "big") == 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ("--target", "z", "--columns", "x"),
        ("--target", "z", "--columns", "x,colour"),
        ("--logistic", "--columns", "x"),
        ("--logistic", "--columns", "x,z"),
    ],
    ids=" ".join,
)
def test_pictures_of_all_kinds(run, mixed_csv, tmp_path, arguments):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    path = tmp_path / "fit.png"
    result = run(mixed_csv, *arguments, "--plot", path, "--json")
    assert json.loads(result.output)["converged"]
    assert path.exists()


def test_what_has_not_converged_ends_with_status_1(run, decay_csv):
    result = run(decay_csv, *FIT_DECAY, "--max-iterations", 5)
    assert result.exit_code == 1
    assert "Not converged after 5 iterations: max_iterations were not enough" in result.output
    found = run(decay_csv, *FIT_DECAY, "--max-iterations", 5, "--json")
    assert found.exit_code == 1


def test_another_optimizer(run, decay_csv):
    arguments = ("--optimizer", "adam", "--lr", "0.05", "-o", "betas=0.9,0.99", "--tol", "1e-3", "--json")
    found = json.loads(run(decay_csv, *FIT_DECAY, *arguments).output)
    assert found["converged"]
    assert found["iterations"] % 100 == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.csv",), "there is no file or folder missing.csv"),
        (("MIXED",), "the target of .* is text: --logistic fits classes"),
        (("MIXED", "--target", "age"), "no column named age"),
        (("MIXED", "--target", "z", "--columns", "age"), "has no column named age beside the target"),
        (("MIXED", "--target", "z", "--columns", ","), "is no list of columns"),
        (("MIXED", "--target", "z", "--weights", "colour"), "no column of numbers colour for --weights"),
        (("MIXED", "--target", "z", "--start", "a=1"), "--start is for --formula"),
        (("DECAY", "--formula", "a*t"), "--formula needs --start"),
        (("DECAY", "--formula", "a*t", "--start", "a"), "'a' is not of the form name=number"),
        (("DECAY", "--formula", "a*t", "--start", "a=x"), "'a=x' is not of the form name=number"),
        (("DECAY", "--formula", "a*t", "--start", "a=1,a=2"), "a has two starting values"),
        (("DECAY", "--formula", "a*u", "--start", "a=1"), "the formula's 'u' is neither"),
        (("DECAY", "--formula", "a*", "--start", "a=1"), "cannot be read"),
        (("DECAY", "--formula", "a*t", "--start", "a=1", "--l2", "1"), "--l2 are not for it"),
        (("DECAY", "--plot", "fit.gif"), "the picture's name must end in"),
        (("DECAY", "--plot", "missing/fit.png"), "cannot write missing/fit.png"),
        (("DECAY", "--l2", "-1"), "l2 must be at least 0"),
        (("DECAY", "--logistic"), "rows are too few|separate"),
        (("digits",), "is no table"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_user_errors_are_a_sentence(run, decay_csv, mixed_csv, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    files = {"DECAY": decay_csv, "MIXED": mixed_csv}
    result = run(*(files.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert result.output.count("Error: ") == 1
    assert "Traceback" not in result.output
    assert re.search(message, " ".join(result.output.split()))


def test_without_scipy_there_are_no_p_values(run, decay_csv, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = run(decay_csv, *FIT_DECAY)
    assert result.exit_code == 0
    assert "p value" not in result.output.splitlines()[2]
    assert "p values and intervals need SciPy" in result.output
    assert run(decay_csv, *FIT_DECAY, "--compare").exit_code == 2
