"""The C library alone: csrc/ and the programs in tests/c, compiled as for Python and run without it."""

import functools
import os
import platform
import re
from pathlib import Path

import pytest
from compiling import CSRC, around, compiles, library, linked, openmp_flags, required, run, starts

from fastgd import machine

PROGRAM = Path(__file__).parent / "c"

SANITIZERS = {
    "plain": [],
    # -O1 only for time, -g1 for the lines; clang cannot vectorise instrumented loops and warns of each
    "sanitized": [
        "-O1",
        "-g1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
    ],
}
ARM = "aarch64-linux-gnu-gcc"
ARM_RUNNER = "qemu-aarch64"
HERE = platform.machine()
RUNNABLE = [name for name, usable in machine.instruction_sets().items() if usable]


def build(folder, compiler, sanitizer, instrumented, with_openmp=True, architecture=HERE):
    """Compiles the library and the tests and links them; the path of the program.

    sanitizer: its flags, for all but the kernels of instruction sets that are not named in `instrumented`.
    """
    openmp = openmp_flags(compiler if with_openmp else None)
    units = library(architecture, openmp, sanitizer, instrumented)
    units += around(sorted(PROGRAM.glob("*.c")), [*openmp, "-O2", *sanitizer])
    # an emulator has no libraries to load
    how = [] if architecture == HERE else ["-static"]
    return linked(folder, compiler, units, [*sanitizer, *how, *openmp, "-lm", "-pthread"])


#: (compiler, sanitizer, instruction sets whose kernels have it): one run of a sanitizer is for every change.
#: Kernels are of one source; those that are not instrumented are as the users' are, which ccache has already.
#: Compiling all of csrc/ takes a minute or two each time.
WAYS = [
    ("gcc", "plain", ()),
    pytest.param("clang", "plain", (), marks=pytest.mark.slow),
    pytest.param("gcc", "sanitized", tuple(RUNNABLE[-1:]), marks=pytest.mark.slow),
    pytest.param("gcc", "sanitized", tuple(RUNNABLE), marks=pytest.mark.exhaustive),
    pytest.param("clang", "sanitized", tuple(RUNNABLE), marks=pytest.mark.exhaustive),
]


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    """A function that builds the program in one way, runs it and returns its digest of all results."""

    @functools.cache
    def outcome(compiler, sanitizer=(), instrumented=(), architecture=HERE, runner=()):
        folder = tmp_path_factory.mktemp("c")
        program = build(folder, compiler, sanitizer, instrumented, architecture=architecture)
        # 8 threads on fewer cores: waiting ones are to sleep
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        printed = run([*runner, str(program)], env=environment).splitlines()
        assert printed[-1].endswith(" passed, 0 failed"), printed
        assert int(printed[-1].split()[0]) > 4000, printed
        assert printed[-2].startswith("digest "), printed
        return printed[-2]

    return outcome


@pytest.mark.parametrize(("compiler", "sanitizer", "instrumented"), WAYS)
def test_program(compiler, sanitizer, instrumented, digest):
    required(compiler)
    flags = list(SANITIZERS[sanitizer])
    if flags and not compiles(compiler, flags):
        pytest.skip(f"{compiler} has no runtime of the sanitizers")
    if flags and compiler == "clang":
        flags.append("-Wno-pass-failed")
    digest(compiler, tuple(flags), instrumented)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc"])
def test_no_races(compiler, tmp_path):
    """The thread sanitizer over calls from several threads.

    Without OpenMP: its runtimes are not instrumented, so that all that passes from one thread of a team to
    another would look unordered. What a team does is compared bit by bit by the other tests.
    """
    flags = ["-O1", "-g1", "-fsanitize=thread"]
    if not starts(required(compiler), flags, tmp_path):
        pytest.skip(f"{compiler} has no thread sanitizer, or this system starts no program that has it")
    if compiler == "clang":
        flags.append("-Wno-pass-failed")
    # the one in use at the beginning, which these tests stay with
    program = build(tmp_path, compiler, flags, instrumented=RUNNABLE[-1:], with_openmp=False)
    printed = run([program, "races", "threads", "added"]).splitlines()
    assert re.fullmatch(r"[1-9]\d+ passed, 0 failed", printed[-1]), printed


@pytest.mark.slow
def test_gcc_and_clang_give_the_same_bits(digest):
    assert digest(required("gcc")) == digest(required("clang"))


@pytest.mark.slow
def test_arm_gives_the_same_bits(digest):
    arm = digest(required(ARM), architecture="aarch64", runner=(required(ARM_RUNNER),))
    assert arm == digest(required("gcc"))


@pytest.mark.parametrize(
    ("compiler", "language", "standard"),
    [
        ("gcc", "c", "c99"),
        ("clang", "c", "c99"),
        ("g++", "c++", "c++98"),
        ("g++", "c++", "c++17"),
        ("clang++", "c++", "c++17"),
    ],
)
def test_header_is_plain(compiler, language, standard):
    source = '#include "fastgd.h"\nint main(void) { return fgd_abi_version() == FGD_ABI_VERSION; }\n'
    flags = [f"-std={standard}", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{CSRC}"]
    run([required(compiler), "-x", language, *flags, "-"], input=source)
