"""The form of the tab Jobs, the YAML that it writes, and what is refused before a job is sent."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING

import pytest
import yaml

from manta.config import ExperimentConfig, field_names
from manta.errors import InputError
from manta_ui.jobs.experiment_form import GROUPS, form_field, readable, value_of, with_value
from manta_ui.jobs.orders import checked, run_job
from manta_ui.tabs.jobs import check_note

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "# mine\nname: support\ndata: {train: 'sample:support'}\ntrain: {num_workers: [1, 2], learning_rate: 3e-4}\n"


def test_each_field_of_the_form_is_a_setting_with_its_own_explanation() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert set(names) <= set(field_names(ExperimentConfig))
    assert len(set(names)) == len(names)
    assert all(form_field(name).explanation.endswith(".") for name in names)
    zero = form_field("train.zero_stage")
    assert (zero.kind, zero.choices, zero.default) == ("choice", ("0", "1", "2", "3", "auto"), "auto")
    assert form_field("registry.promote").kind == "switch"
    assert form_field("train.learning_rate").default == "auto"


def test_fields_show_what_the_yaml_says() -> None:
    shown = {
        name: value_of(readable(TEXT), form_field(name))
        for name in ("name", "train.num_workers", "train.num_epochs", "registry.promote")
    }
    assert shown == {"name": "support", "train.num_workers": "[1, 2]", "train.num_epochs": "", "registry.promote": True}
    assert value_of(readable("a: ["), form_field("name")) == ""


def test_what_is_filled_in_is_written_and_what_is_emptied_goes() -> None:
    text = with_value(TEXT, form_field("model.dropout"), "0.2")
    text = with_value(text, form_field("train.zero_stage"), "3")
    text = with_value(text, form_field("registry.promote"), False)
    text = with_value(text, form_field("train.learning_rate"), "")
    assert yaml.safe_load(text) == {
        "name": "support",
        "data": {"train": "sample:support"},
        "train": {"num_workers": [1, 2], "zero_stage": 3},
        "model": {"dropout": 0.2},
        "registry": {"promote": False},
    }
    assert "zero_stage" not in yaml.safe_load(with_value(text, form_field("train.zero_stage"), "auto"))["train"]
    text = with_value(text, form_field("registry.promote"), True)
    assert "registry" not in yaml.safe_load(text)
    assert ExperimentConfig.model_validate(yaml.safe_load(text)).model.dropout == 0.2


def test_a_form_begins_with_nothing() -> None:
    text = with_value("", form_field("name"), "42")
    assert yaml.safe_load(text) == {"name": "42"}
    assert with_value(text, form_field("name"), " ") == ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "experiment: not valid YAML"),
        (
            "name: x\ndata: {train: 'sample:support'}\ntrain: {lerning_rate: 1}",
            "experiment:3: unknown setting train.lerning_rate; did you mean",
        ),
        ("name: x\ndata: {train: rows.csv}", "data.train: rows.csv is not among the uploaded files; upload it"),
        ("name: x\ndata: {train: 'sample:support'}\nmodel: {pretrained: ./mine}", "model.pretrained: ./mine is relative"),
        ("name: x\ndata: {train: 'sample:support'}\nstorage: runs", "storage: runs is relative"),
        ("data: {train: /x.csv}", "name is required"),
    ],
)
def test_what_is_wrong_is_a_sentence_before_anything_is_sent(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence.replace("[", r"\[").replace("?", r"\?")):
        checked(text, {})
    note = check_note(text, {})
    assert "manta-error" in note
    assert "experiment:" not in note
    assert "<lerning" not in check_note(text.replace("lerning_rate", "<lerning>"), {})


def test_a_job_carries_the_yaml_and_the_uploads_that_it_names_and_reads_nothing_else(tmp_path: Path) -> None:
    uploads = {}
    for name in ("rows.csv", "other.csv"):
        uploads[name] = tmp_path / name
        uploads[name].write_text("text,label\nhello,a\n")
    text = "name: far\ndata: {train: rows.csv, test: /etc/passwd}\n"
    job = run_job("tune", text, uploads, user=None)
    work, code = job.packages
    with zipfile.ZipFile(io.BytesIO(work.content)) as archive:
        assert sorted(archive.namelist()) == ["inputs/far.yaml", "inputs/rows.csv", "job_start.py", "order.json"]
        assert archive.read("inputs/far.yaml").decode() == text
        order = json.loads(archive.read("order.json"))
    assert order["verb"] == "tune"
    assert order["params"] == {"experiment": {"path": "{inputs}/far.yaml"}, "address": None, "json": True}
    assert job.id.startswith("far-tune-")
    assert job.request["runtime_env"] == {"working_dir": work.uri, "py_modules": [code.uri]}


def test_too_much_to_travel_is_refused_with_the_way_out(tmp_path: Path) -> None:
    large = tmp_path / "rows.csv"
    with large.open("wb") as file:
        file.truncate(200 * 1024**2)
    with pytest.raises(InputError, match=r"The files have 210 MB, .* at most 105 MB; put them on storage"):
        run_job("train", "name: far\ndata: {train: rows.csv}\n", {"rows.csv": large}, user=None)
