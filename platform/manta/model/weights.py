"""The files of a local model folder: whether its weights are all there before anything starts. Nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from manta.errors import InputError

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
JSON_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")
LFS_POINTER = b"version https://git-lfs"


def check_files(folder: Path) -> None:
    """Refuse a model folder without weights, with a shard missing, or with Git LFS pointers in place of files.

    Raises:
        InputError: the message names the file.
    """
    for file in sorted(folder.iterdir()):
        if file.is_file() and _is_pointer(file):
            raise InputError(
                f"model.pretrained: {file} is a Git LFS pointer, not the file itself; run git lfs pull in {folder}, or fetch the "
                "model again."
            )
    for name in JSON_FILES:
        _check_json(folder / name)
    if any((folder / name).is_file() for name in WEIGHTS_FILES):
        return
    index = next((folder / f"{name}.index.json" for name in WEIGHTS_FILES if (folder / f"{name}.index.json").is_file()), None)
    if index is None:
        raise InputError(f"model.pretrained: {folder} has no weights ({' or '.join(WEIGHTS_FILES)}); fetch the model again.")
    shards = _shards(index)
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"model.pretrained: {folder} lacks {len(missing)} of its {len(shards)} files of weights (such as {missing[0]}); fetch "
            "the model again."
        )


def _check_json(file: Path) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"model.pretrained: {file} is damaged: it holds no JSON object; fetch the model again.")


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(len(LFS_POINTER)) == LFS_POINTER


def _shards(index: Path) -> list[str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(content["weight_map"].values()))
        if not names or "metadata" not in content or any(Path(name).name != name for name in names):
            raise ValueError(names)
        return names
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"model.pretrained: {index} is damaged; fetch the model again.") from None
