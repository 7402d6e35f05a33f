"""Sequential: training, buffers, layouts, initial parameters, names and state."""

import copy
import math
import pickle

import numpy as np
import pytest
from models import Descent, batch, classifier, same_bits

import fastgd
from fastgd import nn


def test_training_lowers_the_loss(backend):
    model = classifier(backend)
    x, y = batch(200)
    opt = Descent(model.parameters(), 1.0)
    first = model.train_step(x, y, opt, clip_norm=1.0)
    assert first.report == {"clip_norm": 1.0}
    for _ in range(200):
        last = model.train_step(x, y, opt)
    assert isinstance(last.loss, float) and last.loss < first.loss / 5
    assert np.mean(np.argmax(model.forward(x), axis=1) == y) > 0.95


def test_gradients_are_the_same_objects_every_time():
    model = classifier()
    gradients = model.gradients()
    inside = list(gradients)
    for n in (12, 5, 12, 1, 2, 3, 4, 7):
        assert model.loss_and_grad(*batch(n))[1] is gradients
        assert all(a is b for a, b in zip(gradients, inside, strict=True))
    assert [g.shape for g in gradients] == [p.shape for p in model.parameters()]


def test_shapes_may_alternate_and_only_a_few_programs_are_kept():
    model, x, y = classifier(), *batch(40)
    expected = {n: model.loss(x[:n], y[:n]) for n in range(1, 40)}
    for n in [*range(1, 40), 32, 8, 32, 8]:
        assert model.loss(x[:n], y[:n]) == expected[n]
    assert len(model._programs) == 8
    key = (32, 6), np.dtype(np.float32), "loss", False
    kept = model._programs[key]
    for n in range(1, 20):
        model.loss(x[:n], y[:n])
        model.loss(x[:32], y[:32])
    assert model._programs[key] is kept


def test_forward_gives_an_array_of_the_users_own():
    model, (x, _) = classifier(), batch()
    first = model.forward(x)
    kept = first.copy()
    model.forward(-x)
    assert np.array_equal(first, kept)
    out = np.empty_like(first)
    assert model.forward(x, out=out) is out
    assert np.array_equal(out, kept)
    with pytest.raises(ValueError, match=r"out must be float32 of shape \[12, 3\]"):
        model.forward(x, out=np.empty((3, 3), np.float32))
    with pytest.raises(TypeError, match="out must be a NumPy array, not list"):
        model.forward(x, out=[])
    with pytest.raises(TypeError, match="out must be float32"):
        model.forward(x, out=np.empty((12, 3)))


def test_any_layout_of_x_and_y():
    model, (x, y) = classifier(), batch(12)
    value, grads = model.loss_and_grad(x, y)
    grads = [grad.copy() for grad in grads]
    shifted = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    shifted[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    every_other = np.repeat(y, 2)[::2]
    for other in (
        np.asfortranarray(x),
        np.repeat(x, 2, axis=1)[:, ::2],
        x[::-1][::-1],
        shifted,
        frozen,
        x.tolist(),
    ):
        other = other if isinstance(other, np.ndarray) else np.array(other, np.float32)
        for labels in (y, y.tolist(), y.astype(np.int8), y.astype(np.uint64), y.astype(">i4"), every_other):
            assert model.loss_and_grad(other, labels)[0] == value
            for grad, expected in zip(model.gradients(), grads, strict=True):
                same_bits(grad, expected)


def test_initial_parameters():
    layer = nn.Linear(100, 300, seed=1)
    for parameter in (layer.weight, layer.bias):
        assert parameter.dtype == np.float32
        assert np.abs(parameter).max() <= 0.1
        assert np.abs(parameter).max() > 0.098
        assert abs(parameter.std() - 0.1 / math.sqrt(3)) < 0.003
    assert np.array_equal(layer.weight, nn.Linear(100, 300, seed=1).weight)
    assert not np.array_equal(layer.weight, nn.Linear(100, 300).weight)
    assert nn.Linear(3, 2, bias=False).bias is None
    before = layer.weight.copy()
    nn.Sequential(layer)
    assert np.array_equal(layer.weight, before)
    nn.Sequential(layer, seed=5)
    assert not np.array_equal(layer.weight, before)
    with pytest.raises(AttributeError):
        layer.weight = before


def test_names_and_state():
    model = classifier()
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(a is b for (_, a), b in zip(model.named_parameters(), model.parameters(), strict=True))
    x, y = batch()
    state, value = model.state_dict(), model.loss(x, y)
    for parameter in model.parameters():
        parameter += 1
    assert model.loss(x, y) != value
    bad = [
        ({"0.bias": None}, KeyError, "lacks the parameters \\['0.bias'\\]"),
        ({"9.bias": np.zeros(1)}, KeyError, "9.bias"),
        ({"2.bias": np.zeros(4, np.float32)}, ValueError, r"2.bias has shape \[4\] in state but \[3\]"),
        ({"2.bias": np.zeros(3)}, TypeError, "2.bias is float64 in state but float32"),
    ]
    before = model.state_dict()
    for change, error, match in bad:
        changed = {name: array for name, array in {**state, **change}.items() if array is not None}
        with pytest.raises(error, match=match):
            model.load_state_dict(changed)
        assert all(np.array_equal(a, before[name]) for name, a in model.named_parameters())
    model.load_state_dict(state)
    assert model.loss(x, y) == value


def test_a_model_is_copied_and_pickled_together_with_its_optimizer():
    model, (x, y) = classifier(), batch()
    opt = fastgd.AdamW(model.named_parameters())
    model.train_step(x, y, opt)
    for again, own in (copy.deepcopy((model, opt)), pickle.loads(pickle.dumps((model, opt)))):
        expected = copy.deepcopy((model, opt))
        assert again.train_step(x, y, own).loss == expected[0].train_step(x, y, expected[1]).loss
        for name, array in again.state_dict().items():
            assert array.tobytes() == expected[0].state_dict()[name].tobytes()
            assert array.tobytes() != model.state_dict()[name].tobytes()


def test_an_optimizer_of_another_model_is_refused_before_anything_changes():
    model, (x, y) = classifier(), batch()
    other = classifier()
    before = [p.copy() for p in (*model.parameters(), *other.parameters())]
    for held in (other.parameters(), model.parameters()[::-1], model.parameters()[:-1]):
        with pytest.raises(ValueError, match="does not hold this model's parameters"):
            model.train_step(x, y, fastgd.SGD(held))
    for p, old in zip((*model.parameters(), *other.parameters()), before, strict=True):
        assert p.tobytes() == old.tobytes()
    model.train_step(x, y, fastgd.SGD(model.parameters()))


def test_a_model_is_saved_and_loaded(tmp_path):
    model, (x, _) = classifier(), batch()
    model.save(tmp_path / "model.safetensors")
    again = classifier()
    again.parameters()[0][...] = 0
    again.load(tmp_path / "model.safetensors")
    assert again.forward(x).tobytes() == model.forward(x).tobytes()


def test_evaluation_in_batches_is_that_of_all_rows(backend):
    x, y = batch(50)
    for loss in (
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss([1.0, 0.2, 3.0], ignore_index=1),
        nn.CrossEntropyLoss(reduction="sum"),
    ):
        layers = nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)
        model = nn.Sequential(*layers, loss=loss, seed=0, backend=backend)
        found = model.evaluate(x, y, batch_size=7)
        np.testing.assert_allclose(found.loss, model.loss(x, y), rtol=1e-6)
        counted = y != loss.ignore_index
        right = np.argmax(model.forward(x), axis=1) == y
        assert found.accuracy == right[counted].mean()
        same_bits(model.predict(x, batch_size=7)[:14], model.predict(x[:14], batch_size=7))
        np.testing.assert_allclose(model.predict(x), model.forward(x), rtol=1e-5, atol=1e-6)


def test_evaluation_of_a_regression(backend):
    x = batch(50)[0]
    for loss in (nn.MSELoss(), nn.L1Loss(reduction="sum")):
        model = nn.Sequential(nn.Linear(6, 2), loss=loss, seed=0, backend=backend)
        found = model.evaluate(x, x[:, :2], batch_size=32)
        np.testing.assert_allclose(found.loss, model.loss(x, x[:, :2]), rtol=1e-6)
        assert found.accuracy is None


def test_bad_evaluations():
    model, (x, y) = classifier(), batch()
    with pytest.raises(ValueError, match="x holds no rows"):
        model.evaluate(x[:0], y[:0])
    with pytest.raises(ValueError, match="x holds no rows"):
        model.predict(x[:0])
    with pytest.raises(ValueError, match=r"y must have shape"):
        model.evaluate(x, y[:-1])
    with pytest.raises(ValueError, match=r"y must have shape"):
        model.evaluate(x, np.append(y, 0))
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        model.predict(x, batch_size=0)


@pytest.mark.peer
def test_state_goes_to_torch_and_back():
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    model = classifier()
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    theirs.load_state_dict(model.to_torch_state_dict())
    x, _ = batch()
    np.testing.assert_allclose(theirs(torch.from_numpy(x)).detach(), model.forward(x), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        theirs[0].weight.mul_(3)
    model.load_torch_state_dict(theirs.to(torch.float64).state_dict())
    same_bits(model.parameters()[0], theirs[0].weight.detach().float().numpy())
    model.load_torch_state_dict(theirs.to(torch.bfloat16).state_dict())
    same_bits(model.parameters()[0], theirs[0].weight.detach().float().numpy())
    before = model.state_dict()
    with pytest.raises(KeyError, match="lacks the parameters"):
        model.load_torch_state_dict(theirs[0].state_dict())
    with pytest.raises(TypeError, match=r"0\.bias must be a tensor or an array of numbers, not str"):
        model.load_torch_state_dict({**theirs.state_dict(), "0.bias": "zero"})
    wrong = {**theirs.state_dict(), "2.bias": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"2\.bias has shape \[4\] in state but \[3\] in the model"):
        model.load_torch_state_dict(wrong)
    for name, array in model.state_dict().items():
        same_bits(array, before[name])


@pytest.mark.peer
def test_buffers_go_to_torch_and_back_but_for_counters_of_masks():
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")

    def layers(package):
        convolution = package.Conv2d(2, 3, 3, padding=1), package.BatchNorm2d(3), package.ReLU()
        return [*convolution, package.Flatten(), package.Dropout(0.5), package.Linear(48, 5)]

    model = nn.Sequential(*layers(nn), loss=nn.CrossEntropyLoss(), seed=0)
    theirs = torch.nn.Sequential(*layers(torch.nn))
    x = np.random.default_rng(0).standard_normal((6, 2, 4, 4), np.float32)
    for _ in range(3):
        model.loss_and_grad(x, np.arange(6) % 5)
    assert model.state_dict()["4.counter"] == 3
    theirs.load_state_dict(model.to_torch_state_dict())
    theirs.eval()
    np.testing.assert_allclose(theirs(torch.from_numpy(x)).detach(), model.forward(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        theirs[1].running_mean.add_(0.5)
    model.load_torch_state_dict(theirs.state_dict())
    np.testing.assert_allclose(theirs(torch.from_numpy(x)).detach(), model.forward(x), rtol=1e-4, atol=1e-5)
    assert model.state_dict()["4.counter"] == 3 and model.state_dict()["1.num_batches_tracked"] == 3
