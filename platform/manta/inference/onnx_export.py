"""Export of a finished model to ONNX formats, which are compared on its test rows. Accepted ones are added to its folder."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from manta.inference.artifact import WEIGHTS_FILE, ModelArtifact, with_forms
from manta.inference.form import FORM_FILES, InferenceForm, Measured, OnnxForm, judged, unmade
from manta.inference.predictor import run_batches
from manta.model.forward import Forward, OnnxForward, TorchForward
from manta.storage.folders import disk_errors, partial_beside
from manta.texts import token_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from manta.labels import Floats, Targets
    from manta.texts import Text

MAX_ROWS = 4000
"""Maximum number of rows of the comparison. They are taken at even distances."""
SPEED_ROWS = 128
MAX_GRAPH_BYTES = 2 * 1024**3 - 64 * 1024**2
"""Maximum size of one ONNX file, because protobuf ends at 2 GiB."""


def make_forms(
    artifact: ModelArtifact, *, texts: Sequence[Text], targets: Targets, logits: Floats, num_threads: int
) -> ModelArtifact:
    """Make the ONNX formats, compare them on test rows, and return the artifact with their files and records.

    `logits` `(rows, labels)` are the safetensors' for the same rows. A format that cannot be made or does not agree leaves only its
    record. The model is then served from the safetensors.
    """
    import torch

    rows = np.unique(np.linspace(0, len(texts) - 1, num=min(len(texts), MAX_ROWS)).round().astype(int))
    folder = partial_beside(artifact.path)
    with disk_errors(folder):
        folder.mkdir()
    torch.set_num_threads(num_threads)
    try:
        trial = Trial(artifact, [texts[row] for row in rows], targets[rows], logits[rows], num_threads)
        return with_forms(artifact, [trial.of(name, folder) for name in FORM_FILES], folder=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Trial:
    """The comparison of inference formats with the safetensors on the same rows."""

    def __init__(self, artifact: ModelArtifact, texts: list[Text], targets: Targets, logits: Floats, num_threads: int) -> None:
        from transformers import AutoTokenizer

        self._artifact = artifact
        self._targets = targets
        self._num_threads = num_threads
        self._tokenizer: Any = AutoTokenizer.from_pretrained(artifact.path, trust_remote_code=False)
        self._tokens = token_ids(self._tokenizer, texts, max_length=artifact.manifest.max_length)
        weights = artifact.path / WEIGHTS_FILE
        speed = self._examples_per_s(TorchForward(artifact.path, device="cpu"))
        self._reference = Measured(logits, speed, weights.stat().st_size)

    def of(self, name: OnnxForm, folder: Path) -> InferenceForm:
        """Make a format as a file in `folder` and judge it.

        If an int8 model does not agree, a second try keeps some matrices in float32, which is slower.
        """
        file, whole = folder / FORM_FILES[name], folder / FORM_FILES["onnx-fp32"]
        if name == "onnx-fp32":
            names = (*self._tokens, "attention_mask")
            return self._tried(name, file, lambda: export_graph(self._artifact.path, file, names=names))
        form = self._tried(name, file, lambda: quantize_graph(whole, file))
        if form.accepted or form.agreement is None or not (kept := feed_forward_outputs(self._artifact.path, whole)):
            return form
        form = self._tried(name, file, lambda: quantize_graph(whole, file, kept=kept))
        return form.model_copy(update={"reason": f"{form.reason}; the feed-forward layers' outputs stay in float32"})

    def _tried(self, name: OnnxForm, file: Path, make: Callable[[], None]) -> InferenceForm:
        try:
            make()
            forward = OnnxForward(file, num_threads=self._num_threads)
            logits = self._logits(forward, self._tokens)
        except Exception as error:  # noqa: BLE001  # an exporter may raise any error; the model is then served without this format
            return unmade(name, f"it could not be made ({_first_line(error)})")
        measured = Measured(logits, self._examples_per_s(forward), file.stat().st_size)
        labels = self._artifact.manifest.label_space
        return judged(name, measured, reference=self._reference, targets=self._targets, labels=labels)

    def _logits(self, forward: Forward, tokens: dict[str, list[list[int]]]) -> Floats:
        return run_batches(forward, self._tokenizer, tokens, num_labels=len(self._artifact.manifest.labels))

    def _examples_per_s(self, forward: Forward) -> float:
        """Return the throughput of the better of two passes over part of the rows, to exclude the set-up of the first batches."""
        num_rows = len(self._targets)
        step = max(1, num_rows // SPEED_ROWS)
        part = {name: values[::step][:SPEED_ROWS] for name, values in self._tokens.items()}
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            self._logits(forward, part)
            seconds.append(time.perf_counter() - started)
        return min(num_rows, SPEED_ROWS) / min(seconds)


def export_graph(folder: Path, file: Path, *, names: Sequence[str]) -> None:
    """Write the model of a folder as an ONNX graph of any batch size and length, with inputs `names` and output `logits`.

    Raises:
        ValueError: its weights are larger than one ONNX file can be.
        Exception: any error of the exporter on an architecture that it does not support.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from manta.model.adapt import compute_only_cls

    size = (folder / WEIGHTS_FILE).stat().st_size
    if size > MAX_GRAPH_BYTES:
        raise ValueError(f"weights of {size / 1e9:.1f} GB do not fit an ONNX file, which holds 2 GB")
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    compute_only_cls(model)
    example = {name: torch.ones((2, 8), dtype=torch.int64) for name in names}
    dynamic = torch.export.Dim.DYNAMIC
    with _quiet_exporter():
        program: Any = torch.onnx.export(
            model,
            kwargs=example,
            dynamo=True,
            output_names=["logits"],
            dynamic_shapes={name: {0: dynamic, 1: dynamic} for name in names},
            verbose=False,
        )
        program.save(file, external_data=False)


def feed_forward_outputs(folder: Path, graph: Path) -> list[str]:
    """Return the nodes of a graph that bring the wide middle of each feed-forward layer back to the model's width.

    They add the few large values of BERT's activations (Bondarenko et al., 2021, https://arxiv.org/abs/2109.12948), next to which
    eight bits have little range left for other values. The result is empty if the encoder's config does not state its width.
    """
    import onnx
    from transformers import AutoConfig

    width, model = getattr(AutoConfig.from_pretrained(folder, trust_remote_code=False), "hidden_size", None), onnx.load(graph)
    shapes = {weights.name: tuple(weights.dims) for weights in model.graph.initializer}
    products = [(node.name, shapes.get(node.input[1], ())) for node in model.graph.node if node.op_type == "MatMul"]
    return [name for name, shape in products if len(shape) == 2 and shape[0] > shape[1] == width]


def quantize_graph(source: Path, file: Path, *, kept: Sequence[str] = ()) -> None:
    """Write the graph of `source` with its matrices and embeddings as 8-bit integers, except for the nodes `kept`.

    Activations are quantized at run time, by the range of each whole tensor. Weights use seven bits: without VNNI, a processor adds
    pairs of products in 16 bits, which eight bits overflow. Seven bits with one scale per output channel agreed best of the
    variants that were tried, and were as fast (MiniLM on 500 sentences, AVX2: 98.8% of them; eight bits 96.6 to 97.4%; unsigned
    97.4 to 97.6%).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet_exporter():
        quantize_dynamic(
            source, file, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8, nodes_to_exclude=list(kept)
        )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress log messages of exporter and quantizer about missing packages and passes that were not run."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
