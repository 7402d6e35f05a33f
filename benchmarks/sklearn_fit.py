"""Fits of fastgd.sklearn beside scikit-learn's: both sides take turns in one run, medians of their times.

`python benchmarks/sklearn_fit.py [--rounds 7] [--threads 2] [--only NAME] [--out FILE.json]`. A round fits
each side with one seed; scores are on rows that were held out. Both sides have as many threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import sklearn
import sklearn.linear_model
import sklearn.neural_network
from scipy.sparse import csr_array
from sklearn.datasets import load_digits, make_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import fastgd
import fastgd.sklearn

#: by the names of the columns: what each estimator is looked for in
SIDES: dict[str, list[ModuleType]] = {
    "sklearn": [sklearn.neural_network, sklearn.linear_model],
    "fastgd": [fastgd.sklearn],
}


def digits() -> tuple[Any, Any]:
    """1797 images of 8 x 8, in ten classes."""
    return load_digits(return_X_y=True)


def curve() -> tuple[Any, Any]:
    """20 000 rows of 30 features, and a smooth function of some of them."""
    x, y = make_regression(20_000, 30, n_informative=10, noise=5.0, random_state=0)
    return x, np.tanh(y / y.std())


def narrow() -> tuple[Any, Any]:
    """20 000 rows of 12 features, in two classes."""
    return make_classification(20_000, 12, n_informative=8, random_state=0)


def wide() -> tuple[Any, Any]:
    """5000 rows of 500 features, in two classes."""
    return make_classification(5000, 500, n_informative=50, random_state=0)


def mostly_0() -> tuple[Any, Any]:
    """5000 rows of 2000 features, of which one in fifty is there, in two classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 2000)) * (rng.random((5000, 2000)) < 0.02)
    return x, x @ rng.standard_normal(2000) > 0


class Workload(NamedTuple):
    """What is timed."""

    estimator: str
    data: Callable[[], tuple[Any, Any]]
    dtype: str
    parameters: dict[str, Any]
    sparse: bool = False


WORKLOADS = {
    "digits": Workload("MLPClassifier", digits, "float64", {}),
    "digits float32": Workload("MLPClassifier", digits, "float32", {}),
    "digits sgd": Workload("MLPClassifier", digits, "float64", {"solver": "sgd", "learning_rate_init": 0.1}),
    "digits small batches": Workload("MLPClassifier", digits, "float64", {"batch_size": 32}),
    "hinge": Workload("SGDClassifier", narrow, "float64", {}),
    "logistic": Workload("SGDClassifier", wide, "float64", {"loss": "log_loss", "alpha": 0.01}),
    "logistic float32": Workload("SGDClassifier", wide, "float32", {"loss": "log_loss", "alpha": 0.01}),
    "logistic digits": Workload("SGDClassifier", digits, "float64", {"loss": "log_loss"}),
    "elastic net": Workload(
        "SGDClassifier", wide, "float64", {"loss": "log_loss", "penalty": "elasticnet", "alpha": 0.01}
    ),
    "sparse": Workload("SGDClassifier", mostly_0, "float64", {"loss": "log_loss"}, sparse=True),
    "squares": Workload("SGDRegressor", curve, "float64", {}),
    "curve": Workload("MLPRegressor", curve, "float64", {"hidden_layer_sizes": (64, 64), "max_iter": 10}),
}


def measured(workload: Workload, rounds: int) -> dict[str, Any]:
    """Medians of seconds and means of scores on held-out rows, over `rounds` seeds; the sides take turns."""
    name = workload.estimator
    x, y = workload.data()
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, random_state=0)
    scaler = StandardScaler(with_mean=not workload.sparse).fit(x_train)
    x_train, x_test = (scaler.transform(part).astype(workload.dtype) for part in (x_train, x_test))
    if workload.sparse:
        x_train, x_test = map(csr_array, (x_train, x_test))
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    scores: dict[str, list[float]] = {side: [] for side in SIDES}
    epochs: dict[str, list[int]] = {side: [] for side in SIDES}
    for seed in range(rounds + 1):
        for side, modules in SIDES.items():
            (kind,) = (vars(module)[name] for module in modules if name in vars(module))
            estimator = kind(random_state=seed, **workload.parameters)
            began = time.perf_counter()
            estimator.fit(x_train, y_train)
            took = time.perf_counter() - began
            if seed:  # the first round warms up
                seconds[side].append(took)
                scores[side].append(estimator.score(x_test, y_test))
                epochs[side].append(estimator.n_iter_)
    medians = {side: statistics.median(took) for side, took in seconds.items()}
    return {
        **medians,
        "speed": medians["sklearn"] / medians["fastgd"],
        "scores": {side: statistics.mean(found) for side, found in scores.items()},
        "epochs": {side: statistics.mean(made) for side, made in epochs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=WORKLOADS)
    parser.add_argument("--out")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    fastgd.set_num_threads(asked.threads)
    rows = {}
    with threadpool_limits(asked.threads):
        for name, workload in WORKLOADS.items():
            if asked.only in (None, name):
                row = rows[name] = measured(workload, asked.rounds)
                taken = "scikit-learn {sklearn:.3g} s, fastgd {fastgd:.3g} s".format(**row)
                found = "{sklearn:.4f} and {fastgd:.4f}".format(**row["scores"])
                print(f"{name:24} {taken}: {row['speed']:.2f} times as fast; scores {found}", flush=True)
    if asked.out:
        facts = {
            "cores": os.cpu_count(),
            "isa": fastgd.info()["instruction_set"],
            "products": {dtype: of["in_use"] for dtype, of in fastgd.info()["matrix_product"].items()},
            "sklearn": sklearn.__version__,
            "threads": asked.threads,
        }
        with open(asked.out, "w", encoding="utf-8") as file:
            json.dump({**facts, "rounds": asked.rounds, "rows": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
