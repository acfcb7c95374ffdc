"""Settings that change training: each test would fail if its setting were ignored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from manta.data import load_dataset
from manta.evaluation.metrics import classification_metrics
from manta.inference.artifact_writing import write_artifact
from manta.inference.predictor import Predictor
from manta.model.encoder import load_model_config, load_tokenizer
from manta_jobs.packaging.weights import plain_weights
from manta_jobs.training.batches import TokenizedData

from ..conftest import Outcome, experiment, outcomes

if TYPE_CHECKING:
    pass

VARIANTS = {
    "plain": {},
    "again": {},
    "other seed": {"train.seed": 1},
    "still": {"train.learning_rate": 1e-30},  # too small to change a weight
    "still, other seed": {"train.learning_rate": 1e-30, "train.seed": 1},
    "accumulated": {"train.micro_batch_size": 3},
    "checkpointed": {"train.gradient_checkpointing": True},
    "frozen layer": {"model.freeze_layers": 1},
    "frozen embeddings": {"model.freeze_embeddings": True},
    "lora": {"model.lora.rank": 4, "model.lora.target_modules": ["query", "value"]},
    "weighted": {"train.class_weights": {"billing": 1.0, "delivery": 9.0}},
    "focal": {"train.focal_gamma": 2.0},
    "noisy": {"train.label_noise": 0.3},
    "smoothed": {"train.label_smoothing": 0.2},
    "slower below": {"train.layer_decay": 0.1},
    "cosine": {"train.schedule": "cosine"},
    "bf16": {"train.precision": "bf16"},
    "patient": {"train.early_stopping": 1, "train.num_epochs": 6, "train.learning_rate": 1e-12},
    "dropout": {"model.dropout": 0.3},
    "dropout again": {"model.dropout": 0.3},
}
SHARDED = {
    "plain": {},
    "offloaded": {"train.zero_stage": 2, "train.offload_optimizer": True},
    "all offloaded": {"train.zero_stage": 3, "train.offload_optimizer": True, "train.offload_parameters": True},
    "fp16 whole": {"train.zero_stage": 0, "train.precision": "fp16"},
    "fp16": {"train.zero_stage": 2, "train.precision": "fp16"},
    "fp16 all split": {"train.zero_stage": 3, "train.precision": "fp16"},
    "bf16 all split": {"train.zero_stage": 3, "train.precision": "bf16"},
    "lora all split": {"train.zero_stage": 3, "model.lora.rank": 4},
    "frozen layer": {"train.zero_stage": 1, "model.freeze_layers": 1},
}


@pytest.fixture(scope="module")
def alone(
    two_classes: Path,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("alone")
    base = experiment(two_classes, tiny_model).with_values({"storage": str(folder), "train.zero_stage": 0})
    return outcomes(base, VARIANTS, folder=folder)


@pytest.fixture(scope="module")
def together(
    two_classes: Path,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("together")
    base = experiment(two_classes, tiny_model).with_values({"storage": str(folder), "train.zero_stage": 0})
    return outcomes(base, SHARDED, folder=folder, num_workers=2)


def distance(left: Outcome, right: Outcome) -> float:
    """The largest difference of any weight."""
    assert left.weights.keys() == right.weights.keys()
    return max(float(np.abs(left.weights[name] - right.weights[name]).max()) for name in left.weights)


def scores(outcome: Outcome) -> list[dict[str, float]]:
    """The metrics of each epoch, without how long it took and where its checkpoint is."""
    return [
        {key: value for key, value in epoch.items() if key not in ("examples_per_s", "checkpoint")}
        for epoch in outcome.state.history
    ]


@pytest.mark.timeout(600)
def test_the_same_seed_gives_the_same_run(alone: dict[str, Outcome]) -> None:
    assert scores(alone["plain"]) == scores(alone["again"])
    assert scores(alone["dropout"]) == scores(alone["dropout again"])
    assert distance(alone["dropout"], alone["dropout again"]) == 0.0
    assert distance(alone["plain"], alone["other seed"]) > 1e-3
    assert distance(alone["plain"], alone["dropout"]) > 1e-3
    # From the first epoch on: pretrained models come with dropout switched off.
    assert scores(alone["plain"])[0]["train_loss"] != scores(alone["dropout"])[0]["train_loss"]


def test_every_seed_begins_with_the_same_new_head(alone: dict[str, Outcome]) -> None:
    """Or the mean of the weights of a search's runs would answer badly."""
    assert distance(alone["still"], alone["still, other seed"]) < 1e-20
    assert distance(alone["still"], alone["plain"]) > 1e-3


def test_accumulated_gradients_are_those_of_the_whole_batch(alone: dict[str, Outcome]) -> None:
    assert (alone["plain"].state.distribution or {})["micro_batches_per_step"] == 1
    assert (alone["accumulated"].state.distribution or {})["micro_batches_per_step"] == 6
    assert distance(alone["plain"], alone["accumulated"]) < 1e-4


def test_checkpointing_changes_memory_and_not_the_loss(alone: dict[str, Outcome]) -> None:
    # That it takes less memory is measured in test_memory.py.
    plain, checkpointed = ([epoch["train_loss"] for epoch in alone[name].state.history] for name in ("plain", "checkpointed"))
    assert checkpointed == pytest.approx(plain, abs=1e-6)


def test_frozen_parts_stay_as_pretrained(alone: dict[str, Outcome], together: dict[str, Outcome], tiny_model: Path) -> None:
    pretrained = load_file(tiny_model / "model.safetensors")

    def changed(outcome: Outcome, part: str) -> bool:
        names = [name for name in pretrained if name.startswith(part)]
        assert names
        return any(not np.array_equal(outcome.weights[f"bert.{name}"], pretrained[name]) for name in names)

    for outcome in (alone["frozen layer"], together["frozen layer"]):
        assert not changed(outcome, "embeddings.")
        assert not changed(outcome, "encoder.layer.0.")
        assert changed(outcome, "encoder.layer.1.")
    assert not changed(alone["frozen embeddings"], "embeddings.")
    assert changed(alone["frozen embeddings"], "encoder.layer.0.")
    assert changed(alone["plain"], "embeddings.")


def test_lora_trains_adapters_and_the_head_only(alone: dict[str, Outcome], together: dict[str, Outcome], tiny_model: Path) -> None:
    pretrained = load_file(tiny_model / "model.safetensors")
    for outcome in (alone["lora"], together["lora all split"]):
        adapters = [name for name in outcome.weights if "lora_B" in name]
        assert adapters
        assert all(np.abs(outcome.weights[name]).max() > 0 for name in adapters)  # they begin at zero
        for name, value in outcome.weights.items():
            plain = name.removeprefix("base_model.model.bert.").replace(".base_layer.", ".")
            if plain in pretrained and "pooler" not in plain:
                np.testing.assert_array_equal(value, pretrained[plain], err_msg=name)
    assert all("query" in name or "value" in name for name in alone["lora"].weights if "lora" in name)


@pytest.mark.parametrize("name", ["weighted", "focal", "noisy", "smoothed", "slower below", "cosine", "bf16"])
def test_it_trains_another_model(alone: dict[str, Outcome], name: str) -> None:
    assert distance(alone["plain"], alone[name]) > 1e-4


def test_a_lower_layer_learns_slower_with_layer_decay(alone: dict[str, Outcome], tiny_model: Path) -> None:
    pretrained = load_file(tiny_model / "model.safetensors")
    name = "embeddings.position_embeddings.weight"
    moved = {run: np.abs(alone[run].weights[f"bert.{name}"] - pretrained[name]).mean() for run in ("plain", "slower below")}
    assert moved["slower below"] < 0.01 * moved["plain"]


def test_training_stops_early_when_nothing_gets_better(alone: dict[str, Outcome]) -> None:
    assert len(alone["patient"].state.history) == 2
    assert alone["patient"].state.finished


@pytest.mark.timeout(600)
def test_offloading_trains_the_same_model(together: dict[str, Outcome]) -> None:
    assert distance(together["plain"], together["offloaded"]) < 1e-4
    assert distance(together["plain"], together["all offloaded"]) < 1e-4


@pytest.mark.parametrize("name", ["plain", "frozen layer", "offloaded", "all offloaded", "lora all split"])  # ZeRO 0, 1, 2, 3, 3
def test_the_finished_model_answers_as_the_engine_did(
    together: dict[str, Outcome], name: str, two_classes: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """By the loss on the validation rows, as the engine had it after the last epoch and as the safetensors have it on a CPU."""
    config = experiment(two_classes, tiny_model).with_values({"train.zero_stage": 0, **SHARDED[name]})
    dataset = load_dataset(config.data)
    last = together[name].state.history[-1]
    checkpoint = Path(last["checkpoint"])
    (tokenised,) = checkpoint.parents[1].glob("runs/*/data")  # the one preparation that all of these runs share
    artifact = write_artifact(
        tmp_path / "model",
        weights=plain_weights(checkpoint, config, TokenizedData(tokenised, dataset.labels, pad_id=0)),
        model_config=load_model_config(config.model, dataset.labels),
        tokenizer=load_tokenizer(config.model),
        labels=dataset.labels,
        facts=dict.fromkeys(("name", "data_hash", "run", "pretrained"), "")
        | {"max_length": 32, "metrics": {}, "examples": [], "config": {}},
    )
    logits = Predictor(artifact, device="cpu").logits(dataset.validation.texts)
    found = classification_metrics(logits, dataset.validation.targets, labels=dataset.labels)
    assert found["loss"] == pytest.approx(last["loss"], abs=2e-6)
    assert found["accuracy"] == last["accuracy"]


@pytest.mark.parametrize("name", ["fp16 whole", "fp16", "fp16 all split", "bf16 all split"])
def test_lower_precision_learns_nearly_the_same(together: dict[str, Outcome], name: str) -> None:
    plain, lower = (together[run].state.history[-1]["train_loss"] for run in ("plain", name))
    assert lower == pytest.approx(plain, rel=0.05)
    assert distance(together["plain"], together[name]) > 0
