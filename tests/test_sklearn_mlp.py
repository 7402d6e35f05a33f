"""fastgd.sklearn's perceptrons take the course of scikit-learn's, and are used in the same ways."""

import copy
import pickle
import warnings

import numpy as np
import pytest

# E402: what needs it is imported behind it
sklearn = pytest.importorskip("sklearn")

import scipy.sparse  # noqa: E402
import sklearn.neural_network as theirs  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits, make_multilabel_classification  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from fastgd import sklearn as ours  # noqa: E402
from fastgd.rules import RULES  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DIGITS, LABELS = load_digits(return_X_y=True)
X = StandardScaler().fit_transform(DIGITS)[:450, :40]
Y = LABELS[:450]
RNG = np.random.default_rng(0)
REAL = np.tanh(X[:, :3]) + 0.1 * RNG.standard_normal((len(X), 3))
COUNTS = RNG.poisson(np.exp(0.3 * X[:, 0])).astype(float)
MULTILABEL = make_multilabel_classification(300, 12, n_classes=4, random_state=0)
BINARY = (X, Y > 4)

#: what is to be learned -> (class, x, y, parameters)
PROBLEMS = {
    "classes": ("MLPClassifier", X, Y, {}),
    "two classes": ("MLPClassifier", *BINARY, {}),
    "labels": ("MLPClassifier", *MULTILABEL, {}),
    "number": ("MLPRegressor", X, REAL[:, 0], {}),
    "numbers": ("MLPRegressor", X, REAL, {}),
    "counts": ("MLPRegressor", X, COUNTS, {"loss": "poisson"}),
}

#: scikit-learn's Adam adds epsilon to a root that is not corrected for bias: here it must not count
ADAM = {"solver": "adam", "epsilon": 1e-15}

#: names -> parameters of training, away from scikit-learn's defaults
COURSES = {
    "adam": {**ADAM, "beta_1": 0.8, "beta_2": 0.99, "alpha": 0.3},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.02, "alpha": 0.3},
    "plain": {"solver": "sgd", "learning_rate_init": 0.02, "momentum": 0.0},
    "classical": {"solver": "sgd", "learning_rate_init": 0.02, "nesterovs_momentum": False},
    "invscaling": {"solver": "sgd", "learning_rate_init": 0.3, "learning_rate": "invscaling", "power_t": 0.2},
    "adaptive": {
        "solver": "sgd",
        "learning_rate_init": 0.05,
        "learning_rate": "adaptive",
        "tol": 0.05,
        "n_iter_no_change": 1,
    },
    "one batch": {**ADAM, "batch_size": 450, "shuffle": False},
    "stopping": {**ADAM, "early_stopping": True, "n_iter_no_change": 3, "validation_fraction": 0.2},
}


def pair(name, x, y, weights=None, **parameters):
    """Ours and scikit-learn's, fitted to the same data."""
    given = {} if weights is None else {"sample_weight": weights}
    settings = {"hidden_layer_sizes": (17, 9), "max_iter": 12, "random_state": 3, **parameters}
    return [getattr(module, name)(**settings).fit(x, y, **given) for module in (ours, theirs)]


def assert_same(mine, other, rtol=1e-8):
    assert mine.n_iter_ == other.n_iter_ and mine.t_ == other.t_
    np.testing.assert_allclose(mine.loss_curve_, other.loss_curve_, rtol=rtol)
    for a, b in zip(mine.coefs_ + mine.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * 100)


@pytest.mark.parametrize("course", COURSES)
def test_training_takes_the_course_of_scikit_learns(course):
    mine, other = pair("MLPClassifier", X, Y, **COURSES[course])
    assert_same(mine, other)
    for name in ("best_loss_", "best_validation_score_", "validation_scores_", "out_activation_"):
        expected = getattr(other, name)
        if isinstance(expected, (str, type(None))):
            assert getattr(mine, name) == expected
        else:
            np.testing.assert_allclose(getattr(mine, name), expected)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_problem_takes_the_course_of_scikit_learns(problem, activation):
    name, x, y, own = PROBLEMS[problem]
    mine, other = pair(name, x, y, activation=activation, alpha=0.3, **own, **ADAM)
    assert_same(mine, other)
    np.testing.assert_allclose(mine.predict(x), other.predict(x), atol=1e-6)
    np.testing.assert_allclose(mine.score(x, y), other.score(x, y))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_weights_of_samples_are_scikit_learns(problem):
    name, x, y, own = PROBLEMS[problem]
    weights = np.random.default_rng(1).uniform(0.1, 3, len(x))
    mine, other = pair(name, x, y, weights, alpha=0.3, **own, **ADAM)
    assert_same(mine, other)
    unweighted, _ = pair(name, x, y, alpha=0.3, **own, **ADAM)
    assert not np.allclose(unweighted.coefs_[0], mine.coefs_[0])
    ones, _ = pair(name, x, y, np.ones(len(x)), alpha=0.3, **own, **ADAM)
    assert_same(ones, unweighted)


def test_float32_stays_float32():
    mine, other = pair("MLPClassifier", X.astype(np.float32), Y, **ADAM)
    assert mine.coefs_[0].dtype == np.float32
    np.testing.assert_allclose(mine.loss_curve_, other.loss_curve_, rtol=3e-4)


@pytest.mark.parametrize("of", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array])
def test_sparse_rows_train_as_dense_ones(of):
    dense = np.where(np.abs(X) > 0.5, X, 0)
    mine = ours.MLPClassifier((9,), max_iter=5, random_state=0).fit(of(dense), Y)
    same = ours.MLPClassifier((9,), max_iter=5, random_state=0).fit(dense, Y)
    assert_same(mine, same, rtol=1e-12)
    np.testing.assert_allclose(mine.predict_proba(of(dense)), same.predict_proba(dense))


def test_lbfgs_is_scikit_learns():
    mine, other = pair("MLPClassifier", X, Y, solver="lbfgs")
    assert mine.loss_ == other.loss_ and mine.n_iter_ == other.n_iter_
    assert not hasattr(mine, "partial_fit")


@pytest.mark.parametrize("solver", [name for name, rule in RULES.items() if rule.ndim is None])
def test_every_rule_is_a_solver(solver):
    alpha = 1e-4 if "weight_decay" in RULES[solver].defaults else 0
    settings = {"max_iter": 15, "random_state": 0, "alpha": alpha, "learning_rate_init": 0.005}
    mine = ours.MLPClassifier((20,), solver=solver, **settings).fit(X, Y)
    start = ours.MLPClassifier((20,), solver=solver, **{**settings, "max_iter": 1}).fit(X, Y)
    assert mine.n_iter_ == 15 and mine.score(X, Y) > start.score(X, Y)


def test_a_rule_without_a_penalty_refuses_alpha():
    with pytest.raises(ValueError, match=r"solver='rprop' has no L2 penalty; give alpha=0"):
        ours.MLPClassifier(solver="rprop").fit(X, Y)


def test_unknown_solvers_are_refused_as_scikit_learn_does():
    with pytest.raises(ValueError, match="'solver' parameter of MLPClassifier must be a str among"):
        ours.MLPClassifier(solver="adamx").fit(X, Y)
    with pytest.raises(ValueError, match="'solver' parameter of MLPClassifier must be a str among"):
        ours.MLPClassifier(solver="muon").fit(X, Y)  # for matrices only


@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw_schedule_free"])
def test_partial_fit_goes_on_and_survives_pickles(solver):
    settings = {"hidden_layer_sizes": (9,), "solver": solver, "epsilon": 1e-15, "random_state": 0}
    mine, carried = (ours.MLPClassifier(**settings) for _ in range(2))
    for _ in range(4):
        mine.partial_fit(X, Y, classes=np.unique(Y))
        carried.partial_fit(X, Y, classes=np.unique(Y))
        carried = pickle.loads(pickle.dumps(carried))
        carried = copy.deepcopy(carried)
    assert mine.t_ == 4 * len(X)
    assert_same(mine, carried, rtol=1e-12 if solver != "adamw_schedule_free" else 1e-9)
    if solver in ("adam", "sgd"):
        other = theirs.MLPClassifier(**settings)
        for _ in range(4):
            other.partial_fit(X, Y, classes=np.unique(Y))
        assert_same(mine, other)


def test_the_average_of_a_schedule_free_rule_is_what_is_judged_and_kept():
    settings = {"solver": "adamw_schedule_free", "max_iter": 1, "learning_rate_init": 0.01}
    mine = ours.MLPClassifier((9,), early_stopping=True, random_state=0, **settings).fit(X, Y)
    optimizer = mine._descent.optimizer
    assert not optimizer.training
    np.testing.assert_allclose(mine.coefs_[0], optimizer.parameters()[0].T, atol=1e-12)
    optimizer.train()
    assert np.abs(mine.coefs_[0] - optimizer.parameters()[0].T).max() > 1e-4


def test_warm_start_goes_on_from_the_weights():
    settings = {"hidden_layer_sizes": (9,), "warm_start": True, "max_iter": 3, "random_state": 0, **ADAM}
    mine, other = (module.MLPClassifier(**settings) for module in (ours, theirs))
    for _ in range(3):
        mine.fit(X, Y)
        other.fit(X, Y)
    assert_same(mine, other)
    for model in (mine, other):  # one that has stopped stops again after an epoch
        model.set_params(tol=10.0, n_iter_no_change=1).fit(X, Y).fit(X, Y)
    assert mine.n_iter_ == 1
    assert_same(mine, other)
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same classes"):
        mine.fit(X, Y % 3)


def test_partial_fit_has_no_early_stopping_and_new_classes_are_refused():
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        ours.MLPClassifier(early_stopping=True).partial_fit(X, Y, classes=np.unique(Y))
    mine = ours.MLPClassifier((5,)).partial_fit(X, Y % 3, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="`y` has classes not in"):
        mine.partial_fit(X, Y)


def test_pipelines_searches_and_clones():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), ours.MLPClassifier((10,), learning_rate_init=0.02, random_state=0)),
        {
            "mlpclassifier__max_iter": [50],
            "mlpclassifier__solver": ["adam", "lion"],
            "mlpclassifier__alpha": [0.0, 1e-3],
        },
        cv=2,
        error_score="raise",
    ).fit(X, Y)
    assert search.best_score_ > 0.7
    again = clone(search.best_estimator_[-1])
    assert not hasattr(again, "coefs_") and again.get_params() == search.best_estimator_[-1].get_params()
    assert again.get_params().keys() == theirs.MLPClassifier().get_params().keys()


def test_what_is_said_is_what_scikit_learn_says(capsys):
    said = []
    for module in (ours, theirs):
        module.MLPClassifier((5,), tol=10.0, verbose=True, n_iter_no_change=2, random_state=0, **ADAM).fit(
            X, Y
        )
        module.MLPClassifier((5,), verbose=True, early_stopping=True, max_iter=2, random_state=0, **ADAM).fit(
            X, Y
        )
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "Stopping." in said[0]


def test_warnings_are_scikit_learns():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        ours.MLPClassifier((5,), max_iter=2).fit(X, Y)
    with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than sample size"):
        ours.MLPClassifier((5,), max_iter=2, batch_size=1000).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.MLPClassifier((5,), tol=10.0, n_iter_no_change=1).fit(X, Y)


def test_what_overflows_is_refused():
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        ours.MLPRegressor(hidden_layer_sizes=(5,), solver="sgd", learning_rate_init=1e6, max_iter=20).fit(
            X, REAL
        )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        ours.MLPRegressor().fit(np.full((4, 2), np.nan), np.zeros(4))
    with pytest.raises(ValueError, match="hidden_layer_sizes must be > 0"):
        ours.MLPRegressor(hidden_layer_sizes=(5, 0)).fit(X, REAL)
    with pytest.raises(ValueError, match="validation set is too small"):
        ours.MLPRegressor(early_stopping=True, validation_fraction=0.01).fit(X[:50], REAL[:50])
    with pytest.raises(ValueError, match="inconsistent"):
        ours.MLPRegressor().fit(X, REAL[:-1])


def test_batches_of_weight_0_are_passed_over_and_negative_weights_refused():
    settings = {"hidden_layer_sizes": (5,), "shuffle": False, "max_iter": 3, "batch_size": 100}
    weights = np.repeat([0.0, 1.0], [200, len(X) - 200])
    mine = ours.MLPClassifier(**settings, random_state=0).fit(X, Y, sample_weight=weights)
    rest = ours.MLPClassifier(**settings, random_state=0).fit(X[200:], Y[200:])
    np.testing.assert_allclose(mine.coefs_[0], rest.coefs_[0], atol=1e-12)
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        ours.MLPClassifier(**settings).fit(X, Y, sample_weight=-weights)


def test_what_changes_between_calls_holds_from_the_next_on():
    settings = {"hidden_layer_sizes": (5,), "random_state": 0, **ADAM}
    mine, other = (module.MLPClassifier(**settings) for module in (ours, theirs))
    for model in (mine, other):
        model.partial_fit(X, Y, classes=np.unique(Y))
        model.set_params(alpha=2.0).partial_fit(X, Y)
        model.set_params(alpha=0.0).partial_fit(X.astype(np.float32).astype(float), Y)
    assert_same(mine, other)
    again = pickle.loads(pickle.dumps(mine.set_params(alpha=2.0).partial_fit(X, Y)))
    for model in (again, mine):
        model.set_params(alpha=0.0).partial_fit(X.astype(np.float32), Y)
    assert again.coefs_[0].dtype == np.float64
    assert_same(again, mine, rtol=1e-12)
    mine.set_params(solver="lbfgs", hidden_layer_sizes=(3,)).fit(X, Y)
    mine.set_params(solver="adam").partial_fit(X, Y)
    assert mine.coefs_[0].shape == (40, 3)


def test_ctrl_c_ends_training_with_a_warning(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastgd.sklearn.epochs.improves", interrupted)
    with pytest.warns(UserWarning, match="interrupted by user"):
        mine = ours.MLPClassifier((5,)).fit(X, Y)
    assert mine.n_iter_ == 1
