"""What is in a compiled kernel for NVIDIA GPUs: its PTX, and its machine code read from the cubin."""

from __future__ import annotations

import collections
import itertools
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

#: compute capabilities that kernels are linked for here
_, HOPPER, _ = ARCHITECTURES = [(8, 0), (9, 0), (10, 0)]


def everywhere(*factors: Any, always: Callable[..., bool]) -> list[Any]:
    """Parameters of a test: each combination of the factors' values, compiled for every architecture.

    One architecture of each combination, the next one every time, is `slow`, or for every run where
    `always(*values)`. The others are `exhaustive`.
    """
    made = []
    for k, values in enumerate(itertools.product(*factors)):
        for i, architecture in enumerate(ARCHITECTURES):
            first = () if always(*values) else pytest.mark.slow
            marks = first if i == k % len(ARCHITECTURES) else pytest.mark.exhaustive
            name = "-".join(map(str, (*values, *architecture)))
            made.append(pytest.param(*values, architecture, marks=marks, id=name))
    return made


#: instructions of float64, conversions among them, in machine code
DOUBLE = r"D(ADD|MUL|FMA|SETP|MNMX)|F2F\.F(64|32\.F64)|[FI]2[FI]\.\S*F64|MUFU\.\w+64H"

#: kinds of an entry of .nv.info, and its attributes: of (symbol, number) pairs
_WITH_SIZE, _REGISTERS, _FRAME = 4, 0x2F, 0x11

_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.M)
_FUNCTION = re.compile(r"^\.text\.(\S+?):$", re.M)


class Code(NamedTuple):
    """A cubin with one kernel."""

    #: name of a function, the kernel or what it calls -> its instructions with their modifiers, counted
    functions: dict[str, collections.Counter[str]]
    #: of the kernel, for each thread
    registers: int
    #: bytes of local memory of each function: what is spilled, or indexed
    frame: int

    def count(self, pattern: str) -> int:
        """How many instructions, in all functions, match from their first letter on."""
        return sum(counted(instructions, pattern) for instructions in self.functions.values())


def counted(instructions: collections.Counter[str], pattern: str) -> int:
    """How many of one function's match from their first letter on."""
    found = re.compile(pattern)
    return sum(n for instruction, n in instructions.items() if found.match(instruction))


def nvdisasm() -> Path | None:
    """The disassembler: on the path, or from the package nvidia-cuda-nvdisasm."""
    found = shutil.which("nvdisasm")
    if found:
        return Path(found)
    try:
        import nvidia
    except ImportError:
        return None
    places = (Path(folder) / "cu13" / "bin" / "nvdisasm" for folder in nvidia.__path__)
    return next((place for place in places if place.exists()), None)


def read(cubin: bytes, folder: Path) -> Code:
    """folder: for a file that the disassembler reads."""
    program = nvdisasm()
    assert program is not None
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    run = subprocess.run([program, "-c", file], capture_output=True, text=True, check=True)
    numbers = _numbers(cubin)
    return Code(
        _functions(run.stdout),
        max(n for attribute, n in numbers if attribute == _REGISTERS),
        max(n for attribute, n in numbers if attribute == _FRAME),
    )


def _functions(listing: str) -> dict[str, collections.Counter[str]]:
    parts = _FUNCTION.split(listing)
    return {
        name: collections.Counter(_INSTRUCTION.findall(body))
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def _numbers(cubin: bytes) -> list[tuple[int, int]]:
    """(attribute, number) of what .nv.info says of functions; cubins are ELF files of 64 bits."""
    assert cubin[:5] == b"\x7fELF\x02"
    (sections,) = struct.unpack_from("<Q", cubin, 0x28)
    count, names = struct.unpack_from("<HH", cubin, 0x3C)
    rows = [struct.unpack_from("<IIQQQQIIQQ", cubin, sections + 64 * i) for i in range(count)]
    found = []
    for name, _, _, _, offset, size, *_ in rows:
        start = rows[names][4] + name
        if cubin[start : cubin.index(b"\0", start)] != b".nv.info":
            continue
        at = offset
        while at < offset + size:
            kind, attribute, length = struct.unpack_from("<BBH", cubin, at)
            at += 4
            if kind == _WITH_SIZE:
                if attribute in (_REGISTERS, _FRAME):
                    found.append((attribute, struct.unpack_from("<II", cubin, at)[1]))
                at += length
    return found


def missing() -> str | None:
    """Why nothing can be compiled or read here, and what brings it; None when all is there."""
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

    for name in ("nvrtc", "nvvm", "nvJitLink"):
        try:
            load_nvidia_dynamic_lib(name)
        except DynamicLibNotFoundError:
            return f"lib{name} is not found: pip install 'fastgd[cuda]'"
    if nvdisasm() is None:
        return "nvdisasm is not found: pip install nvidia-cuda-nvdisasm"
    return None


#: source and limits of a kernel -> its PTX, which is the same for all architectures
_PTX = {}


def ptx_of(text):
    """compiler.ptx_of, once for each kernel."""
    from fastgd.cuda import compiler

    key = text.source, text.threads, text.registers
    if key not in _PTX:
        _PTX[key] = compiler.ptx_of(text)
    return _PTX[key]
