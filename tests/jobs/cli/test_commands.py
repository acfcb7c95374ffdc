"""Bad input through the command line: exit code 2, one clear message, nothing written."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from manta.cli import main
from manta.config import DataConfig
from manta.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

GOOD_ROWS = "text,label\n" + "".join(f"text number {number},{'ab'[number % 2]}\n" for number in range(20))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["manta", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def experiment(folder: Path, *, rows: str = GOOD_ROWS, **sections: Any) -> str:
    (folder / "rows.csv").write_text(rows, encoding="utf-8")
    document = {"name": "bad", "data": {"train": "rows.csv"}} | sections
    path = folder / "bad.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("verb", ["train", "tune"])
@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"train": {"lerning_rate": 1e-4}}, ["train.lerning_rate", "did you mean learning_rate?"]),
        ({"train": {"num_epochs": "many"}}, ["train.num_epochs", "'many'", "integer"]),
        ({"train": {"zero_stage": 7}}, ["train.zero_stage", "0, 1, 2"]),
        ({"model": {"pretrained": "./no/such/model"}}, ["model.pretrained", "no/such/model", "check the path"]),
        ({"model": {"pretrained": "somebody/some-encoder"}}, ["somebody/some-encoder", "network"]),
        ({"model": {"max_length": 100_000}}, ["model.max_length 100000", "512"]),
        ({"model": {"task": "binary"}, "rows": GOOD_ROWS + "more,c\nand more,c\n"}, ["model.task is binary", "3 labels"]),
        ({"rows": "text,category\nhello,a\n"}, ["rows.csv", "'label'"]),
        ({"rows": GOOD_ROWS + '"",a\n'}, ["rows.csv, line 22", "the text is empty"]),
        ({"data": {"train": "rows.csv", "text": ["text", "more"]}}, ["rows.csv", "no column 'more' (data.text)"]),
        ({"data": {"train": "rows.csv", "text": ["text"]}}, ["data.text lists 1 columns", "exactly two for text pairs"]),
        ({"model": {"task": "multilabel"}, "rows": GOOD_ROWS + "more,a|\n"}, ["rows.csv, line 22", "one of the labels is missing"]),
        ({"model": {"task": "multilabel"}, "rows": "text,label\nx,a\ny,a\n"}, ["rows.csv", "the only label is 'a'"]),
        ({"rows": GOOD_ROWS + "hello,\n"}, ["rows.csv, line 22", "the label is missing"]),
        ({"rows": "text,label\nx,a\ny,a\n"}, ["rows.csv", "every row has the label 'a'"]),
        ({"rows": GOOD_ROWS + "lonely,c\n"}, ["rows.csv, line 22", "only row with the label 'c'"]),
        ({"rows": GOOD_ROWS + "text number 0,b\n"}, ["rows.csv, line 22", "line 2"]),
        ({"rows": "text,label\n"}, ["rows.csv", "no rows"]),
    ],
)
def test_a_faulty_experiment_is_refused(
    verb: str,
    sections: dict[str, Any],
    words: list[str],
    tmp_path: Path,
    own_storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, verb, experiment(tmp_path, **sections)) == 2
    output = capsys.readouterr()
    for word in words:
        assert word in output.err
    assert "Traceback" not in output.err
    assert output.out == ""
    assert not own_storage.exists()


@pytest.mark.parametrize(
    ("tune", "sentence"),
    [
        ({"space": {"train.dropout": {"uniform": [0, 0.3]}}}, "train.dropout is not a setting; did you mean model.dropout?"),
        ({"space": {"model.dropout": {"uniform": [0.3, 0]}}}, "tune.space.model.dropout: the range [0.3, 0] is empty or reversed"),
        ({"space": {"model.dropout": {"choice": []}}}, "tune.space.model.dropout: choice is empty; list at least one value"),
        ({"space": {"train.weight_decay": {"loguniform": [0, 0.1]}}}, "tune.space.train.weight_decay: a loguniform range starts"),
        ({"space": {"train.num_epochs": {"uniform": [2, 4]}}}, "train.num_epochs is a whole number, which uniform cannot draw"),
        ({"space": {"model.dropout": {"uniform": [0, 1]}}}, "model.dropout cannot be 1.0: input should be less than 1"),
        ({"space": {"data.train": {"choice": ["a.csv"]}}}, "data.train cannot be searched; remove it"),
        ({"search": "grid"}, "tune.search: grid tries every combination of choice lists"),
    ],
)
def test_a_search_that_cannot_work_is_refused_by_name(
    tune: dict[str, Any],
    sentence: str,
    tmp_path: Path,
    own_storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "tune", experiment(tmp_path, tune=tune)) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not own_storage.exists()


@pytest.mark.parametrize("verb", ["train", "tune"])
def test_a_tracking_server_that_is_not_there_is_refused(
    verb: str,
    tmp_path: Path,
    tiny_model: Path,
    own_storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run(monkeypatch, verb, experiment(tmp_path, model={"pretrained": str(tiny_model), "max_length": 32})) == 2
    assert "no MLflow server answers at MLFLOW_TRACKING_URI http://127.0.0.1:9" in capsys.readouterr().err
    assert not own_storage.exists()


@pytest.mark.parametrize("verb", ["ui", "demo"])
def test_a_port_in_use_is_named(
    verb: str, own_storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert run(monkeypatch, verb, "--port", port) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in error
    assert "--port" in error
    assert not own_storage.exists()


def test_evaluating_an_unknown_model_or_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "evaluate", "nobody", "rows.csv") == 2
    assert "there is no registry in" in capsys.readouterr().err
    assert run(monkeypatch, "evaluate", str(tmp_path), "rows.csv") == 2
    assert "not a model folder" in capsys.readouterr().err


def test_serving_without_a_model_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "serve") == 2
    assert "manta train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trained", "options", "read"),
    [
        ({}, [], {"text": "text", "label": "label", "label_separator": "|", "header": True}),
        (
            {"text": "message", "label": "topic", "label_separator": ";"},
            [],
            {"text": "message", "label": "topic", "label_separator": ";"},
        ),
        ({"text": "message", "label": "topic"}, ["--label", "given"], {"text": "message", "label": "given"}),
        ({"text": 0, "label": 1, "header": False}, [], {"text": 0, "label": 1, "header": False}),
        ({"text": 0, "label": 1, "header": False}, ["--header", "--text", "a", "--label", "2"], {"text": "a", "label": "2"}),
        ({}, ["--no-header", "--text", "2", "--label", "0"], {"text": 2, "label": 0, "header": False}),
        ({}, ["--text", "2"], {"text": "2"}),
    ],
)
def test_evaluate_reads_rows_as_the_training_did_unless_options_say_otherwise(
    trained: dict[str, Any], options: list[str], read: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = SimpleNamespace(num_texts=1, config={"data": trained}, name="desk", label_space=None)
    monkeypatch.setattr("manta_jobs.runs.evaluate.find_model", lambda _: (SimpleNamespace(manifest=manifest), None))
    found: dict[str, Any] = {}

    def remember(data: str, config: DataConfig, **_: Any) -> None:
        found.update(config.model_dump())
        raise InputError("that is all")

    monkeypatch.setattr("manta_jobs.runs.evaluate.load_labelled", remember)
    assert run(monkeypatch, "evaluate", "desk", "rows.csv", *options) == 2
    assert found | read == found


@pytest.mark.parametrize(
    ("num_texts", "options", "message"),
    [
        (1, ["--text", "a", "--text", "b"], "reads single texts, so give one text where there are two: give --text once."),
        (2, [], "reads pairs of texts, so give two texts where there is one: give --text twice, a column each."),
        (1, ["--text", "label"], "both name the column 'label'"),
        (1, ["--text", "a", "--text", "b", "--text", "c"], "data.text lists 3 columns"),
        (1, ["--no-header"], "must be positions such as 0 and 1; see the options of manta evaluate."),
    ],
)
def test_columns_that_do_not_fit_the_model_are_refused(
    num_texts: int, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = SimpleNamespace(manifest=SimpleNamespace(num_texts=num_texts, config={}))
    monkeypatch.setattr("manta_jobs.runs.evaluate.find_model", lambda _: (artifact, None))
    assert run(monkeypatch, "evaluate", "desk", "rows.csv", *options) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error
