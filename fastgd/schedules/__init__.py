"""Learning rates as functions of the step, to be given to optimizers as `lr`, and composed."""

from fastgd.schedules.base import Join, PerEpoch, Product, Schedule, Warmup
from fastgd.schedules.cycles import OneCycle, Triangular, WarmRestarts
from fastgd.schedules.decays import (
    Constant,
    Cosine,
    Exponential,
    InverseSquareRoot,
    InverseTime,
    MultiStep,
    Polynomial,
    Step,
    WarmupStableDecay,
)
from fastgd.schedules.plateau import ReduceOnPlateau
from fastgd.schedules.recipes import RECIPES, Run, from_text

__all__ = [
    "KINDS",
    "RECIPES",
    "Constant",
    "Cosine",
    "Exponential",
    "InverseSquareRoot",
    "InverseTime",
    "Join",
    "MultiStep",
    "OneCycle",
    "PerEpoch",
    "Polynomial",
    "Product",
    "ReduceOnPlateau",
    "Run",
    "Schedule",
    "Step",
    "Triangular",
    "WarmRestarts",
    "Warmup",
    "WarmupStableDecay",
    "from_text",
]

#: those that are functions of the step alone and made of numbers, not of other schedules
KINDS: tuple[type[Schedule], ...] = (
    Constant,
    InverseTime,
    InverseSquareRoot,
    Step,
    MultiStep,
    Exponential,
    Polynomial,
    Cosine,
    WarmRestarts,
    Triangular,
    OneCycle,
    WarmupStableDecay,
)
