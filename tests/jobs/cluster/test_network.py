"""The network interface that a worker listens on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from manta_jobs.cluster import network

if TYPE_CHECKING:
    import pytest


def test_the_interface_is_the_one_with_the_nodes_address(monkeypatch: pytest.MonkeyPatch) -> None:
    name, addresses = next((name, found) for name, found in psutil.net_if_addrs().items() if any(a.family == 2 for a in found))
    address = next(entry.address for entry in addresses if entry.family == 2)
    assert network.interface_of(address) == name
    assert network.interface_of("203.0.113.7") is None
    monkeypatch.setattr(network, "get_node_ip_address", lambda: address)
    monkeypatch.delenv(network.INTERFACE, raising=False)
    network.listen_where_reached()
    assert network.os.environ[network.INTERFACE] == name


def test_what_the_environment_names_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv(network.INTERFACE, "bond0")
    network.listen_where_reached()
    assert network.os.environ[network.INTERFACE] == "bond0"
