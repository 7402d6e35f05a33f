"""The package as a whole: what an import costs, and whether what is made from the rules is up to date."""

import inspect
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import fastgd
from fastgd import backends
from fastgd.optim import KEYWORDS
from fastgd.rules import RULES, table
from fastgd.settings import DEFAULTS, SETTINGS

ROOT = Path(__file__).parent.parent
OPTIONAL = (
    "scipy",
    "sklearn",
    "click",
    "rich",
    "matplotlib",
    "torch",
    "numba",
    "safetensors",
    "ml_dtypes",
    "cffi",
    "pycparser",
)


def test_importing_fastgd_imports_nothing_optional():
    code = "import json, sys, fastgd; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert "fastgd.optim" in modules
    assert not [name for name in modules if name.split(".")[0] in OPTIONAL or name.startswith("fastgd.nn")]


def test_a_source_folder_that_was_not_compiled_says_so():
    code = "import sys; sys.modules['fastgd._native'] = None; import fastgd"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: fastgd is imported from a source folder that was not compiled" in result.stderr


def test_public_names_are_there():
    for name in fastgd.__all__:
        assert getattr(fastgd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'AdamX'"):
        _ = fastgd.AdamX


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda r: r.name)
def test_every_rule_is_a_documented_class_with_its_signature(rule):
    cls = getattr(fastgd, rule.title)
    text = " ".join(cls.__doc__.split())
    assert rule.source in text
    parameters = inspect.signature(cls).parameters
    assert {k: p.default for k, p in parameters.items() if k in rule.defaults} == rule.defaults
    assert {k: p.default for k, p in parameters.items() if k in DEFAULTS} == DEFAULTS
    assert all(rule.hyperparameter(name).meaning in text for name in rule.defaults)
    assert all(entry.meaning in text for _, entry in SETTINGS.values())


def test_keywords_of_optimizers_are_those_of_their_base():
    base = inspect.signature(fastgd.Optimizer.__init__).parameters
    assert {name: base[name].default for name in KEYWORDS} == {k: v for k, (_, v, _) in KEYWORDS.items()}


def test_what_the_table_of_rules_makes_is_up_to_date():
    if not (ROOT / "README.md").exists():
        pytest.skip("not in a checkout")
    assert runpy.run_path(str(ROOT / "docs/tables.py"))["stale"]() == []


def test_info_names_what_is_in_use():
    info = fastgd.info()
    assert info["instruction_sets"][info["instruction_set"]]
    assert list(info["backends"]) == list(backends.MODULES)
    assert info["backends"]["native"] == info["backends"]["reference"] == "available"
    assert info["threads"] == fastgd.get_num_threads()


def test_an_instruction_set_that_is_not_there_is_refused():
    before = fastgd.info()["instruction_set"]
    with pytest.raises(ValueError, match="'sse9' cannot be used here; usable are "):
        fastgd.set_instruction_set("sse9")
    assert fastgd.info()["instruction_set"] == before


def test_unknown_backends_and_rules_are_refused_by_name():
    with pytest.raises(ValueError, match="no backend 'metal'; there are auto, native, jit, reference"):
        fastgd.SGD([], backend="metal")
    with pytest.raises(ValueError, match="no rule 'adamx'; there are sgd, "):
        fastgd.optim.create("adamx", [])


def test_a_native_backend_that_cannot_be_used_is_not_replaced_in_silence(monkeypatch):
    monkeypatch.setattr(backends, "unavailable", lambda name: "no rule" if name == "native" else None)
    backends.get.cache_clear()
    try:
        with pytest.raises(ImportError, match="backend 'native' cannot be used here: no rule"):
            fastgd.SGD([])
        with pytest.raises(ImportError, match="no rule"):
            fastgd.verify(["sgd"])
    finally:
        backends.get.cache_clear()


def test_only_public_names_are_listed():
    assert dir(fastgd) == sorted(fastgd.__all__)
    assert {"nn", "verify", "AdamW"} <= set(dir(fastgd))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"defaults": {"lr": 0.1}}, "every rule has the hyperparameter 'maximize'"),
        ({"defaults": {**RULES["sgd"].defaults, "zeal": 1.0}}, "'zeal' has no entry in HYPERPARAMETERS"),
        ({"scalars": ("lr",)}, "fold gives 5 scalars, 1 are named"),
        ({"scalars": tuple("abcde")}, "every rule has the scalar 'decay'"),
        ({"carried": (("step", 0.0),)}, "two of what it keeps have one name: step, momentum_buffer, step"),
        ({"carried": (("sum", 0.0),), "carry": lambda *a: ()}, "carry gives 0 numbers, 1 are named"),
    ],
)
def test_an_incomplete_rule_is_refused_where_the_table_is_made(change, reason):
    with pytest.raises(ValueError, match=f"sgd: {reason}"):
        table(RULES["sgd"]._replace(**change))


def test_python_m_fastgd():
    pytest.importorskip("click", reason="click belongs to the extra cli")
    result = subprocess.run(
        [sys.executable, "-m", "fastgd", "--help"], capture_output=True, text=True, check=True
    )
    assert "train" in result.stdout
