"""The training systems that are compared, each run in a fresh process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import environment
from workload import Workload

PEERS = ("hf-trainer", "hf-trainer-grouped", "hf-trainer-grouped-bf16", "plain-torch")
MANTA: dict[str, tuple[int, dict[str, Any]]] = {  # workers, and what is set
    "manta": (1, {}),
    "manta-fp32": (1, {"train.precision": "fp32"}),
    "manta-zero-0": (1, {"train.zero_stage": 0}),
    "manta-zero-2": (1, {"train.zero_stage": 2}),
    "manta-2-workers-zero-0": (2, {"train.zero_stage": 0}),
    "manta-2-workers-zero-2": (2, {"train.zero_stage": 2}),
}
"""`manta` is `manta train` as it comes: stage, precision and threads are what it chooses."""
SYSTEMS = (*PEERS, *MANTA)
LIMIT_S = 6 * 3600


@dataclass(frozen=True)
class Run:
    """Measurements of one process."""

    examples_per_s: float
    """Of the training steps, the first ones included: without loading, evaluating and saving."""
    whole_run_s: float
    """From the command to its end: model saved, and test rows read."""
    accuracy: float
    """On the test rows, of the best epoch."""
    model: Path
    """The saved model."""


class SystemFailedError(Exception):
    """A system's process ended with an error; the message is the end of what it said."""


def run_system(system: str, workload: Workload, *, num_threads: int, folder: Path) -> Run:
    """Train once, in a folder of its own under `folder`.

    Raises:
        SystemFailedError: its process failed.
    """
    own = Path(tempfile.mkdtemp(prefix=f"{system}-", dir=folder))
    return run_manta(system, workload, num_threads, own) if system in MANTA else run_peer(system, workload, num_threads, own)


def run_peer(system: str, workload: Workload, num_threads: int, folder: Path) -> Run:
    """One of `peers.py`."""
    script = Path(__file__).with_name("peers.py")
    command = [sys.executable, str(script), system, str(workload.experiment), str(num_threads), str(folder)]
    _, whole_run_s = finished(command, environment(num_threads))
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    epochs_s = result["epochs_s"]
    return Run(workload.num_rows * len(epochs_s) / sum(epochs_s), whole_run_s, result["accuracy"], folder / "model")


def run_manta(system: str, workload: Workload, num_threads: int, folder: Path) -> Run:
    """The product as people run it: `manta train`, up to the registered model."""
    num_workers, settings = MANTA[system]
    per_worker = max(1, num_threads // num_workers)
    workers = {"train.num_workers": num_workers} if num_workers > 1 else {}
    overrides = [f"{name}={value}" for name, value in (settings | workers).items()]
    answer, whole_run_s = run_verb(
        "train", workload.experiment, overrides, storage=folder, num_threads=per_worker, num_gpus=num_workers
    )
    report = json.loads(Path(answer["report"]).read_text(encoding="utf-8"))
    return Run(reported_examples_per_s(report), whole_run_s, answer["metrics"]["accuracy"], Path(answer["artifact"]))


def run_verb(
    verb: str, experiment: Path, overrides: list[str], *, storage: Path, num_threads: int, num_gpus: int = 1
) -> tuple[dict[str, Any], float]:
    """`manta train` or `manta tune` as people run it, on a cluster of its own: its JSON, and the seconds it took.

    Raises:
        SystemFailedError: it failed.
    """
    arguments = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "manta.cli", verb, str(experiment), "--json", *arguments]
    variables = environment(num_threads, num_gpus=num_gpus) | {"MANTA_STORAGE": str(storage)}
    variables.pop("RAY_ADDRESS", None)
    output, seconds = finished(command, variables)
    return json.loads(output), seconds


def reported_examples_per_s(report: dict[str, Any]) -> float:
    """Examples per second of training over all epochs, from a run's `report.json`."""
    return statistics.harmonic_mean([float(epoch["examples_per_s"]) for epoch in report["history"]])


def finished(command: list[str], variables: dict[str, str]) -> tuple[str, float]:
    """Run a command to its end: what it printed, and the seconds it took.

    Raises:
        SystemFailedError: it failed.
    """
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=LIMIT_S, check=True)
    except subprocess.CalledProcessError as error:
        raise SystemFailedError("\n".join(error.stderr.strip().splitlines()[-15:])) from None
    except subprocess.TimeoutExpired:
        raise SystemFailedError(f"not finished after {LIMIT_S / 3600:g} hours") from None
    return done.stdout, time.perf_counter() - started


def visible_gpus() -> int:
    """GPUs that a process started now would see, without starting one here."""
    code = "import torch; print(torch.cuda.device_count())"
    return int(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout)
