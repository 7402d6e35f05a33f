"""Builds csrc/ into a shared library: its entries once, the kernels once per instruction set and precision.

It lies in the package beside the headers, for programs in other languages (fastgd/embedding.py), and the
extension is linked to it: one process has one table of rules and one number of threads, whoever calls.
Metadata is in pyproject.toml, sources and flags are in csrc/build_flags.py, instruction sets in csrc/isa.def.
"""

import os
import platform
import re
import runpy
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

sys.path.insert(0, str(Path(__file__).parent / "csrc"))
import abi
from build_flags import (
    COMMON_FLAGS,
    CSRC,
    ENTRIES,
    EXPORT_FLAGS,
    KERNELS,
    NO_OPENMP_FLAGS,
    OPENMP_FLAGS,
    OPENMP_PROBE,
    WINDOWS_GCC_FLAGS,
    KernelBuild,
    kernel_builds,
)

#: which csrc/build_ffi.py describes
CFFI_EXTENSION = "fastgd._native"

#: what is compiled for, such as linux-x86_64; _PYTHON_HOST_PLATFORM says it where that is not this machine
PLATFORM = sysconfig.get_platform()
if PLATFORM.endswith("-universal2"):
    # one object file cannot have the instruction sets of two architectures: it is this machine's that counts
    PLATFORM = PLATFORM.replace("universal2", platform.machine())
    os.environ |= {"_PYTHON_HOST_PLATFORM": PLATFORM, "ARCHFLAGS": f"-arch {platform.machine()}"}
SYSTEM = {"win": "win32", "macosx": "darwin"}.get(PLATFORM.partition("-")[0], sys.platform)

PACKAGE = Path("fastgd")
HEADERS = sorted(CSRC.glob("fastgd*.h*"))
ABI_VERSION = int(re.findall(r"#define FGD_ABI_VERSION (\d+)", (CSRC / "fastgd.h").read_text())[0])
FILES = runpy.run_path(str(PACKAGE / "embedding.py"))["LibraryFiles"].of(SYSTEM, ABI_VERSION)


class Linking(NamedTuple):
    """What the linker is told: for the library, and for an extension beside it."""

    library: list[str]
    extension: list[str]


#: elsewhere than here the linker is that of ELF files: the library calls its own functions, whatever else is
#: in the process, and names all libraries that it needs. On Windows it has the compiler's own, OpenMP among
#: them, in it, and an extension finds it in its own folder
LINKING = {
    "darwin": Linking([f"-Wl,-install_name,@rpath/{FILES.library}"], ["-Wl,-rpath,@loader_path"]),
    "win32": Linking(["-static"], ["-static-libgcc"]),
}.get(
    SYSTEM,
    Linking(
        [f"-Wl,-soname,{FILES.library}", "-Wl,-Bsymbolic", "-Wl,-z,defs", "-lm"],
        ["-Wl,-rpath,$ORIGIN"],
    ),
)

#: Python's own flags may ask for debugging information, which takes a fifth of the time and three quarters of
#: the file: it is there for those whose flags ask for it
ASKS_FOR_IT = any(flag.startswith("-g") for flag in os.environ.get("CFLAGS", "").split())
WITHOUT_DEBUGGING = [] if ASKS_FOR_IT else ["-g0"]

NO_COMPILER = (
    "fastgd is compiled when it is installed and no working C compiler was found: "
    "install gcc or clang (Debian, Ubuntu: apt-get install gcc; macOS: xcode-select --install; "
    "Windows: MinGW-w64, with gcc in PATH) and try again."
)


class BuildLibrary(build_ext):
    """Makes the library, puts it and the headers into the package, and links the extension to it."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if SYSTEM == "win32":
            # csrc/ is GNU C, which the compiler that would be taken does not know; CC says which gcc or clang
            self.compiler = self.compiler or "mingw32"

    def get_libraries(self, ext: Extension) -> list[str]:
        """On Windows an extension names the DLL of its Python: python3 stands for every version."""
        libraries = super().get_libraries(ext)
        if SYSTEM == "win32" and ext.py_limited_api:
            return [*(name for name in libraries if not name.startswith("python")), "python3"]
        return libraries

    def build_extension(self, ext: Extension) -> None:
        if not self.can_compile("int main(void) { return 0; }", []):
            sys.exit(f"\nerror: {NO_COMPILER}\n")
        ext.extra_compile_args += [*COMMON_FLAGS, *WITHOUT_DEBUGGING]
        if ext.name == CFFI_EXTENSION:
            self.mkpath(self.built("include"))
            for built, header in self.headers().items():
                self.copy_file(header, built)
            library = self.build_library()
            ext.include_dirs.append(str(CSRC))
            ext.extra_objects.append(library)
            ext.depends.append(library)
            # ahead of the folders that Python's own flags name, where another libfastgd may be
            command = self.compiler.linker_so
            first = next(i for i, part in enumerate(command) if part.startswith("-"))
            with self.linker([*command[:first], *LINKING.extension, *command[first:]]):
                super().build_extension(ext)
        else:
            super().build_extension(ext)

    def built(self, name: str) -> str:
        return str(Path(self.build_lib) / PACKAGE / name)

    def library_files(self) -> dict[str, str]:
        """Where each is built, and where it is in an editable installation."""
        return {self.built(name): str(PACKAGE / name) for name in FILES if name}

    def headers(self) -> dict[str, str]:
        return {self.built(f"include/{header.name}"): str(header) for header in HEADERS}

    def build_library(self) -> str:
        openmp = self.openmp_flags()
        entries = self.compiler.compile(
            [f"csrc/{name}" for name in ENTRIES],
            output_dir=self.build_temp,
            extra_postargs=[*COMMON_FLAGS, *EXPORT_FLAGS, *openmp, *WITHOUT_DEBUGGING],
            depends=[str(path) for path in CSRC.iterdir()],
        )
        objects = [*entries, *self.kernel_objects()]
        library = self.built(FILES.library)
        # a bundle, as Python's own command makes it on macOS, cannot be linked to
        command = ["-dynamiclib" if part == "-bundle" else part for part in self.compiler.linker_so]
        with self.linker(command):
            # which compilers for Windows need to be told; for others EXPORT_FLAGS say it
            self.compiler.link_shared_object(
                objects,
                library,
                export_symbols=list(abi.functions()),
                extra_postargs=[*openmp, *LINKING.library],
            )
        if FILES.linked_by:
            Path(self.built(FILES.linked_by)).write_text(f"INPUT({FILES.library})\n")
        return library

    @contextmanager
    def linker(self, command: list[str]) -> Iterator[None]:
        before, self.compiler.linker_so = self.compiler.linker_so, command
        yield
        self.compiler.linker_so = before

    def copy_extensions_to_source(self) -> None:
        for built, source in self.library_files().items():
            self.copy_file(built, source)
        super().copy_extensions_to_source()

    def get_output_mapping(self) -> dict[str, str]:
        mapping = super().get_output_mapping()
        return {**mapping, **self.library_files(), **self.headers()} if self.inplace else mapping

    def get_outputs(self) -> list[str]:
        return sorted({*super().get_outputs(), *self.library_files(), *self.headers()})

    def kernel_objects(self) -> list[str]:
        depends = [str(path) for path in CSRC.iterdir()]
        own = [*self.alignment_flags(), *WITHOUT_DEBUGGING]

        def compiled(job: tuple[KernelBuild, str]) -> list[str]:
            build, source = job
            return self.compiler.compile(
                [f"csrc/{source}"],
                output_dir=str(Path(self.build_temp) / build.name),
                macros=list(build.macros.items()),
                extra_postargs=[*build.flags, *own],
                depends=depends,
            )

        machine = PLATFORM.rpartition("-")[2]
        jobs = [(build, source) for source in KERNELS for build in kernel_builds(machine)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [name for names in pool.map(compiled, jobs) for name in names]

    def openmp_flags(self) -> list[str]:
        """OpenMP where the compiler has it; without it everything works on one thread."""
        if self.can_compile(OPENMP_PROBE, OPENMP_FLAGS):
            return OPENMP_FLAGS
        print("fastgd: this compiler has no OpenMP; the library will use one thread", file=sys.stderr)
        return NO_OPENMP_FLAGS

    def alignment_flags(self) -> list[str]:
        """What gcc needs on Windows, and clang neither needs nor knows."""
        needed = SYSTEM == "win32" and self.can_compile("int main(void) { return 0; }", WINDOWS_GCC_FLAGS)
        return WINDOWS_GCC_FLAGS if needed else []

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
handler = Extension(
    "fastgd.jax._handler",
    ["fastgd/jax/_handler.c", "csrc/formula.c", "csrc/powers.c"],
    include_dirs=["csrc"],
    libraries=[] if SYSTEM == "win32" else ["m"],
    depends=[
        "fastgd/jax/_frame.h",
        "fastgd/jax/xla_c_api.h",
        "csrc/fastgd.h",
        "csrc/formula.h",
        "csrc/powers.h",
    ],
    define_macros=[("Py_LIMITED_API", "0x030A0000")] if limited_api else [],
    py_limited_api=limited_api,
)
passes = Extension(
    "fastgd.jax._passes",
    ["fastgd/jax/_passes.c"],
    include_dirs=["csrc"],
    depends=["fastgd/jax/_frame.h", "fastgd/jax/xla_c_api.h", "csrc/fastgd.h", "csrc/fastgd_layers.h"],
    libraries=[] if SYSTEM == "win32" else ["m"],
    define_macros=[("Py_LIMITED_API", "0x030A0000")] if limited_api else [],
    py_limited_api=limited_api,
)

setup(
    ext_modules=[gather, handler, passes],
    cffi_modules=["csrc/build_ffi.py:ffi"],
    cmdclass={"build_ext": BuildLibrary},
    options=wheel_options,
)
