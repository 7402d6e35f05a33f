"""Programs: where values lie, which gradients are complete when, and a whole step in one native call."""

import itertools

import numpy as np
import pytest
from models import batch, classifier, same_bits

import fastgd
from fastgd import nn
from fastgd._native import ffi, lib
from fastgd.nn.compiled import TRAIN
from fastgd.nn.kernels import kernels_of
from fastgd.nn.program import ALIGNMENT, Builder


def chained(to, n, length):
    """n values, each made of the one before."""
    values = [to.value((length,))]
    for _ in range(n - 1):
        values.append(to.value((length,)))
        to.emit("activation_forward", to.kernels.activation("identity"), (length,), values[-2:])
    return values


def overlap(a, b):
    return np.shares_memory(a.array, b.array)


def test_values_share_memory_only_when_no_operation_needs_both():
    to = Builder(kernels_of("native"), np.dtype(np.float32))
    values = chained(to, 6, 1000)
    to.keep(values[1])
    unused = to.value((10**9,))
    size = to.allocate()
    for a, b in itertools.pairwise(values):
        assert not overlap(a, b)
    assert all(not overlap(values[1], other) for other in values if other is not values[1])
    assert overlap(values[0], values[2]) or overlap(values[0], values[3])
    assert size <= 3 * 4096 and unused.storage.memory is None
    assert all(v.array.ctypes.data % ALIGNMENT == 0 for v in values)


def test_values_of_many_sizes_never_collide():
    rng = np.random.default_rng(0)
    for _ in range(20):
        to = Builder(kernels_of("native"), np.dtype(np.float32))
        values = [to.value((int(size),)) for size in rng.integers(0, 500, 12)]
        for _ in range(15):
            some = rng.choice(12, 3, replace=False)
            to.emit("activation_backward", None, (0,), [values[i] for i in some])
        kept = rng.integers(12)
        to.keep(values[kept])
        to.allocate()
        for op in to.ops:
            a, b, c = op.arguments
            assert not (overlap(a, b) or overlap(a, c) or overlap(b, c))
        for a, b in itertools.permutations([v for v in values if v.storage.first >= 0], 2):
            ends_before = a.storage.last < b.storage.first and not a.storage.kept
            begins_behind = b.storage.last < a.storage.first and not b.storage.kept
            assert ends_before or begins_behind or not overlap(a, b)


def test_other_shapes_of_a_value_are_the_same_memory():
    to = Builder(kernels_of("native"), np.dtype(np.float64))
    value = to.value((4, 6))
    other = value.reshaped((2, 12))
    to.emit("activation_forward", None, (24,), (value, other))
    to.allocate()
    value.array[...] = np.arange(24.0).reshape(4, 6)
    assert np.array_equal(other.array, np.arange(24.0).reshape(2, 12))
    with pytest.raises(ValueError, match=r"\[4, 6\] has other elements than \[5, 5\]"):
        value.reshaped((5, 5))


def test_every_gradient_is_named_by_the_operation_that_completes_it():
    model = classifier()
    x, y = batch()
    model.loss_and_grad(x, y)
    (compiled,) = [c for key, c in model._programs.items() if key[2] == TRAIN]
    ops = compiled.program.ops
    ranges = [(op.first_gradient, op.n_gradients) for op in ops[0 : compiled.program.count]]
    assert [r for r in ranges if r[1]] == [(2, 2), (0, 2)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 0.01},
        {"clip_norm": 0.01, "clip_scope": "tensor"},
        {"clip_value": 1e-3, "clip_norm": 1e-3},
        {"skip_nonfinite": True},
        {"clip_adaptive": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("rule", ["AdamW", "LAMB", "Adafactor", "Muon"])
def test_one_call_makes_the_step_of_two(rule, options, threads):
    fused, apart = (
        nn.Sequential(
            nn.Linear(6, 16, bias=False),
            nn.Tanh(),
            nn.Linear(16, 3, bias=False),
            loss=nn.CrossEntropyLoss(),
            seed=0,
        )
        for _ in range(2)
    )
    steps = [getattr(fastgd, rule)(model.named_parameters(), lr=0.01) for model in (fused, apart)]
    x, y = batch(50)
    for n in (50, 50, 31, 50):
        mine = fused.train_step(x[:n], y[:n], steps[0], **options)
        loss, gradients = apart.loss_and_grad(x[:n], y[:n])
        report = steps[1].step(gradients, **options)
        assert mine.loss == loss and mine.report == report
        for a, b in zip(fused.parameters(), apart.parameters(), strict=True):
            same_bits(a, b)


def test_one_call_measures_large_gradients_on_any_number_of_threads(threads):
    def model():
        layers = nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 7)
        return nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0)

    x = np.random.default_rng(0).standard_normal((9, 300), np.float32)
    y = np.arange(9) % 7
    reports = []
    for fuse in (True, False):
        m = model()
        opt = fastgd.SGD(m.named_parameters(), lr=0.1)
        if fuse:
            reports.append(m.train_step(x, y, opt, clip_norm=0.1).report)
        else:
            reports.append(opt.step(m.loss_and_grad(x, y)[1], clip_norm=0.1))
    assert reports[0] == reports[1]


def test_a_gradient_that_is_not_finite_is_skipped_and_named():
    model = classifier()
    opt = fastgd.AdamW(model.named_parameters(), lr=0.1)
    x, y = batch()
    x[3, 2] = np.nan
    before = model.state_dict()
    step = model.train_step(x, y, opt, skip_nonfinite=True, clip_norm=1.0)
    assert step.report.skipped and np.isnan(step.loss)
    assert step.report.nonfinite.name == "0.weight"
    for name, array in model.state_dict().items():
        same_bits(array, before[name])


@pytest.mark.parametrize("optimizers", ["native", "reference"])
def test_any_backend_goes_with_any(backend, optimizers):
    model = classifier(backend)
    opt = fastgd.AdamW(model.named_parameters(), lr=0.1, backend=optimizers)
    x, y = batch()
    first = model.train_step(x, y, opt, clip_norm=1.0).loss
    for _ in range(30):
        last = model.train_step(x, y, opt, clip_norm=1.0).loss
    assert last < first / 2


def test_a_bad_label_changes_nothing(backend):
    model = classifier(backend)
    opt = fastgd.AdamW(model.named_parameters(), lr=0.1, backend=backend)
    x, y = batch()
    model.train_step(x, y, opt)
    before = [array.copy() for array in model.parameters()], opt.state_dict()["state"]
    with pytest.raises(ValueError, match=r"y\[4\] is 3, but labels are 0 .. 2"):
        model.train_step(x, np.where(np.arange(12) == 4, 3, y), opt, clip_norm=1.0)
    for a, b in zip(model.parameters(), before[0], strict=True):
        same_bits(a, b)
    for i, kept in opt.state_dict()["state"].items():
        assert kept["step"] == before[1][i]["step"] == 1
        same_bits(kept["exp_avg"], before[1][i]["exp_avg"])


def test_unknown_options_are_refused():
    model = classifier()
    opt = fastgd.SGD(model.named_parameters(), lr=0.1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'clip_nrom'"):
        model.train_step(*batch(), opt, clip_nrom=1.0)


def test_bad_programs_are_refused():
    assert lib.fgd_op_find(b"no_such_operation") == lib.FGD_ERROR_OP
    assert lib.fgd_op_at(-1) == lib.fgd_op_at(lib.fgd_op_count()) == ffi.NULL
    names = [ffi.string(lib.fgd_op_at(i).name).decode() for i in range(lib.fgd_op_count())]
    assert all(lib.fgd_op_find(name.encode()) == i for i, name in enumerate(names))
    assert all(hasattr(lib, f"fgd_{name}") for name in names)
    failed, ops = ffi.new("int64_t *"), ffi.new("fgd_op[2]")
    ops[0].entry, ops[1].entry = lib.fgd_op_find(b"activation_forward"), len(names)
    assert lib.fgd_run(ops, 2, failed) == lib.FGD_ERROR_OP and failed[0] == 1
    assert lib.fgd_run(ops, 1, failed) == lib.FGD_ERROR_ACTIVATION or failed[0] == 0
    assert lib.fgd_run(ops, -1, failed) == lib.FGD_ERROR_SIZE and failed[0] == -1
    assert lib.fgd_run(ffi.NULL, 1, failed) == lib.FGD_ERROR_NULL
    assert lib.fgd_run(ops, 1, ffi.NULL) == lib.FGD_ERROR_NULL
    assert lib.fgd_run(ffi.NULL, 0, failed) == 0 and failed[0] == -1


def test_a_bad_label_leaves_masks_and_statistics_as_they_were(backend):
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
    model = nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0, backend=backend)
    opt = fastgd.AdamW(model.named_parameters(), backend=backend)
    x, y = batch()
    model.train_step(x, y, opt)
    before = model.state_dict()
    assert before["2.counter"] == 1 and before["1.num_batches_tracked"] == 1
    with pytest.raises(ValueError, match=r"y\[4\] is 3, but labels are 0 .. 2"):
        model.train_step(x, np.where(np.arange(12) == 4, 3, y), opt)
    for name, array in model.state_dict().items():
        assert np.array_equal(array, before[name]), name
    model.train_step(x, y, opt)
    assert model.state_dict()["2.counter"] == 2
