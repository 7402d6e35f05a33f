"""Sharded parameters in every rule of fastgd.torch: the bits of whole tensors, or a refusal."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd.rules import RULES

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

import torch_shards as of_ranks  # noqa: E402
from torch_ranks import on_ranks  # noqa: E402

pytestmark = pytest.mark.peer

CASES = [(rule.title, torch.float32, {}) for rule in RULES.values() if rule.elementwise]
CASES += [
    ("AdamW", torch.bfloat16, {"rounding": rounding, "ema_decay": 0.9})
    for rounding in ("nearest", "kahan", "master", "split")
]
CASES += [("AdamW", torch.float64, {"amsgrad": True, "clip_value": 0.5, "state_dtype": "bfloat16"})]


@pytest.mark.parametrize("ranks", [2, 4])
def test_shards_have_the_bits_of_whole_tensors(ranks):
    expected = of_ranks.all_stepped(CASES, cut=False)
    for found in on_ranks(ranks, of_ranks.all_stepped, CASES):
        for case, of_case, whole in zip(CASES, found, expected, strict=True):
            assert of_case.keys() == whole.keys(), case
            for name, arrays in whole.items():
                for i, (array, right) in enumerate(zip(of_case[name], arrays, strict=True)):
                    np.testing.assert_array_equal(array, right, err_msg=f"{case}: {name} of parameter {i}")


def test_rules_that_need_whole_tensors_refuse_shards():
    cases = [(rule.title, {}) for rule in RULES.values() if not rule.elementwise]
    assert len(cases) > 3
    for errors in on_ranks(2, of_ranks.refused, [*cases, ("AdamW", {"cautious": True})]):
        for (title, _), error in zip(cases, errors, strict=False):
            assert "parameter 0 of group 0 is sharded" in error
            assert title in error
        assert "cautious" in errors[-1]


@pytest.mark.parametrize("partial", [False, True], ids=["whole", "terms"])
def test_gradients_of_parameters_that_all_ranks_have(partial):
    """Terms: such are those of layer norms under sequence parallelism."""
    rank, other = on_ranks(2, of_ranks.replicated_with, "SGD", {"lr": 1.0, "clip_norm": 1.0}, partial)
    grad = np.arange(64.0).reshape(8, 8) - 20
    norm = np.linalg.norm(grad)
    for found, found_norm in (rank, other):
        assert found_norm == pytest.approx(norm, rel=1e-12)
        np.testing.assert_allclose(found, 1 - grad / norm, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(rank[0], other[0])


@pytest.mark.parametrize("title", ["LAMB", "Adafactor", "Muon"])
def test_whole_tensors_on_all_ranks_are_no_shards(title):
    rank, other = on_ranks(2, of_ranks.replicated_with, title, {}, False)
    np.testing.assert_array_equal(rank[0], other[0])
    assert (rank[0] != 1).any()


def test_all_ranks_skip_a_step_that_one_would_spoil():
    for found, skipped in on_ranks(2, of_ranks.one_broken):
        assert skipped
        np.testing.assert_array_equal(found, np.ones((8, 2)))


@pytest.mark.parametrize("use_orig_params", [False, True])
def test_pieces_that_do_not_tell_of_the_others(use_orig_params):
    """FullyShardedDataParallel's: elements each by itself are as ever, what needs all of them is refused."""
    for error, losses in on_ranks(2, of_ranks.flattened, "AdamW", {}, use_orig_params):
        assert error is None
        assert losses[-1] < losses[0]
    for settings in ({"clip_norm": 1.0}, {"skip_nonfinite": True}):
        for error, _ in on_ranks(2, of_ranks.flattened, "AdamW", settings, use_orig_params):
            assert "parameters of FullyShardedDataParallel do not tell" in error
    for error, _ in on_ranks(2, of_ranks.flattened, "LAMB", {}, use_orig_params):
        assert "parameter 0 of group 0 is sharded, and a step of LAMB needs all of a tensor" in error


@pytest.mark.parametrize("placed", ["cut", "cut along another dimension", "everywhere"])
def test_pieces_of_a_parameter_have_random_bits_of_their_own(placed):
    """Else their roundings, which are to cancel out, would all be the same. Copies have the same bits."""
    for first, second in on_ranks(2, of_ranks.rounded, placed):
        assert len(set(first)) == len(set(second)) == 2  # rounded down and up
        assert (first == second) == (placed == "everywhere")
