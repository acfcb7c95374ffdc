"""`manta cluster local` as a person runs it: three nodes come up, and end with the command however it is ended."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from manta.cluster.connections import connection
from manta.cluster.jobs_api import JobsApi

from .laptop import local_cluster

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_three_nodes_answer_and_leave_nothing_behind(
    number: signal.Signals, tmp_path: Path, listens_to_ctrl_c: Callable[[], None]
) -> None:
    with local_cluster(tmp_path, num_nodes=3, listens_to_ctrl_c=listens_to_ctrl_c) as (process, shown):
        found = re.search(r"--address (\S+)\s+--token-file (\S+)", shown)
        assert found, shown
        token = Path(found[2])
        assert JobsApi(connection(address=found[1], token_file=token)).jobs() == []
        started = process.children(recursive=True)
        assert sum(child.name() == "raylet" for child in started) == 3
        process.send_signal(number)
        assert process.wait(60) == 0
        _, alive = psutil.wait_procs(started, timeout=20)
        assert [child.name() for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
        assert not token.parent.exists()
