"""The backends by name, loaded when first asked for."""

from __future__ import annotations

import functools
from importlib import import_module

from fastgd.backends.base import Backend

#: name -> module with a BACKEND; "auto" is the first, and never something slower in silence
MODULES = {"native": "fastgd.backends.native", "reference": "fastgd.backends.reference"}


@functools.cache
def unavailable(name: str) -> str | None:
    """Why a backend cannot be used here; None when it can."""
    try:
        import_module(MODULES[name])
    except ImportError as error:
        return str(error)
    return None


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
