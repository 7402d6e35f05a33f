"""A kernel with all that it is given, to be launched step after step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fastgd.cuda.driver import Kernel

#: done on a stream
Stage = Callable[[int], None]


class Launch(NamedTuple):
    """A kernel, and what it is launched with."""

    kernel: Kernel
    blocks: int
    arguments: tuple[int, ...]

    def __call__(self, stream: int) -> None:
        self.kernel(self.blocks, stream, *self.arguments)
