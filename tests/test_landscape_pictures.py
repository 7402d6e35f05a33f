"""What pictures of a landscape show, its files, and the bar that is shown while it is made."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest

from fastgd import landscape
from fastgd.landscape.pictures import scale_of

Image = pytest.importorskip("PIL.Image", reason="matplotlib brings Pillow, extra cli")

A, B = np.linspace(-1, 1, 9), np.linspace(-2, 2, 7)
LABELS = "one (steps)", "two (steps)"
BOWL = 0.5 + A**2 + B[:, None] ** 2
PATH = np.array([[-0.9, -1.5], [-0.5, 0.0], [0.0, 0.0]])


def plane(losses=BOWL, path=None):
    return landscape.Plane(A, B, losses, 0.5, LABELS, path, None if path is None else (0.75, 0.25))


def with_holes(losses, *holes):
    made = np.array(losses, float)
    for value, where in holes:
        made[where] = value
    return made


def texts(figure):
    """All that is written on the first axes' legend."""
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


#: what losses may be
LOSSES = {
    "bowl": BOWL,
    "wide": 10 ** (3 * BOWL),
    "wider": 10.0 ** np.linspace(-300, 308, BOWL.size).reshape(BOWL.shape),
    "around zero": BOWL - 3,
    "zero": np.zeros_like(BOWL),
    "constant": np.full_like(BOWL, 2.5),
    "nearly": 2.3 + 1e-7 * BOWL,
    "holes": with_holes(BOWL, (math.nan, (0, 0)), (math.inf, (3, 4)), (-math.inf, (6, slice(None)))),
    "one left": with_holes(np.full_like(BOWL, math.nan), (1.0, (3, 4))),
    "none left": np.full_like(BOWL, math.nan),
}


def width(path):
    with Image.open(path) as image:
        return image.size[0]


@pytest.mark.parametrize(
    ("case", "path"),
    [(case, None) for case in LOSSES] + [("bowl", PATH), ("holes", PATH), ("bowl", PATH + 5)],
)
def test_every_plane_can_be_drawn(case, path, tmp_path):
    found = plane(LOSSES[case], path)
    for draw, name in ((found.plot, "plot.png"), (found.surface, "surface.png")):
        figure = draw(tmp_path / name, loss="loss (nats)", title="a title")
        assert width(tmp_path / name) == 1000
        axes = figure.axes[0]
        assert axes.get_title() == "a title"
        assert axes.get_xlabel().replace("\n", " ") == LABELS[0]
        assert axes.get_ylabel().replace("\n", " ") == LABELS[1]
        shown = texts(figure)
        missing = int((~np.isfinite(LOSSES[case])).sum())
        assert (f"{missing} of 63 losses are NaN or infinite" in shown) == bool(missing)
        if missing < 63:
            if path is not None:
                assert {"training path (3 records)", "start", "end"} <= set(shown)
            assert ("these weights: loss 0.5" in shown) == (path is not PATH)


def test_a_plot_ends_where_losses_end():
    axes = plane(path=PATH + 5).plot().axes[0]
    assert axes.get_xlim() == (-1, 1) and axes.get_ylim() == (-2, 2)


def test_the_colour_bar_says_what_is_beyond_its_limits():
    for limits, beyond in (
        (None, "neither"),
        ((0.5, 2), "max"),
        ((1, 9), "min"),
        ((1, 2), "both"),
        ((0, 9), "neither"),
        ((6, 9), "min"),
    ):
        axes = plane().plot(limits=limits).axes[0]
        assert axes.collections[0].extend == beyond
        assert axes.collections[0].get_clim() == (limits or (0.5, 5.5))


def test_contours_are_labelled_and_the_bar_is_named():
    figure = plane().plot(loss="energy (J)")
    bar = figure.axes[1]
    assert bar.get_ylabel() == "energy (J)"
    written = {text.get_text() for text in figure.axes[0].texts}
    assert len(written) > 3 and written <= {label.get_text() for label in bar.get_yticklabels()}


def test_axes_of_one_s_own():
    figure = plane().plot()
    for axes in (figure.add_subplot(2, 2, 1), figure.add_subplot(2, 2, 2)):
        plane().draw(axes, limits=(0, 6))
        assert axes.get_legend() is not None


def test_the_scale_is_logarithmic_where_losses_span_orders_of_magnitude():
    for losses, log in ((BOWL, False), (10 ** (3 * BOWL), True), (BOWL - 0.5, False)):
        assert scale_of(losses, None).log == log
    assert scale_of(BOWL, True).log and not scale_of(10**BOWL, False).log
    with pytest.raises(ValueError, match="log needs losses above 0, and the lowest is 0"):
        scale_of(BOWL - 0.5, True)
    for limits in ((2, 1), (1, math.inf), (1,), "ab"):
        with pytest.raises((TypeError, ValueError), match="limits"):
            scale_of(BOWL, None, limits)
    assert scale_of(np.array([math.nan, math.inf]), None) is None


@pytest.mark.parametrize(
    ("low", "high", "log", "levels"),
    [
        (0.1, 1.05, False, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        (0.004, 1.5, True, [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]),
        (0.5, 2e5, True, [1, 10, 100, 1e3, 1e4, 1e5]),
        (2.0, 2.5, True, [2, 2.05, 2.1, 2.15, 2.2, 2.25, 2.3, 2.35, 2.4, 2.45, 2.5]),
    ],
)
def test_levels_are_round(low, high, log, levels):
    scale = scale_of(np.array([low, high]), log)
    np.testing.assert_allclose(scale.levels, levels)


def test_levels_that_are_close_are_told_apart():
    scale = scale_of(np.array([2.3000001, 2.3000009]), None)
    written = [scale.format % level for level in scale.levels]
    assert len(set(written)) == len(written) > 3
    np.testing.assert_allclose([float(text) for text in written], scale.levels, rtol=0, atol=1e-9)


def test_a_surface_of_one_row_is_refused():
    flat = landscape.Plane(A, B[:1], BOWL[:1], 0.5, LABELS)
    flat.plot()
    with pytest.raises(ValueError, match="at least two points along each direction"):
        flat.surface()


@pytest.mark.parametrize("case", LOSSES)
def test_every_line_can_be_drawn(case, tmp_path):
    losses = LOSSES[case][3]
    found = landscape.Line(A, losses, losses[4], "the way (m)")
    figure = found.plot(tmp_path / "line.png", loss="loss (nats)", title="a title")
    assert width(tmp_path / "line.png") == 1000
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (
        "the way (m)",
        "loss (nats)",
        "a title",
    )
    missing = int((~np.isfinite(losses)).sum())
    assert (f"{missing} of 9 losses are NaN or infinite" in texts(figure)) == bool(missing)
    assert any("these weights" in text for text in texts(figure)) == math.isfinite(losses[4])
    assert (axes.get_yscale() == "log") == case.startswith("wide")


def test_weights_that_are_not_on_the_line_are_not_drawn():
    figure = landscape.Line(A + 3, A**2, 7.0, "").plot()
    assert texts(figure) == ["loss"] and figure.axes[0].get_xlim()[0] > 1.5


# ---- Files


@pytest.mark.parametrize(
    "found", [plane(), plane(LOSSES["holes"], PATH), landscape.Line(A, A**2, 0.25, "x")], ids=type
)
def test_what_is_saved_is_loaded(found, tmp_path):
    path = tmp_path / "found.npz"
    found.save(path)
    again = type(found).load(path)
    for field in dataclasses.fields(found):
        own, other = getattr(found, field.name), getattr(again, field.name)
        assert type(own) is type(other)
        np.testing.assert_array_equal(own, other)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    landscape.Line(A, A, 0.0, "x").save(path)
    with pytest.raises(ValueError, match=r"a\.npz is not what landscape\.Plane\.save wrote"):
        landscape.Plane.load(path)
    for content in (b"", b"text", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not what"):
            landscape.Plane.load(path)
    np.save(tmp_path / "b.npy", A)
    with pytest.raises(ValueError, match="is not what"):
        landscape.Line.load(tmp_path / "b.npy")
    with pytest.raises(FileNotFoundError):
        landscape.Line.load(tmp_path / "none.npz")


# ---- The bar


@pytest.mark.parametrize(("terminal", "progress"), [(True, True), (True, False), (False, True)])
def test_the_bar_is_for_terminals(terminal, progress, monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TERM"):
        monkeypatch.delenv(name, raising=False)
    written.isatty = lambda: terminal
    w = np.ones(3)
    landscape.line([w], lambda: float(w.sum()), progress=progress, points=5)
    assert ("5/5" in written.getvalue()) == (terminal and progress)
    assert bool(written.getvalue()) == (terminal and progress)
