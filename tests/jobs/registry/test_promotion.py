"""The gate over real classifiers and a real registry: what becomes the champion, what does not, and the way back."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

from manta.config import ExperimentConfig
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.registry.frozen_rows import FrozenRows, text_hashes
from manta.registry.models import ModelRegistry
from manta.registry.versions import RegisteredVersion
from manta_jobs.cli.show_run import next_commands
from manta_jobs.registry.promotion import Promotion, promote, rollback, settle, show_promotion

from ..registered import Trained, register, train_tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from manta.data import TextDataset
    from manta.storage.folders import Storage

    Register = Callable[..., RegisteredVersion]

pytestmark = pytest.mark.slow

SUITE = """
tests:
  - name: parcels
    kind: minimum_functionality
    texts: ["parcel courier", "the parcel is late", "tracking package"]
    label: delivery
"""


@pytest.fixture
def registry(shared_storage: Storage) -> ModelRegistry:
    return ModelRegistry(shared_storage)


@pytest.fixture
def new(shared_storage: Storage, classifiers: dict[str, Trained], request: pytest.FixtureRequest) -> Register:
    """Registers a kind of classifier under the test's name."""

    def add(kind: str, **arguments: object) -> RegisteredVersion:
        return register(shared_storage, classifiers[kind], name=request.node.originalname, **arguments)  # type: ignore[arg-type]

    return add


def shown(promotion: Promotion) -> str:
    console = Console(record=True, width=200, soft_wrap=True, file=None, quiet=False)
    with console.capture() as captured:
        show_promotion(promotion, console)
    return captured.get()


def failing(promotion: Promotion) -> list[str]:
    assert promotion.verdict is not None
    return [line.name for line in promotion.verdict.failing]


def champion_of(registry: ModelRegistry, version: RegisteredVersion) -> int:
    return registry.get(version.name).version


def test_a_worse_model_is_refused_and_a_better_one_passes(registry: ModelRegistry, new: Register) -> None:
    good = new("good", suite=SUITE)
    first = promote(registry, good)
    assert (first.action, first.promoted) == ("first", True)

    worse = promote(registry, new("worse"))
    assert (worse.action, champion_of(registry, good)) == ("refused", 1)
    assert failing(worse)[:2] == ["accuracy", "McNemar"]
    assert next_commands(first, experiment=None)[0] == (f"manta serve {good.name}", f"{good} answers over HTTP")
    assert next_commands(worse, experiment=None)[0][1] == f"{good} answers over HTTP, not the new {worse.version}"
    text = shown(worse)
    assert f"{worse.version} is not promoted: {good} stays the champion." in text
    assert f'manta models promote {worse.version} --force "why"' in text
    assert "worse: accuracy -" in text

    same = promote(registry, new("good"))
    assert (same.action, failing(same)) == ("refused", ["accuracy", "McNemar"])
    assert "no improvement: accuracy +0.00 points" in shown(same)

    better = promote(registry, new("better"))
    assert failing(better) == []
    assert (better.action, better.notes[0]) == ("promoted", "Compared on 300 test rows of the champion.")
    assert better.notes[1].startswith(f"{better.version} was trained on other data than {good}")
    assert champion_of(registry, good) == 4
    assert registry.with_alias(good.name, "candidate") is None
    assert any(line.name == "behaviour: parcels" for line in better.verdict.lines) if better.verdict else False
    assert "manta models rollback" in shown(better)

    decisions = registry.decisions(good.name)
    assert [(item.action, item.version, item.previous) for item in decisions] == [
        ("first", 1, None),
        ("refused", 2, 1),
        ("refused", 3, 1),
        ("promoted", 4, 1),
    ]
    assert not decisions[1].figures[0].passed
    assert decisions[1].figures[0].candidate < decisions[1].figures[0].champion


def test_the_same_model_passes_where_equals_are_allowed(registry: ModelRegistry, new: Register) -> None:
    promote(registry, new("good"))
    again = promote(registry, new("good"), allow_equal=True)
    assert (again.action, champion_of(registry, again.version)) == ("promoted", 2)
    assert registry.decisions(again.version.name)[-1].why == "equals are allowed"


def test_a_reason_overrules_the_gate_and_is_recorded(
    registry: ModelRegistry, new: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANTA_USER", "ada")
    promote(registry, new("good"))
    worse = new("worse")
    with pytest.raises(InputError, match="--force needs a reason"):
        promote(registry, worse, force="  ")
    forced = promote(registry, worse, force="the labels were wrong")
    assert (forced.action, champion_of(registry, worse)) == ("forced", 2)
    last = registry.decisions(worse.name)[-1]
    assert (last.action, last.by, last.why) == ("forced", "ada", "the labels were wrong")
    assert not all(line.passed for line in last.figures)
    with pytest.raises(InputError, match="is the champion already"):
        promote(registry, worse, force="again")


def test_rollback_goes_back_and_further_back_but_never_forth(registry: ModelRegistry, new: Register) -> None:
    versions = [new("good") for _ in range(3)]
    name = versions[0].name
    for version in versions:
        promote(registry, version, allow_equal=True)
    assert rollback(registry, name).version.version == 2
    assert (registry.get(name).version, registry.get(name, version=3).aliases) == (2, ())
    assert rollback(registry, name).version.version == 1
    with pytest.raises(InputError, match="there is no champion before version 1"):
        rollback(registry, name)
    promote(registry, registry.get(name, version=3), allow_equal=True)
    assert rollback(registry, name).version.version == 1
    assert [item.action for item in registry.decisions(name)][3:] == ["rolled back", "rolled back", "promoted", "rolled back"]


def test_rollback_passes_over_versions_that_are_gone(registry: ModelRegistry, new: Register) -> None:
    versions = [new("good") for _ in range(4)]
    name = versions[0].name
    for version in versions:
        promote(registry, version, allow_equal=True)
    registry.delete(versions[1])
    shutil.rmtree(registry.files.fetch(versions[2]).path)
    back = rollback(registry, name)
    assert back.version.version == 1
    assert back.notes == (
        "Version 3 is passed over: it is registered, its files gone.",
        "Version 2 is passed over: it is deleted.",
    )


def test_rows_that_the_candidate_was_trained_on_are_left_out(
    registry: ModelRegistry, new: Register, classifiers: dict[str, Trained]
) -> None:
    good = new("good")
    promote(registry, good)
    own = FrozenRows.of(classifiers["better"].dataset)
    leaked = text_hashes([f"  {text.upper()}" for text in own.texts[:250] if isinstance(text, str)])
    seen = np.unique(np.concatenate([own.seen, leaked]))
    better = promote(registry, new("better", frozen=dataclasses.replace(own, seen=seen)))
    assert better.verdict is not None
    assert better.verdict.num_rows == 50
    assert better.notes[2].startswith("250 more were left out")
    everything = np.unique(np.concatenate([own.seen, text_hashes(own.texts)]))
    blind = new("better", frozen=dataclasses.replace(own, seen=everything))
    if better.promoted:
        rollback(registry, good.name)
    with pytest.raises(InputError, match=r"left 300 test rows, of which 0 are new to .*@3; at least 30 are needed"):
        promote(registry, blind)
    assert champion_of(registry, good) == 1


def config_of(version: RegisteredVersion, *, promote: bool) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"name": version.name, "data": {"train": "rows.csv"}, "registry": {"promote": promote}})


def test_the_end_of_a_run_promotes_only_what_passes(
    registry: ModelRegistry, new: Register, classifiers: dict[str, Trained]
) -> None:
    actions = []
    for kind, wanted in (("good", True), ("worse", True), ("better", False), ("better", True)):
        version = new(kind)
        artifact = classifiers[kind].artifact
        result = settle(registry, version, config_of(version, promote=wanted), artifact=artifact)
        actions.append((result.action, champion_of(registry, version)))
    assert actions == [("first", 1), ("refused", 1), (None, 1), ("promoted", 4)]
    again = settle(registry, version, config_of(version, promote=True), artifact=artifact)
    assert (again.notes, len(registry.decisions(version.name))) == (("It is the champion.",), 3)


def test_a_champion_that_cannot_be_compared_with_leaves_the_run_whole(
    registry: ModelRegistry, new: Register, classifiers: dict[str, Trained]
) -> None:
    good = new("good")
    promote(registry, good)
    folder = registry.files.fetch(good).path
    shutil.rmtree(folder)
    better = new("better")
    result = settle(registry, better, config_of(better, promote=True), artifact=classifiers["better"].artifact)
    assert (result.action, registry.get(better.name, version=2).aliases) == (None, ("candidate",))
    assert f"its folder {folder} is gone" in result.notes[0]
    assert f'manta models promote {better} --force "why"' in result.notes[0]
    with pytest.raises(InputError, match=r"its folder .* is gone.* To promote it all the same: manta models promote"):
        promote(registry, better)
    assert promote(registry, better, force="the old one is lost").action == "forced"


def test_a_candidate_whose_files_are_gone_is_never_promoted(registry: ModelRegistry, new: Register) -> None:
    good = new("good")
    promote(registry, good)
    lost = new("better")
    shutil.rmtree(registry.files.fetch(lost).path)
    for force in (None, "I want it"):
        with pytest.raises(InputError, match=r"version 2: its folder .* is gone; train it again"):
            promote(registry, lost, force=force)
    assert champion_of(registry, good) == 1


def relabeled(folder: Path, trained: Trained, model: Path, names: dict[str, str]) -> Trained:
    """An untrained model of as many rows, with other names for the labels."""
    dataset = trained.dataset
    labels = LabelSpace(tuple(sorted({names.get(name, name) for name in (*dataset.labels.names, *names)})), "multiclass")
    rows = [(f"{text} again", names.get(label, label)) for text, label in named_rows(dataset)]
    return train_tiny(folder, rows=rows, test=rows, steps=1, model=model, settings={}, labels=labels)


def named_rows(dataset: TextDataset) -> list[tuple[str, str]]:
    return [
        (str(text), dataset.labels.names[int(index)]) for text, index in zip(dataset.test.texts, dataset.test.targets, strict=True)
    ]


def test_a_model_of_other_labels_is_told_to_take_a_name_of_its_own(
    registry: ModelRegistry,
    shared_storage: Storage,
    classifiers: dict[str, Trained],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    name = "other_labels"
    good = register(shared_storage, classifiers["good"], name=name, suite=SUITE)
    promote(registry, good)
    others = relabeled(tmp_path / "others", classifiers["good"], tiny_model, {"billing": "praise", "account": "blame"})
    other = register(shared_storage, others, name=name)
    result = settle(registry, other, config_of(other, promote=True), artifact=others.artifact)
    assert result.action is None
    assert "other_labels@2 does not know 2 labels (account, billing) of other_labels@1" in result.notes[0]
    assert "give it a `name` of its own" in result.notes[0]
    assert len(registry.decisions(name)) == 1


def test_a_model_with_a_further_label_is_tested_by_what_both_know(
    registry: ModelRegistry,
    shared_storage: Storage,
    classifiers: dict[str, Trained],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    name = "further_label"
    promote(registry, register(shared_storage, classifiers["good"], name=name, suite=SUITE))
    more = relabeled(tmp_path / "more", classifiers["good"], tiny_model, {"praise": "praise"})
    version = register(shared_storage, more, name=name, suite=SUITE.replace("delivery", "praise"))
    result = promote(registry, version)
    assert result.action == "refused"
    assert result.verdict is not None
    assert "behaviour: parcels" in [line.name for line in result.verdict.lines]
    assert any("further_label@2 also knows 1 label (praise)" in note for note in result.notes)
