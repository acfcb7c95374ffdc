"""Models and searches from a real MLflow server that the page starts for a registry that is a file, over HTTP and in a browser."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from manta.storage.folders import Storage
from manta_ui.access.accounts import Accounts
from manta_ui.clients.tracking import (
    NothingRecordedError,
    TrackedRun,
    TrackingClient,
    TrackingError,
    TrackingStartingError,
    Version,
)
from manta_ui.models.confusion_views import confusion_html
from manta_ui.models.views import version_html, versions_html
from manta_ui.running.tracking_server import TrackingServer
from manta_ui.tabs import models, tuning
from manta_ui.tabs.services import Services
from manta_ui.tuning.searches import read_search

from ..recorded import EVIL, SEARCH, record_search, record_versions
from ..visits import choose, chromium, page_process, violations, visiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..visits import Visit

STARTS_WITHIN_S = 90.0
GONE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Recorded:
    """A registry with something in it, and the server in front of it."""

    storage: Storage
    server: TrackingServer
    tracking: TrackingClient
    first_answer: Exception


@pytest.fixture(scope="module")
def recorded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("recorded")
    storage = Storage(folder / "storage")
    record_versions(storage, folder, model=tiny_model)
    record_search(storage, folder, is_over=True)
    with TrackingServer(storage) as server:
        tracking = server.client()
        with pytest.raises(TrackingStartingError) as starting:
            tracking.models()
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                server.address()
                break
            except TrackingStartingError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield Recorded(storage, server, tracking, starting.value)


pytestmark = pytest.mark.server


def test_the_tab_appears_at_once_and_says_that_the_server_starts(recorded: Recorded) -> None:
    assert str(recorded.first_answer).startswith("Loading models and searches")


def test_versions_come_with_aliases_figures_lineage_and_settings(recorded: Recorded) -> None:
    (model,) = recorded.tracking.models()
    assert (model.name, model.aliases) == ("desk", {"champion": 1, "candidate": 2})
    assert [decision.action for decision in model.decisions] == ["first", "refused"]
    second, first = recorded.tracking.versions(model)
    assert (first.title, first.aliases, second.aliases) == ("desk@1", ("champion",), ("candidate",))
    assert first.metrics == {"accuracy": 0.5, "f1_macro": 0.5}
    assert first.lineage["run"] == "good"
    assert len(first.lineage["data_hash"]) == 64
    assert first.run is not None
    assert first.run.settings["model.max_length"] == "16"


def test_a_runs_files_are_read_and_one_that_is_not_there_is_none(recorded: Recorded) -> None:
    (model,) = recorded.tracking.models()
    second, first = recorded.tracking.versions(model)
    assert recorded.tracking.document(first.run_id, "report.json")["best_epoch"] == 2
    assert recorded.tracking.document(second.run_id, "report.json") == {}
    assert b'"accuracy"' in (recorded.tracking.file(first.run_id, "model/manta.json") or b"")
    assert recorded.tracking.file(first.run_id, "model/none.txt") is None
    with pytest.raises(TrackingError, match="refuses"):
        recorded.tracking.run("0" * 32)


def test_a_search_has_its_trials_with_state_values_and_best_epoch(recorded: Recorded) -> None:
    (run,) = recorded.tracking.searches()
    assert (run.name, run.status) == (SEARCH, "FINISHED")
    search = read_search(recorded.tracking, run.id)
    assert [(trial.name, trial.state, trial.score) for trial in search.trials] == [
        ("trial-001", "done", 0.7),
        ("trial-002", "done", 0.9),
        ("trial-003", "stopped early", 0.4),
        ("trial-004", "failed", None),
        ("trial-002-seed-1", "training", 0.8),
    ]
    assert [trial.name for trial in search.ranked] == ["trial-002", "trial-002-seed-1", "trial-001", "trial-003"]
    assert sorted(search.settings) == ["model.dropout", "train.learning_rate"]
    assert search.trials[0].history == (0.5, 0.7)
    assert search.trials[3].reason == f"a NaN in {EVIL}"
    assert search.best_config.startswith("name: desk")


def test_the_tab_models_shows_the_champion_and_the_version_that_was_chosen(recorded: Recorded) -> None:
    shown = models.look(recorded.tracking)
    assert (shown.model, shown.versions, shown.version, shown.asks_again) == ("desk", (2, 1), 1, False)
    assert 'class="manta-confusion' in shown.details
    assert "epoch 2 was kept" in shown.details
    assert "Reliability: on the dashed line" in shown.details
    assert shown.verdict == ""
    second = models.look(recorded.tracking, model="desk", version=2)
    assert (second.version, second.verdict.count("refuses")) == (2, 1)
    assert "Refused on" in second.verdict


def test_the_tab_tuning_shows_trials_charts_and_the_best_config(recorded: Recorded) -> None:
    shown = tuning.look(recorded.tracking, None)
    assert "is done: 5 trials; best: trial-001 with validation accuracy 0.73 ± 0.014" in shown.note
    assert "Learning rate against dropout" in shown.charts
    assert "Validation accuracy by epoch, all trials" in shown.charts
    assert shown.charts.count("manta-best") == 1
    assert shown.best_config.startswith("name: desk")
    assert tuning.look(recorded.tracking, shown.chosen) == shown  # so that what is read stays as it is
    assert tuning.look(recorded.tracking, shown.chosen, before=shown) is shown  # nor is it asked again


def test_names_tags_labels_and_configs_are_shown_as_text(recorded: Recorded) -> None:
    shown = [models.look(recorded.tracking, version=number) for number in (1, 2)]
    search = tuning.look(recorded.tracking, None)
    pieces = [*(part for each in shown for part in (each.table, each.details, each.verdict)), search.trials, search.charts]
    pieces += [search.config, search.note]
    assert sum("&lt;img src=x" in piece for piece in pieces) >= 5
    assert not [piece for piece in pieces if "<img" in piece]


def test_a_password_of_the_server_is_neither_shown_nor_sent_with_a_job() -> None:
    client = TrackingClient("http://user:secret@127.0.0.1:9")
    assert client.environment == {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    with pytest.raises(TrackingError, match=r"No MLflow server answers at http://127\.0\.0\.1:9\."):
        client.models()


def test_an_auto_stage_is_shown_with_the_one_that_ran() -> None:
    run = TrackedRun("1", "run", "FINISHED", 0, 1, metrics={}, settings={"train.zero_stage": "auto"}, tags={})
    version = Version("desk", 1, (), 0, lineage={}, run_id="1", run=run)
    assert "1 (auto)" in version_html(version, {"distribution": {"zero_stage": 1}}, "")
    assert ">auto<" in version_html(version, {}, "")


def test_a_multilabel_report_shows_found_missed_and_wrongly_given() -> None:
    report: dict[str, Any] = {"labels": ["a", "b"], "task": "multilabel", "confusion": [[5, 1, 2, 9], [3, 0, 0, 14]]}
    shown = confusion_html(report)
    assert [word in shown for word in ("found", "missed", "wrongly given")] == [True] * 3
    assert "14" not in shown
    assert confusion_html({"labels": ["a"], "confusion": []}) == ""
    assert "0 versions" in versions_html([], chosen=None)


def test_nothing_recorded_and_nobody_there_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = TrackingServer(Storage(tmp_path)).client()
    with pytest.raises(NothingRecordedError, match="Nothing was trained yet"):
        empty.models()
    assert "No models yet." in models.look(empty).table
    assert "No searches yet." in tuning.look(empty, None).note
    gone = TrackingClient(GONE)
    assert f"No MLflow server answers at {GONE}" in models.look(gone).note
    assert models.look(gone).asks_again
    assert "No MLflow server answers" in tuning.look(gone, None).note


def test_without_a_cluster_or_the_right_nothing_is_promoted_and_the_reason_is_said(recorded: Recorded, tmp_path: Path) -> None:
    users = Accounts(tmp_path / "users")
    for name, may_promote in (("reader", False), ("owner", True)):
        users.add(name, password=f"the word of {name}", may_promote=may_promote)
    alone = Services(api=None, tracking=recorded.tracking, jobs=None, accounts=None, storage=Path())  # type: ignore[arg-type]
    pending, sentence = models.begin(alone, "promote", "desk", 2, user=None)
    assert pending is None
    assert "manta models promote desk@2" in sentence
    guarded = Services(api=None, tracking=recorded.tracking, jobs=None, accounts=users, storage=Path())  # type: ignore[arg-type]
    assert models.begin(guarded, "promote", "desk", 2, user="reader")[1] == models.NO_RIGHT
    assert models.why_not(guarded, "owner", model="desk", version=2) != models.NO_RIGHT


@pytest.fixture
def visit(recorded: Recorded, tmp_path: Path) -> Iterator[Visit]:
    """In front of that server, and of a cluster that is not there."""
    options = ("--tracking", recorded.server.address(), "--address", GONE)
    with (
        page_process(tmp_path / "page", log=tmp_path / "log", api=GONE, options=options) as url,
        chromium() as browser,
        visiting(browser, url) as visit,
    ):
        yield visit


@pytest.mark.page
@pytest.mark.timeout(240)
def test_a_person_looks_at_versions_and_searches_and_starts_from_the_best_config(visit: Visit) -> None:
    from playwright.sync_api import expect

    visit.open("Models")
    expect(visit.part("models-details")).to_contain_text("desk@1 champion")
    expect(visit.part("models-details").locator(".manta-confusion tbody td")).to_have_text(
        ["7", "", "1", "2", "5", "", "", "", "9"]
    )
    expect(visit.part("models-details")).to_contain_text(EVIL)
    cut = "cells => cells.filter(cell => cell.scrollWidth > cell.clientWidth).map(cell => cell.innerText)"
    assert visit.part("models-details").locator(".manta-confusion th").evaluate_all(cut) == []
    assert violations(visit) == []
    choose(visit, "models-version", "2")
    expect(visit.part("models-verdict")).to_contain_text(f"worse: {EVIL}")
    visit.part("models-promote").click()
    expect(visit.part("models-said")).to_contain_text(f"No cluster answers at {GONE} (")

    visit.open("Tuning")
    expect(visit.part("tuning-note")).to_contain_text("best: trial-001 with validation accuracy 0.73 ± 0.014")
    expect(visit.part("tuning-charts").locator(".manta-point")).to_have_count(4)
    names = visit.part("tuning-trials").locator("tbody td:first-child")
    expect(names).to_have_text(["trial-002", "trial-002-seed-1", "trial-001", "trial-003", "trial-004"])
    visit.part("tuning-trials").get_by_role("button", name="learning rate", exact=True).click()
    expect(names).to_have_text(["trial-004", "trial-003", "trial-002", "trial-002-seed-1", "trial-001"])
    expect(visit.part("tuning-trials")).to_contain_text(f"a NaN in {EVIL}")
    assert violations(visit) == []
    visit.part("tuning-use").click()

    text = visit.part("jobs-yaml").locator("textarea")
    expect(text).to_have_value(f"name: desk\n# {EVIL}\n")
    expect(visit.part("jobs-note")).to_contain_text("data is required; The source of labeled texts.")
    field = visit.part("jobs-data-train").locator("textarea, input")
    field.fill("sample:support")
    field.blur()
    expect(text).to_have_value("name: desk\ndata:\n  train: sample:support\n")
    expect(visit.part("jobs-note")).to_contain_text("Ready: desk, registered as desk.")
    assert violations(visit) == []
    visit.part("jobs-tune").click()
    expect(visit.part("jobs-note")).to_contain_text(f"No cluster answers at {GONE} (")
    expect(visit.part("jobs-status")).to_contain_text(f"No cluster answers at {GONE} (")


def test_the_server_ends_with_the_page_and_that_is_said(recorded: Recorded) -> None:
    """Comes last: it ends the server of this module."""
    database = f"sqlite:///{recorded.storage.registry / 'mlflow.db'}"  # the whole test run may have a server of its own
    ours = [child for child in psutil.Process().children() if database in child.cmdline()]
    assert len(ours) == 1
    ended = ours + ours[0].children(recursive=True)
    recorded.server.stop()
    assert psutil.wait_procs(ended, timeout=10)[1] == []
    assert "has ended" in models.look(recorded.tracking).note
