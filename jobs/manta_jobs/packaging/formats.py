"""The faster inference formats of a finished model, made and compared on one node of the connected cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.console import working
from manta.inference.artifact import ModelArtifact
from manta.inference.formats import CPU_FORMATS, GPU_FORMAT
from manta.storage.object_store import fetch, here, store
from manta_jobs.cluster.connection import OneNode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from manta.data import Split
    from manta.labels import Floats, Targets
    from manta.texts import Text


def make_formats_on_cluster(
    artifact: ModelArtifact, split: Split, *, logits: Floats, training_texts: Sequence[Text], console: Console
) -> ModelArtifact:
    """Return the artifact with its faster formats, compared with its own `logits` of the split. It keeps those it has already.

    CPUs make and measure the formats for CPUs, whatever device trained the model. If the cluster has a GPU, it measures the format
    for GPUs. `training_texts` fix the scales of 8-bit integers.
    """
    from manta.inference.conversion import NUM_CALIBRATION_TEXTS, spread

    known = {item.name for item in artifact.manifest.formats}
    on_cpu, on_gpu = OneNode(on_cpu=True), OneNode()
    lacks_cpu, lacks_gpu = not known.intersection(CPU_FORMATS), on_gpu.has_gpu and GPU_FORMAT not in known
    if not lacks_cpu and not lacks_gpu:
        return artifact
    some_texts = [training_texts[row] for row in spread(len(training_texts), count=NUM_CALIBRATION_TEXTS)]
    with working(console, "Making faster inference formats of the model"):
        store(artifact.path)
        if lacks_gpu:
            on_gpu.run(_make_gpu_format, artifact.path, split.texts, split.targets, logits)
        if lacks_cpu:
            on_cpu.run(_make_formats, artifact.path, split.texts, split.targets, logits, some_texts, on_cpu.num_threads)
    made = ModelArtifact.load(fetch(artifact.path))
    for item in made.manifest.formats:
        console.print(f"{item.name}: {'accepted' if item.accepted else 'refused'}: {item.reason}")
    return made


def _make_gpu_format(path: Path, texts: Sequence[Text], targets: Targets, logits: Floats) -> None:
    """Measure the format for GPUs in this process."""
    from manta.inference.conversion import make_gpu_format

    make_gpu_format(ModelArtifact.load(fetch(path)), texts=texts, targets=targets, logits=logits)
    store(here(path))


def _make_formats(
    path: Path, texts: Sequence[Text], targets: Targets, logits: Floats, training_texts: list[Text], num_threads: int
) -> None:
    """Make the formats in this process."""
    from manta.inference.conversion import make_formats

    artifact = ModelArtifact.load(fetch(path))
    make_formats(artifact, texts=texts, targets=targets, logits=logits, training_texts=training_texts, num_threads=num_threads)
    store(here(path))
