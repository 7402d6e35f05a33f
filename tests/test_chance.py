"""Noise on gradients, batches that grow, and draws with replacement."""

import math

import ml_dtypes
import numpy as np
import pytest
from snapshots import random

import fastgd
from fastgd import chance, nn
from fastgd.data import batches

DTYPES = ["float32", "float64", "float16", ml_dtypes.bfloat16]


def zeros(dtype="float32"):
    return [np.zeros((300, 200), dtype), np.zeros(70_000, dtype)]


# ---- Noise


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("step", "eta", "gamma"), [(0, 0.3, 0.55), (9, 1.0, 0.55), (99, 0.01, 0.0)])
def test_the_noise_is_normal_with_the_papers_variance(dtype, step, eta, gamma):
    grads = zeros(dtype)
    chance.add_noise_(grads, step, eta, gamma, rng=0)
    variance = eta / (1 + step) ** gamma
    for grad in grads:
        z = grad.astype(np.float64).ravel() / math.sqrt(variance)
        assert abs(z.mean()) < 4 / math.sqrt(z.size)
        assert abs(z.var() - 1) < 4 * math.sqrt(2 / z.size)
        assert abs((z**4).mean() - 3) < 0.15
        assert abs(np.corrcoef(z[1:], z[:-1])[0, 1]) < 4 / math.sqrt(z.size)


def test_it_is_added():
    grads, plain = [random((3, 4), 0)], [np.zeros((3, 4), np.float32)]
    before = grads[0].copy()
    chance.add_noise_(grads, 3, rng=5)
    chance.add_noise_(plain, 3, rng=5)
    assert np.array_equal(grads[0], before + plain[0]) and plain[0].all()


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_sums_in_16_bits_are_rounded_once(dtype):
    grad, exact = random(1000, 0, dtype), random(1000, 0, dtype).astype(np.float32)
    chance.add_noise_([grad], 0, rng=1)
    chance.add_noise_([exact], 0, rng=1)
    assert grad.tobytes() == exact.astype(dtype).tobytes()


def test_the_noise_is_a_function_of_seed_tensor_and_step():
    def noise(seed, step, place):
        grads = [None] * 4
        grads[place] = np.zeros(5)
        chance.add_noise_(grads, step, 1.0, 0.0, rng=seed)
        return grads[place].tobytes()

    cases = [(seed, step, place) for seed in (0, 1) for step in (0, 1, 7) for place in (0, 1, 3)]
    assert len({noise(*case) for case in cases}) == len(cases)
    assert all(noise(*case) == noise(*case) for case in cases)
    together = [np.zeros(5) for _ in range(4)]
    chance.add_noise_(together, 7, 1.0, 0.0, rng=1)
    assert together[3].tobytes() == noise(1, 7, 3)


def test_a_generator_goes_on():
    rng, one, two = np.random.default_rng(3), np.zeros(4), np.zeros(4)
    chance.add_noise_([one, two], 0, rng=rng)
    numbers = np.random.default_rng(3).standard_normal(8) * math.sqrt(0.3)
    np.testing.assert_allclose(np.concatenate([one, two]), numbers, rtol=1e-12)
    assert rng.standard_normal() == np.random.default_rng(3).standard_normal(9)[-1]


def test_layouts_and_sizes():
    base = np.zeros((4, 6), np.float32)
    chance.add_noise_([base[:, ::2], np.zeros(()), np.zeros((0, 3)), np.zeros(1)], 0, rng=0)
    assert base[:, ::2].all() and not base[:, 1::2].any()
    chance.add_noise_([], 0, rng=0)
    grad = np.ones(3)
    chance.add_noise_([grad], 0, eta=0, rng=0)
    assert grad.tolist() == [1, 1, 1]


def test_what_is_not_finite_stays_so():
    grad = np.array([np.nan, np.inf, -np.inf])
    chance.add_noise_([grad], 0, rng=0)
    assert np.array_equal(grad, [np.nan, np.inf, -np.inf], equal_nan=True)


READ_ONLY = np.zeros(2)
READ_ONLY.flags.writeable = False
GRAD = np.zeros(2)
REFUSED_NOISE = {
    "step": (([GRAD], -1), {}, ValueError, "step must be at least 0"),
    "half a step": (([GRAD], 0.5), {}, TypeError, "step must be a whole number"),
    "eta": (([GRAD], 0, -1), {}, ValueError, "eta must be at least 0"),
    "gamma": (([GRAD], 0, 1, math.inf), {}, ValueError, "gamma must be at least 0 and finite"),
    "rng": (([GRAD], 0), {"rng": "a"}, TypeError, "rng must be a whole number"),
    "legacy": (([GRAD], 0), {"rng": np.random}, TypeError, "rng must be a whole number"),
    "one": ((GRAD, 0), {}, TypeError, "grads is one array"),
    "integers": (([GRAD, np.zeros(2, int)], 0), {}, TypeError, "gradient 1 has dtype int64"),
    "read-only": (([GRAD, READ_ONLY], 0), {}, ValueError, "gradient 1 is read-only"),
    "twice": (([GRAD, GRAD], 0), {}, ValueError, "share memory"),
    "rows": (([fastgd.Rows(np.zeros(1, int), np.zeros((1, 2)))], 0), {}, TypeError, "gradient 0 is Rows"),
}


@pytest.mark.parametrize("case", REFUSED_NOISE)
def test_refused_before_anything_changes(case):
    arguments, named, error, reason = REFUSED_NOISE[case]
    with pytest.raises(error, match=reason):
        chance.add_noise_(*arguments, **{"rng": 0, **named})
    assert not GRAD.any()


def test_gradient_noise_counts_its_steps_and_goes_on_after_a_resumption():
    whole = chance.GradientNoise(eta=1.0, gamma=0.5, seed=4)
    seen = []
    for t in range(6):
        assert whole.step == t and whole.deviation == pytest.approx((1 + t) ** -0.25)
        if t == 3:
            part = chance.GradientNoise(eta=1.0, gamma=0.5)
            part.load_state_dict(whole.state_dict())
        seen.append(np.zeros(3))
        whole([seen[-1]])
        if t >= 3:
            grad = np.zeros(3)
            part([grad])
            assert grad.tobytes() == seen[-1].tobytes()
    by_hand = np.zeros(3)
    chance.add_noise_([by_hand], 5, 1.0, 0.5, rng=4)
    assert by_hand.tobytes() == seen[5].tobytes()
    with pytest.raises(TypeError, match="gradient 0"):
        whole([np.zeros(1, int)])
    assert whole.step == 6


def test_gradient_noise_in_a_loop():
    """Two runs with one seed are one run; another seed is another."""

    def run(seed):
        model = nn.Sequential(nn.Linear(4, 3), loss=nn.CrossEntropyLoss(), seed=0)
        opt, noise = fastgd.SGD(model.named_parameters(), lr=0.1), chance.GradientNoise(seed=seed)
        for t in range(5):
            _, grads = model.loss_and_grad(random((6, 4), t), np.arange(6) % 3)
            fastgd.clip_grad_norm_(grads, 1.0)
            noise(grads)
            opt.step(grads)
        return model.parameters()[0].tobytes()

    assert run(0) == run(0) != run(1)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ([], TypeError),
        ({"step": 1}, ValueError),
        ({"step": -1, "seed": 0}, ValueError),
        ({"step": 5, "seed": 1.5}, TypeError),
    ],
)
def test_a_state_of_noise_that_does_not_fit_changes_nothing(state, error):
    noise = chance.GradientNoise(seed=2)
    with pytest.raises(error):
        noise.load_state_dict(state)
    assert noise.state_dict() == {"step": 0, "seed": 2}


@pytest.mark.parametrize("bad", [{"eta": -1}, {"gamma": -0.1}, {"seed": -1}, {"seed": 0.5}, {"eta": "1"}])
def test_gradient_noise_refuses(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        chance.GradientNoise(**bad)


@pytest.mark.peer
def test_gradients_of_torch():
    torch = pytest.importorskip("torch", reason="the test is about torch's tensors")
    for name in ("float32", "bfloat16"):
        grads = [torch.zeros(3, 4, dtype=getattr(torch, name)) for _ in range(2)]
        own = [np.zeros((3, 4), name if name == "float32" else ml_dtypes.bfloat16) for _ in range(2)]
        chance.add_noise_(grads, 2, rng=1)
        chance.add_noise_(own, 2, rng=1)
        assert all(np.array_equal(a.float().numpy(), b.astype("f4")) for a, b in zip(grads, own, strict=True))


# ---- Batches that grow


def test_batches_grow_at_milestones():
    size = chance.GrowingBatches(32, (30, 60, 80), factor=5)
    assert [size(epoch) for epoch in (0, 29, 30, 59, 60, 79, 80, 500)] == [
        32,
        32,
        160,
        160,
        800,
        800,
        *[4000] * 2,
    ]
    assert all(size.rate_scale(epoch) == 1 for epoch in (0, 30, 500))


def test_beyond_the_largest_batch_the_rate_falls_instead():
    size = chance.GrowingBatches(32, (1, 2, 3), factor=4, most=600)
    assert [size(epoch) for epoch in range(5)] == [32, 128, 512, 600, 600]
    scales = [size.rate_scale(epoch) for epoch in range(5)]
    assert scales == [1, 1, 1, 600 / 2048, 600 / 2048]
    # what counts is rate / batch size, which falls by the factor at every milestone
    ratios = [scale / size(epoch) for epoch, scale in enumerate(scales)]
    np.testing.assert_allclose(np.divide(ratios[:-1], ratios[1:]), [4, 4, 4, 1])


def test_sizes_are_rounded():
    size = chance.GrowingBatches(3, range(1, 4), factor=1.5)
    assert [size(epoch) for epoch in range(5)] == [3, 5, 7, 10, 10]
    assert chance.GrowingBatches(7, ())(100) == 7
    assert chance.GrowingBatches(7, range(5000), most=9)(5000) == 9


REFUSED_GROWTH = {
    "size": ((0, ()), {}, ValueError, "size must be at least 1"),
    "milestones": ((1, (-1,)), {}, ValueError, "a milestone must be at least 0"),
    "half": ((1, (1.5,)), {}, TypeError, "a milestone must be a whole number"),
    "factor": ((1, ()), {"factor": 0.5}, ValueError, "factor must be at least 1"),
    "most": ((8, ()), {"most": 7}, ValueError, "most must be at least 8"),
}


@pytest.mark.parametrize("case", REFUSED_GROWTH)
def test_growth_refuses(case):
    arguments, named, error, reason = REFUSED_GROWTH[case]
    with pytest.raises(error, match=reason):
        chance.GrowingBatches(*arguments, **named)
    with pytest.raises(TypeError, match="epoch must be a whole number"):
        chance.GrowingBatches(1, ())(0.5)


# ---- Draws with replacement


@pytest.mark.parametrize("size", [1, 7, 50, 99, "full"])
def test_an_epoch_of_draws(size):
    def drawn(start=0):
        return list(batches(50, size, np.random.default_rng(0), start, replacement=True))

    cut = drawn()
    rows = np.concatenate(cut)
    assert len(rows) == 50 and set(rows) <= set(range(50)) and len(set(rows)) < 50
    assert len({len(part) for part in cut[:-1]}) <= 1
    for k in range(len(cut)):
        rest = drawn(sum(map(len, cut[:k])))
        assert [part.tolist() for part in rest] == [part.tolist() for part in cut[k:]]


def test_draws_are_independent_and_uniform():
    rng = np.random.default_rng(0)
    epochs = np.array([np.concatenate(list(batches(20, 6, rng, replacement=True))) for _ in range(4000)])
    counts = np.bincount(epochs.ravel(), minlength=20)
    assert abs(counts - 4000).max() < 5 * math.sqrt(4000)
    missed = np.mean([20 - len(set(epoch)) for epoch in epochs]) / 20
    assert missed == pytest.approx((1 - 1 / 20) ** 20, abs=0.005)
    assert (epochs[:, 0] == epochs[:, 1]).mean() == pytest.approx(1 / 20, abs=0.015)


def test_no_examples_to_draw():
    assert list(batches(0, 3, np.random.default_rng(0), replacement=True)) == []
    with pytest.raises(ValueError, match="batch size"):
        batches(0, "full", np.random.default_rng(0), replacement=True)
