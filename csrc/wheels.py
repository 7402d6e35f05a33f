"""A wheel for Linux from this checkout, repaired and looked into: `python csrc/wheels.py FOLDER`.

CC names the compiler, which says what it compiles for: with CC=aarch64-linux-gnu-gcc the wheel is one for
aarch64. It needs the extra `wheels`, and leaves the source distribution in FOLDER, too. The wheels that are
uploaded are built in the images of [tool.cibuildwheel], whose glibc is older than most systems'.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from auditwheel.elfutils import elf_file_filter

ROOT = Path(__file__).parents[1]
#: what every Linux with glibc has; all else that is needed has to be in the wheel
OF_THE_SYSTEM = ("libc.so.", "libm.so.", "libpthread.so.", "ld-linux")


def printed(*command: str | Path, **options: object) -> str:
    """The last line that a command prints."""
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options)
    return result.stdout.splitlines()[-1].strip()


def source_distribution(folder: Path) -> Path:
    """Made anew: what lies in build/ comes into no wheel."""
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(folder)!r}))"
    return folder / printed(sys.executable, "-c", code, cwd=ROOT)


def wheel_from(source: Path, compiler: str, folder: Path) -> Path:
    """One that names the libraries of the system it was compiled on."""
    machine = printed(compiler, "-dumpmachine").partition("-")[0]
    environment = {
        **os.environ,
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared",
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
    }
    # cffi of this machine: pip would bring that of the machine compiled for
    options = ["-q", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True, env=environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def repaired(wheel: Path, compiler: str, folder: Path) -> Path:
    """With OpenMP in it, and named by the oldest glibc that it runs with."""
    libraries = Path(printed(compiler, "-print-file-name=libgomp.so.1")).resolve().parent
    command = [sys.executable, "-m", "auditwheel", "repair", "--ldpaths", libraries, "-w", folder, wheel]
    before = set(folder.glob("*.whl"))
    subprocess.run(command, check=True)
    (found,) = set(folder.glob("*.whl")) - before
    return found


def needed(wheel: Path, folder: Path) -> dict[str, list[str]]:
    """The libraries that each file of machine code in a wheel names."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    found = {}
    for path, elf in elf_file_filter(sorted(path for path in folder.rglob("*") if path.is_file())):
        tags = elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")
        found[str(Path(path).relative_to(folder))] = [tag.needed for tag in tags]
    return found


def main(folder: Path) -> None:
    compiler = os.environ.get("CC", "gcc")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with tarfile.open(source_distribution(folder)) as archive:
            archive.extractall(scratch, filter="data")
        (source,) = scratch.iterdir()
        wheel = repaired(wheel_from(source, compiler, scratch / "raw"), compiler, folder)
        libraries = needed(wheel, scratch / "files")
    print(f"{wheel}: {wheel.stat().st_size} bytes")
    inside = {Path(file).name for file in libraries}
    for file, names in libraries.items():
        print(f"  {file} needs {', '.join(names) or 'nothing'}")
        missing = [name for name in names if name not in inside and not name.startswith(OF_THE_SYSTEM)]
        if missing:
            sys.exit(f"error: {file} needs {', '.join(missing)}, which is not in the wheel")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
