"""What scikit-learn's parameters of a solver are to fastgd's rules, and how its learning rate goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fastgd.arrays import Array
from fastgd.optim import CLASSES
from fastgd.optimizer import Optimizer
from fastgd.rules import RULES

#: at and below this rate, "adaptive" stops instead of dividing the rate again, as in scikit-learn
LEAST_RATE = 1e-6


class Solver(NamedTuple):
    """How an estimator's parameters say what a rule does."""

    #: the estimator -> hyperparameters of the rule beside lr and weight_decay
    options: Callable[[Any], dict[str, Any]] = lambda estimator: {}
    #: whether the parameter learning_rate counts
    scheduled: bool = True
    #: the slot of a momentum to which scikit-learn adds steps, where the rule adds gradients
    momentum: str | None = None


def _sgd(estimator: Any) -> dict[str, Any]:
    momentum = estimator.momentum
    return {"momentum": momentum, "nesterov": estimator.nesterovs_momentum and momentum > 0}


def _adam(estimator: Any) -> dict[str, Any]:
    return {"betas": (estimator.beta_1, estimator.beta_2), "eps": estimator.epsilon}


#: the solvers for which scikit-learn has parameters; all other rules have their own defaults
SOLVERS = {
    "sgd": Solver(_sgd, momentum="momentum_buffer"),
    "adam": Solver(_adam, scheduled=False),
}


class Descent:
    """An optimizer of a network's parameters, with scikit-learn's penalty and schedules.

    parameters: weight and intercepts of one layer after the other. rate: the present learning rate.
    """

    def __init__(self, estimator: Any, parameters: Sequence[Array]) -> None:
        self._name = estimator.solver
        rule = RULES[self._name]
        self._initial = self.rate = float(estimator.learning_rate_init)
        options = {"lr": self.rate, **self._solver.options(estimator)}
        groups: list[dict[str, Any]] = [{"params": [parameter]} for parameter in parameters]
        self.optimizer: Optimizer = CLASSES[rule.name](groups, **options)
        self._has_penalty = "weight_decay" in rule.defaults
        if self._has_penalty:
            for group in self.optimizer.param_groups:
                group["weight_decay"] = 0.0
        #: that of the weights; None: not known
        self._decay: float | None = 0.0

    @property
    def _solver(self) -> Solver:
        return SOLVERS.get(self._name, Solver())

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self.rate, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave, for parameters as they were then, and begins to train."""
        self.rate, self._decay = state["rate"], None
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.train()

    def penalise(self, decay: float) -> None:
        """From the next step on, decay / 2 times the squares of all weights is part of the loss.

        Raises ValueError for a rule that has no penalty, unless decay is 0.
        """
        if decay == self._decay:
            return
        if decay and not self._has_penalty:
            raise ValueError(f"solver={self._name!r} has no L2 penalty; give alpha=0")
        for group in self.optimizer.param_groups[::2] if self._has_penalty else ():
            group["weight_decay"] = decay
        self._decay = decay

    def end_epoch(self, estimator: Any, samples: int) -> None:
        """The rate of the next epoch after so many samples, where learning_rate is "invscaling"."""
        if self._solver.scheduled and estimator.learning_rate == "invscaling":
            self._set_rate(self._initial / (samples + 1) ** estimator.power_t)

    def stops(self, estimator: Any, message: str) -> bool:
        """Whether training ends without improvement; "adaptive" first goes on with a fifth of the rate."""
        ends, outcome = True, "Stopping."
        if self._solver.scheduled and estimator.learning_rate == "adaptive":
            ends, outcome = self.rate <= LEAST_RATE, "Learning rate too small. Stopping."
            if not ends:
                self._set_rate(self.rate / 5.0)
                outcome = f"Setting learning rate to {self.rate:f}"
        if estimator.verbose:
            print(f"{message} {outcome}")
        return ends

    def _set_rate(self, rate: float) -> None:
        """Sets the rate; what momentum has gathered keeps its length, as scikit-learn's velocities do."""
        ratio, self.rate = self.rate / rate, rate
        slot = self._solver.momentum
        state = self.optimizer.state_dict() if slot else {"state": {}}
        gathered = [kept[slot] for kept in state["state"].values() if slot in kept]
        for momentum in gathered:
            momentum *= ratio
        if gathered:
            self.optimizer.load_state_dict(state)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
