"""The best trial on the page is the one that the search chose, and no lucky seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from manta_ui.clients.tracking import TrackedRun
from manta_ui.tuning.searches import Mean, RecordedSearch, ShownTrial, results_of
from manta_ui.tuning.views import charts_html, scatter_of, search_line, styles_of, trials_html

from ..recorded import write_results

if TYPE_CHECKING:
    from pathlib import Path

RATES = {"train.learning_rate": "0.001"}
TRIALS = (
    ShownTrial("trial-001", "done", RATES, (0.7,), (1.0,), 0.7, ""),
    ShownTrial("trial-002", "done", RATES, (0.9,), (1.0,), 0.9, ""),
    ShownTrial("trial-002-seed-1", "done", RATES, (0.95,), (1.0,), 0.95, ""),
)


def search(status: str = "FINISHED", **recorded: object) -> RecordedSearch:
    run = TrackedRun("1", "desk-tune-20260101-120000-abcd", status, 0, None, {}, {}, {})
    return RecordedSearch(run, "accuracy", TRIALS, "", **recorded)  # type: ignore[arg-type]


def test_the_trial_that_the_search_chose_is_the_best_everywhere(tmp_path: Path) -> None:
    write_results(tmp_path / "trials.yaml")
    winner, means = results_of((tmp_path / "trials.yaml").read_bytes())
    assert winner == yaml.safe_load((tmp_path / "trials.yaml").read_text())["winner"] == "trial-001"
    assert means["trial-001"] == Mean(pytest.approx(0.73), pytest.approx(0.01414, abs=1e-4), 2)
    found = search(winner=winner, means=means)
    assert found.best is TRIALS[0]
    assert "best: trial-001 with validation accuracy 0.73 ± 0.014, the mean of other seeds (2)." in search_line(found)
    marked = next(row for row in trials_html(found).split("<tr") if "manta-marked" in row)
    assert "trial-001<" in marked
    assert "0.7300 ± 0.0141" in marked
    ringed = [dot for dot in scatter_of(found).split("<g>") if "manta-best" in dot]
    assert ["trial-001:" in dot for dot in ringed] == [True]


def test_while_it_runs_a_run_with_another_seed_does_not_lead() -> None:
    found = search("RUNNING")
    assert found.best is TRIALS[1]
    assert "best so far: trial-002 with validation accuracy 0.9" in search_line(found)
    assert results_of(None) == results_of(b"{") == ("", {})


def test_the_best_trials_have_a_colour_and_every_trial_a_line_with_its_name() -> None:
    many = tuple(
        ShownTrial(f"trial-{index:03d}", "done", RATES, (0.1, index / 10), (1.0, 0.5), index / 10, "") for index in range(9)
    )
    run = TrackedRun("1", "desk-tune-20260101-120000-abcd", "FINISHED", 0, None, {}, {}, {})
    found = RecordedSearch(run, "accuracy", many, "")
    charts = charts_html(found)
    for metric in ("accuracy", "loss"):
        assert f"Validation {metric} by epoch, all trials" in charts
    assert charts.count('data-series="trial-000"') == 2
    assert sorted(styles_of(found)) == [f"trial-{index:03d}" for index in range(3, 9)]
    assert trials_html(found).count("manta-swatch") == 9
