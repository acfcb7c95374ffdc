"""`FrozenRows`: the test rows a version was judged on, stored with it so that later versions are judged on the same rows.

They are files of the version's MLflow run, next to the model's folder: `test.jsonl` has the rows, `seen.npy` a hash of each text
that the version was trained or selected on, `behaviour.yaml` its behaviour tests. None of them is a pickle.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from manta.data.stored import taken
from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from manta.data import TextDataset
    from manta.labels import LabelSpace, RowLabels, Targets
    from manta.texts import Text

ROWS_FILE = "test.jsonl"
SEEN_FILE = "seen.npy"
SUITE_FILE = "behaviour.yaml"
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class FrozenRows:
    """Texts or pairs with their labels by name, and hashes of the texts that their version was trained or selected on."""

    texts: Sequence[Text]
    labels: list[RowLabels]
    seen: Hashes
    """Sorted hashes of the version's training and validation texts."""
    suite: str | None = None
    """The version's behaviour tests as YAML."""

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, dataset: TextDataset, *, suite: str | None = None) -> FrozenRows:
        """Return the test rows of a dataset, with hashes of its other texts."""
        seen = np.unique(np.concatenate([text_hashes(split.texts) for split in (dataset.train, dataset.validation)]))
        return cls(dataset.test.texts, label_names(dataset.test.targets, labels=dataset.labels), seen, suite)

    def unseen_by(self, *others: Hashes) -> FrozenRows:
        """Return the rows whose text is in none of the given hashes."""
        known = np.isin(text_hashes(self.texts), np.concatenate(others))
        kept = np.flatnonzero(~known)
        return replace(self, texts=taken(self.texts, kept), labels=[self.labels[index] for index in kept])

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        rows = zip(self.texts, self.labels, strict=True)
        with (folder / ROWS_FILE).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows)
        np.save(folder / SEEN_FILE, self.seen, allow_pickle=False)
        if self.suite is not None:
            (folder / SUITE_FILE).write_text(self.suite, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> FrozenRows:
        """Read the files that `write` wrote.

        Raises:
            InputError: a file is missing or damaged.
        """
        try:
            content = (folder / ROWS_FILE).read_text(encoding="utf-8")
            rows = [json.loads(line) for line in content.split("\n") if line]  # texts may hold other line separators
            texts = [_as_tuple(row["text"]) for row in rows]
            labels = [_as_tuple(row["label"]) for row in rows]
            seen = np.load(folder / SEEN_FILE, allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: the frozen test rows are missing or damaged ({error}).") from None
        suite = folder / SUITE_FILE
        return cls(texts, labels, seen, suite.read_text(encoding="utf-8") if suite.is_file() else None)


def label_names(targets: Targets, *, labels: LabelSpace) -> list[RowLabels]:
    """Convert targets in the format of `LabelSpace.encode` to names: one per row; for a multilabel task, a tuple."""
    if labels.task == "multilabel":
        return [tuple(labels.names[index] for index in np.flatnonzero(row)) for row in targets]
    return [labels.names[int(index)] for index in targets]


def text_hashes(texts: Iterable[Text]) -> Hashes:
    """Return a 64-bit hash of each text or pair. Spacing and case are ignored, because such a copy also gives the answer away."""
    return np.fromiter((_hash(text) for text in texts), dtype=np.uint64)


def _hash(text: Text) -> int:
    parts = (text,) if isinstance(text, str) else text
    normal = "\0".join(" ".join(part.split()).casefold() for part in parts)
    return int.from_bytes(hashlib.blake2b(normal.encode(), digest_size=8).digest(), "big")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
