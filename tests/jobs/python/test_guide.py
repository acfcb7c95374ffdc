"""docs/python.md, run block after block with a tiny encoder: what it shows, and that results are those of the commands."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import manta
from manta.config.file import load_config
from manta.inference.predictor import Predictor
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage
from manta_jobs.runs.prepare import reopen

from ..conftest import people_console, rows_of

if TYPE_CHECKING:
    from manta import Evaluation, Model

GUIDE = Path(__file__).parents[3] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
LABELS = ["account", "billing", "delivery"]


@pytest.fixture
def tickets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    """The guide's files, and its functions with an encoder and settings that are quick."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("tickets.csv", 0), ("more_tickets.csv", 5)):
        pd.DataFrame(rows_of(LABELS, 240, seed=seed), columns=["message", "topic"]).to_csv(name, index=False)
    quick: dict[str, Any] = {
        "model": {"pretrained": str(tiny_model), "max_length": 32, "dropout": 0.0},
        "train": {"method": "full", "num_epochs": 4, "learning_rate": 3e-3, "cpus_per_worker": 1},
        "data": {"validation_fraction": 0.1},
        "registry": {"fast_formats": False},
    }
    monkeypatch.setattr(manta, "train", partial(manta.train, **quick), raising=False)
    monkeypatch.setattr(manta, "tune", partial(manta.tune, **quick), raising=False)


@pytest.mark.timeout(900)
def test_the_guide_does_what_it_says(tickets: None, capsys: pytest.CaptureFixture[str]) -> None:
    known: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{GUIDE.name}, block {number + 1}", "exec"), known)  # noqa: S102  # the guide's own code
        if number == 0:
            check_trained(known["model"])
        if number == 1:
            check_settings(known["model"])
    printed = capsys.readouterr().out
    assert "train rows: no column 'massage'; did you mean message?" in printed
    check_answers(known)
    check_evaluated(known["result"], known["model"])
    check_search(known["best"])
    assert str(known["champion"]) == "support@1"
    assert (known["folder"].version, known["folder"].labels) == (None, LABELS)


def check_trained(model: Model) -> None:
    """The rows were kept, the registry has the version, and a restarted run reads the same rows."""
    assert repr(model).splitlines()[0].startswith("Model support@1: 3 labels, test accuracy ")
    assert all(str(place) in repr(model) for place in (model.path, model.report))
    assert model.run is not None
    kept = pd.read_parquet(model.run.path / "rows" / "train.parquet")
    assert kept.to_dict() == pd.read_csv("tickets.csv").to_dict()
    config = load_config(model.run.config_path)
    assert config.data.train == str(model.run.path / "rows" / "train.parquet")
    registry = ModelRegistry(Storage.resolve(None))
    assert registry.get("support").metrics["accuracy"] == model.metrics["accuracy"]
    report = model.run.report_path.read_text(encoding="utf-8")
    model.run.report_path.unlink()  # as if it had been interrupted
    again = reopen(model.run.name, verb="train", console=people_console())
    assert again.dataset.content_hash == model.artifact.manifest.data_hash
    model.run.report_path.write_text(report, encoding="utf-8")


def check_settings(model: Model) -> None:
    assert (model.version, model.config["data"]["test_fraction"]) == (2, 0.2)
    assert (model.config["train"]["class_weights"], len(model.epochs)) == ("balanced", 2)


def check_answers(known: dict[str, Any]) -> None:
    model, rows = known["model"], known["rows"]
    expected = Predictor(model.artifact).predict(list(rows["message"]))
    assert list(rows["answer"]) == [answer.label for answer in expected]
    best = known["probabilities"].argmax(axis=1)
    assert [model.labels[index] for index in best] == list(rows["answer"])
    assert [answer.label for answer in model.predict(rows)] == list(rows["answer"])  # a table: the training's column counts


def check_evaluated(result: Evaluation, model: Model) -> None:
    rows = pd.read_csv("more_tickets.csv")
    right = [answer.label for answer in model.predict(rows)] == rows["topic"]
    assert (result.num_rows, result.metrics["accuracy"]) == (240, pytest.approx(right.mean()))
    assert result.report.is_file()
    assert repr(result).startswith("Evaluation of support version 2 on 240 rows: accuracy 0.")


def check_search(model: Model) -> None:
    assert len(model.trials) == 3
    assert {"trial", "values", "status", "score", "epochs"} <= set(model.trials[0])
    assert model.report is not None
    assert model.report.name == "report.html"
    assert manta.load("support@3").epochs == model.epochs
