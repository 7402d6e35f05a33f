"""kill -9 while optimizer and model are saved: what is found afterwards is whole, and one of the versions."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest

import fastgd
from fastgd import nn

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="needs SIGKILL and fork, and locks to tell which files were left behind"
)

#: such that a file has 4 MB and writing takes most of a save
WIDTH = 700

# One process imports everything once and forks a child for every line it reads. Each child goes on from the
# files and saves them again and again, as version 1, 2, ...: every number in them is the version's.
SAVER = f"""
import os, sys, time
import numpy as np
import fastgd
from fastgd import nn

def save_for_ever(opt_path, model_path):
    model = nn.Sequential(nn.Linear({WIDTH}, {WIDTH}), nn.Linear({WIDTH}, {WIDTH}))
    opt = fastgd.SGD(model.named_parameters(), lr=1.0, momentum=1.0)
    version = 0
    if os.path.exists(opt_path):
        opt.load(opt_path)
        version = opt.state_dict()["state"][0]["step"]
    ones = [np.ones_like(p) for p in model.parameters()]
    while True:
        version += 1
        opt.step(ones)
        for p in model.parameters():
            p.fill(version)
        start = time.monotonic()
        opt.save(opt_path)
        model.save(model_path)
        # in one write, which a kill cannot cut
        os.write(1, f"saved {{os.getpid()}} {{version}} {{time.monotonic() - start}}\\n".encode())

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        save_for_ever(*sys.argv[1:])
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def versions_found(opt_path, model_path):
    """The versions of both files, once they are loaded whole and every number in them is the version's."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    opt = fastgd.SGD(model.named_parameters(), lr=1.0, momentum=1.0)
    opt.load(opt_path)
    model.load(model_path)
    entries = opt.state_dict()["state"].values()
    of_opt = {entry["step"] for entry in entries}
    of_opt.update(float(v) for entry in entries for v in np.unique(entry["momentum_buffer"]))
    of_model = {float(v) for p in model.parameters() for v in np.unique(p)}
    assert (len(entries), len(of_opt), len(of_model)) == (4, 1, 1), (of_opt, of_model)
    return int(of_opt.pop()), int(of_model.pop())


class Saver:
    """The process above, and what its present child has told."""

    def __init__(self, process):
        self.process = process
        self.version, self.durations = 0, []

    def start(self):
        print("go", file=self.process.stdin, flush=True)

    def read(self):
        """Takes in a line. False when the child has ended, which must be by the signal."""
        kind, *told = self.process.stdout.readline().split()
        if kind == "ended":
            assert told == [str(-signal.SIGKILL)], "the child ended by itself"
            return False
        assert int(told[1]) == self.version + 1
        self.child, self.version = int(told[0]), int(told[1])
        self.durations.append(float(told[2]))
        return True

    def wait(self):
        """Until some moment of a save: drawn evenly over the time that one takes."""
        time.sleep(random.uniform(0, statistics.median(self.durations[-20:])))

    def kill(self):
        os.kill(self.child, signal.SIGKILL)
        while self.read():
            pass


@contextlib.contextmanager
def saver(*paths):
    command = [sys.executable, "-c", SAVER, *map(str, paths)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Saver(process)


def left_in(folder):
    """Name -> size of each temporary file."""
    return {path.name: path.stat().st_size for path in folder.glob(".*.tmp")}


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_killed_at_any_moment(tmp_path, kills):
    paths = opt_path, model_path = tmp_path / "opt.safetensors", tmp_path / "model.safetensors"
    left = []
    with saver(*paths) as child:
        for _ in range(kills):
            child.start()
            assert child.read() and child.read()
            # both paths have been saved to since the last kill
            assert not any((tmp_path / name).exists() for name in (left[-1] if left else ()))
            child.wait()
            child.kill()
            left.append(left_in(tmp_path))
            assert len(left[-1]) <= 1
            of_opt, of_model = versions_found(*paths)
            assert child.version <= of_model <= of_opt <= child.version + 1
            child.version = of_opt
    landed = sum(map(len, left))
    size = opt_path.stat().st_size
    cut = sum(found < size * 0.99 for sizes in left for found in sizes.values())
    print(f"{landed} of {kills} kills found a temporary file, {cut} of them before it was all written")
    # about three of five do; so few that the test says little are not chance
    assert landed > kills / 10
    fastgd.SGD([np.zeros(1)]).save(opt_path)
    nn.Sequential(nn.Linear(1, 1)).save(model_path)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
