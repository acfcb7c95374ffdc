"""The trainer without the processes that our runs do not need."""

from __future__ import annotations

import pytest
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from manta_jobs.cluster.connection import _own_cluster
from manta_jobs.training.ray_train import LeanTrainer

TWO = ScalingConfig(num_workers=2)


def kinds(trainer: TorchTrainer) -> list[type]:
    return [type(callback) for callback in trainer._create_default_callbacks()]


@pytest.fixture
def rays() -> list[type]:
    """The kinds of Ray's own trainer."""
    return kinds(TorchTrainer(print, scaling_config=TWO))


def test_only_the_callback_that_shares_out_data_sets_is_left_out(rays: list[type]) -> None:
    assert DatasetsCallback in rays
    assert kinds(LeanTrainer(print, scaling_config=TWO)) == [kind for kind in rays if kind is not DatasetsCallback]


def test_on_a_cluster_of_this_process_nothing_waits_to_free_the_workers(rays: list[type]) -> None:
    assert PlacementGroupCleanerCallback in rays
    left_out = (DatasetsCallback, PlacementGroupCleanerCallback)
    with _own_cluster():
        assert kinds(LeanTrainer(print, scaling_config=TWO)) == [kind for kind in rays if kind not in left_out]
