"""The making of a finished model's inference formats, and their comparison with the safetensors on its test rows.

For CPUs, the model is converted to OpenVINO, in fp32 and in 8-bit integers. For a GPU, the safetensors are computed in bfloat16.
Accepted formats are added to the model's folder.
"""

from __future__ import annotations

import io
import logging
import shutil
import time
import warnings
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np

from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import with_formats
from manta.inference.batches import run_batches
from manta.inference.fastest import load_format
from manta.inference.formats import (
    CPU_FORMATS,
    FORMAT_FILES,
    GPU_FORMAT,
    FastFormat,
    FormatRun,
    InferenceFormat,
    judged,
    unmade,
)
from manta.inference.golden import rounded
from manta.model.forward import load_openvino
from manta.storage.folders import disk_errors, partial_beside
from manta.texts import token_ids
from manta.windows import pooled, windows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import torch

    from manta.labels import Floats, Targets
    from manta.model.forward import Forward
    from manta.texts import Text, TokenLists
    from manta.windows import Rows

MAX_ROWS = 1000
"""Maximum number of rows of the comparison. They are taken at even distances."""
NEIGHBOUR_ROWS = 64
"""Number of these rows that are also computed alone and in another order."""
NUM_CALIBRATION_TEXTS = 100
"""Number of training texts whose activations fix the scales of 8-bit integers."""


def make_formats(
    artifact: ModelArtifact,
    *,
    texts: Sequence[Text],
    targets: Targets,
    logits: Floats,
    training_texts: Sequence[Text],
    num_threads: int,
) -> ModelArtifact:
    """Make the faster formats for CPUs, compare them on test rows, and return the artifact with their files and records.

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
        trial = FormatTrial(artifact, [texts[row] for row in rows], targets[rows], logits[rows], num_threads=num_threads)
        return with_formats(artifact, trial.formats(folder, training_texts=training_texts), folder=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_gpu_format(
    artifact: ModelArtifact, *, texts: Sequence[Text], targets: Targets, logits: Floats, device: str = "cuda"
) -> ModelArtifact:
    """Compare the safetensors in bfloat16 on `device` with their `logits` `(rows, labels)` in fp32, and record the result."""
    rows = spread(len(texts), count=MAX_ROWS)
    trial = FormatTrial(artifact, [texts[row] for row in rows], targets[rows], logits[rows], device=device)
    return with_formats(artifact, [trial.judged(GPU_FORMAT, artifact.path)], folder=artifact.path)


def spread(num_rows: int, *, count: int) -> list[int]:
    """Return at most `count` row indices at even distances."""
    return [int(row) for row in np.unique(np.linspace(0, num_rows - 1, num=min(num_rows, count)).round())]


class FormatTrial:
    """The comparison of inference formats with the safetensors on the same rows."""

    def __init__(
        self,
        artifact: ModelArtifact,
        texts: list[Text],
        targets: Targets,
        logits: Floats,
        *,
        num_threads: int = 1,
        device: str = "cpu",
    ) -> None:
        from transformers import AutoTokenizer

        self._artifact, self._targets, self._reference = artifact, targets, logits
        self._num_threads, self._device = num_threads, device
        self._labels = artifact.manifest.label_space
        self._tokenizer: Any = AutoTokenizer.from_pretrained(artifact.path, trust_remote_code=False)
        self._tokens, self._rows = self._windows(texts)
        self._features = artifact.manifest.scope is not None
        golden = artifact.golden()
        tokens, self._golden_rows = self._windows([] if golden is None else golden.texts)
        self._golden = self._single_rows(tokens)

    def formats(self, folder: Path, *, training_texts: Sequence[Text]) -> list[InferenceFormat]:
        """Make each CPU format as files in `folder` and judge it. The model is converted once, and int8 is made from the result."""
        from manta.model.finished import WithFeatures, load_finished

        whole, reduced = (folder / FORMAT_FILES[name][0] for name in CPU_FORMATS)
        try:
            model: torch.nn.Module = load_finished(self._artifact.path)
            convert(WithFeatures(model) if self._features else model, whole, names=(*self._tokens, "attention_mask"))
        except Exception as error:  # noqa: BLE001  # tracing may raise any error; the model is then served without these formats
            return [unmade(name, f"it could not be made ({_reason(error)})") for name in CPU_FORMATS]
        try:
            quantize(whole, reduced, batches=self._single_rows(self._windows(training_texts)[0], most=len(training_texts)))
        except Exception as error:  # noqa: BLE001  # as above
            refused = unmade("openvino-int8", f"it could not be made ({_reason(error)})")
            return [self.judged("openvino-fp32", folder), refused]
        return [self.judged(name, folder) for name in CPU_FORMATS]

    def judged(self, name: FastFormat, folder: Path) -> InferenceFormat:
        """Run a format that lies in `folder`, and return its record."""
        try:
            forward = load_format(folder, name, device=self._device, num_threads=self._num_threads, features=self._features)
            started = time.perf_counter()
            of_windows = run_batches(forward, self._tokenizer, self._tokens, max_length=self._artifact.manifest.max_length)
            seconds = time.perf_counter() - started
            num_labels = len(self._labels.names)
            change = self._neighbour_change(forward, of_windows[:, :num_labels])
            logits = pooled(of_windows[:, :num_labels], self._rows)
            alone = np.concatenate([forward(row) for row in self._golden])[:, :num_labels] if self._golden else None
            golden = None if alone is None else pooled(alone, self._golden_rows)
        except Exception as error:  # noqa: BLE001  # an engine may raise any error
            return unmade(name, f"it does not run ({_reason(error)})")
        size = sum((folder / file).stat().st_size for file in FORMAT_FILES[name])
        found = FormatRun(
            logits,
            change,
            examples_per_s=len(logits) / seconds,
            size_bytes=size,
            golden=None if golden is None else rounded(self._labels.probabilities(golden)),
        )
        return judged(name, found, reference=self._reference, targets=self._targets, labels=self._labels)

    def _neighbour_change(self, forward: Forward, logits: Floats) -> float:
        """Return the largest change of a probability when rows are computed alone, and in batches of other rows and lengths."""
        rows = np.array(spread(len(logits), count=NEIGHBOUR_ROWS))
        mixed = np.random.default_rng(0).permutation(rows)
        expected = self._labels.probabilities(logits)
        changes = []
        for group in [*rows[:, None], *np.array_split(mixed, -(-len(rows) // 8))]:
            batch = {name: [values[row] for row in group] for name, values in self._tokens.items()}
            outputs = forward(dict(self._tokenizer.pad(batch, return_tensors="np")))
            found = self._labels.probabilities(outputs[:, : len(self._labels.names)])
            changes.append(np.abs(found - expected[group]).max())
        return float(max(changes))

    def _windows(self, texts: Sequence[Text]) -> tuple[TokenLists, Rows]:
        """Return the tokens of all windows of the texts, and the text of each; one window for each text that is not long."""
        manifest = self._artifact.manifest
        if not texts:
            return {"input_ids": []}, np.empty(0, dtype=np.int64)
        tokens = token_ids(self._tokenizer, texts, max_length=manifest.max_length, long_texts=manifest.long_texts)
        return windows_of(tokens, max_length=manifest.max_length)

    def _single_rows(self, tokens: TokenLists, *, most: int | None = None) -> list[dict[str, Any]]:
        """Return one batch for each row, or for `most` rows at even distances, without padding."""
        num_rows = len(tokens["input_ids"])
        return [
            dict(self._tokenizer.pad({name: [values[row]] for name, values in tokens.items()}, return_tensors="np"))
            for row in (range(num_rows) if most is None else spread(num_rows, count=most))
        ]


def convert(model: torch.nn.Module, file: Path, *, names: Sequence[str]) -> None:
    """Write a classifier as an OpenVINO model of any batch size and length: `file` (.xml) and its weights in fp32 beside it (.bin).

    `model` takes token tensors `names`, each `(batch, tokens)`, and returns logits `(batch, labels)` as `.logits`, or one tensor of
    what `Forward` says. It is traced once with an example (`torch.jit.trace`), so its code may not branch on the values or the
    shapes of its inputs.

    Raises:
        Exception: any error of the tracer or of OpenVINO on an architecture that they do not support.
    """
    import torch

    from manta.model.pretrained import quiet_transformers

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tokens: torch.Tensor) -> torch.Tensor:
            output = self.model(**dict(zip(names, tokens, strict=True)))
            return output if isinstance(output, torch.Tensor) else output.logits

    openvino = load_openvino()
    example = tuple(torch.ones((2, 8), dtype=torch.int64) for _ in names)
    # The tracer reads every attribute, of which transformers logs some.
    with warnings.catch_warnings(), _same_logging(), quiet_transformers(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer lists what it takes for constant; the comparison decides
        traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
            Logits().eval(), example, check_trace=False
        )
        graph = openvino.convert_model(traced, example_input=example, input=[openvino.PartialShape([-1, -1])] * len(names))
    for port, name in zip(graph.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(graph, file, compress_to_fp16=False)


def quantize(source: Path, file: Path, *, batches: list[dict[str, Any]]) -> None:
    """Write the model of `source` with 8-bit integers in its matrix products, weights and activations, by NNCF.

    The scales are fixed by the activations of `batches`, so a text's scores do not depend on the texts beside it. Large values that
    a few channels of BERT's activations have (Bondarenko et al., 2021, https://arxiv.org/abs/2109.12948) are moved into the weights
    first (SmoothQuant; Xiao et al., 2023, https://arxiv.org/abs/2211.10438). Where sums of 8-bit products overflow on
    this processor, weights get seven bits. Such a graph gives the same answers on every processor.
    """
    openvino = load_openvino()
    model = openvino.Core().read_model(source)
    with _same_logging(), redirect_stdout(io.StringIO()):  # of progress bars
        import nncf

        logging.getLogger("nncf").setLevel(logging.ERROR)
        model = nncf.quantize(
            model,
            nncf.Dataset(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE if sums_overflow() else nncf.OverflowFix.DISABLE,
                disable_bias_correction=True,  # it computes each layer once more and changes no answer by more than chance
            ),
        )
    openvino.save_model(model, file, compress_to_fp16=False)


def sums_overflow() -> bool:
    """Tell whether this processor adds pairs of 8-bit products in 16 bits, as those of x86-64 without VNNI or AMX do."""
    import torch

    has = torch.cpu.get_capabilities()
    return has.get("architecture") == "x86_64" and not any(has.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


@contextmanager
def _same_logging() -> Iterator[None]:
    """Keep the logging of the process: a failed conversion leaves the root logger changed, and NNCF sets its own logger class."""
    root, logger_class = logging.getLogger(), logging.getLoggerClass()
    level, filters, handlers = root.level, [*root.filters], [*root.handlers]
    try:
        yield
    finally:
        logging.setLoggerClass(logger_class)
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
