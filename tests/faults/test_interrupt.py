"""Ctrl-C in the middle of training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from mlflow import MlflowClient

from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("verb", "sign", "num_workers"), [("train", "epoch 2/", 2), ("train", "epoch 2/", 1), ("tune", "epoch 2,", 2)]
)
@pytest.mark.timeout(300)
def test_ctrl_c_leaves_no_process_and_exits_130(
    verb: str,
    sign: str,
    num_workers: int,
    two_classes: Path,
    tiny_model: Path,
    listens_to_ctrl_c: Callable[[], None],
    tmp_path: Path,
) -> None:
    experiment = tmp_path / "long.yaml"
    experiment.write_text(
        f"name: long\ndata: {{train: {two_classes}, validation_fraction: 0.1}}\n"
        f"model: {{pretrained: {tiny_model}, max_length: 32}}\n"
        f"train: {{method: full, num_workers: {num_workers}, num_epochs: 5000, batch_size: 16}}\n"
    )
    log = tmp_path / "stderr"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "manta.cli", verb, str(experiment)],
            stderr=errors,
            start_new_session=True,
            preexec_fn=listens_to_ctrl_c,
        )
    deadline = time.monotonic() + 150
    try:
        while sign not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
    except AssertionError:
        process.terminate()
        raise
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) > 2 or num_workers == 1
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(timeout=60) == 130, log.read_text()
    assert "Traceback" not in log.read_text()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert [child.name() for child in alive if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    storage = Storage(tmp_path / "storage")
    assert ModelRegistry(storage).versions() == []
    (folder,) = storage.runs.iterdir()
    entry = json.loads((folder / "mlflow.json").read_text())
    assert MlflowClient(tracking_uri=entry["uri"]).get_run(entry["run_id"]).info.status == "KILLED"
