"""No code that comes with a model runs: neither its Python files nor a pickle among its weights."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from manta.config import ModelConfig
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.model.encoder import build_model, load_model_config
from manta.model.pretrained import check_weights

pytestmark = pytest.mark.usefixtures("one_thread")

THREE = LabelSpace(("a", "b", "c"), "multiclass")


def test_code_that_comes_with_a_model_is_refused_without_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}})
    )
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')\n")
    config = ModelConfig(pretrained=str(tmp_path))
    for load in (lambda: load_model_config(config, THREE), lambda: build_model(config, THREE)):
        with pytest.raises(InputError, match=r"needs Python code of its own \(auto_map\), which Manta never runs"):
            load()


def test_every_call_of_transformers_forbids_code_from_the_model() -> None:
    root, calls = Path(__file__).parents[3], 0
    for path in (path for part in ("platform", "jobs", "serve", "ui") for path in (root / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"from_pretrained", "from_config"}
            ):
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                assert ast.unparse(given.get("trust_remote_code", ast.Constant(None))) == "False", f"{path}:{node.lineno}"
                calls += 1
    assert calls > 5


class Payload:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_pickled_weights_are_read_as_tensors_only(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    config = ModelConfig(pretrained=str(folder), max_length=32)
    check_weights(config)
    build_model(config, THREE)
    for save in (
        lambda bad: torch.save(bad, folder / "pytorch_model.bin"),
        lambda bad: (folder / "pytorch_model.bin").write_bytes(pickle.dumps(bad)),
    ):
        save({"x": Payload(tmp_path / "ran")})
        for load in (lambda: check_weights(config), lambda: build_model(config, THREE)):
            with pytest.raises(InputError, match="a pickle that would run code; give the model as safetensors"):
                load()
    assert not (tmp_path / "ran").exists()
