"""Commands of guides and tutorials, run as they stand there, except those that say why they are not run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from manta.cluster.ports import free_ports

from ..test_repository import commands
from .laptop import COMMAND, local_cluster, write_experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCS = Path(__file__).parents[2] / "docs"
MANTA = shlex.join(COMMAND)
QUICK = {
    "train": {"method": "full", "num_epochs": 1, "learning_rate": 1e-3, "cpus_per_worker": 1},
    "registry": {"fast_formats": False},
}
"""Settings that a test adds to the experiments of a tutorial, besides the tiny encoder."""
TUTORIALS = [["quickstart.md"], ["tutorials/tickets.md", "tutorials/corrections.md"], ["tutorials/cluster.md"]]
"""Pages that go on from one another."""
STAYING = {"manta serve": "Ctrl-C stops it", "manta cluster": "Ctrl-C stops"}
"""Commands that stay in the foreground of a terminal of their own, and their words once they are up."""


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
            ["bash", "-c", line], check=False, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=600
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


class Background:
    """A command of a tutorial that stays in the foreground of a terminal of its own, until the test ends."""

    def __init__(self, terminal: Terminal, command: str, *, listens_to_ctrl_c: Callable[[], None]) -> None:
        self.output = terminal.folder / f"{command.split()[1]}.log"
        line = re.sub(r"^manta\b", lambda _: f"exec {MANTA}", command)
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                ["bash", "-c", line],
                cwd=terminal.folder,
                env=terminal.environ,
                stdout=output,
                stderr=output,
                preexec_fn=listens_to_ctrl_c,
            )

    def wait_for(self, words: str) -> None:
        """Wait until the command has printed some words."""
        deadline = time.monotonic() + 240
        while words not in self.output.read_text():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.5)

    def stop(self) -> None:
        """End the command with Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(90) == 0, self.output.read_text()


def write_files(page: str, folder: Path, *, model: Path) -> None:
    """Write the files of a tutorial, its experiments with a tiny encoder."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, content in re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', text, flags=re.DOTALL):
        (folder / name).write_text(quick(content, model=model) if name.endswith(".yaml") else content, encoding="utf-8")


def quick(experiment: str, *, model: Path) -> str:
    """Return an experiment with settings under which it ends soon."""
    document = yaml.safe_load(experiment) | {"model": {"pretrained": str(model), "max_length": 32}}
    return yaml.safe_dump(document | {key: document.get(key, {}) | settings for key, settings in QUICK.items()})


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pages", TUTORIALS, ids=lambda pages: pages[-1])
def test_a_tutorial_does_what_it_says(
    pages: list[str], tmp_path: Path, tiny_model: Path, listens_to_ctrl_c: Callable[[], None]
) -> None:
    terminal = Terminal(tmp_path)
    del terminal.environ["MANTA_STORAGE"]  # ~/.manta, as a reader has it
    terminal.environ["PATH"] = f"{Path(sys.executable).parent}:{terminal.environ['PATH']}"
    (port,) = free_ports(1)
    shown = {}
    for page in pages:
        write_files(page, tmp_path, model=tiny_model)
        with ExitStack() as running:
            for command in [command for command, why in commands(page).items() if not why]:
                start = " ".join(command.split()[:2])
                if start in STAYING:
                    options = f" --port {port}" if start == "manta serve" else ""
                    staying = Background(terminal, command + options, listens_to_ctrl_c=listens_to_ctrl_c)
                    running.callback(staying.stop)
                    staying.wait_for(STAYING[start])
                    if found := re.findall(r"--(?:address|token-file) (\S+)", staying.output.read_text()):
                        terminal.environ |= {"RAY_ADDRESS": found[0], "RAY_AUTH_TOKEN_PATH": found[1]}
                else:
                    shown[command] = terminal.run(command.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    assert len(shown) >= 2
    for command, output in shown.items():
        if command.startswith("curl"):
            assert '"error"' not in output, output
    assert all("SUCCEEDED" in output for command, output in shown.items() if command == "manta jobs list")
    if "tutorials/corrections.md" in pages:
        assert '"count":2' in next(output for command, output in shown.items() if command.endswith("/v1/feedback"))
