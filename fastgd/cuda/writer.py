"""The text of a kernel as it grows: lines of Python, traced operations among them, and what they refer to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from fastgd.cuda.device import is_primitive
from fastgd.tracing import Operation, Symbol, Trace, constant_name

#: registers of a thread that are enough for most kernels, and for those with much at hand
FEW, MANY = 64, 128

_NAMES = re.compile(r"[a-z_][a-z0-9_]*(?=\()")


class Text(NamedTuple):
    """A kernel in Python, and what its names stand for."""

    name: str
    #: all of it: `def name(...)` and its lines
    source: str
    #: name -> operation that it computes
    operations: dict[str, Operation]
    #: name -> constant
    constants: dict[str, Operation]
    #: names of the primitives in fastgd.cuda.device
    primitives: tuple[str, ...]
    #: threads of a block
    threads: int
    #: that a thread may take, at most: the fewer, the more threads wait for memory at a time
    registers: int


class Writer:
    """Collects the lines of one kernel, whose arguments are all int64: addresses and sizes."""

    def __init__(self, name: str, arguments: Sequence[str], threads: int) -> None:
        self.name, self.threads = name, threads
        self._lines = [f"def {name}({', '.join(arguments)}):"]
        self._depth = 1
        self._operations: dict[str, Operation] = {}
        self._constants: dict[str, Operation] = {}

    def line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    def lines(self, text: str) -> None:
        """Lines that are written with an indentation of their own."""
        for line in text.strip("\n").split("\n"):
            self.line(line)

    @contextmanager
    def indented(self, head: str) -> Iterator[None]:
        """Lines under `head`, such as "if n > 0:"."""
        self.line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def constant(self, operation: Operation) -> str:
        name = constant_name(operation)
        self._constants[name] = operation
        return name

    def number(self, value: Any, dtype: Any) -> str:
        """A number of that dtype."""
        return self.constant(Trace().constant(value, dtype).operation)

    def traced(
        self,
        trace: Trace,
        outputs: Sequence[Symbol],
        given: Mapping[str, str],
        suffix: str,
        known: dict[int, str] | None = None,
    ) -> list[str]:
        """Writes the operations that outputs follow from, and returns their names.

        given: argument -> its name in this text. suffix: tells these results from those of other elements.
        known: operations that have names already; those written now are added to it.
        """
        names = {} if known is None else known
        for index in trace.needed(outputs):
            if index in names:
                continue
            operation = trace.operations[index]
            if operation.name == "argument":
                names[index] = given[operation.what]
            elif operation.name == "constant":
                names[index] = self.constant(operation)
            else:
                self._operations[operation.function] = operation
                names[index] = f"v{index}_{suffix}"
                operands = ", ".join(names[i] for i in operation.operands)
                self.line(f"{names[index]} = {operation.function}({operands})")
        return [names[s.index] for s in outputs]

    def hoisted(
        self, trace: Trace, outputs: Sequence[Symbol], varies: Callable[[str], bool], suffix: str = "u"
    ) -> dict[int, str]:
        """Writes the operations that follow from arguments which do not vary, and gives their names.

        varies: whether the argument of this name differs from element to element.
        """
        needed, varying = trace.needed(outputs), set[int]()
        for i in needed:
            operation = trace.operations[i]
            own = operation.name == "argument" and varies(operation.what)
            if own or varying.intersection(operation.operands):
                varying.add(i)
        known: dict[int, str] = {}
        given = {name: name for name in trace.arguments(outputs)}
        self.traced(trace, [Symbol(trace, i) for i in needed if i not in varying], given, suffix, known)
        return known

    def operation(self, name: str, kind: Any, dtype: Any) -> str:
        """The name of an operation that the text calls by itself."""
        made = Operation(name, kind, dtype, ())
        self._operations[made.function] = made
        return made.function

    def done(self, registers: int = FEW) -> Text:
        source = "\n".join(self._lines) + "\n"
        called = sorted(set(_NAMES.findall(source)))
        primitives = tuple(name for name in called if is_primitive(name))
        return Text(self.name, source, self._operations, self._constants, primitives, self.threads, registers)
