"""Finished model folders from the tiny encoder, made once for all tests here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from manta.inference.calibration import Calibration, CalibrationFigures
from manta.labels import LabelSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from manta.inference.artifact import ModelArtifact

SPACES = {
    "binary": LabelSpace(("billing", "delivery"), "binary"),
    "multiclass": LabelSpace(("account", "billing", "delivery"), "multiclass"),
    "multilabel": LabelSpace(("account", "billing", "delivery"), "multilabel"),
}


TEXTS = ["my parcel is late", "card", "the courier charged my invoice twice please and why is it late now", "login password"] * 10
PAIRS = [(first, second) for first, second in zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True)]
FIGURES = CalibrationFigures(
    num_rows=300, ece_before=0.08, ece_after=0.01, brier_before=0.2, brier_after=0.18, precision=0.957, coverage=0.9
)


@pytest.fixture(scope="session")
def calibration() -> Callable[..., Calibration]:
    """Makes a record of a calibration that changes nothing unless told otherwise."""

    def make(**changed: Any) -> Calibration:
        facts: dict[str, Any] = {"temperature": 1.0, "target_precision": None, "abstain_below": None, "validation": FIGURES}
        return Calibration.model_validate(facts | changed)

    return make


@dataclass(frozen=True)
class Made:
    """An artifact with the module it was written from."""

    artifact: ModelArtifact
    model: Any
    """The trained module, in evaluation mode."""
    labels: LabelSpace
    arguments: dict[str, Any]
    """The arguments of `write_artifact` besides its target."""


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread, and on a busy machine the threads wait for each other."""
    import torch
    from threadpoolctl import threadpool_limits

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(limits=1):
        yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def make_artifact(tiny_model: Path) -> Callable[..., Made]:
    """Builds the tiny model, writes its weights as training does, and assembles the folder `target`."""
    import torch

    from manta.config import ModelConfig
    from manta.inference.artifact_writing import write_artifact
    from manta.model.encoder import build_model, load_tokenizer

    def make(
        target: Path,
        task: str = "multiclass",
        *,
        name: str = "desk",
        metrics: dict[str, float] | None = None,
        num_texts: int = 1,
    ) -> Made:
        labels = SPACES[task]
        config = ModelConfig(pretrained=str(tiny_model), max_length=16)
        torch.manual_seed(1)
        model = build_model(config, labels).eval()
        with torch.no_grad():  # as drawn, so small a model gives all texts much the same logits
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(8.0)
        target.parent.mkdir(parents=True, exist_ok=True)
        arguments = {
            "weights": {key: value.contiguous().clone() for key, value in model.state_dict().items()},
            "model_config": model.config,
            "tokenizer": load_tokenizer(config),
            "labels": labels,
            "facts": {
                "name": name,
                "max_length": config.max_length,
                "num_texts": num_texts,
                "metrics": metrics or {"accuracy": 0.9, "validation_accuracy": 0.8},
                "examples": ["where is my parcel"] if num_texts == 1 else [("where is my parcel", "please")],
                "data_hash": "0" * 64,
                "config": {"name": name, "train": {"seed": 0}},
                "run": "desk-train-1",
                "pretrained": "tiny",
            },
        }
        return Made(write_artifact(target, **arguments), model, labels, arguments)

    return make


@pytest.fixture(scope="session")
def finished(make_artifact: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """An artifact of each task for single texts, and a multiclass one for text pairs; read them only."""
    folder = tmp_path_factory.mktemp("finished")
    made = {task: make_artifact(folder / task, task) for task in SPACES}
    return made | {"pairs": make_artifact(folder / "pairs", "multiclass", num_texts=2)}


@pytest.fixture(scope="session")
def with_formats(make_artifact: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    """A model for text pairs with its inference formats (pairs, because then there are token types, too); read it only."""
    from manta.inference.conversion import make_formats
    from manta.inference.predictor import Predictor

    artifact = make_artifact(tmp_path_factory.mktemp("formats") / "model", "multiclass", num_texts=2).artifact
    logits = Predictor(artifact, device="cpu", format="safetensors").logits(PAIRS)
    return make_formats(artifact, texts=PAIRS, targets=logits.argmax(axis=1), logits=logits, training_texts=PAIRS, num_threads=1)
