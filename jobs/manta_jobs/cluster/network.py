"""Connections between the workers of a run: the address of each node, and the communication backend.

gloo resolves the host's name. On many machines that gives the machine itself (127.0.1.1 in /etc/hosts), so workers on different
nodes wait for each other in vain. Ray knows the address at which other nodes reach a node.

Some nodes only claim to have GPUs (`manta cluster local --gpus-per-node`, an autoscaler under test). Their workers communicate as
on CPUs.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from typing import Any

import psutil
import torch
from ray.train.torch import TorchConfig
from ray.util import get_node_ip_address

from manta.cluster.gpus import order_gpus

INTERFACE = "GLOO_SOCKET_IFNAME"
TorchBackend = TorchConfig().backend_cls


class ReachableBackend(TorchBackend):  # type: ignore[misc, valid-type]
    """Ray's backend, but each worker listens on the address at which other nodes reach its node."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Set up the workers' network. Ray calls this after the workers have started and before they are connected."""
        worker_group.execute(listen_where_reached)
        worker_group.execute(order_gpus)
        if not all(worker_group.execute(torch.cuda.is_available)):
            backend_config = dataclasses.replace(backend_config, backend="gloo")
        super().on_start(worker_group, backend_config)


class ReachableTorchConfig(TorchConfig):  # type: ignore[misc]
    """Config of a `TorchTrainer` whose workers may be on different nodes."""

    @property
    def backend_cls(self) -> type[ReachableBackend]:
        """The backend that connects the workers."""
        return ReachableBackend


def listen_where_reached() -> None:
    """Set gloo's interface to the one with the node's address, unless the environment names one."""
    interface = interface_of(get_node_ip_address())
    if interface is not None:
        os.environ.setdefault(INTERFACE, interface)


def interface_of(address: str) -> str | None:
    """Return the network interface with this address; None if there is none."""
    families = (socket.AF_INET, socket.AF_INET6)
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.family in families and entry.address.partition("%")[0] == address for entry in addresses):
            return str(name)
    return None
