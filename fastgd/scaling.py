"""Dynamic loss scaling: keeps small gradients from vanishing in low precision, and finds the scale itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fastgd.checks import flag, named, real, whole
from fastgd.report import StepReport

if TYPE_CHECKING:
    from fastgd.optimizer import Optimizer

#: the version that state_dict writes
VERSION = 1

#: the largest power of two in float32, where torch.amp.GradScaler stops growing too
LARGEST = 2.0**127


class _Settings(NamedTuple):
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    min_scale: float
    max_scale: float
    patience: int | None


class _Progress(NamedTuple):
    """All that changes, in one object: it is exchanged whole, so that Ctrl-C finds the old or the new."""

    scale: float
    #: in a row, counted anew when the scale has grown
    good_steps: int = 0
    steps: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    #: those of them made at min_scale
    skipped_at_minimum: int = 0
    #: the optimizers that have made a step since the last update, and what their steps told
    made: tuple[tuple[Optimizer, StepReport], ...] = ()


class LossScaler:
    """Multiplies the loss by a scale, divides the gradients by it in the step, and adapts it to what they can
    hold: dynamic loss scaling (Micikevicius et al. 2018, section 3.2), with the meaning and the defaults of
    torch.amp.GradScaler.

    A step whose gradients are not finite is skipped and the scale multiplied by `backoff_factor`; after
    `growth_interval` good steps in a row it is multiplied by `growth_factor`. Scales are powers of two, so
    that scaling and unscaling round nothing but what falls among the subnormal numbers.

    init_scale: the first scale; default 65536.
    growth_factor: above 1; default 2. backoff_factor: below 1; default 0.5.
    growth_interval: a number of steps; default 2000.
    enabled: False: the scale is 1, steps are made as the optimizer makes them, and nothing is counted.
    min_scale, max_scale: what the scale stays between; defaults 1 and 2**127.
    patience: FloatingPointError is raised when that many steps in a row have been skipped at min_scale:
        gradients that are not finite at the smallest scale are not the scale's doing, the training has
        diverged. Default 10; None: never.

    Raises ValueError or TypeError, naming the argument, for a scale or factor that is no power of two and for
    what is out of range. A scaler belongs to one training loop: it is not for several threads at once.
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        *,
        min_scale: float = 1.0,
        max_scale: float = LARGEST,
        patience: int | None = 10,
    ) -> None:
        self._settings = _checked_settings(
            growth_factor, backoff_factor, growth_interval, min_scale, max_scale, patience
        )
        self._progress = _Progress(_checked_scale("init_scale", init_scale, self._settings))
        self._enabled = named("enabled", flag, enabled)

    def __repr__(self) -> str:
        if not self._enabled:
            return "LossScaler(enabled=False)"
        settings = "".join(f", {name}={value!r}" for name, value in self._settings._asdict().items())
        counted = f"{self.skipped_steps} of {self.steps} steps skipped"
        return f"LossScaler(scale={self.scale!r}{settings}; {counted})"

    @property
    def enabled(self) -> bool:
        """Whether losses are scaled."""
        return self._enabled

    @property
    def scale(self) -> float:
        """What the loss, and so every gradient, is multiplied by until the next update; 1.0 when disabled."""
        return self._progress.scale if self._enabled else 1.0

    @property
    def steps(self) -> int:
        """How many updates there were: steps, or iterations of several optimizers; skipped ones included."""
        return self._progress.steps

    @property
    def skipped_steps(self) -> int:
        """Those of `steps` in which an optimizer skipped its step."""
        return self._progress.skipped_steps

    @property
    def skipped_in_a_row(self) -> int:
        """How many of the last `steps` were skipped, back to the last good one."""
        return self._progress.skipped_in_a_row

    def scale_loss(self, loss: Any) -> Any:
        """The loss times the scale: what to take gradients of.

        loss: a number, array or tensor. TypeError for float16, where a scaled loss is soon infinite: take the
        loss in float32. When the scaler is disabled it is returned as it is.
        """
        if not self._enabled:
            return loss
        # NumPy says "float16", torch "torch.float16"
        if str(getattr(loss, "dtype", "")).rpartition(".")[2] == "float16":
            raise TypeError("loss is float16, which holds nothing above 65504: take the loss in float32")
        return loss * self._progress.scale

    def step(self, opt: Optimizer, grads: Any, *, update: bool = True, **options: Any) -> StepReport:
        """`opt.step` with these scaled gradients, skipped unless all are finite; then `update()`.

        opt: any optimizer of fastgd's. grads: gradients of the scaled loss, as its step takes them.
        update: False when several optimizers step on the gradients of one iteration; then call `update()`
            after the last one, or let that one's step do it. Each of them skips for its own gradients only.
        options: of opt.step, such as clip_norm, which is about gradients that have been unscaled.

        Returns what opt.step returned. Raises what opt.step raises, and then nothing has changed; TypeError
        for grad_scale and skip_nonfinite, which are the scaler's; RuntimeError when opt has made a step since
        the last update; FloatingPointError as said of `patience`.
        """
        for name in ("grad_scale", "skip_nonfinite"):
            if name in options:
                raise TypeError(f"{name} is set by the scaler: leave it out of the options of its step")
        if not self._enabled:
            return opt.step(grads, **options)
        now = self._progress
        if any(opt is other for other, _ in now.made):
            raise RuntimeError(
                "this optimizer has made a step since the last update(): call update() once all optimizers "
                "of an iteration have made theirs"
            )
        report = opt.step(grads, grad_scale=now.scale, skip_nonfinite=True, **options)
        self._progress = now = now._replace(made=(*now.made, (opt, report)))
        if update:
            self._update(now)
        return report

    def update(self) -> None:
        """Ends an iteration whose steps were made with `update=False`: adapts the scale once for all of them.

        The scale backs off when any of the steps was skipped. Nothing is done when the scaler is disabled.
        Raises RuntimeError when no step has been made since the last update, and FloatingPointError as said
        of `patience`.
        """
        if not self._enabled:
            return
        if not self._progress.made:
            raise RuntimeError("update() without a step since the last one")
        self._update(self._progress)

    def _update(self, now: _Progress) -> None:
        settings = self._settings
        skipped = [(opt, report) for opt, report in now.made if report.skipped]
        if skipped:
            at_minimum = now.skipped_at_minimum + 1 if now.scale == settings.min_scale else 0
            self._progress = _Progress(
                max(now.scale * settings.backoff_factor, settings.min_scale),
                steps=now.steps + 1,
                skipped_steps=now.skipped_steps + 1,
                skipped_in_a_row=now.skipped_in_a_row + 1,
                skipped_at_minimum=at_minimum,
            )
            if settings.patience is not None and at_minimum >= settings.patience:
                raise FloatingPointError(_diverged(now.scale, at_minimum, skipped[0][1]))
            return
        scale, good_steps = now.scale, now.good_steps + 1
        if good_steps == settings.growth_interval:
            scale, good_steps = min(scale * settings.growth_factor, settings.max_scale), 0
        self._progress = _Progress(scale, good_steps, now.steps + 1, now.skipped_steps)

    def state_dict(self) -> dict[str, Any]:
        """The scale, the counters and the settings, as plain numbers.

        `enabled` is left out, it is the run's own choice; so are steps that wait for their update.
        """
        progress = self._progress._asdict()
        del progress["made"]
        return {"version": VERSION, **progress, **self._settings._asdict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave.

        Raises ValueError or TypeError, naming the entry, for one that is missing, unknown or out of range;
        nothing has changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"the state is {type(state_dict).__name__}, not a dict")
        given = dict(state_dict)
        version = given.pop("version", None)
        if version != VERSION:
            raise ValueError(f"the state has version {version!r}; this fastgd reads version {VERSION}")
        names = {*_Progress._fields, *_Settings._fields} - {"made"}
        wrong = sorted(names ^ given.keys(), key=str)
        if wrong:
            raise ValueError(f"the state {'has no' if wrong[0] in names else 'has an unknown'} {wrong[0]!r}")
        settings = _checked_settings(*(given[name] for name in _Settings._fields))
        counts: dict[str, Any] = {
            name: named(name, whole(0), given[name]) for name in _Progress._fields[1:-1]
        }
        progress = _Progress(_checked_scale("scale", given["scale"], settings), **counts)
        nested = ("skipped_at_minimum", "skipped_in_a_row", "skipped_steps", "steps")
        for part, total in itertools.pairwise(nested):
            if counts[part] > counts[total]:
                raise ValueError(f"{part} is {counts[part]}, more than {total}, which is {counts[total]}")
        if progress.good_steps >= settings.growth_interval:
            raise ValueError(f"good_steps must be less than growth_interval, not {progress.good_steps}")
        self._settings, self._progress = settings, progress


def _power_of_two(value: Any) -> float:
    result = real(value)
    if not 0 < result < math.inf or math.frexp(result)[0] != 0.5:
        raise ValueError(f"must be a power of two, so that nothing is rounded, not {result!r}")
    return result


def _checked_settings(
    growth_factor: Any,
    backoff_factor: Any,
    growth_interval: Any,
    min_scale: Any,
    max_scale: Any,
    patience: Any,
) -> _Settings:
    result = _Settings(
        named("growth_factor", _power_of_two, growth_factor),
        named("backoff_factor", _power_of_two, backoff_factor),
        named("growth_interval", whole(1), growth_interval),
        named("min_scale", _power_of_two, min_scale),
        named("max_scale", _power_of_two, max_scale),
        None if patience is None else named("patience", whole(1), patience),
    )
    if result.growth_factor <= 1:
        raise ValueError(f"growth_factor must be above 1, not {result.growth_factor!r}")
    if result.backoff_factor >= 1:
        raise ValueError(f"backoff_factor must be below 1, not {result.backoff_factor!r}")
    if result.min_scale > result.max_scale:
        raise ValueError(f"min_scale {result.min_scale!r} is above max_scale {result.max_scale!r}")
    return result


def _checked_scale(name: str, value: Any, settings: _Settings) -> float:
    scale = named(name, _power_of_two, value)
    if not settings.min_scale <= scale <= settings.max_scale:
        limits = f"min_scale {settings.min_scale!r} to max_scale {settings.max_scale!r}"
        raise ValueError(f"{name} must be from {limits}, not {scale!r}")
    return scale


def _diverged(scale: float, times: int, report: StepReport) -> str:
    found = report.nonfinite
    if found is None:
        what = "their norm is beyond float64"
    else:
        place = f"parameter {found.parameter} of group {found.group}"
        name = place if found.name is None else f"parameter {found.name!r} ({place})"
        what = f"that of {name} is {found.value} at {found.element}"
    return (
        f"{times} steps in a row were skipped at the smallest scale, {scale!r}: the gradients are not finite "
        f"whatever the scale ({what}); the training has diverged"
    )
