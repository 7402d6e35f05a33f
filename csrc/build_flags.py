"""What csrc/ is compiled from and with: sources, flags (flags.txt), and the kernels' builds (isa.def)."""

import platform
import re
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).parent
ENTRIES = sorted(path.name for path in CSRC.glob("*.c") if not path.name.endswith("kernels.c"))
#: the one that takes longest first, so that no core is left with it when the others are done
KERNELS = sorted(
    (path.name for path in CSRC.glob("*kernels.c")), key=lambda name: (name != "stored_kernels.c", name)
)

_FLAGS = dict(re.findall(r"^(\w+): (.+)$", (CSRC / "flags.txt").read_text(), re.MULTILINE))
COMMON_FLAGS = _FLAGS["common"].split()
KERNEL_FLAGS = _FLAGS["kernels"].split()
#: for entries: with OpenMP, without, and for a shared library that offers the functions of fastgd.h
OPENMP_FLAGS = _FLAGS["openmp"].split()
NO_OPENMP_FLAGS = _FLAGS["no_openmp"].split()
EXPORT_FLAGS = _FLAGS["exports"].split()
#: for kernels, where GCC compiles for Windows
WINDOWS_GCC_FLAGS = _FLAGS["windows_gcc"].split()
OPENMP_PROBE = "#include <omp.h>\nint main(void) { return !omp_get_max_threads(); }"

ARCHITECTURES = {"x86_64": "X86_64", "amd64": "X86_64", "aarch64": "AARCH64", "arm64": "AARCH64"}


class KernelBuild(NamedTuple):
    """One compilation of the kernels files: for one instruction set and one precision."""

    name: str
    macros: dict[str, str]
    flags: list[str]


def kernel_builds(machine: str = platform.machine()) -> list[KernelBuild]:
    """Every compilation that a library for this architecture needs, the plainest instruction set first."""
    architecture = ARCHITECTURES.get(machine.lower(), "OTHER")
    row = re.compile(rf'^FGD_ISA_{architecture}\((\w+), "(.*?)",', re.MULTILINE)
    return [
        KernelBuild(
            f"{isa}-{double}",
            {"FGD_ISA": isa, "FGD_DOUBLE": double},
            [*COMMON_FLAGS, *KERNEL_FLAGS, *isa_flags.split()],
        )
        for isa, isa_flags in row.findall((CSRC / "isa.def").read_text())
        for double in "01"
    ]
