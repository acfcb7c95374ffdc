"""A real search: real Tune trials that start real Ray Train workers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from manta.config import ExperimentConfig
from manta.config_file import load_config
from manta.console import people_console
from manta.registry import ModelRegistry
from manta.storage import Storage
from manta_jobs.train import train
from manta_jobs.tune import tune


def search(data: Path, model: Path) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "name": "searched",
            "data": {"train": str(data)},
            "model": {"pretrained": str(model), "max_length": 32},
            "train": {"num_workers": 2, "learning_rate": 1e-6, "num_epochs": 3, "batch_size": 16, "cpus_per_worker": 1},
            "tune": {
                "space": {"train.learning_rate": {"loguniform": [1e-3, 1e-2]}, "model.dropout": {"uniform": [0.0, 0.2]}},
                "budget": {"num_trials": 2},
            },
        }
    )


@pytest.mark.timeout(600)
def test_a_search_registers_its_best_trial_and_train_repeats_it(
    ray_cluster: None, two_classes: Path, tiny_model: Path, own_storage: Path
) -> None:
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    config = search(two_classes, tiny_model)
    tuned = tune(config, console=people_console())

    assert len(tuned.trials) == 2
    assert tuned.num_failed == 0
    own, drawn = sorted(tuned.trials, key=lambda trial: trial.values["train.learning_rate"])
    # The first trial is the config as it stands, and its learning rate is too small to learn anything.
    assert own.values == {"train.learning_rate": 1e-6, "model.dropout": 0.1}
    assert 1e-3 <= drawn.values["train.learning_rate"] <= 1e-2
    assert tuned.trials[0] == drawn
    # Each trial trained with the numbers it was given.
    for trial in tuned.trials:
        assert {epoch["learning_rate"] for epoch in trial.history} == {trial.values["train.learning_rate"]}
        assert {epoch["dropout"] for epoch in trial.history} == {trial.values["model.dropout"]}

    best = load_config(tuned.best_config_path)
    assert best == config.with_values(drawn.values)
    assert ModelRegistry(Storage(own_storage)).get("searched").run == tuned.model.run.name
    entry = json.loads((tuned.model.run.path / "mlflow.json").read_text())
    tracked = MlflowClient(tracking_uri=entry["uri"]).get_run(entry["run_id"])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["train.learning_rate"] == str(drawn.values["train.learning_rate"])
    recorded = yaml.safe_load((tuned.model.run.path / "trials.yaml").read_text())
    assert [row["values"] for row in recorded] == [trial.values for trial in tuned.trials]

    repeated = train(best, console=people_console())
    assert [epoch["weights_sha256"] for epoch in repeated.history] == [epoch["weights_sha256"] for epoch in drawn.history]
    assert repeated.artifact.manifest.metrics == tuned.model.artifact.manifest.metrics
