"""Texts out of scope: how the distance is chosen, what an answer says, and that each format says it alike."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import with_scope
from manta.inference.conversion import make_formats
from manta.inference.formats import CPU_FORMATS
from manta.inference.predictor import Predictor
from manta.inference.scope import SCOPE_FILE, References, Scope, chosen_scope, reference_rows

from ..conftest import TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")


def features(num_rows: int, *, seed: int, places: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """Rows of labels that lie in these directions of 30."""
    generator = np.random.default_rng(seed)
    return np.eye(30)[np.asarray(places)[np.arange(num_rows) % len(places)]] + 0.1 * generator.normal(size=(num_rows, 30))


def test_new_labels_are_out_of_scope_and_new_rows_of_known_ones_are_not() -> None:
    references = References.of(features(600, seed=0))
    scope = chosen_scope(references.distances(features(500, seed=1)), loss=0.02, num_references=600)
    assert scope is not None
    assert scope.is_out(references.distances(features(3000, seed=2))).mean() == pytest.approx(0.02, abs=0.015)
    assert scope.is_out(references.distances(features(300, seed=3, places=(7, 8)))).all()
    without_label = References.of(features(400, seed=0, places=(0, 1)))  # the third is unknown to these
    assert scope.is_out(without_label.distances(features(100, seed=4, places=(2,)))).all()


def test_a_row_does_not_count_as_its_own_neighbor() -> None:
    rows = features(600, seed=0)
    own, new = References.of(rows).own_distances(), References.of(rows).distances(features(600, seed=5))
    assert np.median(own) == pytest.approx(np.median(new), rel=0.05)


def test_too_few_rows_choose_nothing() -> None:
    assert chosen_scope(np.linspace(0, 1, 48), loss=0.02, num_references=9) is None
    scope = chosen_scope(np.linspace(0, 1, 49), loss=0.02, num_references=9)
    assert scope is not None
    assert scope.beyond == 1.0  # the greatest of them


def test_rare_labels_keep_their_rows() -> None:
    assert {99} <= set(reference_rows(np.array([0] * 99 + [1]), most=10))
    assert {0, 9} <= set(reference_rows(np.array([[1, 0]] + [[0, 1]] * 8 + [[1, 1]]), most=4))


def scoped(artifact: ModelArtifact, folder: Path, texts: list[Any]) -> ModelArtifact:
    """A copy of the artifact that knows these texts only."""
    from manta_jobs.packaging.scope import _logits_and_features

    copy = ModelArtifact.load(shutil.copytree(artifact.path, folder))
    references = References.of(np.repeat(_logits_and_features(copy.path, texts, 1)[:, len(copy.manifest.labels) :], 3, axis=0))
    scope = Scope(loss=0.02, beyond=1e-3, num_rows=99, num_references=len(references.features))
    return ModelArtifact.load(with_scope(copy, scope, references).path)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_an_answer_says_that_its_text_is_out_of_scope(finished: dict[str, Any], tmp_path: Path, task: str) -> None:
    artifact = finished[task].artifact
    assert artifact.manifest.scope is None
    plain = Predictor(artifact, device="cpu")
    made = scoped(artifact, tmp_path / "model", TEXTS[:1])
    predictor = Predictor(made, device="cpu")
    before, after = plain.predict(TEXTS[:3]), predictor.predict(TEXTS[:3])
    assert [item.scores for item in after] == [pytest.approx(item.scores, abs=1e-5) for item in before]
    assert after[0].uncertain_reason == before[0].uncertain_reason
    assert [(item.uncertain, item.uncertain_reason) for item in after[1:]] == [(True, "out_of_scope")] * 2
    assert predictor.logits(TEXTS[:3]).shape == plain.outputs(TEXTS[:3]).shape == (3, len(made.manifest.labels))
    made.path.joinpath(SCOPE_FILE).write_bytes(b"")
    with pytest.raises(Exception, match=SCOPE_FILE):
        ModelArtifact.load(made.path)


@pytest.mark.slow
def test_every_format_gives_the_distance(make_artifact: Callable[..., Any], tmp_path: Path) -> None:
    made = scoped(make_artifact(tmp_path / "first").artifact, tmp_path / "second", TEXTS[:1])
    reference = Predictor(made, device="cpu", format="safetensors")
    logits, expected = reference.logits(TEXTS), reference.outputs(TEXTS)
    assert np.ptp(expected[:, -1]) > 0.05
    wrong = logits.argmin(axis=1)  # of two labels that are nearly as probable, int8 may take the other: here it costs no accuracy
    made = make_formats(made, texts=TEXTS, targets=wrong, logits=logits, training_texts=TEXTS, num_threads=1)
    for name in CPU_FORMATS:
        outputs = Predictor(made, device="cpu", format=name).outputs(TEXTS)
        np.testing.assert_allclose(outputs[:, -1], expected[:, -1], rtol=0, atol=1e-4 if name == "openvino-fp32" else 0.05)
        np.testing.assert_allclose(outputs[:, :-1], expected[:, :-1], rtol=0, atol=1e-3 if name == "openvino-fp32" else 0.3)
