"""The picture of a run, whatever was measured of it."""

from __future__ import annotations

import math
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
from matplotlib.figure import Figure

from manta_jobs.reporting.canvas import DARK
from manta_jobs.reporting.curves import MAX_POINTS, draw_results, series, thinned, write_curves
from manta_jobs.reporting.evaluation.drawings import CELL_INK

if TYPE_CHECKING:
    from pathlib import Path


def steps_of(count: int, *, per_epoch: int = 10) -> list[dict[str, Any]]:
    return [
        {"step": number, "epoch": number / per_epoch, "loss": 2 / number, "learning_rate": 1e-4 / number, "grad_norm": None}
        for number in range(1, count + 1)
    ]


def epochs_of(count: int) -> list[dict[str, Any]]:
    return [
        {"epoch": number, "train_loss": 1 / number, "loss": 1.2 / number, "accuracy": 0.9, "f1_macro": 0.8, "learning_rate": 1e-4}
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    ("history", "steps", "best_epoch"),
    [
        pytest.param(epochs_of(3), steps_of(30), 2, id="three epochs"),
        pytest.param(epochs_of(1), steps_of(10), 1, id="one epoch"),
        pytest.param(epochs_of(1), [], 1, id="no steps"),
        pytest.param([], steps_of(5), None, id="no epoch"),
        pytest.param([], [], None, id="nothing"),
        pytest.param([{"epoch": 1, "loss": 0.4, "f1_micro": 0.7}], [], 1, id="other figures"),
        pytest.param([row | {"loss": math.nan, "train_loss": math.inf} for row in epochs_of(2)], steps_of(20), 1, id="no numbers"),
        pytest.param(epochs_of(60), steps_of(20_000, per_epoch=300), 60, id="long"),
    ],
)
def test_a_picture_is_drawn_of_whatever_is_known(
    history: list[dict[str, Any]], steps: list[dict[str, Any]], best_epoch: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "curves.png"
    write_curves(history, steps, path, title="desk-train-1", best_epoch=best_epoch)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (1080, 1140)


def test_only_what_was_measured_is_named() -> None:
    panel = Figure().subplots()
    draw_results(panel, [{"epoch": 1, "f1_macro": 0.8, "accuracy": None}])
    assert [line.get_label() for line in panel.get_lines()] == ["validation macro F1"]


def test_values_that_are_no_numbers_leave_a_hole() -> None:
    rows = [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": math.nan}, {"epoch": 3}, {"epoch": 4, "loss": 0.5}]
    assert series(rows, "loss") == ([1.0, 4.0], [1.0, 0.5])


def test_long_runs_are_thinned_to_both_ends() -> None:
    steps = steps_of(12_345)
    thin = thinned(steps)
    assert len(thin) == MAX_POINTS
    assert (thin[0], thin[-1]) == (steps[0], steps[-1])
    assert thinned(steps[:7]) == steps[:7]


def test_the_global_plotting_state_is_left_alone(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    write_curves(epochs_of(1), [], tmp_path / "curves.png", title="desk")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_numbers_in_the_confusion_matrix_keep_their_color_on_a_dark_page() -> None:
    assert CELL_INK not in DARK
