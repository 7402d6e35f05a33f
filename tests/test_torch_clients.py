"""Clients of optimizers: the examples run as users run them, and with other classes in the place of AdamW."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
pytestmark = pytest.mark.peer

EXAMPLES = Path(__file__).parent.parent / "examples"

#: what stands in for fastgd.torch.AdamW, as the body of a class that is made before an example runs
INSTEAD = {
    "torch": """
class AdamW(torch.optim.AdamW):
    def __init__(self, params, *, clip_norm, **settings):
        super().__init__(params, **settings)
        self.clip_norm = clip_norm

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.clip_norm is not None:
            grads = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(grads, self.clip_norm)
        super().step()
        return loss
""",
    "8bit": """
class AdamW(fgt.AdamW):
    def __init__(self, params, **settings):
        super().__init__(params, state_dtype="8bit", ema_decay=0.99, seed=3, **settings)
""",
    "schedule-free": """
class AdamW(fgt.AdamWScheduleFree):
    def __init__(self, params, **settings):
        super().__init__(params, **settings)
""",
}


def printed(name, *arguments, instead=None, needs=()):
    """What an example prints when it is run as it is, or with another class in the place of AdamW.

    needs: the modules without which it cannot run; they are not imported here, where warnings are errors.
    """
    for module in ("sklearn", *needs):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is no dependency; pip install -e '.[clients]'")
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    if instead is not None:
        text = "\n".join(
            [
                "import runpy, sys, torch",
                "import fastgd.torch as fgt",
                INSTEAD[instead],
                "fgt.AdamW = AdamW",
                "sys.argv = sys.argv[1:]",
                "runpy.run_path(sys.argv[0], run_name='__main__')",
            ]
        )
        command[1:1] = ["-c", text]
    # one thread: with more, those of small products wait for each other where other tests run beside
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(pattern, text):
    return [float(found) for found in re.findall(pattern, text)]


def test_a_plain_loop_with_schedules_grad_scaler_and_averaged_weights():
    text = printed("torch_plain.py", "--epochs", 8)
    losses, rates, norms, scales, skipped = (
        numbers(rf"{what} ([\d.]+)", text) for what in ("loss", "lr", "norm", "scale", "skipped")
    )
    assert len(losses) == 8
    assert losses[-1] < losses[0] / 10
    # the scale begins at 2^24, and a skipped step halves it
    assert skipped[0] > 0 and scales[0] == 2.0 ** (24 - skipped[0])
    assert skipped[1:] == [0] * 7 and scales[1:] == scales[:1] * 7
    assert all(0 < norm < 10 for norm in norms[1:])
    # warmed up within the first epoch, then the cosine; the last epochs have the averaging's rate
    assert rates[0] > rates[1] > rates[4] and rates[-1] == 1e-3
    plain, averaged = re.search(r"unseen digits ([\d.]+), of the averaged model ([\d.]+)", text).groups()
    assert min(float(plain), float(averaged)) > 0.85


def huggingface(instead=None):
    """The losses of three trainings, and whether the resumed one ended where the whole one did."""
    text = printed(
        "torch_huggingface.py", "--steps", 40, instead=instead, needs=("transformers", "accelerate")
    )
    parts = re.split(r"optimizers=|the same, resumed|optimizer_cls_and_kwargs=", text)[1:]
    # some versions put numbers in quotes
    losses = [numbers(r"'loss': '?([\d.]+)", part) for part in parts]
    return losses, "same parameters at the end: True" in text


@pytest.fixture(scope="module")
def by_trainer():
    return huggingface()


def test_hugging_face_s_trainer_trains_saves_and_resumes(by_trainer):
    (whole, resumed, made), same = by_trainer
    assert same
    assert len(whole) == len(made) == 4 and resumed == whole[2:]
    assert whole[-1] < whole[0] - 0.5 and made[-1] < made[0] - 0.5


def test_hugging_face_s_trainer_sees_no_difference_to_torch(by_trainer):
    theirs, _ = huggingface("torch")
    for losses, others in zip(by_trainer[0], theirs, strict=True):
        # printed with four digits, after 40 steps in which roundings differ
        assert losses == pytest.approx(others, rel=2e-3)


@pytest.mark.parametrize("instead", ["8bit", "schedule-free"])
def test_hugging_face_s_trainer_keeps_every_kind_of_state(instead):
    (whole, resumed, made), same = huggingface(instead)
    assert same and resumed == whole[2:]
    assert whole[-1] < whole[0] - 0.5 and made[-1] < made[0] - 0.5


def by_lightning(instead=None):
    text = printed("torch_lightning.py", "--epochs", 4, instead=instead, needs=("lightning",))
    first, last = numbers(r"at first ([\d.]+)", text), numbers(r"at last ([\d.]+)", text)
    return first, last, numbers(r"accuracy ([\d.]+)", text), "same parameters at the end: True" in text


def test_lightning_clips_on_either_side_and_resumes():
    first, last, accuracies, same = by_lightning()
    assert same
    assert max(last) < first[0] / 5 and min(accuracies) > 0.8
    by_optimizer, by_client, resumed = last
    assert by_client == pytest.approx(by_optimizer, rel=1e-2)
    assert resumed == by_optimizer and first[2] < first[0]

    theirs = by_lightning("torch")
    assert theirs[1] == pytest.approx(last, rel=1e-2)


def test_lightning_keeps_state_in_8_bits():
    first, last, _, same = by_lightning("8bit")
    assert same and max(last) < first[0] / 5
