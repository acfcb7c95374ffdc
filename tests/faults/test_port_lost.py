"""A port that another process takes after `manta serve` has checked it, and before Ray Serve listens there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from manta.labels import LabelSpace
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage
from manta_serve.access.keys import KeyStore

from ..serve.untrained import artifact_of

if TYPE_CHECKING:
    from pathlib import Path

UNCHECKED = "import manta_serve.running.run as run; run.check_port = lambda *place: None; from manta.cli import main; main()"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("profile", "settings", "listens"),
    [("laptop", "{}", "127.0.0.1"), ("laptop", "{num_replicas: 2}", "127.0.0.1"), ("production", "{}", "0.0.0.0")],  # noqa: S104
    ids=["replica", "proxy", "HAProxy"],
)
def test_a_port_that_is_lost_is_one_sentence(profile: str, settings: str, listens: str, tiny_model: Path, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "storage")
    tracker, registry = RunTracker(storage), ModelRegistry(storage)
    tracker.start("run", experiment="desk", config={})
    labels = LabelSpace.from_labels(["account", "billing"])
    registry.register(artifact_of(tiny_model, tmp_path / "run", labels=labels), run_id=tracker.run_id)
    registry.set_champion(registry.get("desk", version=1))
    KeyStore(storage).create("ada")
    experiment = tmp_path / "desk.yaml"
    experiment.write_text(f"name: desk\ndata: {{train: x.csv}}\nserve: {settings}\nstorage: {storage.root}\n")
    with socket.create_server((listens, 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", UNCHECKED, "serve", str(experiment), "--port", str(port), "--profile", profile],
            env=os.environ | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"Error: {listens}:{port} is taken; choose another with --port."
    assert done.returncode == 2
