"""Where an installed fastgd has its C headers and its shared library, for programs in other languages."""

import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["get_include", "get_library"]


class LibraryFiles(NamedTuple):
    """What the shared library of an ABI version is called on a platform; setup.py makes the files."""

    library: str
    #: the text file through which -lfastgd finds the library; empty where it has that name itself
    linked_by: str = ""

    @classmethod
    def of(cls, platform: str, abi_version: int) -> "LibraryFiles":
        if platform == "win32":
            return cls("libfastgd.dll")
        if platform == "darwin":
            return cls("libfastgd.dylib")
        return cls(f"libfastgd.so.{abi_version}", "libfastgd.so")


def get_include() -> str:
    """The folder with fastgd.h, the headers it includes, and fastgd.hpp, for a compiler's -I.

    Where fastgd is installed from a source folder with `pip install -e`, that is the folder's csrc/.
    """
    package = Path(__file__).resolve().parent
    installed = package / "include"
    return str(installed if installed.is_dir() else package.parent / "csrc")


def get_library() -> str:
    """The path of the shared library with the functions of get_include()'s headers, and no others.

    It needs no Python: any process can load it (`ctypes.CDLL(path)`) or be linked to it (`-L` with its folder
    and `-lfastgd`, or the path itself). It is the one that fastgd's Python calls: added rules, the
    number of threads and the instruction set are the same for all users of it in a process.
    """
    from fastgd import _native

    name = LibraryFiles.of(sys.platform, _native.lib.FGD_ABI_VERSION).library
    return str(Path(_native.__file__).with_name(name))
