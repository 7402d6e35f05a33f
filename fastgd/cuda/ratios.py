"""The kernel that makes trust ratios and cautious scales of what was tried, a thread for each tensor."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastgd.backends.reference_update import counted
from fastgd.cuda.element import Variant
from fastgd.cuda.layout import TENSOR_BYTES, TRIED_BYTES, control, tensor
from fastgd.cuda.passes import BESIDE, THREADS
from fastgd.cuda.writer import Text, Writer
from fastgd.tracing import Symbol, Trace

F32, F64, I64 = (np.dtype(kind) for kind in (np.float32, np.float64, np.int64))

RATIO_ARGUMENTS = ("tensors", "spans", "count", "tried", "numbers")


@functools.cache
def ratios_text(variant: Variant, threads: int = THREADS) -> Text:
    """See the module.

    spans: (tensor, first chunk, chunk past the last) of each tensor.
    """
    writer = Writer("ratios", RATIO_ARGUMENTS, threads)
    rule = variant.of
    with writer.indented(f"if load_i64(numbers + {control('skipped')}) != 0:"):
        writer.line("return")
    writer.line(f"number = block() * {threads} + thread()")
    with writer.indented("if number >= count:"):
        writer.line("return")
    zero = writer.number(0.0, F64)
    writer.lines(f"""
tensor = load_i64(spans + number * 24)
at = load_i64(spans + number * 24 + 8)
last = load_i64(spans + number * 24 + 16)
of = tensors + tensor * {TENSOR_BYTES}
params, others, descending = {zero}, {zero}, {zero}
""")
    add = writer.operation("add", F64, F64)
    with writer.indented("while at < last:"):
        for k, name in enumerate(("params", "others", "descending")):
            writer.line(f"{name} = {add}({name}, load_f64(tried + at * {TRIED_BYTES} + {8 * k}))")
        writer.line("at += 1")
    trace = Trace()
    params, others, descending = (trace.argument(n, F64) for n in ("params", "others", "descending"))
    size = trace.argument("size", I64).astype(F64)
    scalars: dict[str, Any] = {name: trace.argument(f"s_{name}", F64) for name in rule.scalars}
    outputs: list[Symbol] = []

    def made() -> list[Any]:
        trust: Any = trace.constant(1.0, F64)
        if rule.trust is not None:
            norms: list[Any] = [np.sqrt(value) for value in (params, others, size)]
            trust = rule.trust.ratio(norms[0], norms[1], norms[2], scalars)
        scale: Any = trace.constant(1.0, F64) if rule.orthogonal is None else scalars["lr"]
        if variant.cautious:
            scale = scale / counted(descending / size)
        return [trust, scale]

    outputs = trace.follow(made)
    needed = trace.arguments(outputs)
    writer.line(f"size = load_i64(of + {tensor('size')})")
    writer.line(f"row_number = load_i64(of + {tensor('block')}) * {len(rule.scalars) + len(BESIDE)}")
    writer.line(f"row = load_i64(numbers + {control('row')}) + row_number * 8")
    for k, name in enumerate(rule.scalars):
        if f"s_{name}" in needed:
            writer.line(f"s_{name} = load_f64(row + {8 * k})")
    names = writer.traced(trace, outputs, {name: name for name in needed}, "r")
    narrow = writer.operation("convert", F64, F32)
    writer.line(f"ratios = load_i64(of + {tensor('ratios')})")
    for k, name in enumerate(names):
        writer.line(f"store_f64(ratios + {8 * k}, {name})")
        writer.line(f"store_f32(ratios + {16 + 4 * k}, {narrow}({name}))")
    return writer.done()
