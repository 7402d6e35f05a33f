"""What benchmarks/gpu.sh times can be run: fastgd's steps, with whatever else is on this machine left out."""

import time

import gpu_machine
import pytest
from gpu_contenders import COMPARED, LAYERS, layer_makers
from gpu_time import OWN, Machine, measure


class HostClock:
    """Times on the host, which is right where kernels run at once."""

    def events(self, step, repeats):
        start = time.perf_counter()
        step.run()
        return time.perf_counter() - start

    def capture(self, step):
        return None


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_updates(clip_norm):
    held = gpu_machine.Memory()
    made = gpu_machine.update(held, "AdamW", lambda: [(5, 3), (17,)], clip_norm, {OWN: 0.9})
    machine = Machine({"card": "simulated"}, held.absent, HostClock(), [made])
    rows = {row["contender"]: row for row in measure(machine, rounds=1)}
    assert rows[OWN]["seconds"] > 0
    for name in COMPARED:
        assert name in rows or any(entry.startswith(f"{name} at AdamW") for entry in machine.absent)


def test_a_copy_moves_what_it_says(monkeypatch):
    card, moved = gpu_machine.device(0), []
    monkeypatch.setattr(gpu_machine, "device", lambda number: card)
    monkeypatch.setattr(card, "copy", lambda target, source, nbytes, stream: moved.append(nbytes))
    gpu_machine.copy_step(gpu_machine.Memory(), 1 << 12).run()
    assert moved == [1 << 11]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.title)
def test_layers_run(layer):
    small = layer._replace(shape=tuple(3 for _ in layer.shape))
    layer_makers(small, gpu_machine.Memory())[OWN]().run()
