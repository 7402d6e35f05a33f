"""The backends by name, loaded when first asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib import import_module

from fastgd.backends.base import Backend
from fastgd.memory import Memory, kind_of
from fastgd.rules import Rule

#: name -> module with a BACKEND
MODULES = {
    "native": "fastgd.backends.native",
    "jit": "fastgd.backends.jit",
    "reference": "fastgd.backends.reference",
    "cuda": "fastgd.backends.cuda",
}

#: kind of memory -> what "auto" is for arrays in it, and never something slower in silence
AUTO = {"host": "native", "cuda": "cuda"}

#: kind of memory -> what "auto" is there for rules that AUTO does not have: users' own
OTHERS = {"host": "jit"}


@functools.cache
def unavailable(name: str) -> str | None:
    """Why a backend cannot be used here; None when it can."""
    try:
        import_module(MODULES[name])
    except ImportError as error:
        return str(error)
    return None


@functools.cache
def get(name: str = "auto", kind: str = "host") -> Backend:
    """The backend of that name; "auto" is the one for that kind of memory.

    Raises ValueError for an unknown name and ImportError, with the reason, for one that cannot be used here.
    """
    if name == "auto":
        name = AUTO[kind]
    if name not in MODULES:
        raise ValueError(f"there is no backend {name!r}; there are auto, {', '.join(MODULES)}")
    reason = unavailable(name)
    if reason is not None:
        raise ImportError(f"backend {name!r} cannot be used here: {reason}")
    backend: Backend = import_module(MODULES[name]).BACKEND
    return backend


def chosen(name: str, memory: Memory, what: str, rule: Rule | None = None) -> Backend:
    """The backend of that name for an array in this memory, and "auto" one for the rule; otherwise as `get`.

    ValueError, naming the array as `what`, for one that does not work on such memory.
    """
    kind = kind_of(memory)
    backend = get(name, kind)
    if name == "auto" and rule is not None and not backend.supports(rule, "float32"):
        backend = get(OTHERS.get(kind, name), kind)
    if backend.memory != kind:
        raise ValueError(
            f"{what} is on {memory.name}: the {backend.name} backend works on memory of kind "
            f"{backend.memory}; backend='auto' is {AUTO[kind]} there"
        )
    return backend


def for_all(name: str, memories: Iterable[Memory], what: str = "array", rule: Rule | None = None) -> Backend:
    """What works on arrays in these memories, of each array one: one backend, or one for each memory.

    what: they are called "what 0", "what 1", ... in errors, which are those of `chosen`.
    """
    found: dict[Memory, Backend] = {}
    for i, memory in enumerate(memories):
        if memory not in found:
            found[memory] = chosen(name, memory, f"{what} {i}", rule)
    if len(found) > 1:
        from fastgd.backends.several import Several

        return Several(name, found)
    return next(iter(found.values())) if found else get(name)
