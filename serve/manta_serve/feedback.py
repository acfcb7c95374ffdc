"""`FeedbackStore`: people's feedback on answers, stored as rows to train on.

Each model has one JSONL file, `<storage>/feedback/<model>/feedback.jsonl`, which `data.train` reads unchanged. A row has `text` (or
`first` and `second` of a pair) and `label`, the right label. Each text occurs once: the same label again adds nothing, and another
label replaces the row, because training refuses one text with two labels.

Any number of processes may write; a lock file lets in one at a time. There is no index, because other processes may have changed
the file. A text is searched in the file's bytes, at some hundred MB a second.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from manta.errors import MantaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from manta.storage.folders import Storage
    from manta.texts import Text

FILE = "feedback.jsonl"
MOST_CONFLICTS = 20
OWNER_ONLY, OWNER_FOLDER = 0o600, 0o700
Said = str | list[str]
"""A label, or for a multilabel model a list of labels."""


class FeedbackFullError(MantaError):
    """Error: there is no room for more feedback (507)."""


@dataclass(frozen=True)
class Feedback:
    """One person's feedback on one answer."""

    text: Text
    answer: Said
    correction: Said
    version: int

    @property
    def key(self) -> bytes:
        """The beginning of this text's line, which no other text's line has."""
        names = {"text": self.text} if isinstance(self.text, str) else {"first": self.text[0], "second": self.text[1]}
        return json.dumps(names, ensure_ascii=False).removesuffix("}").encode() + b', "label": '

    @property
    def line(self) -> bytes:
        """The row as it is written to the file."""
        rest = {"answer": self.answer, "version": self.version, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        label = json.dumps(self.correction, ensure_ascii=False)
        return self.key + f"{label}, {json.dumps(rest, ensure_ascii=False).removeprefix('{')}\n".encode()


@dataclass(frozen=True)
class Conflict:
    """Texts that differ only in case and spaces but have different labels."""

    text: Text
    """One of the texts, as it was written."""
    labels: tuple[Said, ...]


@dataclass(frozen=True)
class FeedbackSummary:
    """Summary of the feedback so far."""

    count: int
    since: int
    """Texts whose feedback was given since the requested time."""
    corrected: int
    """Texts whose answer was wrong."""
    by_label: dict[str, int]
    duplicates: int
    """Texts that repeat another one, except for case and spaces, with the same label."""
    conflicts: tuple[Conflict, ...]
    """The first conflicts, MOST_CONFLICTS at most."""


class FeedbackStore:
    """The feedback on one model. Any thread and any number of processes may add to it at once."""

    def __init__(self, storage: Storage, model: str, *, max_bytes: int) -> None:
        self.path: Path = storage.on_disk(what="feedback is a file that grows line by line") / "feedback" / model / FILE
        self._max_bytes = max_bytes

    def add(self, feedback: Feedback) -> bool:
        """Store the feedback. Return False if the text already has this label.

        Raises:
            FeedbackFullError: the config's limit is reached, or the disk cannot be written.
        """
        try:
            with self._locked() as file:
                return self._added(file, feedback)
        except OSError as error:
            raise FeedbackFullError(f"feedback cannot be kept here ({error.strerror}); tell this service's operator.") from None

    def summary(self, *, since: datetime) -> FeedbackSummary:
        """Summarize the feedback so far. `since` must have a time zone."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:  # no feedback yet
            content = b""
        # A last line without a line break is still being written.
        rows = [json.loads(line) for line in content.split(b"\n")[:-1]]
        by_label: Counter[str] = Counter()
        alike: dict[Text, list[dict[str, Any]]] = {}
        for row in rows:
            by_label.update(row["label"] if isinstance(row["label"], list) else [row["label"]])
            alike.setdefault(_plain(_text_of(row)), []).append(row)
        groups = [group for group in alike.values() if len(group) > 1]
        labels = [_different([row["label"] for row in group]) for group in groups]
        conflicts = [Conflict(_text_of(group[0]), said) for group, said in zip(groups, labels, strict=True) if len(said) > 1]
        return FeedbackSummary(
            count=len(rows),
            since=sum(datetime.fromisoformat(row["at"]) >= since for row in rows),
            corrected=sum(row["answer"] != row["label"] for row in rows),
            by_label=dict(sorted(by_label.items())),
            duplicates=sum(len(group) - 1 for group, said in zip(groups, labels, strict=True) if len(said) == 1),
            conflicts=tuple(conflicts[:MOST_CONFLICTS]),
        )

    def _added(self, file: int, feedback: Feedback) -> bool:
        size = _whole_size(file)
        start, end = _find(file, feedback.key, size=size)
        said = json.dumps(feedback.correction, ensure_ascii=False).encode() + b", "
        if end and os.pread(file, len(said), start + len(feedback.key)) == said:
            return False
        line = feedback.line
        if size - (end - start) + len(line) > self._max_bytes:
            raise FeedbackFullError(
                f"there is no room for more feedback: {self._max_bytes} bytes are kept at most (serve.feedback_max_bytes)."
            )
        if end:
            self._replace(file, line, without=(start, end), size=size)
        else:
            _append(file, line, size=size)
        return True

    def _replace(self, file: int, line: bytes, *, without: tuple[int, int], size: int) -> None:
        """Write the file without one line and with a new one, and rename it into place so that readers see a whole file."""
        temporary = self.path.with_suffix(".partial")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY), "wb") as new:
                for start, end in ((0, without[0]), (without[1], size)):
                    for position in range(start, end, 1 << 20):
                        new.write(os.pread(file, min(1 << 20, end - position), position))
                new.write(line)
                new.flush()
                os.fsync(new.fileno())
            temporary.replace(self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Yield the open file while no other process changes it."""
        self.path.parent.mkdir(mode=OWNER_FOLDER, parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(".lock"), os.O_RDWR | os.O_CREAT, OWNER_ONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, OWNER_ONLY)
            try:
                yield file
            finally:
                os.close(file)
        finally:
            os.close(lock)


def _text_of(row: dict[str, Any]) -> Text:
    return row["text"] if "text" in row else (row["first"], row["second"])


def _plain(text: Text) -> Text:
    """Return the text in a form that is equal for texts which differ only in case and spaces."""
    if isinstance(text, tuple):
        return " ".join(text[0].casefold().split()), " ".join(text[1].casefold().split())
    return " ".join(text.casefold().split())


def _different(said: list[Said]) -> tuple[Said, ...]:
    """Return the labels without duplicates, in their order."""
    return tuple(label for index, label in enumerate(said) if label not in said[:index])


def _append(file: int, line: bytes, *, size: int) -> None:
    try:
        written = os.pwrite(file, line, size)
        if written < len(line):
            raise OSError(0, "the disk is full")
        os.fsync(file)
    except BaseException:
        os.ftruncate(file, size)
        raise


def _whole_size(file: int) -> int:
    """Return the file's size, after removing the incomplete last line of a process that was killed while writing."""
    size = os.fstat(file).st_size
    if not size or os.pread(file, 1, size - 1) == b"\n":
        return size
    with mmap.mmap(file, size, access=mmap.ACCESS_READ) as content:
        whole = content.rfind(b"\n") + 1
    os.ftruncate(file, whole)
    return whole


def _find(file: int, key: bytes, *, size: int) -> tuple[int, int]:
    """Return start and end of the line that begins with `key`, or (0, 0) if there is none. Line breaks within texts are escaped."""
    if not size:
        return 0, 0
    with mmap.mmap(file, size, access=mmap.ACCESS_READ) as content:
        if content[: len(key)] == key:
            start = 0
        else:
            start = content.find(b"\n" + key) + 1
            if start == 0:
                return 0, 0
        return start, content.find(b"\n", start) + 1
