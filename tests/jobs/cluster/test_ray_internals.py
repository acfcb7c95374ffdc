"""Ray's internals are where `ray_internals` reads them: the status of the tests' cluster has the fields that the product reads."""

from __future__ import annotations

import pytest
import ray

from manta_jobs.cluster.autoscaling import HEAD
from manta_jobs.cluster.ray_internals import NodeStatus, cluster_status

WAITED_FOR = (
    "infeasible_gang_resource_requests",
    "infeasible_cluster_resource_constraints",
    "pending_instance_requests",
    "pending_instances",
)


@pytest.mark.ray
def test_the_status_of_a_running_cluster_has_the_fields_that_are_read(ray_cluster: None) -> None:
    status = cluster_status()
    states = status.cluster_resource_state.node_states
    [head] = [state for state in states if HEAD in state.total_resources]
    assert head.status != NodeStatus.DEAD
    assert head.total_resources["CPU"] == ray.cluster_resources()["CPU"]
    assert head.node_id.hex() == ray.get_runtime_context().get_node_id()
    assert head.ray_node_type_name == ""  # nobody launched this cluster
    assert status.autoscaling_state.autoscaler_state_version == 0
    for field in WAITED_FOR:
        assert list(getattr(status.autoscaling_state, field)) == []
