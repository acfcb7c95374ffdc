"""docs/backup.md as it stands there: a storage is lost and restored, and the units of systemd are valid."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from manta.labels import LabelSpace
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage
from manta_serve.access.keys import KeyStore
from manta_serve.feedback import Feedback, FeedbackStore

from .serve.untrained import artifact_of
from .test_repository import commands, named_command

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
SCRIPTS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "backup.md").read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def storage(tiny_model: Path, own_storage: Path, tmp_path: Path) -> Storage:
    """A storage with everything that the guide names."""
    storage = Storage(own_storage)
    tracker, registry = RunTracker(storage), ModelRegistry(storage)
    tracker.start("run", experiment="desk", config={})
    registry.register(
        artifact_of(tiny_model, tmp_path / "run", labels=LabelSpace.from_labels(["account", "billing"])), run_id=tracker.run_id
    )
    registry.set_champion(registry.get("desk", version=1))
    (storage.runs / "desk-1").mkdir(parents=True)
    (storage.runs / "desk-1" / "report.json").write_text("{}")
    (storage.root / "fetched").mkdir()
    return storage


def run(script: str, **folders: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {name: str(folder) for name, folder in folders.items()}
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)


def files(folder: Path) -> Iterator[tuple[str, int]]:
    """The files that a backup keeps, with what others may do to them."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "fetched" not in path.parts:
            yield str(path.relative_to(folder)), path.stat().st_mode & 0o077


def test_a_lost_storage_is_restored(storage: Storage, tmp_path: Path) -> None:
    backup, restore = SCRIPTS
    key = KeyStore(storage).create("ada")
    store = FeedbackStore(storage, "desk", max_bytes=10**6)
    store.add(Feedback("Where is my parcel", "billing", "account", 1))
    before = dict(files(storage.root))
    with closing(sqlite3.connect(storage.registry / "mlflow.db", isolation_level=None)) as writer:
        writer.execute("begin immediate")  # a write in progress is no part of the copy
        writer.execute("delete from model_versions")
        done = run(backup, STORAGE=storage.root, BACKUP=tmp_path / "backup")
        assert done.returncode == 0, done.stderr
        writer.execute("rollback")
    kept = dict(files(tmp_path / "backup"))
    assert kept.keys() == before.keys()
    assert [name for name, mode in kept.items() if mode & ~before[name]] == []  # others read no more than before
    assert kept["keys.json"] == kept["feedback/desk/feedback.sqlite"] == 0
    assert run(restore, STORAGE=storage.root, BACKUP=tmp_path / "backup").returncode != 0

    shutil.rmtree(storage.root)
    done = run(restore, STORAGE=storage.root, BACKUP=tmp_path / "backup")
    assert done.returncode == 0, done.stderr
    assert dict(files(storage.root)).keys() == before.keys()
    assert store.summary(since=datetime(2000, 1, 1, tzinfo=UTC)).count == 1
    assert KeyStore(storage).check(key) is not None
    champion = ModelRegistry(storage).get("desk")
    assert champion.version == 1
    exported = subprocess.run(
        [sys.executable, "-m", "manta.cli", "models", "export", "desk", "--to", tmp_path / "out"], capture_output=True, check=False
    )
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_what_is_not_run_says_why() -> None:
    assert all(commands("backup.md").values())


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists_and_starts_it_again(unit: Path) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    parser.read(unit)
    program, *words = shlex.split(parser["Service"]["ExecStart"])
    assert Path(program).name == "manta"
    command, left = named_command(words)
    command.make_context(command.name, left, resilient_parsing=False)
    assert (parser["Service"]["Restart"], parser["Service"]["KillMode"]) == ("always", "mixed")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_a_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    ours = tmp_path / unit.name
    ours.write_text(unit.read_text(encoding="utf-8").replace("/opt/manta/bin/manta", sys.executable), encoding="utf-8")
    checked = subprocess.run(["systemd-analyze", "verify", "--man=no", ours], capture_output=True, text=True, check=False)
    assert [line for line in checked.stderr.splitlines() if unit.name in line] == []
