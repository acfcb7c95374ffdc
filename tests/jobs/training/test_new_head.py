"""A new head begins as a regression on the pretrained encoder's features, the same on every worker."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from manta.config import LoraSettings, ModelConfig, TrainConfig
from manta.data import Split
from manta.data.encode import EncodedSplit, write_encoded
from manta.labels import LabelSpace
from manta.model.adapt import adapt
from manta.model.encoder import build_model, load_tokenizer
from manta_jobs.training.start import new_head
from manta_jobs.training.start.new_head import MOST_BIAS, fit_head, layer_to_fit, sampled_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SPACES = {
    "binary": LabelSpace(("account", "delivery"), "binary"),
    "multiclass": LabelSpace(("account", "billing", "delivery"), "multiclass"),
    "multilabel": LabelSpace(("account", "billing", "delivery"), "multilabel"),
}
NUM_ROWS = 3 * 32
"""Just enough for the tiny encoder, which is 32 wide."""
WORDS = ("login password", "charged invoice", "parcel courier")
"""Words of each class."""


def rows_of(space: LabelSpace) -> tuple[list[str], np.ndarray]:
    """Texts of each class in turn, of different lengths, and their targets."""
    classes = np.arange(NUM_ROWS) % len(space.names)
    words = WORDS if len(space.names) == 3 else (WORDS[0], WORDS[2])
    texts = [" ".join([words[label]] * (1 + row % 4)) for row, label in enumerate(classes)]
    return texts, np.eye(3, dtype=np.int64)[classes] if space.task == "multilabel" else classes


@contextmanager
def one_worker(folder: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.fixture
def begun(tiny_model: Path, tmp_path: Path) -> Callable[..., tuple[Any, EncodedSplit]]:
    """Builds a model and its rows, and fits the head."""

    def make(task: str, targets: np.ndarray | None = None, num_rows: int = NUM_ROWS, **settings: Any) -> tuple[Any, EncodedSplit]:
        space = SPACES[task]
        config = ModelConfig(pretrained=str(tiny_model), max_length=16, **settings)
        texts, usual = rows_of(space)
        tokenizer = load_tokenizer(config)
        write_encoded(
            Split(texts, usual if targets is None else targets), tmp_path / "train.arrow", tokenizer=tokenizer, max_length=16
        )
        split = EncodedSplit(tmp_path / "train.arrow")
        torch.manual_seed(0)
        model = adapt(build_model(config, space), config).train()
        layer = layer_to_fit(model, num_rows=num_rows)
        if layer is None:
            return model, split
        with one_worker(tmp_path):
            fit_head(model, layer, split, labels=space, config=TrainConfig(), pad_id=int(tokenizer.pad_token_id or 0))
        return model, split

    return make


def logits_of(model: Any, split: EncodedSplit) -> np.ndarray:
    inputs = {name: torch.from_numpy(array) for name, array in split.padded(np.arange(len(split)), pad_id=0).items()}
    with torch.inference_mode():
        found: np.ndarray = model.eval()(**inputs).logits.numpy()
    return found


@pytest.mark.parametrize("task", SPACES)
def test_the_head_answers_before_the_first_step(begun: Callable[..., tuple[Any, EncodedSplit]], task: str) -> None:
    model, split = begun(task)
    assert model.training  # dropout is on again
    logits = logits_of(model, split)
    answers = (logits[:, 0] > 0) if task == "binary" else logits.argmax(axis=1)
    classes = split.targets.argmax(axis=1) if task == "multilabel" else split.targets
    assert (answers == classes).all()


def test_the_encoder_stays_as_pretrained_and_adapters_get_the_same_head(begun: Callable[..., tuple[Any, EncodedSplit]]) -> None:
    plain, split = begun("multiclass")
    adapted, _ = begun("multiclass", lora=LoraSettings(rank=2, target_modules=["query"]))
    drawn = build_model(ModelConfig(pretrained=plain.config.name_or_path, max_length=16), SPACES["multiclass"])
    for name, values in drawn.base_model.state_dict().items():
        assert torch.equal(values, plain.base_model.state_dict()[name]), name
    np.testing.assert_allclose(logits_of(adapted, split), logits_of(plain, split), atol=1e-5)


def test_a_label_without_rows_is_unlikely_and_can_still_be_learned(begun: Callable[..., tuple[Any, EncodedSplit]]) -> None:
    model, split = begun("multiclass", targets=np.arange(NUM_ROWS) % 3 % 2)
    layer = layer_to_fit(model, num_rows=NUM_ROWS)
    assert layer is not None
    assert layer.bias[2] == -MOST_BIAS
    assert (logits_of(model, split).argmax(axis=1) < 2).all()


@pytest.mark.parametrize("value", [np.nan, 0.1])
def test_features_that_tell_nothing_leave_the_head_as_drawn(
    begun: Callable[..., tuple[Any, EncodedSplit]], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(new_head, "_features", lambda *_, **__: np.full((NUM_ROWS, 32), value, dtype=np.float32))
    model, _ = begun("binary")
    layer = layer_to_fit(model, num_rows=NUM_ROWS)
    assert layer is not None
    assert 0 < layer.weight.abs().max() < 0.2
    assert layer.bias.item() == 0


def test_few_rows_leave_the_head_as_drawn(begun: Callable[..., tuple[Any, EncodedSplit]], monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, _ = begun("binary")
    monkeypatch.setattr(new_head, "LEAST_ROWS_OF_A_FEATURE", 3.1)
    drawn, _ = begun("binary")
    assert drawn.classifier.bias.item() == 0
    assert fitted.classifier.weight.abs().max() > 2 * drawn.classifier.weight.abs().max() > 0


@pytest.mark.parametrize("is_multilabel", [False, True])
def test_a_sample_of_many_rows_has_rows_of_each_label(is_multilabel: bool) -> None:
    classes = np.zeros(50_000, dtype=np.int64)
    classes[:20] = np.arange(20) % 2 + 1
    targets = np.eye(3, dtype=np.int64)[classes] if is_multilabel else classes
    rows = sampled_rows(targets, seed=0, is_multilabel=is_multilabel)
    assert len(rows) <= new_head.MOST_ROWS + 3 * new_head.LEAST_ROWS_OF_A_LABEL
    assert (np.diff(rows) > 0).all()
    assert (np.bincount(classes[rows])[1:] >= new_head.LEAST_ROWS_OF_A_LABEL).all()
    assert np.array_equal(rows, sampled_rows(targets, seed=0, is_multilabel=is_multilabel))
    assert not np.array_equal(rows, sampled_rows(targets, seed=1, is_multilabel=is_multilabel))
