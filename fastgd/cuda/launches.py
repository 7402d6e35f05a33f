"""A kernel with all that it is given, to be launched step after step."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from fastgd.cuda.driver import Kernel


class Stage(Protocol):
    """What is done on a stream, time and again."""

    def __call__(self, stream: int, /) -> None:
        """Does it."""


class Launch(NamedTuple):
    """A kernel, and what it is launched with."""

    kernel: Kernel
    blocks: int
    arguments: tuple[int, ...]

    def __call__(self, stream: int) -> None:
        self.kernel(self.blocks, stream, *self.arguments)
