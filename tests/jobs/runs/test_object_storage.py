"""Runs whose storage is a bucket of a real S3 server: the workers' mirrors are elsewhere than the driver's, as on another node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import ray
import yaml

from manta.cluster.ports import free_ports
from manta.console import people_console
from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.inference.predictor import Predictor
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage
from manta.storage.object_store import fetch, names, store
from manta_jobs.runs import tune as job
from manta_jobs.runs.prepare import prepare
from manta_jobs.runs.train import resume, train
from manta_jobs.training.few_rows.linear import LINEAR_FOLDER

from ...platform.registry.test_tracking import mlflow_server
from ..conftest import experiment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from manta.config import ExperimentConfig
    from manta_jobs.runs.results import TrainedModel

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
slow = pytest.mark.faults  # two minutes each, so beside those that kill processes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), free_ports(1)[0]) as address:
        yield address


@pytest.fixture
def storage(bucket: str, server: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """One in a bucket, with the registry on a server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MANTA_STORAGE", f"{bucket}/manta")
    return Storage.resolve(None)


def run_of(storage: Storage, verb: str) -> Path:
    """The folder of the only run, in this process's mirror."""
    (name,) = names(storage.runs)
    assert f"-{verb}-" in name
    return storage.runs / name


def weights_of(model: TrainedModel) -> list[str]:
    return [epoch["weights_sha256"] for epoch in model.history]


def forget(storage: Storage, node_cache: Path) -> None:
    """Lose the mirrors of all nodes, as if everything went on elsewhere."""
    shutil.rmtree(storage.root)
    shutil.rmtree(node_cache)


def test_a_run_leaves_everything_in_the_bucket(
    ray_cluster: None,
    storage: Storage,
    node_cache: Path,
    two_classes: Path,
    tiny_model: Path,
) -> None:
    model = train(experiment(two_classes, tiny_model, num_epochs=4), console=people_console())
    folder = run_of(storage, "train")
    expected = {"artifact", "checkpoints", "config.yaml", "curves.png", "data", "mlflow.json", "preflight.json"}
    assert set(names(folder)) == expected | {"report.json", "run.json", "steps.jsonl"}
    assert names(folder / "checkpoints") == [f"step-{model.history[-1]['step']:08d}"]  # the last epoch is the one that is kept

    forget(storage, node_cache)
    assert ModelArtifact.load(fetch(folder / "artifact")).manifest == model.artifact.manifest
    with pytest.raises(InputError, match=rf"is finished: its model is in {storage.url}/runs/{folder.name}/artifact and"):
        resume(folder.name, console=people_console())
    registry = ModelRegistry(storage)
    version = registry.get("tiny")
    assert version.run == folder.name
    assert registry.files.fetch(version).manifest == model.artifact.manifest


def test_a_linear_run_leaves_everything_in_the_bucket(
    ray_cluster: None, storage: Storage, node_cache: Path, three_classes: Path, tiny_model: Path
) -> None:
    model = train(experiment(three_classes, tiny_model, method="linear"), console=people_console())
    assert names(model.run.path / LINEAR_FOLDER) == ["linear.npz", "train.npy", "validation.npy"]
    assert {"modules.json", "2_Dense", "manta.json"} <= set(names(model.run.artifact))
    forget(storage, node_cache)
    found = ModelRegistry(storage).files.fetch(model.version)
    assert found.manifest.is_linear
    assert Predictor(found, device="cpu").predict(["where is my parcel"])[0].label in found.manifest.labels


@slow
def test_a_killed_driver_is_resumed_from_the_bucket_alone(
    ray_cluster: None,
    storage: Storage,
    node_cache: Path,
    two_classes: Path,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    brought = storage.root / "submitted" / "0-rows.csv"  # as a submitted job brings its data
    brought.parent.mkdir(parents=True)
    shutil.copy(two_classes, brought)
    store(brought)
    config = experiment(brought, tiny_model, num_epochs=4, checkpoint_steps=2)
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(config.document()))
    command = [sys.executable, "-m", "manta.cli", "train", str(tmp_path / "e.yaml")]
    with (tmp_path / "log").open("w") as log:
        address = ray.get_runtime_context().gcs_address
        driver = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": address}, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 240
            while not (names(storage.runs) and len(names(run_of(storage, "train") / "checkpoints")) > 1):
                assert driver.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
        finally:
            driver.kill()
            driver.wait()
    said, folder = (tmp_path / "log").read_text(), run_of(storage, "train")
    assert f"manta train --resume {storage.url}/runs/{folder.name}" in "".join(said.split("\n"))
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        time.sleep(0.1)  # the workers it leaves would still write

    forget(storage, node_cache)
    model = resume(f"{storage.url}/runs/{folder.name}", console=people_console())
    assert model.distribution["resumed_at_steps"][0] > 0
    alone = train(experiment(two_classes, tiny_model, num_epochs=4), console=people_console())  # nothing happens to it
    assert weights_of(model) == weights_of(alone)
    assert json.loads(fetch(folder / "report.json").read_text())["artifact"] == f"{storage.url}/runs/{folder.name}/artifact"


def search(data: Path, model: Path, **settings: object) -> ExperimentConfig:
    """Four short trials of one worker; no two of them have the same loss."""
    return experiment(data, model, num_workers=1, num_epochs=3, metric="loss").with_values(
        {
            "tune.space": {"train.learning_rate": {"loguniform": [1e-4, 1e-2]}},
            "tune.budget.num_trials": 4,
            **{f"tune.{name}": value for name, value in settings.items()},
        }
    )


@slow
def test_a_search_keeps_only_the_winners_weights_in_the_bucket(
    ray_cluster: None, storage: Storage, node_cache: Path, two_classes: Path, tiny_model: Path
) -> None:
    tuned = job.tune(search(two_classes, tiny_model, scheduler="none", confirm=None), console=people_console())
    folder = run_of(storage, "tune")
    events = [json.loads(line) for line in fetch(folder / "trials.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("ended") == 4
    assert {"best.yaml", "mlflow-trials.json", "report.html", "report.json", "trials.yaml"} <= set(names(folder))
    with_weights = {
        trial
        for trial in names(folder / "trials")
        for checkpoint in names(folder / "trials" / trial)
        if "model.safetensors" in names(folder / "trials" / trial / checkpoint)
    }
    assert with_weights == {tuned.winner.name}


@slow
def test_a_search_is_resumed_from_the_bucket_alone(
    ray_cluster: None, storage: Storage, node_cache: Path, two_classes: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(search(two_classes, tiny_model, search="random", confirm=None), verb="tune", console=people_console())

    def broken_off(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "winning_run", broken_off)  # all trials have ended, and nothing is made of them yet
        with pytest.raises(KeyboardInterrupt):
            job.run(prepared, console=people_console(), address=None, started=time.monotonic())
    forget(storage, node_cache)
    before = fetch(prepared.folder.path / "trials.jsonl").read_text()
    tuned = job.resume(prepared.folder.name, console=people_console())
    assert len(tuned.trials) == 4
    assert tuned.model.version.run == prepared.folder.name
    assert fetch(prepared.folder.path / "trials.jsonl").read_text() == before
