"""`data.long_texts`: the word that tells the label stands at the end of long texts, where only windows find it."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from manta.console import people_console
from manta.data import load_dataset
from manta.data.encode import EncodedSplit
from manta.evaluation.metrics import classification_metrics
from manta.inference.artifact import ModelArtifact
from manta.inference.predictor import Predictor
from manta.storage.folders import RunFolder
from manta_jobs.batch_prediction import predict
from manta_jobs.runs.finish import kept_artifact
from manta_jobs.runs.prepare import prepare
from manta_jobs.runs.train import train
from manta_jobs.training.batches import WorkerRows
from manta_serve.api.routes import create_api
from manta_serve.versions.served_model import ServedModel

from ...conftest import FILLER, WORDS, write_csv
from ...serve.untrained import service_of
from ..conftest import experiment, outcomes

if TYPE_CHECKING:
    from pathlib import Path

    from manta.config import ExperimentConfig


@pytest.fixture(scope="module")
def late_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of 40 words of filler, and then three of the label: more than the 32 tokens that `experiment` reads."""
    generator = random.Random(0)
    rows: dict[str, str] = {}
    while len(rows) < 360:
        label = list(WORDS)[len(rows) % 3]
        rows.setdefault(" ".join(generator.choices(FILLER, k=40) + generator.sample(WORDS[label], 3)), label)
    return write_csv(tmp_path_factory.mktemp("late") / "rows.csv", list(rows.items()))


def config_of(rows: Path, model: Path, long_texts: str, **train_settings: object) -> ExperimentConfig:
    return experiment(rows, model, **train_settings).with_values({"data.long_texts": long_texts})


def check_every_way_to_ask(artifact: ModelArtifact, texts: list[str], expected: np.ndarray, folder: Path) -> None:
    """The same logits from the predictor, over HTTP, and from batch prediction."""
    predictor = Predictor(artifact, device="cpu", format="safetensors")
    np.testing.assert_allclose(predictor.logits(texts), expected, rtol=0, atol=1e-4)
    probabilities = predictor.labels.probabilities(expected)
    with TestClient(create_api(service_of(ServedModel(predictor, name="tiny", version=1)))) as client:
        answers = client.post("/v1/classify", json={"texts": texts}).json()["predictions"]
        refused = client.post("/v1/classify", json={"texts": texts[:1], "explain": True})
    scores = [[answer["scores"][label] for label in artifact.manifest.labels] for answer in answers]
    np.testing.assert_allclose(scores, probabilities, rtol=0, atol=1e-4)
    assert refused.status_code == 422
    assert "This text is read in 2 windows" in refused.text
    rows, out = folder / "rows.jsonl", folder / "out.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    predict(str(artifact.path), str(rows), out=out, text_columns=["text"], overwrite=False, console=people_console())
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    np.testing.assert_allclose([line["score"] for line in lines], probabilities.max(axis=1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("long_texts", ["cut", "windows"])
def test_a_linear_model_finds_the_word_in_windows(late_words: Path, tiny_model: Path, tmp_path: Path, long_texts: str) -> None:
    trained = train(config_of(late_words, tiny_model, long_texts, method="linear", num_workers=1), console=people_console())
    accuracy = json.loads(trained.run.report_path.read_text())["metrics"]["accuracy"]
    assert trained.artifact.manifest.long_texts == long_texts
    if long_texts == "cut":
        assert accuracy < 0.6
        return
    assert accuracy > 0.8
    model = trained.outcome.kept_linear
    assert model is not None
    data = trained.run.path / "data" / "validation.arrow"
    assert EncodedSplit(data).num_windows.max() == 2
    embeddings = np.load(trained.run.path / "linear" / "validation.npy")
    texts = [str(text) for text in load_dataset(trained.config.data).validation.texts]
    check_every_way_to_ask(trained.artifact, texts, model.regression.logits(embeddings), tmp_path)


@pytest.mark.timeout(400)
def test_a_fine_tuned_model_finds_it_and_answers_as_its_engine_did(late_words: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = config_of(late_words, tiny_model, "windows", num_epochs=8)
    outcome = outcomes(config, {"windows": {}}, folder=tmp_path, num_workers=2)["windows"]
    run = RunFolder(tmp_path / "finished")
    run.path.mkdir(parents=True)
    prepared = outcome.prepared
    scores = classification_metrics(outcome.logits, prepared.dataset.validation.targets, labels=prepared.dataset.labels)
    assert scores["accuracy"] > 0.8
    kept_artifact(dataclasses.replace(prepared, folder=run), prepared.config, kept=outcome.state.history[-1])
    texts = [str(text) for text in prepared.dataset.validation.texts]
    check_every_way_to_ask(ModelArtifact.load(run.artifact), texts, outcome.logits, tmp_path)


def test_each_epoch_reads_the_next_window(late_words: Path, tiny_model: Path) -> None:
    prepared = prepare(config_of(late_words, tiny_model, "windows", num_workers=1), verb="train", console=people_console())
    rows = WorkerRows(prepared.data.folder, prepared.config.train, folds=None, fold=None, pad_id=0, device=torch.device("cpu"))
    batch = rows.batches.epoch(0)[:1]

    def read(epoch: int) -> torch.Tensor:
        (passes,) = rows.steps(batch, epoch=epoch, rank=0, world_size=1, num_micro=1)
        return passes[0].inputs["input_ids"][:, :13]

    first, second, third = (read(epoch) for epoch in range(3))
    assert torch.equal(first, third)
    assert not (first == second).all(dim=1).any()
