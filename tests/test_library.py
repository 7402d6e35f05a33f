"""libfastgd as csrc/CMakeLists.txt builds and installs it: its ABI, its names, and programs around it."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiling import CSRC, ROOT, build_flags, openmp_flags, required, run

import fastgd
from fastgd.optim import create

sys.path.insert(0, str(CSRC))
import abi

EXAMPLES = ROOT / "examples"
DATA = EXAMPLES / "iris.csv"
PUBLIC = set(abi.functions())
HERE = platform.machine()


def configure(source, folder, *options):
    """Runs cmake for this folder of sources, with ninja where it is installed."""
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run([required("cmake"), "-S", source, "-B", folder, *generator, *options])
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The folder that cmake has configured for csrc/."""
    return configure(CSRC, tmp_path_factory.mktemp("tree"), "-DCMAKE_BUILD_TYPE=Release")


@pytest.fixture(scope="module")
def installed(tree, tmp_path_factory):
    """The folder that libfastgd is installed in."""
    # compiling all of csrc/ takes a minute or two
    subprocess.run(["cmake", "--build", tree, "--parallel"], check=True, capture_output=True, timeout=900)
    prefix = tmp_path_factory.mktemp("prefix")
    run(["cmake", "--install", tree, "--prefix", prefix])
    return prefix


@pytest.fixture(scope="module")
def libraries(installed):
    """The folder of the libraries, which systems name differently."""
    return next(installed.rglob("libfastgd.a")).parent


def flags_of_package(libraries, *options):
    """What pkg-config says of the library that is installed there."""
    environment = {**os.environ, "PKG_CONFIG_PATH": str(libraries / "pkgconfig")}
    return run([required("pkg-config"), *options, "fastgd"], env=environment).split()


def symbols(*command):
    """The names that nm or readelf lists last in each line."""
    lines = run([required(command[0]), *command[1:]]).splitlines()
    return {line.split()[-1] for line in lines if len(line.split()) > 2}


# ---- The ABI -----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.maxsize < 2**32, reason="abi.txt is of machines with 64 bits")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_abi_is_the_committed_one(compiler):
    assert not abi.difference(abi.lines(required(compiler)), abi.COMMITTED.read_text().splitlines())


def test_what_breaks_callers_asks_for_another_version():
    committed = abi.COMMITTED.read_text().splitlines()
    (size,) = [i for i, line in enumerate(committed) if line.startswith("fgd_group:")]
    wider = [*committed[:size], "fgd_group: 176 bytes", *committed[size + 1 :]]
    message = abi.difference(wider, committed)
    assert "raise FGD_ABI_VERSION" in message
    assert "- fgd_group: 168 bytes\n+ fgd_group: 176 bytes" in message
    raised = [line.replace("FGD_ABI_VERSION = ", "FGD_ABI_VERSION = 1") for line in wider]
    assert "raise" not in abi.difference(raised, committed)
    assert "--update" in abi.difference(raised, committed)
    added = abi.difference([*committed, "fgd_new: int(*)()"], committed)
    assert "raise" not in added
    assert "--update" in added


def test_the_list_has_all_functions_and_structs():
    declared = re.sub(
        r"/\*.*?\*/", "", "".join(p.read_text() for p in CSRC.glob("fastgd*.h")), flags=re.DOTALL
    )
    assert set(re.findall(r"\b(fgd_\w+)\([^*]", declared)) == PUBLIC
    assert set(re.findall(r"^typedef struct (\w+)", declared, re.MULTILINE)) == set(abi.structs())
    assert all(abi.structs().values())


# ---- How it is built ---------------------------------------------------------------------------------


def compiled(tree):
    """What cmake compiles each source with, time after time: flags of flags.txt and isa.def, and macros."""
    architectures = ("x86_64", "aarch64")
    flags = {*build_flags.COMMON_FLAGS, *build_flags.OPENMP_FLAGS, *build_flags.NO_OPENMP_FLAGS}
    flags |= {
        flag for name in architectures for build in build_flags.kernel_builds(name) for flag in build.flags
    }
    found = {}
    for entry in json.loads((tree / "compile_commands.json").read_text()):
        words = entry["command"].split()
        own = [word for word in words if word in flags or word.startswith("-DFGD")]
        found.setdefault(Path(entry["file"]).name, []).append(sorted(own))
    return {name: sorted(times) for name, times in found.items()}


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize(
    ("compiler", "architecture"),
    [("gcc", HERE), ("clang", HERE), ("aarch64-linux-gnu-gcc", "aarch64")],
)
def test_cmake_compiles_what_python_compiles(compiler, architecture, openmp, tmp_path):
    """The same sources for the same instruction sets with the same flags, as build_flags.py has them."""
    system = "-DCMAKE_SYSTEM_NAME=Linux" if architecture != HERE else "-DCMAKE_CROSSCOMPILING=OFF"
    choice = [] if openmp else ["-DFASTGD_OPENMP=OFF"]
    options = [f"-DCMAKE_C_COMPILER={required(compiler)}", system, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    found = compiled(configure(CSRC, tmp_path, *options, *choice))
    kernels = [
        sorted([*build.flags, *(f"-D{key}={value}" for key, value in build.macros.items())])
        for build in build_flags.kernel_builds(architecture)
    ]
    team = openmp_flags(compiler) if openmp else build_flags.NO_OPENMP_FLAGS
    static = [*build_flags.COMMON_FLAGS, *team]
    entries = [sorted(static), sorted([*static, *build_flags.EXPORT_FLAGS])]
    expected = dict.fromkeys(build_flags.KERNELS, sorted(kernels))
    assert found == {**expected, **dict.fromkeys(build_flags.ENTRIES, sorted(entries))}


def test_the_package_s_library_exports_what_headers_declare():
    assert symbols("nm", "-D", "--defined-only", fastgd.get_library()) == PUBLIC


@pytest.mark.slow
def test_libfastgd_exports_what_headers_declare(libraries):
    shared = libraries / "libfastgd.so"
    assert symbols("nm", "-D", "--defined-only", shared) == PUBLIC
    (version,) = re.findall(rf"{abi.VERSION} (\d+)", (CSRC / "fastgd.h").read_text())
    dynamic = run([required("readelf"), "-d", shared])
    assert f"[libfastgd.so.{version}]" in dynamic
    assert shared.resolve().name == f"libfastgd.so.{version}.{fastgd.__version__}"
    needed = re.findall(r"NEEDED.*\[(\w+)", dynamic)
    assert set(needed) <= {"libgomp", "libomp", "libm", "libc", "libpthread", "ld"}


@pytest.mark.slow
def test_the_static_library_keeps_to_itself(libraries, tmp_path):
    """Every name begins with fgd_, and a shared library around it offers none of them."""
    static = libraries / "libfastgd.a"
    names = symbols("nm", "-g", "--defined-only", static)
    assert names >= PUBLIC
    assert all(name.startswith("fgd_") for name in names)
    source = tmp_path / "host.c"
    source.write_text('#include "fastgd.h"\nint host(void) { return fgd_rule_find("adam"); }\n')
    host = tmp_path / "libhost.so"
    library = [
        word for word in flags_of_package(libraries, "--cflags", "--libs", "--static") if word != "-lfastgd"
    ]
    run([required("gcc"), "-shared", "-fPIC", source, static, *library, "-Wl,--no-undefined", "-o", host])
    assert symbols("nm", "-D", "--defined-only", host) == {"host"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "static"])
def test_a_program_in_c_through_pkg_config(kind, libraries, tmp_path):
    """The program of docs/c.md."""
    (source,) = re.findall(r"^```c\n(.*?)^```", (ROOT / "docs/c.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "step.c").write_text(source)
    options = ["--cflags", "--libs", *(["--static"] if kind == "static" else [])]
    flags = flags_of_package(libraries, *options)
    if kind == "static":
        flags = [libraries / "libfastgd.a" if flag == "-lfastgd" else flag for flag in flags]
    program = tmp_path / "step"
    run([required("gcc"), tmp_path / "step.c", *flags, "-o", program])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)} if kind == "shared" else None
    assert run([program], env=environment) == "norm 5, weights 0.94 2 2.92\n"
    assert ("libfastgd" in run(["ldd", program], env=environment)) == (kind == "shared")
    assert flags_of_package(libraries, "--modversion") == [fastgd.__version__]


# ---- Programs around it --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("language", ["c", "cpp"])
@pytest.mark.parametrize("kind", ["fastgd", "static"])
def test_an_example_learns(language, kind, installed, tmp_path):
    """Through find_package; with the static library, too."""
    source = tmp_path / "source"
    shutil.copytree(EXAMPLES / language, source)
    rules = source / "CMakeLists.txt"
    rules.write_text(rules.read_text().replace("fastgd::fastgd", f"fastgd::{kind}"))
    build = configure(source, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}")
    run(["cmake", "--build", build])
    printed = run([build / "train", DATA])
    losses = [float(loss) for loss in re.findall(r"loss (\S+),", printed)]
    accuracies = [float(accuracy) for accuracy in re.findall(r"accuracy (\S+)", printed)]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.1 < 0.8 < losses[0]
    assert accuracies[-1] > 0.96
    failed = subprocess.run([build / "train", "missing.csv"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.strip()


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_an_example_is_short(language):
    """Under 150 lines, with a README of three."""
    (program,) = (EXAMPLES / language).glob("train.*")
    assert len(program.read_text().splitlines()) < 150
    assert len((EXAMPLES / language / "README.md").read_text().splitlines()) == 3


#: the hyperparameters that tests/library/client.cpp sets, for fastgd.Optimizer
ALIKE = {
    "sgd": ("sgd", {"momentum": 0.9, "dampening": 0.25, "weight_decay": 0.03}),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.03, "maximize": True}),
    "adamw": ("adamw", {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}),
    "amsgrad": ("adamw", {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2, "amsgrad": True}),
    "lion": ("lion", {"betas": (0.85, 0.95)}),
    "yogi": ("yogi", {"initial_accumulator_value": 0.5}),
    "nadam": ("nadam", {"momentum_decay": 0.3}),
    "rprop": ("rprop", {}),
    "schedule_free": ("adamw_schedule_free", {"warmup_steps": 3}),
    "adafactor": ("adafactor", {}),
}


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_cpp_has_the_bits_of_python(compiler, tmp_path):
    """fastgd.hpp over the library of the Python package, called by both."""
    program = tmp_path / "client"
    source = Path(__file__).parent / "library" / "client.cpp"
    warnings = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    library = Path(fastgd.get_library())
    flags = [f"-I{fastgd.get_include()}", library, f"-Wl,-rpath,{library.parent}"]
    run([required(compiler), *warnings, source, *flags, "-o", program])
    lines = run([program]).splitlines()
    assert len(lines) == 2 * len(ALIKE)
    for line in lines:
        name, dtype, *printed = line.split()
        rule, hyperparameters = ALIKE[name]
        first, second = np.array([[1], [-2], [0.5]], dtype), np.array([[3]], dtype)
        optimizer = create(rule, [first, second], lr=0.1, **hyperparameters)
        for step in range(4):
            gradients = [
                (np.arange(3) - 1 + step).astype(dtype).reshape(3, 1) / 4,
                np.array([[step - 2]], dtype),
            ]
            optimizer.step(gradients, clip_norm=2.0)
        assert [*first.flat, *second.flat] == [np.dtype(dtype).type(value) for value in printed], name
