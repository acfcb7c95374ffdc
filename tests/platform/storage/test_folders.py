import json
from pathlib import Path

import pytest

from manta.errors import InputError
from manta.storage.folders import RunFolder, Storage, write_atomically


def test_the_configured_folder_comes_before_the_environment(own_storage: Path, tmp_path: Path) -> None:
    assert Storage.resolve(str(tmp_path / "mine")).root == tmp_path / "mine"
    assert Storage.resolve(None).root == own_storage


def test_without_either_it_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MANTA_STORAGE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage.resolve(None).root == tmp_path / ".manta"
    assert Storage.resolve("~/mine").root == tmp_path / "mine"


def test_a_relative_folder_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage.resolve("mine").root == tmp_path / "mine"


def test_resolving_creates_nothing(own_storage: Path) -> None:
    Storage.resolve(None)
    assert not own_storage.exists()


def test_a_file_is_no_storage(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^storage: .*file is a file; give a folder\.$"):
        Storage.resolve(str(tmp_path / "file"))


def test_a_url_is_a_storage_without_a_registry_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path))
    storage = Storage.resolve("s3://bucket/manta/")
    assert storage.url == "s3://bucket/manta"
    assert storage.root.is_relative_to(tmp_path)
    assert Storage.resolve(str(storage.root)) == storage  # as a replica is told
    assert Storage(tmp_path).url is None
    with pytest.raises(InputError, match=r"s3://bucket/manta is an object store.* set MLFLOW_TRACKING_URI to an MLflow server\.$"):
        _ = storage.registry
    with pytest.raises(
        InputError, match=r"s3://bucket/manta is an object store, and keys are a file; set storage or MANTA_STORAGE"
    ):
        storage.on_disk(what="keys are a file")
    assert list(tmp_path.iterdir()) == []


def test_runs_have_their_own_folders_and_names(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    runs = [storage.new_run("support", verb="train") for _ in range(5)]
    assert len({run.name for run in runs}) == 5
    assert all(run.path.parent == storage.runs and run.name.startswith("support-train-") and run.data.is_dir() for run in runs)
    assert not runs[0].artifact.exists()


def test_a_run_is_its_owners_alone(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "storage")
    assert storage.new_run("support", verb="train").path.stat().st_mode & 0o777 == 0o700


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\); set storage or MANTA_STORAGE"):
        Storage(tmp_path / "file" / "storage").new_run("support", verb="train")


def test_a_report_is_json_with_its_own_characters(tmp_path: Path) -> None:
    path = RunFolder(tmp_path).write_report({"label": "Grüße", "accuracy": 0.5})
    assert path == tmp_path / "report.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {"label": "Grüße", "accuracy": 0.5}
    assert "Grüße" in path.read_text(encoding="utf-8")


def test_a_file_of_ones_own_beside_it_stays(tmp_path: Path) -> None:
    (tmp_path / "file.txt.partial").write_text("mine")
    write_atomically(tmp_path / "file.txt", "text")
    assert (tmp_path / "file.txt.partial").read_text() == "mine"


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_atomically(path, "first")
    write_atomically(path, "second")
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "second"
