"""What a monitor writes: the terminal's table and words, CSV, TensorBoard's events, and pictures."""

from __future__ import annotations

import csv
import io
import struct
import sys

import pytest
from monitor_runs import FAILING, watched

from fastgd import monitor
from fastgd.monitor.files import COLUMNS


@pytest.fixture(scope="module")
def dead() -> monitor.Monitor:
    return watched(FAILING["ReLU with large negative biases"][0](), every=5)


@pytest.fixture(scope="module")
def spoiled() -> monitor.Monitor:
    return watched(FAILING["SGD much too fast, to NaN"][0](), every=5)


def printed(watch) -> str:
    out = io.StringIO()
    watch.print(out)
    return out.getvalue()


def test_the_terminal_shows_layers_and_findings(dead, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = printed(dead)
    look = dead.history.looks[-1]
    for layer in look.layers:
        assert layer.label in text
    assert f"step {look.step} of 60, lr 0.1" in text
    assert "dead units: 1 ReLU, 3 ReLU" in text
    (found,) = dead.findings()
    words = " ".join(text.split())
    for sentence in (found.text, found.reason, *found.remedies):
        assert " ".join(sentence.split()) in words
    assert max(map(len, text.splitlines())) <= 100


def test_the_table_fits_a_terminal_of_80_columns(dead, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(dead)
    assert "…" not in text
    assert "3 ReLU" in text


def test_a_monitor_that_has_seen_nothing_prints_that():
    model, opt = FAILING["SGD too slow"][0]().made()
    assert "0 steps, 0 looked at" in printed(monitor.Monitor(model, opt))


def test_csv_has_a_row_for_each_step_and_each_layer_looked_at(spoiled, tmp_path):
    path = tmp_path / "run.csv"
    spoiled.save_csv(path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    steps = [row for row in rows if not row["layer"]]
    assert [int(row["step"]) for row in steps] == list(range(1, 41))
    assert [float(row["loss"]) for row in steps[:5]] == [s.loss for s in list(spoiled.history.steps)[:5]]
    layers = [row for row in rows if row["layer"]]
    assert [row["layer"] for row in layers[:3]] == ["0 Linear", "1 ReLU", "2 Linear"]
    assert float(layers[0]["update_ratio"]) == spoiled.history.looks[0].layers[0].update_ratio
    assert layers[1]["grad_norm"] == "" and layers[0]["loss"] == ""


def events(path):
    """The records of an event file, each with its checksums, as TensorBoard reads them."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    def masked(data):
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        head = data[at : at + 8]
        (size,) = struct.unpack("<Q", head)
        body = data[at + 12 : at + 12 + size]
        assert struct.unpack("<I", data[at + 8 : at + 12]) == (masked(head),)
        assert struct.unpack("<I", data[at + 12 + size : at + 16 + size]) == (masked(body),)
        found.append(Event.FromString(body))
        at += 16 + size
    return found


def test_tensorboard_s_events_read_back(dead, tmp_path):
    pytest.importorskip("tensorboardX", reason="an extra: tensorboard")
    dead.save_tensorboard(tmp_path / "events")
    (path,) = (tmp_path / "events").iterdir()
    values = {}
    texts = {}
    for event in events(path):
        for value in event.summary.value:
            if value.HasField("tensor"):
                texts[value.tag] = value.tensor.string_val[0].decode()
            else:
                values.setdefault(value.tag, {})[event.step] = value.simple_value
    losses = {step.step: step.loss for step in dead.history.steps}
    assert values["loss"] == pytest.approx(losses, rel=1e-6)
    assert values["dead/1_ReLU"] == {look.step: look.layers[1].dead for look in dead.history.looks}
    assert values["grad_norm/0_Linear"].keys() == {look.step for look in dead.history.looks}
    (text,) = texts.values()
    assert text == str(dead.findings()[0])


def test_without_tensorboardx_the_extra_is_named(dead, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match=r"fastgd\[tensorboard\]"):
        dead.save_tensorboard(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["dead", "spoiled"])
def test_a_picture_is_1000_pixels_wide(name, request, tmp_path):
    from matplotlib.image import imread

    request.getfixturevalue(name).plot(tmp_path / "run.png")
    assert imread(tmp_path / "run.png").shape[:2] == (1200, 1000)


def test_a_picture_has_axes_and_a_line_for_each_layer(dead):
    from fastgd.monitor.pictures import draw

    loss, gradients, updates, units = draw(dead.history).axes
    names = [text.get_text() for text in gradients.get_legend().get_texts()]
    assert names == ["0 Linear", "2 Linear", "4 Linear"]
    assert [text.get_text() for text in units.get_legend().get_texts()][:2] == ["1 ReLU", "3 ReLU"]
    assert all(axes.get_ylabel() for axes in (loss, gradients, updates, units))
    assert units.get_xlabel() == "step"


def test_nothing_seen_is_no_picture(tmp_path):
    model, opt = FAILING["SGD too slow"][0]().made()
    with pytest.raises(ValueError, match="nothing to draw"):
        monitor.Monitor(model, opt).plot(tmp_path / "run.png")
