"""Embeddings of texts by the frozen encoder, kept on disk by the texts' hashes, so that each text is computed once.

There is one file for each encoder, `max_length`, handling of long texts and precision, in the cache folder. It has records of equal
size: the text's hash and its embedding. Records are added part by part, so an interrupted check goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from manta.cluster.gpus import hide_unassigned_gpus
from manta.data.dataset import Split
from manta.data.encode import EncodedSplit, write_encoded
from manta.label_check.decisions import text_hash
from manta.model.encoder import load_tokenizer
from manta.model.pooled import load_encoder
from manta.model.pretrained import pretrained_source
from manta.storage.folders import disk_errors
from manta.storage.object_store import cache_folder
from manta_jobs.cluster.connection import num_cores
from manta_jobs.training.few_rows.linear import LINEAR_FOLDER, Embedder, Tally
from manta_jobs.training.progress import Board, shown_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from manta.config import ExperimentConfig
    from manta.labels import Floats
    from manta.texts import Text

FOLDER = "embeddings"
PART_ROWS = 2048
"""Texts that are embedded before their records are written."""
HASH_BYTES = 16


def embeddings(texts: Sequence[Text], config: ExperimentConfig, *, console: Console) -> Floats:
    """Return embeddings `(rows, hidden)` of length 1. Those on disk are not computed again.

    Raises:
        InputError: the encoder cannot be found or loaded.
        RunError: the cache folder cannot be written.
    """
    path = cache_folder() / FOLDER / f"{_fingerprint(config)}.bin"
    hashes = [bytes.fromhex(text_hash(text)) for text in texts]
    known = _read(path)
    missing = {digest: text for digest, text in zip(hashes, texts, strict=True) if digest not in known}
    if missing:
        _compute(missing, config, path, console=console)
        known = _read(path)
    vectors = np.stack([known[digest] for digest in hashes])
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _fingerprint(config: ExperimentConfig) -> str:
    """Return the hash of everything besides the text that an embedding depends on."""
    source = Path(pretrained_source(config.model.pretrained))
    windows = " windows" if config.data.long_texts == "windows" else ""
    digest = hashlib.sha256(f"{config.model.max_length}{windows} {config.train.precision}".encode())
    for file in sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else ():
        with file.open("rb") as stream:
            digest.update(str(file.relative_to(source)).encode() + hashlib.file_digest(stream, "sha256").digest())
    digest.update(b"" if source.is_dir() else config.model.pretrained.encode())
    return digest.hexdigest()[: 2 * HASH_BYTES]


def _read(path: Path) -> dict[bytes, Floats]:
    """Return the embeddings of a file by text hash; half a record at its end is left out."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        width = int.from_bytes(file.read(HASH_BYTES), "big")
        content = file.read()
    records = np.frombuffer(content, _record(width), count=len(content) // _record(width).itemsize)
    return {bytes(digest): vector for digest, vector in zip(records["hash"], records["vector"], strict=True)}


def _record(width: int) -> np.dtype[Any]:
    return np.dtype([("hash", "V16"), ("vector", "<f4", (width,))])


def _compute(missing: dict[bytes, Text], config: ExperimentConfig, path: Path, *, console: Console) -> None:
    """Embed texts, and add them to the file part by part."""
    hide_unassigned_gpus(use_gpu=config.train.use_gpu)
    torch.set_num_threads(num_cores())
    tokenizer = load_tokenizer(config.model)
    pad_id = int(tokenizer.pad_token_id or 0)
    board = Board()
    tally = Tally(board, LINEAR_FOLDER)
    tally.start(len(missing))
    embedder = Embedder(config, load_encoder(config.model), pad_id=pad_id, tally=tally)
    items = list(missing.items())
    with shown_progress(board, console, num_epochs=1), tempfile.TemporaryDirectory(prefix="manta-tokens-") as folder:
        for start in range(0, len(items), PART_ROWS):
            part = items[start : start + PART_ROWS]
            tokens = Path(folder) / f"{start}.arrow"
            split = Split([text for _, text in part], np.zeros(len(part), dtype=np.int64))
            max_length, long_texts = config.model.max_length, config.data.long_texts
            write_encoded(split, tokens, tokenizer=tokenizer, max_length=max_length, long_texts=long_texts)
            vectors = embedder.of(EncodedSplit(tokens))
            _append(path, [digest for digest, _ in part], vectors)


def _append(path: Path, hashes: list[bytes], vectors: Floats) -> None:
    """Add records to the file. Half a record, which an interruption has left at its end, is removed first."""
    width = vectors.shape[1]
    records = np.empty(len(hashes), _record(width))
    records["hash"], records["vector"] = np.frombuffer(b"".join(hashes), "V16"), vectors
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file.fileno()).st_size
            whole = size - (size - HASH_BYTES) % records.itemsize if size >= HASH_BYTES else 0
            file.truncate(whole)
            file.write((b"" if whole else width.to_bytes(HASH_BYTES, "big")) + records.tobytes())
