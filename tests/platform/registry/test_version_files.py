"""Files of registered versions: artifacts, the formats that join them, and test rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from manta.data.dataset import Split, TextDataset
from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.inference.formats import FORMAT_FILES, WEIGHTS_FILE
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.registry.frozen_rows import SEEN_FILE, FrozenRows, text_hashes
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage

from .registered import formats_made, register, rows_of_test

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_fetched_artifact_is_the_registered_one(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=True)
    shutil.rmtree(artifact.path)  # the registry has its own copy
    fetched = registry.files.fetch(registry.get(version.name))
    assert fetched.manifest == artifact.manifest
    assert fetched.path != artifact.path


def test_formats_join_a_registered_version(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=True)
    registered = registry.files.fetch(version)
    weights = registered.path / WEIGHTS_FILE
    before = weights.stat()
    made = formats_made(artifact)
    fp32, *_ = FORMAT_FILES["openvino-fp32"]
    shutil.copyfile(made.path / fp32, registered.path / fp32)  # a copy that broke off before the manifest
    assert registry.files.fetch(version) == registered
    registry.add_formats(version, made)
    joined = registry.files.fetch(version)
    assert joined.manifest == made.manifest
    assert [item.accepted for item in joined.manifest.formats] == [True, True]
    assert {file.name for file in joined.path.iterdir()} == {file.name for file in made.path.iterdir()}
    after = weights.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # services have it mapped
    assert registry.standing(version.name).reload is not None
    assert Predictor(joined, device="cpu", format="openvino-int8").predict(["my parcel"])


def test_an_altered_artifact_is_not_fetched(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=True)
    weights = registry.files.fetch(version).path / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{WEIGHTS_FILE}: altered or cut short"):
        registry.files.fetch(version)


def test_an_artifact_whose_folder_is_gone_is_refused(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    version = register(registry, storage, artifact, promote=True)
    folder = registry.files.fetch(version).path
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=rf"version 1: its folder {folder} is gone"):
        registry.files.fetch(version)


LABELS = LabelSpace(("account", "billing"), "binary")


PAIRS = Split([("a", "b"), ("c\n", "ü \u2028 d")], LABELS.encode(["account", "billing"]))


SINGLE = Split(["my card", "my parcel"], np.array([[0, 0], [1, 1]], dtype=np.int8))


@pytest.mark.parametrize(
    ("split", "labels", "expected"),
    [(PAIRS, LABELS, ["account", "billing"]), (SINGLE, LabelSpace(("a", "b"), "multilabel"), [(), ("a", "b")])],
)
def test_test_rows_are_kept_whole(split: Split, labels: LabelSpace, expected: list[Any], tmp_path: Path) -> None:
    seen = Split(["My  Card"], labels.encode([labels.names[0]]))
    rows = FrozenRows.of(TextDataset(seen, seen, split, labels), suite="tests: []")
    rows.write(tmp_path)
    again = FrozenRows.read(tmp_path)
    assert (again.texts, again.labels, again.suite) == (split.texts, expected, "tests: []")
    assert again.seen.tolist() == text_hashes(["my card"]).tolist()
    assert again.unseen_by(again.seen).texts == [text for text in split.texts if text != "my card"]
    (tmp_path / SEEN_FILE).write_bytes(b"nothing")
    with pytest.raises(InputError, match="the frozen test rows are missing or damaged"):
        FrozenRows.read(tmp_path)


def test_test_rows_are_found_with_their_version(registry: ModelRegistry, storage: Storage, artifact: ModelArtifact) -> None:
    assert registry.files.frozen_rows(register(registry, storage, artifact, promote=False)) is None
    version = register(registry, storage, artifact, promote=False, frozen=rows_of_test())
    rows = registry.files.frozen_rows(version)
    assert rows is not None
    assert (rows.texts, rows.labels) == (rows_of_test().texts, rows_of_test().labels)
    assert not (registry.files.fetch(version).path / "test.jsonl").exists()  # beside the model, not in it
