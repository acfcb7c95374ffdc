"""A real Ray cluster of several nodes on this machine, and runs of the `manta` command on it that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import yaml
from ray.cluster_utils import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def nodes_may_be_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train watches for nodes that are taken away, as it does outside of tests."""
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)


class Nodes:
    """A head that runs no workers, and two nodes with one CPU each."""

    def __init__(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.others = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def train_workers(self) -> list[psutil.Process]:
        """The processes that train, in no particular order."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """A cluster of the test's own: Ray Train goes on counting a lost node for some time, and does not yet count its successor."""
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


class Run:
    """One `manta train` or `manta tune` as a process."""

    def __init__(self, verb: str, *arguments: str, address: str, storage: Path, log: Path) -> None:
        self.log = log
        self.storage = storage
        self._output = log.with_suffix(".json")
        with log.open("a") as errors, self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "manta.cli", verb, *arguments, "--address", address, "--json"],
                stderr=errors,
                stdout=output,
                env=os.environ | {"MANTA_STORAGE": str(storage)},
            )

    @property
    def folder(self) -> Path:
        """The folder of the only run in its storage."""
        (folder,) = (self.storage / "runs").iterdir()
        return folder

    @property
    def words(self) -> str:
        """Everything it told people so far, on one line."""
        return " ".join(self.log.read_text().split())

    def wait_for(self, sign: Callable[[Path], Any], *, what: str) -> Any:
        """Return what `sign` says of the run's folder as soon as it says something."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"ended before {what}: {self.log.read_text()}"
            found = next(map(sign, (self.storage / "runs").glob("*")), None)
            if found:
                return found
            time.sleep(0.005)
        raise AssertionError(f"waited in vain for {what}: {self.log.read_text()}")

    def result(self) -> dict[str, Any]:
        """The command's JSON when it has ended well."""
        assert self.process.wait(timeout=300) == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text()
        result: dict[str, Any] = json.loads(self._output.read_text())
        return result

    def report(self) -> dict[str, Any]:
        """`report.json` when it has ended well."""
        report: dict[str, Any] = json.loads(Path(self.result()["report"]).read_text())
        return report


@pytest.fixture
def start(nodes: Nodes, tmp_path: Path, two_classes_large: Path, tiny_model: Path) -> Iterator[Callable[..., Run]]:
    """Start `manta train`, or a search if `tune` settings are given, with `name` and settings of `train` on the cluster.

    With `resume` go on with an earlier one.
    """
    runs: list[Run] = []

    def begin(
        name: str,
        *,
        resume: str | None = None,
        model: str | None = None,
        data: Path | None = None,
        tune: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Run:
        storage, log = tmp_path / name, tmp_path / f"{name}.log"
        arguments = ["--resume", resume] if resume else [str(tmp_path / f"{name}.yaml")]
        if resume is None:
            train = {
                "method": "full",
                "num_workers": 2,
                "cpus_per_worker": 1,
                "num_epochs": 3,
                "batch_size": 16,
                "learning_rate": 1e-3,
            }
            document = {
                "name": "survivor",
                "data": {"train": str(data or two_classes_large)},
                "model": {"pretrained": model or str(tiny_model), "max_length": 32},
                "train": train | settings,
                "tune": tune or {},
                "registry": {"fast_formats": False},
            }
            Path(arguments[0]).write_text(yaml.safe_dump(document))
        run = Run("train" if tune is None else "tune", *arguments, address=nodes.address, storage=storage, log=log)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
