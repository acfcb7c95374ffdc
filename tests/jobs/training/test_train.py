"""Real Ray Train workers with real DeepSpeed engines on a tiny model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import ray
import torch
import torch.distributed as dist
from mlflow import MlflowClient
from ray.train import RunConfig, ScalingConfig
from safetensors.numpy import load_file
from transformers import AutoTokenizer, pipeline

from manta.console import people_console
from manta.errors import InputError, RunError
from manta.inference.artifact import ModelArtifact
from manta.inference.predictor import Predictor
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage
from manta_jobs.runs.train import train
from manta_jobs.training.distribution import agreed_hash
from manta_jobs.training.progress import Board
from manta_jobs.training.ray_train import LeanTrainer
from manta_jobs.training.recovery import Recovery
from manta_jobs.training.trainer import fit

from ..conftest import experiment, outcomes

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow.entities import Run

STAGES = (0, 1, 2, 3)


def tracked_run(folder: Path) -> tuple[Run, MlflowClient]:
    """MLflow's record of the run in a folder."""
    entry = json.loads((folder / "mlflow.json").read_text())
    client = MlflowClient(tracking_uri=entry["uri"])
    return client.get_run(entry["run_id"]), client


@pytest.mark.timeout(400)
def test_two_workers_train_the_model_that_one_worker_trains(two_classes: Path, tiny_model: Path, tmp_path: Path) -> None:
    """At ZeRO 0 to 3 in fp32 without dropout: the global batch is the same, so the weights are, but for rounding."""
    config = experiment(two_classes, tiny_model, num_epochs=1, micro_batch_size=4)  # gradients are accumulated, too
    variants: dict[str, dict[str, Any]] = {f"zero-{stage}": {"train.zero_stage": stage} for stage in STAGES}
    variants["still"] = {"train.learning_rate": 1e-30}  # too small to change a weight; the stage is auto
    one = outcomes(config, variants, folder=tmp_path / "one", num_workers=1)
    two = outcomes(config, variants, folder=tmp_path / "two", num_workers=2)
    initial = load_file(tiny_model / "model.safetensors")
    # The same weights, evaluated by one worker and by two: the same to the last digit.
    # (But for biases of zero, whose bits it does change, and with them the hash.)
    left_out = ("examples_per_s", "checkpoint", "train_loss", "weights_sha256")
    still = [{key: value for key, value in run["still"].state.history[0].items() if key not in left_out} for run in (one, two)]
    assert still[0] == still[1]

    for stage in list(variants)[: len(STAGES)]:
        assert one[stage].weights.keys() == two[stage].weights.keys()
        for name, value in one[stage].weights.items():
            np.testing.assert_allclose(two[stage].weights[name], value, atol=1e-4, err_msg=f"{stage}: {name}")
            np.testing.assert_allclose(one["zero-0"].weights[name], value, atol=1e-4, err_msg=f"{stage} against 0: {name}")
    # The weights did change, so that equality says something.
    embedding = "embeddings.position_embeddings.weight"
    assert np.abs(one["zero-0"].weights[f"bert.{embedding}"] - initial[embedding]).max() > 1e-2
    # A third of the vocabulary is in no training text and does not learn.
    words = "embeddings.word_embeddings.weight"
    assert {len(run[stage].weights[f"bert.{words}"]) for run in (one, two) for stage in run} == {len(initial[words]) - 10}

    # Nothing is split where everything fits, and a checkpoint says so.
    for size, run in ((1, one["still"].state), (2, two["still"].state)):
        assert (run.distribution or {})["zero_stage"] == 0
        assert (run.world_size, run.zero_stage) == (size, 0)

    # What ZeRO promises, as the report shows it: half the bytes on each of two workers.
    def held(stage: int, what: str) -> list[int]:
        distribution = two[f"zero-{stage}"].state.distribution or {}
        assert distribution["zero_stage"] == stage
        return [worker["bytes"][what] for worker in distribution["workers"]]

    whole = held(0, "optimizer")[0]
    assert whole == 2 * held(0, "parameters")[0]
    for stage, what in (
        (1, "optimizer"),
        (2, "optimizer"),
        (3, "optimizer"),
        (2, "gradients"),
        (3, "gradients"),
        (3, "parameters"),
    ):
        for mine, everything in zip(held(stage, what), held(0, what), strict=True):
            assert mine == pytest.approx(everything / 2, rel=0.15), f"ZeRO {stage}: {what}"
    assert held(1, "gradients") == pytest.approx(held(0, "gradients"), rel=0.01)
    assert held(2, "parameters") == pytest.approx(held(0, "parameters"), rel=0.01)  # but for alignment
    facts = two["zero-2"].state.distribution or {}
    assert (facts["world_size"], len(facts["workers"])) == (2, 2)
    assert facts["weights_sha256"]["first_step"] != facts["weights_sha256"]["last_step"]


def compare_unequal_weights(arguments: dict[str, Any]) -> None:
    """Workers that hold different weights and compare them as after every epoch."""
    agreed_hash({"weight": torch.tensor([float(dist.get_rank())])})


def test_workers_that_drifted_apart_fail_the_run(ray_cluster: None, tmp_path: Path) -> None:
    trainer = LeanTrainer(
        compare_unequal_weights,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="drifted", storage_path=str(tmp_path), callbacks=[Recovery(Board(), "drifted", max_failures=0)]),
    )
    with pytest.raises(RunError, match=r"the weights differ between workers \(worker 0: \w{12}, worker 1"):
        fit(trainer, tmp_path)


@pytest.mark.timeout(400)
def test_a_run_learns_and_leaves_a_registered_model(
    ray_cluster: None, two_classes: Path, tiny_model: Path, own_storage: Path
) -> None:
    config = experiment(two_classes, tiny_model, num_epochs=8)
    model = train(config, console=people_console())

    assert [epoch["epoch"] for epoch in model.history] == list(range(1, 9))
    assert model.history[-1]["train_loss"] < 0.5 * model.history[0]["train_loss"]
    assert model.artifact.manifest.metrics["accuracy"] >= 0.9
    # Workers compare the hash of their weights after each epoch and fail if it differs; here is what they agreed on.
    assert all(len(epoch["weights_sha256"]) == 64 for epoch in model.history)

    report = json.loads((model.run.path / "report.json").read_text())
    assert report["metrics"] == model.artifact.manifest.metrics
    assert report["version"] == 1
    confusion = np.array(report["confusion"])
    assert (
        confusion.sum()
        == sum(part["num_decisions"] for part in report["reliability"])
        == sum(row["rows"] for row in report["per_class"].values())
    )
    assert confusion.trace() / confusion.sum() == pytest.approx(report["metrics"]["accuracy"])
    assert report["fit"]["verdict"] == model.fit.verdict != "overfits"
    assert (model.run.path / "curves.png").is_file()

    run, client = tracked_run(model.run.path)
    assert (run.info.status, run.info.run_name) == ("FINISHED", model.run.name)
    assert len(client.get_metric_history(run.info.run_id, "validation/accuracy")) == 8
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {"model", "frozen", "config.yaml", "report.json", "curves.png"}

    registry = ModelRegistry(Storage(own_storage))
    champion = registry.get("tiny")
    assert champion.version == 1
    artifact = registry.files.fetch(champion)
    assert artifact.manifest.run == ModelArtifact.load(model.run.artifact).manifest.run == model.run.name

    # Words that are in no training text have the vectors of the pretrained model, to the last bit.
    encoder = AutoTokenizer.from_pretrained(tiny_model)
    learnt = load_file(artifact.path / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    pretrained = load_file(tiny_model / "model.safetensors")["embeddings.word_embeddings.weight"]
    seen, unseen = (encoder.convert_tokens_to_ids(words) for words in (["parcel", "refund"], ["password", "login", "[MASK]"]))
    np.testing.assert_array_equal(learnt[unseen], pretrained[unseen])
    assert np.abs(learnt[seen] - pretrained[seen]).min(axis=1).max() > 0

    texts = artifact.manifest.examples
    ours = Predictor(artifact).predict(texts)
    # Plain transformers has the same logits, and so the same labels; the probabilities are those at the temperature.
    plain = pipeline("text-classification", str(artifact.path), top_k=None, function_to_apply="none")(texts)
    temperature = artifact.manifest.label_space.temperature
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine.label == theirs[0]["label"]
        odds = {item["label"]: np.exp(item["score"] / temperature) for item in theirs}
        assert mine.scores == pytest.approx({name: value / sum(odds.values()) for name, value in odds.items()}, abs=1e-5)
    record = artifact.manifest.calibration
    assert record is not None
    assert record.target_precision == 0.95
    assert record.test is not None
    assert report["calibration"] == record.model_dump(mode="json")


@pytest.mark.timeout(400)
def test_a_failing_worker_fails_the_run_with_its_own_message(
    ray_cluster: None, two_classes: Path, tiny_model: Path, own_storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from manta.data import encode

    real = encode.write_encoded

    def write_only_train(split: Any, path: Path, **arguments: Any) -> None:
        if path.name != "validation.arrow":
            real(split, path, **arguments)

    monkeypatch.setattr(encode, "write_encoded", write_only_train)
    with pytest.raises(RunError, match=r"training failed on worker \d: FileNotFoundError: .*validation\.arrow") as caught:
        train(experiment(two_classes, tiny_model), console=people_console())
    (folder,) = (own_storage / "runs").iterdir()
    run, _ = tracked_run(folder)
    assert (run.info.status, run.data.tags["manta.error"]) == ("FAILED", str(caught.value)[:500])


def test_more_workers_than_the_cluster_holds_are_refused(ray_cluster: None, two_classes: Path, tiny_model: Path) -> None:
    num_cpus = int(ray.cluster_resources()["CPU"])
    with pytest.raises(InputError, match=rf"train.num_workers is {num_cpus + 1}.*{num_cpus} CPU"):
        train(experiment(two_classes, tiny_model, num_workers=num_cpus + 1), console=people_console())
