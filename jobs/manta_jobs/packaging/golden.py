"""Golden predictions of the finished model. A service compares its own answers with them to verify the model it has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from manta.console import working
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import with_golden
from manta.inference.formats import CPU_FORMATS, SAFETENSORS, FormatName
from manta.inference.golden import GOLDEN_FILE, GoldenPredictions, rounded, spread_rows
from manta.storage.object_store import fetch, store
from manta_jobs.cluster.connection import OneNode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from manta.data import Split
    from manta.labels import Floats
    from manta.texts import Text

MAX_CHARACTERS = 500
"""Most characters of a golden text. Longer texts are cut, because their answers need not be right."""


def record_golden_on_cluster(artifact: ModelArtifact, split: Split, *, logits: Floats, console: Console) -> ModelArtifact:
    """Return the artifact with golden predictions of a few of the split's rows; unchanged if it has them already.

    The rows are spread over the labels that the model predicts, according to its own `logits` of the split.
    """
    if GOLDEN_FILE in artifact.manifest.files:
        return artifact
    labels = artifact.manifest.label_space
    texts = [split.texts[row] for row in spread_rows(labels.decided_names(labels.probabilities(logits)))]
    with working(console, "Recording golden predictions"):
        store(artifact.path)
        golden = OneNode(on_cpu=True).run(_record, artifact.path, texts)
    return with_golden(artifact, golden)


def _record(path: Path, texts: list[Text]) -> GoldenPredictions:
    return record_golden(ModelArtifact.load(fetch(path)), texts)


def record_golden(artifact: ModelArtifact, texts: Sequence[Text]) -> GoldenPredictions:
    """Compute the answers of a calibrated model to the texts on a CPU, one text at a time, in each accepted inference format."""
    from manta.inference.predictor import Predictor

    cut = tuple(_cut(text) for text in texts)
    names: list[FormatName] = [
        SAFETENSORS,
        *(item.name for item in artifact.manifest.formats if item.accepted and item.name in CPU_FORMATS),
    ]
    probabilities: dict[FormatName, tuple[tuple[float, ...], ...]] = {}
    for name in names:
        predictor = Predictor(artifact, device="cpu", format=name)
        probabilities[name] = rounded(np.concatenate([predictor.labels.probabilities(predictor.logits([text])) for text in cut]))
    return GoldenPredictions(texts=cut, probabilities=probabilities)


def _cut(text: Text) -> Text:
    return text[:MAX_CHARACTERS] if isinstance(text, str) else (text[0][:MAX_CHARACTERS], text[1][:MAX_CHARACTERS])
