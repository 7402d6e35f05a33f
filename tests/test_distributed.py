"""fastgd.distributed on ranks that are threads: steps of one process, state that is spread."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from ranks import on_threads

import fastgd
from fastgd import nn, schedules
from fastgd.distributed import RankError, ShardedOptimizer, guarded
from fastgd.distributed.communicator import together
from fastgd.distributed.lanes import owners_of

RULES = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "LAMB": {"lr": 0.02},
    "Muon": {"lr": 0.02},
    "Adafactor": {"lr": 0.05},
    "AdamWScheduleFree": {"lr": 0.02, "warmup_steps": 3},
    "NAdam": {"lr": 0.01},
}

RANKS = [1, 2, 4, 7]

#: in float64; means of parts are rounded in another order than one mean, some steps long
TOLERANCE = 1e-12

ROWS, BATCH = 70, 23  # the last batch has one row, which is less than there are ranks

rng = np.random.default_rng(0)
X, LABELS = rng.standard_normal((ROWS, 8)), rng.integers(0, 3, ROWS)
LABELS[:BATCH:2] = -1  # ignored: ranks have different numbers that count


def model(loss=None):
    """Without biases, which Muon does not take."""
    layers = [nn.Linear(n, m, bias=False, dtype="float64") for n, m in ((8, 16), (16, 12), (12, 3))]
    loss = loss or nn.CrossEntropyLoss(ignore_index=-1)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2], loss=loss, seed=1)


def train(comm, rule, options=None, loss=None, state=None, epochs=3, y=LABELS, **settings):
    """(losses, parameters, last report, state, bytes of it), as of one process when comm is None."""
    net = model(loss)
    opt = getattr(fastgd, rule)(net.named_parameters(), **settings)
    if comm is not None:
        opt = ShardedOptimizer(opt, comm)
    if state is not None:
        for parameter, value in zip(net.parameters(), state[0], strict=True):
            parameter[...] = value
        opt.load_state_dict(state[1])
    losses, report = [], None
    for _ in range(epochs):
        for first in range(0, ROWS, BATCH):
            rows = np.arange(first, min(first + BATCH, ROWS))
            if comm is None:
                loss, report = net.train_step(X[rows], y[rows], opt, **(options or {}))
            else:
                own = comm.share(rows)
                loss, report = opt.train_step(net, X[own], y[own], **(options or {}))
            losses.append(loss)
    return losses, [p.copy() for p in net.parameters()], report, opt.state_dict(), opt.state_bytes()


def assert_near(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=TOLERANCE)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found[2].clip_coef, expected[2].clip_coef, rtol=TOLERANCE)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("rule", RULES)
def test_steps_are_those_of_one_process(rule, ranks):
    options = {"clip_norm": 0.5, "skip_nonfinite": True}
    expected = train(None, rule, options, **RULES[rule])
    first, *others = on_threads(ranks, lambda comm: train(comm, rule, options, **RULES[rule]))
    assert expected[2].clip_coef < 1
    assert_near(first, expected)
    np.testing.assert_allclose(first[2].grad_norm, expected[2].grad_norm, rtol=TOLERANCE)
    for other in others:
        assert other[0] == first[0]
        assert other[2] == first[2]
        for a, b in zip(other[1], first[1], strict=True):
            np.testing.assert_array_equal(a, b)
        assert other[3] is None
    # as the checkpoint of one process, and nothing is kept twice
    assert first[3].keys() == expected[3].keys()
    assert first[3]["param_groups"] == expected[3]["param_groups"]
    for number, entry in expected[3]["state"].items():
        assert first[3]["state"][number].keys() == entry.keys()
        for name, value in entry.items():
            np.testing.assert_allclose(first[3]["state"][number][name], value, rtol=1e-9, atol=TOLERANCE)
    assert first[4] + sum(other[4] for other in others) == expected[4]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_value": 0.01},
        {"clip_adaptive": 0.02},
        {"clip_norm": 0.1, "clip_scope": "tensor", "skip_nonfinite": True},
        {"clip_norm": 3.0, "normalize": True},
        {"clip_norm": 0.3, "grad_scale": 4.0, "clip_value": 0.05},
    ],
)
def test_every_way_to_clip(options):
    expected = train(None, "SGD", options, lr=0.1)
    for found in on_threads(3, lambda comm: train(comm, "SGD", options, lr=0.1)):
        assert_near(found, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_of_several_targets(reduction):
    y = rng.standard_normal((ROWS, 3))
    arguments = {"loss": nn.MSELoss(reduction=reduction), "y": y, "lr": 1e-3}
    expected = train(None, "SGD", **arguments)
    for found in on_threads(4, lambda comm: train(comm, "SGD", **arguments)):
        assert_near(found, expected)


def test_state_goes_on_with_any_number_of_ranks():
    settings = {"lr": schedules.Cosine(0.02, steps=24), "weight_decay": 0.1}
    expected = train(None, "AdamW", epochs=6, **settings)
    for ranks in (1, 2, 4):
        _, params, _, state, _ = on_threads(ranks, lambda comm: train(comm, "AdamW", **settings))[0]
        for later in (None, 2, 4):
            arguments = {"state": (params, state), **settings}
            if later is None:
                found = train(None, "AdamW", **arguments)
            else:
                found = on_threads(later, lambda comm, a=arguments: train(comm, "AdamW", **a))[0]
            assert_near((expected[0][:12] + found[0], *found[1:]), expected)


def test_groups_are_as_in_the_last_step_whoever_owns_their_parameters():
    """Of three ranks the first owns the second group's parameter, the second the first's, the third none."""

    def run(comm):
        rates = schedules.Cosine(0.5, steps=10), schedules.Exponential(0.5, 0.9)
        groups = [{"params": [np.ones(n)], "lr": lr} for n, lr in zip((2, 9), rates, strict=True)]
        opt = fastgd.SGD(groups, momentum=0.9)
        if comm is not None:
            opt = ShardedOptimizer(opt, comm)
        for _ in range(4):
            opt.step([np.ones(2), np.ones(9)])
        state = opt.state_dict()
        return opt.learning_rates(), state and state["param_groups"]

    rates, groups = run(None)
    assert groups[0]["lr"] != groups[1]["lr"]
    assert on_threads(3, run) == [(rates, groups), (rates, None), (rates, None)]


def test_each_rank_has_its_share_of_the_state():
    def state_bytes(comm):
        params = [np.zeros((64, 64), "float32") for _ in range(8)]
        opt = ShardedOptimizer(fastgd.AdamW(params), comm)
        opt.step([np.ones_like(p) for p in params])
        return opt.state_bytes(), opt.learning_rates()

    whole = 8 * 2 * 64 * 64 * 4
    for ranks in (1, 2, 4):
        assert on_threads(ranks, state_bytes) == [(whole // ranks, [1e-3])] * ranks


def test_tensors_are_spread_by_size():
    assert owners_of([5, 9, 4, 1, 4], 2) == [1, 0, 1, 1, 0]
    assert owners_of([], 3) == []
    assert owners_of([1, 1], 4) == [0, 1]
    sizes = rng.integers(1, 1000, 50).tolist()
    for ranks in (2, 3, 8):
        owners = owners_of(sizes, ranks)
        loads = [sum(s for s, own in zip(sizes, owners, strict=True) if own == rank) for rank in range(ranks)]
        assert max(loads) <= sum(sizes) / ranks + max(sizes)


def test_rows_are_shared_out_once():
    for n in (0, 1, 3, 4, 7, 101):
        shares = on_threads(4, lambda comm, n=n: comm.share(np.arange(n)))
        np.testing.assert_array_equal(np.concatenate(shares), np.arange(n))
        assert sorted(map(len, shares), reverse=True) == list(map(len, shares))
        assert len(shares[0]) - len(shares[-1]) <= 1


SETTINGS = [
    ("float32", {}),
    ("float32", {"state_dtype": "8bit"}),
    ("bfloat16", {"rounding": "stochastic", "state_dtype": "bfloat16", "state_rounding": "stochastic"}),
    ("bfloat16", {"rounding": "split"}),
    ("float16", {"rounding": "kahan"}),
    ("bfloat16", {"rounding": "master", "state_dtype": "8bit"}),
]


@pytest.mark.parametrize(("dtype", "settings"), SETTINGS)
def test_the_bits_of_one_process_where_gradients_add_exactly(dtype, settings):
    """Random ones among them: a parameter has the same number, hence the same bits, wherever it is owned."""
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    numbers = np.random.default_rng(3)
    shapes = (40, 7), (300,), (), (5, 5, 5), (0, 3)
    start = [numbers.standard_normal(shape).astype(dtype) for shape in shapes]
    grads = [[numbers.standard_normal(shape).astype(dtype) for shape in shapes] for _ in range(5)]

    def run(comm):
        params = [p.copy() for p in start]
        opt = fastgd.AdamW(params, lr=0.01, seed=5, **settings)
        if comm is not None:
            opt = ShardedOptimizer(opt, comm)
        for step, grad in enumerate(grads):
            if comm is None:
                opt.step(grad)
            elif step % 2:  # all the same, and then their mean is
                opt.step(grad, weight=3)
            else:
                opt.step(grad if comm.rank == 1 else None, weight=float(comm.rank == 1))
        return [p.tobytes() for p in params]

    expected = run(None)
    assert on_threads(4, run) == [expected] * 4


def test_all_skip_what_one_cannot_take():
    def run(comm, skip):
        params = [("a", np.ones(3)), ("b", np.ones((4, 4))), ("c", np.ones(2))]
        opt = ShardedOptimizer(fastgd.AdamW(params), comm)
        grads = {name: np.ones_like(p) for name, p in params}
        if comm.rank == 2:
            grads["c"][1] = math.inf
        report = opt.step(grads, skip_nonfinite=skip, clip_norm=None if skip else 1.0)
        return report, [p.tolist() for _, p in params], opt.local.state_dict()["state"]

    for report, params, state in on_threads(3, run, True):
        assert report.skipped
        assert report.grad_norm == math.inf
        assert report.nonfinite == (0, 2, "c", (1,), math.inf)
        assert params == [np.ones(3).tolist(), np.ones((4, 4)).tolist(), np.ones(2).tolist()]
        assert state == {}
    for report, params, _ in on_threads(3, run, False):
        assert not report.skipped
        assert report.nonfinite.name == "c"
        assert math.isnan(params[2][1])


def test_ranks_begin_with_the_parameters_of_the_first():
    def run(comm):
        params = [np.full(3, comm.rank, "float32"), np.full((2, 2), comm.rank)[:, ::1].astype("float64")]
        ShardedOptimizer(fastgd.SGD(params), comm)
        return [p.max() for p in params]

    assert on_threads(3, run) == [[0, 0]] * 3


def test_averages_are_put_into_all_parameters():
    def run(comm):
        params = [np.ones(5), np.ones((3, 3))]
        opt = fastgd.SGDScheduleFree(params, lr=0.5)
        if comm is not None:
            opt = ShardedOptimizer(opt, comm)
        seen = []
        for _ in range(3):
            opt.step([p * 0.3 for p in params])
            opt.eval()
            seen += [p.copy() for p in params]
            opt.train()
        return seen + params

    for found in on_threads(2, run):
        for a, b in zip(found, run(None), strict=True):
            np.testing.assert_allclose(a, b, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("settings", "step", "error", "message"),
    [
        ({"ema_decay": 0.9}, {}, ValueError, "ema_decay"),
        ({"copies": [np.ones(3, "float16")]}, {}, ValueError, "copy"),
        ({}, {"total_norm": 1.0, "clip_norm": 1.0}, ValueError, "total_norm is measured"),
        ({}, {"weight": -1.0}, ValueError, "weight must be at least 0"),
        ({}, {"weight": math.nan}, ValueError, "weight must be at least 0"),
        ({}, {"clip": 1}, TypeError, "clip"),
        ({}, {"clip_norm": -1.0}, ValueError, "clip_norm"),
        ({}, {"grads": [None]}, TypeError, "is None: ranks sum whole arrays"),
        ({}, {"grads": [fastgd.Rows([0], [1.0])]}, TypeError, "is Rows"),
        ({}, {"grads": [np.ones(4)]}, ValueError, r"shape \(4,\)"),
        ({}, {"grads": []}, ValueError, "0 gradients for 1 parameters"),
    ],
)
def test_what_is_refused_changes_nothing(settings, step, error, message):
    params = [np.ones(3, "float32")]

    def run(comm):
        opt = ShardedOptimizer(fastgd.SGD(params, lr=1.0, **settings), comm)
        opt.step(step.pop("grads", [np.ones(3)]), **step)

    with pytest.raises(error, match=message):
        on_threads(1, run)
    assert (params[0] == 1).all()


def test_groups_of_norms_are_refused():
    def run(comm):
        groups = [{"params": [np.ones(2)]}, {"params": [np.ones(2)], "lr": 0.1}]
        opt = ShardedOptimizer(fastgd.SGD(groups), comm)
        opt.step([np.ones(2)] * 2, clip_norm=1.0, clip_scope="group")

    with pytest.raises(ValueError, match="clip_scope"):
        on_threads(2, run)


def test_a_state_that_does_not_fit_is_refused_by_all():
    def run(comm):
        params = [np.ones(4), np.ones(3)]
        opt = ShardedOptimizer(fastgd.SGD(params, momentum=0.9), comm)
        opt.step([np.ones(4), np.ones(3)])
        state = comm.broadcast(opt.state_dict())
        state["state"][1]["momentum_buffer"] = np.ones(2)
        with pytest.raises((ValueError, RankError), match="shape") as raised:
            opt.load_state_dict(state)
        return raised.type

    assert on_threads(2, run) == [RankError, ValueError]


def test_a_failure_before_the_training_is_every_ranks():
    def run(comm):
        with pytest.raises(Exception, match="broken here") as raised, together(comm):
            if comm.rank == 1:
                raise KeyError("broken here")
        return f"{raised.type.__name__}: {raised.value}"

    other = "RankError: rank 1 of 3: KeyError: 'broken here'"
    assert on_threads(3, run) == [other, "KeyError: 'broken here'", other]


@pytest.mark.parametrize(
    ("block", "error"), [(guarded, MemoryError), (guarded, SystemExit), (together, KeyboardInterrupt)]
)
def test_what_one_rank_alone_is_ended_by_ends_all(block, error, capsys):
    aborted = []

    def run(comm):
        comm.abort = lambda: aborted.append(comm.rank)
        with block(comm):
            if comm.rank == 1:
                raise error("no more of it")
            if block is guarded:
                comm.allgather(0)

    with pytest.raises(error):
        on_threads(2, run)
    assert 1 in aborted
    if block is guarded:
        said = f"rank 1 of 2 failed, and all end: {error.__name__}: no more of it"
        assert said in capsys.readouterr().err
