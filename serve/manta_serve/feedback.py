"""`FeedbackStore`: people's feedback on answers, stored as rows to train on.

Each model has one SQLite database, `<storage>/feedback/<model>/feedback.sqlite`, which `data.train` and `data.feedback` read like
other rows. Each text occurs once: the same label again adds nothing, and another label replaces the row, because training refuses
one text with two labels. Triggers keep the figures of a summary up to date, so that it costs about the same however much there is.

Any number of processes may write. A connection lives as long as one operation, so the file alone is complete at any other time. The
database has a rollback journal: a write-ahead log would be wrong where replicas on several machines share the storage.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from manta.errors import MantaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from manta.storage.folders import Storage
    from manta.texts import Text

FILE, OLD_FILE = "feedback.sqlite", "feedback.jsonl"
MOST_CONFLICTS = 20
OWNER_ONLY, OWNER_FOLDER = 0o600, 0o700
WAIT_S = 10.0
"""Seconds that an operation waits for those of other processes."""
SPARE_PAGES = 64
"""Pages beyond the limit for rows that replace others, as these do not always fit where the others were."""
Said = str | list[str]
"""A label, or for a multilabel model a list of labels."""
SCHEMA = """
CREATE TABLE feedback (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    text TEXT NOT NULL,       -- JSON: a string, or two in a list
    digest BLOB NOT NULL UNIQUE,
    plain BLOB NOT NULL,      -- digest of the text regardless of case and spaces
    label TEXT NOT NULL,      -- JSON: the right label, or a list of labels
    answer TEXT NOT NULL,
    version INTEGER NOT NULL,
    at TEXT NOT NULL,
    key_name TEXT
);
CREATE INDEX alike_texts ON feedback (plain, label);
CREATE INDEX times ON feedback (at);
CREATE TABLE figures (name TEXT, label TEXT, number INTEGER, PRIMARY KEY (name, label));
-- groups of several texts
CREATE TABLE alike (plain BLOB PRIMARY KEY, texts INTEGER, labels INTEGER, first INTEGER);
"""
ON_CHANGE = """
CREATE TRIGGER after_{event} AFTER {event} ON feedback BEGIN
    INSERT INTO figures
        SELECT 'label', value, {step} FROM json_each({row}.label)
        UNION ALL SELECT 'texts', '', {step}
        UNION ALL SELECT 'corrected', '', {step} * ({row}.label <> {row}.answer) WHERE true
        ON CONFLICT (name, label) DO UPDATE SET number = number + excluded.number;
    DELETE FROM alike WHERE plain = {row}.plain;
    INSERT INTO alike
        SELECT {row}.plain, count(*), count(DISTINCT label), min(id) FROM feedback WHERE plain = {row}.plain HAVING count(*) > 1;
END;
"""
logger = logging.getLogger(__name__)


class FeedbackFullError(MantaError):
    """Error: there is no room for more feedback (507)."""


@dataclass(frozen=True)
class Feedback:
    """One person's feedback on one answer."""

    text: Text
    answer: Said
    correction: Said
    version: int
    key_name: str | None = None
    """Name of the API key that it came with, so that what one key said can be taken back."""


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
        self.path: Path = storage.on_disk(what="feedback is a database file") / "feedback" / model / FILE
        self._max_bytes = max_bytes

    def add(self, feedback: Feedback) -> bool:
        """Store the feedback. Return False if the text already has this label.

        Raises:
            FeedbackFullError: the config's limit is reached, or the disk cannot be written.
        """
        try:
            with self._database(writes=True) as database:
                self._limit(database, feedback)
                return _add(database, feedback, at=_utc(datetime.now(UTC)))
        except (OSError, sqlite3.Error) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                limit = f"{self._max_bytes} bytes are kept at most (serve.feedback_max_bytes)"
                raise FeedbackFullError(f"there is no room for more feedback: {limit}.") from None
            raise FeedbackFullError(f"feedback cannot be kept here ({error}); tell this service's operator.") from None

    def corrections(self, texts: Sequence[Text]) -> list[Said | None]:
        """Return the right label of each text, or None if nobody gave one."""
        with self._database() as database:
            query = "SELECT label FROM feedback WHERE digest = ?"
            found = [database.execute(query, (_digest(_json(text)),)).fetchone() for text in texts]
        return [None if row is None else json.loads(row[0]) for row in found]

    def summary(self, *, since: datetime) -> FeedbackSummary:
        """Summarize the feedback so far. `since` must have a time zone."""
        with self._database() as database:
            figures = database.execute("SELECT name, label, number FROM figures WHERE number > 0 ORDER BY label").fetchall()
            totals = {name: number for name, label, number in figures if not label}
            (recent,) = database.execute("SELECT count(*) FROM feedback WHERE at >= ?", (_utc(since),)).fetchone()
            (duplicates,) = database.execute("SELECT total(texts - 1) FROM alike WHERE labels = 1").fetchone()
            return FeedbackSummary(
                count=totals.get("texts", 0),
                since=recent,
                corrected=totals.get("corrected", 0),
                by_label={label: number for name, label, number in figures if name == "label"},
                duplicates=int(duplicates),
                conflicts=tuple(_conflicts(database)),
            )

    def _limit(self, database: sqlite3.Connection, feedback: Feedback) -> None:
        """Set the most pages that the file may have. A changed mind is taken in any case."""
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
        is_known = database.execute("SELECT 1 FROM feedback WHERE digest = ?", (_digest(_json(feedback.text)),)).fetchone()
        pages = self._max_bytes // page_bytes + (SPARE_PAGES if is_known else 0)
        database.execute(f"PRAGMA max_page_count = {pages}")

    @contextmanager
    def _database(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """Yield the database in a transaction, which is committed unless an error occurs. If there is none yet, make it."""
        self.path.parent.mkdir(mode=OWNER_FOLDER, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, OWNER_ONLY))
        with closing(sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)) as database, database:
            is_new = database.execute("PRAGMA user_version").fetchone() == (0,)
            database.execute("BEGIN IMMEDIATE" if writes or is_new else "BEGIN")
            if is_new and database.execute("PRAGMA user_version").fetchone() == (0,):  # no other process was faster
                self._create(database)
            yield database

    def _create(self, database: sqlite3.Connection) -> None:
        """Create the tables, and read the rows of the file in which earlier versions kept the feedback. It gets another name."""
        triggers = [
            ON_CHANGE.format(event=name, row=row, step=step) for name, row, step in (("INSERT", "new", 1), ("DELETE", "old", -1))
        ]
        for statement in (*SCHEMA.split(";\n"), *triggers):
            database.execute(statement)
        database.execute("PRAGMA user_version = 1")
        old = self.path.with_name(OLD_FILE)
        try:
            lines = old.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    feedback, at = _from_old(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    logger.warning("%s, line %d: not a row of feedback, and left out", old, number)
                else:
                    _add(database, feedback, at=at)
        old.rename(old.with_suffix(".jsonl.imported"))


def _add(database: sqlite3.Connection, feedback: Feedback, *, at: str) -> bool:
    text, label = _json(feedback.text), _json(feedback.correction)
    digest = _digest(text)
    if database.execute("SELECT 1 FROM feedback WHERE digest = ? AND label = ?", (digest, label)).fetchone():
        return False
    database.execute("DELETE FROM feedback WHERE digest = ?", (digest,))
    row = (
        text,
        digest,
        _digest(_json(_plain(feedback.text))),
        label,
        _json(feedback.answer),
        feedback.version,
        at,
        feedback.key_name,
    )
    database.execute(
        "INSERT INTO feedback (text, digest, plain, label, answer, version, at, key_name) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
    )
    return True


def _conflicts(database: sqlite3.Connection) -> Iterator[Conflict]:
    groups = database.execute(
        "SELECT plain, first FROM alike WHERE labels > 1 ORDER BY first LIMIT ?", (MOST_CONFLICTS,)
    ).fetchall()
    for plain, first in groups:
        (text,) = database.execute("SELECT text FROM feedback WHERE id = ?", (first,)).fetchone()
        labels = database.execute("SELECT label FROM feedback WHERE plain = ? GROUP BY label ORDER BY min(id)", (plain,)).fetchall()
        yield Conflict(_text(json.loads(text)), tuple(json.loads(label) for (label,) in labels))


def _from_old(row: dict[str, Any]) -> tuple[Feedback, str]:
    """Return a row of the earlier JSONL file, and its time."""
    text = row["text"] if "text" in row else (row["first"], row["second"])
    said = (row["label"], row["answer"])
    strings = [
        *(text if isinstance(text, tuple) else [text]),
        *(label for item in said for label in (item if isinstance(item, list) else [item])),
    ]
    if not all(isinstance(item, str) for item in strings):
        raise TypeError
    return Feedback(text, row["answer"], row["label"], int(row["version"])), _utc(datetime.fromisoformat(row["at"]))


def _text(found: str | list[str]) -> Text:
    return found if isinstance(found, str) else (found[0], found[1])


def _plain(text: Text) -> Text:
    """Return the text in a form that is equal for texts which differ only in case and spaces."""
    if isinstance(text, tuple):
        return " ".join(text[0].casefold().split()), " ".join(text[1].casefold().split())
    return " ".join(text.casefold().split())


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
