"""The descent by tanh ends where the differential equation does."""

import numpy as np
import pytest

from fastgd.lab import experiment, tanh


def test_the_full_run_ends_at_what_is_claimed():
    values = tanh.run().values
    assert len(values) == 10_001
    assert values[-1] == pytest.approx(8.4e-06, rel=0.01)
    assert (np.diff(values) < 0).all()


def test_small_steps_follow_the_flow():
    def distance(lr):
        result = tanh.run(start=3.0, lr=lr, iterations=round(4 / lr))
        return abs(result.values[-1] / tanh.flow(3.0, np.array(4.0)) - 1)

    assert distance(0.01) == pytest.approx(distance(0.02) / 2, rel=0.05)


def test_it_is_shown(tmp_path):
    outcome = experiment("tanh").show(tmp_path, iterations=100)
    assert [row[0] for row in outcome.table.rows] == ["0", "1", "10", "100"]
    assert "After 100 iterations" in outcome.verdict
    assert outcome.pictures == (tmp_path / "tanh.png",)
    assert outcome.pictures[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
