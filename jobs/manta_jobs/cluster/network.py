"""How the workers of a run reach each other: by which of its addresses, and by what kind of communication.

gloo asks what the host's name stands for, and that is the machine itself (127.0.1.1 in /etc/hosts) on many: workers on different
nodes then wait for each other in vain. Ray knows the address by which a node is reached.

Where nodes only say that they have GPUs (`manta cluster local --gpus-per-node`, an autoscaler under test), workers talk as on CPUs.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from typing import TYPE_CHECKING

import psutil
import torch
from ray.train.torch import TorchConfig
from ray.util import get_node_ip_address

if TYPE_CHECKING:
    from ray.train._internal.worker_group import WorkerGroup

INTERFACE = "GLOO_SOCKET_IFNAME"
TorchBackend = TorchConfig().backend_cls


class ReachableBackend(TorchBackend):  # type: ignore[misc, valid-type]
    """Ray's own, but each worker listens where its node is reached."""

    def on_start(self, worker_group: WorkerGroup, backend_config: TorchConfig) -> None:
        """Called by Ray once the workers are there, and before they are connected."""
        worker_group.execute(listen_where_reached)
        if not all(worker_group.execute(torch.cuda.is_available)):
            backend_config = dataclasses.replace(backend_config, backend="gloo")
        super().on_start(worker_group, backend_config)


class ReachableTorchConfig(TorchConfig):  # type: ignore[misc]
    """For a `TorchTrainer` whose workers may be on different nodes."""

    @property
    def backend_cls(self) -> type[ReachableBackend]:
        """What connects the workers."""
        return ReachableBackend


def listen_where_reached() -> None:
    """Tell gloo the interface that has the node's address, unless the environment names one."""
    interface = interface_of(get_node_ip_address())
    if interface is not None:
        os.environ.setdefault(INTERFACE, interface)


def interface_of(address: str) -> str | None:
    """The network interface with this address, if there is one."""
    families = (socket.AF_INET, socket.AF_INET6)
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.family in families and entry.address.partition("%")[0] == address for entry in addresses):
            return str(name)
    return None
