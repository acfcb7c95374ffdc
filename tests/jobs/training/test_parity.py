"""One answer however it is asked for: the engine, the safetensors, plain transformers, batch prediction and HTTP."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from transformers import pipeline

from manta.console import people_console
from manta.inference.artifact import ModelArtifact
from manta.inference.predictor import Predictor
from manta.storage.folders import RunFolder
from manta_jobs.batch_prediction import predict
from manta_jobs.runs.finish import kept_artifact
from manta_serve.api.routes import create_api
from manta_serve.versions.served_model import ServedModel

from ...serve.untrained import service_of
from ..conftest import experiment, outcomes

LORA = {"model.lora.rank": 4, "model.lora.target_modules": ["query", "value"]}
VARIANTS: dict[str, dict[str, Any]] = {f"zero-{stage}": {"train.zero_stage": stage} for stage in range(4)}
VARIANTS |= {"lora": LORA, "lora-zero-3": {"train.zero_stage": 3, **LORA}}
PREDICTED = ("zero-3", "lora-zero-3")
"""Those whose file of predictions is made, too: it takes ten seconds, and all of them are read from the same kind of folder."""


def log_odds(scores: dict[str, float], names: list[str]) -> np.ndarray:
    """Differences of the logits to the first label's, `(outputs,)`: all that a softmax keeps of them."""
    found = np.log([scores[name] for name in names])
    return found - found[0]


@pytest.mark.timeout(400)
def test_every_way_to_ask_gives_the_engines_logits(three_classes: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = experiment(three_classes, tiny_model, num_epochs=1)
    for name, outcome in outcomes(config, VARIANTS, folder=tmp_path, num_workers=2).items():
        run = RunFolder(tmp_path / "finished" / name)
        run.path.mkdir(parents=True)
        prepared = dataclasses.replace(outcome.prepared, folder=run)
        kept_artifact(prepared, config.with_values(VARIANTS[name]), kept=outcome.state.history[0])
        artifact = ModelArtifact.load(run.artifact)
        names, texts = list(artifact.manifest.labels), [str(text) for text in prepared.dataset.validation.texts]
        assert outcome.logits.shape == (len(texts), 3)

        np.testing.assert_allclose(Predictor(artifact, device="cpu").logits(texts), outcome.logits, rtol=0, atol=1e-4, err_msg=name)
        plain = pipeline("text-classification", str(artifact.path), top_k=None, function_to_apply="none", device="cpu")(texts)
        theirs = [[{item["label"]: item["score"] for item in row}[label] for label in names] for row in plain]
        np.testing.assert_allclose(theirs, outcome.logits, rtol=0, atol=1e-4, err_msg=name)

        expected = outcome.logits - outcome.logits[:, :1]
        client = TestClient(create_api(service_of(ServedModel(Predictor(artifact, device="cpu"), name="tiny", version=1))))
        with client:
            answers = client.post("/v1/classify", json={"texts": texts}).json()["predictions"]
        served = np.array([log_odds(answer["scores"], names) for answer in answers])
        np.testing.assert_allclose(served, expected, rtol=0, atol=2e-4, err_msg=name)

        if name not in PREDICTED:
            continue
        rows, out = tmp_path / f"{name}.jsonl", tmp_path / f"{name}-out.jsonl"
        rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        predict(str(artifact.path), str(rows), out=out, text_columns=["text"], overwrite=False, console=people_console())
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["text"] for line in lines] == texts
        # A row's label and its probability are all that a file of predictions holds.
        probabilities = artifact.manifest.label_space.probabilities(outcome.logits)
        assert [line["label"] for line in lines] == [names[index] for index in probabilities.argmax(1)]
        np.testing.assert_allclose([line["score"] for line in lines], probabilities.max(1), rtol=0, atol=1e-4, err_msg=name)
