"""The ONNX inference formats of a finished model, made and compared on one node of the connected cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.console import working
from manta.inference.artifact import ModelArtifact
from manta.storage.object_store import fetch, here, store
from manta_jobs.cluster.connection import OneNode

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from manta.data import Split
    from manta.labels import Floats, Targets
    from manta.texts import Text


def make_forms_on_cluster(artifact: ModelArtifact, split: Split, *, logits: Floats, console: Console) -> ModelArtifact:
    """Return the artifact with its ONNX formats, compared with its own `logits` of the split; unchanged if it has them already.

    These formats are for CPUs, so CPUs make and measure them, whatever device trained the model.
    """
    if artifact.manifest.forms:
        return artifact
    node = OneNode(on_cpu=True)
    with working(console, "Making ONNX formats of the model"):
        store(artifact.path)
        node.run(_make_forms, artifact.path, split.texts, split.targets, logits, node.num_threads)
    made = ModelArtifact.load(fetch(artifact.path))
    for form in made.manifest.forms:
        console.print(f"{form.name}: {'accepted' if form.accepted else 'refused'}: {form.reason}")
    return made


def _make_forms(path: Path, texts: list[Text], targets: Targets, logits: Floats, num_threads: int) -> None:
    """Make the ONNX formats in this process."""
    from manta.inference.onnx_export import make_forms

    make_forms(ModelArtifact.load(fetch(path)), texts=texts, targets=targets, logits=logits, num_threads=num_threads)
    store(here(path))
