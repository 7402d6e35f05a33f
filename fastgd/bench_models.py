"""Times whole training steps of small models beside torch's and JAX's: forward, loss, backward, clip, update.

All take turns in one run, with the same layers, the same batch, clipping at the global norm 1 and AdamW. A
case's layers are made by a function of the package they come from, because names and arguments are torch's.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import fastgd
from fastgd import nn
from fastgd.bench import timed

Step = Callable[[], object]

CLASSES = 10


class Case(NamedTuple):
    """A model and a batch; repeats: steps timed together."""

    name: str
    shape: tuple[int, ...]
    layers: Callable[[Any], list[Any]]
    repeats: int


def mlp(batch: int, *widths: int, repeats: int) -> Case:
    """A multilayer perceptron with ReLU."""

    def layers(package: Any) -> list[Any]:
        made = []
        for inside, outside in itertools.pairwise(widths):
            made += [package.Linear(inside, outside), package.ReLU()]
        return made[:-1]

    return Case("MLP " + "-".join(map(str, widths)), (batch, widths[0]), layers, repeats)


def small_cnn(package: Any) -> list[Any]:
    """Two convolutions, two dense layers, on images of 28 x 28."""
    return [
        package.Conv2d(1, 16, 3, padding=1),
        package.ReLU(),
        package.MaxPool2d(2),
        package.Conv2d(16, 32, 3, padding=1),
        package.ReLU(),
        package.MaxPool2d(2),
        package.Flatten(),
        package.Linear(32 * 7 * 7, 128),
        package.ReLU(),
        package.Linear(128, CLASSES),
    ]


CASES = (
    mlp(32, 64, 128, CLASSES, repeats=200),
    mlp(32, 784, 256, 128, CLASSES, repeats=40),
    mlp(256, 784, 512, 512, CLASSES, repeats=8),
    mlp(128, 784, 1024, 1024, 1024, CLASSES, repeats=3),
    Case("CNN 16-32, 3 x 3", (64, 1, 28, 28), small_cnn, repeats=3),
)


def example(case: Case) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(case.shape, np.float32), rng.integers(0, CLASSES, case.shape[0])


def model_of(case: Case) -> nn.Sequential:
    return nn.Sequential(*case.layers(nn), loss=nn.CrossEntropyLoss(), seed=0)


def fastgds(case: Case, threads: int) -> Step:
    model, (x, y) = model_of(case), example(case)
    opt = fastgd.AdamW(model.named_parameters(), lr=1e-3)
    return lambda: model.train_step(x, y, opt, clip_norm=1.0)


def torchs(case: Case, threads: int) -> Step:
    import torch

    torch.set_num_threads(threads)
    x, y = map(torch.from_numpy, example(case))
    model = torch.nn.Sequential(*case.layers(torch.nn))
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss = torch.nn.CrossEntropyLoss()

    def step() -> None:
        opt.zero_grad()
        loss(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()

    return step


def jaxs(case: Case, threads: int) -> Step:
    import jax
    import optax
    from jax import numpy as jnp

    rows = [layer.parameters() for layer in model_of(case).layers]
    weights = [{name: jnp.asarray(array) for name, array in row.items()} for row in rows]
    layers = case.layers(nn)
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    x, y = map(jnp.asarray, example(case))

    def loss_of(weights: Any) -> Any:
        h = x
        for layer, own in zip(layers, weights, strict=True):
            h = JAX[type(layer).__name__](jax, layer, own, h)
        return optax.softmax_cross_entropy_with_integer_labels(h, y).mean()

    def step_of(weights: Any, state: Any) -> Any:
        value, gradients = jax.value_and_grad(loss_of)(weights)
        updates, state = rule.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, value

    jitted = jax.jit(step_of, donate_argnums=(0, 1))
    held = [weights, rule.init(weights)]

    def step() -> Any:
        held[0], held[1], value = jitted(*held)
        return value.block_until_ready()

    return step


#: name of a layer -> its output in JAX, from (jax, layer, parameters, input)
JAX: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "Linear": lambda jax, layer, own, h: h @ own["weight"].T + own["bias"],
    "ReLU": lambda jax, layer, own, h: jax.nn.relu(h),
    "Flatten": lambda jax, layer, own, h: h.reshape(len(h), -1),
    "Conv2d": lambda jax, layer, own, h: (
        jax.lax.conv(h, own["weight"], layer.stride, "SAME") + own["bias"][:, None, None]
    ),
    "MaxPool2d": lambda jax, layer, own, h: jax.lax.reduce_window(
        h, -math.inf, jax.lax.max, (1, 1, *layer.kernel_size), (1, 1, *layer.stride), "VALID"
    ),
}


#: side -> (the packages it needs, what makes its step)
SIDES: dict[str, tuple[tuple[str, ...], Callable[[Case, int], Step]]] = {
    "fastgd": ((), fastgds),
    "torch": (("torch",), torchs),
    "jax": (("jax", "optax"), jaxs),
}


def fastgd_bytes(case: Case) -> int:
    """Memory that a step takes beside parameters, state and batch: the arena and the gradients."""
    model = model_of(case)
    return model.memory_bytes(*example(case))


def torch_bytes(case: Case) -> int:
    """The most that torch's step has allocated at one time beside parameters, state and batch."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    model = torch.nn.Sequential(*case.layers(torch.nn))
    x, y = map(torch.from_numpy, example(case))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss: Any = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(held.max())


def run(
    *,
    cases: tuple[Case, ...] = CASES,
    threads: int | None = None,
    rounds: int = 15,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Times every case and returns {"threads", "rounds", "cases", "missing"}.

    A case has its batch, and for each side its median seconds and the median over the rounds of its time over
    fastgd's in the same round; "bytes": the memory of a step for fastgd and torch.
    """
    # torch's profiler, which counts its memory, otherwise writes lines of its own to the terminal
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    threads = threads or fastgd.get_num_threads()
    fastgd.set_num_threads(threads)
    lacking = {
        package for packages, _ in SIDES.values() for package in packages if find_spec(package) is None
    }
    present = {name: make for name, (packages, make) in SIDES.items() if not lacking.intersection(packages)}
    results = []
    for case in cases:
        progress(f"{case.name}, batch {case.shape[0]}")
        steps = [make(case, threads) for make in present.values()]
        for step in steps:
            timed(step, 3)
        taken = np.array([[timed(step, case.repeats) for step in steps] for _ in range(rounds)])
        sides = {
            name: {
                "seconds": statistics.median(taken[:, i].tolist()),
                "ratio": statistics.median((taken[:, i] / taken[:, 0]).tolist()),
            }
            for i, name in enumerate(present)
        }
        memory = {"fastgd": fastgd_bytes(case)}
        if "torch" in present:
            memory["torch"] = torch_bytes(case)
        results.append({"name": case.name, "batch": case.shape[0], "sides": sides, "bytes": memory})
    missing = f"not timed, because not installed: {', '.join(sorted(lacking))}" if lacking else None
    return {"threads": threads, "rounds": rounds, "cases": results, "missing": missing}
