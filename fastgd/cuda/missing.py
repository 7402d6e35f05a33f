"""What this machine lacks for CUDA, and the command that brings it."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Any

from fastgd.cuda.compiler import OLDEST_GPU
from fastgd.cuda.simulation import SIMULATED

#: module -> the package that has it
PACKAGES = {
    "numba": "numba",
    "numba_cuda": "numba-cuda",
    "cuda.core": "cuda-core",
    "cuda.bindings": "cuda-bindings",
}

INSTALL = "pip install 'fastgd[cuda]'"

#: the oldest CUDA that a driver may be for, as the driver counts, and the first of these drivers
OLDEST, DRIVER = 13000, 580

UPDATE = (
    f"install NVIDIA's driver {DRIVER} or later (Debian and Ubuntu: apt-get install nvidia-driver-{DRIVER}; "
    "in a container: docker run --gpus all)"
)


@functools.cache
def missing() -> str | None:
    """What stands in the way of CUDA here, and the remedy; None when nothing does."""
    needed = ["numba"] if SIMULATED else list(PACKAGES)
    absent = [PACKAGES[name] for name in needed if not _is_installed(name)]
    if absent:
        return f"{' and '.join(absent)} {'are' if len(absent) > 1 else 'is'} not installed: {INSTALL}"
    if SIMULATED:
        return None
    from cuda.bindings import driver

    return lacks(driver)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def lacks(driver: Any) -> str | None:
    """What a machine lacks by what its driver says; driver: cuda.bindings.driver."""
    try:
        (status,) = driver.cuInit(0)
    except (RuntimeError, OSError, ImportError):
        return f"libcuda, which comes with NVIDIA's driver, is not found: {UPDATE}"
    if status == driver.CUresult.CUDA_ERROR_NO_DEVICE:
        return "NVIDIA's driver finds no GPU: nvidia-smi and CUDA_VISIBLE_DEVICES tell which there are"
    if status != driver.CUresult.CUDA_SUCCESS:
        name = driver.cuGetErrorName(status)[1].decode()
        return f"NVIDIA's driver does not start ({name}): {UPDATE}"
    version = driver.cuDriverGetVersion()[1]
    if version < OLDEST:
        found, wanted = (f"{v // 1000}.{v % 1000 // 10}" for v in (version, OLDEST))
        return f"NVIDIA's driver is for CUDA {found}, not for {wanted}: {UPDATE}"
    kind = driver.CUdevice_attribute
    parts = (
        kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    )
    capabilities = []
    for number in range(driver.cuDeviceGetCount()[1]):
        card = driver.cuDeviceGet(number)[1]
        capabilities.append(tuple(int(driver.cuDeviceGetAttribute(part, card)[1]) for part in parts))
    if all(capability < OLDEST_GPU for capability in capabilities):
        newest = "none" if not capabilities else "{}.{}".format(*max(capabilities))
        wanted = "{}.{}".format(*OLDEST_GPU)
        return (
            f"no GPU has compute capability {wanted} or later, which CUDA 13 needs; the newest has {newest}"
        )
    return None
