"""Faster inference formats at the end of a run, through real Ray workers."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from manta.config.file import write_config
from manta.console import people_console
from manta.data import load_dataset
from manta.inference.artifact import ModelArtifact
from manta.inference.formats import CPU_FORMATS
from manta.inference.predictor import Predictor
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage, partial_beside
from manta_jobs.cluster.connection import OneNode
from manta_jobs.cluster.own_process import ProcessLostError
from manta_jobs.packaging.formats import make_formats_on_cluster
from manta_jobs.packaging.outputs_on_cluster import outputs_on_cluster
from manta_jobs.runs.train import train

from ..conftest import experiment, ran_without_cluster

if TYPE_CHECKING:
    from pathlib import Path

    from ..registered import Trained


@pytest.mark.timeout(500)
def test_a_run_leaves_formats_that_answer_alike_and_a_card(
    ray_cluster: None, three_classes: Path, tiny_model: Path, own_storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(three_classes, tiny_model, num_epochs=6, zero_stage=3).with_values({"registry.fast_formats": True})
    model = train(config, console=people_console())
    manifest = model.artifact.manifest
    dataset = load_dataset(config.data)
    test = dataset.test
    assert [(item.name, item.num_rows) for item in manifest.formats] == [(name, len(test)) for name in CPU_FORMATS]
    assert manifest.formats[0].accepted
    assert manifest.metrics["accuracy"] == manifest.formats[0].reference_accuracy  # metrics are those of the safetensors

    # Registered and fetched again, every format answers.
    registry = ModelRegistry(Storage(own_storage))
    artifact = registry.files.fetch(registry.get("tiny"))
    expected = Predictor(artifact, device="cpu", format="safetensors").logits(test.texts)
    for item in manifest.formats:
        if item.accepted:
            found = Predictor(artifact, device="cpu", format=item.name).logits(test.texts)
            assert np.abs(found - expected).max() <= max(1e-4, 1.5 * (item.max_logit_difference or 0.0))
    card = (artifact.path / "README.md").read_text()
    assert f"| test rows | {len(test)} |" in card
    assert json.loads((model.run.path / "report.json").read_text())["metrics"] == manifest.metrics

    # A run that is gone on with neither makes them again nor answers by them where the safetensors are meant.
    before = {path.name: path.stat().st_mtime_ns for path in model.artifact.path.glob("model-*")}
    again: Any = make_formats_on_cluster(
        ModelArtifact.recover(model.artifact.path),
        test,
        logits=expected,
        training_texts=dataset.train.texts,
        console=people_console(),
    )
    assert again == ModelArtifact.load(model.artifact.path)
    assert {path.name: path.stat().st_mtime_ns for path in model.artifact.path.glob("model-*")} == before
    np.testing.assert_allclose(outputs_on_cluster(again, test, console=people_console()), expected, rtol=0, atol=1e-5)


def test_a_crash_of_the_engine_costs_the_formats_only(
    classifiers: dict[str, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(_node: OneNode, _function: Any, path: Path, *_: Any) -> None:
        partial_beside(path).mkdir()
        raise ProcessLostError("signal SIGSEGV")

    monkeypatch.setattr(OneNode, "run_apart", lost)
    trained = classifiers["good"]
    path = shutil.copytree(trained.artifact.path, tmp_path / "model")
    artifact, test = ModelArtifact.load(path), trained.dataset.test
    logits = Predictor(artifact, device="cpu").logits(test.texts)
    made = make_formats_on_cluster(
        artifact, test, logits=logits, training_texts=trained.dataset.train.texts, console=people_console()
    )
    assert made == artifact
    assert list(tmp_path.iterdir()) == [path]
    said = " ".join(capsys.readouterr().err.split())
    assert "No faster formats: the process that makes them crashed twice (signal SIGSEGV). PyTorch answers instead." in said


KILLED_AFTER_REGISTRATION = """
import os, signal, sys
from pathlib import Path

from manta.config.file import load_config
from manta.console import people_console
from manta_jobs.runs import finish
from manta_jobs.runs.train import train

finish.make_formats_on_cluster = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
train(load_config(Path(sys.argv[1])), console=people_console())
"""
RESUMED = """
import sys

from manta.console import people_console
from manta_jobs.runs.train import resume

resume(sys.argv[1], console=people_console())
"""


@pytest.mark.timeout(400)
def test_a_version_serves_before_its_formats_join_it(
    two_classes: Path, tiny_model: Path, own_storage: Path, tmp_path: Path
) -> None:
    config = experiment(two_classes, tiny_model, num_workers=1, num_epochs=1).with_values({"registry.fast_formats": True})
    path = tmp_path / "experiment.yaml"
    write_config(config, path)
    with pytest.raises(AssertionError, match=r"tiny@1 is registered and can be served\.\s+assert -9"):
        ran_without_cluster("-c", KILLED_AFTER_REGISTRATION, str(path), folder=tmp_path)
    registry = ModelRegistry(Storage(own_storage))
    version = registry.get("tiny")
    assert registry.files.fetch(version).manifest.formats == ()

    ran_without_cluster("-c", RESUMED, version.run, folder=tmp_path)
    artifact = registry.files.fetch(registry.get("tiny"))
    assert [item.name for item in artifact.manifest.formats] == list(CPU_FORMATS)
    assert artifact.manifest.formats[0].accepted
    golden = artifact.golden()
    assert golden is not None
    assert {"safetensors", "openvino-fp32"} <= {*golden.probabilities}
    assert [item.version for item in registry.versions("tiny")] == [1]
