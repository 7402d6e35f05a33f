"""csrc/ for other systems than this one: compiled for macOS, musl and Windows; run for Windows.

Python for Windows is not needed: its headers are this Python's, with windows/pyconfig.h.
"""

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import pytest
from compiling import CSRC, ROOT, around, build_flags, library, linked, openmp_flags, required, run

sys.path.insert(0, str(CSRC))
import abi

PROGRAM = ROOT / "tests/c"
TARGETS = ["aarch64-macos", "x86_64-macos", "x86_64-linux-musl", "x86_64-windows-gnu"]
MINGW = "x86_64-w64-mingw32-gcc"
#: the stack is at a multiple of 16 bytes there
ALIGNED_ON_STACK = re.compile(r"vmov(?:a|dqa|nt).*(?:%[yz]mm\d+,.*\(%r[sb]p\)|\(%r[sb]p\),%[yz]mm)")
#: 8 threads on fewer cores: waiting ones are to sleep
WAITING = {"OMP_WAIT_POLICY": "passive"}
#: what every Windows has: the C runtime is msvcrt.dll, or the universal one
OF_WINDOWS = re.compile(r"kernel32\.dll|msvcrt\.dll|api-ms-win-crt-.*\.dll", re.IGNORECASE)


# ---- Compiled ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_clang_has_nothing_to_say(target, tmp_path):
    """Each source as the clang of ziglang compiles it, unoptimized; kernels for one instruction set."""
    pytest.importorskip("ziglang", reason="ziglang is not installed")
    clang = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-c", "-Werror"]
    kernel, *_ = build_flags.kernel_builds(target.partition("-")[0])
    macros = [f"-D{key}={value}" for key, value in kernel.macros.items()]
    entries = [*build_flags.COMMON_FLAGS, *build_flags.NO_OPENMP_FLAGS]
    jobs = [(name, entries) for name in build_flags.ENTRIES]
    jobs += [(name, [*macros, *kernel.flags]) for name in build_flags.KERNELS]

    def compiled(job):
        name, flags = job
        command = [*clang, *flags, "-O0", CSRC / name, "-o", tmp_path / f"{name}.o"]
        run(command, stdin=subprocess.DEVNULL)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compiled, jobs))


def test_cmake_for_windows(tmp_path):
    """The DLL offers what the headers declare; kernels alone have the flag that gcc needs there."""
    options = ["-DCMAKE_SYSTEM_NAME=Windows", f"-DCMAKE_C_COMPILER={required(MINGW)}"]
    generator = ["-G", "Ninja"] if shutil.which("ninja") else ["-G", "Unix Makefiles"]
    commands = "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"
    run([required("cmake"), "-S", CSRC, "-B", tmp_path, *generator, *options, commands])
    first, *names = (tmp_path / "fastgd.def").read_text().split()
    assert first == "EXPORTS"
    assert sorted(names) == sorted(abi.functions())
    (flag,) = build_flags.WINDOWS_GCC_FLAGS
    lines = re.findall(r'"command": (.*)', (tmp_path / "compile_commands.json").read_text())
    assert {flag in line for line in lines if "-DFGD_ISA" in line} == {True}
    assert {flag in line for line in lines if "-DFGD_ISA" not in line} == {False}


# ---- Built for Windows, and run by Wine ----------------------------------------------------------------


def python_for_windows(folder):
    """Folders of headers, and of the library through which extensions are linked to python3.dll."""
    headers, libraries = folder / "headers", folder / "libraries"
    shutil.copytree(sysconfig.get_path("include"), headers)
    shutil.copy(ROOT / "tests/windows/pyconfig.h", headers)
    text = "".join(path.read_text() for path in headers.rglob("*.h"))
    functions = set(re.findall(r"PyAPI_FUNC\([^)]*\)\s*(\w+)", text))
    variables = {f"{name} DATA" for name in re.findall(r"PyAPI_DATA\([^)]*\)\s*(\w+)", text)}
    listed = folder / "python3.def"
    listed.write_text("\n".join(["EXPORTS", *sorted(functions | variables)]))
    libraries.mkdir()
    tool = required("x86_64-w64-mingw32-dlltool")
    run([tool, "-d", listed, "-D", "python3.dll", "-l", libraries / "libpython3.a"])
    return headers, libraries


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with what setup.py makes for Windows: lib/ and the objects in temp/."""
    folder = tmp_path_factory.mktemp("windows")
    headers, libraries = python_for_windows(folder)
    # an environment may have an older setuptools than a build asks for
    asked = re.search(r"^requires = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    tools = folder / "tools"
    run([sys.executable, "-m", "pip", "install", "-q", "--target", tools, *ast.literal_eval(asked)])
    environment = {**os.environ, "CC": required(MINGW), "_PYTHON_HOST_PLATFORM": "win-amd64"}
    environment["PYTHONPATH"] = str(tools)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder / "lib"]
    command += ["--build-temp", folder / "temp", "-I", headers, "-L", libraries]
    # compiling all of csrc/ takes a minute or two
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert built.returncode == 0, built.stderr
    return folder


def objdump(option, path):
    return run([required("x86_64-w64-mingw32-objdump"), option, path])


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    """A function that runs a program for Windows and returns what it prints."""
    required("wine")
    own = {
        "WINEPREFIX": str(tmp_path_factory.mktemp("wine")),
        "WINEDEBUG": "-all",
        "OMP_WAIT_POLICY": "passive",
    }
    return lambda *command: run(["wine", *command], env={**os.environ, **own})


@pytest.mark.slow
def test_the_dll_offers_the_headers_functions_and_needs_windows_alone(built):
    told = objdump("-p", built / "lib/fastgd/libfastgd.dll")
    names = told.partition("[Ordinal/Name Pointer]")[2]
    assert sorted(re.findall(r"^\s*\[ *\d+\].*?(\w+)$", names, re.MULTILINE)) == sorted(abi.functions())
    assert all(map(OF_WINDOWS.fullmatch, re.findall(r"DLL Name: (\S+)", told)))


@pytest.mark.slow
def test_extensions_are_for_every_python(built):
    extensions = [path for path in (built / "lib").rglob("_*") if path.is_file()]
    names = {path.name.partition(".")[0] for path in extensions}
    assert names == {"_native", "_gather", "_handler", "_passes"}
    for path in extensions:
        told = objdump("-p", path)
        others = {n for n in re.findall(r"DLL Name: (\S+)", told) if not OF_WINDOWS.fullmatch(n)}
        assert others <= {"python3.dll", "libfastgd.dll"}
        assert "python3.dll" in others
        assert f"PyInit_{path.name.partition('.')[0]}" in told


@pytest.mark.parametrize("flags", [[], build_flags.WINDOWS_GCC_FLAGS])
def test_the_flag_for_windows_takes_away_aligned_moves(flags, tmp_path):
    moves = "vmovaps %ymm0, 32(%rsp)\nvmovdqa 64(%rbp), %ymm1\n"
    run([required(MINGW), *flags, "-x", "assembler", "-c", "-", "-o", tmp_path / "moves.o"], input=moves)
    assert len(re.findall(ALIGNED_ON_STACK, objdump("-d", tmp_path / "moves.o"))) == (0 if flags else 2)


@pytest.mark.slow
def test_no_vector_lies_on_the_stack_as_if_aligned(built):
    """Debian's gcc writes no such move without the flag, either: see GCC's bug 54412 for others."""
    code = objdump("-d", built / "lib/fastgd/libfastgd.dll")
    assert re.search(r"vmovu\w+ .*%[yz]mm.*\(%r[sb]p", code)
    assert not re.search(ALIGNED_ON_STACK, code)


@pytest.mark.slow
def test_the_tests_in_c_give_the_bits_of_this_system(built, wine, tmp_path):
    units = library(platform.machine(), openmp_flags("gcc"), [], ())
    units += around(sorted(PROGRAM.glob("*.c")), [*openmp_flags("gcc"), "-O2"])
    here = linked(tmp_path, required("gcc"), units, [*openmp_flags("gcc"), "-lm", "-pthread"])
    objects = sorted((built / "temp").rglob("csrc/*.o"))
    sources = sorted(PROGRAM.glob("*.c"))
    flags = [*build_flags.COMMON_FLAGS, *build_flags.OPENMP_FLAGS, "-O2", f"-I{CSRC}", "-static"]
    there = tmp_path / "there.exe"
    run([MINGW, *flags, *sources, *objects, "-o", there])
    *_, digest, passed = run([here], env={**os.environ, **WAITING}).splitlines()
    *_, digest_there, passed_there = wine(there).splitlines()
    assert digest.startswith("digest ")
    assert digest_there == digest
    assert passed.endswith(" passed, 0 failed")
    assert passed_there.endswith(" passed, 0 failed")


@pytest.mark.slow
def test_the_example_learns_through_the_dll(built, wine, tmp_path):
    source, folder = ROOT / "examples/c/train.c", built / "lib/fastgd"
    program = tmp_path / "train.exe"
    run([MINGW, source, f"-I{CSRC}", f"-L{folder}", "-lfastgd", "-o", program])
    shutil.copy(folder / "libfastgd.dll", tmp_path)
    assert "loss 0.0" in wine(program, ROOT / "examples/iris.csv")
