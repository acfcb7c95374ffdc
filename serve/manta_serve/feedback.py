"""`FeedbackStore`: what people say about answers, as rows to train on.

One JSONL file a model, `<storage>/feedback/<model>/feedback.jsonl`, which `data.train` reads as it is: `text` (or `first` and
`second` of a pair) and `label`, which is what people say is right. A text stands in it once: who says the same again adds nothing,
who says something else has the last word, because training refuses one text under two labels.

Any number of processes may write: a lock file lets one at a time. Nobody keeps an index of the file, which others may have changed;
a text is looked for in the file's bytes, at some hundred MB a second.
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
"""A label, or of a multilabel model a list of labels."""


class FeedbackFullError(MantaError):
    """No more of it is kept (507)."""


@dataclass(frozen=True)
class Feedback:
    """What a person says about one answer."""

    text: Text
    answer: Said
    correction: Said
    version: int

    @property
    def key(self) -> bytes:
        """What the line of this text begins with, and no other text's."""
        names = {"text": self.text} if isinstance(self.text, str) else {"first": self.text[0], "second": self.text[1]}
        return json.dumps(names, ensure_ascii=False).removesuffix("}").encode() + b', "label": '

    @property
    def line(self) -> bytes:
        """The row as it is written."""
        rest = {"answer": self.answer, "version": self.version, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        label = json.dumps(self.correction, ensure_ascii=False)
        return self.key + f"{label}, {json.dumps(rest, ensure_ascii=False).removeprefix('{')}\n".encode()


@dataclass(frozen=True)
class Conflict:
    """Texts that are the same but for capitals and spaces, under different labels."""

    text: Text
    """As one of them is written."""
    labels: tuple[Said, ...]


@dataclass(frozen=True)
class FeedbackSummary:
    """What people said so far, in figures."""

    count: int
    since: int
    """Those that were said since the time that was asked for."""
    corrected: int
    """Those where the answer was wrong."""
    by_label: dict[str, int]
    duplicates: int
    """Texts that are another's again but for capitals and spaces, under the same label."""
    conflicts: tuple[Conflict, ...]
    """The first of them."""


class FeedbackStore:
    """The feedback on one model. Any thread and any number of processes may add to it at once."""

    def __init__(self, storage: Storage, model: str, *, max_bytes: int) -> None:
        self.path: Path = storage.on_disk(what="feedback is a file that grows line by line") / "feedback" / model / FILE
        self._max_bytes = max_bytes

    def add(self, feedback: Feedback) -> bool:
        """Keep it; False where the same was said of the text before.

        Raises:
            FeedbackFullError: there is no room for it, by the config's bound or on the disk.
        """
        try:
            with self._locked() as file:
                return self._added(file, feedback)
        except OSError as error:
            raise FeedbackFullError(f"feedback cannot be kept here ({error.strerror}); tell this service's operator.") from None

    def summary(self, *, since: datetime) -> FeedbackSummary:
        """The feedback so far, in figures; `since` has a time zone."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:  # nobody said anything yet
            content = b""
        # A last line without its break is one that is being written.
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
        """The file with one line taken out and another added, renamed into place so that readers see it whole."""
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
        """The open file, which nobody else changes meanwhile."""
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
    """The same for texts that differ in capitals and spaces only."""
    if isinstance(text, tuple):
        return " ".join(text[0].casefold().split()), " ".join(text[1].casefold().split())
    return " ".join(text.casefold().split())


def _different(said: list[Said]) -> tuple[Said, ...]:
    """The labels without repetitions, in their order."""
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
    """The file's size, without the half line that a process left that was killed while it wrote."""
    size = os.fstat(file).st_size
    if not size or os.pread(file, 1, size - 1) == b"\n":
        return size
    with mmap.mmap(file, size, access=mmap.ACCESS_READ) as content:
        whole = content.rfind(b"\n") + 1
    os.ftruncate(file, whole)
    return whole


def _find(file: int, key: bytes, *, size: int) -> tuple[int, int]:
    """Where the line is that begins with `key`; (0, 0) if there is none. No line's text holds a line break unescaped."""
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
