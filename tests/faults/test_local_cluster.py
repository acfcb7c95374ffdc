"""`manta cluster local` as a person runs it: three nodes come up, and end with the command however it is ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from manta.clusters import connection
from manta_jobs.submission.jobs_api import JobsApi


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_three_nodes_answer_and_leave_nothing_behind(number: signal.Signals, tmp_path: Path, listens_to_ctrl_c: object) -> None:
    command = [sys.executable, "-m", "manta.cli", "cluster", "local", "--nodes", "3"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ.copy(), preexec_fn=listens_to_ctrl_c
    )
    assert process.stderr is not None
    shown = ""
    try:
        while "Ctrl-C stops" not in shown:
            line = process.stderr.readline()
            assert line, shown
            shown += line
        found = re.search(r"--address (\S+)\s+--token-file (\S+)", shown)
        assert found, shown
        token = Path(found[2])
        assert JobsApi(connection(address=found[1], token_file=token)).jobs() == []
        started = psutil.Process(process.pid).children(recursive=True)
        assert sum(child.name() == "raylet" for child in started) == 3
        process.send_signal(number)
        assert process.wait(60) == 0
        _, alive = psutil.wait_procs(started, timeout=20)
        assert [child.name() for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
        assert not token.parent.exists()
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
