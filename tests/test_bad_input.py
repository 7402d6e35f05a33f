"""What is refused is refused before anything changes, and the error names the tensor and the reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
from snapshots import BACKENDS, random, unchanged

import fastgd
from fastgd.arrays import first_overlap

NAN, INF = math.nan, math.inf


@pytest.fixture(params=BACKENDS)
def opt(request):
    """AdamW over a named group of two and a group of one, with a step behind it."""
    groups = [
        {"params": {"w": random((2, 3), 1), "b": random(3, 2)}},
        {"params": [("head", random(4, 3, np.float64))], "lr": 0.1},
    ]
    opt = fastgd.AdamW(groups, lr=0.01, backend=request.param)
    opt.step(good())
    return opt


def good():
    return [random((2, 3), 4), random(3, 5), random(4, 6, np.float64)]


class Dlpack:
    """Lends by DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Elsewhere:
    def __dlpack__(self, **kwargs):
        raise BufferError("on another device")


class Interface:
    def __init__(self, interface):
        self.__array_interface__ = interface


def closed_buffer():
    view = memoryview(bytearray(8)).cast("f")
    view.release()
    return view


def read_only():
    array = np.ones(3, np.float32)
    array.flags.writeable = False
    return array


ONE = np.ones(3, np.float32)
EMPTY = np.ones(0, np.float32)

#: what is no array fastgd can use: (maker, error, reason)
NOT_ARRAYS = {
    "number": (lambda: 1.0, TypeError, "is float, not an array"),
    "none": (lambda: None, TypeError, "is NoneType, not an array"),
    "list": (lambda: [1.0, 2.0, 3.0], TypeError, "is list, not an array"),
    "text": (lambda: "abc", TypeError, "is str, not an array"),
    "bytes": (lambda: b"abcd", TypeError, "is bytes"),
    "scalar": (lambda: np.float32(1), TypeError, "is float32, a value that has no memory"),
    "object": (lambda: np.array([1, None, 2]), TypeError, "dtype object"),
    "integer": (lambda: np.ones(3, np.int64), TypeError, "dtype int64"),
    "long": (lambda: np.ones(3, np.longdouble), TypeError, "dtype (float|longdouble)"),
    "complex": (lambda: np.ones(3, np.complex64), TypeError, "dtype complex64"),
    "date": (lambda: np.zeros(3, "M8[s]"), TypeError, "dtype datetime64"),
    "structured": (lambda: np.zeros(3, "f4,f4"), TypeError, "has dtype"),
    "string": (lambda: np.array(["a"], np.dtypes.StringDType()), TypeError, "dtype StringDType"),
    "swapped": (lambda: np.ones(3, np.dtype("f4").newbyteorder()), TypeError, "byte order"),
    "masked": (lambda: np.ma.masked_array(ONE, mask=[0, 1, 0]), TypeError, "masked array"),
    "closed": (closed_buffer, TypeError, "does not lend its memory"),
    "elsewhere": (Elsewhere, TypeError, "does not lend its memory .on another device"),
    "interface": (lambda: Interface({"shape": 3}), TypeError, "does not lend its memory"),
}


@pytest.mark.parametrize("case", NOT_ARRAYS)
def test_no_parameter(case):
    make, error, reason = NOT_ARRAYS[case]
    first = np.ones(2, np.float32)
    with pytest.raises(error, match=rf"^parameter 1 of group 0 .*{reason}"):
        fastgd.SGD([first, make()])
    with pytest.raises(error, match=rf"^parameter 'late' \(parameter 0 of group 1\) .*{reason}"):
        fastgd.SGD([{"params": [first]}, {"params": {"late": make()}}])


@pytest.mark.parametrize("case", sorted(NOT_ARRAYS.keys() - {"none"}))
def test_no_gradient(opt, case):
    make, error, reason = NOT_ARRAYS[case]
    grads = good()
    grads[1] = make()
    with unchanged(opt), pytest.raises(error, match=rf"^gradient of parameter 'b' \(.*group 0\) .*{reason}"):
        opt.step(grads)
    assert opt.step(good()).skipped is False


SHARED = np.ones((4, 4), np.float32)

PARAMS = {
    "read-only": (lambda: [ONE, read_only()], ValueError, "parameter 1 of group 0 is read-only"),
    "twice": (lambda: [ONE, ONE], ValueError, "parameter 1 of group 0 was given twice.*parameter 0"),
    "empty twice": (lambda: [EMPTY, EMPTY], ValueError, "parameter 1 of group 0 was given twice"),
    "two groups": (
        lambda: [{"params": {"a": ONE}}, {"params": {"b": ONE}}],
        ValueError,
        r"parameter 'b' \(parameter 0 of group 1\) was given twice.*'a'",
    ),
    "overlap": (
        lambda: [SHARED[:2], SHARED[1:]],
        ValueError,
        "parameter 0 of group 0 and parameter 1 of group 0 share",
    ),
    "inside": (lambda: [SHARED, SHARED[1, 1:2]], ValueError, "share memory"),
    "columns": (lambda: [SHARED[:, ::2], SHARED[:, 2:3]], ValueError, "share memory"),
    "two owners": (lambda: [ONE, Dlpack(ONE)], ValueError, "share memory"),
    "itself": (
        lambda: [np.lib.stride_tricks.as_strided(np.zeros(9, np.float32), (3, 3), (4, 4))],
        ValueError,
        "parameter 0 of group 0 overlaps itself",
    ),
    "broadcast": (
        lambda: [np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (9,), (0,))],
        ValueError,
        "overlaps itself",
    ),
    "none": (lambda: None, TypeError, "params is NoneType"),
    "one array": (lambda: ONE, TypeError, "params is one array"),
    "one lender": (lambda: Dlpack(ONE), TypeError, "params is one array"),
    "one buffer": (lambda: memoryview(ONE), TypeError, "params is one array"),
    "set": (lambda: {1.0, 2.0}, TypeError, "params is a set"),
    "text": (lambda: "abc", TypeError, "params is str"),
    "no params": (lambda: [{"lr": 1.0}], ValueError, 'group 0 has no "params"'),
    "params none": (lambda: [{"params": None}], TypeError, "group 0: params is NoneType"),
    "group and array": (lambda: [{"params": [ONE]}, SHARED], TypeError, "parameter 0 of group 0 is dict"),
    "same name": (lambda: [("a", ONE), ("a", SHARED)], ValueError, "two parameters are named 'a'"),
}


@pytest.mark.parametrize("case", PARAMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters(case, backend):
    make, error, reason = PARAMS[case]
    with pytest.raises(error, match=reason):
        fastgd.SGD(make(), backend=backend)


def test_base_class_has_no_rule():
    with pytest.raises(TypeError, match="use one of SGD"):
        fastgd.Optimizer([ONE])


def alias(opt, inside):
    """Gradients of which the one of 'b' lies in the memory of 'w' or of 'b' itself."""
    w, b = opt.param_groups[0]["params"]
    grads = good()
    grads[1] = w[0] if inside == "w" else b[::-1]
    return grads


GRADS = {
    "few": (lambda opt: good()[:2], ValueError, "got 2 gradients for 3 parameters"),
    "many": (lambda opt: [*good(), ONE], ValueError, "got 4 gradients for 3 parameters"),
    "shape": (
        lambda opt: [good()[0].T, *good()[1:]],
        ValueError,
        r"gradient of parameter 'w' \(.*\) has shape \(3, 2\), the parameter \(2, 3\)",
    ),
    "broadcastable": (lambda opt: [good()[0][:1], *good()[1:]], ValueError, "has shape"),
    "dtype": (
        lambda opt: [*good()[:2], good()[2].astype(np.int64)],
        TypeError,
        r"gradient of parameter 'head' \(parameter 0 of group 1\) has dtype int64; fastgd works on float32, ",
    ),
    "alias": (
        lambda opt: alias(opt, "w"),
        ValueError,
        r"gradient of parameter 'b' .*shares memory with parameter 'w'",
    ),
    "own": (lambda opt: alias(opt, "b"), ValueError, "gradient of parameter 'b' .*with parameter 'b'"),
    "one array": (lambda opt: ONE, TypeError, "grads is one array"),
    "one lender": (lambda opt: Dlpack(ONE), TypeError, "grads is one array"),
    "none": (lambda opt: None, TypeError, "grads is NoneType"),
    "number": (lambda opt: 3, TypeError, "grads is int"),
    "set": (lambda opt: {1, 2, 3}, TypeError, "grads is a set"),
    "unknown name": (lambda opt: {"W": good()[0]}, ValueError, "no parameter named 'W'"),
    "generator": (lambda opt: (1 // (2 - i) for i in range(3)), ZeroDivisionError, "division"),
}


@pytest.mark.parametrize("case", GRADS)
def test_gradients(opt, case):
    make, error, reason = GRADS[case]
    for settings in ({}, {"clip_norm": 1.0}):
        with unchanged(opt), pytest.raises(error, match=reason):
            opt.step(make(opt), **settings)
    with unchanged(opt), pytest.raises(error, match=reason):
        opt.step([None, None, None])  # another plan
        opt.step(make(opt))


def test_mapping_without_names():
    opt = fastgd.SGD([("a", random(3, 1)), random(3, 2)])
    with unchanged(opt), pytest.raises(ValueError, match="not all parameters were given names"):
        opt.step({"a": random(3, 3)})


#: hyperparameter -> values that are refused
HYPERPARAMETERS = {
    "lr": [
        -1e-9,
        NAN,
        INF,
        "0.1",
        b"1",
        None,
        True,
        np.True_,
        1j,
        np.complex64(1),
        [0.1],
        np.ones(1),
        10**400,
    ],
    "weight_decay": [-0.1, NAN, INF, np.float32(-1)],
    "eps": [-1e-8, NAN],
    "betas": [(0.9, 1.0), (-0.1, 0.9), (0.9, NAN), (0.9,), 0.9, None, "ab", (0.9, "0.9"), (0.9, 0.9, 0.9)],
    "amsgrad": [1, 0.0, "yes", None],
    "maximize": [1, None],
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, vs in HYPERPARAMETERS.items() for v in vs], ids=repr
)
def test_hyperparameters(opt, name, value):
    with unchanged(opt), pytest.raises((TypeError, ValueError), match=rf"^group 1: {name} must be"):
        opt.param_groups[1][name] = value
    with pytest.raises((TypeError, ValueError), match=rf"^group 0: {name} must be"):
        fastgd.AdamW([ONE], **{name: value})
    with pytest.raises((TypeError, ValueError), match=rf"^group 1: {name} must be"):
        fastgd.AdamW([{"params": [ONE]}, {"params": [SHARED], name: value}])


@pytest.mark.parametrize("name", ["momentum", "dampening"])
@pytest.mark.parametrize("value", [-0.1, NAN, -INF, INF])
def test_hyperparameters_of_sgd(name, value):
    with pytest.raises(ValueError, match=rf"^group 0: {name} must be at least 0 and finite"):
        fastgd.SGD([ONE], **{name: value})


def test_hyperparameters_that_do_not_exist(opt):
    for name in ("momentum", "LR", ""):
        with pytest.raises(TypeError, match=f"AdamW has no hyperparameter '{name}'"):
            opt.param_groups[0][name] = 0.1
        with pytest.raises(TypeError, match=f"AdamW has no hyperparameter '{name}'"):
            fastgd.AdamW([ONE], **{name: 0.1})
    with unchanged(opt), pytest.raises(TypeError, match="cannot be changed"):
        opt.param_groups[0]["params"] = [ONE]
    with unchanged(opt), pytest.raises(TypeError, match="cannot be deleted"):
        del opt.param_groups[0]["lr"]
    with pytest.raises(TypeError, match="got 'lr' twice"):
        fastgd.AdamW([ONE], 0.1, lr=0.1)
    with pytest.raises(TypeError, match="at most"):
        fastgd.AdamW([ONE], *range(10))


@pytest.mark.parametrize("backend", BACKENDS)
def test_hyperparameters_that_do_not_go_together(backend):
    with pytest.raises(ValueError, match="group 0: nesterov needs momentum"):
        fastgd.SGD([ONE], nesterov=True, backend=backend)
    opt = fastgd.SGD([ONE.copy()], momentum=0.9, nesterov=True, backend=backend)
    opt.step([SHARED[0, :3]])
    opt.param_groups[0]["momentum"] = 0.0
    for _ in range(2):
        with unchanged(opt), pytest.raises(ValueError, match="group 0: nesterov needs momentum"):
            opt.step([SHARED[0, :3]])
    opt.param_groups[0]["nesterov"] = False
    opt.step([SHARED[0, :3]])


OPTIONS = {
    "clip_norm": [-1, NAN, -INF, "1", True, 1j, [1.0], np.ones(2), np.ones(1)],
    "clip_value": [-1, NAN, "1", np.ones(2)],
    "grad_scale": [0, -1, NAN, INF, None, "1", 5e-324, 1e-310, 1e-40, np.ones(2)],
    "skip_nonfinite": [None, 1.5, "no", np.ones(2)],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in OPTIONS.items() for v in vs], ids=repr)
def test_options(opt, name, value):
    for _ in range(2):
        with unchanged(opt), pytest.raises((TypeError, ValueError), match=rf"^{name} must"):
            opt.step(good(), **{name: value})
    assert opt.step(good(), clip_norm=1.0).clip_coef < 1


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_skipped_step_changes_nothing(opt, value):
    grads = good()
    grads[0][1, 2] = value
    with unchanged(opt):
        report = opt.step(grads, skip_nonfinite=True, clip_norm=1.0, clip_value=0.5, grad_scale=8.0)
    assert report.skipped
    where = report.nonfinite
    assert where[:4] == (0, 0, "w", (1, 2))
    assert str(where.value) == str(value)


@pytest.mark.parametrize("n", [0, -1, 1025, 2**40, 1.5, 2.0, NAN, "2", None, True])
def test_number_of_threads(n):
    before = fastgd.get_num_threads()
    with pytest.raises(ValueError, match="number of threads must be a whole number from 1 to 1024"):
        fastgd.set_num_threads(n)
    assert fastgd.get_num_threads() == before


@pytest.mark.parametrize("size", [-1, -(2**70), 2**63, 1.5, 2.0, NAN, "2", True])
def test_size_of_caches(size):
    before = fastgd.get_cache_size()
    with pytest.raises((TypeError, ValueError), match="the size of caches must be "):
        fastgd.set_cache_size(size)
    assert fastgd.get_cache_size() == before


def test_size_of_caches_as_set_and_as_told():
    told = fastgd.get_cache_size()
    try:
        for size in (0, 2**40, np.int64(5)):
            fastgd.set_cache_size(size)
            assert fastgd.get_cache_size() == fastgd.info()["cache"] == size
    finally:
        fastgd.set_cache_size(None)
    assert fastgd.get_cache_size() == told


def test_entangled_strides_count_as_sharing():
    """NumPy's own example of strides for which the exact answer takes minutes."""
    memory = np.zeros(100_663_297, np.int8)  # never touched, so it takes no pages
    strided = np.lib.stride_tricks.as_strided
    a = strided(memory, (1049, 1049, 1049), (36674, 61119, 85569))
    b = strided(memory[64_023_025:], (1049, 1049, 1), (12223, 12224, 1))
    assert first_overlap([a, b]) == (0, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hyperparameter_set_on_the_optimizer_is_refused(backend):
    opt = fastgd.SGD([np.ones(2)], backend=backend)
    with pytest.raises(AttributeError, match=r"opt\.param_groups\[0\]\['lr'\] = "):
        opt.lr = 0.1
    assert opt.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_items_of_a_dict_are_named_parameters(backend):
    assert [
        g.members[0].name for g in fastgd.SGD({"w": np.ones(2)}.items(), backend=backend).param_groups
    ] == ["w"]
