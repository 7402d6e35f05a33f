"""torch's own database of configurations and error inputs, against every optimizer that torch also has."""

import copy
import inspect

import pytest
from torch_optim import (
    SHARED,
    assert_agree,
    copied,
    fgt,
    given,
    ours,
    parameters,
    refusal,
    single,
    takes,
    theirs,
    torch,
)

from fastgd.rules import RULES

pytest.importorskip("expecttest", reason="torch's database needs it; pip install expecttest")
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

pytestmark = pytest.mark.peer

BY_TITLE = {info.name: info for info in optim_db}
INFOS = {name: BY_TITLE[RULES[name].title] for name in SHARED}
FLAGS = ("foreach", "fused", "capturable", "differentiable", "maximize")
STEPS = 6

INPUTS = [
    pytest.param(name, entry, id=f"{name}-{entry.desc.replace(' ', '_')}")
    for name, info in INFOS.items()
    for entry in info.optim_inputs_func("cpu")
]

ERRORS = [
    pytest.param(name, number, id=f"{name}-{entry.optimizer_error_input.desc.replace(' ', '_')}")
    for name, info in INFOS.items()
    for number, entry in enumerate(info.optim_error_inputs_func("cpu", torch.float32))
]


def beside(name, dtype, mine, right):
    """Steps of ours with the one's settings and of torch's with the other's, and agreement after each."""
    start = parameters(name, dtype)
    pair = ours(name)(copied(start), **mine), theirs(name)(copied(start), **right)
    for step in range(STEPS):
        for opt in pair:
            given(opt.param_groups[0]["params"], step)
            opt.step()
        assert_agree(*pair, name, start)


@pytest.mark.parametrize(("name", "entry"), INPUTS)
def test_every_configuration(name, entry):
    """Within the roundings of float32; torch keeps its counters in it too."""
    kwargs = copy.deepcopy(entry.kwargs)
    beside(name, torch.float32, kwargs, {**copy.deepcopy(kwargs), **single(theirs(name))})


@pytest.mark.parametrize(("name", "entry"), INPUTS)
def test_every_configuration_in_float64(name, entry, counters_in_float64):
    """Within the roundings of float64: 2^29 times tighter, so that a formula that is off would show."""
    kwargs = copy.deepcopy(entry.kwargs)
    beside(name, torch.float64, kwargs, {**copy.deepcopy(kwargs), **single(theirs(name))})


@pytest.mark.parametrize(("name", "number"), ERRORS)
def test_every_error(name, number):
    """The same type and the same text, from the same call."""
    found = []
    for cls in (ours(name), theirs(name)):
        error = INFOS[name].optim_error_inputs_func("cpu", torch.float32)[number]
        entry = error.optimizer_error_input
        params = [torch.nn.Parameter(torch.ones(1, 1))] if entry.params is None else entry.params
        made = []
        refused = refusal(lambda: made.append(cls(params, **entry.kwargs)))  # noqa: B023
        if error.error_on is OptimizerErrorEnum.STEP_ERROR:
            assert refused is None
            refused = refusal(made[0].step)
        found.append(refused)
    assert found[0] == found[1]
    assert found[1] is not None and found[1][0] is error.error_type


@pytest.mark.parametrize("name", SHARED)
def test_the_signature_begins_with_torchs(name):
    mine = list(inspect.signature(ours(name)).parameters.values())
    right = list(inspect.signature(theirs(name)).parameters.values())
    for m, r in zip(mine, right, strict=False):
        assert (m.name, m.default, m.kind) == (r.name, r.default, r.kind)
    assert all(m.kind is m.KEYWORD_ONLY for m in mine[len(right) :])
    assert issubclass(ours(name), theirs(name))


@pytest.mark.parametrize("name", SHARED)
def test_groups_begin_with_torchs_settings(name):
    mine, right = (cls(parameters(name)) for cls in (ours(name), theirs(name)))
    for key, value in right.param_groups[0].items():
        assert key == "params" or mine.param_groups[0][key] == value, key
    for key, value in right.defaults.items():
        assert mine.defaults[key] == value, key


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("name", SHARED)
def test_flags_are_taken_as_torch_takes_them(name, flag):
    """None, True and False: refused with torch's text or stepped with torch's result.

    `foreach` and `fused` change roundings only in torch, and are compared with one tensor after the other.
    So is `capturable`, which torch refuses on the CPU and which means nothing here."""
    if not takes(theirs(name), flag):
        assert (
            flag == "maximize"
            or refusal(lambda: ours(name)(parameters(name), **{flag: True}))[0] is TypeError
        )
        return
    for value in (None, True, False) if flag in ("foreach", "fused") else (True, False):
        settings = {flag: value}
        right = single(theirs(name)) | (settings if flag in ("differentiable", "maximize") else {})
        refused = refusal(lambda: step_of(theirs(name), name, right | settings))  # noqa: B023
        if flag != "capturable":
            assert refusal(lambda: step_of(ours(name), name, settings)) == refused  # noqa: B023
        if refused is None or flag == "capturable":
            beside(name, torch.float32, settings, right)


def step_of(cls, name, settings):
    opt = cls(parameters(name), **settings)
    given(opt.param_groups[0]["params"], 0)
    opt.step()


@pytest.mark.parametrize("name", SHARED)
def test_flags_that_exclude_each_other(name):
    for first in FLAGS:
        for second in FLAGS:
            both = {first: True, second: True}
            if all(takes(theirs(name), flag) for flag in both):
                refused = refusal(lambda: theirs(name)(parameters(name), **both))  # noqa: B023
                assert refusal(lambda: ours(name)(parameters(name), **both)) == refused, both  # noqa: B023


@pytest.mark.parametrize("name", [name for name in SHARED if takes(theirs(name), "differentiable")])
def test_a_differentiable_step_lets_gradients_through(name):
    """Through the new parameter to the gradient that it came from, as in torch."""
    through = []
    for cls in (ours(name), theirs(name)):
        source = torch.tensor([0.3, -0.7, 1.1], requires_grad=True)
        p = torch.ones(3, requires_grad=True).clone()
        p.grad = source * 2
        opt = cls([p], differentiable=True)
        opt.step()
        p.sum().backward()
        through.append(source.grad)
    assert torch.equal(*through)


def test_all_that_torch_has_is_here():
    """But LBFGS and SparseAdam, for which there is no rule: the database covers every class of torch's."""
    without = {"LBFGS", "SparseAdam"}
    assert {RULES[name].title for name in SHARED} == BY_TITLE.keys() - without
    assert all(issubclass(getattr(fgt, rule.title), torch.optim.Optimizer) for rule in RULES.values())
