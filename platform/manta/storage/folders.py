"""The one folder that holds everything a user may want to find again: runs and the registry. Or its mirror in an object store."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.errors import InputError, RunError
from manta.storage.object_store import mirror_of, shown, url_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def name(self) -> str:
        """The run's unique name, which is the folder's."""
        return self.path.name

    @property
    def handle(self) -> str:
        """What `--resume` is given: its name, or its URL in an object store, which also another machine finds."""
        return url_of(self.path) or self.name

    @property
    def config_path(self) -> Path:
        """The config it ran with, as YAML that repeats it."""
        return self.path / "config.yaml"

    @property
    def data(self) -> Path:
        """Tokenised splits."""
        return self.path / "data"

    @property
    def artifact(self) -> Path:
        """The finished model."""
        return self.path / "artifact"

    @property
    def report_path(self) -> Path:
        """What came of it; there when the run is finished."""
        return self.path / "report.json"

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Write `run.json`: what must be known to go on with the run."""
        write_atomically(self.path / "run.json", json.dumps(facts, indent=2) + "\n")

    def read_facts(self) -> dict[str, Any]:
        """What `write_facts` was given.

        Raises:
            InputError: the folder holds no run, or one that was interrupted before it began.
        """
        try:
            facts: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{self.path}: no readable run.json; start the run again.") from None
        return facts

    def write_report(self, report: dict[str, Any]) -> Path:
        """Write `report.json` whole or not at all."""
        write_atomically(self.report_path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        return self.report_path


@dataclass(frozen=True)
class Storage:
    """Where runs, artifacts and the registry live."""

    root: Path
    """The folder, or this node's mirror of an object store, see `manta.storage.object_store`."""

    @classmethod
    def resolve(cls, configured: str | None) -> Storage:
        """The configured folder or URL, else that of $MANTA_STORAGE, else ~/.manta. Nothing is created.

        Raises:
            InputError: it is a file, or no such URL.
        """
        asked = configured or os.environ.get("MANTA_STORAGE") or "~/.manta"
        if "://" in asked:
            return cls(mirror_of(asked))
        root = Path(asked).expanduser().absolute()
        if root.exists() and not root.is_dir():
            raise InputError(f"storage: {root} is a file; give a folder.")
        return cls(root)

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.root / "runs"

    @property
    def url(self) -> str | None:
        """Where it is in an object store; None for a folder."""
        return url_of(self.root)

    @property
    def registry(self) -> Path:
        """The local MLflow database and its artifacts.

        Raises:
            InputError: it is an object store, which cannot hold them.
        """
        if self.url is not None:
            raise InputError(
                f"storage: {self.url} is an object store, which cannot hold the registry's database; set MLFLOW_TRACKING_URI to an "
                "MLflow server."
            )
        return self.root / "registry"

    def on_disk(self, *, what: str) -> Path:
        """The folder, for what must be one that all share: `what` says for people what that is.

        Raises:
            InputError: it is an object store.
        """
        if self.url is not None:
            raise InputError(f"storage: {self.url} is an object store, and {what}; set storage or MANTA_STORAGE to a folder.")
        return self.root

    def find_run(self, name: str) -> RunFolder:
        """The folder of an earlier run, by its name, its path or its URL.

        Raises:
            InputError: there is none.
        """
        for path in (self.runs / name, mirror_of(name) if "://" in name else Path(name)):
            if (path / "config.yaml").is_file():
                return RunFolder(path.absolute())
        known = sorted((path for path in self.runs.glob("*") if path.is_dir()), key=lambda path: path.stat().st_mtime)
        newest = f"; the newest is {known[-1].name}" if known else ""
        raise InputError(f"{name}: no such run in {shown(self.runs)}{newest}.")

    def new_run(self, name: str, *, verb: str) -> RunFolder:
        """Create the folder of a new run, named by experiment, verb and time.

        Raises:
            InputError: the folder cannot be written.
        """
        run = RunFolder(self.runs / f"{name}-{verb}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")
        try:
            run.data.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"storage: {self.root} cannot be written ({error.strerror}); set storage or MANTA_STORAGE.") from None
        return run


def write_atomically(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a text file under a temporary name and rename it, so that a reader never sees half of it, even after a power cut.

    `mode` says who may read and write it, from its first byte on; the process's umask takes away from that as ever.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
        sync(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, so that a rename after it cannot outrun them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it when the body is done, and is gone when the body fails.

    Raises:
        FileExistsError: `target` is there already, and is not an empty folder.
        RunError: it cannot be written, such as on a full disk; the message names the folder.
    """
    target = target.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(target)
    partial = target.with_name(target.name + ".partial")
    with disk_errors(target):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            for path in (*partial.rglob("*"), partial):
                sync(path)
            partial.rename(target)
            sync(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk that is full or cannot be written raises into one sentence that names the folder or file.

    Raises:
        RunError: that sentence.
    """
    try:
        yield
    except Exception as error:
        reason = _disk_fault(error)
        if reason is None:
            raise
        raise RunError(f"{path} could not be written ({reason}); make room or choose another folder, and try again.") from None


def _disk_fault(error: Exception) -> str | None:
    """What the system said, where an error is its; safetensors and tokenizers give its number in their own errors' text only."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    found = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(found.group(1))) if found else None
