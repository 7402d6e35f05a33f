"""The GPU of this machine: its clock, its memory, and what is compared on it."""

from __future__ import annotations

import gc
import math
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np
from gpu_contenders import COMPARED, LAYERS, layer_makers
from gpu_time import COPY, OWN, Machine, Step, Work

import fastgd
from fastgd.cuda import before_replay
from fastgd.cuda.driver import _checked, device
from fastgd.cuda.memory import memory
from fastgd.memory import placed

#: elements of the work that bandwidth bounds, where the card has memory for all contenders
MOST_ELEMENTS = 1_000_000_000

SMALL = [(64, 64), (64,)] * 150

PACKAGES = ("numpy", "numba", "numba-cuda", "cuda-bindings", "cuda-core", "torch", "cupy-cuda13x")


def facts() -> dict[str, Any]:
    """Card, driver and versions."""
    from cuda.bindings import driver

    card = device(0)
    found: dict[str, Any] = {"card": card.title, "capability": "{}.{}".format(*card.capability)}
    number = _checked(driver.cuDriverGetVersion())
    found["CUDA of the driver"] = f"{number // 1000}.{number % 1000 // 10}"
    try:
        with open("/proc/driver/nvidia/version") as file:
            found["driver"] = next(word for word in file.read().split() if word[:1].isdigit() and "." in word)
    except (OSError, StopIteration):
        found["driver"] = "unknown"
    found |= {"fastgd": fastgd.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class Events:
    """Two events of the driver's around calls on a stream; graphs by torch, where it is installed."""

    def __init__(self, stream: Callable[[], int], torch: Any) -> None:
        from cuda.bindings import driver

        self._driver, self._stream, self._torch = driver, stream, torch
        self._device = device(0)
        with self._device.current():
            self._marks = [_checked(driver.cuEventCreate(0)) for _ in range(2)]

    def events(self, step: Step, repeats: int) -> float:
        driver, stream = self._driver, self._stream()
        if step.before_replay is not None:
            step.before_replay(repeats)
        with self._device.current():
            _checked(driver.cuEventRecord(self._marks[0], stream))
        for _ in range(repeats):
            step.run()
        with self._device.current():
            _checked(driver.cuEventRecord(self._marks[1], stream))
            _checked(driver.cuEventSynchronize(self._marks[1]))
            milliseconds = _checked(driver.cuEventElapsedTime(*self._marks))
        return float(milliseconds) / 1e3 / repeats

    def capture(self, step: Step) -> Step | None:
        if self._torch is None or not step.captures:
            return None
        step.run()
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._torch.cuda.current_stream()):
            step.run()
        return Step(graph.replay, step.before_replay)


class Memory:
    """Arrays for contenders: torch's tensors, CuPy's arrays or fastgd's own, whichever is there first."""

    def __init__(self) -> None:
        self.torch: Any = None
        self.cupy: Any = None
        self.absent: list[str] = []
        if find_spec("torch"):
            import torch

            if torch.cuda.is_available():
                self.torch = torch
                # all work is on a stream that can be captured
                torch.cuda.set_stream(torch.cuda.Stream())
            else:
                self.absent.append("torch: this build of it finds no GPU")
        else:
            self.absent.append(
                "torch: it is not installed (pip install torch), nor are there graphs without it"
            )
        if find_spec("cupy"):
            import cupy

            self.cupy = cupy
            if self.torch is not None:
                cupy.cuda.ExternalStream(self.torch.cuda.current_stream().cuda_stream).use()
        else:
            self.absent.append("CuPy: it is not installed (pip install cupy-cuda13x)")

    def stream(self) -> int:
        if self.torch is not None:
            return int(self.torch.cuda.current_stream().cuda_stream)
        return int(self.cupy.cuda.get_current_stream().ptr) if self.cupy is not None else 1

    def random(self, shape: tuple[int, ...], seed: int) -> Any:
        """Normally distributed float32."""
        if self.torch is not None:
            generator = self.torch.Generator("cuda").manual_seed(seed)
            return self.torch.randn(shape, device="cuda", generator=generator)
        if self.cupy is not None:
            return self.cupy.random.default_rng(seed).standard_normal(shape, dtype="float32")
        values = np.random.default_rng(seed).standard_normal(shape, np.float32)
        return placed(memory(0), values)

    def zeros(self, shape: tuple[int, ...]) -> Any:
        if self.torch is not None:
            return self.torch.zeros(shape, device="cuda")
        if self.cupy is not None:
            return self.cupy.zeros(shape, "float32")
        return memory(0).zeros(shape, np.dtype(np.float32))

    def free(self) -> int:
        """Bytes, once all that is no longer in use has been given back."""
        from cuda.bindings import driver

        gc.collect()
        if self.torch is not None:
            self.torch.cuda.empty_cache()
        if self.cupy is not None:
            self.cupy.get_default_memory_pool().free_all_blocks()
        with device(0).current():
            return int(_checked(driver.cuMemGetInfo())[0])


def copy_step(memory_: Memory, nbytes: int) -> Step:
    """Moves so many bytes, half of them read and half written."""
    card = device(0)
    source, target = card.allocate(nbytes // 2), card.allocate(nbytes // 2)
    return Step(lambda: card.copy(target.pointer, source.pointer, nbytes // 2, memory_.stream()))


def fastgd_step(params: list[Any], grads: list[Any], clip_norm: float | None) -> Step:
    opt = fastgd.AdamW(params)
    options = {} if clip_norm is None else {"clip_norm": clip_norm}
    return Step(lambda: opt.step(grads, **options), lambda steps: before_replay(opt, steps))


def update(
    memory_: Memory,
    name: str,
    shapes: Callable[[], list[tuple[int, ...]]],
    clip_norm: float | None,
    wanted: dict[str, float],
    *,
    zeros: bool = False,
) -> Callable[[], Work]:
    """AdamW of these shapes. Contenders have the same parameters and gradients, and state of their own."""

    def make() -> Work:
        sizes = shapes()
        count = sum(math.prod(shape) for shape in sizes)
        params = [memory_.random(shape, k) for k, shape in enumerate(sizes)]
        grads = [
            memory_.zeros(shape) if zeros else memory_.random(shape, 7 + k) for k, shape in enumerate(sizes)
        ]
        nbytes = 4 * count * (7 if clip_norm is None else 8)
        makers: dict[str, Callable[[], Step]] = {OWN: lambda: fastgd_step(params, grads, clip_norm)}
        for contender, step in COMPARED.items():
            makers[contender] = lambda step=step: step(memory_, params, grads, clip_norm)
        if count >= 1 << 24:
            makers[COPY] = lambda: copy_step(memory_, nbytes)
        return Work(f"{name} ({count:.3g} float32 in {len(sizes)})", nbytes, makers, wanted)

    return make


def this_machine() -> Machine:
    """All that is compared on the first GPU."""
    held = Memory()
    contenders = 1 + len(COMPARED)

    def large() -> list[tuple[int, ...]]:
        # of each element: parameter, gradient, a copy of it for each of the others to clip, two slots of each
        # contender, and what the copy moves
        numbers = 2 + (contenders - 1) + 2 * contenders + 8
        count = min(MOST_ELEMENTS, int(0.8 * held.free()) // 4 // numbers)
        return [(count // 4 // 4096 * 4096,)] * 4

    def small() -> list[tuple[int, ...]]:
        return list(SMALL)

    work = [
        update(held, "AdamW", large, None, {OWN: 0.9, "torch fused": 1.0}),
        update(held, "clip + AdamW", large, 1.0, {"torch fused": 1.3}),
        # zeros are rare operands of division and root: tests/test_cuda_offline.py
        update(held, "AdamW, gradients of zero", large, None, {}, zeros=True),
        update(held, "AdamW of small tensors", small, None, {"torch fused": 2.0}),
        update(held, "clip + AdamW of small tensors", small, 1.0, {"torch fused": 2.0}),
    ]
    for layer in LAYERS:
        work.append(lambda layer=layer: Work(layer.title, layer.nbytes, layer_makers(layer, held), {}))
    return Machine(facts(), held.absent, Events(held.stream, held.torch), work)
