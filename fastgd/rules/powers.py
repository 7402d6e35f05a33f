"""Powers that every machine computes with the same bits, which its own pow does not promise."""

from __future__ import annotations

import functools


def _power(base: float, n: int) -> float:
    result = 1.0
    while n:
        if n & 1:
            result *= base
        base *= base
        n >>= 1
    return result


@functools.lru_cache(maxsize=64)
def _powers(base: float, block: int) -> tuple[float, ...]:
    if block == 0:
        return tuple([_power(base, n) for n in range(256)])
    start = _power(base, block << 8)
    return tuple([start * low for low in _powers(base, 0)])


def power(base: float, n: int) -> float:
    """base**n from multiplications alone, so that every machine gets the same bits (pow differs among them).

    256 neighbouring powers are computed together, which makes it cheap for a counter.
    """
    return _powers(base, n >> 8)[n & 0xFF]
