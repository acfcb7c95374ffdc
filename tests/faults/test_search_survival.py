"""A search goes on after a SIGKILL of its driver, of a trial's worker, and after a node is lost; nothing is simulated."""

from __future__ import annotations

import json
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Nodes, Run

NUM_TRIALS = 8  # of one worker each, on a cluster that holds two
SEARCH = {
    "space": {"train.learning_rate": {"loguniform": [3e-4, 1e-2]}, "model.dropout": {"uniform": [0.0, 0.3]}},
    "search": "random",
    "scheduler": "none",
    "confirm": None,
    "budget": {"num_trials": NUM_TRIALS},
}
SETTINGS: dict[str, Any] = {"num_workers": 1, "checkpoint_steps": 20, "num_epochs": 2}


def events(folder: Path) -> list[dict[str, Any]]:
    """The search's journal so far."""
    journal = folder / "trials.jsonl"
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def ended(least: int) -> Callable[[Path], bool]:
    """A sign: so many trials have ended."""
    return lambda folder: sum(event["event"] == "ended" for event in events(folder)) >= least


def in_the_middle(folder: Path) -> bool:
    """A sign: a trial has ended and another has a checkpoint in mid-epoch."""
    names = {event["trial"] for event in events(folder) if event["event"] == "drawn"}
    names -= {event["trial"] for event in events(folder) if event["event"] == "ended"}
    return ended(1)(folder) and any(list((folder / "trials" / name).glob("step-*/state.json")) for name in names)


def trained(run: Run) -> dict[str, list[str]]:
    """The weights after each epoch of each trial."""
    trials = yaml.safe_load((run.folder / "trials.yaml").read_text())["trials"]
    return {trial["trial"]: [epoch["weights_sha256"] for epoch in trial["epochs"]] for trial in trials}


def registered(run: Run) -> int:
    """Number of versions in the run's storage."""
    return len(ModelRegistry(Storage(run.storage)).versions("survivor"))


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    """Filled by the first test: what a search came to that nothing happened to."""
    return {}


@pytest.mark.timeout(600)
def test_a_killed_driver_is_resumed(start: Callable[..., Run], uninterrupted: dict[str, Any]) -> None:
    whole = start("whole", tune=SEARCH, **SETTINGS)
    result = whole.result()
    uninterrupted |= {"result": result, "trained": trained(whole)}
    assert result["num_trials"] == NUM_TRIALS

    run = start("driver", tune=SEARCH, **SETTINGS)
    run.wait_for(ended(NUM_TRIALS // 2), what="half of the trials")
    run.process.kill()
    run.process.wait()
    assert registered(run) == 0
    before = events(run.folder)
    again = start("driver", resume=run.folder.name, tune=SEARCH)
    resumed = again.result()
    assert resumed["num_trials"] == NUM_TRIALS
    assert resumed["best_values"] == result["best_values"]
    assert resumed["metrics"] == result["metrics"]
    assert trained(again) == uninterrupted["trained"]
    after = events(run.folder)
    assert after[: len(before)] == before
    assert set(Counter((event["event"], event["trial"]) for event in after if event["event"] != "epoch").values()) == {1}
    ended_before = {event["trial"] for event in before if event["event"] == "ended"}
    assert not ended_before & {event["trial"] for event in after[len(before) :]}, "a finished trial was run again"
    assert registered(again) == 1


@pytest.mark.timeout(400)
def test_a_trials_killed_worker_is_replaced(start: Callable[..., Run], nodes: Nodes, uninterrupted: dict[str, Any]) -> None:
    run = start("worker", tune=SEARCH, **SETTINGS)
    run.wait_for(in_the_middle, what="a trial in mid-epoch")
    nodes.train_workers()[-1].send_signal(signal.SIGKILL)
    result = run.result()
    assert result["num_failed"] == 0
    assert result["best_values"] == uninterrupted["result"]["best_values"]
    assert trained(run) == uninterrupted["trained"]
    assert "lost; going on from the last checkpoint" in run.log.read_text()


@pytest.mark.timeout(400)
def test_a_search_goes_on_without_a_lost_node(start: Callable[..., Run], nodes: Nodes, uninterrupted: dict[str, Any]) -> None:
    run = start("node", tune=SEARCH, **SETTINGS)
    run.wait_for(in_the_middle, what="a trial in mid-epoch")
    nodes.cluster.remove_node(nodes.others[1], allow_graceful=False)
    result = run.result()
    assert result["num_failed"] == 0
    assert trained(run) == uninterrupted["trained"]
    assert registered(run) == 1
