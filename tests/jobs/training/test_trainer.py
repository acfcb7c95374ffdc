"""The trainer without the processes that our runs do not need."""

from __future__ import annotations

import os

from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR, ENV_VARS_TO_PROPAGATE

from manta_jobs.cluster.connection import PREEMPTION_WATCHER, _without_preemption_watcher
from manta_jobs.training.ray_train import LeanTrainer


def kinds(trainer: TorchTrainer) -> list[type]:
    return [type(callback) for callback in trainer._create_default_callbacks()]


def test_only_the_callback_that_shares_out_data_sets_is_left_out() -> None:
    two = ScalingConfig(num_workers=2)
    rays, ours = kinds(TorchTrainer(print, scaling_config=two)), kinds(LeanTrainer(print, scaling_config=two))
    assert DatasetsCallback in rays
    assert ours == [kind for kind in rays if kind is not DatasetsCallback]


def test_a_cluster_of_our_own_has_no_watcher_and_others_keep_theirs() -> None:
    assert PREEMPTION_WATCHER == ENABLE_PREEMPTION_WATCHER_ENV_VAR
    assert PREEMPTION_WATCHER in ENV_VARS_TO_PROPAGATE
    assert PREEMPTION_WATCHER not in os.environ
    with _without_preemption_watcher(is_own=False):
        assert PREEMPTION_WATCHER not in os.environ
    with _without_preemption_watcher(is_own=True):
        assert os.environ[PREEMPTION_WATCHER] == "0"
    assert PREEMPTION_WATCHER not in os.environ
