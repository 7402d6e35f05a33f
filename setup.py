"""Builds csrc/ into one extension: the entry points once, the kernels once per instruction set and precision.

Metadata is in pyproject.toml; the instruction sets and their compiler flags are in csrc/isa.def.
"""

import platform
import re
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

CSRC = Path(__file__).parent / "csrc"
ENTRIES = sorted(path.name for path in CSRC.glob("*.c") if not path.name.endswith("kernels.c"))
KERNELS = sorted(path.name for path in CSRC.glob("*kernels.c"))

COMMON_FLAGS = ["-std=gnu11", "-O3", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]
KERNEL_FLAGS = ["-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
NO_COMPILER = (
    "fastgd is compiled when it is installed and no working C compiler was found: "
    "install gcc or clang (Debian, Ubuntu: apt-get install gcc; macOS: xcode-select --install) and try again."
)


def instruction_sets() -> dict[str, list[str]]:
    """Name and compiler flags of each instruction set of this machine's architecture, from csrc/isa.def."""
    machine = platform.machine().lower()
    architecture = {"x86_64": "X86_64", "amd64": "X86_64", "aarch64": "AARCH64", "arm64": "AARCH64"}
    row = re.compile(rf'^FGD_ISA_{architecture.get(machine, "OTHER")}\((\w+), "(.*?)",', re.MULTILINE)
    return {name: flags.split() for name, flags in row.findall((CSRC / "isa.def").read_text())}


class BuildKernels(build_ext):
    """Compiles every kernels file with each instruction set's own flags and links them into the extension."""

    def build_extension(self, ext: Extension) -> None:
        try:
            openmp = self.openmp_flags()
            ext.include_dirs.append(str(CSRC))
            ext.extra_compile_args += [*COMMON_FLAGS, *openmp]
            ext.extra_link_args += openmp
            ext.sources += [f"csrc/{name}" for name in ENTRIES]
            ext.extra_objects += self.kernel_objects()
            super().build_extension(ext)
        except (CCompilerError, ExecError, PlatformError) as error:
            if self.can_compile([]):
                raise
            sys.exit(f"{NO_COMPILER}\n({error})")

    def kernel_objects(self) -> list[str]:
        objects = []
        for isa, isa_flags in instruction_sets().items():
            for double in (0, 1):
                objects += self.compiler.compile(
                    [f"csrc/{name}" for name in KERNELS],
                    output_dir=str(Path(self.build_temp) / f"{isa}-{double}"),
                    macros=[("FGD_ISA", isa), ("FGD_DOUBLE", str(double))],
                    extra_postargs=[*COMMON_FLAGS, *KERNEL_FLAGS, *isa_flags],
                    depends=[str(path) for path in CSRC.iterdir()],
                )
        return objects

    def openmp_flags(self) -> list[str]:
        """["-fopenmp"] where the compiler has it; without it everything works on one thread."""
        if self.can_compile(["-fopenmp"]):
            return ["-fopenmp"]
        print("fastgd: this compiler has no OpenMP; the library will use one thread", file=sys.stderr)
        return []

    def can_compile(self, flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text("int main(void) { return 0; }\n")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
                self.compiler.link_executable(objects, str(Path(folder) / "probe"), extra_postargs=flags)
            except (CCompilerError, ExecError, PlatformError):
                return False
        return True


if not sysconfig.get_config_var("Py_GIL_DISABLED"):
    wheel_options = {"bdist_wheel": {"py_limited_api": "cp310"}}
else:
    wheel_options = {}

setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    cmdclass={"build_ext": BuildKernels},
    options=wheel_options,
)
