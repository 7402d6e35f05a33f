"""scikit-learn's own checks of estimators, for each of fastgd.sklearn."""

import pytest

pytest.importorskip("sklearn")

from sklearn.utils.estimator_checks import parametrize_with_checks

from fastgd.sklearn import MLPClassifier, MLPRegressor, SGDClassifier, SGDRegressor

ESTIMATORS = [MLPClassifier(max_iter=100), MLPRegressor(max_iter=100), SGDClassifier(), SGDRegressor()]

#: where a row stands among the others counts, so that a row of weight 2 is not two rows; scikit-learn expects
#: the same of its own (PER_ESTIMATOR_XFAIL_CHECKS)
ROW_BY_ROW = {
    f"check_sample_weight_equivalence_on_{kind}_data": "rows are learned from one by one"
    for kind in ("dense", "sparse")
}
EXPECTED_TO_FAIL = {SGDClassifier: ROW_BY_ROW, SGDRegressor: ROW_BY_ROW}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda of: EXPECTED_TO_FAIL.get(type(of), {}))
def test_an_estimator_does_what_scikit_learn_asks(estimator, check):
    check(estimator)
