"""Compiled kernels on disk, so that only the first process on a machine waits for the compiler."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from fastgd.cuda.compiler import cubin_of, ptx_of
from fastgd.cuda.writer import Text

#: where kernels are kept; an empty value for nowhere
VARIABLE = "FASTGD_CACHE"

#: seconds of compiling after which it is said
PATIENCE = 1.0


def folder() -> Path | None:
    """FASTGD_CACHE, or a folder among the user's caches; None for no folder."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastgd"


@functools.cache
def _compilers() -> str:
    """What else decides a kernel's machine code: who compiles it, and what its names stand for here."""
    own = [Path(__file__).parent / name for name in ("compiler.py", "device/compiled.py", "../llvm.py")]
    lowering = hashlib.sha256(b"".join(path.read_bytes() for path in own)).hexdigest()
    versions = (f"{name} {version(name)}" for name in ("numba-cuda", "numba", "cuda-bindings"))
    return " ".join([*versions, lowering])


def key(text: Text, capability: tuple[int, int]) -> str:
    """Different for whatever may be compiled to something else."""
    constants = "".join(f"{name}\n" for name in sorted(text.constants))
    made = f"{capability} {text.threads} {text.registers} {_compilers()}\n{constants}{text.source}"
    return hashlib.sha256(made.encode()).hexdigest()[:32]


class Compiling:
    """Compiles, and says so where that takes more than a second."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._kernels, self._seconds, self._said = 0, 0.0, False

    def __call__(self, text: Text, capability: tuple[int, int]) -> bytes:
        start = time.perf_counter()
        code = cubin_of(ptx_of(text), capability)
        self._seconds += time.perf_counter() - start
        self._kernels += 1
        if self._seconds > PATIENCE and not self._said:
            self._said, place = True, folder()
            kept = f", to be kept in {place}" if place else ""
            print(
                f"fastgd: compiling kernels for sm_{capability[0]}{capability[1]}{kept} ...", file=sys.stderr
            )
        return code

    @contextmanager
    def shown(self) -> Iterator[None]:
        """At the end of the block it is said how long its kernels took, if that they take long was said."""
        self._begin()
        yield
        if self._said:
            print(f"fastgd: {self._kernels} kernels compiled in {self._seconds:.1f} s", file=sys.stderr)


compiling = Compiling()


def cubin(text: Text, capability: tuple[int, int]) -> bytes:
    """The kernel's machine code, from disk or compiled now."""
    place = folder()
    if place is None:
        return compiling(text, capability)
    path = place / f"{text.name}-sm_{capability[0]}{capability[1]}-{key(text, capability)}.cubin"
    try:
        return path.read_bytes()
    except OSError:
        code = compiling(text, capability)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, delete=False) as file:
            file.write(code)
        os.replace(file.name, path)
    except OSError:
        # a folder that cannot be written means that the next process compiles again
        return code
    return code
