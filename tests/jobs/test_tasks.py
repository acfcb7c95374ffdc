"""Several labels a row, and text pairs: from files through a training to a model that plain transformers loads."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from transformers import pipeline

from manta.config import ExperimentConfig, RegistryConfig
from manta.console import people_console
from manta.data import load_dataset
from manta.errors import InputError
from manta.evaluation.metrics import METRIC_NAMES, best_thresholds
from manta.inference.artifact import ModelArtifact
from manta.inference.calibration import figures_on
from manta.inference.predictor import Predictor
from manta_jobs.cli.show_run import show_trained, shown_metrics
from manta_jobs.packaging.held_out import calibrated_with_scope
from manta_jobs.reporting.evaluation.terminal import show_evaluation
from manta_jobs.runs.evaluate import evaluate
from manta_jobs.runs.train import train

if TYPE_CHECKING:
    from pathlib import Path

ONE_SCREEN = 24


def experiment(data: Path, model: Path, *, data_settings: dict[str, Any], task: str, **train_settings: Any) -> ExperimentConfig:
    settings = {"method": "full", "num_workers": 1, "batch_size": 16, "cpus_per_worker": 1}
    return ExperimentConfig.model_validate(
        {
            "name": "tiny",
            "data": {"train": str(data), "validation_fraction": 0.1, **data_settings},
            "model": {"pretrained": str(model), "max_length": 32, "task": task},
            "train": settings | train_settings,
            "registry": {"fast_formats": False},
        }
    )


@pytest.mark.timeout(400)
def test_a_multilabel_run_learns_and_leaves_its_thresholds(
    several_labels: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = experiment(
        several_labels,
        tiny_model,
        data_settings={"label_separator": ";"},
        task="multilabel",
        learning_rate=5e-3,
        num_epochs=12,
        metric="f1_micro",
    )
    model = train(config, console=people_console())
    manifest = model.artifact.manifest

    # Giving every row all labels has a micro F1 of 0.57, and giving it the commonest set (none) an accuracy of 0.22.
    assert manifest.metrics["f1_micro"] >= 0.8
    assert manifest.metrics["f1_macro"] >= 0.8
    assert manifest.metrics["accuracy"] >= 0.35  # thresholds are chosen for F1, which is not the best for whole sets

    # The thresholds are those of the validation rows.
    dataset = load_dataset(config.data, task="multilabel")
    predictor = Predictor(ModelArtifact.load(model.artifact.path), device="cpu")
    probabilities = predictor.labels.probabilities(predictor.logits(dataset.validation.texts))
    assert manifest.thresholds == pytest.approx(best_thresholds(probabilities, dataset.validation.targets), abs=1e-5)
    assert json.loads((model.run.path / "report.json").read_text())["metrics"] == manifest.metrics

    # Plain transformers has the same logits; their sigmoids at the temperature decide by the thresholds.
    record = manifest.calibration
    assert record is not None
    texts = [str(text) for text in dataset.test.texts[:20]]
    plain = pipeline("text-classification", str(model.artifact.path), top_k=None, function_to_apply="none", device="cpu")(texts)
    for mine, theirs in zip(predictor.predict(texts), plain, strict=True):
        scores = {item["label"]: 1 / (1 + np.exp(-item["score"] / record.temperature)) for item in theirs}
        assert mine.scores == pytest.approx(scores, abs=1e-5)
        threshold_of = dict(zip(manifest.labels, manifest.thresholds or [], strict=True))
        assert set(mine.labels) == {name for name, score in mine.scores.items() if score >= threshold_of[name]}

    # The calibration is in the report and in the last lines; the test rows have the figures that their logits give.
    assert json.loads((model.run.path / "report.json").read_text())["calibration"] == record.model_dump(mode="json")
    logits = predictor.logits(dataset.test.texts)
    expected = figures_on(record, logits, dataset.test.targets, labels=predictor.labels).model_dump()
    assert record.test is not None
    assert record.test.model_dump() == pytest.approx(expected, abs=1e-5)
    assert record.validation.num_rows == len(dataset.validation)

    # A resumed run leaves what it finds, whatever rows it is given.
    again = calibrated_with_scope(
        model.artifact,
        dataset,
        logits=None,
        embeddings=None,
        config=RegistryConfig(target_precision=0.5),
        console=people_console(),
    )
    assert again == model.artifact == ModelArtifact.load(model.artifact.path)

    # `manta evaluate` says the same of the same rows, and shows what matters for several labels.
    test = tmp_path / "test.jsonl"
    names = np.array(manifest.labels)
    lines = [
        {"text": text, "label": names[targets > 0].tolist()}
        for text, targets in zip(dataset.test.texts, dataset.test.targets, strict=True)
    ]
    test.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = evaluate(str(model.artifact.path), str(test), settings={}, console=people_console(), out=tmp_path / "report")
    metrics, own = found.assessment.metrics, {name: manifest.metrics[name] for name in METRIC_NAMES}
    assert {name: metrics[name] for name in own} == pytest.approx(own, abs=1e-6)
    assert found.assessment.num_rows == len(dataset.test)
    assert found.page == tmp_path / "report" / "report.html"
    assert {file.name for file in found.page.parent.glob("*.png")} >= {"label_errors.png", "per_class_f1.png"}
    assert ("f1_micro", "micro F1") in shown_metrics(model)
    capsys.readouterr()
    show_trained(model, people_console(), experiment=None)
    check_end(capsys.readouterr().err, uncertain=record.sentences()[1])
    show_evaluation(found.assessment, found.page, people_console())
    shown = capsys.readouterr().err
    assert "macro ROC-AUC" in shown
    assert "threshold" in shown
    with pytest.raises(InputError, match="reads single texts, so give one text where there are two: give --text once"):
        evaluate(str(model.artifact.path), str(test), settings={"text": ["text", "more"]}, console=people_console())


def check_end(end: str, *, uncertain: str) -> None:
    """The end of a run begins with the verdict and fits one screen of 80 columns."""
    assert end.startswith(("Good: tiny@1 beats", "Not better than the baseline: "))
    assert sum(math.ceil(len(line) / 80) for line in end.splitlines()) <= ONE_SCREEN
    assert "test micro F1" in end
    assert uncertain in end
    assert "tiny@1 is the champion" in end


@pytest.mark.timeout(400)
def test_a_run_on_text_pairs_tells_the_texts_apart(text_pairs: Path, tiny_model: Path, own_storage: Path) -> None:
    config = experiment(
        text_pairs, tiny_model, data_settings={"text": ["before", "after"]}, task="auto", learning_rate=3e-3, num_epochs=5
    )
    model = train(config, console=people_console())
    manifest = model.artifact.manifest
    assert manifest.num_texts == 2
    assert manifest.task == "binary"
    # Without knowing which text is which, half of the rows would be a guess.
    assert manifest.metrics["accuracy"] >= 0.9

    predictor = Predictor(model.artifact, device="cpu")
    pairs = [text for text in manifest.examples if isinstance(text, tuple)]
    assert len(pairs) == 8
    plain = pipeline("text-classification", str(model.artifact.path), top_k=None, function_to_apply="none", device="cpu")
    for logits, (first, second) in zip(predictor.logits(pairs), pairs, strict=True):
        theirs = {item["label"]: item["score"] for item in plain({"text": first, "text_pair": second})}
        assert dict(zip(manifest.labels, logits, strict=True)) == pytest.approx(theirs, abs=1e-4)

    mixed = ("my parcel is late", "the invoice card")
    asked = [mixed, mixed[::-1], (mixed[0], "the driver is late")]
    assert [prediction.label for prediction in predictor.predict(asked)] == ["billing", "delivery", "delivery"]
    logits = predictor.logits(asked)
    assert min(np.abs(logits[1] - logits[0]).max(), np.abs(logits[2] - logits[0]).max()) > 0.1
    with pytest.raises(InputError, match="this model reads pairs of texts"):
        predictor.predict([mixed[1]])

    # `manta evaluate` finds it by its name, and puts the report into the storage.
    columns = {"text": ["before", "after"]}
    found = evaluate("tiny", str(text_pairs), settings=columns, console=people_console())
    assert (found.assessment.subject.title, found.assessment.num_rows) == ("tiny version 1", 300)
    assert found.assessment.metrics["accuracy"] >= 0.9
    assert found.page.parent.parent == own_storage / "evaluations"
    assert found.page.parent.name.startswith("tiny-1-")
    with pytest.raises(InputError, match="give --text twice"):
        evaluate(str(model.artifact.path), str(text_pairs), settings={"text": "before"}, console=people_console())
