"""The commands of the guide to clusters, run as they stand there; the others say that they were not run, and why."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
NOT_RUN = "# not run here: "
MANTA = f"{shlex.quote(sys.executable)} -m manta.cli"
RUNS = {"data": {"train": "rows.csv"}, "model": {"pretrained": "./encoder", "max_length": 32}, "registry": {"onnx": False}}
TRAIN = {"num_workers": 2, "cpus_per_worker": 1, "num_epochs": 1, "batch_size": 16, "learning_rate": 1e-3}


def commands(page: str) -> dict[str, str]:
    """What is to be typed in the page's consoles, each with why it is not run here: a comment at its end, or above its block."""
    found = {}
    for block in re.findall(r"```console\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL):
        first, *_ = block.splitlines()
        above = first.partition(NOT_RUN)[2] if first.startswith("#") else ""
        for line in block.splitlines():
            if line.startswith("$ "):
                found[line.removeprefix("$ ").partition(" # ")[0].strip()] = line.partition(NOT_RUN)[2] or above
    return found


def words_of(block_start: str) -> str:
    """What the guide says that a command prints first."""
    text = (DOCS / "clusters.md").read_text(encoding="utf-8")
    return text.split(f"$ {block_start}\n", 1)[1].splitlines()[0]


@pytest.fixture
def workplace(tmp_path: Path, two_classes: Path, tiny_model: Path) -> Path:
    """A folder with what the guide takes for granted: an experiment, and the project's `cluster.yaml`."""
    shutil.copy(two_classes, tmp_path / "rows.csv")
    shutil.copytree(tiny_model, tmp_path / "encoder")
    tune = {"budget": {"num_trials": 4}, "confirm": None}
    document = {"name": "guide", **RUNS, "train": TRAIN, "tune": tune, "storage": str(tmp_path / "storage")}
    for name in ("experiment.yaml", "EXPERIMENT.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(document))
    shutil.copy(DOCS.parent / "cluster.yaml", tmp_path)
    return tmp_path


class Terminal:
    """A shell in a folder, which knows what the commands before it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environ, self.job = folder, os.environ | {"HOME": str(folder / "home")}, "JOB"

    def run(self, command: str) -> str:
        """What it prints; it must end well."""
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
    command = shlex.split(MANTA) + shlex.split(next(iter(commands("clusters.md"))))[1:]
    assert command[-4:] == ["cluster", "local", "--nodes", "3"]
    settings: dict[str, Any] = {"env": os.environ.copy(), "preexec_fn": listens_to_ctrl_c}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=workplace, **settings)
    assert process.stderr is not None
    try:
        shown = ""
        while "Ctrl-C stops" not in shown:
            line = process.stderr.readline()
            assert line, shown
            shown += line
        yield next(line.strip() for line in shown.splitlines() if line.strip().startswith("manta submit"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


@pytest.mark.timeout(900)
def test_the_guide_to_clusters_does_what_it_says(three_nodes: str, workplace: Path) -> None:
    """Every command without a mark, in the guide's order; jobs are followed to their end before the next is sent."""
    terminal = Terminal(workplace)
    assert "manta serve guide" in terminal.run(three_nodes)
    address, token_file = re.findall(r"--(?:address|token-file) (\S+)", three_nodes)
    terminal.environ |= {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN_PATH": token_file}
    to_run = [command for command, why in commands("clusters.md").items() if not why][1:]
    assert len(to_run) >= 7
    shown = {command: terminal.run(command) for command in to_run}
    assert "epoch 5/5" in shown["manta submit train experiment.yaml --set train.num_epochs=5"]
    assert "SUCCEEDED" in shown["manta jobs status JOB"]
    assert "manta serve guide" in shown["manta jobs logs JOB --follow"]
    check = "manta cluster check cluster.yaml experiment.yaml"
    assert words_of(check) in " ".join(shown[check].split())


def test_what_is_not_run_says_why() -> None:
    assert all(commands("kubernetes.md").values())
    assert all(why or command.startswith("manta ") for command, why in commands("clusters.md").items())
