"""The gallery: experiments with gradient descent, each a file of this folder, run and shown in one way.

An experiment is a module whose documentation begins with what it shows. It has

    run(...) -> Result      computes; every argument has a default, and together they take under a minute
    table(result) -> Table  the numbers
    verdict(result) -> str  what they say, in a sentence or two
    draw(result) -> Figure  the picture, 1000 pixels wide
    animate(result)         where it moves: an animation of matplotlib's
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.animation import Animation
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENTS", "Experiment", "Outcome", "Table", "experiment"]

#: modules of this folder, in the order of the gallery
EXPERIMENTS = (
    "tanh",
    "schedules",
    "ravine",
    "saddle",
    "batch",
    "vanishing",
    "exploding",
    "lstm",
    "minima",
    "optimizers",
)

FRAMES_PER_SECOND = 12


class Table(NamedTuple):
    """Numbers as they are to be read."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Outcome(NamedTuple):
    """What an experiment has shown."""

    name: str
    title: str
    #: the rest of its documentation
    about: str
    table: Table
    verdict: str
    #: the files that were written: NAME.png, and NAME.gif where it moves
    pictures: tuple[Path, ...]


class Experiment(NamedTuple):
    """One experiment; see the module."""

    name: str
    title: str
    about: str
    run: Callable[..., Any]
    table: Callable[[Any], Table]
    verdict: Callable[[Any], str]
    draw: Callable[[Any], Figure]
    animate: Callable[[Any], Animation] | None

    def show(self, folder: Path, **arguments: Any) -> Outcome:
        """Runs it with these arguments and writes its pictures into an existing folder.

        Raises ModuleNotFoundError without matplotlib, or what the experiment trains on, and OSError where a
        picture cannot be written.
        """
        result = self.run(**arguments)
        pictures = [folder / f"{self.name}.png"]
        self.draw(result).savefig(pictures[0])
        if self.animate:
            from matplotlib.animation import PillowWriter

            pictures.append(folder / f"{self.name}.gif")
            self.animate(result).save(pictures[1], writer=PillowWriter(fps=FRAMES_PER_SECOND))
        return Outcome(
            self.name, self.title, self.about, self.table(result), self.verdict(result), tuple(pictures)
        )


def experiment(name: str) -> Experiment:
    """The experiment of this name; ValueError for one that is not in the gallery."""
    if name not in EXPERIMENTS:
        raise ValueError(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    module = importlib.import_module(f"fastgd.lab.{name}")
    title, _, about = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    return Experiment(
        name,
        " ".join(title.split()),
        about,
        module.run,
        module.table,
        module.verdict,
        module.draw,
        getattr(module, "animate", None),
    )
