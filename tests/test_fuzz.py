"""Calls of the C ABI made from random bytes: libFuzzer over the programs in tests/fuzz, under sanitizers.

Every input is one call of fgd_update, fgd_measure or fgd_clip, allowed or not, in memory of exactly the size
that the ABI asks for. It is made on every instruction set, with its arrays packed, and on several
threads where clang has OpenMP. Whatever the call, nothing may touch other memory, an error may change
nothing, and all ways of making it give the same bits.
"""

import base64
import os
import platform
import random
import re
import subprocess
from pathlib import Path

import pytest
from compiling import around, compiles, library, linked, openmp_flags, required

from fastgd.machine import instruction_sets

TESTS = Path(__file__).parent
SHARED = ["array", "numbers", "product", "needs", "call"]

SANITIZERS = "-fsanitize=address,undefined"
SANITIZED = [SANITIZERS, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O1"]
#: it cannot vectorise instrumented loops
SANITIZED += ["-Wno-pass-failed"]
COVERED = ["-fsanitize-coverage=inline-8bit-counters,pc-table"]
#: small calls are to run on several threads, which the program decides in the library's place
OWN_THREADS = "-Dfgd_threads_for=fgd_threads_by_size"

TARGET = "int LLVMFuzzerTestOneInput(const unsigned char *b, unsigned long n) { return b && n > 99999; }"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The plainest kernels are sanitized; the others, compiled as for users, give the bits to compare."""
    compiler = required("clang")
    fuzzer = [f"{SANITIZERS},fuzzer"]
    if not compiles(compiler, fuzzer, TARGET):
        pytest.skip("clang has no runtime of libFuzzer and of the sanitizers (libclang-rt-14-dev)")
    openmp, checked = openmp_flags(compiler), [*SANITIZED, *COVERED]
    plainest = next(iter(instruction_sets()))
    units = library(platform.machine(), openmp, checked, [plainest])
    units = [u._replace(flags=[*u.flags, OWN_THREADS]) if u.source.stem == "threads" else u for u in units]
    sources = [TESTS / "c" / f"{name}.c" for name in SHARED] + sorted((TESTS / "fuzz").glob("*.c"))
    units += around(sources, ["-O2", f"-I{TESTS / 'c'}", "-DARRAY_GUARD=0"])
    return linked(tmp_path_factory.mktemp("fuzz"), compiler, units, [*fuzzer, *openmp, "-lm"])


@pytest.fixture
def corpus(tmp_path):
    """Inputs to begin with: any bytes are a call."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for k in range(64):
        generator = random.Random(k)
        (folder / f"{k:02}").write_bytes(generator.randbytes(generator.randint(20, 500)))
    return folder


def fuzzed(program, folder, *options):
    """(what libFuzzer printed, its exit status)"""
    options = [
        *options,
        "-max_len=600",
        "-use_cmp=0",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/",
        "-malloc_limit_mb=2048",
        # a process begins with the peak of the one it comes from, which may have tested much memory
        "-rss_limit_mb=0",
    ]
    # little memory, and waiting threads asleep
    settings = {"ASAN_OPTIONS": "quarantine_size_mb=16", "OMP_WAIT_POLICY": "passive"}
    result = subprocess.run(
        [program, *options],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, **settings},
    )
    return result.stderr, result.returncode


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [20])
def test_no_call_breaks_a_promise(seconds, program, corpus, tmp_path, capsys):
    printed, status = fuzzed(program, tmp_path, str(corpus), f"-max_total_time={seconds}", "-seed=1")
    found = {path.name: base64.b64encode(path.read_bytes()).decode() for path in tmp_path.glob("*-*")}
    assert status == 0, f"{printed[-6000:]}\ninput, in base64: {found}"
    inputs = int(re.search(r"number_of_executed_units: (\d+)", printed)[1])
    covered = re.findall(r"cov: (\d+)", printed)[-1]
    with capsys.disabled():
        print(f"\nlibFuzzer: {inputs} calls in {seconds} s, {covered} edges covered")
    assert inputs > 300
