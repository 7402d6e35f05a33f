"""Kernels as Numba-CUDA compiles them, run on this machine's CPU: the LLVM code that NVVM would read.

What is specific to a GPU is replaced: rounded arithmetic by plain instructions, which are rounded alike here,
and threads, barriers and exchange by threads of Python. So all but NVVM, ptxas and the GPU itself is tried.
"""

from __future__ import annotations

import ctypes
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
from numba.cuda import codegen

from fastgd.cuda import compiler
from fastgd.cuda.simulated_driver import SimulatedDriver

SUPPORT = """
declare double @llvm.sqrt.f64(double)
declare float @llvm.sqrt.f32(float)
"""

_ARITHMETIC = {
    "add.rn": "%r = fadd {t} %a, %b",
    "mul.rn": "%r = fmul {t} %a, %b",
    "sqrt.rn": "%r = call {t} @llvm.sqrt.{f}({t} %a)",
}

_TYPES = {"f": ("float", "f32"), "d": ("double", "f64")}

_WORD = ctypes.c_int32

#: seconds after which threads that wait for one that never comes give up
PATIENCE = 60.0


class _Thread(threading.local):
    """Which thread of which block this one is, and the meeting of its block."""

    number, block, meeting, box = 0, 0, None, None


_here = _Thread()


def _shuffle(mask: int, value: int, lane: int, clamp: int) -> int:
    """Blocks have one warp."""
    here = _here
    here.meeting.wait()
    here.box[here.number] = value
    here.meeting.wait()
    return here.box[lane]


#: intrinsic -> what is called for it
_FUNCTIONS = {
    "read.ptx.sreg.tid.x": ctypes.CFUNCTYPE(_WORD)(lambda: _here.number),
    "read.ptx.sreg.ctaid.x": ctypes.CFUNCTYPE(_WORD)(lambda: _here.block),
    "barrier0": ctypes.CFUNCTYPE(None)(lambda: _here.meeting.wait() and None),
    "shfl.sync.idx.i32": ctypes.CFUNCTYPE(_WORD, _WORD, _WORD, _WORD, _WORD)(_shuffle),
}


def _llvm_of(text) -> str:
    """What Numba hands to NVVM."""
    found = []
    compile_ir = codegen.nvvm.compile_ir

    def keep(irs, **options):
        found.extend(irs)
        return compile_ir(irs, **options)

    codegen.nvvm.compile_ir = keep
    try:
        compiler.ptx_of(text)
    finally:
        codegen.nvvm.compile_ir = compile_ir
    (source,) = found
    return source if isinstance(source, str) else source.decode()


def _for_host(source: str) -> tuple[str, str]:
    """(the code for this machine, the kernel's name in it)."""
    name = re.search(r'^define void @"([^"]+)"', source, re.M)[1]
    source = re.sub(r"^(target|!|@).*\n?", "", source, flags=re.M)
    # pointers have no types any more
    source = re.sub(r"(<\d+ x \w+>|\w+) addrspace\(1\)\*", "ptr", source)
    source = re.sub(r"(<[^>]*>|\[[^]]*\]|\w+)\*+", "ptr", source)
    bodies = []
    for line in re.findall(r"^declare .*$", source, re.M):
        known = re.match(r'declare (\S+) @"llvm\.nvvm\.([\w.]+)"\((.*)\)', line)
        if not known:
            continue
        result, intrinsic, parameters = known.groups()
        kinds = re.findall(r"(\w+) %", parameters) or [p.strip() for p in parameters.split(",") if p.strip()]
        names = [f"%{n}" for n in "abcd"[: len(kinds)]]
        taken = ", ".join(f"{kind} {n}" for kind, n in zip(kinds, names, strict=True))
        operation, _, short = intrinsic.rpartition(".")
        if operation in _ARITHMETIC:
            t, f = _TYPES[short]
            body = _ARITHMETIC[operation].format(t=t, f=f)
        else:
            address = ctypes.cast(_FUNCTIONS[intrinsic], ctypes.c_void_p).value
            given = "" if result == "void" else "%r = "
            body = f"%f = inttoptr i64 {address} to ptr\n{given}call {result} %f({taken})"
        end = "ret void" if result == "void" else f"ret {result} %r"
        bodies.append(f'define {result} @"host.{intrinsic}"({taken}) {{\n{body}\n{end}\n}}')
    source = re.sub(r'^declare .*@"llvm\.nvvm.*\n?', "", source, flags=re.M)
    source = source.replace('@"llvm.nvvm.', '@"host.')
    source = re.sub(r", ![\w.]+ ![\w.]+", "", source)
    return source + SUPPORT + "\n".join(bodies), name


class _Kernel:
    def __init__(self, text):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        source, name = _for_host(_llvm_of(text))
        module = llvm.parse_assembly(source)
        module.verify()
        machine = llvm.Target.from_default_triple().create_target_machine(opt=1)
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        arguments = text.source.split("(", 1)[1].split(")", 1)[0].count(",") + 1
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)
        self._function = kind(self._engine.get_function_address(name))
        self._threads = text.threads
        self._meets = "host.barrier0" in source or "host.shfl" in source

    def __call__(self, blocks, stream, *arguments):
        for block in range(blocks):
            if self._meets:
                self._together(block, arguments)
                continue
            for number in range(self._threads):
                _here.number, _here.block = number, block
                self._function(*arguments)

    def _together(self, block, arguments):
        meeting, box = threading.Barrier(self._threads, timeout=PATIENCE), [0] * self._threads

        def run(number):
            _here.number, _here.block, _here.meeting, _here.box = number, block, meeting, box
            self._function(*arguments)

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(run, range(self._threads)))


class HostDriver(SimulatedDriver):
    """A device of host memory that runs compiled kernels."""

    title = "this machine's CPU"

    def kernel(self, text):
        kernel = self._kernels.get(text.source)
        if kernel is None:
            kernel = self._kernels[text.source] = _Kernel(text)
        return kernel
