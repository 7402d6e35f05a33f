"""scikit-learn's estimators, trained by fastgd: the same parameters, attributes and methods.

MLPClassifier, MLPRegressor, SGDClassifier and SGDRegressor are scikit-learn's classes but for how they are
trained. Extra `sklearn`.
"""

from fastgd.sklearn.linear import SGDClassifier, SGDRegressor
from fastgd.sklearn.mlp import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "SGDClassifier", "SGDRegressor"]
