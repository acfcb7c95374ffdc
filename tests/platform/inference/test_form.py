"""ONNX formats of tiny models: made, compared, chosen, refused. Each export takes seconds, so each architecture has one layer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch

from manta.errors import InputError
from manta.inference.artifact import MANIFEST_FILE, ModelArtifact, with_forms
from manta.inference.form import FORM_FILES, InferenceForm, Measured, fastest, judged, unmade
from manta.inference.onnx_export import export_graph, feed_forward_outputs, make_forms, quantize_graph
from manta.inference.predictor import Predictor, chosen_form
from manta.labels import LabelSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TEXTS = ["my parcel is late", "card", "the courier charged my invoice twice please and why is it late now", "login password"] * 10
PAIRS = [(first, second) for first, second in zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True)]
SPACE = LabelSpace(("a", "b"), "multiclass")


@pytest.fixture(scope="module")
def with_onnx(make_artifact: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    """A model for text pairs with its forms: pairs, because then the graph has token types, too."""
    artifact = make_artifact(tmp_path_factory.mktemp("forms") / "model", "multiclass", num_texts=2).artifact
    logits = Predictor(artifact, device="cpu").logits(PAIRS)
    return make_forms(artifact, texts=PAIRS, targets=logits.argmax(axis=1), logits=logits, num_threads=1)


def form_of(artifact: ModelArtifact, name: str) -> InferenceForm:
    return next(form for form in artifact.manifest.forms if form.name == name)


def test_the_fp32_graph_gives_the_safetensors_logits_in_any_batch(with_onnx: ModelArtifact) -> None:
    reference, graph = (Predictor(with_onnx, device="cpu", form=form) for form in ("safetensors", "onnx-fp32"))
    expected = reference.logits(PAIRS)
    assert np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(graph.logits(PAIRS), expected, rtol=0, atol=1e-4)
    for pairs in (PAIRS[:1], [("card", "late")], [("parcel " * 40, "card")]):
        np.testing.assert_allclose(graph.logits(pairs), reference.logits(pairs), rtol=0, atol=1e-4)


def test_the_record_holds_the_figures_and_the_folder_stays_whole(with_onnx: ModelArtifact) -> None:
    assert ModelArtifact.load(with_onnx.path) == with_onnx
    assert [form.name for form in with_onnx.manifest.forms] == ["onnx-fp32", "onnx-int8"]
    assert not list(with_onnx.path.parent.glob("*.partial"))
    fp32 = form_of(with_onnx, "onnx-fp32")
    assert (fp32.accepted, fp32.num_rows, fp32.accuracy, fp32.reference_accuracy, fp32.agreement) == (True, 40, 1.0, 1.0, 1.0)
    assert (fp32.max_logit_difference or 1.0) < 1e-4
    assert fp32.size_bytes == (with_onnx.path / fp32.file).stat().st_size
    for form in with_onnx.manifest.forms:
        assert (form.examples_per_s or 0) > 0
        assert (form.reference_examples_per_s or 0) > 0
        assert (with_onnx.path / form.file).exists() is form.accepted is (form.file in with_onnx.manifest.files)


def test_the_int8_graph_is_another_one_and_near(with_onnx: ModelArtifact) -> None:
    int8 = form_of(with_onnx, "onnx-int8")
    assert int8.accepted
    assert 1e-5 < (int8.max_logit_difference or 0) < 1.0
    assert (int8.size_bytes or 0) < 0.9 * (form_of(with_onnx, "onnx-fp32").size_bytes or 0)
    assert Predictor(with_onnx, device="cpu", form="onnx-int8").predict(PAIRS[:3])


def test_onnx_answers_without_torchs_weights(with_onnx: ModelArtifact, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(with_onnx.path, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    predictor = Predictor(ModelArtifact(folder, with_onnx.manifest), device="cpu", form="onnx-fp32")
    assert predictor.logits(PAIRS).shape == (40, 3)


def test_a_form_that_answers_otherwise_is_refused_and_its_file_not_kept(
    with_onnx: ModelArtifact, make_artifact: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter gives a graph of other weights, as one that cannot follow a model might."""

    def other_graph(folder: Path, file: Path, *, names: object) -> None:
        shutil.copyfile(with_onnx.path / FORM_FILES["onnx-fp32"], file)

    monkeypatch.setattr("manta.inference.onnx_export.export_graph", other_graph)
    artifact = make_artifact(tmp_path / "model", "multiclass", num_texts=2).artifact
    logits = -Predictor(artifact, device="cpu").logits(PAIRS)
    made = make_forms(artifact, texts=PAIRS, targets=logits.argmax(axis=1), logits=logits, num_threads=1)
    assert [form.accepted for form in made.manifest.forms] == [False, False]
    assert all("below 1.0000" in form.reason and "agrees on" in form.reason for form in made.manifest.forms)
    assert not list(made.path.glob("*.onnx"))
    assert ModelArtifact.load(made.path) == made
    assert Predictor(made, device="cpu").form == "safetensors"
    with pytest.raises(InputError, match=r"onnx-int8 was refused: accuracy .* use safetensors"):
        Predictor(made, device="cpu", form="onnx-int8")


def test_int8_that_answers_otherwise_is_tried_again_with_the_feed_forward_outputs_in_float32(
    with_onnx: ModelArtifact, make_artifact: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try answers the opposite."""

    def worse(source: Path, file: Path, *, kept: Sequence[str] = ()) -> None:
        quantize_graph(source, file, kept=kept)
        if not kept:
            model = onnx.load(file)
            last = next(node for node in model.graph.node if "logits" in node.output)
            last.output[list(last.output).index("logits")] = "upside_down"
            model.graph.node.append(onnx.helper.make_node("Neg", ["upside_down"], ["logits"]))
            onnx.save(model, file)

    monkeypatch.setattr("manta.inference.onnx_export.quantize_graph", worse)
    artifact = make_artifact(tmp_path / "model", "multiclass", num_texts=2).artifact
    logits = Predictor(artifact, device="cpu").logits(PAIRS)
    made = make_forms(artifact, texts=PAIRS, targets=logits.argmax(axis=1), logits=logits, num_threads=1)
    int8, whole = form_of(made, "onnx-int8"), form_of(with_onnx, "onnx-int8")
    assert int8.accepted, int8.reason
    assert int8.reason.endswith("the feed-forward layers' outputs stay in float32")
    assert (int8.size_bytes or 0) > (whole.size_bytes or 0)
    assert Predictor(made, device="cpu", form="onnx-int8").predict(PAIRS[:3])
    num_layers = json.loads((made.path / "config.json").read_text())["num_hidden_layers"]
    assert len(feed_forward_outputs(made.path, made.path / "model.onnx")) == num_layers


def test_a_model_that_cannot_be_exported_keeps_the_reason(
    make_artifact: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manta.inference.onnx_export.MAX_GRAPH_BYTES", 1000)
    artifact = make_artifact(tmp_path / "model", "multiclass").artifact
    logits = Predictor(artifact, device="cpu").logits(TEXTS)
    made = make_forms(artifact, texts=TEXTS, targets=logits.argmax(axis=1), logits=logits, num_threads=1)
    assert "could not be made (weights of" in made.manifest.forms[0].reason
    assert [form.accepted for form in made.manifest.forms] == [False, False]
    assert ModelArtifact.load(made.path) == made
    assert list(tmp_path.iterdir()) == [made.path]


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
    assert len(feed_forward_outputs(tmp_path, tmp_path / "model.onnx")) == 1
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


def test_what_an_interruption_left_of_forms_is_removed_and_only_that(
    with_onnx: ModelArtifact, make_artifact: Callable[..., Any], tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "model").artifact
    shutil.copyfile(with_onnx.path / "model.onnx", artifact.path / "model.onnx")  # moved in, and not yet in the manifest
    with pytest.raises(InputError, match=r"model\.onnx: manta\.json does not list it"):
        ModelArtifact.load(artifact.path)
    assert ModelArtifact.recover(artifact.path) == artifact
    assert not (artifact.path / "model.onnx").exists()
    assert ModelArtifact.recover(with_onnx.path) == with_onnx


# The figures that decide


def logits_of(classes: list[int], margin: float = 1.0) -> np.ndarray:
    return margin * np.eye(2, dtype=np.float32)[classes]


def judge(form: list[int], reference: list[int], targets: list[int]) -> InferenceForm:
    mine, theirs = (Measured(logits_of(classes), speed, 1) for classes, speed in ((form, 200.0), (reference, 100.0)))
    return judged("onnx-int8", mine, reference=theirs, targets=np.array(targets), labels=SPACE)


@pytest.mark.parametrize(("wrong", "accepted"), [(0, True), (2, False), (1, True)])
def test_agreement_of_99_percent_is_needed(wrong: int, accepted: bool) -> None:
    # Half of what changes becomes right, the other half wrong: accuracy stays within half a point.
    targets = [0] * 200
    reference = [0] * 198 + [1, 1]
    form = [1] * (wrong) + [0] * (198 - wrong) + [0] * wrong + [1] * (2 - wrong)
    found = judge(form, reference, targets)
    assert found.agreement == pytest.approx(1 - 2 * wrong / 200)
    assert found.accuracy == found.reference_accuracy == pytest.approx(0.99)
    assert found.accepted is accepted


def test_more_than_half_a_point_of_accuracy_is_too_much() -> None:
    targets = [0] * 1000
    assert judge([1] * 5 + [0] * 995, targets, targets).accepted
    refused = judge([1] * 6 + [0] * 994, targets, targets)
    assert not refused.accepted
    assert refused.reason == "accuracy 0.9940 is more than half a point below 1.0000"


def test_of_several_labels_all_must_agree() -> None:
    labels = LabelSpace(("a", "b"), "multilabel")
    reference, mine = np.full((10, 2), 3.0), np.full((10, 2), 3.0)
    mine[0, 1] = -3.0
    runs = [Measured(logits, 1.0, 1) for logits in (mine, reference)]
    found = judged("onnx-fp32", runs[0], reference=runs[1], targets=np.ones((10, 2), dtype=np.int8), labels=labels)
    assert (found.agreement, found.accuracy, found.reference_accuracy, found.max_logit_difference) == (0.9, 0.9, 1.0, 6.0)


def test_logits_that_are_no_numbers_are_refused() -> None:
    broken = Measured(np.full((4, 2), np.nan), 1.0, 1)
    found = judged("onnx-int8", broken, reference=Measured(logits_of([0] * 4), 1.0, 1), targets=np.zeros(4, int), labels=SPACE)
    assert not found.accepted
    assert found.reason.startswith("some logits are no numbers")
    assert InferenceForm.model_validate_json(found.model_dump_json()) == found


def test_auto_takes_the_fastest_that_may_answer() -> None:
    good = judge([0, 1], [0, 1], [0, 1])
    quicker = good.model_copy(update={"name": "onnx-fp32", "examples_per_s": 300.0})
    assert fastest([]) == "safetensors"
    assert fastest([good]) == "onnx-int8"
    assert fastest([good, quicker]) == "onnx-fp32"
    assert fastest([good, quicker.model_copy(update={"accepted": False})]) == "onnx-int8"
    assert fastest([good.model_copy(update={"examples_per_s": 99.0})]) == "safetensors"
    assert fastest([unmade("onnx-fp32", "no"), unmade("onnx-int8", "no")]) == "safetensors"


@pytest.mark.parametrize(
    ("form", "on_cpu", "message"),
    [
        ("onnx-fp16", True, "inference format onnx-fp16: unknown; known ones are auto, safetensors"),
        ("onnx-fp32", False, "runs on a CPU only"),
    ],
)
def test_a_form_that_cannot_be_had_is_refused(with_onnx: ModelArtifact, form: Any, on_cpu: bool, message: str) -> None:
    assert chosen_form(with_onnx, "auto", on_cpu=False) == "safetensors"
    with pytest.raises(InputError, match=message):
        chosen_form(with_onnx, form, on_cpu=on_cpu)


def test_a_model_without_forms_says_so(finished: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="has no inference format onnx-int8; use safetensors"):
        Predictor(finished["binary"].artifact, device="cpu", form="onnx-int8")
    assert Predictor(finished["binary"].artifact, device="cpu").form == "safetensors"


def test_threads_follow_torchs(with_onnx: ModelArtifact) -> None:
    predictor = Predictor(with_onnx, device="cpu", form="onnx-fp32")
    forward: Any = predictor._forward
    assert forward._session.get_session_options().intra_op_num_threads == torch.get_num_threads() == 1


def test_forms_are_recorded_beside_the_rest(make_artifact: Callable[..., Any], tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "model").artifact
    changed = with_forms(artifact, [unmade("onnx-fp32", "no")], folder=tmp_path)
    assert changed.manifest == artifact.manifest.model_copy(update={"forms": (unmade("onnx-fp32", "no"),)})
    assert (artifact.path / MANIFEST_FILE).is_file()
