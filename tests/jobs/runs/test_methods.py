"""The methods of a run: a linear model is whole in every way that a fine-tuned one is, and `auto` keeps the better of the two."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from manta.config import ExperimentConfig
from manta.console import people_console
from manta.data import load_dataset
from manta.data.encode import EncodedSplit
from manta.errors import InputError
from manta.evaluation.metrics import classification_metrics
from manta.inference.artifact import ModelArtifact
from manta.inference.attribution import Attributor
from manta.inference.predictor import Predictor
from manta.inference.scope import References
from manta.label_check.decisions import LabelDecision, add_decisions, text_hash
from manta.registry.export import export_model
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage
from manta_jobs.batch_prediction import predict
from manta_jobs.cli.show_run import show_trained, trained_result
from manta_jobs.packaging.scope import ScopeRows, logits_and_features
from manta_jobs.registry.promotion import promote
from manta_jobs.runs.train import resume, train
from manta_jobs.runs.tune import tune
from manta_jobs.training.few_rows.contrastive import CONTRASTIVE_FOLDER
from manta_jobs.training.few_rows.linear import LINEAR_FOLDER, MODEL_FILE, USUAL_STRENGTH
from manta_serve.api.routes import create_api
from manta_serve.versions.served_model import ServedModel

from ...conftest import rows_of, write_csv
from ...serve.untrained import service_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta_jobs.runs.results import TrainedModel

TEXTS = ["where is my parcel", "the invoice card was charged twice", "password", "hello it is late still locked"]


def experiment(rows: Path, encoder: Path, **settings: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "name": "desk",
            "data": {"train": str(rows)} | settings.pop("data", {}),
            "model": {"pretrained": str(encoder), "max_length": 32, "dropout": 0.0} | settings.pop("model", {}),
            "train": {
                "method": "linear",
                "batch_size": 16,
                "precision": "fp32",
                "use_gpu": False,
                "cpus_per_worker": 1,
                **settings,
            },
            "registry": {"fast_formats": False},
        }
    )


@pytest.fixture(scope="module")
def sentence_encoder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder as a sentence encoder: the mean of its tokens, scaled to length 1."""
    folder = tmp_path_factory.mktemp("sentence") / "encoder"
    shutil.copytree(tiny_model, folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"idx": at, "name": str(at), "path": path, "type": f"x.{kind}"} for at, (path, kind) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    )
    return folder


@pytest.fixture(scope="module")
def linear(three_classes: Path, sentence_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A finished run of the method linear, with its faster formats."""
    storage = tmp_path_factory.mktemp("linear") / "storage"
    text, label = rows_of(["delivery", "billing", "account"], 240)[0]
    add_decisions(storage.parent / "labels.jsonl", [LabelDecision(text_hash(text), label, label)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANTA_STORAGE", str(storage))
        config = experiment(
            three_classes, sentence_encoder, data={"test_fraction": 0.25, "corrections": str(storage.parent / "labels.jsonl")}
        ).with_values({"registry.fast_formats": True, "storage": str(storage)})
        return train(config, console=people_console())


@pytest.fixture(scope="module")
def contrastive(two_classes: Path, sentence_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedModel]:
    """A finished run of the method auto that kept the contrastive model, whatever linear's lead."""
    storage = tmp_path_factory.mktemp("contrastive") / "storage"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANTA_STORAGE", str(storage))
        patch.setattr("manta_jobs.training.choice.KEPT_ABOVE", 1000.0)
        config = experiment(two_classes, sentence_encoder, method="auto", data={"test_fraction": 0.7})
        yield train(config.with_values({"storage": str(storage)}), console=people_console())


def by_hand(folder: Path, texts: list[str]) -> np.ndarray:
    """The logits of a linear model's folder by plain torch and transformers, one text at a time."""
    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    dense = load_file(folder / "3_Dense" / "model.safetensors")
    found = []
    for text in texts:
        with torch.inference_mode():
            states = encoder(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32)).last_hidden_state[0]
        vector = states.mean(dim=0)
        found.append(torch.from_numpy(dense["linear.weight"]) @ (vector / vector.norm()) + torch.from_numpy(dense["linear.bias"]))
    return torch.stack(found).numpy()


def test_every_way_to_ask_gives_the_same_logits(linear: TrainedModel, tmp_path: Path) -> None:
    artifact = linear.artifact
    expected = by_hand(artifact.path, TEXTS)
    folder = export_model(artifact, tmp_path / "exported")
    plain = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(TEXTS)
    np.testing.assert_allclose(plain, expected, rtol=0, atol=1e-4)
    accepted = [item.name for item in artifact.manifest.formats if item.accepted]
    assert "openvino-fp32" in accepted
    for name in ("safetensors", *(name for name in accepted if name.endswith("fp32"))):
        found = Predictor(artifact, device="cpu", format=name).logits(TEXTS)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4, err_msg=name)

    probabilities = artifact.manifest.label_space.probabilities(expected)
    served = ServedModel(Predictor(artifact, device="cpu", format="safetensors"), name="desk", version=1)
    with TestClient(create_api(service_of(served))) as client:
        answers = client.post("/v1/classify", json={"texts": TEXTS}).json()["predictions"]
    scores = [[answer["scores"][label] for label in artifact.manifest.labels] for answer in answers]
    np.testing.assert_allclose(scores, probabilities, rtol=0, atol=1e-4)

    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    predict(str(artifact.path), str(rows), out=out, text_columns=["text"], overwrite=False, console=people_console())
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    np.testing.assert_allclose([line["score"] for line in lines], probabilities.max(axis=1), rtol=0, atol=1e-3)


def test_a_contrastive_model_is_whole_in_the_same_way(contrastive: TrainedModel, sentence_encoder: Path, tmp_path: Path) -> None:
    artifact = contrastive.artifact
    expected = by_hand(artifact.path, TEXTS)
    folder = export_model(artifact, tmp_path / "exported")
    plain = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(TEXTS)
    np.testing.assert_allclose(plain, expected, rtol=0, atol=1e-4)
    found = Predictor(artifact, device="cpu", format="safetensors").logits(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    adapted, pretrained = (load_file(path / "model.safetensors") for path in (artifact.path, sentence_encoder))
    changed = {name for name, values in adapted.items() if not np.array_equal(values, pretrained.get(name, values))}
    assert any("layer.0" in name for name in changed)
    assert not any("word_embeddings" in name for name in changed)


def test_auto_tries_linear_and_contrastive_with_few_rows_and_says_so(contrastive: TrainedModel) -> None:
    report = json.loads(contrastive.run.report_path.read_text())
    assert (report["method"], contrastive.outcome.method, contrastive.artifact.manifest.method) == ("contrastive",) * 3
    assert [rung["method"] for rung in report["methods"]["rungs"]] == ["linear", "contrastive"]
    assert [rung["num_rows"] for rung in report["methods"]["rungs"]] == [report["num_rows"]["train"]] * 2
    assert report["methods"]["why"].startswith("Kept: contrastive. Linear has ")
    card = (contrastive.artifact.path / "README.md").read_text()
    assert "adapted so that texts of one label have similar embeddings" in card
    assert "(method contrastive)" in card


def test_an_interrupted_run_adapts_nothing_twice(contrastive: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANTA_STORAGE", str(contrastive.config.storage))
    folder, weights = contrastive.run.path, contrastive.artifact.path / "3_Dense" / "model.safetensors"
    kept, before = shutil.copytree(folder, folder.with_name("kept")), load_file(weights)["linear.weight"]
    for name in (MODEL_FILE, "train.npy"):  # killed between the adaptation and the embedding
        (folder / CONTRASTIVE_FOLDER / name).unlink()
    contrastive.run.report_path.unlink()
    shutil.rmtree(contrastive.artifact.path)
    monkeypatch.setattr("manta_jobs.training.choice.KEPT_ABOVE", 1000.0)
    monkeypatch.setattr("manta_jobs.training.few_rows.contrastive.Adaptation", None)  # another adaptation would fail
    again = resume(contrastive.run.name, console=people_console())
    assert again.outcome.method == "contrastive"
    np.testing.assert_allclose(load_file(weights)["linear.weight"], before, rtol=0, atol=1e-5)
    shutil.rmtree(folder)
    kept.rename(folder)


def test_its_folder_says_how_to_load_it_and_holds_no_code(linear: TrainedModel) -> None:
    card = (linear.artifact.path / "README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert "SentenceTransformer(DIR).encode" in card
    assert {file.suffix for file in linear.artifact.path.rglob("*") if file.is_file()} <= {
        *(".json", ".safetensors", ".md", ".txt", ".onnx", ".xml", ".bin")
    }
    assert json.loads((linear.artifact.path / "config.json").read_text())["architectures"] == ["BertModel"]
    assert ModelArtifact.load(linear.artifact.path).golden() is not None


def test_the_embeddings_of_its_training_choose_its_scope(linear: TrainedModel) -> None:
    """They are the features that the finished model computes."""
    scope = linear.artifact.manifest.scope
    assert scope is not None
    assert scope.num_rows == scope.num_references == 180
    dataset = load_dataset(linear.config.data)
    texts = [dataset.train.texts[row] for row in ScopeRows.of(dataset).references]
    _, features = logits_and_features(linear.artifact, texts, console=people_console())
    kept = References.load(linear.artifact.path).features
    assert kept.shape == features.shape == (180, 32)
    np.testing.assert_allclose((kept * References.of(features).features).sum(axis=1), 1, atol=1e-3)  # the cosines


def test_its_figures_are_of_rows_that_it_was_not_fitted_to(linear: TrainedModel) -> None:
    report = json.loads(linear.run.report_path.read_text())
    assert report["method"] == report["methods"]["rungs"][0]["method"] == "linear"
    assert report["methods"]["rungs"][0]["num_rows"] == report["num_rows"]["train"] == 180
    assert report["metrics"]["accuracy"] > 0.9
    assert (report["history"], report["fit"], report["distribution"]) == ([], None, {})
    model = linear.outcome.kept_linear
    assert model is not None
    plain = type(linear.artifact.manifest.label_space)(tuple(report["labels"]), "multiclass")
    train_rows = np.load(linear.run.path / LINEAR_FOLDER / "train.npy")
    seen = model.regression.logits(train_rows)
    targets = EncodedSplit(linear.run.path / "data" / "train.arrow").targets
    fitted, held_out = (classification_metrics(logits, targets, labels=plain) for logits in (seen, model.logits))
    assert held_out["loss"] > fitted["loss"]
    assert report["methods"]["rungs"][0]["metrics"]["loss"] == pytest.approx(held_out["loss"])


def test_its_own_rows_say_what_is_out_of_scope(linear: TrainedModel) -> None:
    scope = linear.artifact.manifest.scope
    assert scope is not None
    assert scope.num_rows == scope.num_references == linear.artifact.manifest.calibration.validation.num_rows  # type: ignore[union-attr]
    assert scope.test_loss is not None
    assert scope.test_loss < 0.2  # of some sixty rows
    assert "out of scope" in (linear.artifact.path / "README.md").read_text(encoding="utf-8")


def test_it_explains_its_answers(linear: TrainedModel) -> None:
    manifest = linear.artifact.manifest
    attributor = Attributor(linear.artifact.path, labels=manifest.label_space, max_length=manifest.max_length)
    explanation = attributor.explain("the parcel was late", label="delivery")
    assert explanation.complete
    assert [word.text for word in explanation.words] == ["the", "parcel", "was", "late"]


def test_what_it_shows_at_the_end_has_no_words_of_fine_tuning(linear: TrainedModel, capsys: pytest.CaptureFixture[str]) -> None:
    show_trained(linear, people_console(), experiment=None)
    said = " ".join(capsys.readouterr().err.split())
    assert "method linear: frozen encoder, regression with C" in said
    assert "epochs" not in said
    assert trained_result(linear)["method"] == "linear"


def test_it_says_what_decisions_did_and_how_many_labels_look_wrong(
    linear: TrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads(linear.run.report_path.read_text())
    assert (report["corrections"]["applied"], report["corrections"]["conflicting"]) == (1, 0)
    found = linear.suspects
    assert found is not None
    assert report["label_suspects"] == trained_result(linear)["label_suspects"]
    assert (report["label_suspects"]["num_rows"], report["label_suspects"]["split"]) == (180, "train")
    assert found.count < 20  # none is wrong
    show_trained(replace(linear, suspects=replace(found, count=12)), people_console(), experiment=Path("desk.yaml"))
    said = " ".join(capsys.readouterr().err.split())
    assert "12 of 180 training rows may be wrongly labeled; manta data check desk.yaml lists them." in said


def test_a_new_label_starts_from_a_few_rows_on_the_champions_encoder(tiny_model: Path, tmp_path: Path) -> None:
    """The recipe in docs/how-to.md. The gate compares both versions on the champion's test rows."""
    known, new = rows_of(["delivery", "billing"], 200), rows_of(["account"], 48, seed=3)
    storage = {"storage": str(tmp_path / "storage")}
    test = rows_of(["delivery", "billing"], 80, seed=4)
    before = experiment(
        write_csv(tmp_path / "before.csv", known),
        tiny_model,
        method="full",
        learning_rate=3e-3,
        num_epochs=3,
        data={"validation_fraction": 0.1, "test": str(write_csv(tmp_path / "test.csv", test))},
    )
    champion = train(before.with_values(storage), console=people_console())
    more = experiment(
        write_csv(tmp_path / "more.csv", [*known, *new[:8]]),
        champion.artifact.path,
        class_weights="balanced",
        data={"test": str(write_csv(tmp_path / "more-test.csv", [*test, *new[8:]]))},
    )
    model = train(more.with_values(storage), console=people_console())
    report = json.loads(model.run.report_path.read_text())
    assert report["per_class"]["account"]["rows"] == 40
    assert report["per_class"]["account"]["recall"] >= 0.9
    assert report["metrics"]["accuracy"] >= 0.9
    verdict = promote(ModelRegistry(Storage(tmp_path / "storage")), model.version, allow_equal=True, dry_run=True).verdict
    assert verdict is not None
    assert verdict.num_rows == 80
    assert {line.name for line in verdict.lines} >= {"accuracy", "McNemar"}


def test_the_gate_compares_two_of_them(linear: TrainedModel) -> None:
    assert linear.promotion.action == "first"
    registry = ModelRegistry(Storage.resolve(linear.config.storage))
    promotion = promote(registry, registry.register(linear.artifact, run_id=linear.version.run_id))
    assert promotion.action == "refused"
    assert promotion.verdict is not None
    assert [line.name for line in promotion.verdict.failing] == ["accuracy", "McNemar"]  # it is no better than itself


def test_an_interrupted_run_computes_nothing_twice(linear: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANTA_STORAGE", str(linear.config.storage))
    folder = linear.run.path
    embeddings, model = folder / LINEAR_FOLDER / "train.npy", folder / LINEAR_FOLDER / MODEL_FILE
    weights = (linear.artifact.path / "3_Dense" / "model.safetensors").read_bytes()
    kept = shutil.copytree(folder, folder.with_name("kept"))
    written = embeddings.stat().st_mtime_ns, model.stat().st_mtime_ns

    linear.run.report_path.unlink()
    shutil.rmtree(linear.artifact.path)
    resume(linear.run.name, console=people_console())  # killed after the regression
    assert (embeddings.stat().st_mtime_ns, model.stat().st_mtime_ns) == written

    linear.run.report_path.unlink()
    shutil.rmtree(linear.artifact.path)
    model.unlink()
    resume(linear.run.name, console=people_console())  # killed after the embedding
    assert embeddings.stat().st_mtime_ns == written[0]
    assert (linear.artifact.path / "3_Dense" / "model.safetensors").read_bytes() == weights
    shutil.rmtree(folder)
    kept.rename(folder)


def test_a_row_of_each_label_is_enough(
    tiny_model: Path, two_classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = rows_of(["delivery", "billing"], 2)
    rows = write_csv(tmp_path / "few.csv", pairs)
    for method in ("contrastive", "full"):
        with pytest.raises(InputError, match=rf"train\.method {method}: no label has a second training row"):
            train(experiment(rows, tiny_model, method=method, data={"test": str(two_classes)}), console=people_console())
    model = train(experiment(rows, tiny_model, method="auto", data={"test": str(two_classes)}), console=people_console())
    said = " ".join(capsys.readouterr().err.split())
    assert "Method linear: no label has a second training row" in said
    assert model.outcome.method == "linear"
    manifest, report = model.artifact.manifest, json.loads(model.run.report_path.read_text())
    assert manifest.calibration is None
    assert not any(name.startswith("validation_") for name in manifest.metrics)
    (rung,) = report["methods"]["rungs"]
    assert (rung["metrics"], rung["num_rows"], report["methods"]["strength"]) == ({}, 0, USUAL_STRENGTH)
    logits = Predictor(model.artifact, device="cpu", format="safetensors").logits(
        [text for text, _ in rows_of(["delivery", "billing"], 2)]
    )
    assert logits.argmax(axis=1).tolist() == [manifest.labels.index(label) for _, label in rows_of(["delivery", "billing"], 2)]


@pytest.mark.parametrize("method", ["linear", "contrastive"])
def test_a_search_of_other_methods_is_refused(method: str, three_classes: Path, tiny_model: Path, own_storage: Path) -> None:
    with pytest.raises(InputError, match=rf"train\.method is {method}, which has nothing to search"):
        tune(experiment(three_classes, tiny_model, method=method), console=people_console())
    assert not own_storage.exists()


@pytest.mark.parametrize("method", ["linear", "contrastive"])
@pytest.mark.parametrize(("task", "separator"), [("multilabel", ";"), ("binary", "|")])
def test_other_tasks(
    method: str,
    task: str,
    separator: str,
    several_labels: Path,
    two_classes: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("manta_jobs.training.few_rows.contrastive.NUM_STEPS", 1)  # one pass over the rows
    data = several_labels if task == "multilabel" else two_classes
    config = experiment(
        data, tiny_model, data={"label_separator": separator}, model={"task": task}, class_weights="balanced", method=method
    )
    model = train(config, console=people_console())
    manifest = model.artifact.manifest
    assert manifest.metrics["f1_macro"] > 0.6
    assert (manifest.thresholds is not None) == (task == "multilabel")
    logits = Predictor(model.artifact, device="cpu", format="safetensors").logits(TEXTS)
    assert logits.shape == (4, len(manifest.labels))
    if task == "binary":
        assert not logits[:, 0].any()  # the two-logit equivalent


@pytest.mark.timeout(400)
def test_a_cluster_gives_the_same_model(
    ray_cluster: None, linear: TrainedModel, three_classes: Path, sentence_encoder: Path
) -> None:
    model = train(experiment(three_classes, sentence_encoder, data={"test_fraction": 0.25}), console=people_console())
    mine, theirs = (load_file(run.artifact.path / "3_Dense" / "model.safetensors") for run in (model, linear))
    np.testing.assert_allclose(mine["linear.weight"], theirs["linear.weight"], rtol=0, atol=1e-3)
