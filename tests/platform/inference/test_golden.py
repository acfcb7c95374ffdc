"""Golden predictions: recorded with the model, reproduced by what works, and by nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import with_formats, with_golden
from manta.inference.formats import SAFETENSORS, unmade
from manta.inference.golden import GOLDEN_FILE, NUM_GOLDEN, REDUCED_TOLERANCE, TOLERANCE, GoldenPredictions, spread_rows
from manta.inference.predictor import Predictor
from manta_jobs.packaging.golden import MAX_CHARACTERS, record_golden

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["my parcel is late", "card", "the courier charged my invoice twice", "password " * 200]


def alone(artifact: ModelArtifact, texts: Any) -> np.ndarray:
    predictor = Predictor(artifact, device="cpu", format=SAFETENSORS)
    return np.stack([predictor.labels.probabilities(predictor.logits([text]))[0] for text in texts])


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "pairs"])
def test_a_model_reproduces_its_own_and_keeps_them_with_its_folder(
    make_artifact: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    task, num_texts = ("multiclass", 2) if kind == "pairs" else (kind, 1)
    artifact = make_artifact(tmp_path / "model", task, num_texts=num_texts).artifact
    artifact = with_formats(artifact, [unmade("openvino-int8", "no")], folder=tmp_path)
    assert artifact.golden() is None
    texts: list[Any] = TEXTS if num_texts == 1 else [(text, "please") for text in TEXTS]
    loaded = ModelArtifact.load(with_golden(artifact, record_golden(artifact, texts)).path)
    golden = loaded.golden()
    assert golden is not None
    assert list(golden.probabilities) == [SAFETENSORS]  # a refused format answers nothing
    assert max(len(text if num_texts == 1 else text[0]) for text in golden.texts) == MAX_CHARACTERS
    assert golden.fault(alone(loaded, golden.texts), format=SAFETENSORS, reduced=False) is None
    assert golden.fault(alone(loaded, golden.texts[::-1]), format=SAFETENSORS, reduced=False) is not None


@pytest.fixture(scope="module")
def golden() -> GoldenPredictions:
    return GoldenPredictions(texts=("a", "b"), probabilities={SAFETENSORS: ((0.9, 0.1), (0.4, 0.6))})


@pytest.mark.parametrize(
    ("off_by", "reduced", "is_fault"),
    [(0.0005, False, False), (0.002, False, True), (0.002, True, False), (REDUCED_TOLERANCE + 0.001, True, True)],
)
def test_the_tolerance_depends_on_the_precision(golden: GoldenPredictions, off_by: float, reduced: bool, is_fault: bool) -> None:
    found = np.array([[0.9, 0.1], [0.4 + off_by, 0.6 - off_by]])
    fault = golden.fault(found, format=SAFETENSORS, reduced=reduced)
    assert (fault is not None) is is_fault
    if fault:
        assert fault == (
            f"1 of its 2 golden predictions come out otherwise as safetensors: a probability is off by {off_by:.4f}, "
            f"more than {REDUCED_TOLERANCE if reduced else TOLERANCE}"
        )


def test_other_faults_are_named(golden: GoldenPredictions) -> None:
    assert "are no numbers" in str(golden.fault(np.full((2, 2), np.nan), format=SAFETENSORS, reduced=True))
    assert "3 labels" in str(golden.fault(np.full((2, 3), 1 / 3), format=SAFETENSORS, reduced=True))
    assert golden.fault(np.zeros((2, 2)), format="openvino-int8", reduced=True) is None


def test_a_damaged_file_is_named(make_artifact: Callable[..., Any], tmp_path: Path, golden: GoldenPredictions) -> None:
    artifact = with_golden(make_artifact(tmp_path / "model").artifact, golden)
    (artifact.path / GOLDEN_FILE).write_text('{"texts": ["a"], "probabilities": {"safetensors": []}}')
    with pytest.raises(InputError, match=r"golden\.json: damaged"):
        artifact.golden()
    with pytest.raises(InputError, match=r"golden\.json: altered"):
        ModelArtifact.load(artifact.path)
    (artifact.path / GOLDEN_FILE).write_text("left by an interruption")
    unlisted = {name: digest for name, digest in artifact.manifest.files.items() if name != GOLDEN_FILE}
    (artifact.path / "manta.json").write_text(artifact.manifest.model_copy(update={"files": unlisted}).model_dump_json())
    assert ModelArtifact.recover(artifact.path).golden() is None


def test_rows_are_spread_over_the_decisions() -> None:
    decided = ["a"] * 50 + ["b"] * 2 + ["c"] * 50
    rows = spread_rows(decided)
    assert len(rows) == NUM_GOLDEN == len(set(rows))
    assert {50, 51} <= set(rows)
    assert abs(sum(row < 50 for row in rows) - sum(row > 51 for row in rows)) <= 1
    assert len(set(spread_rows(list(range(77))))) == NUM_GOLDEN
    assert spread_rows(["a", "b"]) == [0, 1]
    assert spread_rows([]) == []
