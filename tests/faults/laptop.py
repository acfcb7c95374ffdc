"""`manta` as on a laptop: another home and storage than the cluster's, nothing known of it but the address and the token."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from manta_jobs.cluster.local import LocalCluster

COMMAND = [sys.executable, "-m", "manta.cli"]


def laptop(cluster: LocalCluster, folder: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts `manta` there, with arguments and further environment variables."""

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        known = {"RAY_ADDRESS": cluster.jobs_address, "RAY_AUTH_TOKEN": cluster.token, "HOME": str(folder / "home")}
        settings = os.environ | known | {"MANTA_STORAGE": str(folder / "laptop")} | environment
        pipe = subprocess.PIPE
        return subprocess.Popen([*COMMAND, *arguments], env=settings, stdout=pipe, stderr=pipe, text=True, cwd=folder)

    return start


@contextmanager
def local_cluster(folder: Path, *, num_nodes: int, listens_to_ctrl_c: Callable[[], None]) -> Iterator[tuple[psutil.Popen, str]]:
    """`manta cluster local` once it is up, and what it printed until then; nothing of it is left however the block ends."""
    command = [*COMMAND, "cluster", "local", "--nodes", str(num_nodes)]
    process = psutil.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, preexec_fn=listens_to_ctrl_c)
    try:
        shown = ""
        while "Ctrl-C stops" not in shown:
            line = process.stderr.readline()
            assert line, shown
            shown += line
        yield process, shown
    finally:
        if process.poll() is None:
            for child in process.children(recursive=True):
                child.kill()
            process.kill()


def write_experiment(
    folder: Path, *, data: Path, model: Path, storage: Path, name: str = "far", tune: dict[str, Any] | None = None, **train: Any
) -> str:
    """An experiment with its rows and encoder beside it; its path."""
    shutil.copy(data, folder / "rows.csv")
    shutil.copytree(model, folder / "encoder")
    settings = {"method": "full", "num_workers": 2, "cpus_per_worker": 1, "learning_rate": 1e-3, "num_epochs": 2, "batch_size": 16}
    document = {
        "name": name,
        "data": {"train": "rows.csv"},
        "model": {"pretrained": "./encoder", "max_length": 32},
        "train": settings | train,
        "tune": tune or {},
        "registry": {"fast_formats": False},
        "storage": str(storage),
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)
