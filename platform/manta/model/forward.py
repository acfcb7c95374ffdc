"""The forward pass of a finished model, from token ids to logits, by torch or OpenVINO."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

    from manta.labels import Floats

Tokens = dict[str, npt.NDArray[np.int64]]
"""`input_ids`, `attention_mask` and, for some models that read text pairs, `token_type_ids`, each `(batch, tokens)`."""

GPU_BATCH_TOKENS = 16_384
"""Tokens of a batch on a GPU: 128 texts of 128 tokens. Not measured; a smaller batch leaves most of a GPU idle between launches."""


class Forward(Protocol):
    """A function that computes the logits of one batch, and the features behind them if they were asked for."""

    batch_tokens: int
    """Number of tokens of a batch, padding included, at which the throughput is at or near its best."""

    def __call__(self, tokens: Tokens) -> Floats:
        """Return logits `(batch, labels)` in fp32, or logits and features side by side, `(batch, labels + hidden)`."""
        ...


class TorchForward:
    """The safetensors on a CPU or a GPU."""

    batch_tokens = 512

    def __init__(self, folder: Path, *, device: str, bf16: bool = False, features: bool = False) -> None:
        """Load the weights of a model folder.

        With `bf16`, matrix products are computed in bfloat16, the rest in fp32. With `features`, they are returned, too.
        """
        from manta.model.finished import WithFeatures, load_finished

        if device != "cpu":
            self.batch_tokens = GPU_BATCH_TOKENS
        self._device, self._bf16 = device, bf16
        model = load_finished(folder).to(device)
        self._model: Any = WithFeatures(model) if features else model

    def __call__(self, tokens: Tokens) -> Floats:
        """Return what `Forward` says."""
        import torch

        inputs = {name: torch.from_numpy(values).to(self._device) for name, values in tokens.items()}
        kind = torch.device(self._device).type
        with torch.inference_mode(), torch.autocast(kind, dtype=torch.bfloat16, enabled=self._bf16):
            output = self._model(**inputs)
            found: Floats = (output if isinstance(output, torch.Tensor) else output.logits).float().cpu().numpy()
        return found


class OpenVinoForward:
    """A converted model on a CPU, computed by OpenVINO. It does not load torch's weights."""

    batch_tokens = 256

    def __init__(self, file: Path, *, num_threads: int) -> None:
        """Load a model that `manta.inference.conversion` wrote."""
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            # In bfloat16, which is the default where a processor has it, scores depend on the other texts of the batch.
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,  # several replicas would be pinned to the same cores
            "CPU_RUNTIME_CACHE_CAPACITY": 64,  # kernels kept for shapes; by default 5,000, and memory grows with each new shape
        }
        compiled = load_openvino().Core().compile_model(file, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._names = [item.any_name for item in compiled.inputs]

    def __call__(self, tokens: Tokens) -> Floats:
        """Return what `Forward` says. A model has the output that it was converted with."""
        self._request.infer({name: tokens[name] for name in self._names}, share_inputs=True)
        found: Floats = self._request.get_output_tensor(0).data.copy()
        return found


def load_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would tell its makers of every import and conversion. NNCF's is off with it."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it then fails, and both do without it
    import openvino

    return openvino
