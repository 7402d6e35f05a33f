"""What a judge has seen: where, from which step to which, and in words."""

from __future__ import annotations

from typing import NamedTuple


class Seen(NamedTuple):
    where: str
    first_step: int
    last_step: int
    text: str
