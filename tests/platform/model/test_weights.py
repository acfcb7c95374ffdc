from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from transformers import AutoModel

from manta.errors import InputError
from manta.model.weights import check_files

if TYPE_CHECKING:
    from pathlib import Path

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4cac' * 16}\nsize 8\n"


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        check_files(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_whole_folders_pass(folder: Path) -> None:
    check_files(folder)
    AutoModel.from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="10KB")
    assert len(list((folder / "shards").glob("model-*.safetensors"))) > 1
    check_files(folder / "shards")


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refused(folder) == (
        f"model.pretrained: {folder} has no weights (model.safetensors or pytorch_model.bin); fetch the model again."
    )


def test_a_missing_shard_is_named(folder: Path) -> None:
    AutoModel.from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="10KB")
    shards = sorted((folder / "shards").glob("model-*.safetensors"))
    shards[1].unlink()
    assert f"lacks 1 of its {len(shards)} files of weights (such as {shards[1].name})" in refused(folder / "shards")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tokenizer.json", "config.json"])
def test_a_pointer_in_place_of_a_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    assert re.search(rf"{name} is a Git LFS pointer, not the file itself; run git lfs pull in ", refused(folder))


def test_a_damaged_index_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps([]))
    assert "model.safetensors.index.json is damaged" in refused(folder)


@pytest.mark.parametrize(
    "content",
    [
        {"weight_map": {"a": "x.safetensors"}},
        {"weight_map": {"a": 5}, "metadata": {}},
        {"weight_map": {"a": "../x"}, "metadata": {}},
    ],
)
def test_an_index_that_names_no_files_of_the_folder_is_damaged(folder: Path, content: dict[str, object]) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    assert "model.safetensors.index.json is damaged" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "<html>"])
def test_a_damaged_description_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    assert refused(folder) == f"model.pretrained: {folder / name} is damaged: it holds no JSON object; fetch the model again."
