"""A prediction whose driver is killed or stopped, and whose worker is lost, has each row once in the end."""

# ruff: noqa: F811  # a fixture that is imported and asked for
from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from manta.inference.predictor import Predictor
from manta_jobs.batch_prediction.plan import CHUNK_ROWS

from ..platform.conftest import make_artifact  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Nodes

NUM_ROWS = 40_000


class Attempt:
    """One `manta predict` as a process."""

    def __init__(self, *arguments: str, log: Path, listens_to_ctrl_c: Callable[[], None]) -> None:
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "manta.cli", "predict", *arguments, "--json"],
                stderr=errors,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=listens_to_ctrl_c,
            )

    def wait_for_chunks(self, partial: Path, count: int) -> int:
        """Return as soon as so many chunks are kept, and how many are."""
        journal = partial / "chunks.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            found = journal.read_text().count("\n") if journal.exists() else 0
            if found >= count:
                return found
            time.sleep(0.01)
        raise AssertionError(f"waited in vain for {count} chunks: {self.log.read_text()}")

    def ended(self) -> tuple[int, str]:
        """Exit code and stdout."""
        output, _ = self.process.communicate(timeout=200)
        assert "Traceback" not in self.log.read_text()
        return self.process.returncode, output


def workers_of(nodes: Nodes) -> list[psutil.Process]:
    """The processes that classify."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.timeout(500)
def test_each_row_comes_once_whatever_is_killed(
    nodes: Nodes, make_artifact: Callable[..., Any], listens_to_ctrl_c: Callable[[], None], tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "model").artifact
    source, out, partial = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "out.csv.partial"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("id", "text"), *((row, f"my parcel is late {'please ' * (row % 9)}") for row in range(NUM_ROWS))]
        )

    def attempt(name: str) -> Attempt:
        arguments = (str(artifact.path), str(source), "--out", str(out), "--address", nodes.address)
        return Attempt(*arguments, log=tmp_path / f"{name}.log", listens_to_ctrl_c=listens_to_ctrl_c)

    killed = attempt("killed")
    try:
        kept = killed.wait_for_chunks(partial, 3)
    finally:
        killed.process.kill()
    killed.process.communicate()
    assert not out.exists()

    stopped = attempt("stopped")
    more = stopped.wait_for_chunks(partial, kept + 3)
    os.kill(stopped.process.pid, signal.SIGINT)
    code, output = stopped.ended()
    assert (code, output) == (130, "")
    assert "the same command goes on from there" in stopped.log.read_text()
    assert not out.exists()

    last = attempt("last")
    last.wait_for_chunks(partial, more + 2)
    workers_of(nodes)[0].kill()
    code, output = last.ended()
    assert code == 0, last.log.read_text()
    result = json.loads(output)
    assert more * CHUNK_ROWS <= result["resumed_rows"] < NUM_ROWS
    assert result["rows"] == NUM_ROWS == sum(result["labels"].values())
    assert not partial.exists()
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(NUM_ROWS))
    assert {row["error"] for row in rows} == {""}
    wanted = Predictor(artifact, device="cpu").predict([row["text"] for row in rows[:9]])
    assert [float(row["score"]) for row in rows[-9:]] == pytest.approx(
        [wanted[(NUM_ROWS - 9 + place) % 9].score for place in range(9)], abs=1e-6
    )
