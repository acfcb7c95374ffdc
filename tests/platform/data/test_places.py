"""Where rows come from: files, URLs, folders with their splits, samples and the hub. The formats are in `test_read.py`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import fsspec
import pytest

from manta.config import DataConfig
from manta.data.read import read_rows, read_splits
from manta.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("url", ["file://{folder}/rows.csv", "memory://manta-test-read/rows.csv"])
def test_urls_are_read_like_files(tmp_path: Path, url: str) -> None:
    location = url.format(folder=tmp_path)
    with fsspec.open(location, "w") as file:
        file.write("text,label\nlate,delivery\ntwice,billing\n")
    rows = read_rows(location, "train", DataConfig(train=location))
    assert (rows.texts, rows.labels, rows.source) == (["late", "twice"], ["delivery", "billing"], location)


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev"])
@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_a_folder_brings_its_splits(tmp_path: Path, validation: str, scheme: str) -> None:
    folder = f"{scheme}{tmp_path}/{validation}"
    filesystem, root = fsspec.core.url_to_fs(folder)
    filesystem.makedirs(root, exist_ok=True)
    for split, name in (("train", "train.csv"), ("validation", f"{validation}.jsonl"), ("test", "test.tsv"), ("", "notes.txt")):
        content = {".csv": f"text,label\n{split},x\n", ".tsv": f"text\tlabel\n{split}\tx\n"}.get(
            name[-4:], json.dumps({"text": split, "label": "x"})
        )
        filesystem.pipe_file(f"{root}/{name}", content.encode())
    splits = read_splits(DataConfig(train=folder))
    assert {name: rows.texts for name, rows in splits.items()} == {name: [name] for name in ("train", "validation", "test")}


def test_a_named_split_overrules_the_folders(tmp_path: Path) -> None:
    for name in ("train", "test", "other"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},x\n")
    splits = read_splits(DataConfig(train=str(tmp_path), test=str(tmp_path / "other.csv")))
    assert {name: rows.texts for name, rows in splits.items()} == {"train": ["train"], "test": ["other"]}


def test_a_folder_also_serves_for_one_split(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},x\n")
    (tmp_path / "single.csv").write_text("text,label\nsingle,x\n")
    splits = read_splits(DataConfig(train=str(tmp_path / "single.csv"), test=str(tmp_path)))
    assert {name: rows.texts for name, rows in splits.items()} == {"train": ["single"], "test": ["test"]}


@pytest.mark.parametrize("sample", ["support", "reviews"])
def test_samples_bring_all_three_splits(sample: str) -> None:
    splits = read_splits(DataConfig(train=f"sample:{sample}"))
    assert list(splits) == ["train", "validation", "test"]
    assert all(len(rows.texts) > 100 for rows in splits.values())


def folder_fault(path: Path, fault: str) -> DataConfig:
    (path / "test.csv").write_text("text,label\na,b\n")
    if fault == "two trains":
        (path / "train.csv").touch()
        (path / "train.tsv").touch()
    if fault == "no validation":
        (path / "train.csv").write_text("text,label\na,b\n")
        return DataConfig(train=str(path), validation=str(path))
    return DataConfig(train=str(path))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no train", "the folder has no train file; expected train.csv, train.tsv"),
        ("two trains", "several files for train (train.csv, train.tsv); name one in data.train"),
        ("no validation", "has no validation rows (it has train, test)"),
    ],
)
def test_folders_that_leave_a_split_open_are_refused(tmp_path: Path, fault: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_splits(folder_fault(tmp_path, fault))
    assert str(tmp_path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("sample:suport", "sample:suport: no such sample; did you mean support?"),
        ("sample:zzz", "known ones are support, reviews"),
        ("{folder}/none.csv", "{folder}/none.csv: no such file; check data.train"),
        ("memory://none/none.csv", "memory://none/none.csv: no such file"),
        ("{folder}/rows.xls", "rows.xls: unknown kind of file; data.train must end in .csv, .tsv, .jsonl, .parquet"),
        ("{folder}/none", "unknown kind of file"),
        ("nowhere://rows.csv", "nowhere://rows.csv: not a path or URL that can be read"),
        ("hf://owner/name", "hf://owner/name: the dataset could not be fetched from the hub"),
        ("hf://owner/name:part", "hf://owner/name:part: the dataset could not be fetched from the hub"),
    ],
)
def test_rows_that_cannot_be_found_are_named(tmp_path: Path, location: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_splits(DataConfig(train=location.format(folder=tmp_path)))
    assert message.format(folder=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_named_like_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(InputError, match=r"rows\.csv: the folder has no train file"):
        read_splits(DataConfig(train=str(tmp_path / "rows.csv")))


def test_hub_labels_come_by_name_one_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    kinds = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features(
        {"a": datasets.Value("string"), "b": datasets.Value("string"), "one": kinds, "more": datasets.Sequence(kinds)}
    )
    table = datasets.Dataset.from_dict(
        {"a": ["x", "y", "z"], "b": ["1", "2", "3"], "one": [1, 0, -1], "more": [[1, 0], [], [1]]}, features=features
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    config = DataConfig(train="hf://owner/name", text="a", label="one")
    assert read_rows("hf://owner/name#train", "train", config).labels == ["yes", "no", None]
    rows = read_rows("hf://owner/name#train", "train", DataConfig(train="hf://owner/name", text=("a", "b"), label="more"))
    assert rows.labels == [["yes", "no"], [], ["yes"]]
    assert rows.texts == [("x", "1"), ("y", "2"), ("z", "3")]
