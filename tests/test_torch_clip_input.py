"""What clipping of fastgd.torch is given and refuses: torch's errors, other tensors, autograd, compilers."""

import math
import warnings

import numpy as np
import pytest
from torch_gradients import assert_close, parameter, random, torch

from fastgd.torch import clip
from fastgd.torch.host import HostTensors

pytestmark = pytest.mark.peer

theirs = torch.nn.utils


def test_limits_that_make_no_sense_are_refused_before_anything_changes():
    """torch turns gradients around by a negative max_norm, and sets them to a negative clip_value."""
    p = parameter(torch.tensor([3.0, 4]))
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm must be at least 0"):
            clip.clip_grad_norm_(p, bad)
        with pytest.raises(ValueError, match="max_norm must be at least 0"):
            clip.clip_grads_with_norm_(p, bad, torch.tensor(5.0))
        with pytest.raises(ValueError, match="clip_value must be at least 0"):
            clip.clip_grad_value_(p, bad)
    with pytest.raises(ValueError, match="total_norm must be at least 0"):
        clip.clip_grads_with_norm_(p, 1.0, torch.tensor(-1.0))
    assert p.grad.tolist() == [3, 4]


def test_without_a_limit_gradients_are_left_alone():
    """torch makes NaN of an infinite limit and an infinite norm."""
    p = parameter(torch.tensor([3.0, math.inf]))
    assert clip.clip_grad_norm_(p, math.inf).item() == math.inf
    clip.clip_grads_with_norm_(p, math.inf, torch.tensor(math.inf))
    clip.clip_grad_value_(p, math.inf)
    clip.clip_grad_norm_([p, p], math.inf)
    clip.clip_grad_value_([p, p], math.inf)
    assert p.grad.tolist() == [3, math.inf]


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return type(error), str(error)


SPARSE = torch.tensor([[1.0, 2]]).to_sparse()


@pytest.mark.parametrize(
    "tensors",
    [
        [SPARSE],
        [torch.ones(2), SPARSE],
        [torch.tensor([1, 2])],
        [None],
        [2.0],
        3,
        [torch.ones(2).to(torch.float8_e5m2)],
    ],
    ids=["sparse", "dense and sparse", "integers", "None", "a number", "no list", "float8"],
)
def test_what_torch_refuses_is_refused_by_its_words(tensors):
    for norm_type in (2, 3):
        expected = outcome(theirs.get_total_norm, tensors, norm_type)
        assert issubclass(expected[0], Exception)
        assert outcome(clip.get_total_norm, tensors, norm_type) == expected


def test_clipping_what_torch_cannot_clip():
    sparse = torch.nn.Parameter(torch.ones(1, 2))
    sparse.grad = SPARSE
    cases = [
        ("clip_grad_norm_", [sparse], 1.0),
        ("clip_grad_value_", [sparse], 1.0),
        ("clip_grad_value_", [parameter(torch.ones(2, dtype=torch.complex64))], 1.0),
        ("clip_grad_norm_", 3, 1.0),
        ("clip_grad_norm_", [parameter(torch.ones(2))], "one"),
        ("clip_grad_norm_", [parameter(torch.ones(1).expand(4))], 1.0),
    ]
    for name, *arguments in cases:
        expected = outcome(getattr(theirs, name), *arguments)
        assert issubclass(expected[0], Exception)
        assert outcome(getattr(clip, name), *arguments) == expected


def test_what_is_given_twice_counts_twice_as_in_torch():
    base = random((30,)) * 10
    for pair in (lambda b: [b, b], lambda b: [b[:20], b[10:]], lambda b: [b, b[::2]]):
        mine, other = base.clone(), base.clone()
        norm = clip.clip_grad_norm_([parameter(g) for g in pair(mine)], 1.0)
        assert_close(norm, theirs.clip_grad_norm_([parameter(g) for g in pair(other)], 1.0), 1e-6)
        assert_close(mine, other, 1e-5)
        clip.clip_grad_value_([parameter(g) for g in pair(mine)], 0.001)
        assert mine.abs().max() == np.float32(0.001)


BASE = torch.zeros(10, 10)


@pytest.mark.parametrize(
    ("tensors", "shared"),
    [
        ([BASE[0], BASE[1], BASE[2:]], False),
        ([BASE[1:], BASE[0]], False),
        ([BASE[:, 0], BASE[:, 1:]], False),
        ([BASE[::2, ::2], BASE[1, ::2], BASE[0, 1::2]], False),
        ([torch.zeros(0), torch.zeros(0), BASE[5:5], BASE], False),
        ([BASE[1], BASE[:2]], True),
        ([BASE[2], BASE[1], BASE[2]], True),
        ([BASE[:, 0], BASE[:, 1], BASE[3]], True),
        ([BASE[:, 0], BASE[3, :5]], True),
        ([BASE[3, 3], BASE], True),
        ([BASE[0, :1].expand(4)], True),
        ([BASE.view(torch.int16).view(torch.bfloat16)[0, 15:], BASE[0, 7]], True),
        ([BASE.view(torch.int16).view(torch.bfloat16)[0, :14], BASE[0, 7]], False),
    ],
)
def test_whether_tensors_share_memory(tensors, shared):
    """Threads of the kernels must not meet in an element."""
    assert HostTensors(tensors).share_memory() == shared


class Other(torch.Tensor):
    """A class of tensors that does as it likes."""


def test_other_classes_and_tensors_without_memory_are_torchs():
    grad = (random((5,)) * 10).as_subclass(Other)
    mine, other = (torch.nn.Parameter(torch.zeros(5)) for _ in range(2))
    mine.grad, other.grad = grad.clone(), grad.clone()
    norms = clip.clip_grad_norm_([mine], 1.0), theirs.clip_grad_norm_([other], 1.0)
    assert type(norms[0]) is type(norms[1]) is Other
    assert torch.equal(mine.grad, other.grad)
    assert clip.get_total_norm([torch.ones(3, device="meta")]).device.type == "meta"


def test_autograd_sees_what_is_written():
    """As with torch's: a graph that needs the gradient as it was refuses to run."""
    w = torch.nn.Parameter(torch.ones(3))
    for clipping in (lambda: clip.clip_grad_norm_(w, 0.1), lambda: clip.clip_grad_value_(w, 0.1)):
        w.grad = None
        (w.grad,) = torch.autograd.grad((w**3).sum(), [w], create_graph=True)
        assert w.grad.requires_grad
        square = (w.grad**2).sum()
        before = w.grad._version
        clipping()
        assert w.grad._version == before + 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(square, [w])
        w.grad = None  # breaks the cycle with the graph


def test_gradients_of_inference_mode():
    with torch.inference_mode():
        p = parameter(torch.tensor([3.0, 4]))
        assert clip.clip_grad_norm_(p, 1.0).item() == 5
        assert p.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


@pytest.mark.parametrize("foreach", [None, True, False])
def test_foreach_changes_nothing(foreach):
    p = parameter(torch.tensor([3.0, 4]))
    assert clip.get_total_norm([p.grad], foreach=foreach).item() == 5
    clip.clip_grad_norm_(p, 1.0, foreach=foreach)
    clip.clip_grads_with_norm_(p, 1.0, torch.tensor(2.0), foreach)
    clip.clip_grad_value_(p, 0.35, foreach)
    assert p.grad.tolist() == pytest.approx([0.3, 0.35], rel=1e-5)


def test_clipping_in_a_compiled_step():
    """What is around is compiled, and no part of clipping is."""
    p = parameter(torch.tensor([3.0, 4]))
    q = parameter(torch.tensor([3.0, 4]))
    compiled = []

    def backend(graph, inputs):
        compiled.extend(node.target.__name__ for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    @torch.compile(backend=backend)
    def step():
        before = p.grad * 2
        norm = clip.clip_grad_norm_([p], 1.0)
        clip.clip_grads_with_norm_([q], 1.0, clip.get_total_norm([q.grad]))
        clip.clip_grad_value_([q], 0.7)
        return before + norm

    with warnings.catch_warnings():
        # torch's compiler warns of its own modules, differently from version to version
        warnings.simplefilter("ignore")
        result = step()
    assert result.tolist() == [11, 13]
    assert compiled == ["mul", "add"]
    assert p.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)
    assert q.grad.tolist() == pytest.approx([0.6, 0.7], rel=1e-6)
