"""The Python blocks of README.md, docs/models.md and docs/jit.md run as they stand, and the examples."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import fastgd

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"


def blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


BLOCKS = blocks(README)


def names():
    """What the blocks take from the text around them."""
    weights, biases = [np.ones((3, 2))], [np.ones(3)]
    x, y = np.ones((5, 64), np.float32), np.arange(5)
    return {
        "fastgd": fastgd,
        "np": np,
        "weights": weights,
        "biases": biases,
        "grads": [np.ones((3, 2)), None],
        "x": x,
        "y": y,
    }


def about_torch(block):
    return "module" in block


@pytest.mark.parametrize(
    "block",
    [pytest.param(b, marks=pytest.mark.peer, id=b.splitlines()[0]) if about_torch(b) else b for b in BLOCKS],
    ids=lambda block: block.splitlines()[0],
)
def test_block(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = names()
    if about_torch(block):
        torch = pytest.importorskip("torch", reason="the block is about torch, which is not a dependency")
        module, inputs = torch.nn.Linear(3, 2), torch.ones(1, 3)
        output = module(inputs)
        output.sum().backward()
        # so near that gradients of the scaled loss are within float16 and no step is skipped
        targets = output.detach() + 0.01
        known |= {"torch": torch, "module": module, "inputs": inputs, "targets": targets}
    exec(block, known)
    assert known["opt"].state_dict()["state"]


@pytest.mark.peer
def test_the_blocks_about_torch_run_one_behind_the_other():
    torch = pytest.importorskip("torch", reason="the page is about torch, which is not a dependency")
    x, logits = torch.randn(4, 7, 512), torch.randn(4, 10, requires_grad=True)
    h_0, c_0 = torch.zeros(2, 4, 128), torch.zeros(2, 4, 128)
    known = {"x": x, "logits": logits, "labels": torch.arange(4), "h_0": h_0, "c_0": c_0}
    known |= {"weight": torch.ones(512), "bias": torch.zeros(512), "torch": torch}
    for block in blocks(DOCS / "torch.md"):
        if "torch.nn.LSTM" in block:
            known["x"], known["lengths"] = torch.randn(3, 7, 64), [7, 3, 5]
            known["h_0"], known["c_0"] = torch.zeros(2, 3, 128), torch.zeros(2, 3, 128)
        exec(block, known)


@pytest.mark.parametrize(
    "page",
    [
        "averaging",
        "c",
        "chance",
        "fit",
        pytest.param("jax", marks=pytest.mark.peer),
        "jit",
        "lab",
        "landscape",
        "models",
        "monitor",
        "sklearn",
        "schedules",
        "threads",
        "why",
    ],
)
def test_the_blocks_of_a_page_run_one_behind_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page == "jax":
        pytest.importorskip("optax", reason="the page is about jax and optax, which are no dependencies")
    known = {"__name__": page}
    for block in blocks(DOCS / f"{page}.md"):
        exec(block, known)


def test_the_example_has_the_built_in_s_bits(monkeypatch, capsys):
    pytest.importorskip("numba", reason="the example is about rules that numba compiles, extra jit")
    example = runpy.run_path(str(README.parent / "examples" / "lion.py"))
    example["main"].__globals__.update(SIZE=1000, STEPS=4)
    example["main"]()
    printed = capsys.readouterr().out
    assert printed.count("True") == 6
    assert "False" not in printed


def test_the_commands_are_the_ones_ci_runs():
    ci = README.with_name(".ci") / "run"
    for extra in ("demo", "test"):
        assert f'pip install -e ".[{extra}]" && ' in README.read_text()
    assert "readme_command demo" in ci.read_text() and "readme_command test" in ci.read_text()
