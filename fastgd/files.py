"""Files that appear whole: written beside their place and renamed into it, whenever the process is killed."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows, where nothing is locked, and nothing that was left is removed
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the place of `path` when the block ends.

    path: the file; a symbolic link is followed, an existing file is replaced, at once and by a whole one.

    When the block raises, or the file cannot be put in place, `path` is as it was and the new file is gone.
    Raises OSError. When the process is killed, `path` is as it was or whole and new, and the new file may be
    left behind as ".NAME.<12 hexadecimal digits>.tmp"; the next call for the same path removes it. What is
    still being written, in whichever thread, process or container, is known by a lock (flock) that its writer
    holds and that ends with it. Where the file system has no locks, what is left stays. Where its locks do
    not reach other hosts, no two hosts may write to one path at the same time.
    """
    target = Path(os.path.realpath(path))
    _remove_left(target)
    temporary, file = _create(target)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl:
                os.replace(temporary, target)  # while it is locked
        if not fcntl:
            os.replace(temporary, target)  # Windows does not rename open files
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    if os.name == "posix":
        # the file is in place, whole, whether or not its folder can be opened and synchronised
        with contextlib.suppress(OSError):
            _sync_folder(target.parent)


def _create(target: Path) -> tuple[Path, BinaryIO]:
    """A new file beside the target, locked if the file system has locks."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
        file = open(temporary, "xb")  # noqa: SIM115  (the caller closes it)
        if not fcntl:
            return temporary, file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.exists(temporary)
        except BlockingIOError:
            ours = False
        except OSError:  # there are no locks, so nobody else has one either
            ours = True
        if ours:
            return temporary, file
        # before it was locked, _remove_left in another thread or process took it for one left behind
        file.close()


def _remove_left(target: Path) -> None:
    """Removes the files of `_create` for this target that nobody has locked: their writers are no more."""
    if not fcntl:
        return
    temporary = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}\.tmp")
    names: list[str] = []
    with contextlib.suppress(OSError):  # a folder may be written but not read
        names = os.listdir(target.parent)
    for name in filter(temporary.fullmatch, names):
        place = target.with_name(name)
        # it may be locked, another user's, or gone by now
        with contextlib.suppress(OSError):
            descriptor = os.open(place, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                place.unlink()
            finally:
                os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
