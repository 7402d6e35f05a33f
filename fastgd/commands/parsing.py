"""What the text of an option may be: lists of widths, limits, hyperparameters."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

import click


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on only
    """An option whose text a function turns into its value, or refuses with a ValueError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_widths(text: str) -> tuple[int, ...]:
    if text.lower() in ("", "none"):
        return ()
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise ValueError(f'{text!r} is no list of widths like "256,128"') from None


def parse_batch_size(text: str) -> int | str:
    if text == "full":
        return text
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither full nor a number of examples") from None


def parse_limit(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor none") from None


def parse_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{text!r} is not of the form name=value")
    words = {"true": True, "false": False, "none": None, "inf": math.inf}
    try:
        return name, words[value.lower()] if value.lower() in words else ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError):
        raise ValueError(
            f"the value of {name}, {value!r}, is neither a number, a list nor a truth value"
        ) from None
