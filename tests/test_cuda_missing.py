"""Without packages, driver or GPU: `fastgd info` and the errors say what is missing and what brings it."""

import re
import sys
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
import pytest

import fastgd
from fastgd import backends
from fastgd.cuda import missing
from fastgd.memory import open_device


class Status(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803


def driver(status=Status.CUDA_SUCCESS, version=13000, capabilities=((9, 0),)):
    """What cuda.bindings.driver would be on another machine."""
    return SimpleNamespace(
        CUresult=Status,
        CUdevice_attribute=SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=0, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=1
        ),
        cuInit=lambda flags: (status,),
        cuGetErrorName=lambda status: (Status.CUDA_SUCCESS, status.name.encode()),
        cuDriverGetVersion=lambda: (Status.CUDA_SUCCESS, version),
        cuDeviceGetCount=lambda: (Status.CUDA_SUCCESS, len(capabilities)),
        cuDeviceGet=lambda number: (Status.CUDA_SUCCESS, number),
        cuDeviceGetAttribute=lambda part, card: (Status.CUDA_SUCCESS, capabilities[card][part]),
    )


def no_library(flags):
    raise RuntimeError('"cuda" can only be found via system search')


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (driver(), None),
        (driver(capabilities=[(6, 1), (8, 0)]), None),
        (SimpleNamespace(cuInit=no_library), r"libcuda.* is not found: .*apt-get install nvidia-driver-580"),
        (driver(Status.CUDA_ERROR_NO_DEVICE), r"finds no GPU: nvidia-smi"),
        (driver(Status.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH), r"SYSTEM_DRIVER_MISMATCH.*driver 580 or later"),
        (driver(version=12040), r"is for CUDA 12\.4, not for 13\.0: .*nvidia-driver-580"),
        (driver(capabilities=[(6, 1)]), r"capability 7\.5 or later.* newest has 6\.1"),
    ],
)
def test_what_a_driver_tells(there, said):
    found = missing.lacks(there)
    if said is None:
        assert found is None
    else:
        assert re.search(said, found)


@pytest.fixture
def machine(monkeypatch):
    """Sets the modules that are installed, and what is forgotten of the machine before and after."""

    def forget():
        for cached in (missing.missing, backends.unavailable, backends.get):
            cached.cache_clear()

    def set(*absent):
        monkeypatch.setattr(missing, "_is_installed", lambda name: name not in absent)
        monkeypatch.setattr(missing, "SIMULATED", False)
        monkeypatch.delitem(sys.modules, "fastgd.backends.cuda", raising=False)
        forget()

    yield set
    forget()


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        (["numba_cuda"], "numba-cuda is not installed: pip install 'fastgd[cuda]'"),
        (list(missing.PACKAGES), "and cuda-bindings are not installed: pip install 'fastgd[cuda]'"),
    ],
)
def test_packages_that_are_not_there(absent, said, machine):
    machine(*absent)
    assert fastgd.info()["backends"]["cuda"].endswith(said)
    with pytest.raises(ImportError) as refused:
        fastgd.AdamW([np.zeros(3, np.float32)], backend="cuda")
    assert str(refused.value).startswith("backend 'cuda' cannot be used here: ")
    assert said in str(refused.value)
    with pytest.raises(ImportError) as refused:
        open_device("cuda", 0)
    assert said in str(refused.value)
    assert "cuda" not in [runner.backend for runner in fastgd.verification.runners()]


def test_the_rest_of_the_library_does_without(machine):
    machine(*missing.PACKAGES)
    params = [np.ones(3, np.float32)]
    fastgd.AdamW(params).step([np.ones(3, np.float32)])
    assert (params[0] < 1).all()
