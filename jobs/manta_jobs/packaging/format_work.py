"""The making of a model's faster inference formats, in the process that does it: it needs no Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.inference.artifact import ModelArtifact
from manta.storage.object_store import fetch, here, store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from manta.labels import Floats, Targets
    from manta.texts import Text


def make_gpu_format_of(path: Path, texts: Sequence[Text], targets: Targets, logits: Floats) -> None:
    """Measure the format for GPUs."""
    from manta.inference.conversion import make_gpu_format

    make_gpu_format(ModelArtifact.load(fetch(path)), texts=texts, targets=targets, logits=logits)
    store(here(path))


def make_formats_of(
    path: Path, texts: Sequence[Text], targets: Targets, logits: Floats, training_texts: list[Text], num_threads: int
) -> None:
    """Make the formats for CPUs and compare them."""
    from manta.inference.conversion import make_formats

    artifact = ModelArtifact.load(fetch(path))
    make_formats(artifact, texts=texts, targets=targets, logits=logits, training_texts=training_texts, num_threads=num_threads)
    store(here(path))
