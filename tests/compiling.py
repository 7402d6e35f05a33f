"""Compiles csrc/ and programs in C around it, as it is compiled for Python but with flags of a test's own."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

CSRC = Path(__file__).parents[1] / "csrc"
sys.path.insert(0, str(CSRC))
import build_flags  # noqa: E402  (found through the line before)


class Unit(NamedTuple):
    """One compilation."""

    source: Path
    flags: list
    #: tells apart the objects of one source
    label: str = ""


def required(name):
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    return name


def starts(compiler, flags, folder):
    """Whether a program with these flags runs: not where memory is laid out as no sanitizer expects."""
    program = folder / "empty"
    command = [compiler, "-x", "c", "-", "-o", program, *flags]
    subprocess.run(command, input="int main(void) { return 0; }", text=True, capture_output=True, check=False)
    return program.exists() and subprocess.run([program], capture_output=True, check=False).returncode == 0


def compiles(compiler, flags, source="int main(void) { return 0; }"):
    command = [compiler, "-x", "c", "-", "-o", os.devnull, *flags]
    return subprocess.run(command, input=source, text=True, capture_output=True).returncode == 0


def run(command, **options):
    result = subprocess.run(command, text=True, capture_output=True, timeout=300, **options)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def openmp_flags(compiler):
    """Those of entries: with OpenMP where this compiler has it, without for None."""
    if compiler and compiles(compiler, build_flags.OPENMP_FLAGS, build_flags.OPENMP_PROBE):
        return build_flags.OPENMP_FLAGS
    return build_flags.NO_OPENMP_FLAGS


def library(machine, entry_flags, *kernel_flags):
    """All of csrc/. kernel_flags: of the plainest instruction set, then of the others where they differ."""
    units = [Unit(CSRC / name, list(entry_flags)) for name in build_flags.ENTRIES]
    builds = build_flags.kernel_builds(machine)
    for build in builds:
        is_plainest = build.macros["FGD_ISA"] == builds[0].macros["FGD_ISA"]
        own = [*build.flags, *kernel_flags[0 if is_plainest else -1]]
        macros = [f"-D{key}={value}" for key, value in build.macros.items()]
        units += [Unit(CSRC / name, [*macros, *own], f"-{build.name}") for name in build_flags.KERNELS]
    return units


def linked(folder, compiler, units, flags):
    """Compiles the units, links them with these flags, and returns the path of the program."""
    common = [compiler, *build_flags.COMMON_FLAGS, "-Werror", f"-I{CSRC}", "-c"]
    objects = [str(folder / f"{unit.source.stem}{unit.label}.o") for unit in units]
    jobs = [
        [*common, *unit.flags, str(unit.source), "-o", target]
        for unit, target in zip(units, objects, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, jobs))
    program = folder / "program"
    run([compiler, *objects, *flags, "-o", str(program)])
    return program
