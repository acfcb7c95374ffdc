"""`TextDataset`: checked train, validation and test splits with a content hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from manta.config import DataConfig
from manta.data import check
from manta.data.read import Rows, read_rows, read_splits
from manta.data.split import stratified_split
from manta.errors import InputError
from manta.labels import LabelSpace

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Texts and their class indices, `targets` of shape `(rows,)`."""

    texts: list[str]
    targets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: npt.NDArray[np.int64]) -> Split:
        """The rows at `indices`, in their order."""
        return Split([self.texts[index] for index in indices], self.targets[indices])


@dataclass(frozen=True)
class TextDataset:
    """The rows of one run, all of them checked."""

    train: Split
    validation: Split
    test: Split
    labels: LabelSpace
    warnings: tuple[str, ...] = ()

    def split(self, name: str) -> Split:
        """One of train, validation and test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @property
    def content_hash(self) -> str:
        """sha256 over the label names and every row of every split, so that equal data is known as equal."""
        digest = hashlib.sha256("\0".join(self.labels.names).encode())
        for name in SPLITS:
            split = self.split(name)
            digest.update(f"\0\0{name}\0{len(split)}".encode())
            for text in split.texts:
                content = text.encode("utf-8")
                digest.update(len(content).to_bytes(8, "big") + content)
            digest.update(split.targets.tobytes())
        return digest.hexdigest()

    def class_counts(self, name: str) -> dict[str, int]:
        """Rows of each label in one split, by label name."""
        counts = Counter(self.split(name).targets.tolist())
        return {label: counts.get(index, 0) for index, label in enumerate(self.labels.names)}


def load_dataset(config: DataConfig, *, task: Literal["auto", "binary", "multiclass"] = "auto") -> TextDataset:
    """Read, check and split the rows that the config names.

    Raises:
        InputError: the first fault found, with file and line.
    """
    rows = read_splits(config)
    named = {name: check.checked_labels(split) for name, split in rows.items()}
    check.check_classes(rows["train"], named["train"])
    for name, split in rows.items():
        check.check_known(split, named[name], set(named["train"]))
        check.check_conflicts(split, named[name])
    labels = LabelSpace.from_labels(named["train"], task=task)
    splits = {name: _as_split(split, named[name], labels) for name, split in rows.items()}
    splits = _with_missing_splits(splits, config)
    warnings = check.overlap_warnings({name: splits[name].texts for name in SPLITS})
    return TextDataset(splits["train"], splits["validation"], splits["test"], labels, tuple(warnings))


def load_labelled(location: str, config: DataConfig, *, labels: LabelSpace) -> Split:
    """One checked split whose labels are a model's.

    Raises:
        InputError: the first fault found, with file and line; a label that the model does not know is one.
    """
    rows = read_rows(location, "test", config)
    names = check.checked_labels(rows)
    check.check_known(rows, names, set(labels.names))
    return _as_split(rows, names, labels)


def _as_split(rows: Rows, names: list[str], labels: LabelSpace) -> Split:
    return Split(rows.texts, labels.encode(names))


def _with_missing_splits(splits: dict[str, Split], config: DataConfig) -> dict[str, Split]:
    """Set rows of train aside for the splits that were not given: the test rows first, so that they never change."""
    result = dict(splits)
    remaining_share = 1.0
    for name, fraction in (("test", config.test_fraction), ("validation", config.validation_fraction)):
        if name not in result:
            train = result["train"]
            kept, aside = stratified_split(train.targets, fraction=fraction / remaining_share, seed=config.split_seed)
            if not len(aside):
                raise InputError(f"{config.train}: too few rows to set any aside for {name}; add rows or give data.{name}.")
            result["train"], result[name] = train.take(kept), train.take(aside)
            remaining_share -= fraction
    return result
