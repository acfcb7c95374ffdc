"""Jobs on a cluster of two nodes with token authentication, sent from a machine that shares no environment with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from manta_jobs.cluster.local import LocalCluster

from .laptop import laptop, write_experiment

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the head's that the other node does not see."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def two_nodes(hidden: Path) -> Iterator[LocalCluster]:
    if os.geteuid() != 0:
        pytest.skip("a node with its own view of the disk needs root")
    elsewhere = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh"]
    with LocalCluster(2, prefixes=[[], elsewhere]) as cluster:
        yield cluster


@pytest.fixture
def manta(two_nodes: LocalCluster, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    return laptop(two_nodes, tmp_path)


def test_a_run_on_two_nodes_ends_with_a_registered_model(
    manta: Callable[..., subprocess.Popen[str]], tmp_path: Path, two_classes: Path, tiny_model: Path
) -> None:
    path = write_experiment(tmp_path, data=two_classes, model=tiny_model, storage=tmp_path / "shared")
    process = manta("submit", "train", path, "--json")
    output, words = process.communicate(timeout=300)
    assert process.returncode == 0, words
    result = json.loads(output)
    assert (result["model"], result["version"]) == ("far", 1)
    assert json.loads(Path(result["report"]).read_text())["distribution"]["num_nodes"] == 2
    assert Path(result["artifact"], "model.safetensors").is_file()
    assert "epoch 2/2: training loss" in words
    assert "manta serve far" in words.splitlines()[-1]
    kept = yaml.safe_load((Path(result["report"]).parent / "config.yaml").read_text())
    assert Path(kept["data"]["train"]).is_relative_to(tmp_path / "shared")  # for --resume and the gate
    listed = json.loads(manta("jobs", "list", "--json").communicate(timeout=60)[0])["jobs"]
    assert [(job["job"], job["status"]) for job in listed] == [(result["job"], "SUCCEEDED")]


def test_a_folder_that_one_node_does_not_see_is_refused_with_the_reason(
    manta: Callable[..., subprocess.Popen[str]], tmp_path: Path, hidden: Path, two_classes: Path, tiny_model: Path
) -> None:
    path = write_experiment(tmp_path, data=two_classes, model=tiny_model, storage=hidden)
    process = manta("submit", "train", path)
    words = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    last = words.splitlines()[-1]
    assert last.startswith(f"Error: {hidden} is not the same folder on all 2 nodes: ")
    assert " does not see it; set storage" in last
    assert not (hidden / "runs").exists()


def test_code_edited_since_the_last_submission_runs(
    manta: Callable[..., subprocess.Popen[str]], tmp_path: Path, two_classes: Path, tiny_model: Path
) -> None:
    path = write_experiment(tmp_path, data=two_classes, model=tiny_model, storage=tmp_path / "shared")
    for folder in ("platform", "jobs", "serve", "ui"):
        shutil.copytree(ROOT / folder, tmp_path / "checkout" / folder)
    folders = [str(tmp_path / "checkout" / folder) for folder in ("platform", "jobs", "serve", "ui")]
    environment = {"PYTHONPATH": os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])}
    edited = tmp_path / "checkout" / "jobs" / "manta_jobs" / "runs" / "train.py"
    code = edited.read_text()
    for sentence in ("the first edit", "the second edit"):
        edited.write_text(code.replace("    started = time.monotonic()\n", f"    raise ValueError({sentence!r})\n", 1))
        process = manta("submit", "train", path, **environment)
        words = process.communicate(timeout=120)[1]
        assert process.returncode == 1
        assert f"an error that it does not know: ValueError: {sentence}." in words.splitlines()[-1]


def test_ctrl_c_leaves_the_job_running_and_says_how_to_stop_it(
    manta: Callable[..., subprocess.Popen[str]], tmp_path: Path, two_classes_large: Path, tiny_model: Path
) -> None:
    path = write_experiment(tmp_path, data=two_classes_large, model=tiny_model, storage=tmp_path / "shared", num_epochs=500)
    process = manta("submit", "train", path)
    assert process.stderr is not None
    next(line for line in process.stderr if "Training on 2 workers" in line)
    process.send_signal(signal.SIGINT)
    words = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    follow, stop = (line.split()[1:] for line in words.splitlines() if line.startswith("  manta jobs"))
    follower = manta(*follow)
    assert json.loads(manta(*stop, "--json").communicate(timeout=60)[0])["stopped"]
    assert follower.communicate(timeout=60)[1].splitlines()[-1] == f"Error: {stop[2]} was stopped."
    assert follower.returncode == 1


@pytest.mark.parametrize(("token", "sentence"), [("", "asks for a token"), ("0" * 32, "refuses the token")])
def test_without_the_right_token_nothing_is_told(token: str, sentence: str, manta: Callable[..., subprocess.Popen[str]]) -> None:
    process = manta("jobs", "list", RAY_AUTH_TOKEN=token)
    assert sentence in process.communicate(timeout=60)[1]
    assert process.returncode == 2
