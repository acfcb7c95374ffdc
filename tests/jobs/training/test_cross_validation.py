"""Few rows: folds are trained first, their held-out logits take the place of validation rows, and the model gets all rows."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from manta.data.encode import EncodedSplit
from manta.errors import RunError
from manta.evaluation.metrics import classification_metrics
from manta_jobs.runs import train
from manta_jobs.training.checkpoints import CHECKPOINTS
from manta_jobs.training.validation import HELD_OUT_FILE, held_out_logits, joined, read_logits, steps_of_parts, write_logits

from ..conftest import experiment, people_console

if TYPE_CHECKING:
    from pathlib import Path

FOLDS = np.array([0, 1, 2, 1, 0])


def test_held_out_rows_come_back_in_their_order() -> None:
    parts = [np.full((3, 2, 1), 10.0), np.full((2, 2, 1), 11.0), np.full((3, 1, 1), 12.0)]
    together = joined(parts, FOLDS)
    assert together.shape == (2, 5, 1)  # the second fold had time for two epochs only
    assert together[1, :, 0].tolist() == [10, 11, 12, 11, 10]


def test_the_steps_of_all_parts_are_known_before() -> None:
    # Folds leave 3, 3 and 4 of 5 rows to train on.
    assert steps_of_parts(FOLDS, batch_size=2, num_epochs=10) == [20, 20, 20, 30]


def test_logits_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    assert read_logits(tmp_path / "none.npy") is None
    write_logits(tmp_path / HELD_OUT_FILE, np.arange(12.0).reshape(3, 4, 1))
    assert held_out_logits(tmp_path, num_epochs=2)[:, 0].tolist() == [4, 5, 6, 7]
    assert held_out_logits(tmp_path, num_epochs=9)[:, 0].tolist() == [8, 9, 10, 11]
    content = (tmp_path / HELD_OUT_FILE).read_bytes()
    (tmp_path / HELD_OUT_FILE).write_bytes(content[:-8])
    with pytest.raises(RunError, match=r"held-out\.npy: the cross-validation's logits are gone or damaged"):
        held_out_logits(tmp_path, num_epochs=1)


@pytest.mark.timeout(400)
def test_a_run_on_few_rows_trains_on_all_of_them(ray_cluster: None, two_classes: Path, tiny_model: Path, own_storage: Path) -> None:
    config = experiment(two_classes, tiny_model, num_epochs=3).with_values({"data.validation_fraction": "auto"})
    model = train.train(config, console=people_console())

    folder = model.run.path / CHECKPOINTS
    rows = EncodedSplit(model.run.path / "data" / "train.arrow")
    held_out = read_logits(folder / HELD_OUT_FILE)
    assert held_out is not None
    assert held_out.shape == (3, 144, 1)
    labels = model.artifact.manifest.label_space
    plain = type(labels)(labels.names, labels.task)
    for epoch, logits in zip(model.history, held_out, strict=True):
        scores = classification_metrics(logits, rows.targets, labels=plain)
        assert {name: epoch[name] for name in scores} == scores
    assert model.history[-1]["step"] == 3 * 9  # 144 rows in steps of 16
    assert len({epoch["weights_sha256"] for epoch in model.history}) == 3
    calibration = model.artifact.manifest.calibration
    assert calibration is not None
    assert calibration.validation.num_rows == 144
    assert not (model.run.path / "data" / "validation.arrow").exists()
    first = {name: (folder / name).stat().st_mtime_ns for name in ("fold-1.npy", "fold-2.npy", "fold-3.npy")}

    # The command was killed in the training that followed: the folds are not trained again, and the end is the same.
    report = json.loads(model.run.report_path.read_text())
    for checkpoint in folder.glob("step-*"):
        shutil.rmtree(checkpoint)
    model.run.report_path.unlink()
    shutil.rmtree(model.run.artifact)
    again = train.resume(model.run.name, console=people_console())
    assert {name: (folder / name).stat().st_mtime_ns for name in first} == first
    assert again.history[-1]["weights_sha256"] == report["history"][-1]["weights_sha256"]
