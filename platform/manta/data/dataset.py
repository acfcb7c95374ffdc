"""`TextDataset`: checked train, validation and test splits with a content hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from manta.behaviour.run import load_suite
from manta.data import check, look_alikes
from manta.data.coded import encoded, label_counts
from manta.data.corrections import with_corrections
from manta.data.feedback import with_feedback
from manta.data.naming import Naming
from manta.data.read import read_split, read_splits
from manta.data.split import Indices, stratified_folds, stratified_split
from manta.data.stored import taken
from manta.errors import InputError
from manta.labels import LabelSpace, Targets

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from manta.config import DataConfig, TaskName
    from manta.data.coded import Coded
    from manta.data.collect import Places, Rows
    from manta.data.corrections import Corrections
    from manta.labels import RowLabels
    from manta.texts import Text

SPLITS = ("train", "validation", "test")
FEW_TRAINING_ROWS = 500
"""The number of training rows below which `auto` uses cross-validation. A tenth of fewer rows is too small to calibrate on, and
training needs every row."""
FEW_ROWS_PER_LABEL, MANY_TRAINING_ROWS = 15, 2000
"""`auto` also uses cross-validation with fewer than 15 training rows per label, of which a split takes one or two, but not from
2,000 rows on: folds that large take minutes."""
NUM_FOLDS = 3
"""Number of cross-validation folds. They triple the training time."""


@dataclass(frozen=True)
class Split:
    """Texts or text pairs and their targets: class indices `(rows,)`; for a multilabel task, 0 and 1 `(rows, labels)`."""

    texts: Sequence[Text]
    targets: Targets
    columns: dict[str | int, list[Any]] = field(default_factory=dict)
    """Further columns, if `load_labelled` was asked for them."""
    places: Places | None = None
    """Place of each row in its file, such as `line 17`; None for rows that come from several files."""
    notes: tuple[str, ...] = ()
    """Sentences on how the file is read; only for rows of `load_labelled`."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: npt.NDArray[np.int64]) -> Split:
        """Return the rows at `indices`, in their order."""
        places = None if self.places is None else self.places.take(indices)
        return Split(taken(self.texts, indices), self.targets[indices], places=places)


@dataclass(frozen=True)
class TextDataset:
    """The checked rows of one run."""

    train: Split
    validation: Split
    """The validation rows; the training rows again if the dataset is cross-validated."""
    test: Split
    labels: LabelSpace
    warnings: tuple[str, ...] = ()
    folds: Indices | None = None
    """The fold of each training row `(rows,)` if few rows are cross-validated; None if there are separate validation rows. All are
    0 if no label has a second training row, so that nothing can be held out."""
    corrections: Corrections | None = None
    """Counts of the decisions of `data.corrections`; None if there are none."""

    @property
    def has_held_out(self) -> bool:
        """True if there are rows to validate on: separate ones, or those of folds."""
        return self.folds is None or bool(self.folds.any())

    def split(self, name: str) -> Split:
        """Return one of the splits train, validation and test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @property
    def num_rows(self) -> dict[str, int]:
        """Number of rows of each split. A cross-validated dataset has no entry for validation."""
        return {name: len(self.split(name)) for name in SPLITS if self.folds is None or name != "validation"}

    @property
    def sizes(self) -> str:
        """The number of rows of each split, in words."""
        if self.folds is None:
            return f"{len(self.train):,} train, {len(self.validation):,} validation, {len(self.test):,} test rows"
        how = f"cross-validated in {NUM_FOLDS} folds" if self.has_held_out else "one for each label: nothing to validate on"
        return f"{len(self.train):,} train ({how}), {len(self.test):,} test rows"

    @property
    def content_hash(self) -> str:
        """sha256 of the label names and every row of every split, by which equal data is recognized."""
        digest = hashlib.sha256("\0".join(self.labels.names).encode())
        for name in SPLITS:
            split = self.split(name)
            digest.update(f"\0\0{name}\0{len(split)}".encode())
            for text in split.texts:
                if isinstance(text, tuple):
                    digest.update(b"pair")  # the bytes of a length never start like this
                for part in (text,) if isinstance(text, str) else text:
                    content = part.encode("utf-8")
                    digest.update(len(content).to_bytes(8, "big") + content)
            digest.update(np.ascontiguousarray(split.targets).data)
        return digest.hexdigest()

    def class_counts(self, name: str) -> dict[str, int]:
        """Return the number of rows of each label in one split, by label name."""
        targets = self.split(name).targets
        rows = targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets, minlength=len(self.labels.names))
        return dict(zip(self.labels.names, rows.tolist(), strict=True))


@dataclass
class CheckedSplits:
    """The splits that files hold, before any rows are set aside."""

    splits: dict[str, Split]
    labels: LabelSpace
    warnings: list[str]
    corrections: Corrections | None


def load_dataset(config: DataConfig, *, task: TaskName = "auto") -> TextDataset:
    """Read, check and split the rows that the config names.

    Raises:
        InputError: the first fault found, with file and line.
    """
    checked = checked_splits(config, task=task)
    splits, labels, warnings = checked.splits, checked.labels, checked.warnings
    set_aside(splits, config, num_labels=len(labels.names))
    is_cross_validated = "validation" not in splits
    if config.feedback is not None:
        train = splits["train"]
        held_out = [split.texts for name, split in splits.items() if name != "train"]
        merged = with_feedback(config.feedback, config, texts=train.texts, targets=train.targets, labels=labels, held_out=held_out)
        splits["train"] = Split(merged.texts, merged.targets)
        warnings += merged.warnings
    warnings += check.overlap_warnings({name: splits[name].texts for name in SPLITS if name in splits})
    train, folds = splits["train"], None
    if is_cross_validated:
        folds = stratified_folds(train.targets, num_folds=NUM_FOLDS, seed=config.split_seed)
    held_out_rows = splits.get("validation", train)
    dataset = TextDataset(train, held_out_rows, splits["test"], labels, tuple(warnings), folds, checked.corrections)
    missing = check.coverage_warnings({name: dataset.class_counts(name) for name in SPLITS})
    return replace(dataset, warnings=(*warnings, *missing))


def checked_splits(config: DataConfig, *, task: TaskName, refuse_conflicts: bool = True) -> CheckedSplits:
    """Read and check the rows of the given splits, and apply the decisions of `data.corrections`.

    Unless `refuse_conflicts`, a text may have two labels within a split.

    Raises:
        InputError: the first fault found, with file and line.
    """
    rows = read_splits(config)
    is_multilabel = task == "multilabel" or (task == "auto" and check.has_lists(rows["train"]))
    separator = config.label_separator if is_multilabel else None
    named = {name: check.checked_labels(split, separator=separator) for name, split in rows.items()}
    found = look_alikes.spellings(named["train"])
    usual = look_alikes.usual_names(found) if config.normalize_labels else None
    naming = Naming(config, usual)
    naming.check_fits(named.values(), separator=separator)
    renamed = rename_labels(rows, named, config, naming=naming)
    rows, named = renamed.rows, renamed.labels
    naming.check_rest(rows["train"], named["train"])
    warnings = [note for split in rows.values() for note in split.notes] + renamed.sentences
    left = (
        {key: counts for key, counts in found.items() if not naming.leaves_out(key)}
        if usual
        else look_alikes.spellings(named["train"])
    )
    warnings += look_alikes.label_warnings(left, merged=config.normalize_labels)
    warnings += check.check_classes(rows["train"], named["train"])
    labels = LabelSpace.from_labels(named["train"].values, task=task)
    for name, split in rows.items():
        check.check_known(split, named[name], set(labels.names))
        if refuse_conflicts:
            check.check_conflicts(split, named[name])
        warnings += look_alikes.text_warnings(split, named[name])
    if config.behaviour is not None:  # find faults now, not at the end of the run
        load_suite(Path(config.behaviour).expanduser(), labels=labels, num_texts=2 if len(config.text_columns) == 2 else 1)
    splits = {name: Split(split.texts, encoded(named[name], labels), places=split.places) for name, split in rows.items()}
    return CheckedSplits(splits, labels, warnings, renamed.corrections)


def load_labelled(location: str, config: DataConfig, *, labels: LabelSpace, columns: Sequence[str | int] = ()) -> Split:
    """Return one checked split with a model's labels: the rows of a file, or the test rows of a source that holds several splits.

    `columns` are kept next to the texts and targets.

    Raises:
        InputError: the first fault found, with file and line. A label that the model does not know is a fault.
    """
    rows = read_split(location, "test", config, columns=columns)
    names = check.checked_labels(rows, separator=config.label_separator if labels.task == "multilabel" else None)
    usual = {look_alikes.folded(name): name for name in labels.names} if config.normalize_labels else None
    renamed = rename_labels({"test": rows}, {"test": names}, config, naming=Naming(config, usual), known=labels.names)
    rows, names = renamed.rows["test"], renamed.labels["test"]
    check.check_known(rows, names, set(labels.names))
    return Split(rows.texts, encoded(names, labels), rows.columns, rows.places, (*rows.notes, *renamed.sentences))


@dataclass
class Renamed:
    """The rows and labels of every split after `data.corrections` and `data.labels`."""

    rows: dict[str, Rows]
    labels: dict[str, Coded[RowLabels]]
    sentences: list[str]
    corrections: Corrections | None = None


def rename_labels(
    rows: dict[str, Rows],
    given: dict[str, Coded[RowLabels]],
    config: DataConfig,
    *,
    naming: Naming,
    known: Collection[str] | None = None,
) -> Renamed:
    """Give labels their new names, apply the decisions of `data.corrections`, and leave out what `data.labels` leaves out.

    Rows are left out last, so that a decision can give them a label that stays. `known` are the labels that decisions may give, by
    default those of the training rows.

    Raises:
        InputError: the decisions cannot be applied, or no row is left.
    """
    named = {name: labels.map(naming.of) for name, labels in given.items()}
    result = Renamed(dict(rows), named, [])
    if config.corrections is not None:
        known = label_counts(named["train"]).keys() if known is None else known
        corrected = with_corrections(config.corrections, rows, named, known=known, naming=naming)
        result = Renamed(corrected.rows, corrected.labels, corrected.corrections.sentences(), corrected.corrections)
    result.sentences += naming.sentences([*given.values()], [*result.labels.values()])
    for name in rows:
        result.rows[name], result.labels[name] = naming.without_left_out(result.rows[name], result.labels[name])
    return result


def _are_few(train: Split, *, num_labels: int) -> bool:
    return len(train) < FEW_TRAINING_ROWS or len(train) < min(FEW_ROWS_PER_LABEL * num_labels, MANY_TRAINING_ROWS)


def set_aside(splits: dict[str, Split], config: DataConfig, *, num_labels: int) -> None:
    """Set training rows aside for the splits that were not given. The test rows are drawn first, so that they never change.

    A small training set gets no validation split.
    """
    remaining_share = 1.0
    for name, fraction in (("test", config.test_fraction), ("validation", config.validation_share)):
        needs_folds = config.validation_fraction == "auto" and _are_few(splits["train"], num_labels=num_labels)
        if name not in splits and not (name == "validation" and needs_folds):
            kept, aside = stratified_split(splits["train"].targets, fraction=fraction / remaining_share, seed=config.split_seed)
            if not len(aside):
                raise InputError(f"{config.train}: too few rows to set any aside for {name}; add rows or give data.{name}.")
            splits[name], splits["train"] = splits["train"].take(aside), splits["train"].take(kept)
            remaining_share -= fraction
            if name == "validation" and len(aside) > len(kept):
                raise InputError(
                    f"data.validation_fraction {fraction:g} sets {len(aside):,} rows aside for validation and leaves "
                    f"{len(kept):,} to train on; lower it, or leave it out to have few rows cross-validated."
                )
