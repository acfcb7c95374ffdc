"""Growth of a cluster by its file, and the messages while a run waits; tests/faults has the clusters themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeState
from rich.console import Console

from manta.config import ExperimentConfig, TrainConfig
from manta.errors import InputError
from manta_jobs.cluster.autoscaling import Growth, asked_nodes, grown_nodes
from manta_jobs.cluster.check import read_plan
from manta_jobs.cluster.connection import Cluster, WorkerResources, fit_workers, num_workers_at_once
from manta_jobs.cluster.waiting import Waiting, starting, workers_wanted
from manta_jobs.training.trainer import num_workers_asked

PLAN = read_plan(Path(__file__).parents[3] / "cluster.yaml")
HEAD = {"CPU": 0.0, "memory": 8e9}
GPU_WORKER = WorkerResources(num_cpus=1, use_gpu=True)


def state(kind: str, **resources: float) -> NodeState:
    return NodeState(ray_node_type_name=kind, total_resources=resources)


def train(**settings: Any) -> TrainConfig:
    return TrainConfig.model_validate(settings)


def grown(config: TrainConfig, *others: NodeState) -> Cluster:
    """The shipped cluster with its head and other nodes, as a run of `config` sees it."""
    states = [state("head", **HEAD), *others]
    nodes = grown_nodes(PLAN, states, prefer_gpus=config.use_gpu is not False)
    return Cluster([dict(one.total_resources) for one in states], growth=Growth(nodes, is_known=True))


def test_auto_takes_the_gpus_that_the_shipped_cluster_starts_without() -> None:
    config = train(num_workers=2)
    cluster = grown(config)
    resources = fit_workers(config, cluster)
    assert (resources.num_cpus, resources.use_gpu, resources.most) == (1, True, 8)
    assert num_workers_at_once(resources, cluster.living) == 0


def test_more_than_the_cluster_may_have_is_refused() -> None:
    config = train(num_workers=9)
    with pytest.raises(InputError, match="num_workers is 9, one GPU each, but the cluster can grow to 8"):
        fit_workers(config, grown(config))
    config = train(num_workers=11, use_gpu=False, cpus_per_worker=4)
    with pytest.raises(InputError, match="is 11 with 4 CPU each, but the cluster can grow to 40 CPU on 9 node"):
        fit_workers(config, grown(config))


def test_without_gpus_the_nodes_for_cpus_come_first_and_no_more_than_there_may_be() -> None:
    config = train(num_workers=2, use_gpu=False)
    cluster = grown(config)
    assert [node["CPU"] for node in cluster.nodes] == [0.0, 8.0, 8.0, *[4.0] * 6]  # 8 beside the head
    assert fit_workers(config, cluster).num_cpus == 8


def test_idle_nodes_of_another_kind_make_room_and_a_foreign_node_counts_as_it_is() -> None:
    config = train(num_workers=8)
    cluster = grown(config, state("cpu", CPU=8.0), state("", CPU=2.0, GPU=1.0), state("gpu_spot", CPU=4.0, GPU=1.0, memory=1e9))
    assert sum(node.get("GPU", 0.0) for node in cluster.nodes) == 9
    assert sum(node.get("memory", 0.0) for node in cluster.nodes) == 9e9  # of those that are there it is known


def test_where_nobody_tells_what_can_be_started_a_run_is_taken_at_its_word() -> None:
    living = [{"CPU": 0.0}, {"CPU": 4.0, "GPU": 1.0}]
    assert asked_nodes(train(num_workers=3, use_gpu=True), living) == [{"CPU": 1.0, "GPU": 1.0}] * 2
    assert asked_nodes(train(num_workers=[1, 2], use_gpu=False, cpus_per_worker=8), living) == [{"CPU": 8.0}] * 2
    assert asked_nodes(train(num_workers=2), [{"CPU": 0.0}]) == [{"CPU": 1.0}] * 2
    assert asked_nodes(train(num_workers=2), [{"CPU": 16.0}]) == []


@pytest.mark.parametrize(
    ("num_workers", "most", "asked"), [(3, 8, 3), ([1, 16], 8, (1, 8)), ([1, 4], 8, (1, 4)), ([1, 9], None, (1, 9))]
)
def test_no_more_workers_are_asked_for_than_can_be(num_workers: Any, most: int | None, asked: Any) -> None:
    train = {"num_workers": num_workers}
    config = ExperimentConfig.model_validate({"name": "x", "data": {"train": "x.csv"}, "train": train})
    assert num_workers_asked(config, WorkerResources(num_cpus=1, use_gpu=True, most=most)) == asked


# While a run waits


def status_of(*nodes: NodeState, starting: int = 0, refused: int = 0, wished: int = 0) -> GetClusterStatusReply:
    """A cluster's status in Ray's own form, with GPU workers that were refused as a gang of so many, or as a wish for so many."""
    status = GetClusterStatusReply()
    status.cluster_resource_state.node_states.extend([state("head", **HEAD), *nodes])
    if starting:
        status.autoscaling_state.pending_instance_requests.add(ray_node_type_name="gpu_spot", count=starting)
    if refused:
        gang = status.autoscaling_state.infeasible_gang_resource_requests.add()
        for _ in range(refused):
            gang.requests.add(resources_bundle=GPU_WORKER.bundle())
    if wished:
        wish = status.autoscaling_state.infeasible_cluster_resource_constraints.add().resource_requests.add(count=wished)
        wish.request.resources_bundle.update(GPU_WORKER.bundle())
    return status


def heard(config: TrainConfig, *statuses: GetClusterStatusReply) -> list[str]:
    """The messages about these, 15 s apart."""
    waiting = Waiting(config, GPU_WORKER, Console(quiet=True))
    return [waiting.hear(status, now_s=15.0 * number) for number, status in enumerate(statuses)]


def test_each_stage_of_waiting_has_its_sentence() -> None:
    there = [state("gpu_spot", CPU=4.0, GPU=1.0)] * 2
    assert heard(train(num_workers=2), status_of(), status_of(starting=2), status_of(refused=2), status_of(*there)) == [
        "Waiting for 2 workers with 1 CPU and a GPU each: no node for them is there yet.",
        "Waiting for 2 workers with 1 CPU and a GPU each: the autoscaler is starting 2 nodes (gpu_spot).",
        "Waiting for 2 workers with 1 CPU and a GPU each: the autoscaler can start no more nodes for now.",
        "",
    ]


def test_what_the_autoscaler_refuses_for_long_ends_the_run() -> None:
    with pytest.raises(InputError, match="the cluster can never have 9 workers with 1 CPU and a GPU each: its autoscaler"):
        heard(train(num_workers=9), *[status_of(refused=9)] * 3)
    with pytest.raises(InputError, match="can never have 1 to 9 workers"):
        heard(train(num_workers=[1, 9]), *[status_of(wished=9)] * 3)


@pytest.mark.parametrize(
    "statuses",
    [
        [status_of(refused=3)] * 9,  # somebody else's
        [status_of(wished=9)] * 9,  # what several ask for together
        [status_of(state("gpu_spot", CPU=4.0, GPU=1.0), refused=9)] * 9,  # others hold a node, and will leave it
        [status_of(refused=9), status_of(starting=2)] * 9,
    ],
)
def test_what_may_still_come_is_waited_for(statuses: list[GetClusterStatusReply]) -> None:
    assert all(heard(train(num_workers=9), *statuses))


def test_waits_are_worded_by_what_is_asked_for() -> None:
    assert workers_wanted(train(num_workers=1), WorkerResources(num_cpus=4, use_gpu=False)) == "1 worker with 4 CPU"
    assert workers_wanted(train(num_workers=[2, 4]), GPU_WORKER) == "2 to 4 workers with 1 CPU and a GPU each"
    assert starting(status_of().autoscaling_state) == ""
