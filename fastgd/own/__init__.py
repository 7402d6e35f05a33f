"""Rules of users' own: a Python function of one element becomes a rule and an optimizer class.

`fastgd.jit` is what they are made with. The function is called with symbols (fastgd.tracing), hyperparameters
and the number of the step being symbols of another kind (fastgd.own.scalars), and never again.
"""

from fastgd.own.definition import jit

__all__ = ["jit"]
