"""`OUT.partial/`: the plan and the finished chunks of a prediction, from which an interrupted one continues.

`plan.json` holds the task and the plan; it is written before any work starts. Each finished chunk is a file in `parts/`, renamed
into place. Then a line with its counts is added to `chunks.jsonl`. A chunk is finished when both are there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from manta.errors import InputError
from manta.storage.folders import write_atomically
from manta_jobs.batch_prediction.classify import ChunkCounts
from manta_jobs.batch_prediction.locate import InputFile
from manta_jobs.batch_prediction.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Task(BaseModel):
    """The input and the model of a prediction: two attempts with equal tasks give equal rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[InputFile, ...]
    text_columns: tuple[str, ...]
    model_sha256: str
    """Hash of the artifact's manifest, which holds the sha256 of every other file."""
    model_version: str


class Begun(BaseModel):
    """The content of `plan.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    task: Task
    plan: Plan


class PartialOutput:
    """The folder of one prediction. Open it with `opened`, which locks it against other processes."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self.finished = {counts.chunk: counts for counts in self._finished()}
        """The counts of finished chunks, by number."""

    @property
    def pending(self) -> list[int]:
        """Numbers of the unfinished chunks, in order."""
        return [chunk.number for chunk in self.plan.chunks if chunk.number not in self.finished]

    def part(self, number: int) -> Path:
        """Return the path of a finished chunk's file."""
        ending = "jsonl" if self.plan.source.is_json else "arrow"
        return self.path / "parts" / f"{number:07d}.{ending}"

    def add(self, content: bytes, counts: ChunkCounts) -> None:
        """Save a finished chunk."""
        part = self.part(counts.chunk)
        temporary = part.with_suffix(".new")
        temporary.write_bytes(content)
        temporary.replace(part)
        with (self.path / "chunks.jsonl").open("a", encoding="utf-8") as file:
            file.write(counts.model_dump_json() + "\n")
        self.finished[counts.chunk] = counts

    def put_in_place(self, joined: Path, out: Path) -> None:
        """Move the joined result to OUT, replace an older OUT, and remove this folder.

        The result's inode is saved first. A rename keeps the inode, so after a crash it shows whether OUT is in place.
        """
        write_atomically(self.path / "joined.json", json.dumps({"inode": joined.stat().st_ino}))
        if out.is_dir():
            older = self.path / "older"
            shutil.rmtree(older, ignore_errors=True)
            out.rename(older)
        joined.replace(out)
        shutil.rmtree(self.path)

    def _finished(self) -> Iterator[ChunkCounts]:
        journal = self.path / "chunks.jsonl"
        if not journal.exists():
            return
        text = journal.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            with journal.open("a", encoding="utf-8") as file:
                file.write("\n")  # end a line that a crash cut short, or the next one would continue it
        for line in text.split("\n"):
            try:
                counts = ChunkCounts.model_validate_json(line)
            except ValidationError:
                continue
            part = self.part(counts.chunk)
            if part.exists() and part.stat().st_size == counts.num_bytes:
                yield counts


@contextmanager
def opened(path: Path, task: Task, *, make_plan: Callable[[], Plan], start_again: bool) -> Iterator[PartialOutput]:
    """Begin the prediction at `path`, or resume the one that was begun there.

    The folder is locked for this process while the body runs. With `start_again`, a prediction of another task is discarded.

    Raises:
        InputError: another process works on it, another task was begun there, or the folder cannot be made.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        if not (path / "lock").exists() and any(path.iterdir()):
            raise InputError(f"{path}: not a folder of manta predict, which would remove it in the end; give another --out.")
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another --out.") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path}: another manta predict is writing there; wait for it or give another --out.") from None
        yield PartialOutput(path, _plan(path, task, make_plan=make_plan, start_again=start_again))
    finally:
        os.close(lock)


def _plan(path: Path, task: Task, *, make_plan: Callable[[], Plan], start_again: bool) -> Plan:
    file = path / "plan.json"
    try:
        begun = Begun.model_validate_json(file.read_text(encoding="utf-8")) if file.exists() else None
        fault = f"was begun with {_difference(begun.task, task)}; give the same one, or" if begun and begun.task != task else ""
    except ValidationError:
        begun, fault = None, "is damaged or of another version;"
    if fault and not start_again:
        raise InputError(f"{path} {fault} --overwrite starts again from the first row.")
    if begun is not None and not fault:
        return begun.plan
    try:
        plan = make_plan()
    except InputError:
        if not file.exists():
            shutil.rmtree(path)  # nothing was begun: leave nothing behind
        raise
    for name in ("joined.json", "chunks.jsonl"):
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(path / "parts", ignore_errors=True)
    (path / "parts").mkdir()
    write_atomically(file, Begun(task=task, plan=plan).model_dump_json() + "\n")
    return plan


def _difference(before: Task, now: Task) -> str:
    if before.files != now.files:
        earlier = {file.url: file for file in before.files}
        changed = [file.url for file in now.files if file.url in earlier and file != earlier[file.url]]
        return f"another input ({changed[0]} has changed since)" if changed else f"another input ({before.files[0].url})"
    if before.text_columns != now.text_columns:
        return f"--text {' --text '.join(before.text_columns)}"
    return f"another model ({before.model_version})"
