"""Peak memory of training steps with gradient release and without, each in a process of its own.

`python benchmarks/torch_release.py [--width 2048] [--layers 24] [--rounds 3] [--out FILE.json]`; needs torch,
on Linux. The model is a chain of square linear layers: 24 of 2048 x 2048 have 100.7 M parameters, 384 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from typing import Any

import torch

import fastgd
import fastgd.torch

#: has glibc give blocks of this many bytes back to the system at once; else they may stay as holes, into
#: which others fit or not by chance
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "1000000"}

#: what is compared: whether it is torch's, whether gradients are released, settings
CONTENDERS: dict[str, tuple[bool, bool, dict[str, Any]]] = {
    "torch fused": (True, False, {"fused": True}),
    "fastgd": (False, False, {}),
    "fastgd, released": (False, True, {}),
    "fastgd, 8-bit state": (False, False, {"state_dtype": "8bit"}),
    "fastgd, 8-bit state, released": (False, True, {"state_dtype": "8bit"}),
}


def train(name: str, width: int, layers: int) -> float:
    """Peak memory in MiB of a few steps, over what the process had with the model alone."""
    is_torch, released, settings = CONTENDERS[name]
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False) for _ in range(layers)))
    inputs = torch.randn(4, width)
    before = _resident()
    opt = (torch.optim.AdamW if is_torch else fastgd.torch.AdamW)(model.parameters(), **settings)
    if released:
        fastgd.torch.attach(model, opt)
    for _ in range(3):
        model(inputs).square().mean().backward()
        opt.step()
        opt.zero_grad()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before


def _resident() -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=CONTENDERS)
    parser.add_argument("--out")
    asked = parser.parse_args()
    if asked.one:
        print(train(asked.one, asked.width, asked.layers))
        return
    parameters = asked.width**2 * asked.layers
    print(f"{parameters / 1e6:.1f} M parameters, {parameters * 4 / 2**20:.0f} MiB; peak beside them:")
    size = ["--width", str(asked.width), "--layers", str(asked.layers)]

    def peak(name: str, settings: dict[str, str]) -> float:
        command = [sys.executable, __file__, "--one", name, *size]
        environment = {**os.environ, **settings}
        run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return float(run.stdout)

    rows = {}
    for name in CONTENDERS:
        peaks = sorted(peak(name, {}) for _ in range(asked.rounds))
        rows[name] = {"peaks": peaks, "given back": peak(name, GIVEN_BACK)}
        print(
            f"{name:32} {peaks[0]:5.0f} to {peaks[-1]:5.0f} MiB; where large blocks are given back at once "
            f"{rows[name]['given back']:5.0f} MiB",
            flush=True,
        )
    if asked.out:
        facts = {
            "cores": os.cpu_count(),
            "isa": fastgd.info()["instruction_set"],
            "torch": torch.__version__,
            "parameters": parameters,
        }
        with open(asked.out, "w", encoding="utf-8") as file:
            json.dump({**facts, "MiB": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
