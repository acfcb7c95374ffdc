"""The faster inference formats of a finished model, made and compared on one node of the connected cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.console import working
from manta.inference.artifact import ModelArtifact
from manta.inference.formats import CPU_FORMATS, GPU_FORMAT
from manta.storage.folders import discard_unfinished
from manta.storage.object_store import fetch, store
from manta_jobs.cluster.connection import OneNode
from manta_jobs.cluster.own_process import ProcessLostError
from manta_jobs.packaging.format_work import make_formats_of, make_gpu_format_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from manta.data import Split
    from manta.labels import Floats
    from manta.texts import Text


def make_formats_on_cluster(
    artifact: ModelArtifact, split: Split, *, logits: Floats, training_texts: Sequence[Text], console: Console
) -> ModelArtifact:
    """Return the artifact with its faster formats, compared with its own `logits` of the split. It keeps those it has already.

    CPUs make and measure the formats for CPUs, whatever device trained the model. If the cluster has a GPU, it measures the format
    for GPUs. `training_texts` fix the scales of 8-bit integers. OpenVINO works in another process: a crash in its compiled code
    costs the formats, and not the run.
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
            on_gpu.run(make_gpu_format_of, artifact.path, split.texts, split.targets, logits)
        if lacks_cpu:
            try:
                on_cpu.run_apart(make_formats_of, artifact.path, split.texts, split.targets, logits, some_texts, on_cpu.num_threads)
            except ProcessLostError as error:
                console.print(f"No faster formats: the process that makes them crashed twice ({error}). PyTorch answers instead.")
            finally:
                discard_unfinished(artifact.path)
    made = ModelArtifact.load(fetch(artifact.path))
    for item in made.manifest.formats:
        console.print(f"{item.name}: {'accepted' if item.accepted else 'refused'}: {item.reason}")
    return made
