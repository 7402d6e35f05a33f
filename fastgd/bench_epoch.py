"""Times an epoch of `fastgd train` on digits beside scikit-learn's MLPClassifier with the same settings."""

from __future__ import annotations

import statistics
import time
import warnings
from importlib.util import find_spec
from typing import Any

from fastgd.data import Dataset, load
from fastgd.training import Settings, train

EPOCHS = 20
SETTINGS = Settings(optimizer="adam", options={"lr": 1e-3}, epochs=EPOCHS)


def missing() -> str | None:
    """What has to be installed for this benchmark; None when nothing has."""
    if find_spec("sklearn") is None:
        return 'an epoch on digits is not timed: it needs scikit-learn, pip install "fastgd[demo]"'
    return None


def _fastgd(dataset: Dataset) -> tuple[float, float]:
    result = train(SETTINGS, dataset=dataset)
    return sum(epoch.seconds for epoch in result.history) / EPOCHS, result.scores["accuracy"]


def _sklearn(dataset: Dataset) -> tuple[float, float]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        hidden_layer_sizes=SETTINGS.hidden,
        activation=SETTINGS.activation,
        solver="adam",
        alpha=0.0,
        batch_size=SETTINGS.batch_size,
        learning_rate_init=SETTINGS.options["lr"],
        max_iter=EPOCHS,
        n_iter_no_change=EPOCHS + 1,
        random_state=SETTINGS.seed,
    )
    with warnings.catch_warnings():
        # it is stopped after EPOCHS on purpose
        warnings.simplefilter("ignore", ConvergenceWarning)
        start = time.perf_counter()
        model.fit(dataset.x_train, dataset.y_train)
        seconds = time.perf_counter() - start
    return seconds / EPOCHS, float(model.score(dataset.x_test, dataset.y_test))


SIDES = {"fastgd": _fastgd, "scikit-learn MLPClassifier": _sklearn}


def run(rounds: int = 5) -> dict[str, Any]:
    """Both sides take turns on the same split; medians over the rounds, a ratio is of one round's two times.

    Times are of training alone, without evaluation. Returns {"settings", "sides": [{"name", "seconds",
    "accuracy", "ratio"}]}.
    """
    dataset = load(SETTINGS.data, test_size=SETTINGS.test_size, seed=SETTINGS.seed)
    for side in SIDES.values():
        side(dataset)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
    for _ in range(rounds):
        for name, side in SIDES.items():
            taken[name].append(side(dataset))
    own = [seconds for seconds, _ in taken["fastgd"]]
    sides = []
    for name, rows in taken.items():
        ratio = statistics.median(seconds / mine for (seconds, _), mine in zip(rows, own, strict=True))
        median = statistics.median(seconds for seconds, _ in rows)
        accuracy = statistics.median(score for _, score in rows)
        sides.append({"name": name, "seconds": median, "accuracy": accuracy, "ratio": ratio})
    widths = "-".join(map(str, (dataset.n_features, *SETTINGS.hidden, dataset.n_outputs)))
    text = (
        f"{widths}, {SETTINGS.activation}, Adam, lr {SETTINGS.options['lr']}, batches of "
        f"{SETTINGS.batch_size}, {EPOCHS} epochs; fastgd also clips at norm {SETTINGS.clip_norm}"
    )
    return {"settings": text, "sides": sides}
