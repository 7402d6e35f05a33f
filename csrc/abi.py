"""The C ABI as a list: what the headers promise, with the layouts that the compiler gives their structs.

`python csrc/abi.py` compares it with abi.txt, which is of machines with 64 bits, and `--update` writes that.
A line that goes, or changes, breaks callers and needs another FGD_ABI_VERSION; a line that comes does not.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from cffi import FFI

sys.path.insert(0, str(Path(__file__).parent))
from build_ffi import cdef

CSRC = Path(__file__).parent
COMMITTED = CSRC / "abi.txt"
VERSION = "FGD_ABI_VERSION"
HEADERS = FFI()
HEADERS.cdef(cdef())


def functions() -> dict[str, str]:
    """The functions of the headers, and the type of each as cffi writes it."""
    flat = re.sub(r"/\*.*?\*/|\{[^{}]*\}|^#[^\n]*", "", cdef(), flags=re.DOTALL | re.MULTILINE)
    found = {}
    for statement in map(str.strip, flat.split(";")):
        if statement and not statement.startswith("typedef"):
            result, name, arguments = re.fullmatch(r"(.*?)\b(\w+)(\(.*\))", statement, re.DOTALL).groups()
            found[name] = HEADERS.typeof(f"{result} (*){arguments}").cname
    return found


def structs() -> dict[str, list[tuple[str, str]]]:
    """The structs of the headers, and the names and types of the fields of each."""
    types = {name: HEADERS.typeof(name) for name in HEADERS.list_types()[0]}
    return {
        name: [(field, type_of.type.cname) for field, type_of in kind.fields]
        for name, kind in types.items()
        if kind.kind == "struct"
    }


def constants() -> list[str]:
    """Macros and members of enums."""
    types = map(HEADERS.typeof, HEADERS.list_types()[0])
    members = [name for kind in types if kind.kind == "enum" for name in sorted(kind.relements)]
    return [*re.findall(r"^#define (\w+)", cdef(), re.MULTILINE), *members]


def lines(compiler: str) -> list[str]:
    """The list, from a program that this compiler has made."""
    rows = [f'printf("{name} = %d\\n", (int){name});' for name in constants()]
    for struct, fields in structs().items():
        rows.append(f'printf("{struct}: %zu bytes\\n", sizeof({struct}));')
        rows += [
            f'printf("{struct}.{name}: %zu bytes at %zu, {kind}\\n",'
            f" sizeof((({struct} *)0)->{name}), offsetof({struct}, {name}));"
            for name, kind in fields
        ]
    source = "\n".join(
        [
            "#include <stddef.h>",
            "#include <stdio.h>",
            '#include "fastgd.h"',
            "int main(void) {",
            *rows,
            "return 0; }",
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "layouts"
        command = [compiler, "-x", "c", "-", f"-I{CSRC}", "-o", str(program)]
        subprocess.run(command, input=source, text=True, check=True)
        printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return [*printed.splitlines(), *(f"{name}: {kind}" for name, kind in sorted(functions().items()))]


def difference(found: list[str], committed: list[str]) -> str:
    """What to do about the difference between two lists, and the difference; "" where there is none."""
    gone = [line for line in committed if line not in found]
    come = [line for line in found if line not in committed]
    if not gone and not come:
        return ""
    same_version = not any(line.startswith(VERSION) for line in gone)
    advice = f"raise {VERSION} in csrc/fastgd.h, then run" if gone and same_version else "run"
    shown = [*(f"- {line}" for line in gone), *(f"+ {line}" for line in come)]
    return "\n".join([f"the C ABI is not that of csrc/abi.txt: {advice} python csrc/abi.py --update", *shown])


def main() -> None:
    found = lines(os.environ.get("CC", "cc"))
    what = difference(found, COMMITTED.read_text().splitlines() if COMMITTED.exists() else [])
    if sys.argv[1:] == ["--update"] and "raise" not in what:
        COMMITTED.write_text("".join(f"{line}\n" for line in found))
    elif what:
        sys.exit(what)


if __name__ == "__main__":
    main()
