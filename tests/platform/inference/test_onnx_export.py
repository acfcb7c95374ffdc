"""Inference formats of tiny models: made, compared, refused. Each export takes seconds, so each architecture has one layer."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import pytest
import torch

from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.inference.formats import FAST_FORMATS, FORMAT_FILES, InferenceFormat
from manta.inference.onnx_export import export_graph, make_formats, quantize_graph
from manta.inference.predictor import Predictor

from ..conftest import PAIRS, TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def made_for(artifact: ModelArtifact, texts: Any, *, factor: float = 1.0) -> ModelArtifact:
    """Make the formats, and compare them with `factor` times the model's own logits."""
    logits = factor * Predictor(artifact, device="cpu").logits(texts)
    return make_formats(artifact, texts=texts, targets=logits.argmax(axis=1), logits=logits, training_texts=texts, num_threads=1)


def record_of(artifact: ModelArtifact, name: str) -> InferenceFormat:
    return next(item for item in artifact.manifest.formats if item.name == name)


@pytest.mark.parametrize("name", ["onnx-fp32", "openvino-fp32"])
def test_the_fp32_graph_gives_the_safetensors_logits_in_any_batch(with_formats: ModelArtifact, name: Any) -> None:
    reference, graph = (Predictor(with_formats, device="cpu", format=each) for each in ("safetensors", name))
    expected = reference.logits(PAIRS)
    assert np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(graph.logits(PAIRS), expected, rtol=0, atol=1e-4)
    for pairs in (PAIRS[:1], [("card", "late")], [("parcel " * 40, "card")]):
        np.testing.assert_allclose(graph.logits(pairs), reference.logits(pairs), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["safetensors", *FAST_FORMATS])
def test_a_texts_score_does_not_depend_on_its_neighbours(with_formats: ModelArtifact, name: Any) -> None:
    """Each row alone, in its file's batch, and in a shuffled file of other rows."""
    predictor = Predictor(with_formats, device="cpu", format=name)

    def scores(rows: Any) -> np.ndarray:
        return predictor.labels.probabilities(predictor.logits([PAIRS[row] for row in rows]))

    in_file = scores(range(len(PAIRS)))
    alone = np.concatenate([scores([row]) for row in range(len(PAIRS))])
    order = np.random.default_rng(0).permutation(len(PAIRS))
    shuffled = np.empty_like(in_file)
    for part in np.array_split(order, 7):
        shuffled[part] = scores(part)
    assert np.ptp(in_file, axis=0).max() > 0.05
    assert np.abs(alone - in_file).max() < 1e-3
    assert np.abs(shuffled - in_file).max() < 1e-3


def test_the_record_holds_the_figures_and_the_folder_stays_whole(with_formats: ModelArtifact) -> None:
    assert ModelArtifact.load(with_formats.path) == with_formats
    assert [item.name for item in with_formats.manifest.formats] == list(FAST_FORMATS)
    assert not list(with_formats.path.parent.glob("*.partial"))
    fp32 = record_of(with_formats, "onnx-fp32")
    assert (fp32.accepted, fp32.num_rows, fp32.accuracy, fp32.reference_accuracy, fp32.agreement) == (True, 40, 1.0, 1.0, 1.0)
    assert (fp32.max_logit_difference or 1.0) < 1e-4
    for item in with_formats.manifest.formats:
        assert item.accepted, item.reason
        assert (item.examples_per_s or 0) > 0
        files = FORMAT_FILES[item.name]
        assert item.size_bytes == sum((with_formats.path / file).stat().st_size for file in files)
        assert {*files} <= {*with_formats.manifest.files}
        assert (1.0 if item.neighbour_change is None else item.neighbour_change) < 1e-3


def test_the_int8_graph_is_another_one_and_near(with_formats: ModelArtifact) -> None:
    int8 = record_of(with_formats, "openvino-int8")
    assert 1e-5 < (int8.max_logit_difference or 0) < 1.0
    assert (int8.size_bytes or 0) < 0.9 * (record_of(with_formats, "onnx-fp32").size_bytes or 0)
    operations = [operation.get_type_name() for operation in openvino.Core().read_model(with_formats.path / int8.file).get_ops()]
    assert operations.count("FakeQuantize") >= 6


@pytest.mark.parametrize("name", FAST_FORMATS)
def test_a_fast_format_answers_without_torchs_weights(with_formats: ModelArtifact, tmp_path: Path, name: Any) -> None:
    folder = Path(shutil.copytree(with_formats.path, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    predictor = Predictor(ModelArtifact(folder, with_formats.manifest), device="cpu", format=name)
    assert predictor.logits(PAIRS).shape == (40, 3)


def test_formats_that_answer_otherwise_are_refused_and_their_files_not_kept(
    with_formats: ModelArtifact, make_artifact: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter gives a graph of other weights, as one that cannot follow a model might."""

    def other_graph(folder: Path, file: Path, *, names: object) -> None:
        shutil.copyfile(with_formats.path / "model.onnx", file)

    monkeypatch.setattr("manta.inference.onnx_export.export_graph", other_graph)
    made = made_for(make_artifact(tmp_path / "model", "multiclass", num_texts=2).artifact, PAIRS, factor=-1.0)
    assert [item.accepted for item in made.manifest.formats] == [False] * 3
    for item in made.manifest.formats:
        assert "significantly below 1.0000" in item.reason
        assert "probabilities change by" in item.reason
    assert not list(made.path.glob("*.onnx"))
    assert ModelArtifact.load(made.path) == made
    assert Predictor(made, device="cpu").format == "safetensors"
    with pytest.raises(InputError, match=r"openvino-int8 was refused: accuracy .* use safetensors"):
        Predictor(made, device="cpu", format="openvino-int8")


def test_a_format_whose_scores_depend_on_the_batch_is_refused(
    with_formats: ModelArtifact, make_artifact: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dynamic int8, as earlier versions had it: activations are quantised by the range of the whole batch."""
    from onnxruntime.quantization import quantize_dynamic

    def dynamic(source: Path, file: Path, *, batches: object) -> None:
        graph = file.with_suffix(".onnx")
        quantize_dynamic(source, graph)
        openvino.save_model(openvino.Core().read_model(graph), file, compress_to_fp16=False)

    def same_graph(folder: Path, file: Path, *, names: object) -> None:
        shutil.copyfile(with_formats.path / "model.onnx", file)

    monkeypatch.setattr("manta.inference.onnx_export.export_graph", same_graph)
    monkeypatch.setattr("manta.inference.onnx_export.quantize_graph", dynamic)
    made = made_for(make_artifact(tmp_path / "model", "multiclass", num_texts=2).artifact, PAIRS)
    assert [item.accepted for item in made.manifest.formats] == [True, True, False]
    int8 = record_of(made, "openvino-int8")
    assert "with the other texts of its batch" in int8.reason or "it does not run" in int8.reason, int8.reason


def test_a_model_that_cannot_be_exported_keeps_the_reason(
    make_artifact: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manta.inference.onnx_export.MAX_GRAPH_BYTES", 1000)
    made = made_for(make_artifact(tmp_path / "model", "multiclass").artifact, TEXTS)
    assert all("could not be made (weights of" in item.reason for item in made.manifest.formats)
    assert [item.accepted for item in made.manifest.formats] == [False] * 3
    assert ModelArtifact.load(made.path) == made
    assert list(tmp_path.iterdir()) == [made.path]


def test_quantising_says_nothing(
    with_formats: ModelArtifact, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NNCF_CI", raising=False)
    before = logging.getLoggerClass()
    names = ("input_ids", "attention_mask", "token_type_ids")
    batches = [{name: np.ones((1, length), np.int64) for name in names} for length in (3, 9)]
    quantize_graph(with_formats.path / "model.onnx", tmp_path / "int8.xml", batches=batches)
    assert capfd.readouterr() == ("", "")
    assert logging.getLoggerClass() is before
    assert "NNCF_CI" not in os.environ


def test_nncf_is_used_without_its_telemetry() -> None:
    """Ask another process, because NNCF sends nothing under pytest."""
    code = (
        "from manta.inference.onnx_export import silent_nncf\n"
        "with silent_nncf():\n    from nncf.telemetry.wrapper import NNCFTelemetry, telemetry\n"
        "print(isinstance(telemetry, NNCFTelemetry))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NNCF_CI"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_other_encoders_are_exported_with_any_batch_and_length(kind: str, tmp_path: Path) -> None:
    import onnxruntime
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"distilbert": {"dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 1}}.get(
        kind, {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    )
    config = AutoConfig.for_model(kind, vocab_size=40, max_position_embeddings=40, num_labels=3, **sizes)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    export_graph(tmp_path, tmp_path / "model.onnx", names=("input_ids", "attention_mask"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch, length in ((1, 3), (3, 20)):
        ids = torch.randint(5, 40, (batch, length), generator=torch.Generator().manual_seed(batch))
        mask = torch.ones_like(ids)
        mask[-1, length - 1 :] = 0
        ids[mask == 0] = config.pad_token_id
        with torch.inference_mode():
            expected = model(input_ids=ids, attention_mask=mask).logits.numpy()
        found = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_what_an_interruption_left_of_formats_is_removed_and_only_that(
    with_formats: ModelArtifact, make_artifact: Callable[..., Any], tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "model").artifact
    shutil.copyfile(with_formats.path / "model.onnx", artifact.path / "model.onnx")  # moved in, and not yet in the manifest
    with pytest.raises(InputError, match=r"model\.onnx: manta\.json does not list it"):
        ModelArtifact.load(artifact.path)
    assert ModelArtifact.recover(artifact.path) == artifact
    assert not (artifact.path / "model.onnx").exists()
    assert ModelArtifact.recover(with_formats.path) == with_formats
