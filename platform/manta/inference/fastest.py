"""Choice of the inference format that computes fastest on this machine, among those that a model's own tests admitted.

Machines differ: one has 8-bit matrix instructions, the next has none, a third has no OpenVINO. So the formats are timed where they
are used, in seconds. The result is remembered in $MANTA_CACHE or ~/.cache/manta, for all versions of the same architecture.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manta.inference.batches import run_batches
from manta.inference.formats import CPU_FORMATS, FORMAT_FILES, REDUCED_FORMATS, SAFETENSORS, FormatName
from manta.model.forward import Forward, OpenVinoForward, TorchForward
from manta.storage.object_store import cache_folder
from manta.texts import token_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedTokenizerBase

    from manta.inference.artifact import ModelArtifact
    from manta.labels import Floats
    from manta.texts import Text

logger = logging.getLogger(__name__)
MIN_ROUNDS = 3
TIMING_S = 0.7
"""No further round of a format's timing starts after this time."""
ENGINES = ("torch", "openvino")


def load_format(path: Path, name: FormatName, *, device: str, num_threads: int, features: bool = False) -> Forward:
    """Load one inference format of a model folder. With `features`, the safetensors return them, too, whatever computes them.

    Raises:
        ImportError: the format's engine is not installed.
        Exception: any other error of an engine that cannot compute the format here.
    """
    if name == "safetensors":
        return TorchForward(path, device=device, features=features)
    if name == "torch-bf16":
        return TorchForward(path, device=device, bf16=True, features=features)
    return OpenVinoForward(path / FORMAT_FILES[name][0], num_threads=num_threads)


def fastest_here(artifact: ModelArtifact, tokenizer: PreTrainedTokenizerBase, *, num_threads: int) -> tuple[FormatName, Forward]:
    """Return the accepted format that computes fastest on this machine's CPU, loaded. The safetensors always take part.

    Processes of one machine agree on the format, so that a row gets the same answer from each of them.
    """
    names = [SAFETENSORS, *(item.name for item in artifact.manifest.formats if item.accepted and item.name in CPU_FORMATS)]
    memory = cache_folder() / "fastest-format" / f"{_key(artifact, names)}.json"
    best = SAFETENSORS if len(names) == 1 else _remembered(memory, names)
    if best is None:
        seconds = _Timing(artifact, tokenizer, num_threads=num_threads).of(names)
        best = _remember(memory, names, best=min(seconds, key=lambda name: seconds[name]), seconds=seconds)
    features = artifact.manifest.scope is not None
    return best, load_format(artifact.path, best, device="cpu", num_threads=num_threads, features=features)


class _Timing:
    """The timing of a model's formats on some of its own texts. One format is in memory at a time."""

    def __init__(self, artifact: ModelArtifact, tokenizer: PreTrainedTokenizerBase, *, num_threads: int) -> None:
        self._artifact, self._tokenizer, self._num_threads = artifact, tokenizer, num_threads
        self._golden, self._features = artifact.golden(), artifact.manifest.scope is not None
        self._texts: list[Text] = [*artifact.manifest.examples, *(self._golden.texts if self._golden else ())]

    def of(self, names: Iterable[FormatName]) -> dict[FormatName, float]:
        """Return the seconds that each format takes for the texts.

        A format that does not load here or does not reproduce its golden predictions here is left out; the safetensors never are.
        """
        found: dict[FormatName, float] = {}
        for name in names:
            try:
                forward = load_format(
                    self._artifact.path, name, device="cpu", num_threads=self._num_threads, features=self._features
                )
                fault = None if name == SAFETENSORS else self._fault(name, forward)
            except Exception as error:
                if name == SAFETENSORS:
                    raise
                fault = f"it does not run here ({error!r})"
            if fault is None:
                found[name] = self._seconds(forward)
            else:
                logger.warning("the inference format %s of %s is not used: %s", name, self._artifact.manifest.name, fault)
        return found

    def _fault(self, name: FormatName, forward: Forward) -> str | None:
        """Return how the answers of a format differ from the golden predictions, or None."""
        if self._golden is None:
            return None
        labels = self._artifact.manifest.label_space
        logits = np.concatenate([self._logits(forward, [text]) for text in self._golden.texts])
        return self._golden.fault(labels.probabilities(logits), format=name, reduced=name in REDUCED_FORMATS)

    def _seconds(self, forward: Forward) -> float:
        """Return the time of the quickest of several rounds, which excludes set-up and most of what other processes delay."""
        rounds: list[float] = []
        begun = time.perf_counter()
        while len(rounds) < MIN_ROUNDS or time.perf_counter() - begun < TIMING_S:
            started = time.perf_counter()
            self._logits(forward, self._texts)
            rounds.append(time.perf_counter() - started)
        return min(rounds)

    def _logits(self, forward: Forward, texts: Sequence[Text]) -> Floats:
        manifest = self._artifact.manifest
        tokens = token_ids(self._tokenizer, texts, max_length=manifest.max_length, long_texts=manifest.long_texts)
        return run_batches(forward, self._tokenizer, tokens, max_length=manifest.max_length)[:, : len(manifest.labels)]


def _key(artifact: ModelArtifact, names: Sequence[FormatName]) -> str:
    """Return a hash of all that decides which format is fastest: processor, engines, architecture, formats."""
    versions = []
    for engine in ENGINES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{engine} {importlib.metadata.version(engine)}")
    facts = [_processor(), *versions, artifact.manifest.files.get("config.json", ""), *names]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def _processor() -> str:
    """Return the processor's model and instructions; elsewhere than on Linux, what Python knows of it."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        known = {line for line in lines if line.split("\t")[0].strip() in {"model name", "flags", "CPU part", "Features"}}
        return "\n".join(sorted(known))
    return f"{platform.system()} {platform.machine()} {platform.processor()}"


def _remembered(memory: Path, names: Sequence[FormatName]) -> FormatName | None:
    """Return the format that was chosen before; None if there was no choice or it cannot be read."""
    try:
        best = json.loads(memory.read_text(encoding="utf-8"))["format"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        best = None
    if best in names:
        return next(name for name in names if name == best)
    with suppress(OSError):
        memory.unlink()
    return None


def _remember(memory: Path, names: Sequence[FormatName], *, best: FormatName, seconds: dict[FormatName, float]) -> FormatName:
    """Keep the choice, and return it, or that of another process that chose meanwhile. A folder that is read-only keeps nothing."""
    logger.info("fastest here is %s; seconds for some texts: %s", best, {name: round(s, 4) for name, s in seconds.items()})
    own = memory.with_name(f".{secrets.token_hex(8)}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(json.dumps({"format": best, "seconds": seconds}), encoding="utf-8")
        os.link(own, memory)  # unlike a rename, it never replaces what another process wrote
    except FileExistsError:
        return _remembered(memory, names) or best
    except OSError:
        return best
    finally:
        with suppress(OSError):
            own.unlink()
    return best
