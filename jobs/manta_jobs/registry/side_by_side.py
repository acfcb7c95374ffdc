"""Two registered versions compared in this process: same frozen test rows, same timed texts, same behaviour tests."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manta.behaviour.run import load_suite, run_suite
from manta.errors import InputError
from manta.inference.formats import WEIGHTS_FILE
from manta.inference.predictor import Predictor
from manta.labels import names_of
from manta.registry.gate import BehaviourPair, Costs, Pair
from manta.registry.paired import Answers, make_answers, shared_names
from manta.texts import first_of_wrong_kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from manta.inference.artifact import ModelArtifact
    from manta.registry.frozen_rows import FrozenRows
    from manta.registry.models import ModelRegistry
    from manta.registry.versions import RegisteredVersion
    from manta.texts import Text

MIN_ROWS = 30
NUM_TIMED = 40
NUM_LABELS_NAMED = 5


@dataclass(frozen=True)
class SideBySide:
    """Two versions on the champion's frozen rows."""

    champion: ModelArtifact
    candidate: ModelArtifact
    rows: FrozenRows
    """The champion's rows that neither version has seen in training or validation."""
    num_dropped: int
    """Rows that were left out because a version has seen the text in training or validation."""
    differences: tuple[str, ...]
    """Sentences that say how the candidate's data and labels differ from the champion's."""
    candidate_seen: FrozenRows | None
    predictors: tuple[Predictor, Predictor]
    answers: tuple[Answers, Answers]

    @property
    def notes(self) -> list[str]:
        """Sentences about the rows: how many were compared, and which were left out."""
        found = [f"Compared on {len(self.rows):,} test rows of the champion.", *self.differences]
        if self.num_dropped:
            found.append(f"{self.num_dropped:,} more were left out: their texts are among what one of the two was trained on.")
        if self.candidate_seen is None:
            found.append("It is not known what the candidate was trained on, so that none of its rows could be left out.")
        return found


def set_side_by_side(registry: ModelRegistry, champion: RegisteredVersion, candidate: RegisteredVersion) -> SideBySide:
    """Load both versions and let them answer the champion's frozen rows.

    Raises:
        InputError: one of them is gone or altered, they do not solve the same problem, or there are too few rows to compare on.
        RunError: the registry cannot be reached.
    """
    frozen = registry.files.frozen_rows(champion)
    if frozen is None:
        raise InputError(f"{champion} was registered without its test rows, so {candidate} cannot be compared with it.")
    artifacts = registry.files.fetch(champion), registry.files.fetch(candidate)
    _check_same_problem(champion, candidate, artifacts, frozen)
    of_candidate = registry.files.frozen_rows(candidate)
    rows = frozen.unseen_by(frozen.seen, *([of_candidate.seen] if of_candidate else []))
    num_dropped = len(frozen) - len(rows)
    if len(rows) < MIN_ROWS:
        raise InputError(
            f"{champion} left {len(frozen)} test rows, of which {len(rows)} are new to {candidate}; "
            f"at least {MIN_ROWS} are needed to compare them."
        )
    differences = tuple(_differences(champion, candidate, artifacts))
    names = shared_names(*(item.manifest.labels for item in artifacts), *(names_of(label) for label in rows.labels))
    predictors = Predictor(artifacts[0], device="cpu"), Predictor(artifacts[1], device="cpu")
    before, after = (
        make_answers(
            predictor.labels.probabilities(predictor.logits(rows.texts)), rows.labels, labels=predictor.labels, names=names
        )
        for predictor in predictors
    )
    return SideBySide(*artifacts, rows, num_dropped, differences, of_candidate, predictors, (before, after))


def behaviour_pairs(both: SideBySide) -> list[BehaviourPair]:
    """Return the cases of each behaviour test that either model fails; empty without a suite.

    The suite is the candidate's, else the champion's.
    A candidate with further labels is tested by the champion's suite, because the champion does not know the further labels.

    Raises:
        InputError: the suite does not fit a model.
    """
    has_same_labels = set(both.candidate.manifest.labels) == set(both.champion.manifest.labels)
    own = both.candidate_seen.suite if both.candidate_seen is not None and has_same_labels else None
    content = own or both.rows.suite
    if content is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "behaviour.yaml"
        path.write_text(content, encoding="utf-8")
        before, after = (
            run_suite(load_suite(path, labels=predictor.labels), predictor, texts=both.rows.texts).tests
            for predictor in both.predictors
        )
    both_failed = [(old, np.array([old.failed, new.failed], dtype=np.int64).T) for old, new in zip(before, after, strict=True)]
    return [BehaviourPair(old.name, old.num_cases, failed) for old, failed in both_failed]  # the same cases for both models


def measured_costs(both: SideBySide) -> Costs:
    """Measure the latency of single texts, which both models compute in turn, and the size of the weights."""
    texts = both.rows.texts[:NUM_TIMED]
    for predictor in both.predictors:  # keep the setup on first use out of the latency
        predictor.predict(texts[:1])
    latency_s = np.array([_timed(both.predictors, text, swapped=number % 2 == 1) for number, text in enumerate(texts)])
    sizes = [float((item.path / WEIGHTS_FILE).stat().st_size) for item in (both.champion, both.candidate)]
    return Costs(latency_s, Pair(*sizes))


def _timed(predictors: tuple[Predictor, Predictor], text: Text, *, swapped: bool) -> npt.NDArray[np.float64]:
    """Return the seconds of both models for one text. `swapped` runs the candidate first, as the second one finds warm caches."""
    seconds = np.zeros(2)
    for index in (1, 0) if swapped else (0, 1):
        started = time.perf_counter()
        predictors[index].predict([text])
        seconds[index] = time.perf_counter() - started
    return seconds


def _check_same_problem(
    champion: RegisteredVersion,
    candidate: RegisteredVersion,
    artifacts: tuple[ModelArtifact, ModelArtifact],
    rows: FrozenRows,
) -> None:
    tasks = ["multilabel" if item.manifest.task == "multilabel" else "one label a row" for item in artifacts]
    if tasks[0] != tasks[1]:
        raise InputError(f"{champion} is for {tasks[0]}, {candidate} for {tasks[1]}; they cannot be compared.")
    if first_of_wrong_kind(rows.texts, num_texts=artifacts[1].manifest.num_texts) is not None:
        raise InputError(f"one of {champion} and {candidate} reads single texts, the other pairs; they cannot be compared.")
    gone = [name for name in artifacts[0].manifest.labels if name not in artifacts[1].manifest.labels]
    if gone:
        raise InputError(
            f"{candidate} does not know {_named(gone)} of {champion}, so they cannot be compared; if it is for another purpose, "
            "give it a `name` of its own in the experiment and train it again."
        )


def _differences(
    champion: RegisteredVersion, candidate: RegisteredVersion, artifacts: tuple[ModelArtifact, ModelArtifact]
) -> Iterator[str]:
    """Yield a sentence for other data and one for further labels."""
    before, after = (item.manifest for item in artifacts)
    if before.data_hash != after.data_hash:
        yield (
            f"{candidate} was trained on other data than {champion}; if it is for another purpose, "
            "give it a `name` of its own in the experiment and train it again."
        )
    added = [name for name in after.labels if name not in before.labels]
    if added:
        yield f"{candidate} also knows {_named(added)}, which the champion's rows and behaviour tests do not measure."


def _named(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:NUM_LABELS_NAMED]) + (", …" if len(labels) > NUM_LABELS_NAMED else "")
    return f"{len(labels)} label{'s' if len(labels) > 1 else ''} ({shown})"
