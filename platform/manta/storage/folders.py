"""The storage folder, which holds all runs and the registry, or its mirror of an object store."""

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
        """The run's unique name, which is also the folder's name."""
        return self.path.name

    @property
    def handle(self) -> str:
        """The value for `--resume`: the run's name, or its URL in an object store, which also works on other machines."""
        return url_of(self.path) or self.name

    @property
    def config_path(self) -> Path:
        """The run's config as YAML, with which the run can be repeated."""
        return self.path / "config.yaml"

    @property
    def data(self) -> Path:
        """Tokenized splits."""
        return self.path / "data"

    @property
    def artifact(self) -> Path:
        """The finished model."""
        return self.path / "artifact"

    @property
    def report_path(self) -> Path:
        """The report, which exists once the run is finished."""
        return self.path / "report.json"

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Write `run.json`: the facts that are needed to resume the run."""
        write_atomically(self.path / "run.json", json.dumps(facts, indent=2) + "\n")

    def read_facts(self) -> dict[str, Any]:
        """Return the facts that `write_facts` wrote.

        Raises:
            InputError: the folder holds no run, or one that was interrupted before it began.
        """
        try:
            facts: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{self.path}: no readable run.json; start the run again.") from None
        return facts

    def write_report(self, report: dict[str, Any]) -> Path:
        """Write `report.json` completely or not at all, and return its path."""
        write_atomically(self.report_path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        return self.report_path


@dataclass(frozen=True)
class Storage:
    """The place of runs, artifacts and the registry."""

    root: Path
    """The folder, or this node's mirror of an object store, see `manta.storage.object_store`."""

    @classmethod
    def resolve(cls, configured: str | None) -> Storage:
        """Return the configured folder or URL, else that of $MANTA_STORAGE, else ~/.manta. Nothing is created.

        Raises:
            InputError: it is a file, or not a valid URL.
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
        """The folder that holds one folder per run."""
        return self.root / "runs"

    @property
    def url(self) -> str | None:
        """The URL in an object store; None for a folder."""
        return url_of(self.root)

    @property
    def registry(self) -> Path:
        """The local MLflow database and its artifacts.

        Raises:
            InputError: the storage is an object store, which cannot hold them.
        """
        if self.url is not None:
            raise InputError(
                f"storage: {self.url} is an object store, which cannot hold the registry's database; set MLFLOW_TRACKING_URI to an "
                "MLflow server."
            )
        return self.root / "registry"

    def on_disk(self, *, what: str) -> Path:
        """Return the folder, for data that needs a shared folder. `what` gives the reason in messages.

        Raises:
            InputError: the storage is an object store.
        """
        if self.url is not None:
            raise InputError(f"storage: {self.url} is an object store, and {what}; set storage or MANTA_STORAGE to a folder.")
        return self.root

    def find_run(self, name: str) -> RunFolder:
        """Return the folder of an earlier run, by its name, its path or its URL.

        Raises:
            InputError: there is no such run.
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
            self.runs.mkdir(parents=True, exist_ok=True)
            run.path.mkdir(mode=0o700)  # it holds texts, and its owner alone reads them
            run.data.mkdir()
        except OSError as error:
            raise InputError(f"storage: {self.root} cannot be written ({error.strerror}); set storage or MANTA_STORAGE.") from None
        return run


def names_a_folder(model: str) -> bool:
    """Tell whether the argument for a model is a path, such as ./support. A name without a slash is one of the registry."""
    return "/" in model or model.startswith(("~", "."))


def write_atomically(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a text file under a temporary name and rename it. Readers never see half of it, even after a power cut.

    `mode` sets the permissions of the file from its first byte on. The process's umask reduces them as usual.
    """
    temporary = partial_beside(path)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
        sync(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def owner_only(path: str, flags: int) -> int:
    """Open a file so that only its owner can read it, as the `opener` of `open`."""
    return os.open(path, flags, 0o600)


def partial_beside(path: Path) -> Path:
    """Return a new hidden name next to `path` for a file or folder that is not finished. Nothing of a user's has it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")


def discard_unfinished(path: Path) -> None:
    """Remove what a process that was lost has left under the names that `partial_beside(path)` gives."""
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, so that a later rename is not stored before them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `target`, which becomes `target` after the body, or is removed if the body fails.

    Raises:
        FileExistsError: `target` exists and is not an empty folder.
        RunError: it cannot be written, such as on a full disk; the message names the folder.
    """
    target = target.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(target)
    partial = partial_beside(target)
    with disk_errors(target):
        try:
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
    """Turn errors of a disk that is full or cannot be written into one sentence that names the folder or file.

    Raises:
        RunError: with that sentence.
    """
    try:
        yield
    except Exception as error:
        reason = _disk_fault(error)
        if reason is None:
            raise
        raise RunError(f"{path} could not be written ({reason}); make room or choose another folder, and try again.") from None


def _disk_fault(error: Exception) -> str | None:
    """Return the system's message if it caused the error, else None.

    safetensors and tokenizers report the system's error number only in the text of their own errors.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    found = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(found.group(1))) if found else None
