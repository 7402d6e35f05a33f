"""What an installed fastgd gives to other languages, its headers and its library: here, and in a wheel."""

import ctypes
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from compiling import CSRC, ROOT, required, run

import fastgd
from fastgd import _native, embedding

sys.path.insert(0, str(CSRC))
import abi

HEADERS = {path.name for path in CSRC.glob("fastgd*.h*")}
on_elf = pytest.mark.skipif(sys.platform != "linux", reason="the names and tools of ELF files")


def dynamic(path, tag):
    """What readelf lists under a tag such as NEEDED."""
    return re.findall(rf"\({tag}\).*\[(.*)\]", run([required("readelf"), "-dW", path]))


def check_files(package, library):
    """The files in an installed package: what they offer, need and are called."""
    (extension,) = package.glob("_native.*so")
    assert dynamic(library, "SONAME") == [library.name] == [f"libfastgd.so.{_native.lib.FGD_ABI_VERSION}"]
    assert not [name for name in dynamic(library, "NEEDED") if "python" in name]
    assert library.name in dynamic(extension, "NEEDED")
    (folders,) = dynamic(extension, "RUNPATH") or dynamic(extension, "RPATH")
    assert folders.split(":")[0] == "$ORIGIN"
    listed = run([required("nm"), "-D", "--defined-only", library]).splitlines()
    assert {line.split()[-1] for line in listed} == set(abi.functions())
    (python,) = run(["nm", "-D", "--defined-only", extension]).splitlines()
    assert python.endswith(" PyInit__native")


def test_headers_are_there():
    folder = Path(fastgd.get_include())
    assert folder.is_absolute()
    assert {"fastgd.h", "fastgd_layers.h", "fastgd_online.h", "fastgd.hpp"} <= HEADERS
    assert {path.name for path in folder.iterdir()} >= HEADERS


def test_python_and_the_loaded_library_are_one():
    library = ctypes.CDLL(fastgd.get_library())
    assert library.fgd_abi_version() == _native.lib.FGD_ABI_VERSION
    before = fastgd.get_num_threads()
    try:
        fastgd.set_num_threads(before + 3)
        assert library.fgd_get_num_threads() == before + 3
        library.fgd_set_num_threads(before + 1)
        assert fastgd.get_num_threads() == before + 1
    finally:
        fastgd.set_num_threads(before)


@on_elf
def test_files_beside_the_extension_have_their_names_and_export_the_abi_alone():
    library = Path(fastgd.get_library())
    check_files(Path(_native.__file__).parent, library)
    script = library.with_name("libfastgd.so")
    assert library.name in script.read_text()


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        ("linux", ("libfastgd.so.7", "libfastgd.so")),
        ("freebsd14", ("libfastgd.so.7", "libfastgd.so")),
        ("darwin", ("libfastgd.dylib", "")),
        ("win32", ("libfastgd.dll", "")),
    ],
)
def test_names_of_the_library(platform, names):
    assert embedding.LibraryFiles.of(platform, 7) == names


@on_elf
@pytest.mark.parametrize("how", ["its path", "-lfastgd"])
def test_a_program_is_linked_to_it(how, tmp_path):
    source, program, library = tmp_path / "program.c", tmp_path / "program", Path(fastgd.get_library())
    source.write_text(
        '#include <stdio.h>\n#include "fastgd.h"\nint main(void) { return puts(fgd_rule_at(0)->name) < 0; }\n'
    )
    linking = [library] if how == "its path" else [f"-L{library.parent}", "-lfastgd"]
    include = f"-I{fastgd.get_include()}"
    run([required("cc"), source, include, *linking, f"-Wl,-rpath,{library.parent}", "-o", program])
    assert dynamic(program, "NEEDED")[0] == library.name
    assert run([program]) == "sgd\n"


# ---- A wheel from the sdist, in an environment of its own -------------------------------------------


def created(folder, *, with_pip):
    venv.create(folder, with_pip=with_pip, symlinks=os.name != "nt")
    return folder / "bin/python"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of this checkout, and the wheel that is built from what is in it."""
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not in a checkout")
    folder = tmp_path_factory.mktemp("built")
    python = created(folder / "builder", with_pip=True)
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    run([python, "-m", "pip", "install", "-q", "setuptools>=77", "cffi>=1.16"], env=quiet)

    def build(what, source):
        code = f"from setuptools import build_meta; print(build_meta.build_{what}({str(folder)!r}))"
        return (
            folder
            / subprocess.run(
                [python, "-c", code], cwd=source, check=True, capture_output=True, text=True, timeout=1200
            ).stdout.splitlines()[-1]
        )

    sdist = build("sdist", ROOT)
    run([python, "-m", "tarfile", "-e", sdist, folder / "source"])
    (source,) = (folder / "source").iterdir()
    return sdist, build("wheel", source)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A Python with that wheel, which sees this one's other packages."""
    folder = tmp_path_factory.mktemp("installed")
    python = created(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(packages)
    (packages / "others.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
    return python


def asked(python, code):
    """What a program prints as JSON, in a process that finds no compiler."""
    environment = {"PATH": str(python.parent)}
    command = [python, "-c", f"import json, fastgd; print(json.dumps({code}))"]
    return json.loads(run(command, cwd=python.parent, env=environment))


@pytest.mark.slow
def test_sdist_has_all_that_is_compiled_and_nothing_that_was(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"csrc/{path.name}" for path in CSRC.iterdir() if path.is_file()} <= names
    assert not [name for name in names if re.search(r"\.(so|so\.\d+|dylib|dll)$", name)]


@pytest.mark.slow
@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="it has no limited API")
def test_one_wheel_is_for_every_version_of_python(built):
    assert "-cp310-abi3-" in built[1].name


@pytest.mark.slow
def test_headers_and_library_of_the_wheel(installed):
    include, library, file = asked(installed, "[fastgd.get_include(), fastgd.get_library(), fastgd.__file__]")
    package = Path(file).parent
    assert installed.parent.parent in package.parents
    assert Path(include) == package / "include"
    assert {path.name for path in Path(include).iterdir()} == HEADERS
    assert Path(library).parent == package


@pytest.mark.slow
@on_elf
def test_files_of_the_wheel_have_their_names_and_export_the_abi_alone(installed):
    library = Path(asked(installed, "fastgd.get_library()"))
    check_files(library.parent, library)


@pytest.mark.slow
def test_the_wheel_trains_and_another_process_trains_without_its_python(installed):
    assert asked(installed, "fastgd.fit.__name__") == "fastgd.fit"
    library = asked(installed, "fastgd.get_library()")
    example, data = ROOT / "examples/ctypes/train.py", ROOT / "examples/iris.csv"
    assert "step 200: loss 0.0" in run([sys.executable, "-I", "-S", example, data, library])
