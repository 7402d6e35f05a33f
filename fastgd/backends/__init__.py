"""The backends by name, loaded when first asked for."""

from __future__ import annotations

import functools
from importlib import import_module

from fastgd.backends.base import Backend
from fastgd.rules import Rule

#: name -> module with a BACKEND; "auto" is the first that has the rule, and never something slower in silence
MODULES = {
    "native": "fastgd.backends.native",
    "jit": "fastgd.backends.jit",
    "reference": "fastgd.backends.reference",
}


@functools.cache
def unavailable(name: str) -> str | None:
    """Why a backend cannot be used here; None when it can."""
    try:
        import_module(MODULES[name])
    except ImportError as error:
        return str(error)
    return None


def suiting(name: str, rule: Rule) -> Backend:
    """The backend of that name; "auto" is the first in MODULES that has the rule.

    Raises what `get` does: where the first that has the rule cannot be used here, no other takes its place.
    """
    if name != "auto":
        return get(name)
    suiting = (get(name) for name in MODULES)
    return next(backend for backend in suiting if backend.supports(rule, "float32"))


@functools.cache
def get(name: str = "auto") -> Backend:
    """The backend of that name; "auto" is the native one.

    Raises ValueError for an unknown name and ImportError, with the reason, for one that cannot be used here.
    """
    if name == "auto":
        name = next(iter(MODULES))
    if name not in MODULES:
        raise ValueError(f"there is no backend {name!r}; there are auto, {', '.join(MODULES)}")
    reason = unavailable(name)
    if reason is not None:
        raise ImportError(f"backend {name!r} cannot be used here: {reason}")
    backend: Backend = import_module(MODULES[name]).BACKEND
    return backend
