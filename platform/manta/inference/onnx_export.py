"""Export of a finished model to an ONNX graph, and the faster formats made from it, compared on the model's test rows.

Accepted formats are added to the model's folder.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import time
import warnings
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np

from manta.inference.artifact import WEIGHTS_FILE, ModelArtifact, with_formats
from manta.inference.batches import run_batches
from manta.inference.fastest import load_format
from manta.inference.formats import FAST_FORMATS, FORMAT_FILES, FastFormat, InferenceFormat, Measured, judged, unmade
from manta.storage.folders import disk_errors, partial_beside
from manta.texts import token_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from manta.labels import Floats, Targets
    from manta.model.forward import Forward
    from manta.texts import Text, TokenLists

MAX_ROWS = 1000
"""Maximum number of rows of the comparison. They are taken at even distances."""
NEIGHBOUR_ROWS = 64
"""Number of these rows that are also computed alone and in another order."""
NUM_CALIBRATION_TEXTS = 100
"""Number of training texts whose activations fix the scales of 8-bit integers."""
MAX_GRAPH_BYTES = 2 * 1024**3 - 64 * 1024**2
"""Maximum size of one ONNX file, because protobuf ends at 2 GiB."""


def make_formats(
    artifact: ModelArtifact,
    *,
    texts: Sequence[Text],
    targets: Targets,
    logits: Floats,
    training_texts: Sequence[Text],
    num_threads: int,
) -> ModelArtifact:
    """Make the faster formats, compare them on test rows, and return the artifact with their files and records.

    `logits` `(rows, labels)` are the safetensors' for the same rows. A format that cannot be made or is not accepted leaves only
    its record. `training_texts` fix the scales of 8-bit integers; a few hundred are enough.
    """
    import torch

    folder = partial_beside(artifact.path)
    with disk_errors(folder):
        folder.mkdir()
    torch.set_num_threads(num_threads)
    rows = spread(len(texts), count=MAX_ROWS)
    try:
        trial = Trial(artifact, [texts[row] for row in rows], targets[rows], logits[rows], num_threads)
        return with_formats(artifact, trial.formats(folder, training_texts=training_texts), folder=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spread(num_rows: int, *, count: int) -> list[int]:
    """Return at most `count` row indices at even distances."""
    return [int(row) for row in np.unique(np.linspace(0, num_rows - 1, num=min(num_rows, count)).round())]


class Trial:
    """The comparison of inference formats with the safetensors on the same rows."""

    def __init__(self, artifact: ModelArtifact, texts: list[Text], targets: Targets, logits: Floats, num_threads: int) -> None:
        from transformers import AutoTokenizer

        self._artifact, self._targets, self._reference, self._num_threads = artifact, targets, logits, num_threads
        self._labels = artifact.manifest.label_space
        self._tokenizer: Any = AutoTokenizer.from_pretrained(artifact.path, trust_remote_code=False)
        self._tokens = self._tokenised(texts)

    def formats(self, folder: Path, *, training_texts: Sequence[Text]) -> list[InferenceFormat]:
        """Make every format as a file in `folder` and judge it. The graph is exported once, and the others are made from it."""
        graph, reduced = (folder / FORMAT_FILES[name][0] for name in ("onnx-fp32", "openvino-int8"))
        try:
            export_graph(self._artifact.path, graph, names=(*self._tokens, "attention_mask"))
        except Exception as error:  # noqa: BLE001  # an exporter may raise any error; the model is then served without these formats
            return [unmade(name, f"it could not be made ({_first_line(error)})") for name in FAST_FORMATS]
        reason = ""
        try:
            quantize_graph(graph, reduced, batches=self._single_rows(self._tokenised(training_texts)))
        except Exception as error:  # noqa: BLE001  # as above
            reason = f"it could not be made ({_first_line(error)})"
        return [unmade(name, reason) if reason and name == "openvino-int8" else self._judged(name, folder) for name in FAST_FORMATS]

    def _judged(self, name: FastFormat, folder: Path) -> InferenceFormat:
        try:
            forward = load_format(folder, name, device="cpu", num_threads=self._num_threads)
            started = time.perf_counter()
            logits = run_batches(forward, self._tokenizer, self._tokens, num_labels=len(self._labels.names))
            seconds = time.perf_counter() - started
            change = self._neighbour_change(forward, logits)
        except Exception as error:  # noqa: BLE001  # an engine may raise any error
            return unmade(name, f"it does not run ({_first_line(error)})")
        size = sum((folder / file).stat().st_size for file in FORMAT_FILES[name])
        found = Measured(logits, change, examples_per_s=len(logits) / seconds, size_bytes=size)
        return judged(name, found, reference=self._reference, targets=self._targets, labels=self._labels)

    def _neighbour_change(self, forward: Forward, logits: Floats) -> float:
        """Return the largest change of a probability when rows are computed alone, and in batches of other rows and lengths."""
        rows = np.array(spread(len(logits), count=NEIGHBOUR_ROWS))
        mixed = np.random.default_rng(0).permutation(rows)
        expected = self._labels.probabilities(logits)
        changes = []
        for group in [*rows[:, None], *np.array_split(mixed, -(-len(rows) // 8))]:
            batch = {name: [values[row] for row in group] for name, values in self._tokens.items()}
            found = self._labels.probabilities(forward(dict(self._tokenizer.pad(batch, return_tensors="np"))))
            changes.append(np.abs(found - expected[group]).max())
        return float(max(changes))

    def _tokenised(self, texts: Sequence[Text]) -> TokenLists:
        return token_ids(self._tokenizer, texts, max_length=self._artifact.manifest.max_length)

    def _single_rows(self, tokens: TokenLists) -> list[dict[str, Any]]:
        """Return one batch for each row, without padding."""
        num_rows = len(tokens["input_ids"])
        return [
            dict(self._tokenizer.pad({name: [values[row]] for name, values in tokens.items()}, return_tensors="np"))
            for row in range(num_rows)
        ]


def export_graph(folder: Path, file: Path, *, names: Sequence[str]) -> None:
    """Write the model of a folder as an ONNX graph of any batch size and length, with inputs `names` and output `logits`.

    Raises:
        ValueError: its weights are larger than one ONNX file can be.
        Exception: any error of the exporter on an architecture that it does not support.
    """
    import torch

    from manta.model.finished import load_finished

    size = (folder / WEIGHTS_FILE).stat().st_size
    if size > MAX_GRAPH_BYTES:
        raise ValueError(f"weights of {size / 1e9:.1f} GB do not fit an ONNX file, which holds 2 GB")
    model = load_finished(folder)
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


def quantize_graph(source: Path, file: Path, *, batches: list[dict[str, Any]]) -> None:
    """Write the graph of `source` with 8-bit integers in its matrix products, weights and activations, by NNCF.

    The scales are fixed by the activations of `batches`, so a text's scores do not depend on the texts beside it. Large values that
    a few channels of BERT's activations have (Bondarenko et al., 2021, https://arxiv.org/abs/2109.12948) are moved into the weights
    first (SmoothQuant; Xiao et al., 2023, https://arxiv.org/abs/2211.10438).
    """
    import openvino

    model = openvino.Core().read_model(source)
    with silent_nncf() as nncf:
        dataset = nncf.Dataset(batches)
        model = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))
    openvino.save_model(model, file, compress_to_fp16=False)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress messages of the exporter about missing packages, passes that were not run, and torch's own deprecated calls."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def silent_nncf() -> Iterator[Any]:
    """Import NNCF without its telemetry, which would send data to its makers, and without its messages and progress bars."""
    kept, logger_class = os.environ.get("NNCF_CI"), logging.getLoggerClass()
    os.environ["NNCF_CI"] = "1"
    try:
        with redirect_stdout(io.StringIO()):
            import nncf

            nncf.set_log_level(logging.ERROR)
            yield nncf
    finally:
        logging.setLoggerClass(logger_class)  # NNCF sets its own for the whole process
        if kept is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = kept


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
