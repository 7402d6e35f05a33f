"""fastgd.sklearn's linear models take the course of scikit-learn's, and are used in the same ways."""

import copy
import pickle
import re
import warnings

import numpy as np
import pytest

# E402: what needs it is imported behind it
sklearn = pytest.importorskip("sklearn")

import scipy.sparse  # noqa: E402
import sklearn.linear_model as theirs  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from fastgd import sklearn as ours  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = 0.3 * RNG.standard_normal((240, 19)) * (RNG.random((240, 19)) < 0.6)
REAL = X @ RNG.standard_normal(19) + 0.1 * RNG.standard_normal(240)
TWO = np.where(REAL > 0, "yes", "no")
THREE = np.digitize(REAL, [-0.4, 0.5])
WEIGHTS = RNG.uniform(0.2, 2, 240)

#: what is to be learned -> (class, y)
PROBLEMS = {
    "two classes": ("SGDClassifier", TWO),
    "three classes": ("SGDClassifier", THREE),
    "numbers": ("SGDRegressor", REAL),
}
#: how the rows are given -> what makes them of X
FORMS = {
    "float64": lambda x: x,
    "float32": lambda x: x.astype(np.float32),
    "columns": np.asfortranarray,
    "integers": lambda x: np.rint(2 * x).astype(int),
    "sparse": scipy.sparse.csr_array,
    "sparse float32": lambda x: scipy.sparse.csc_matrix(x.astype(np.float32)),
}
LOSSES = {
    name: sorted(getattr(theirs, name)._parameter_constraints["loss"][0].options)
    for name in ("SGDClassifier", "SGDRegressor")
}
#: names -> parameters away from scikit-learn's defaults
COURSES = {
    "average": {"average": True, "penalty": "elasticnet", "alpha": 0.01},
    "late average": {"average": 700, "loss": "huber", "learning_rate": "constant"},
    "average never": {"average": 100_000},
    "heavy decay": {"alpha": 5.0, "learning_rate": "constant", "eta0": 0.1, "average": 10},
    "stopping": {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 2},
    "unshuffled": {"shuffle": False, "penalty": None, "tol": None},
    "through 0": {"fit_intercept": False, "penalty": "l1", "alpha": 0.01},
    "powers": {"learning_rate": "invscaling", "power_t": 0.3, "eta0": 0.2},
    "adaptive": {"learning_rate": "adaptive", "eta0": 0.1, "tol": 0.01, "n_iter_no_change": 1},
    "epsilon": {"loss": "squared_epsilon_insensitive", "epsilon": 0.3, "learning_rate": "invscaling"},
    "elastic": {"penalty": "elasticnet", "l1_ratio": 0.7, "alpha": 0.003},
}
PASSIVE = {"SGDClassifier": {"loss": "hinge"}, "SGDRegressor": {"loss": "epsilon_insensitive"}}


def pair(name, x, y, **parameters):
    """Ours and scikit-learn's, fitted to the same data."""
    weights = parameters.pop("sample_weight", None)
    settings = {"max_iter": 12, "random_state": 3, **parameters}
    return [getattr(module, name)(**settings).fit(x, y, sample_weight=weights) for module in (ours, theirs)]


def assert_same(mine, other, rtol=1e-9):
    """Sums are taken in another order: float64 may differ in its last places, which grow from row to row."""
    assert mine.n_iter_ == other.n_iter_ and mine.t_ == other.t_
    for name in ("coef_", "intercept_"):
        a, b = getattr(mine, name), getattr(other, name)
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("rate", ["constant", "optimal", "invscaling", "adaptive"])
@pytest.mark.parametrize("penalty", ["l2", "l1", "elasticnet", None])
@pytest.mark.parametrize(("name", "loss"), [(name, loss) for name in LOSSES for loss in LOSSES[name]])
def test_losses_penalties_and_rates_take_the_same_course(name, loss, penalty, rate):
    y = TWO if name == "SGDClassifier" else REAL
    settings = {"loss": loss, "penalty": penalty, "learning_rate": rate, "alpha": 0.05, "eta0": 0.05}
    assert_same(*pair(name, X, y, **settings))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_form_of_rows_takes_the_same_course(problem, course, form):
    name, y = PROBLEMS[problem]
    mine, other = pair(name, FORMS[form](X), y, sample_weight=WEIGHTS, **COURSES[course])
    # float32 weights are rounded after each of 2880 rows, in other places where they are scaled
    assert_same(mine, other, rtol=1e-3 if "float32" in form else 1e-9)
    np.testing.assert_array_equal(mine.predict(X) == y, other.predict(X) == y)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("rate", ["pa1", "pa2"])
@pytest.mark.parametrize("form", ["float64", "sparse"])
def test_passive_aggressive_steps(problem, rate, form):
    name, y = PROBLEMS[problem]
    x = X.copy()
    x[::50] = 0
    settings = {"learning_rate": rate, "eta0": 0.5, "alpha": 0.01, **PASSIVE[name]}
    # steps end at the edge of where there is a loss, so that a last place may say whether the next has one
    assert_same(*pair(name, FORMS[form](x), y, **settings), rtol=1e-6)
    assert_same(*pair(name, FORMS[form](x), y, penalty=None, **settings), rtol=1e-6)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 1: 0.5, 2: 1.0}])
def test_class_weights(class_weight):
    assert_same(*pair("SGDClassifier", X, THREE, class_weight=class_weight, alpha=0.05))
    assert_same(*pair("SGDClassifier", X, np.minimum(THREE, 1), class_weight="balanced"))


def test_classes_in_threads_are_those_of_one_thread():
    one, two = (ours.SGDClassifier(random_state=0, n_jobs=jobs).fit(X, THREE) for jobs in (1, 2))
    np.testing.assert_array_equal(one.coef_, two.coef_)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_early_stopping_judges_as_scikit_learn_does(problem):
    name, y = PROBLEMS[problem]
    for loss in LOSSES[name]:
        settings = {"early_stopping": True, "loss": loss, "learning_rate": "adaptive", "max_iter": 60}
        assert_same(*pair(name, X, y, **settings))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("average", [False, True, 400])
def test_partial_fit_and_warm_starts(problem, average):
    name, y = PROBLEMS[problem]
    settings = {"average": average, "random_state": 0, "max_iter": 3, "alpha": 0.05}
    mine, other = (getattr(module, name)(**settings) for module in (ours, theirs))
    given = {"classes": np.unique(y)} if name == "SGDClassifier" else {}
    for part in (slice(0, 100), slice(100, 240), slice(0, 240)):
        for model in (mine, other):
            model.partial_fit(X[part], y[part], **given)
        assert_same(mine, other)
    for _ in range(2):
        for model in (mine, other):
            model.set_params(warm_start=True).fit(X, y)
        assert_same(mine, other)
    coef, intercept = other.coef_ + 0.5, other.intercept_ - 0.5
    for model in (mine, other):  # which go on in the arrays that they are given
        model.set_params(warm_start=False).fit(X, y, coef.copy(), intercept.copy())
    assert_same(mine, other)


def test_generators_are_drawn_from_alike():
    for name, y in PROBLEMS.values():
        for early in (False, True):
            mine, other = np.random.RandomState(5), np.random.RandomState(5)
            settings = {"early_stopping": early, "max_iter": 5}
            a = getattr(ours, name)(random_state=mine, **settings).fit(X, y)
            b = getattr(theirs, name)(random_state=other, **settings).fit(X, y)
            assert_same(a, b)
            assert mine.randint(1 << 30) == other.randint(1 << 30)


@pytest.mark.parametrize("problem", ["two classes", "numbers"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_what_is_said_is_what_scikit_learn_says(problem, early_stopping, capsys):
    name, y = PROBLEMS[problem]
    said = []
    for module in (ours, theirs):
        settings = {"early_stopping": early_stopping, "verbose": 1, "random_state": 0, "tol": 0.01}
        getattr(module, name)(**settings).fit(X, y)
        said.append(re.sub(r"\d+\.\d\d seconds", "", capsys.readouterr().out))
    assert said[0] == said[1] and "Convergence after" in said[0] and "Norm" in said[0]


def test_the_native_course_is_what_fits(monkeypatch):
    def refuse(*_):
        raise NotImplementedError

    monkeypatch.setattr("fastgd.online.native.Descent.run", refuse)
    for name, y in PROBLEMS.values():
        with pytest.raises(NotImplementedError):
            getattr(ours, name)().fit(X, y)


def test_copies_and_sparse_weights_go_on():
    for name, y in PROBLEMS.values():
        model = getattr(ours, name)(penalty="l1", alpha=0.01, random_state=0, max_iter=5).fit(X, y)
        again = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.deepcopy(model).sparsify()]
        read_only = copy.deepcopy(model)
        for kept in (read_only.coef_, read_only.intercept_):
            kept.setflags(write=False)
        model.partial_fit(X, y)
        for other in (*again, read_only):
            other.partial_fit(X, y)
            np.testing.assert_array_equal(other.coef_, model.coef_)
        assert clone(model).get_params() == model.get_params()
        assert model.get_params().keys() == getattr(theirs, name)().get_params().keys()


def test_rows_of_another_dtype_are_learned_from_in_the_first_ones():
    for name, y in PROBLEMS.values():
        given = {"classes": np.unique(y)} if name == "SGDClassifier" else {}
        model = getattr(ours, name)(random_state=0).partial_fit(X.astype(np.float32), y, **given)
        for form in FORMS.values():
            assert model.partial_fit(form(X), y).coef_.dtype == np.float32


def test_what_is_given_stays_as_it_is():
    x, weights = X.copy(), WEIGHTS.copy()
    for array in (x, weights):
        array.setflags(write=False)
    for name, y in PROBLEMS.values():
        for form in ("float64", "sparse"):
            getattr(ours, name)().fit(FORMS[form](x), y, sample_weight=weights)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    ("parameters", "x", "rows"),
    [
        ({}, np.where(X > 0.5, np.nan, X), 240),
        ({}, np.where(X > 0.5, np.inf, X), 240),
        ({}, X[:0], 0),
        ({}, X[:, :0], 240),
        ({}, X, 239),
        ({"alpha": -1.0}, X, 240),
        ({"alpha": 0.0, "learning_rate": "optimal"}, X, 240),
        ({"learning_rate": "pa1", "loss": "huber"}, X, 240),
        ({"loss": "hinges"}, X, 240),
        ({"eta0": 0.0}, X, 240),
        ({"penalty": "elasticnet", "l1_ratio": None}, X, 240),
        ({"max_iter": 0}, X, 240),
        ({"learning_rate": "constant", "eta0": 1e300, "loss": "squared_error", "penalty": None}, X, 240),
    ],
)
def test_bad_input_is_refused_as_by_scikit_learn(problem, parameters, x, rows):
    name, y = PROBLEMS[problem]
    said = []
    for module in (ours, theirs):
        with warnings.catch_warnings(), pytest.raises(ValueError, match=r".") as error:  # compared below
            warnings.simplefilter("ignore")
            getattr(module, name)(random_state=0, **parameters).fit(x, y[:rows])
        said.append(str(error.value))
    assert sorted(said[0]) == sorted(said[1])  # sets of options are told in any order


def test_one_class_and_weights_of_0_are_refused():
    with pytest.raises(ValueError, match="number of classes has to be greater than one"):
        ours.SGDClassifier().fit(X, np.ones(240))
    with pytest.raises(ValueError, match="early_stopping should be False with partial_fit"):
        ours.SGDRegressor(early_stopping=True).partial_fit(X, REAL)
    with pytest.raises(ValueError, match="weights for validation set are all zero"):
        ours.SGDClassifier(early_stopping=True).fit(X, TWO, sample_weight=np.zeros(240))


def test_single_rows_and_columns():
    one = X[:, :1].copy()
    assert_same(*pair("SGDRegressor", one, REAL, max_iter=5))
    assert_same(*pair("SGDRegressor", X[:1], REAL[:1], max_iter=5))
    assert_same(*pair("SGDClassifier", one[[0, -1]], [0, 1], max_iter=5))
    empty = scipy.sparse.csr_array((5, 3))
    assert_same(*pair("SGDRegressor", empty, REAL[:5], max_iter=5))


def test_fits_that_have_not_converged_say_so():
    with pytest.warns(ConvergenceWarning, match="Maximum number of iteration reached"):
        ours.SGDClassifier(max_iter=1).fit(X, TWO)


def test_pipelines_and_searches():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), ours.SGDClassifier(random_state=0)),
        {"sgdclassifier__loss": ["hinge", "log_loss"], "sgdclassifier__alpha": [1e-4, 1e-2]},
        cv=2,
        error_score="raise",
    ).fit(X, THREE)
    assert search.best_score_ > 0.6
