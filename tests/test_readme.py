"""The Python blocks of README.md and docs/models.md run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest

import fastgd

README = Path(__file__).parent.parent / "README.md"
MODELS = README.parent / "docs" / "models.md"


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


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_block(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = names()
    if "module" in block:
        torch = pytest.importorskip("torch", reason="the block is about torch, which is not a dependency")
        module, inputs = torch.nn.Linear(3, 2), torch.ones(1, 3)
        output = module(inputs)
        output.sum().backward()
        # so near that gradients of the scaled loss are within float16 and no step is skipped
        targets = output.detach() + 0.01
        known |= {"torch": torch, "module": module, "inputs": inputs, "targets": targets}
    exec(block, known)
    assert known["opt"].state_dict()["state"]


def test_the_blocks_on_models_run_one_behind_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {}
    for block in blocks(MODELS):
        exec(block, known)


def test_the_commands_are_the_ones_ci_runs():
    ci = README.with_name(".ci") / "run"
    for extra in ("demo", "test"):
        assert f'pip install -e ".[{extra}]" && ' in README.read_text()
    assert "readme_command demo" in ci.read_text() and "readme_command test" in ci.read_text()
