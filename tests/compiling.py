"""Compiles csrc/ and programs in C around it, as it is compiled for Python but with flags of a test's own."""

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
sys.path.insert(0, str(CSRC))
import build_flags  # noqa: E402  (found through the line before)


class Unit(NamedTuple):
    """One compilation."""

    source: Path
    flags: list
    #: tells apart the objects of one source
    label: str = ""
    #: to be as the users' are
    is_plain: bool = False


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


def library(architecture, openmp, sanitizer, instrumented):
    """All of csrc/; kernels of instruction sets that are not named are without the sanitizer's flags.

    It watches what the source says, which is the same for each of them (isa.def has nothing but flags).
    """
    units = []
    for name in build_flags.KERNELS:
        for build in build_flags.kernel_builds(architecture):
            own = sanitizer if build.macros["FGD_ISA"] in instrumented else []
            macros = [f"-D{key}={value}" for key, value in build.macros.items()]
            units.append(Unit(CSRC / name, [*macros, *build.flags, *own], f"-{build.name}", not own))
    flags = [*build_flags.COMMON_FLAGS, *openmp, *sanitizer]
    return units + [Unit(CSRC / name, flags, is_plain=not sanitizer) for name in build_flags.ENTRIES]


def around(sources, flags):
    """Programs that use the library."""
    return [Unit(source, [*build_flags.COMMON_FLAGS, f"-I{CSRC}", *flags]) for source in sources]


def python_flags(compiler):
    """What else setup.py compiles with: so users' library is what is tested, and ccache has it already."""
    config = sysconfig.get_config_vars()
    if (config.get("CC") or "").split()[:1] != [compiler]:
        return []
    return [*(config.get("CFLAGS") or "").split(), *(config.get("CCSHARED") or "").split()]


def linked(folder, compiler, units, flags):
    """Compiles the units, links them with these flags, and returns the path of the program."""

    def compiled(unit):
        target = str(folder / f"{unit.source.stem}{unit.label}.o")
        first, last = (python_flags(compiler), ["-g0"]) if unit.is_plain else ([], [])
        source = str(unit.source.relative_to(ROOT))
        command = [compiler, *first, "-c", source, "-o", target, *unit.flags, *last]
        result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=300)
        # so that a warning fails; -Werror would be a flag that users' builds do not have
        assert (result.returncode, result.stderr) == (0, ""), f"{' '.join(command)}\n{result.stderr}"
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, units))
    program = folder / "program"
    run([compiler, *objects, *flags, "-o", str(program)])
    return program
