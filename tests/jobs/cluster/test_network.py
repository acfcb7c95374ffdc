"""The network interface that a worker listens on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil
import pytest

from manta.cluster.gpus import order_gpus
from manta_jobs.cluster import network
from manta_jobs.cluster.connection import WorkerResources
from manta_jobs.training.progress import Board
from manta_jobs.training.recovery import Recovery
from manta_jobs.training.trainer import build_trainer

from ..conftest import experiment

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize(
    ("listed", "ordered"),
    [
        ("0,1,10,11,12,13,14,15,2,3,4,5,6,7,8,9", ",".join(map(str, range(16)))),
        ("GPU-9f,GPU-1a", "GPU-9f,GPU-1a"),  # no numbers: Ray orders its workers by text, too
        ("", ""),
    ],
)
def test_the_gpus_of_large_nodes_are_ordered_by_number(monkeypatch: pytest.MonkeyPatch, listed: str, ordered: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    order_gpus()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ordered


def test_workers_wait_no_longer_for_each_other_than_set(two_classes: Path, tiny_model: Path, tmp_path: Path) -> None:
    board = Board()
    trainer = build_trainer(
        print,
        {},
        experiment(two_classes, tiny_model, hang_minutes=1.5),
        resources=WorkerResources(num_cpus=1, use_gpu=False),
        folder=tmp_path,
        name="run",
        callback=Recovery(board, "run", max_failures=0),
        board=board,
        current=lambda: "run",
        max_failures=1,
    )
    assert trainer.backend_config.timeout_s == 90
