"""Norms and clipping of gradients that lie on several ranks: those of one process that has all of them."""

import math

import pytest

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
pytestmark = pytest.mark.peer

if not torch.distributed.is_available():
    pytest.skip("this torch was built without torch.distributed", allow_module_level=True)

import torch.distributed as dist  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import (  # noqa: E402
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module  # noqa: E402
from torch_ranks import on_ranks  # noqa: E402

from fastgd.torch import clip  # noqa: E402

theirs = torch.nn.utils

NORM_TYPES = [2, math.inf, 1, 3.5, 0, -math.inf]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parameter(grad):
    p = torch.nn.Parameter(grad.detach().clone())
    p.grad = grad
    return p


def assert_same_everywhere(number):
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, number)
    assert len({float.hex(x) for x in everyone}) == 1, everyone


def whole(grad):
    return grad.full_tensor() if isinstance(grad, DTensor) else grad


def counting_reductions(call):
    counted = 0
    reduce = dist.all_reduce

    def counting(*arguments, **named):
        nonlocal counted
        counted += 1
        return reduce(*arguments, **named)

    dist.all_reduce = counting
    try:
        result = call()
        return result, counted
    finally:
        dist.all_reduce = reduce


def check(make, calls, norm_types=NORM_TYPES):
    """make() -> gradients; calls: how many all-reduces a norm of them takes."""
    for norm_type in norm_types:
        grads = make()
        full = [whole(grad).clone() for grad in grads]
        flat = torch.cat([g.double().reshape(-1) for g in full])
        expected = torch.linalg.vector_norm(flat, norm_type).item()
        norm, counted = counting_reductions(lambda: clip.get_total_norm(grads, norm_type))  # noqa: B023
        assert counted == calls
        assert type(norm) is torch.Tensor and norm.dtype == clip.get_total_norm(full, norm_type).dtype
        assert norm.item() == pytest.approx(expected, rel=1e-6), norm_type
        assert_same_everywhere(norm.item())
        params = [parameter(g) for g in grads]
        assert clip.clip_grad_norm_(params, expected / 3, norm_type).item() == norm.item()
        coef = (expected / 3) / (expected + 1e-6)
        for p, before in zip(params, full, strict=True):
            torch.testing.assert_close(whole(p.grad), before * coef, rtol=1e-6, atol=0)
        clip.clip_grads_with_norm_(params, 1.0, torch.tensor(4.0))
        for p, before in zip(params, full, strict=True):
            torch.testing.assert_close(whole(p.grad), before * coef * 0.25, rtol=1e-6, atol=1e-7)


# ---- Two ranks --------------------------------------------------------------------------------------


def fully_sharded():
    """A model whose last tensor has one element, so that a rank has none of it."""
    torch.manual_seed(0)
    whole_model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    model.load_state_dict(whole_model.state_dict())
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    x = random(8, 7)
    whole_model(x).pow(2).sum().backward()
    model(x[dist.get_rank() :: 2]).pow(2).sum().mul(2).backward()  # ranks are averaged
    norm = clip.clip_grad_norm_(model.parameters(), 0.5)
    expected = clip.clip_grad_norm_(whole_model.parameters(), 0.5)
    torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
    assert expected > 1
    assert_same_everywhere(norm.item())
    for p, q in zip(model.parameters(), whole_model.parameters(), strict=True):
        assert isinstance(p.grad, DTensor)
        torch.testing.assert_close(p.grad.full_tensor(), q.grad, rtol=1e-5, atol=1e-7)
    again = theirs.clip_grad_norm_(model.parameters(), 0.1)
    assert again.full_tensor().item() == pytest.approx(0.5, rel=1e-5)
    clip.clip_grads_with_norm_(
        model.parameters(), 0.05, theirs.get_total_norm([p.grad for p in model.parameters()])
    )
    assert clip.get_total_norm([p.grad for p in model.parameters()]).item() == pytest.approx(0.05, rel=1e-4)
    clip.clip_grad_value_(model.parameters(), 1e-3)
    assert clip.get_total_norm([p.grad for p in model.parameters()], math.inf).item() == pytest.approx(1e-3)


def placements():
    mesh = init_device_mesh("cpu", (2,))
    rows, columns, everywhere = (
        lambda p=p, seed=i: distribute_tensor(random(5, 4, seed=seed), mesh, [p])
        for i, p in enumerate((Shard(0), Shard(1), Replicate()))
    )
    check(lambda: [rows(), columns()], 1)
    check(lambda: [rows(), everywhere(), columns()], 1)
    check(lambda: [everywhere()], 0)
    check(lambda: [random(3, seed=8), rows(), random(4, seed=9)], 1, [2, math.inf])

    def half():
        return DTensor.from_local(random(5, 4, seed=dist.get_rank()), mesh, [Partial()])

    check(lambda: [rows(), half()], 1)
    with pytest.raises(Exception):  # noqa: B017 # torch's own, which has changed from version to version
        clip.clip_grad_value_([parameter(half())], 0.1)


def what_is_far_or_not_finite():
    mesh = init_device_mesh("cpu", (2,))
    grads = [DTensor.from_local(torch.full((2,), 1e20), mesh, [Shard(0)])]
    assert clip.clip_grad_norm_([parameter(g) for g in grads], 1.0).item() == pytest.approx(2e20, rel=1e-6)
    assert grads[0].to_local().tolist() == pytest.approx([0.5, 0.5], rel=1e-6)
    for value in (1e200, 1e-200):
        grads = [DTensor.from_local(torch.full((2,), value, dtype=torch.float64), mesh, [Shard(0)])]
        assert clip.get_total_norm(grads).item() == pytest.approx(2 * value, rel=1e-14)
    for bad in (math.nan, math.inf):
        for norm_type in (2, math.inf, 3):
            local = torch.tensor([1.0, bad if dist.get_rank() == 1 else 2.0])
            p = parameter(DTensor.from_local(local.clone(), mesh, [Shard(0)]))
            with pytest.raises(RuntimeError, match="is non-finite, so it cannot be clipped"):
                clip.clip_grad_norm_([p], 0.1, norm_type, error_if_nonfinite=True)
            torch.testing.assert_close(p.grad.to_local(), local, rtol=0, atol=0, equal_nan=True)
            assert str(clip.get_total_norm([p.grad], norm_type).item()) == str(bad)


def two_ranks():
    fully_sharded()
    placements()
    what_is_far_or_not_finite()


def test_two_ranks():
    on_ranks(2, two_ranks)


# ---- Four ranks, in two dimensions ------------------------------------------------------------------


def both_ways_sharded(mesh):
    """Tensor-parallel along the inner dimension, fully sharded along the outer one."""
    torch.manual_seed(0)
    whole_model, model = torch.nn.Linear(6, 8), torch.nn.Linear(6, 8)
    model.load_state_dict(whole_model.state_dict())
    parallelize_module(model, mesh["inner"], ColwiseParallel(output_layouts=Replicate()))
    fully_shard(model, mesh=mesh["outer"])
    x = random(8, 6)
    whole_model(x).pow(2).sum().backward()
    model(x[mesh.get_coordinate()[0] :: 2]).pow(2).sum().mul(2).backward()
    grads = [p.grad for p in model.parameters()]
    assert grads[0].device_mesh.ndim == 2
    norm, counted = counting_reductions(lambda: clip.clip_grad_norm_(model.parameters(), 0.5))
    expected = clip.clip_grad_norm_(whole_model.parameters(), 0.5)
    assert counted == 2 and expected > 1
    torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
    for p, q in zip(model.parameters(), whole_model.parameters(), strict=True):
        torch.testing.assert_close(p.grad.full_tensor(), q.grad, rtol=1e-5, atol=1e-7)


def four_ranks():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))

    def placed(*of, seed):
        return distribute_tensor(random(6, 5, seed=seed), mesh, of)

    both = lambda: placed(Shard(0), Shard(1), seed=1)  # noqa: E731
    inner = lambda: placed(Replicate(), Shard(0), seed=2)  # noqa: E731
    outer = lambda: placed(Shard(0), Replicate(), seed=3)  # noqa: E731
    nowhere = lambda: placed(Replicate(), Replicate(), seed=4)  # noqa: E731
    some = [2, math.inf, 0]
    check(lambda: [inner(), inner()], 1)
    check(lambda: [outer(), nowhere()], 1, some)
    check(lambda: [both()], 2, some)
    check(lambda: [outer(), both(), nowhere(), inner()], 2)
    # of two meshes, each has its own all-reduce
    of_inner = lambda: distribute_tensor(random(7, seed=5), mesh["inner"], [Shard(0)])  # noqa: E731
    check(lambda: [outer(), of_inner()], 2, some)
    both_ways_sharded(mesh)


@pytest.mark.slow  # four processes that import torch
def test_four_ranks():
    on_ranks(4, four_ranks)
