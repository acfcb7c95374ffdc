"""Work of one node on clusters of our own and of others, and the watcher that our own does not start."""

from __future__ import annotations

import os

import pytest
import ray
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR, ENV_VARS_TO_PROPAGATE

from manta_jobs.cluster.connection import PREEMPTION_WATCHER, STARTED_HERE, OneNode, _own_cluster, num_cores


def process() -> int:
    return os.getpid()


def test_without_a_cluster_work_runs_in_this_process() -> None:
    if ray.is_initialized():
        pytest.skip("this process is connected to a cluster")
    assert OneNode().run(process) == OneNode().start(process).result() == os.getpid()


@pytest.mark.ray
def test_work_runs_here_on_a_cluster_of_our_own_and_on_a_node_of_others(ray_cluster: None) -> None:
    assert OneNode().run(process) != os.getpid()
    with _own_cluster():
        node = OneNode()
        assert node.run(process) == node.start(process).result() == os.getpid()
        assert node.num_threads == num_cores()
    assert OneNode().run(process) != os.getpid()


def test_a_cluster_of_our_own_has_no_watcher_and_others_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PREEMPTION_WATCHER, raising=False)
    assert PREEMPTION_WATCHER == ENABLE_PREEMPTION_WATCHER_ENV_VAR
    assert PREEMPTION_WATCHER in ENV_VARS_TO_PROPAGATE
    with _own_cluster():
        assert (os.environ[PREEMPTION_WATCHER], STARTED_HERE.is_set()) == ("0", True)
    assert (PREEMPTION_WATCHER in os.environ, STARTED_HERE.is_set()) == (False, False)
    monkeypatch.setenv(PREEMPTION_WATCHER, "1")
    with _own_cluster():
        assert os.environ[PREEMPTION_WATCHER] == "1"
    assert os.environ[PREEMPTION_WATCHER] == "1"
