"""Hessian-vector products and eigenvalues beside Hessians that are known."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest

from fastgd import nn
from fastgd.curvature import eigenvalues, hessian_vector_product

RNG = np.random.default_rng


def symmetric(n, seed=0):
    values = RNG(seed).standard_normal((n, n))
    return (values + values.T) / 2


def quadratic(hessian, dtype=np.float64, cut=None):
    """Parameters of 1/2 w H w, in two arrays cut there, and the function of its gradients."""
    n = len(hessian)
    cut = n // 2 if cut is None else cut
    params = [RNG(1).standard_normal(size).astype(dtype) for size in (cut, n - cut)]

    def gradients():
        gradient = hessian @ np.concatenate(params).astype(np.float64)
        return [gradient[:cut].astype(dtype), gradient[cut:].astype(dtype)]

    return params, gradients


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-7), (np.float32, 2e-3)])
def test_products_with_the_hessian_of_a_quadratic(dtype, rtol):
    hessian = symmetric(7)
    params, gradients = quadratic(hessian, dtype)
    vector = RNG(2).standard_normal(7)
    before = [p.tobytes() for p in params]
    product = hessian_vector_product(params, gradients, [vector[:3], vector[3:]])
    assert [p.tobytes() for p in params] == before
    assert [part.shape for part in product] == [(3,), (4,)]
    assert all(part.dtype == np.float64 for part in product)
    np.testing.assert_allclose(np.concatenate(product), hessian @ vector, rtol=0, atol=rtol * 4)


def test_products_with_a_hessian_that_changes_with_the_weights():
    # f = sum cos(w_i) + w_0 w_1^3
    w = np.array([0.3, -1.2])
    gradients = lambda: [-np.sin(w) + [w[1] ** 3, 3 * w[0] * w[1] ** 2]]  # noqa: E731
    x, y = w
    exact = [[-math.cos(x), 3 * y * y], [3 * y * y, -math.cos(y) + 6 * x * y]]
    for vector in ([1.0, 0.0], [0.0, 1e-6], [300.0, -700.0]):
        got = hessian_vector_product([w], gradients, [np.array(vector)])[0]
        np.testing.assert_allclose(got, exact @ np.array(vector), rtol=1e-7)
    # an error of eps^2, and not of eps
    errors = []
    for eps in (1e-1, 1e-2):
        got = hessian_vector_product([w], gradients, [np.array([1.0, 0.0])], eps)[0]
        errors.append(abs(got[0] - exact[0][0]))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.01)


def test_a_step_in_float64_is_too_short_to_cross_a_kink_beside_the_weights():
    w = np.ones(3)
    gradients = lambda: [w + (w > 1 + 1e-6)]  # noqa: E731
    product = hessian_vector_product([w], gradients, [np.ones(3)])
    np.testing.assert_allclose(product[0], 1, rtol=1e-6)


@pytest.mark.parametrize("n", [3, 60], ids=["dense", "lanczos"])
@pytest.mark.parametrize(("which", "order"), [("largest", slice(None, None, -1)), ("smallest", slice(None))])
def test_eigenvalues_at_both_ends(n, which, order):
    hessian = symmetric(n)
    params, gradients = quadratic(hessian)
    exact = np.linalg.eigvalsh(hessian)[order][:3]
    values, vectors = eigenvalues(params, gradients, 3, which, tol=1e-8)
    np.testing.assert_allclose(values, exact, rtol=1e-6)
    for value, vector in zip(values, vectors, strict=True):
        assert [part.shape for part in vector] == [p.shape for p in params]
        flat = np.concatenate(vector)
        assert np.linalg.norm(flat) == pytest.approx(1)
        np.testing.assert_allclose(hessian @ flat, value * flat, atol=1e-5)
    again = eigenvalues(params, gradients, 3, which, tol=1e-8)
    assert again[0].tobytes() == values.tobytes()


def test_the_ends_are_those_of_values_not_of_magnitudes():
    params, gradients = quadratic(np.diag([-9.0, *np.linspace(0.5, 2, 40)]))
    assert eigenvalues(params, gradients)[0] == pytest.approx([2], rel=1e-3)
    assert eigenvalues(params, gradients, which="smallest")[0] == pytest.approx([-9], rel=1e-3)


def test_one_parameter():
    w = np.array(2.0)
    values, vectors = eigenvalues([w], lambda: [4 * w**3])
    assert values == pytest.approx([48], rel=1e-6)
    assert abs(vectors[0][0]) == 1 and vectors[0][0].shape == ()


def test_a_model_in_float32_beside_the_hessian_of_logistic_regression():
    x = RNG(0).standard_normal((50, 5)).astype(np.float32)
    y = RNG(1).integers(0, 3, 50)
    model = nn.Sequential(nn.Linear(5, 3, bias=False), loss=nn.CrossEntropyLoss(), seed=0)
    p = nn.Sequential(*model.layers, nn.Softmax()).forward(x).astype(np.float64)
    exact = np.zeros((15, 15))
    for share, row in zip(p, x.astype(np.float64), strict=True):
        exact += np.kron(np.diag(share) - np.outer(share, share), np.outer(row, row)) / len(x)
    before = model.state_dict()
    vector = RNG(2).standard_normal((3, 5))
    product = hessian_vector_product(model, lambda: model.loss_and_grad(x, y)[1], [vector])[0]
    np.testing.assert_allclose(product.ravel(), exact @ vector.ravel(), rtol=0, atol=2e-4)
    largest, _ = eigenvalues(model, lambda: model.loss_and_grad(x, y)[1], k=2)
    np.testing.assert_allclose(largest, np.linalg.eigvalsh(exact)[:-3:-1], rtol=1e-3)
    assert all(array.tobytes() == before[name].tobytes() for name, array in model.named_parameters())


def test_gradients_of_none_are_zeros():
    w, unused = np.ones(2), np.ones(3)
    product = hessian_vector_product([w, unused], lambda: [w * w, None], [np.ones(2), None])
    np.testing.assert_allclose(product[0], [2, 2], rtol=1e-8)
    assert product[1].tolist() == [0, 0, 0]


def test_a_vector_of_zeros_asks_for_no_gradient():
    product = hessian_vector_product([np.ones(2)], lambda: pytest.fail("asked"), [np.zeros(2)])
    assert product[0].tolist() == [0, 0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_the_gradients_raise_passes_and_the_weights_are_as_before(error):
    w = np.full(30, 0.1)
    before = w.tobytes()

    def gradients():
        assert w.tobytes() != before
        raise error

    with pytest.raises(error):
        hessian_vector_product([w], gradients, [np.ones(30)])
    assert w.tobytes() == before
    with pytest.raises(error):
        eigenvalues([w], gradients)
    assert w.tobytes() == before


ONE = np.ones(2)

#: (params, gradients, vector, eps, error, reason)
REFUSED = {
    "few": ([ONE], lambda: [ONE], [], None, ValueError, "got 0 vectors for 1 parameters"),
    "shape": ([ONE], lambda: [ONE], [np.ones(3)], None, ValueError, r"vector 0 has shape \(3,\)"),
    "nan": ([ONE], lambda: [ONE], [ONE * math.nan], None, ValueError, "vector holds NaN"),
    "eps": ([ONE], lambda: [ONE], [ONE], 0, ValueError, "eps must be above 0"),
    "eps nan": ([ONE], lambda: [ONE], [ONE], math.nan, ValueError, "eps must be above 0"),
    "float16": ([ONE.astype(np.float16)], lambda: [ONE], [ONE], None, TypeError, "parameter 0 is float16"),
    "no function": ([ONE], [ONE], [ONE], None, TypeError, "gradients must be a function"),
    "weights": ([ONE * math.inf], lambda: [ONE], [ONE], None, ValueError, "parameter 0 holds NaN or inf"),
    "gradient": ([ONE], lambda: [ONE * math.nan], [ONE], None, ValueError, "gradient 0 is NaN or infinite"),
    "gradients": ([ONE], list, [ONE], None, ValueError, "got 0 gradients for 1"),
    "no elements": ([], list, [], None, ValueError, "params hold no elements"),
    "complex": ([ONE], lambda: [ONE], [ONE * 1j], None, TypeError, "vector 0 has dtype complex128"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_unchanged(case):
    params, gradients, vector, eps, error, reason = REFUSED[case]
    with pytest.raises(error, match=reason):
        hessian_vector_product(params, gradients, vector, eps)
    assert ONE.tolist() == [1, 1]


def test_what_eigenvalues_refuses():
    params, gradients = quadratic(symmetric(4))
    for options, error, reason in [
        ({"k": 5}, ValueError, "k must be at most the number of parameters, 4"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"which": "LA"}, ValueError, "which must be one of largest, smallest"),
        ({"seed": -1}, ValueError, "seed"),
        ({"tol": -1}, ValueError, "tol"),
    ]:
        with pytest.raises(error, match=reason):
            eigenvalues(params, gradients, **options)


def test_without_convergence_it_says_so():
    noise = RNG(0)
    w = np.ones(200)
    with pytest.raises(RuntimeError, match="0 of 1 eigenvalues converged in 2 restarts"):
        eigenvalues([w], lambda: [noise.standard_normal(200)], tol=1e-12, max_restarts=2)


def test_without_scipy_small_ones_work_and_others_name_it(monkeypatch):
    found = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    params, gradients = quadratic(symmetric(20))
    assert len(eigenvalues(params, gradients)[0]) == 1
    params, gradients = quadratic(symmetric(21))
    with pytest.raises(ModuleNotFoundError, match="pip install scipy"):
        eigenvalues(params, gradients)


@pytest.mark.peer
@pytest.mark.parametrize("activation", ["Tanh", "ReLU"])
def test_a_torch_module_beside_torch_s_own_hessian(activation):
    torch = pytest.importorskip("torch", reason="compares with torch, which is not a dependency")
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 5), getattr(torch.nn, activation)(), torch.nn.Linear(5, 1)
    module = torch.nn.Sequential(*layers).double()
    x, y = torch.randn(500, 4).double(), torch.randn(500, 1).double()
    loss = lambda: torch.nn.functional.mse_loss(module(x), y)  # noqa: E731
    gradients = lambda: torch.autograd.grad(loss(), list(module.parameters()))  # noqa: E731
    names = [name for name, _ in module.named_parameters()]

    def of(*weights):
        named = dict(zip(names, weights, strict=True))
        return torch.nn.functional.mse_loss(torch.func.functional_call(module, named, x), y)

    weights = tuple(p.detach().clone() for p in module.parameters())
    vector = tuple(torch.randn_like(p) for p in weights)
    exact = torch.autograd.functional.hvp(of, weights, vector)[1]
    got = hessian_vector_product(module, gradients, vector)
    for own, other in zip(got, exact, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-7)
    blocks = torch.autograd.functional.hessian(of, weights)
    rows = [
        torch.cat([b.reshape(w.numel(), -1) for b in row], 1) for w, row in zip(weights, blocks, strict=True)
    ]
    spectrum = torch.linalg.eigvalsh(torch.cat(rows))
    for which, at in (("largest", -1), ("smallest", 0)):
        value = eigenvalues(module, gradients, which=which, tol=1e-8)[0]
        assert value == pytest.approx([float(spectrum[at])], rel=1e-5)
    assert all(torch.equal(p, w) for p, w in zip(module.parameters(), weights, strict=True))
