"""The mean of several runs' weights: what it is, and when it is kept."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from manta.config import ExperimentConfig
from manta.data.encode import write_encoded
from manta.model.encoder import load_tokenizer
from manta_jobs.packaging.averaging import AVERAGE_FILE, AverageSetup, WeightAverage, average_weights, read_average
from manta_jobs.training.batches import TokenizedData
from manta_jobs.training.checkpoints import TrainingState, checkpoint_name, write_checkpoint

from ..registered import LABELS, Trained, split_of

if TYPE_CHECKING:
    from pathlib import Path

Weights = dict[str, torch.Tensor]


@pytest.fixture
def good(classifiers: dict[str, Trained]) -> Weights:
    """The weights of a trained classifier."""
    return load_file(classifiers["better"].artifact.path / "model.safetensors")


def averaged(folder: Path, model: Path, runs: list[Weights]) -> WeightAverage:
    """Average the runs on rows that a good model answers well."""
    config = ExperimentConfig.model_validate(
        {"name": "desk", "data": {"train": "rows.csv"}, "model": {"pretrained": str(model), "max_length": 16}}
    )
    checkpoints = []
    for number, weights in enumerate(runs):
        state = TrainingState(step=1, finished=True)
        write_checkpoint(folder / f"run-{number}", asdict(state), weights=weights, moments={})
        checkpoints.append(folder / f"run-{number}" / checkpoint_name(1))
    rows = [("parcel courier late", "delivery"), ("charged invoice card", "billing"), ("password login email", "account")] * 8
    write_encoded(split_of(rows), folder / "validation.arrow", tokenizer=load_tokenizer(config.model), max_length=16)
    data = TokenizedData(folder, LABELS, pad_id=0)
    return average_weights(AverageSetup(tuple(checkpoints), config, data, folder / AVERAGE_FILE, num_threads=1))


def test_the_mean_of_the_weights_is_written_if_its_loss_is_no_higher(good: Weights, tiny_model: Path, tmp_path: Path) -> None:
    """Two heads on one encoder: the loss is convex in the head, so the mean is better than both on average."""
    torch.manual_seed(0)
    noise = 0.5 * torch.randn_like(good["classifier.weight"])
    runs = [good | {"classifier.weight": good["classifier.weight"] + sign * noise} for sign in (1, -1)]
    found = averaged(tmp_path, tiny_model, runs)
    assert found.is_kept
    assert found.metrics["loss"] < found.mean_loss
    assert (found.num_runs, found.num_rows, len(found.run_losses)) == (2, 24, 2)
    assert "The model is the mean of the weights of 2 runs with the winning settings: loss 0." in found.sentence()
    mean = read_average(tmp_path)
    assert set(mean) == set(good)
    for name, values in good.items():
        torch.testing.assert_close(mean[name], values, rtol=0, atol=1e-6)


def reordered(weights: Weights) -> Weights:
    """The same function with the hidden units in another order."""
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    reads = ("query.weight", "key.weight", "value.weight", "intermediate.dense.weight", "pooler.dense.weight", "embeddings.weight")
    writes = ("output.dense.weight", "output.dense.bias", "LayerNorm.weight", "LayerNorm.bias")
    found = dict(weights)
    for name, values in weights.items():
        if name.endswith(reads):
            found[name] = values[:, order].contiguous()
        elif name.endswith(writes):
            found[name] = values[order].contiguous()
    return found


def test_runs_that_ended_far_apart_are_not_averaged(good: Weights, tiny_model: Path, tmp_path: Path) -> None:
    found = averaged(tmp_path, tiny_model, [good, reordered(good)])
    assert found.run_losses[0] == pytest.approx(found.run_losses[1], abs=1e-5)
    assert not found.is_kept
    assert "The mean of the weights of 2 runs is not kept: loss" in found.sentence()
    assert not (tmp_path / AVERAGE_FILE).exists()
