"""`prepare` writes the config before training, with every `auto` replaced."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from manta.config import ExperimentConfig
from manta.config.file import load_config
from manta.label_check.decisions import LabelDecision, add_decisions, text_hash
from manta_jobs.runs.prepare import PreparedRun, prepare, reopen

from ...conftest import rows_of, write_csv

if TYPE_CHECKING:
    from pathlib import Path


def prepared(data: Path, encoder: Path, /, *, separator: str = "|", **sections: Any) -> tuple[PreparedRun, str]:
    """The prepared run and what it said."""
    document: dict[str, Any] = {
        "name": "tiny",
        "data": {"train": str(data), "label_separator": separator, "validation_fraction": 0.1},
        "model": {"pretrained": str(encoder), "max_length": 32},
    }
    for name, values in sections.items():
        document[name] = document.get(name, {}) | values
    said = Console(file=io.StringIO(), width=200)
    run = prepare(ExperimentConfig.model_validate(document), verb="tune", console=said)
    return run, said.file.getvalue()  # type: ignore[attr-defined]


def test_the_run_folder_holds_what_was_chosen(three_classes: Path, tiny_model: Path) -> None:
    run, said = prepared(three_classes, tiny_model)
    written = load_config(run.folder.config_path)
    assert written == run.config
    # 192 rows are 6 steps; a model this narrow takes the highest rate there is.
    assert (written.train.learning_rate, written.train.num_epochs) == (1e-3, 11)
    assert written.tune.searched["train.learning_rate"].loguniform == (2.5e-4, 3e-3)
    assert "Learning rate 1.0e-03 and 11 epochs, by the rule for 3 classes, 66 steps and width 32" in said.splitlines()
    assert reopen(run.folder.name, verb="tune", console=Console(file=io.StringIO())).config == written


def test_what_was_told_is_kept_without_a_word(three_classes: Path, tiny_model: Path) -> None:
    run, said = prepared(three_classes, tiny_model, train={"learning_rate": 3e-4, "num_epochs": 2})
    assert (run.config.train.learning_rate, run.config.train.num_epochs) == (3e-4, 2)
    assert "by the rule" not in said


def test_wrong_labels_are_told_and_the_loss_allows_for_them(tmp_path: Path, tiny_model: Path, three_classes: Path) -> None:
    topics = ["delivery", "billing", "account"]
    rows = rows_of(topics, 1200)
    wrong = [
        (text, topics[(topics.index(label) + 1 + row % 2) % 3] if row % 8 == 0 else label) for row, (text, label) in enumerate(rows)
    ]
    data = write_csv(tmp_path / "wrong.csv", wrong)
    run, said = prepared(data, tiny_model)
    share = run.config.train.noise_share
    assert share == pytest.approx(0.125, abs=0.04)
    assert f"Warning: label noise: about {share:.0%} of the training labels are wrong, and at least" in said
    assert f"the training allows for it (train.label_noise: {share:g}). manta data check lists the rows." in said
    assert load_config(run.folder.config_path).train.label_noise == share
    told, said = prepared(data, tiny_model, train={"label_noise": 0})
    assert told.config.train.label_noise == 0
    assert "the training takes them as they are" in said
    right, said = prepared(three_classes, tiny_model)
    assert right.config.train.label_noise == 0
    assert "label noise" not in said


def test_labels_that_apply_or_not_count_as_two_classes(several_labels: Path, tiny_model: Path) -> None:
    settings = {"num_epochs": 10000, "batch_size": 8}
    run, said = prepared(several_labels, tiny_model, separator=";", model={"task": "multilabel"}, train=settings)
    assert run.config.train.learning_rate == 2.8e-4  # a third of 7e-5 x 384 / 32, whatever the number of labels
    assert "by the rule for 3 labels that apply or not" in said


def test_decisions_that_people_make_later_are_those_of_the_next_run(three_classes: Path, tiny_model: Path, tmp_path: Path) -> None:
    decisions, (first, second) = tmp_path / "labels.jsonl", rows_of(["delivery", "billing", "account"], 240)[:2]
    add_decisions(decisions, [LabelDecision(text_hash(first[0]), first[1], None)])
    run, said = prepared(three_classes, tiny_model, data={"corrections": str(decisions)})
    assert f"decisions of {decisions}: 1 applied, 0 unused as no row has their text, 0 conflicting" in said
    add_decisions(decisions, [LabelDecision(text_hash(second[0]), second[1], None)])
    again = reopen(run.folder.name, verb="tune", console=Console(file=io.StringIO()))
    assert again.dataset.content_hash == run.dataset.content_hash
    assert sum(again.dataset.num_rows.values()) == 239


def test_a_run_that_fine_tuned_under_auto_goes_on_with_it(three_classes: Path, tiny_model: Path) -> None:
    """Earlier versions fine-tuned under `auto` even if rows were few, and left checkpoints. Today's `auto` leaves none."""
    run, _ = prepared(three_classes, tiny_model)
    run.folder.write_facts(run.folder.read_facts() | {"verb": "train"})
    config = run.folder.config_path
    config.write_text(config.read_text().replace("method: full", "method: auto"))
    assert reopen(run.folder.name, verb="train", console=Console(file=io.StringIO())).config.train.method == "auto"
    (run.folder.path / "checkpoints" / "step-00000010").mkdir(parents=True)
    assert reopen(run.folder.name, verb="train", console=Console(file=io.StringIO())).config.train.method == "full"
