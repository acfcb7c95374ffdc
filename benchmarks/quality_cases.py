"""The cases of `quality.py`: which rows each system trains on. A seed draws the same rows every time, class by class.

- `sst2-8`, `-32`, `-128`, `-full` and the same of `banking77` and `agnews`: so many rows of each class, or all training rows.
  A class that has fewer rows gives all it has.
- `sst2-unbalanced`: 3,000 training rows, 2% of them positive.
- `agnews-noisy`: all training rows; 10% of their labels become another one, each other label alike. Test labels stay.
- `support`, `reviews`: Manta's bundled rows, training and validation rows together.

Every case is tested on all test rows of its set.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manta.config import DataConfig
from manta.data.read import read_splits

SETS: dict[str, dict[str, Any]] = {
    "sst2": {"text": 0, "label": 1, "header": False},
    "banking77": {"text": "text", "label": "category"},
    "agnews": {"text": "body", "label": "topic"},
}
"""The folders below `--data` and the columns of their files."""
SAMPLES = ("support", "reviews")
SIZES = ("8", "32", "128")
UNBALANCED_ROWS, RARE_SHARE, RARE_LABEL = 3000, 0.02, "1"
FLIPPED_SHARE = 0.1
CASES = (
    *(f"{name}-{size}" for size in (*SIZES, "full") for name in SETS),
    "sst2-unbalanced",
    "agnews-noisy",
    *SAMPLES,
)
UNBALANCED = ("sst2-unbalanced",)
"""Macro F1 is what counts in these; accuracy in the others."""
Labels = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Rows:
    """Texts with the names of their classes."""

    texts: list[str]
    labels: Labels

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: npt.NDArray[np.int64]) -> Rows:
        """The rows at `indices`, in their order."""
        return Rows([self.texts[index] for index in indices], self.labels[indices])

    def joined(self, other: Rows) -> Rows:
        """These rows and then the others."""
        return Rows([*self.texts, *other.texts], np.concatenate([self.labels, other.labels]))


@dataclass(frozen=True)
class DrawnCase:
    """The training and test rows that every system gets."""

    train: Rows
    test: Rows

    @property
    def num_classes(self) -> int:
        """Classes of the training rows."""
        return len(set(self.train.labels.tolist()))

    @property
    def rows_per_class(self) -> int:
        """Rows of the class that has most."""
        return max(Counter(self.train.labels.tolist()).values())


def set_of(case: str) -> str:
    """The set of rows that a case draws from."""
    return case.rpartition("-")[0] or case


def default_seeds(case: str) -> tuple[int, ...]:
    """Three seeds for the small cases, one for those that train for long."""
    return (0, 1, 2) if case in SAMPLES or case.rpartition("-")[2] in SIZES else (0,)


def draw_case(case: str, *, seed: int, data: Path | None) -> DrawnCase:
    """The rows of one case; `data` is the folder that holds the sets, which the bundled samples do not need.

    Raises:
        InputError: the files are missing or cannot be read.
    """
    name, _, kind = case.rpartition("-") if case not in SAMPLES else (case, "", "full")
    splits = read_set(name, data)
    train, rng = splits["train"], np.random.default_rng(seed)
    if name in SAMPLES:
        train = train.joined(splits["validation"])
    if kind in SIZES:
        train = train.take(rows_of_each_class(train.labels, {label: int(kind) for label in classes(train.labels)}, rng))
    elif kind == "unbalanced":
        train = train.take(rows_of_each_class(train.labels, unbalanced_counts(train.labels), rng))
    elif kind == "noisy":
        train = Rows(train.texts, flipped(train.labels, rng))
    return DrawnCase(train, splits["test"])


@cache
def read_set(name: str, data: Path | None) -> dict[str, Rows]:
    """Every split of a set, with the labels as text."""
    config = DataConfig(train=f"sample:{name}") if name in SAMPLES else DataConfig(train=str((data or Path()) / name), **SETS[name])
    return {split: Rows(list(rows.texts), np.array([str(x) for x in rows.labels])) for split, rows in read_splits(config).items()}


def classes(labels: Labels) -> list[str]:
    """The names of the classes, in order."""
    return sorted(set(labels.tolist()))


def rows_of_each_class(labels: Labels, counts: dict[str, int], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices of `counts` rows of each class, or of all it has, in an order that mixes the classes."""
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in sorted(counts.items())]
    return rng.permutation(np.concatenate(drawn))


def unbalanced_counts(labels: Labels) -> dict[str, int]:
    """`UNBALANCED_ROWS` rows, of which the rare class has `RARE_SHARE` and the others the rest in equal parts."""
    num_rare = round(UNBALANCED_ROWS * RARE_SHARE)
    others = [label for label in classes(labels) if label != RARE_LABEL]
    return {RARE_LABEL: num_rare} | {label: (UNBALANCED_ROWS - num_rare) // len(others) for label in others}


def flipped(labels: Labels, rng: np.random.Generator) -> Labels:
    """The labels with `FLIPPED_SHARE` of them changed to another class, each other class alike."""
    names = classes(labels)
    chosen = rng.permutation(len(labels))[: round(FLIPPED_SHARE * len(labels))]
    numbers = np.searchsorted(names, labels)
    numbers[chosen] = (numbers[chosen] + rng.integers(1, len(names), len(chosen))) % len(names)
    return np.array(names)[numbers]


def write_case(drawn: DrawnCase, folder: Path) -> None:
    """Write `train.jsonl` and `test.jsonl` with the fields text and label."""
    for name, rows in (("train", drawn.train), ("test", drawn.test)):
        lines = (json.dumps({"text": text, "label": label}) for text, label in zip(rows.texts, rows.labels.tolist(), strict=True))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
