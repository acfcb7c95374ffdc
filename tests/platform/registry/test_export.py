from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from transformers import pipeline

from manta.errors import InputError, RunError
from manta.inference.artifact import CARD_FILE, MANIFEST_FILE, ModelArtifact
from manta.inference.artifact_writing import with_card
from manta.inference.predictor import Predictor
from manta.registry.export import export_model
from manta.registry.model_card import base_metadata, base_model, model_card, source_name

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["where is my parcel", "charged twice"]


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_plain_transformers_loads_the_folder_with_label_names(finished: dict[str, Any], task: str, tmp_path: Path) -> None:
    artifact = finished[task].artifact
    folder = export_model(artifact, tmp_path / "new" / "hub")
    assert folder == tmp_path / "new" / "hub"
    classify = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")
    for answer, ours in zip(classify(TEXTS), Predictor(artifact, device="cpu").predict(TEXTS), strict=True):
        assert {item["label"]: item["score"] for item in answer} == pytest.approx(ours.scores, abs=1e-6)


def test_the_folder_is_an_artifact_with_a_card(finished: dict[str, Any], tmp_path: Path) -> None:
    source = finished["multiclass"].artifact
    copy = ModelArtifact.load(export_model(source, tmp_path / "hub"))
    assert CARD_FILE not in source.manifest.files
    assert copy.manifest.files.keys() - source.manifest.files.keys() == {CARD_FILE}
    assert (copy.path / CARD_FILE).read_text() == model_card(source)
    again = ModelArtifact.load(export_model(copy, tmp_path / "again"))
    assert again.manifest == copy.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "hub"]


def test_a_folder_with_something_in_it_and_a_file_are_refused(finished: dict[str, Any], tmp_path: Path) -> None:
    artifact = finished["binary"].artifact
    (tmp_path / "full").mkdir()
    note = tmp_path / "full" / "note"
    note.write_text("mine")
    for target in (tmp_path / "full", note):
        with pytest.raises(InputError, match="there already, and not an empty folder; give a new folder"):
            export_model(artifact, target)
    assert note.read_text() == "mine"
    with pytest.raises(RunError, match="could not be written"):
        export_model(artifact, note / "hub")
    (tmp_path / "empty").mkdir()
    assert ModelArtifact.load(export_model(artifact, tmp_path / "empty"))


def test_what_lies_beside_the_folder_stays(finished: dict[str, Any], tmp_path: Path) -> None:
    mine = tmp_path / "hub.partial" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    export_model(finished["multiclass"].artifact, tmp_path / "hub")
    assert mine.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "hub.partial"]


def test_a_damaged_model_is_not_exported(finished: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished["binary"].artifact.path, tmp_path / "model"))
    artifact = ModelArtifact.load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json: altered"):
        export_model(artifact, tmp_path / "hub")
    assert list(tmp_path.iterdir()) == [folder]


# The card


def front_matter(text: str) -> dict[str, Any]:
    _, facts, _ = text.split("---\n", 2)
    loaded: dict[str, Any] = yaml.safe_load(facts)
    return loaded


def test_the_card_has_what_hubs_read_and_what_people_ask(make_artifact: Callable[..., Any], tmp_path: Path) -> None:
    made = make_artifact(tmp_path / "model", "multilabel", metrics={"accuracy": 0.9, "f1_macro": 0.7, "validation_accuracy": 0.8})
    text = model_card(made.artifact, num_rows={"train": 1200, "test": 30})
    facts = front_matter(text)
    assert (facts["library_name"], facts["pipeline_tag"]) == ("transformers", "text-classification")
    (result,) = facts["model-index"][0]["results"]
    assert {item["type"]: item["value"] for item in result["metrics"]} == {"accuracy": 0.9, "f1_macro": 0.7}
    for part in (
        "| train rows | 1,200 |",
        "0" * 64,
        "`account`, `billing`, `delivery`",
        "| accuracy | 0.8000 |",
        "first 16 tokens",
    ):
        assert part in text
    assert "The license of the base model tiny is not known; see" in text
    assert "## Calibration" not in text


def test_a_card_is_part_of_the_artifact_and_can_be_written_anew(make_artifact: Callable[..., Any], tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "model").artifact
    for text in ("one", "two"):
        artifact = with_card(artifact, text)
        assert ModelArtifact.load(artifact.path) == artifact
        assert (artifact.path / CARD_FILE).read_text() == text
    (artifact.path / CARD_FILE).write_text("three")
    with pytest.raises(InputError, match=r"README\.md: altered"):
        ModelArtifact.load(artifact.path)


def test_folders_and_passwords_are_kept_off_the_card(make_artifact: Callable[..., Any], tmp_path: Path) -> None:
    assert source_name("sample:support") == "sample:support"
    assert source_name("hf://owner/rows:config") == "hf://owner/rows:config"
    assert source_name("/home/somebody/rows.csv") == "rows.csv"
    assert source_name("https://me:secret@host/rows.csv?key=secret") == "https://host/rows.csv"
    artifact = make_artifact(tmp_path / "model").artifact
    manifest = json.loads((artifact.path / MANIFEST_FILE).read_text())
    home = "/home/somebody"
    manifest["pretrained"] = f"{home}/encoder"
    manifest["config"] = {"data": {"train": f"{home}/rows.csv"}, "model": {"pretrained": f"{home}/encoder"}, "storage": home}
    changed = ModelArtifact(artifact.path, type(artifact.manifest).model_validate(manifest))
    text = model_card(changed)
    assert home not in text
    assert "It is encoder, fine-tuned" in text


def test_licence_and_language_come_from_the_encoders_own_card(tmp_path: Path) -> None:
    assert base_metadata("embedded") == ("apache-2.0", "en")
    assert base_model("embedded") == "sentence-transformers/all-MiniLM-L6-v2"
    (tmp_path / "config.json").write_text("{}")
    assert base_metadata(str(tmp_path)) == (None, None)
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage: [de, fr]\n---\n# Encoder\n")
    assert base_metadata(str(tmp_path)) == ("mit", "de, fr")
    assert base_model(str(tmp_path)) == tmp_path.name
    (tmp_path / "README.md").write_text("---\n{: no yaml\n---\n")
    assert base_metadata(str(tmp_path)) == (None, None)
    assert base_metadata("nobody/has-this-model") == (None, None)
