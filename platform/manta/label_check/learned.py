"""`Learned`: embeddings of labeled rows and of rows to label, with which a regression is fitted again as people give labels.

`manta data suggest` writes them beside the rows for the page's tab Labels, which neither reads the data nor runs an encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from manta.errors import InputError
from manta.intervals import wilson_interval
from manta.labels import LabelSpace
from manta.model.regression import fit_regression
from manta.storage.folders import partial_beside

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from manta.labels import Floats, Targets

LEARNED_FILE = "learned.npz"
MOST_NUMBERS = 200_000
"""Most labeled rows times labels for which a page fits again as people give labels: that takes 0.1 to 4 seconds of a core."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a regression on rows that it was not fitted to."""

    num_rows: int
    """Rows with a label, which it learns from."""
    num_right: int
    num_judged: int

    @property
    def share(self) -> float:
        """Share of the judged rows that are right."""
        return self.num_right / self.num_judged

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of the share."""
        return wilson_interval(self.num_right, self.num_judged)


@dataclass(frozen=True, eq=False)
class Learned:
    """Labeled rows, each text once, and rows to label."""

    labels: tuple[str, ...]
    vectors: Floats
    """Embeddings `(rows, hidden)` of the labeled rows."""
    targets: Targets
    """Index of the label of each labeled row `(rows,)`."""
    folds: npt.NDArray[np.int64]
    """The fold of each labeled row `(rows,)`."""
    is_typical: npt.NDArray[np.bool_]
    """True for rows of the data itself `(rows,)`. Rows that were chosen because they are hard are not judged."""
    open_vectors: Floats
    """Embeddings `(open rows, hidden)` of the rows to label."""
    open_hashes: tuple[str, ...]
    """Hashes of their texts."""
    strength: float
    """Strength of the regression, see `fit_regression`."""
    class_weights: npt.NDArray[np.float64] | None = None

    def write(self, path: Path) -> None:
        """Write a file, completely or not at all."""
        weights = np.empty(0) if self.class_weights is None else self.class_weights
        arrays = {
            "labels": np.array(self.labels),
            "vectors": self.vectors,
            "targets": self.targets,
            "folds": self.folds,
            "is_typical": self.is_typical,
            "open_vectors": self.open_vectors,
            "open_hashes": np.array(self.open_hashes),
            "strength": np.array(self.strength),
            "class_weights": weights,
        }
        partial = partial_beside(path)
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its own options have other names
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Learned | None:
        """Return the content of a file; None if there is none.

        Raises:
            InputError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                return cls(
                    labels=tuple(found["labels"].tolist()),
                    vectors=found["vectors"],
                    targets=found["targets"],
                    folds=found["folds"],
                    is_typical=found["is_typical"],
                    open_vectors=found["open_vectors"],
                    open_hashes=tuple(found["open_hashes"].tolist()),
                    strength=float(found["strength"]),
                    class_weights=found["class_weights"] if found["class_weights"].size else None,
                )
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise InputError(f"{path}: damaged ({error}); run manta data suggest again.") from None

    def accuracy(self, given: Mapping[str, str]) -> Accuracy:
        """Return the accuracy on typical rows of fits without their fold, with the labels `given` to open rows by text hash."""
        places = [index for index, digest in enumerate(self.open_hashes) if given.get(digest) in self.labels]
        added = np.array([self.labels.index(given[self.open_hashes[index]]) for index in places], dtype=self.targets.dtype)
        space = LabelSpace(self.labels, "binary" if len(self.labels) == 2 else "multiclass")
        num_right = num_judged = 0
        for fold in np.unique(self.folds):
            others, judged = self.folds != fold, (self.folds == fold) & self.is_typical
            if not judged.any():
                continue
            regression = fit_regression(
                np.concatenate([self.vectors[others], self.open_vectors[places]]),
                np.concatenate([self.targets[others], added]),
                labels=space,
                strength=self.strength,
                class_weights=self.class_weights,
            )
            answers = space.decide(space.probabilities(regression.logits(self.vectors[judged])))
            num_right += int((answers == self.targets[judged]).sum())
            num_judged += int(judged.sum())
        return Accuracy(len(self.targets) + len(places), num_right, num_judged)
