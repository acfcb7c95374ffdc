"""From the form to a champion, as a person goes: a real search on the cluster that the page starts, in Jobs, Tuning and Models."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest
import yaml

from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage

from ..ui.recorded import record_versions
from ..ui.visits import choose, chromium, page_process, violations, visiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..ui.visits import Visit

pytestmark = [pytest.mark.page, pytest.mark.timeout(420)]
LATER_MS = 240_000
NO_API = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Stack:
    """A page on a laptop: it starts the cluster itself, and its registry is a file."""

    url: str
    storage: Storage
    folder: Path


@pytest.fixture(scope="module")
def stack(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("runs")
    storage = Storage(folder / "storage")
    record_versions(storage, folder, model=tiny_model)
    with page_process(storage.root, log=folder / "page.log", api=NO_API) as url:
        yield Stack(url, storage, folder)
    left = [
        process.name() for process in psutil.process_iter() if str(storage.root) in _environment(process).get("MANTA_STORAGE", "")
    ]
    assert left == []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.fixture
def visit(stack: Stack) -> Iterator[Visit]:
    with chromium() as browser, visiting(browser, stack.url) as visit:
        yield visit


def experiment(stack: Stack, model: Path, **train: object) -> str:
    settings = {"method": "full", "cpus_per_worker": 1, "num_epochs": 1, "batch_size": 16}
    return yaml.safe_dump(
        {
            "name": "support",
            "data": {"train": "rows.csv"},
            "model": {"pretrained": str(model), "max_length": 32},
            "train": settings | train,
            "tune": {"budget": {"num_trials": 2}, "confirm": None},
            "registry": {"fast_formats": False},
            "storage": str(stack.storage.root),
        },
        sort_keys=False,
    )


def test_a_person_starts_a_search_from_yaml_a_field_and_a_file(
    visit: Visit, stack: Stack, tiny_model: Path, two_classes: Path
) -> None:
    from playwright.sync_api import expect

    visit.open("Jobs")
    expect(visit.part("jobs-table")).to_contain_text("No jobs yet.")
    text = visit.part("jobs-yaml").locator("textarea")
    text.fill(experiment(stack, tiny_model, lerning_rate=1))
    text.blur()
    expect(visit.part("jobs-note")).to_contain_text("unknown setting train.lerning_rate; did you mean learning_rate?")
    text.fill(experiment(stack, tiny_model))
    text.blur()
    expect(visit.part("jobs-note")).to_contain_text("rows.csv is not among the uploaded files")
    rows = stack.folder / "rows.csv"
    shutil.copy(two_classes, rows)
    with visit.page.expect_file_chooser() as chooser:
        visit.part("jobs-files").click()
    chooser.value.set_files(rows)
    expect(visit.part("jobs-note")).to_contain_text("Ready: support, registered as support.")
    visit.page.get_by_role("button", name="Training").click()
    rate = visit.part("jobs-train-learning_rate").locator("textarea, input")
    rate.fill("0.003")
    rate.blur()
    expect(text).to_have_value(re.compile("learning_rate: 0.003"))
    visit.part("jobs-tune").click()
    expect(visit.part("jobs-note")).to_contain_text("Starting Ray on this machine")
    expect(visit.part("jobs-note")).to_contain_text("is on its way", timeout=LATER_MS)
    expect(visit.part("jobs-status")).to_contain_text("support-tune-")
    expect(visit.part("jobs-log")).to_contain_text("trial-001: epoch 1", timeout=LATER_MS)
    assert violations(visit) == []


def test_the_search_is_seen_while_it_runs_and_its_best_config_starts_the_next_run(visit: Visit) -> None:
    from playwright.sync_api import expect

    visit.open("Tuning")
    expect(visit.part("tuning-trials")).to_contain_text("trial-002", timeout=LATER_MS)
    expect(visit.part("tuning-note")).to_contain_text("is done: 2 trials; best: trial-00", timeout=LATER_MS)
    expect(visit.part("tuning-charts")).to_contain_text("Learning rate against dropout")
    expect(visit.part("tuning-charts").locator(".manta-point")).to_have_count(2)
    names = visit.part("tuning-trials").locator("tbody tr td:first-child")
    heading = visit.part("tuning-trials").get_by_role("button", name="trial", exact=True)
    heading.click()
    assert names.all_inner_texts() == ["trial-001", "trial-002"]
    heading.click()
    assert names.all_inner_texts() == ["trial-002", "trial-001"]
    expect(visit.part("tuning-config")).to_contain_text("name: support")
    assert violations(visit) == []
    visit.part("tuning-use").click()
    expect(visit.part("jobs-yaml").locator("textarea")).to_have_value(re.compile("name: support"))


def test_a_job_that_is_over_says_where_its_model_is_and_one_that_goes_on_is_stopped(visit: Visit, stack: Stack) -> None:
    from playwright.sync_api import expect

    visit.open("Jobs")
    expect(visit.part("jobs-table")).to_contain_text("support@1, on the cluster in", timeout=LATER_MS)
    text = visit.part("jobs-yaml").locator("textarea")
    text.fill("name: halted\ndata: {train: 'sample:support'}\ntrain: {num_epochs: 500}\n")
    visit.part("jobs-train").click()
    expect(visit.part("jobs-status")).to_contain_text("halted-train-")
    visit.part("jobs-stop").click()
    expect(visit.part("jobs-status")).to_contain_text("was stopped")


def test_a_better_version_is_promoted_after_the_gate_and_rolled_back(visit: Visit, stack: Stack) -> None:
    from playwright.sync_api import expect

    visit.open("Models")
    expect(visit.part("models-table")).to_contain_text("desk@1")
    choose(visit, "models-model", "support")
    expect(visit.part("models-details")).to_contain_text("support@1")
    expect(visit.part("models-details").locator(".manta-confusion td.manta-none, .manta-confusion tbody td")).to_have_count(4)
    expect(visit.part("models-details")).to_contain_text("Reliability: on the dashed line")
    choose(visit, "models-model", "desk")
    choose(visit, "models-version", "2")
    expect(visit.part("models-verdict")).to_contain_text("Refused on")
    visit.part("models-check").click()
    expect(visit.part("models-said")).to_contain_text("desk@2 would be promoted.", timeout=LATER_MS)
    expect(visit.part("models-verdict")).to_contain_text("Compared now")
    assert ModelRegistry(stack.storage).get("desk").version == 1
    visit.part("models-promote").click()
    expect(visit.part("models-said")).to_contain_text("Promoting desk@2")
    expect(visit.part("models-said")).to_contain_text("desk@2 is the champion now.", timeout=LATER_MS)
    expect(visit.part("models-verdict")).to_contain_text("Promoted on")
    assert violations(visit) == []
    visit.part("models-rollback").click()
    expect(visit.part("models-said")).to_contain_text("desk@1 is the champion again.", timeout=LATER_MS)
    registry = ModelRegistry(stack.storage)
    assert registry.get("desk").version == 1
    decided = [(decision.action, decision.version) for decision in registry.decisions("desk")]
    assert decided[-2:] == [("promoted", 2), ("rolled back", 1)]
    assert registry.decisions("desk")[-1].by.startswith("the page on ")
