"""The trainer without the processes that our runs do not need."""

from __future__ import annotations

from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

from manta_jobs.training.ray_train import LeanTrainer


def kinds(trainer: TorchTrainer) -> list[type]:
    return [type(callback) for callback in trainer._create_default_callbacks()]


def test_only_the_callback_that_shares_out_data_sets_is_left_out() -> None:
    two = ScalingConfig(num_workers=2)
    rays, ours = kinds(TorchTrainer(print, scaling_config=two)), kinds(LeanTrainer(print, scaling_config=two))
    assert DatasetsCallback in rays
    assert ours == [kind for kind in rays if kind is not DatasetsCallback]
