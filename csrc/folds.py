"""Writes folds.def: of each optimizer its hyperparameters, and the formula of its scalars as a program.

`python csrc/folds.py` makes it from fastgd/rules, `--check` says whether it is up to date.
"""

import math
import sys
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastgd.checks import at_most, each, finite, flag, number, one_of, optional, whole
from fastgd.rules import RULES, Rule
from fastgd.rules.programs import INSTRUCTIONS, Program, joined, program_of

COMMITTED = Path(__file__).parent / "folds.def"

#: from there on not every whole number is a double
LAST = 2**53
LARGEST = sys.float_info.max


class Number(NamedTuple):
    """A hyperparameter, or one of its numbers, as C takes it: in [low, high], or NaN where it is optional."""

    name: str
    default: float
    low: float
    high: float
    whole: bool = False
    optional: bool = False


def numbers(name: str, check: Any, default: Any) -> list[Number]:
    """The numbers that a value with this check is in C."""
    if isinstance(check, each):
        parts = enumerate(zip(check.items, default, strict=True))
        return [row for i, (item, value) in parts for row in numbers(f"{name}[{i}]", item, value)]
    if default is None:
        inner = check.check if isinstance(check, optional) else check
        (row,) = numbers(name, inner, math.nan)
        return [row._replace(optional=True)]
    if isinstance(check, number):
        below = LARGEST if check.below == math.inf else math.nextafter(check.below, -math.inf)
        return [Number(name, float(default), check.low, below)]
    if isinstance(check, at_most):
        return [Number(name, float(default), -LARGEST, check.high)]
    if isinstance(check, whole):
        high = LAST if check.below is None else check.below - 1
        return [Number(name, float(default), check.low, high, whole=True)]
    if isinstance(check, one_of):
        place = check.names.index(default) if default in check.names else default
        return [Number(name, float(place), 0, len(check.names) - 1, whole=True)]
    if check is flag:
        return [Number(name, float(default), 0, 1, whole=True)]
    assert check is finite, f"{name}: C has no range for its check"
    return [Number(name, float(default), -LARGEST, LARGEST)]


def hyperparameters(rule: Rule) -> list[Number]:
    """All that C takes, in its order."""
    defaults = rule.defaults.items()
    return [row for name, value in defaults for row in numbers(name, rule.hyperparameter(name).check, value)]


def in_c(check: Any, value: Any) -> list[float]:
    """A value of Python as the numbers that it is in C."""
    if isinstance(check, each):
        return [part for item, v in zip(check.items, value, strict=True) for part in in_c(item, v)]
    if value is None:
        return [math.nan]
    if isinstance(check, optional):
        return in_c(check.check, value)
    return [float(check.names.index(value) if isinstance(check, one_of) else value)]


def in_python(check: Any, given: Iterator[Any]) -> Any:
    """The value of Python that symbols of C's numbers stand for."""
    if isinstance(check, each):
        return tuple([in_python(item, given) for item in check.items])
    symbol = next(given)
    while isinstance(check, optional):
        if symbol != symbol:
            return None
        check = check.check
    if isinstance(check, one_of):
        for i, name in enumerate(check.names[:-1]):
            if symbol == i:
                return name
        return check.names[-1]
    return symbol


#: traits of a tensor, from the rows and columns of its matrices, of which it has none for 0, and its eps
TRAITS = {
    "factored": lambda rows, cols, eps: bool(rows != 0),
    "shape": lambda rows, cols, eps: (rows, cols),
    "machine_eps": lambda rows, cols, eps: eps,
}


def traits(rule: Rule) -> list[str]:
    """Those that the rule asks for."""
    return list(rule.traits((1, 1), "float32")) if rule.traits else []


def program(rule: Rule) -> Program:
    """Of (step, hyperparameters, rows, columns, eps, what is carried in).

    It gives whether the hyperparameters go together, maximize, switches, scalars, and what is carried out.
    """
    n = len(hyperparameters(rule))
    inputs = 4 + n + len(rule.carried)

    def seen(symbols: Sequence[Any]) -> Mapping[str, Any]:
        given, tensor = iter(symbols[1 : 1 + n]), symbols[1 + n : 4 + n]
        values = {name: in_python(rule.hyperparameter(name).check, given) for name in rule.defaults}
        return ChainMap(values, {name: TRAITS[name](*tensor) for name in traits(rule)})

    def goes_together(symbols: Sequence[Any]) -> Sequence[Any]:
        try:
            rule.check(seen(symbols))
        except ValueError:
            return [0.0]
        return [1.0]

    def scalars(symbols: Sequence[Any]) -> Sequence[Any]:
        h, step, carried = seen(symbols), symbols[0], tuple(symbols[4 + n :])
        return *rule.fold(h, step, carried), *rule.carry(h, step, carried)

    tests = [lambda h: h["maximize"], *rule.switches.values()]
    switches = [lambda symbols, test=test: [test(seen(symbols))] for test in tests]
    parts = [program_of(part, inputs, last=LAST) for part in (goes_together, *switches, scalars)]
    return joined(parts, inputs)


# ---- In C ---------------------------------------------------------------------------------------------


def literal(value: float) -> str:
    if math.isnan(value):
        return "NAN"
    return "DBL_MAX" if value == LARGEST else "-DBL_MAX" if value == -LARGEST else repr(float(value))


def array(kind: str, name: str, items: Sequence[str]) -> list[str]:
    """A definition, in lines of 110 columns at most."""
    lines = [f"static const {kind} {name}[] = {{"]
    row = "   "
    for item in items:
        if len(row) + len(item) + 2 > 110:
            lines.append(row)
            row = "   "
        row += f" {item},"
    return [*lines, row, "};"]


def definitions(rule: Rule, made: Program) -> list[str]:
    """Three arrays of a rule."""
    rows = [
        f'{{"{row.name}", {", ".join(map(literal, row[1:4]))}, {row.whole:d}, {row.optional:d}}}'
        for row in hyperparameters(rule)
    ]
    code = [f"{{{', '.join([INSTRUCTIONS[name], *map(str, rest)]).upper()}}}" for name, *rest in made.code]
    return [
        *array("fgd_hyperparameter", f"{rule.name}_takes", rows),
        *array("double", f"{rule.name}_constants", list(map(literal, made.constants))),
        *array("instruction", f"{rule.name}_code", code),
    ]


def entry(rule: Rule, made: Program) -> list[str]:
    """Its row in the table."""
    names = [row.name for row in hyperparameters(rule)]
    initial = [str(names.index(slot.initial)) if slot.initial else "-1" for slot in rule.slots]
    carried = ", ".join(f'"{name}"' for name, _ in rule.carried)
    first = ", ".join(literal(value) for _, value in rule.carried)
    shown = [f'"{rule.name}"', f"FGD_RULE_{rule.kernel}", f"{len(names)}", f"{len(rule.carried)}"]
    shown += [f"{bool(rule.traits):d}", f"{{{', '.join(initial)}}}"]
    behind = [f"{rule.name}_takes", f"{{{carried or 'NULL'}}}", f"{{{first or '0'}}}"]
    return [
        f"    {{{{{', '.join(shown)},",
        f"      {', '.join(behind)}}},",
        f"     {rule.name}_constants, {len(made.constants)}, {rule.name}_code}},",
    ]


def text() -> str:
    """What folds.def is to be."""
    made = {rule: program(RULES[rule]) for rule in RULES}
    order = " && ".join(f"{name.upper()} == {i}" for i, name in enumerate(INSTRUCTIONS))
    most = f"REGISTERS = {max(p.registers for p in made.values())}, "
    most += f"OUTPUTS = {max(p.outputs for p in made.values())}"
    lines = [
        "/* Optimizers, their hyperparameters (name, default, low, high, whole, optional) and formulas,",
        " * which csrc/folds.py has made from fastgd/rules. */",
        f"static const int64_t LAST_STEP = {LAST};",
        f"enum {{ {most} }};",
        "_Static_assert(",
        *[f"    {part} &&" for part in order.split(" && ")[:-1]],
        f'    {order.split(" && ")[-1]}, "the instructions of programs.py");',
    ]
    for name, p in made.items():
        lines += ["", *definitions(RULES[name], p)]
    lines += ["", "static const folding foldings[] = {"]
    for name, p in made.items():
        lines += entry(RULES[name], p)
    return "\n".join([*lines, "};", ""])


def main() -> None:
    if sys.argv[1:] != ["--check"]:
        COMMITTED.write_text(text())
    elif not COMMITTED.exists() or COMMITTED.read_text() != text():
        sys.exit("csrc/folds.def is not what fastgd/rules gives: run python csrc/folds.py")


if __name__ == "__main__":
    main()
