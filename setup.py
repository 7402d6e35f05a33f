"""Builds csrc/ into one extension: the entry points once, the kernels once per instruction set and precision.

Metadata is in pyproject.toml, sources and flags are in csrc/build_flags.py, instruction sets in csrc/isa.def.
"""

import os
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

sys.path.insert(0, str(Path(__file__).parent / "csrc"))
from build_flags import (
    COMMON_FLAGS,
    CSRC,
    ENTRIES,
    KERNELS,
    NO_OPENMP_FLAGS,
    OPENMP_FLAGS,
    OPENMP_PROBE,
    KernelBuild,
    kernel_builds,
)

#: which csrc/build_ffi.py describes
KERNELS_EXTENSION = "fastgd._native"

#: Python's own flags may ask for debugging information, which takes a fifth of the time and three quarters of
#: the file: it is there for those whose flags ask for it
ASKS_FOR_IT = any(flag.startswith("-g") for flag in os.environ.get("CFLAGS", "").split())
WITHOUT_DEBUGGING = [] if ASKS_FOR_IT else ["-g0"]

NO_COMPILER = (
    "fastgd is compiled when it is installed and no working C compiler was found: "
    "install gcc or clang (Debian, Ubuntu: apt-get install gcc; macOS: xcode-select --install) and try again."
)


class BuildKernels(build_ext):
    """Compiles every kernels file with each instruction set's own flags and links them into the extension."""

    def build_extension(self, ext: Extension) -> None:
        if not self.can_compile("int main(void) { return 0; }", []):
            sys.exit(f"\nerror: {NO_COMPILER}\n")
        if ext.name != KERNELS_EXTENSION:
            ext.extra_compile_args += [*COMMON_FLAGS, *WITHOUT_DEBUGGING]
            super().build_extension(ext)
            return
        openmp = self.openmp_flags()
        ext.include_dirs.append(str(CSRC))
        ext.extra_compile_args += [*COMMON_FLAGS, *openmp, *WITHOUT_DEBUGGING]
        ext.extra_link_args += openmp
        ext.sources += [f"csrc/{name}" for name in ENTRIES]
        ext.extra_objects += self.kernel_objects()
        ext.depends += ext.extra_objects  # else a change of kernels alone is compiled, but not linked
        super().build_extension(ext)

    def kernel_objects(self) -> list[str]:
        depends = [str(path) for path in CSRC.iterdir()]

        def compiled(job: tuple[KernelBuild, str]) -> list[str]:
            build, source = job
            return self.compiler.compile(
                [f"csrc/{source}"],
                output_dir=str(Path(self.build_temp) / build.name),
                macros=list(build.macros.items()),
                extra_postargs=[*build.flags, *WITHOUT_DEBUGGING],
                depends=depends,
            )

        jobs = [(build, source) for source in KERNELS for build in kernel_builds()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [name for names in pool.map(compiled, jobs) for name in names]

    def openmp_flags(self) -> list[str]:
        """OpenMP where the compiler has it; without it everything works on one thread."""
        if self.can_compile(OPENMP_PROBE, OPENMP_FLAGS):
            return OPENMP_FLAGS
        print("fastgd: this compiler has no OpenMP; the library will use one thread", file=sys.stderr)
        return NO_OPENMP_FLAGS

    def can_compile(self, program: str, flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(f"{program}\n")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
                self.compiler.link_executable(objects, str(Path(folder) / "probe"), extra_postargs=flags)
            except (CCompilerError, ExecError, PlatformError):
                return False
        return True


limited_api = not sysconfig.get_config_var("Py_GIL_DISABLED")
wheel_options = {"bdist_wheel": {"py_limited_api": "cp310"}} if limited_api else {}
gather = Extension(
    "fastgd.torch._gather",
    ["fastgd/torch/_gather.c", "fastgd/torch/_seen.c"],
    depends=["fastgd/torch/_seen.h", "fastgd/torch/_tensor.h"],
    define_macros=[("Py_LIMITED_API", "0x030A0000")] if limited_api else [],
    py_limited_api=limited_api,
)

setup(
    ext_modules=[gather],
    cffi_modules=["csrc/build_ffi.py:ffi"],
    cmdclass={"build_ext": BuildKernels},
    options=wheel_options,
)
