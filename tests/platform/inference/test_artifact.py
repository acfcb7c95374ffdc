from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from manta.errors import InputError, RunError
from manta.inference.artifact import MANIFEST_FILE, WEIGHTS_FILE, ModelArtifact, file_sha256
from manta.inference.artifact_writing import with_calibration, with_metrics, write_artifact
from manta.registry.export import export_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = ("binary", "multiclass", "multilabel")
TEXTS = ["where is my parcel", "charged twice", "the driver was late and the courier is now locked out of my account please"]


def logits_of(model: Any, path: Path) -> np.ndarray:
    inputs = AutoTokenizer.from_pretrained(path)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.numpy()


@pytest.mark.parametrize("task", TASKS)
def test_plain_transformers_gives_the_trained_modules_logits(finished: dict[str, Any], task: str) -> None:
    made = finished[task]
    loaded = AutoModelForSequenceClassification.from_pretrained(made.artifact.path, dtype=torch.float32).eval()
    expected = logits_of(made.model, made.artifact.path)
    if task == "binary":
        assert expected.shape == (3, 1)
        expected = np.concatenate([np.zeros_like(expected), expected], axis=1)
    np.testing.assert_allclose(logits_of(loaded, made.artifact.path), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_the_plain_pipeline_names_labels_and_gives_our_probabilities(finished: dict[str, Any], task: str) -> None:
    made = finished[task]
    classify = pipeline("text-classification", model=str(made.artifact.path), top_k=None, device="cpu")
    expected = made.labels.probabilities(logits_of(made.model, made.artifact.path))
    assert np.ptp(expected, axis=0).min() > 0.01  # rows and labels differ, so mixed up ones would show
    for answer, row in zip(classify(TEXTS), expected, strict=True):
        scores = {item["label"]: item["score"] for item in answer}
        assert scores == pytest.approx(dict(zip(made.labels.names, row, strict=True)), abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_the_config_says_what_plain_transformers_needs(finished: dict[str, Any], task: str) -> None:
    made = finished[task]
    config = json.loads((made.artifact.path / "config.json").read_text())
    assert config["id2label"] == {str(index): name for index, name in enumerate(made.labels.names)}
    assert config["label2id"] == {name: index for index, name in enumerate(made.labels.names)}
    assert config["problem_type"] == f"{'multi' if task == 'multilabel' else 'single'}_label_classification"
    assert config["architectures"] == ["BertForSequenceClassification"]


@pytest.mark.parametrize("task", TASKS)
def test_the_manifest_comes_back_as_it_was_written(finished: dict[str, Any], task: str) -> None:
    made = finished[task]
    loaded = ModelArtifact.load(made.artifact.path)
    assert loaded == made.artifact
    assert loaded.manifest.label_space == made.labels
    assert loaded.manifest.max_length == 16
    assert loaded.manifest.versions["torch"] == torch.__version__


def holds_pickle(path: Path) -> bool:
    """True if a file is a pickle, or a zip as `torch.save` writes it, under any name."""
    if zipfile.is_zipfile(path):
        return True
    try:
        *_, (last, _, _) = pickletools.genops(path.read_bytes())
    except (ValueError, UnicodeDecodeError, IndexError):
        return False
    return last.name == "STOP"


def test_a_pickle_is_known_under_any_name(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.json", _use_new_zipfile_serialization=False)
    (tmp_path / "vocab.txt").write_bytes(pickle.dumps({"a": 1}))
    assert all(holds_pickle(path) for path in tmp_path.iterdir())


def test_every_file_is_recorded_and_none_is_a_pickle(finished: dict[str, Any]) -> None:
    artifact = finished["multiclass"].artifact
    names = {str(file.relative_to(artifact.path)) for file in artifact.path.rglob("*") if file.is_file()}
    assert names == set(artifact.manifest.files) | {MANIFEST_FILE}
    assert {WEIGHTS_FILE, "config.json", "tokenizer_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"))]
    assert not [name for name in names if holds_pickle(artifact.path / name)]
    assert artifact.manifest.files[WEIGHTS_FILE] == file_sha256(artifact.path / WEIGHTS_FILE)


def test_nothing_is_left_beside_the_folder(finished: dict[str, Any]) -> None:
    assert not list(finished["binary"].artifact.path.parent.glob("*.partial"))


@pytest.fixture
def copied(finished: dict[str, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished["multiclass"].artifact.path, tmp_path / "model"))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        ModelArtifact.load(path)
    return str(caught.value)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, "config.json", "tokenizer.json"])
def test_an_altered_byte_is_refused_by_name(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    assert refusal(copied).startswith(f"{copied / name}: altered")


def test_a_file_that_was_cut_short_is_refused_by_name(copied: Path) -> None:
    (copied / WEIGHTS_FILE).write_bytes((copied / WEIGHTS_FILE).read_bytes()[:-1])
    assert refusal(copied).startswith(f"{copied / WEIGHTS_FILE}: altered or cut short")


def test_a_missing_file_is_refused_by_name(copied: Path) -> None:
    (copied / "config.json").unlink()
    assert refusal(copied).startswith(f"{copied / 'config.json'}: missing from the model folder")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "other.safetensors", "model.onnx", "onnx/model.onnx", "README.md", "note.txt"]
)
def test_a_file_that_the_manifest_does_not_list_is_refused_by_name(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_bytes(b"anything")
    assert refusal(copied).startswith(f"{copied / name}: {MANIFEST_FILE} does not list it")


@pytest.mark.parametrize("name", ["../payload.txt", "a/../../payload.txt", "/etc/hostname", "./config.json", ""])
def test_a_manifest_that_lists_files_elsewhere_is_refused(copied: Path, name: str) -> None:
    (copied.parent / "payload.txt").write_text("x")
    manifest = json.loads((copied / MANIFEST_FILE).read_text())
    manifest["files"][name] = hashlib.sha256(b"x").hexdigest()
    (copied / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert f"{name!r} is not the name of a file in the model folder" in refusal(copied)


def test_a_format_that_names_a_file_elsewhere_is_refused(copied: Path) -> None:
    manifest = json.loads((copied / MANIFEST_FILE).read_text())
    manifest["formats"] = [{"name": "openvino-fp32", "file": "../model.xml", "accepted": True, "reason": ""}]
    (copied / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert "'../model.xml' is not the name of a file in the model folder" in refusal(copied)


@pytest.mark.parametrize("name", ["config.json", "extra/config.json"])
def test_a_link_out_of_the_folder_is_refused(copied: Path, name: str) -> None:
    outside = copied.parent / "outside"
    outside.mkdir()
    shutil.move(copied / "config.json", outside / "config.json")
    if name == "config.json":
        (copied / name).symlink_to(outside / "config.json")
    else:
        (copied / "extra").symlink_to(outside)
    manifest = json.loads((copied / MANIFEST_FILE).read_text())
    manifest["files"][name] = manifest["files"].pop("config.json")
    (copied / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert refusal(copied).startswith(f"{copied / name}: a link to {outside / 'config.json'}, outside of the model folder")


def test_a_model_that_needs_code_of_its_own_is_refused(copied: Path) -> None:
    content = json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}})
    (copied / "config.json").write_text(content)
    manifest = json.loads((copied / MANIFEST_FILE).read_text())
    manifest["files"]["config.json"] = file_sha256(copied / "config.json")
    (copied / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert refusal(copied).startswith(f"{copied} needs Python code of its own (auto_map), which Manta never runs")


@pytest.mark.parametrize("name", [".DS_Store", ".cache/huggingface/download.lock", "manta.json.partial"])
def test_hidden_and_half_written_files_do_not_matter(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(parents=True, exist_ok=True)
    (copied / name).write_bytes(b"anything")
    ModelArtifact.load(copied)


def test_weights_that_the_manifest_does_not_vouch_for_are_refused(copied: Path) -> None:
    manifest = json.loads((copied / MANIFEST_FILE).read_text())
    del manifest["files"][WEIGHTS_FILE]
    (copied / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert refusal(copied).startswith(f"{copied / WEIGHTS_FILE}: altered")


def test_a_folder_without_a_manifest_is_no_artifact(copied: Path) -> None:
    (copied / MANIFEST_FILE).unlink()
    assert refusal(copied).startswith(f"{copied}: no {MANIFEST_FILE}")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"{}", b'{"format": 1, "surprise": 2}'])
def test_a_damaged_manifest_is_refused_by_name(copied: Path, content: bytes) -> None:
    (copied / MANIFEST_FILE).write_bytes(content)
    assert refusal(copied).startswith(f"{copied / MANIFEST_FILE}: damaged")


def test_a_folder_that_is_not_there_and_a_file_are_no_artifacts(tmp_path: Path) -> None:
    assert str(tmp_path / "absent") in refusal(tmp_path / "absent")
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n")
    assert str(file) in refusal(file)


def test_a_failed_write_leaves_no_folder_and_does_not_stop_the_next(finished: dict[str, Any], tmp_path: Path) -> None:
    arguments = finished["binary"].arguments
    target = tmp_path / "model"
    with pytest.raises(KeyError):
        write_artifact(target, **(arguments | {"weights": {}}))
    assert not target.exists()
    with pytest.raises(ValueError, match="max_length"):  # fails at the very end, when all files are written
        write_artifact(target, **(arguments | {"facts": arguments["facts"] | {"max_length": "long"}}))
    assert not target.exists()
    assert write_artifact(target, **arguments).manifest.files == finished["binary"].artifact.manifest.files
    assert list(tmp_path.glob("model*")) == [target]


def test_an_artifact_is_never_overwritten(finished: dict[str, Any]) -> None:
    made = finished["binary"]
    with pytest.raises(FileExistsError):
        write_artifact(made.artifact.path, **made.arguments)
    ModelArtifact.load(made.artifact.path)


def test_metrics_can_be_added_and_the_folder_stays_whole(make_artifact: Callable[..., Any], tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "model").artifact
    changed = with_metrics(artifact, {"accuracy": 0.95, "f1_macro": 0.7})
    assert changed.manifest.metrics == {"accuracy": 0.95, "validation_accuracy": 0.8, "f1_macro": 0.7}
    assert ModelArtifact.load(artifact.path) == changed


def test_a_calibration_and_thresholds_can_be_added_and_decide(
    make_artifact: Callable[..., Any], calibration: Callable[..., Any], tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "model", "multilabel").artifact
    assert artifact.manifest.label_space.thresholds is None
    assert (artifact.manifest.label_space.temperature, artifact.manifest.uncertain_below) == (1.0, 0.0)
    record = calibration(temperature=2.0, target_precision=0.9, abstain_below=0.7)
    changed = with_calibration(artifact, record, thresholds=np.array([0.25, 0.5, 0.75]))
    assert ModelArtifact.load(artifact.path) == changed
    labels = changed.manifest.label_space
    assert labels.decide(np.array([[0.3, 0.4, 0.7]])).tolist() == [[True, False, False]]
    np.testing.assert_allclose(labels.probabilities(np.full((1, 3), 2.0)), 1 / (1 + np.exp(-1.0)))
    assert changed.manifest.uncertain_below == 0.7


def test_without_a_chosen_threshold_uncertain_is_less_likely_than_not(finished: dict[str, Any]) -> None:
    below = {task: made.artifact.manifest.uncertain_below for task, made in finished.items()}
    assert below == {"binary": 0.5, "multiclass": 0.5, "pairs": 0.5, "multilabel": 0.0}


@pytest.mark.parametrize(
    "facts",
    [
        {"thresholds": [0.5]},
        {"calibration": {"temperature": 0}},
        {"task": "multiclass", "thresholds": [0.5, 0.5, 0.5]},
        {"labels": ["a"]},
    ],
)
def test_a_manifest_whose_labels_do_not_fit_is_refused(
    make_artifact: Callable[..., Any], tmp_path: Path, facts: dict[str, Any]
) -> None:
    path = make_artifact(tmp_path / "model", "multilabel").artifact.path
    manifest = json.loads((path / MANIFEST_FILE).read_text()) | facts
    (path / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert refusal(path).startswith(f"{path / MANIFEST_FILE}: damaged")


def test_a_manifest_from_before_there_were_pairs_still_loads(copied: Path) -> None:
    manifest = json.loads((copied / MANIFEST_FILE).read_text())
    del manifest["num_texts"], manifest["thresholds"]
    (copied / MANIFEST_FILE).write_text(json.dumps(manifest))
    loaded = ModelArtifact.load(copied).manifest
    assert (loaded.num_texts, loaded.thresholds) == (1, None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, with room for a manifest and not for the weights."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs ({mounted.stderr.decode().strip()})")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_nothing_and_is_named(finished: dict[str, Any], small_disk: Path) -> None:
    made = finished["multiclass"]
    target = small_disk / "model"
    for write in (lambda: write_artifact(target, **made.arguments), lambda: export_model(made.artifact, target)):
        with pytest.raises(RunError) as caught:
            write()
        assert str(caught.value) == (
            f"{target} could not be written (No space left on device); make room or choose another folder, and try again."
        )
        assert not list(small_disk.iterdir())


def test_a_manifest_that_no_longer_fits_stays_as_it_was(copied: Path, small_disk: Path) -> None:
    for name in (MANIFEST_FILE, "config.json"):
        shutil.copyfile(copied / name, small_disk / name)
    before = (small_disk / MANIFEST_FILE).read_bytes()
    (small_disk / "filler").write_bytes(b"0" * (40 << 10))
    artifact = ModelArtifact(small_disk, ModelArtifact.load(copied).manifest)
    with pytest.raises(RunError, match="No space left on device"):
        with_metrics(artifact, {f"metric_{number}": 0.5 for number in range(1000)})
    assert (small_disk / MANIFEST_FILE).read_bytes() == before
    assert not list(small_disk.glob("*.partial"))
