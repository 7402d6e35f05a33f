"""A device: its memory, its streams and launches on them. Its simulated stand-in is in simulated_driver.py.

Memory is allocated plainly, in the primary context, which torch, CuPy and Numba share too. All but `current`,
`stream_state` and what frees memory is called while that context is the thread's: in a block of `current`.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple, Protocol

from fastgd.arrays import Array
from fastgd.cuda.missing import missing
from fastgd.cuda.simulation import SIMULATED
from fastgd.cuda.writer import Text
from fastgd.lenders import LEGACY_STREAM

#: the stream that everything else waits for
DEFAULT_STREAM = LEGACY_STREAM


#: what the driver says of a stream that is no more
_GONE = ("CUDA_ERROR_INVALID_HANDLE", "CUDA_ERROR_INVALID_CONTEXT", "CUDA_ERROR_CONTEXT_IS_DESTROYED")


class DeviceError(RuntimeError):
    """The driver refused, with its own reason."""


class Buffer(Protocol):
    """Memory of a device, freed with the object."""

    pointer: int
    nbytes: int


class Kernel(Protocol):
    """A kernel that is compiled for a device."""

    def __call__(self, blocks: int, stream: int, *arguments: int) -> None:
        """Launches it, with as many threads a block as its text says."""


class StreamState(NamedTuple):
    """Of a stream as it is."""

    #: whether what is launched on it is recorded for a graph instead of being done
    capturing: bool


class Driver(Protocol):
    """A device."""

    #: of this driver's kind, from 0
    number: int
    #: compute capability
    capability: tuple[int, int]
    title: str

    def current(self) -> AbstractContextManager[None]:
        """Within the block, calls of this thread are for this device."""

    def stream_state(self, stream: int) -> StreamState:
        """ValueError for one that has been destroyed, or is another device's."""

    def wait(self) -> None:
        """Waits for all that is going on on the device."""

    def allocate(self, nbytes: int) -> Buffer:
        """MemoryError, with what is free, when there is not enough."""

    def upload(self, pointer: int, values: Array, stream: int) -> None:
        """Copies C-contiguous host memory there before what comes next on the stream; it can be reused."""

    def download(self, pointer: int, values: Array, stream: int) -> None:
        """Copies from there into C-contiguous host memory, after what came before on the stream; waits."""

    def copy(self, to: int, pointer: int, nbytes: int, stream: int) -> None:
        """Copies within the device."""

    def clear(self, pointer: int, nbytes: int, stream: int) -> None:
        """Sets bytes to 0."""

    def kernel(self, text: Text) -> Kernel:
        """The kernel, compiled when it is first asked for."""


def _checked(result: tuple[Any, ...]) -> Any:
    """What a call of the driver gives beside its status; DeviceError, or MemoryError, when it has failed."""
    from cuda.bindings import driver

    status, *values = result
    if status == driver.CUresult.CUDA_SUCCESS:
        return values[0] if len(values) == 1 else tuple(values)
    name = driver.cuGetErrorName(status)[1].decode()
    text = driver.cuGetErrorString(status)[1].decode()
    if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise MemoryError(f"{name}: {text}")
    raise DeviceError(f"{name}: {text}")


class _Buffer:
    def __init__(self, device: NvidiaDriver, nbytes: int) -> None:
        from cuda.bindings import driver

        self.nbytes, self._device = nbytes, device
        try:
            self.pointer = int(_checked(driver.cuMemAlloc(max(nbytes, 1))))
        except MemoryError as error:
            free, total = _checked(driver.cuMemGetInfo())
            raise MemoryError(
                f"cuda:{device.number} has no {nbytes} bytes: {free} of {total} are free ({error})"
            ) from None
        # at the end of the process the driver takes it all back
        weakref.finalize(self, _free, device, self.pointer, os.getpid()).atexit = False


def _free(device: NvidiaDriver, pointer: int, process: int) -> None:
    """But not in a forked child, which has no context; and what cannot be freed any more is lost already."""
    from cuda.bindings import driver

    if os.getpid() != process:
        return
    with suppress(DeviceError), device.current():
        # a capture in another thread is none of this memory's business
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        before = _checked(driver.cuThreadExchangeStreamCaptureMode(mode))
        driver.cuMemFree(pointer)
        driver.cuThreadExchangeStreamCaptureMode(before)


class _Launcher:
    """Launches through cuda.core."""

    def __init__(self, device: NvidiaDriver, text: Text) -> None:
        from cuda.core import LaunchConfig, ObjectCode, Stream, launch

        from fastgd.cuda.cache import cubin

        self._device, self._threads = device, text.threads
        code = ObjectCode.from_cubin(cubin(text, device.capability))
        self._kernel = code.get_kernel(text.name)
        self._config, self._stream, self._launch = LaunchConfig, Stream.from_handle, launch
        self._configs: dict[int, Any] = {}

    def __call__(self, blocks: int, stream: int, *arguments: int) -> None:
        if not blocks:
            return
        config = self._configs.get(blocks)
        if config is None:
            config = self._configs[blocks] = self._config(grid=blocks, block=self._threads)
        self._launch(self._device.stream(stream), config, self._kernel, *arguments)


class NvidiaDriver:
    """An NVIDIA GPU, through the driver's own API as cuda-bindings has it."""

    def __init__(self, number: int) -> None:
        from cuda.bindings import driver

        _checked(driver.cuInit(0))
        self.number = number
        self._device = _checked(driver.cuDeviceGet(number))
        self._context = _checked(driver.cuDevicePrimaryCtxRetain(self._device))
        kind = driver.CUdevice_attribute
        major, minor = (
            int(_checked(driver.cuDeviceGetAttribute(what, self._device)))
            for what in (
                kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.capability = major, minor
        self.title = _checked(driver.cuDeviceGetName(256, self._device)).split(b"\0")[0].decode()
        self._kernels: dict[str, Kernel] = {}
        self._streams: dict[int, Any] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within the block, the device's context is the thread's."""
        from cuda.bindings import driver

        _checked(driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            _checked(driver.cuCtxPopCurrent())

    def stream(self, handle: int) -> Any:
        """A stream of somebody's, for cuda.core."""
        from cuda.core import Stream

        if handle not in self._streams:
            self._streams[handle] = Stream.from_handle(handle)
        return self._streams[handle]

    def allocate(self, nbytes: int) -> Buffer:
        return _Buffer(self, nbytes)

    def stream_state(self, stream: int) -> StreamState:
        from cuda.bindings import driver

        with self.current():
            try:
                state = _checked(driver.cuStreamIsCapturing(stream))
                context = _checked(driver.cuStreamGetCtx(stream))
            except DeviceError as error:
                raise ValueError(
                    f"stream {stream:#x} of cuda:{self.number} is no stream any more ({error})"
                ) from None
        if int(context) != int(self._context):
            raise ValueError(f"stream {stream:#x} is not of cuda:{self.number}")
        return StreamState(state == driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE)

    def wait(self) -> None:
        from cuda.bindings import driver

        _checked(driver.cuCtxSynchronize())

    def upload(self, pointer: int, values: Array, stream: int) -> None:
        from cuda.bindings import driver

        # from memory that is not pinned: the driver has copied it away when the call returns
        _checked(driver.cuMemcpyHtoDAsync(pointer, values.ctypes.data, values.nbytes, stream))

    def download(self, pointer: int, values: Array, stream: int) -> None:
        from cuda.bindings import driver

        _checked(driver.cuMemcpyDtoHAsync(values.ctypes.data, pointer, values.nbytes, stream))
        _checked(driver.cuStreamSynchronize(stream))

    def copy(self, to: int, pointer: int, nbytes: int, stream: int) -> None:
        from cuda.bindings import driver

        _checked(driver.cuMemcpyDtoDAsync(to, pointer, nbytes, stream))

    def clear(self, pointer: int, nbytes: int, stream: int) -> None:
        from cuda.bindings import driver

        _checked(driver.cuMemsetD8Async(pointer, 0, nbytes, stream))

    def kernel(self, text: Text) -> Kernel:
        kernel = self._kernels.get(text.source)
        if kernel is None:
            kernel = self._kernels[text.source] = _Launcher(self, text)
        return kernel


def device_of(pointer: int) -> int | None:
    """The number of the device whose memory a pointer is to; None for host memory and what is not known."""
    if SIMULATED:
        return 0
    from cuda.bindings import driver

    kind = driver.CUpointer_attribute
    status, memory = driver.cuPointerGetAttribute(kind.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer)
    if status != driver.CUresult.CUDA_SUCCESS or int(memory) != int(driver.CUmemorytype.CU_MEMORYTYPE_DEVICE):
        return None
    return int(_checked(driver.cuPointerGetAttribute(kind.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer)))


@functools.cache
def device(number: int) -> Driver:
    """The device with this number; DeviceError or ImportError with the reason when there is none."""
    reason = missing()
    if reason:
        raise ImportError(f"arrays on CUDA cannot be used here: {reason}")
    if SIMULATED:
        from fastgd.cuda.simulated_driver import SimulatedDriver

        return SimulatedDriver(number)
    return NvidiaDriver(number)
