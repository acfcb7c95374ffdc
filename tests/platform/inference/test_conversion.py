"""Inference formats of tiny models: made, compared, refused."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import with_golden
from manta.inference.conversion import convert, make_formats, make_gpu_format, quantize
from manta.inference.formats import CPU_FORMATS, FORMAT_FILES, GPU_FORMAT, InferenceFormat
from manta.inference.predictor import Predictor
from manta.model.finished import load_finished
from manta.model.forward import OpenVinoForward, load_openvino
from manta_jobs.packaging.golden import record_golden

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


def test_the_fp32_format_gives_the_safetensors_logits_in_any_batch(with_formats: ModelArtifact) -> None:
    names: Any = ("safetensors", "openvino-fp32")
    reference, graph = (Predictor(with_formats, device="cpu", format=name) for name in names)
    expected = reference.logits(PAIRS)
    assert np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(graph.logits(PAIRS), expected, rtol=0, atol=1e-4)
    for pairs in (PAIRS[:1], [("card", "late")], [("parcel " * 40, "card")]):
        np.testing.assert_allclose(graph.logits(pairs), reference.logits(pairs), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["safetensors", *CPU_FORMATS])
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


def test_the_gpu_format_computes_the_safetensors_in_bfloat16(with_formats: ModelArtifact, tmp_path: Path) -> None:
    """On a CPU, which computes the same reduced products; on a GPU, `Predictor` takes it where it was accepted."""
    artifact = ModelArtifact.load(shutil.copytree(with_formats.path, tmp_path / "model"))
    texts = PAIRS * 2
    logits = Predictor(artifact, device="cpu", format="safetensors").logits(texts)
    made = make_gpu_format(artifact, texts=texts, targets=logits.argmax(axis=1), logits=logits, device="cpu")
    record = record_of(made, GPU_FORMAT)
    assert record.accepted, record.reason
    assert 0 < (record.max_logit_difference or 0) < 0.1  # not the fp32 results, and close to them
    assert [item.name for item in ModelArtifact.load(made.path).manifest.formats] == [*CPU_FORMATS, GPU_FORMAT]


def test_the_record_holds_the_figures_and_the_folder_stays_whole(with_formats: ModelArtifact) -> None:
    assert ModelArtifact.load(with_formats.path) == with_formats
    assert [item.name for item in with_formats.manifest.formats] == list(CPU_FORMATS)
    assert not list(with_formats.path.parent.glob("*.partial"))
    fp32 = record_of(with_formats, "openvino-fp32")
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
    sizes = [(with_formats.path / f"model-{name}.bin").stat().st_size for name in ("int8", "fp32")]
    assert sizes[0] < 0.8 * sizes[1]
    graph = load_openvino().Core().read_model(with_formats.path / int8.file)
    operations = [operation.get_type_name() for operation in graph.get_ops()]
    assert operations.count("FakeQuantize") >= 6


@pytest.mark.parametrize(
    ("has", "levels"),
    [
        ({"architecture": "x86_64", "avx2": True}, 128),
        ({"architecture": "x86_64", "avx512_vnni": True}, 256),
        ({"neon": True}, 256),
    ],
)
def test_weights_have_seven_bits_where_sums_of_eight_overflow(
    with_formats: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: dict[str, Any], levels: int
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    rows = [{name: np.ones((1, 4), dtype=np.int64) for name in ("input_ids", "token_type_ids", "attention_mask")}]
    quantize(with_formats.path / "model-fp32.xml", tmp_path / "int8.xml", batches=rows)
    graph = load_openvino().Core().read_model(tmp_path / "int8.xml")
    weights = [operation.data for operation in graph.get_ordered_ops() if operation.get_type_name() == "Constant"]
    used = [np.ptp(values.astype(np.int32)) for values in weights if values.dtype == np.int8 and values.ndim == 2]
    assert levels / 2 < np.median(used) <= levels  # the embeddings always have eight


@pytest.mark.parametrize("name", CPU_FORMATS)
def test_a_fast_format_answers_without_torchs_weights(with_formats: ModelArtifact, tmp_path: Path, name: Any) -> None:
    folder = Path(shutil.copytree(with_formats.path, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    predictor = Predictor(ModelArtifact(folder, with_formats.manifest), device="cpu", format=name)
    assert predictor.logits(PAIRS).shape == (40, 3)


def test_formats_that_answer_otherwise_are_refused_and_their_files_not_kept(
    with_formats: ModelArtifact, make_artifact: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversion gives a model of other weights, as one that cannot follow a model might."""

    def other_model(model: object, file: Path, *, names: object) -> None:
        for name in FORMAT_FILES["openvino-fp32"]:
            shutil.copyfile(with_formats.path / name, file.with_name(name))

    monkeypatch.setattr("manta.inference.conversion.convert", other_model)
    made = made_for(make_artifact(tmp_path / "model", "multiclass", num_texts=2).artifact, PAIRS, factor=-1.0)
    assert [item.accepted for item in made.manifest.formats] == [False] * 2
    for item in made.manifest.formats:
        assert "significantly below 1.0000" in item.reason
        assert "probabilities change by" in item.reason
    assert not list(made.path.glob("model-*"))
    assert ModelArtifact.load(made.path) == made
    assert Predictor(made, device="cpu").format == "safetensors"
    with pytest.raises(InputError, match=r"openvino-int8 was refused: accuracy .* use safetensors"):
        Predictor(made, device="cpu", format="openvino-int8")


class CenteredInItsBatch(torch.nn.Module):
    """A classifier whose logits depend on the other texts of the batch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.model = load_finished(folder)

    def forward(self, **tokens: torch.Tensor) -> torch.Tensor:
        logits = self.model(**tokens).logits
        return logits - 3 * logits.mean(dim=0)


def test_a_format_whose_scores_depend_on_the_batch_is_refused(
    make_artifact: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_artifact(tmp_path / "model", "multiclass", num_texts=2).artifact

    def centered(source: Path, file: Path, *, batches: list[dict[str, Any]]) -> None:
        convert(CenteredInItsBatch(artifact.path), file, names=tuple(batches[0]))

    monkeypatch.setattr("manta.inference.conversion.quantize", centered)
    made = made_for(artifact, PAIRS)
    assert [item.accepted for item in made.manifest.formats] == [True, False]
    assert "with the other texts of its batch" in made.manifest.formats[1].reason


def test_a_model_that_cannot_be_converted_keeps_the_reason(
    make_artifact: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unknown(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(input_ids.float())

    artifact = make_artifact(tmp_path / "model", "multiclass").artifact
    logits = Predictor(artifact, device="cpu").logits(TEXTS)
    monkeypatch.setattr("manta.model.finished.load_finished", lambda folder: Unknown())
    root = logging.getLogger()
    before = (root.level, [*root.filters], [*root.handlers])
    made = make_formats(artifact, texts=TEXTS, targets=logits.argmax(axis=1), logits=logits, training_texts=TEXTS, num_threads=1)
    assert [item.accepted for item in made.manifest.formats] == [False] * 2
    assert all("could not be made (" in item.reason and "bessel_j0" in item.reason for item in made.manifest.formats)
    assert ModelArtifact.load(made.path) == made
    assert list(tmp_path.iterdir()) == [made.path]
    assert (root.level, root.filters, root.handlers) == before


def test_converting_and_quantising_say_nothing(
    with_formats: ModelArtifact, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    before = logging.getLoggerClass()
    names = ("input_ids", "attention_mask", "token_type_ids")
    batches = [{name: np.ones((1, length), np.int64) for name in names} for length in (3, 9)]
    convert(load_finished(with_formats.path), tmp_path / "fp32.xml", names=names)
    quantize(tmp_path / "fp32.xml", tmp_path / "int8.xml", batches=batches)
    assert capfd.readouterr() == ("", "")
    assert [str(item.message) for item in recwarn] == []
    assert logging.getLoggerClass() is before


def test_openvino_and_nncf_are_used_without_their_telemetry() -> None:
    """Ask another process, because NNCF sends nothing under pytest."""
    code = (
        "from manta.model.forward import load_openvino\n"
        "load_openvino()\n"
        "from openvino.tools.ovc import telemetry\n"
        "from nncf.telemetry.wrapper import NNCFTelemetry, telemetry as of_nncf\n"
        "print(type(telemetry).__module__, isinstance(of_nncf, NNCFTelemetry))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "openvino.tools.ovc.telemetry_stub False\n"


KINDS = ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta-v2", "modernbert", "mpnet", "albert"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_is_converted_for_any_batch_and_length(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
    if kind == "modernbert":
        sizes["local_attention"] = 16
    if kind == "deberta-v2":  # as in DeBERTa-v3
        sizes |= {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    config = AutoConfig.for_model(kind, **sizes, vocab_size=90, pad_token_id=1, num_labels=3)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():  # as drawn, so small a model gives all texts much the same logits
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8.0)
    model.save_pretrained(tmp_path)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if getattr(config, "type_vocab_size", 0) == 2 else [])]
    convert(load_finished(tmp_path), tmp_path / "model.xml", names=names)
    forward = OpenVinoForward(tmp_path / "model.xml", num_threads=1)
    for batch, length in ((1, 1), (1, 3), (2, 8), (3, 20), (4, 70)):
        ids = torch.randint(5, 90, (batch, length), generator=torch.Generator().manual_seed(length))
        ends = length - 3 * torch.arange(batch)[:, None]
        mask = (torch.arange(length) < ends.clamp(min=1)).long()
        ids[mask == 0] = 1
        types = ((torch.arange(length) > length // 2) * mask).long()
        tokens = {name: {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}[name] for name in names}
        with torch.inference_mode():
            expected = model(**tokens).logits.numpy()
        assert batch == 1 or np.ptp(expected, axis=0).max() > 0.05
        found = forward({name: values.numpy() for name, values in tokens.items()})
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_format_has_golden_predictions_of_its_own(make_artifact: Callable[..., Any], tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "model", "multiclass", num_texts=2).artifact
    alone = with_golden(artifact, record_golden(artifact, PAIRS[:4]))
    made = ModelArtifact.load(made_for(alone, PAIRS).path)
    golden = made.golden()
    assert golden is not None
    assert set(golden.probabilities) == {"safetensors", *CPU_FORMATS}
    assert golden == record_golden(made, PAIRS[:4])
    assert golden.probabilities["openvino-int8"] != golden.probabilities["safetensors"]


def test_what_an_interruption_left_of_formats_is_removed_and_only_that(
    with_formats: ModelArtifact, make_artifact: Callable[..., Any], tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "model").artifact
    file = "model-fp32.xml"
    shutil.copyfile(with_formats.path / file, artifact.path / file)  # moved in, and not yet in the manifest
    assert ModelArtifact.load(artifact.path) == artifact
    assert ModelArtifact.recover(artifact.path) == artifact
    assert not (artifact.path / file).exists()
    assert ModelArtifact.recover(with_formats.path) == with_formats
