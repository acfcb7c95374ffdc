"""The commands of the guide to clusters, run as they stand there, but for those that say why they are not."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..test_repository import commands
from .laptop import COMMAND, local_cluster, write_experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCS = Path(__file__).parents[2] / "docs"
MANTA = shlex.join(COMMAND)


def words_of(block_start: str) -> str:
    """The first line that a command prints, as the guide has it."""
    text = (DOCS / "clusters.md").read_text(encoding="utf-8")
    return text.split(f"$ {block_start}\n", 1)[1].splitlines()[0]


@pytest.fixture
def workplace(tmp_path: Path, two_classes: Path, tiny_model: Path) -> Path:
    """A folder with what the guide takes for granted: an experiment, and the project's `cluster.yaml`."""
    tune = {"budget": {"num_trials": 4}, "confirm": None}
    experiment = write_experiment(
        tmp_path, data=two_classes, model=tiny_model, storage=tmp_path / "storage", name="experiment", tune=tune, num_epochs=1
    )
    shutil.copy(experiment, tmp_path / "EXPERIMENT.yaml")
    shutil.copy(DOCS.parent / "cluster.yaml", tmp_path)
    return tmp_path


class Terminal:
    """A shell in a folder, which knows what the commands before it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environ, self.job = folder, os.environ | {"HOME": str(folder / "home")}, "JOB"

    def run(self, command: str) -> str:
        """Run a command, which must succeed, and return its output."""
        line = re.sub(r"^manta\b", lambda _: MANTA, command).replace(" JOB", f" {self.job}")
        done = subprocess.run(
            ["bash", "-c", line], check=False, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=300
        )
        shown = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}\n{shown}"
        if found := re.search(r"manta jobs (?:logs|stop) (\S+)", shown):
            self.job = found[1]
        return shown


@pytest.fixture
def three_nodes(workplace: Path, listens_to_ctrl_c: Callable[[], None]) -> Iterator[str]:
    """The guide's first command, up until the test ends; what it says to type next."""
    assert next(iter(commands("clusters.md"))) == "manta cluster local --nodes 3"
    with local_cluster(workplace, num_nodes=3, listens_to_ctrl_c=listens_to_ctrl_c) as (process, shown):
        yield next(line.strip() for line in shown.splitlines() if line.strip().startswith("manta submit"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.timeout(900)
def test_the_guide_to_clusters_does_what_it_says(three_nodes: str, workplace: Path) -> None:
    """Every command without a mark, in the guide's order; jobs are followed to their end before the next is sent."""
    terminal = Terminal(workplace)
    assert "manta serve experiment" in terminal.run(three_nodes)
    address, token_file = re.findall(r"--(?:address|token-file) (\S+)", three_nodes)
    terminal.environ |= {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN_PATH": token_file}
    to_run = [command for command, why in commands("clusters.md").items() if not why][1:]
    assert len(to_run) >= 7
    shown = {command: terminal.run(command) for command in to_run}
    assert "epoch 5/5" in shown["manta submit train experiment.yaml --set train.num_epochs=5"]
    assert "SUCCEEDED" in shown["manta jobs status JOB"]
    assert "manta serve experiment" in shown["manta jobs logs JOB --follow"]
    check = "manta cluster check cluster.yaml experiment.yaml"
    assert words_of(check) in " ".join(shown[check].split())
