"""What is predicted with averaged weights: batch norm's statistics taken anew, and means over ensembles."""

import numpy as np
import pytest
from snapshots import random

import fastgd
from fastgd import nn
from fastgd.averaging import StochasticWeightAverage, mean_prediction, refresh_batch_norm


def net(momentum=0.1, loss=None, backend="auto", dtype=np.float32):
    """Batch norm at the top and inside a residual block, and the layers that behave otherwise in training."""
    options = {"dtype": dtype}
    block = nn.Residual(
        nn.Linear(6, 6, **options),
        nn.BatchNorm1d(6, momentum=momentum, **options),
        nn.Dropout(0.3),
        shortcut=[nn.BatchNorm1d(6, **options)],
    )
    layers = nn.Linear(4, 6, **options), nn.BatchNorm1d(6, momentum=None, **options), block, nn.ReLU()
    last = nn.BatchNorm1d(6, track_running_stats=False, **options), nn.Linear(6, 3, **options)
    return nn.Sequential(*layers, *last, loss=loss or nn.CrossEntropyLoss(), seed=0, backend=backend)


def batches(dtype=np.float32, sizes=(8, 8, 3)):
    return [random((n, 4), i, dtype) * (i + 1) + i for i, n in enumerate(sizes)]


def bits(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def is_statistic(name):
    return name.endswith(STATISTICS)


# ---- Batch norm's statistics


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_are_means_over_the_batches(dtype, backend):
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.5, dtype=dtype), seed=0, backend=backend)
    model.layers[0].buffers()["running_mean"][...] = 99
    given = batches(dtype)
    refresh_batch_norm(model, given)
    found = model.layers[0].buffers()
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    means, variances = [b.mean(0) for b in given], [b.var(0, ddof=1) for b in given]
    np.testing.assert_allclose(found["running_mean"], np.mean(means, 0), rtol=0, atol=tolerance * 4)
    np.testing.assert_allclose(found["running_var"], np.mean(variances, 0), rtol=tolerance * 4)
    assert found["num_batches_tracked"] == 3


def test_all_else_is_as_it_was():
    model = net()
    opt = fastgd.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    twin, twin_opt = net(), None
    for x in batches():
        model.train_step(x, np.arange(len(x)) % 3, opt)
    twin.load_state_dict(model.state_dict())
    twin_opt = fastgd.SGD(twin.named_parameters(), lr=0.1, momentum=0.9)
    twin_opt.load_state_dict(opt.state_dict())
    before = bits(model)
    refresh_batch_norm(model, batches())
    after = bits(model)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if name.endswith(STATISTICS[:2])}
    # the momentum of the layers holds again in programs that are compiled before and after
    for name, array in model.named_buffers():
        array[...] = dict(twin.named_buffers())[name]
    for x in [*batches(), random((5, 4), 9)]:
        for one, its_opt in ((model, opt), (twin, twin_opt)):
            one.train_step(x, np.arange(len(x)) % 3, its_opt)
        assert bits(model) == bits(twin)


def test_a_block_puts_the_former_statistics_back():
    model = net()
    before = bits(model)
    with refresh_batch_norm(model, batches()):
        assert bits(model) != before
        inside = bits(model)
    assert bits(model) == before
    with pytest.raises(KeyError), refresh_batch_norm(model, batches()):
        raise KeyError
    assert bits(model) == before
    refresh_batch_norm(model, batches())
    assert {k: v for k, v in bits(model).items() if is_statistic(k)} == {
        k: v for k, v in inside.items() if is_statistic(k)
    }


def test_batches_as_loaders_give_them():
    first, *others = (net() for _ in range(4))
    refresh_batch_norm(first, batches())
    labelled = [(x, np.zeros(len(x))) for x in batches()]
    for model, given in zip(others, [labelled, map(list, labelled), iter(batches())], strict=True):
        refresh_batch_norm(model, given)
        assert bits(model) == bits(first)


def test_sequences_are_batches():
    model = nn.Sequential(nn.RNN(4, 5, output="last"), nn.BatchNorm1d(5), seed=0)
    x, lengths = random((6, 7, 4), 0), np.array([7, 6, 5, 2, 1, 1])
    refresh_batch_norm(model, [nn.Sequences(x, lengths)])
    seen = model.layers[0:1][0]
    h = nn.Sequential(seen).forward(nn.Sequences(x, lengths))
    found = dict(model.named_buffers())["1.running_mean"]
    np.testing.assert_allclose(found, h.mean(0), rtol=0, atol=1e-6)
    labelled = bits(model)
    refresh_batch_norm(model, [(nn.Sequences(x, lengths), np.zeros(6))])
    assert bits(model) == labelled


REFUSED_BATCHES = {
    "none": ([], ValueError, "batches holds no batch"),
    "shape": ([random((8, 4), 0), random((8, 5), 0)], ValueError, "x has a shape"),
    "dtype": ([random((8, 4), 0), random((8, 4), 0, np.float64)], TypeError, "x is float64"),
    "one row": ([random((8, 4), 0), random((1, 4), 0)], ValueError, "more than 1 value per channel"),
    "stops": ((random((8, 4), 0) if i == 0 else 1 / 0 for i in range(2)), ZeroDivisionError, "division"),
}


@pytest.mark.parametrize("case", REFUSED_BATCHES)
def test_refused_batches_change_nothing(case):
    given, error, reason = REFUSED_BATCHES[case]
    model = net()
    momenta = model.layers[1].momentum, model.layers[2].layers[1].momentum
    model.layers[1].buffers()["running_mean"][...] = 5
    before = bits(model)
    with pytest.raises(error, match=reason):
        refresh_batch_norm(model, given)
    assert bits(model) == before
    assert (model.layers[1].momentum, model.layers[2].layers[1].momentum) == momenta == (None, 0.1)


def test_models_without_running_statistics():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False), seed=0)
    before = bits(model)
    refresh_batch_norm(model, iter(lambda: 1 / 0, None))
    assert bits(model) == before
    with pytest.raises(TypeError, match=r"model must be an nn\.Sequential"):
        refresh_batch_norm([model], batches())


def test_evaluation_with_averaged_weights():
    model = net()
    opt = fastgd.SGD(model.named_parameters(), lr=0.5, ema_decay=0.9)
    swa = StochasticWeightAverage(opt)
    for x in batches() * 3:
        model.train_step(x, np.arange(len(x)) % 3, opt)
        swa.update()
    before = bits(model)
    for applied in (swa.applied, opt.averaged):
        with applied(), refresh_batch_norm(model, batches()):
            inside = bits(model)
        assert bits(model) == before
        other = net()
        with applied():
            other.load_state_dict(model.state_dict())
        refresh_batch_norm(other, batches())
        assert bits(other) == inside


@pytest.mark.peer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_statistics_are_torch_s(dtype):
    torch = pytest.importorskip("torch", reason="the comparison is with torch.optim.swa_utils.update_bn")
    shapes = {"dtype": dtype}
    layers = [
        nn.Conv2d(3, 4, 3, **shapes),
        nn.BatchNorm2d(4, momentum=0.3, **shapes),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 5, **shapes),
        nn.BatchNorm1d(5, momentum=None, **shapes),
        nn.Linear(5, 2, **shapes),
    ]
    model = nn.Sequential(*layers, seed=0)
    of = torch.nn
    theirs = of.Sequential(
        of.Conv2d(3, 4, 3), of.BatchNorm2d(4, momentum=0.3), of.ReLU(), of.Flatten(), of.Linear(64, 5)
    )
    theirs.extend([of.BatchNorm1d(5, momentum=None), of.Linear(5, 2)])
    theirs.to(getattr(torch, dtype)).load_state_dict(model.to_torch_state_dict())
    given = [random((n, 3, 6, 6), i, dtype) + i for i, n in enumerate((8, 8, 2, 5))]
    refresh_batch_norm(model, given)
    torch.optim.swa_utils.update_bn([torch.from_numpy(x) for x in given], theirs)
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    for name, tensor in theirs.state_dict().items():
        own = model.state_dict()[name]
        np.testing.assert_allclose(own, tensor.numpy(), rtol=tolerance, atol=tolerance, err_msg=name)
    x = given[0]
    np.testing.assert_allclose(
        model.forward(x), theirs.eval()(torch.from_numpy(x)).detach().numpy(), rtol=tolerance, atol=tolerance
    )


# ---- Ensembles


def classifiers(n, dtype=np.float32, loss=None):
    return [nn.Sequential(nn.Linear(4, 3, dtype=dtype), loss=loss, seed=i) for i in range(n)]


def softmax(z):
    e = np.exp(np.float64(z) - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-np.float64(z)))


#: loss -> what is averaged by itself
LOSSES = {
    "classes": (nn.CrossEntropyLoss(), softmax),
    "bits": (nn.BCEWithLogitsLoss(), sigmoid),
    "numbers": (nn.MSELoss(), np.float64),
    "none": (None, np.float64),
}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mean_of_what_models_predict(kind, dtype):
    loss, link = LOSSES[kind]
    models, x = classifiers(4, dtype, loss), random((7, 4), 0, dtype) * 20
    right = np.mean([link(model.forward(x)) for model in models], axis=0)
    found = mean_prediction(models, x, batch_size=3)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize(
    ("link", "formula"),
    [("softmax", softmax), ("sigmoid", sigmoid), ("identity", None)],
)
def test_the_link_can_be_chosen(link, formula):
    (model,), x = classifiers(1, loss=nn.CrossEntropyLoss()), random((7, 4), 0)
    outputs = model.forward(x)
    found = mean_prediction(model, x, link=link)
    np.testing.assert_allclose(found, formula(outputs) if formula else outputs, rtol=0, atol=1e-6)


def test_probabilities_of_sequences():
    model = nn.Sequential(nn.RNN(4, 5), nn.Linear(5, 3), loss=nn.CrossEntropyLoss(), seed=0)
    found = mean_prediction([model], random((2, 6, 4), 0))
    assert found.shape == (2, 6, 3)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)


def test_snapshots_of_one_model(tmp_path):
    model, x = net(), random((5, 4), 0)
    opt = fastgd.SGD(model.named_parameters(), lr=0.5)
    states, right = [], []
    for i, batch in enumerate(batches()):
        model.train_step(batch, np.arange(len(batch)) % 3, opt)
        states.append(model.state_dict())
        right.append(softmax(model.forward(x)))
        model.save(tmp_path / str(i))
    before = bits(model)
    paths = [tmp_path / "0", str(tmp_path / "1"), states[2]]
    for given in (states, iter(states), paths):
        found = mean_prediction(model, x, states=given)
        np.testing.assert_allclose(found, np.mean(right, axis=0), rtol=0, atol=1e-6)
        assert bits(model) == before


def test_an_ensemble_is_asked_one_behind_the_other():
    """And a model that is loaded on the way is loaded when its turn comes."""
    made = []

    def one_at_a_time():
        for i in range(3):
            made.append(i)
            yield classifiers(1)[0]
            assert len(made) == i + 1

    mean_prediction(one_at_a_time(), random((2, 4), 0))
    assert made == [0, 1, 2]


def test_functions_are_models():
    x = random((3, 4), 0)
    functions = [lambda x: x.astype(np.float64), lambda x: np.float32(3) * x]
    found = mean_prediction(functions, x, link="identity")
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, 2 * x, rtol=1e-6)
    assert mean_prediction(lambda x: x.astype(np.float16), x, link="identity").dtype == np.float32


def test_overflowing_sums_and_nan():
    x = np.full((2, 4), 1, np.float32)
    large = [lambda x: np.full((2, 2), 3e38, np.float32)] * 3
    np.testing.assert_allclose(mean_prediction(large, x, link="identity"), np.float32(3e38))
    some = [lambda x: np.ones((2, 1)), lambda x: np.array([[np.nan], [3.0]])]
    assert np.array_equal(mean_prediction(some, x, link="identity"), [[np.nan], [2.0]], equal_nan=True)


X = random((2, 4), 0)
MODEL = classifiers(1)[0]
REFUSED = {
    "no models": (([], X), {}, ValueError, "there is no model to ask"),
    "no states": ((MODEL, X), {"states": []}, ValueError, "states holds no state"),
    "states of two": (([MODEL], X), {"states": []}, TypeError, "states are those of one"),
    "one state": ((MODEL, X), {"states": MODEL.state_dict()}, TypeError, "states is one state"),
    "one path": ((MODEL, X), {"states": "model"}, TypeError, "states is one state"),
    "link": ((MODEL, X), {"link": "relu"}, ValueError, "link must be one of auto, identity, softmax"),
    "function": ((lambda x: x, X), {}, ValueError, "model 0 is a function, of which no loss is known"),
    "number": ((3, X), {}, TypeError, "models must be an nn.Sequential"),
    "numbers": (([MODEL, 3], X), {}, TypeError, "model 1 must be an nn.Sequential or a function, not int"),
    "shapes": (([MODEL, lambda x: x], X), {"link": "identity"}, ValueError, "model 1 has shape .* model 0"),
    "integers": (([lambda x: [1]], X), {"link": "identity"}, TypeError, "the output of model 0 is list"),
    "x": ((MODEL, random((2, 5), 0)), {}, ValueError, "x has a shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    arguments, named, error, reason = REFUSED[case]
    with pytest.raises(error, match=reason):
        mean_prediction(*arguments, **named)


def test_an_error_between_snapshots_leaves_the_model_as_it_was():
    model = net()
    before = bits(model)
    other = {name: array + 1 for name, array in model.state_dict().items()}
    with pytest.raises(KeyError, match="lacks"):
        mean_prediction(model, random((2, 4), 0), states=[other, {}])
    assert bits(model) == before
    # whose traceback keeps all that was at work
    with pytest.raises(ValueError, match="x has a shape") as caught:
        mean_prediction(model, random((2, 9), 0), states=[other])
    assert bits(model) == before and caught.tb
