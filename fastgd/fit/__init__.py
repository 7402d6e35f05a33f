"""Regression by gradient descent: linear, logistic, and curves given as formulas, with standard errors.

from fastgd import fit

result = fit.curve("a * exp(-b * t) + c", t, y, start={"a": 1, "b": 1, "c": 0})
print(result)
result.parameters, result.standard_errors
"""

from fastgd.fit.curve import curve
from fastgd.fit.formula import FormulaError
from fastgd.fit.linear import linear
from fastgd.fit.logistic import SeparationError, logistic
from fastgd.fit.result import ConvergenceWarning, Result

__all__ = ["ConvergenceWarning", "FormulaError", "Result", "SeparationError", "curve", "linear", "logistic"]
