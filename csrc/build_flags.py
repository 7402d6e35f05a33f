"""What csrc/ is compiled from and with: its sources, the flags, and the builds of the kernels (isa.def)."""

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

# -fno-fast-math undoes what the user's CFLAGS may ask for
COMMON_FLAGS = ["-std=gnu11", "-O3", "-fvisibility=hidden", "-fno-fast-math", "-ffp-contract=off"]
COMMON_FLAGS += ["-Wall", "-Wextra"]
KERNEL_FLAGS = ["-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]

#: for entries: with OpenMP, and where the compiler has none and its directives are to be left out silently
OPENMP_FLAGS = ["-fopenmp"]
OPENMP_PROBE = "#include <omp.h>\nint main(void) { return !omp_get_max_threads(); }"
NO_OPENMP_FLAGS = ["-fopenmp-simd", "-Wno-unknown-pragmas"]

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
