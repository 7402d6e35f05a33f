"""Programs around the library of an installed fastgd: examples/ctypes and examples/rust."""

import ctypes
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import ROOT, run

import fastgd
from fastgd._native import ffi

EXAMPLES = ROOT / "examples"
CTYPES = EXAMPLES / "ctypes/train.py"
RUST = EXAMPLES / "rust"
DATA = EXAMPLES / "iris.csv"
LIBRARY = Path(fastgd.get_library())


def losses(printed):
    """Those of steps 0, 50, 100, 150 and 200."""
    found = [float(text) for text in re.findall(r"loss (\d\.\d+)", printed)]
    assert len(found) == 5, printed
    return found


# ---- Python with nothing but ctypes --------------------------------------------------------------------


def program(*arguments, **environment):
    """The example in a Python that sees no installed package."""
    clean = {name: value for name, value in os.environ.items() if name != "FASTGD_LIBRARY"}
    command = [sys.executable, "-I", "-S", CTYPES, *arguments]
    return subprocess.run(command, env={**clean, **environment}, text=True, capture_output=True, timeout=300)


def test_a_network_is_trained_through_ctypes():
    result = program(DATA, FASTGD_LIBRARY=str(LIBRARY))
    assert result.returncode == 0, result.stderr
    first, *_, last = losses(result.stdout)
    assert first > 1
    assert last < 0.05


def test_an_error_of_the_library_ends_it_in_words(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("a,class\n1,0\n2,-5\n3,1\n")
    result = program(table, LIBRARY)
    assert result.returncode == 1
    assert "label" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["Activation", "Labels", "Op", "Tensor", "Group", "Options", "Report"])
def test_structs_in_ctypes_are_those_of_the_headers(name):
    own = runpy.run_path(str(CTYPES))[name]
    theirs = ffi.typeof(f"fgd_{name.lower()}")
    fields = {field: (kind.offset, ffi.sizeof(kind.type)) for field, kind in theirs.fields}
    assert {f: (getattr(own, f).offset, getattr(own, f).size) for f, _ in own._fields_} == fields
    assert ctypes.sizeof(own) == ffi.sizeof(theirs)


# ---- Rust ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cargo(tmp_path_factory):
    """A function that runs cargo on the crate, linked to the library."""
    path = os.pathsep.join([os.environ["PATH"], str(Path.home() / ".cargo/bin")])
    command = shutil.which("cargo", path=path)
    if not command:
        pytest.skip("cargo is not installed (Debian, Ubuntu: apt-get install cargo)")
    target = str(tmp_path_factory.mktemp("target"))
    environment = {"PATH": path, "CARGO_TARGET_DIR": target, "FASTGD_LIB_DIR": str(LIBRARY.parent)}

    def started(*arguments):
        return run([command, *arguments], cwd=RUST, env={**os.environ, **environment})

    yield started
    shutil.rmtree(target)


def test_a_network_is_trained_from_rust(cargo):
    cargo("build")
    first, *_, last = losses(cargo("run", "--quiet", "--", DATA))
    assert first > 1
    assert last < 0.05


def test_the_crate_has_the_layouts_of_the_abi_and_refuses_what_it_should(cargo):
    passed = re.findall(r"(\d+) passed; 0 failed", cargo("test", "--quiet"))
    assert sum(map(int, passed)) == 7
