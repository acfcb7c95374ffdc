"""`suspects.jsonl`: rows that wait for a person's decision, the most doubtful first.

`manta data check` writes those whose label it doubts, `manta data suggest` those of a pool that have no label yet.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manta.errors import InputError
from manta.label_check.decisions import text_hash
from manta.storage.folders import write_atomically

if TYPE_CHECKING:
    from manta.labels import RowLabels
    from manta.texts import Text

CHECKS, SUSPECTS_FILE = "checks", "suspects.jsonl"
"""Folder of a storage with a folder for each check, and the name of its file."""
UNLABELED = ""
"""The given label of a row that has none yet."""
Kind = Literal["label", "duplicate", "outlier"]
KINDS: dict[Kind, str] = {
    "label": "another label is more probable",
    "duplicate": "nearly the same text has another label",
    "outlier": "unlike all other rows",
}
"""Kinds of suspects, in words."""


@dataclass(frozen=True)
class Place:
    """Split, file and line of a row."""

    file: str
    unit: str
    """The unit of `line`: "line" or, in files without lines, "row"; both count from 1."""
    line: int
    split: str | None
    """train, validation or test; None for rows of a single file."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.unit == "line" else f"{self.file}, row {self.line}"


@dataclass(frozen=True)
class Neighbor:
    """A row that is near to a suspect."""

    text: Text
    label: RowLabels
    similarity: float
    """Cosine of the two embeddings; 1 is the same direction."""
    place: Place


@dataclass(frozen=True)
class Suspect:
    """A row whose label is in doubt, or that has none."""

    text: Text
    given: RowLabels
    """Its label; `UNLABELED` if it has none."""
    proposed: RowLabels
    """The most probable label; the given one of a row that is only an outlier or a duplicate."""
    probability: float
    """Probability of the proposed label, by a model that was not fitted to the row."""
    given_probability: float
    """Probability of the given label."""
    quality: float
    """Score by which suspects are ranked; low is doubtful."""
    kinds: tuple[Kind, ...]
    """Why its label is in doubt; empty if it has none."""
    place: Place
    neighbors: tuple[Neighbor, ...] = ()

    @property
    def is_unlabeled(self) -> bool:
        """True if the row has no label yet."""
        return self.given == UNLABELED

    @property
    def text_hash(self) -> str:
        """The hash by which the row's text is known."""
        return text_hash(self.text)

    def to_dict(self) -> dict[str, Any]:
        """Return the row of `--json` and of the file."""
        return {
            "text_hash": self.text_hash,
            "text": self.text,
            "given": self.given,
            "proposed": self.proposed,
            "probability": round(self.probability, 6),
            "given_probability": round(self.given_probability, 6),
            "quality": round(self.quality, 6),
            "kinds": self.kinds,
            **dataclasses.asdict(self.place),
            "neighbors": [
                {"text": item.text, "label": item.label, "similarity": round(item.similarity, 4), **dataclasses.asdict(item.place)}
                for item in self.neighbors
            ],
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Suspect:
        """Read a row that `to_dict` made."""
        near = tuple(
            Neighbor(_tuple(item["text"]), _tuple(item["label"]), item["similarity"], _place(item)) for item in fields["neighbors"]
        )
        return cls(
            text=_tuple(fields["text"]),
            given=_tuple(fields["given"]),
            proposed=_tuple(fields["proposed"]),
            probability=float(fields["probability"]),
            given_probability=float(fields["given_probability"]),
            quality=float(fields["quality"]),
            kinds=tuple(fields["kinds"]),
            place=_place(fields),
            neighbors=near,
        )


def _tuple(value: Any) -> Any:
    """Return a list of JSON as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _place(fields: dict[str, Any]) -> Place:
    return Place(**{item.name: fields[item.name] for item in dataclasses.fields(Place)})


@dataclass(frozen=True)
class Suspects:
    """The content of a file of suspects."""

    rows: tuple[Suspect, ...]
    labels: tuple[str, ...]
    """The labels that a row may get."""
    data: str
    """The experiment or the file that was checked; for rows without a label, their pool."""
    decisions: Path
    """The file that decisions about these rows belong into."""

    def write(self, path: Path) -> None:
        """Write the file, completely or not at all. Its first line is about the file itself."""
        head = {"labels": self.labels, "data": self.data, "decisions": str(self.decisions)}
        lines = [head, *(suspect.to_dict() for suspect in self.rows)]
        write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), mode=0o600)

    @classmethod
    def read(cls, path: Path) -> Suspects:
        """Read the file.

        Raises:
            InputError: it is missing, or `manta data check` did not write it.
        """
        try:
            head, *rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
            suspects = tuple(Suspect.from_dict(row) for row in rows)
            return cls(suspects, tuple(head["labels"]), str(head["data"]), Path(head["decisions"]))
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; `manta data check` writes one.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a file of suspects ({type(error).__name__}); `manta data check` writes one.") from None
