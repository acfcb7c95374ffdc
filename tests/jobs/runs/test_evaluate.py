"""`manta evaluate`: its figures against known ones, what its report shows, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from manta.behaviour.run import BehaviourResult, Failure, SuiteResult
from manta.cli import main
from manta.data import Split
from manta.errors import InputError, RunError
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import write_artifact
from manta.intervals import wilson_interval
from manta.labels import LabelSpace
from manta_jobs.reporting.evaluation.assessment import Assessment, Subject, assess
from manta_jobs.reporting.evaluation.measure import Latency, Measurement
from manta_jobs.reporting.evaluation.report import check_target, write_report
from manta_jobs.reporting.evaluation.sections import worst_sentence
from manta_jobs.reporting.evaluation.slices import Slice, checked_patterns, slices_of, worst_slice

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LATENCY = Latency(10.0, 12.0, 20.0, 50, 100.0, "a processor", 2)
SUBJECT = Subject("desk", 3, "/models/desk", "rows.csv", "2026-01-01T00:00:00+00:00")
FAILURE = Failure("a <b>", ("x",), "A <B>", ("y",), "x", 0.9, 0.2, "the same answer")
BEHAVIOUR = SuiteResult(
    "behaviour.yaml",
    (
        BehaviourResult("capitals", "invariance", 4, (1, 0), 0.1, (FAILURE,)),
        BehaviourResult("fine", "direction", 4, (0, 0), 0.0, ()),
    ),
)
ROWS = "text,label,country\nmy parcel is late,delivery,FR\nthe invoice card,billing,DE\nwhere is my parcel,delivery,FR\n"


def assessment_of(
    probabilities: list[list[float]], targets: Any, *, labels: LabelSpace, texts: list[Any] | None = None, **facts: Any
) -> Assessment:
    """An assessment of given probabilities."""
    wanted = np.asarray(probabilities)
    logits = np.log(wanted / (1 - wanted)) if labels.task == "multilabel" else np.log(wanted)
    texts = [f"text {row}" for row in range(len(wanted))] if texts is None else texts
    split = Split(texts, np.asarray(targets), facts.get("columns", {}), [f"line {row + 2}" for row in range(len(wanted))])
    measured = Measurement(logits, LATENCY, facts.get("behaviour"))
    return assess(SUBJECT, split, measured, labels=labels, patterns=facts.get("patterns", {}))


def drawn(num_labels: int, *, num_rows: int = 200, **facts: Any) -> Assessment:
    """An assessment of random rows of which most are right."""
    generator = np.random.default_rng(num_labels)
    targets = generator.integers(0, num_labels, num_rows)
    logits = generator.normal(size=(num_rows, num_labels))
    logits[np.arange(num_rows), targets] += 2.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = LabelSpace(
        tuple(f"label_number_{index}" for index in range(num_labels)), "binary" if num_labels == 2 else "multiclass"
    )
    texts = [f"<b>text</b> & {row} " + "word " * int(row % 30) for row in range(num_rows)]
    columns = {"country": [("FR", "DE", None)[row % 3] for row in range(num_rows)]}
    return assessment_of(probabilities.tolist(), targets, labels=labels, texts=texts, columns=columns, **facts)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Assessment, Path]]:
    """The written report of a model with so many labels; each is made once."""

    @cache
    def written(num_labels: int) -> tuple[Assessment, Path]:
        assessment = drawn(num_labels, behaviour=BEHAVIOUR)
        return assessment, write_report(assessment, tmp_path_factory.mktemp("page") / "report")

    return written


@pytest.mark.parametrize(("num_right", "num_rows"), [(8, 10), (0, 5), (50, 50), (391, 417)])
def test_the_interval_is_wilson_s(num_right: int, num_rows: int) -> None:
    from scipy.stats import binomtest

    theirs = binomtest(num_right, num_rows).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(num_right, num_rows) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert {wilson_interval(0, rows)[0] for rows in range(1, 300)} == {0.0}
    assert {wilson_interval(rows, rows)[1] for rows in range(1, 300)} == {1.0}


def test_slices_by_length_column_and_pattern() -> None:
    texts = ["a", "bb", ("cc", "c"), "dddd?", "eeeee", "fffffff"]
    right = np.array([True, True, False, False, True, True])
    columns = {"country": ["FR", None, "FR", "", "DE", "FR"]}
    found = slices_of(texts, right, columns=columns, patterns={"question": re.compile(r"\?"), "never": re.compile("zzz")})
    figures = {part.title: (part.num_rows, round(part.accuracy, 2)) for part in found}
    assert {name: rows for name, (rows, _) in figures.items() if name.startswith("length")} == {
        "length 1–2 characters": 2,
        "length 3 characters": 1,
        "length 5 characters": 2,
        "length 7 characters": 1,
    }
    assert figures["country = FR"] == (3, 0.67)
    assert figures["country = (none)"] == (2, 0.5)
    assert figures["pattern question"] == (1, 0.0)
    assert figures["pattern never"] == (0, 0.0)


def test_numbers_are_sliced_by_size_and_rare_words_together() -> None:
    right = np.ones(40, dtype=bool)
    by_size = slices_of(["x"] * 40, right, columns={"age": [*range(39), None]}, patterns={})
    assert [part.num_rows for part in by_size if part.group == "age"] == [10, 10, 9, 10, 1]
    by_word = slices_of(["x"] * 40, right, columns={"shop": ["big"] * 11 + [f"shop {row}" for row in range(29)]}, patterns={})
    shops = [part for part in by_word if part.group == "shop"]
    assert (len(shops), shops[0].name, shops[-1].name, shops[-1].num_rows) == (20, "big", "(11 rarer values)", 11)


def test_the_worst_slice_is_significantly_bad_rather_than_small() -> None:
    small, large, everything = (
        Slice("a", name, rows, share, *wilson_interval(round(rows * share), rows))
        for name, rows, share in (("small", 3, 0.0), ("large", 400, 0.4), ("all", 500, 0.1))
    )
    assert worst_slice([small, large, everything], num_rows=500) == large
    assert worst_slice([everything], num_rows=500) is None


def test_the_sentence_says_whether_the_worst_slice_may_be_chance() -> None:
    labels = LabelSpace(("no", "yes"), "binary")
    sure = assessment_of([[0.2, 0.8]] * 60, [1] * 40 + [0] * 20, labels=labels, columns={"day": ["Mon"] * 40 + ["Tue"] * 20})
    assert "Worst slice: day = Tue, 0.0% of 20 rows right" in worst_sentence(sure)
    assert "significantly below the 66.7% of all rows" in worst_sentence(sure)
    unsure = assessment_of([[0.2, 0.8]] * 4, [1, 1, 1, 0], labels=labels, columns={"day": ["Mon", "Mon", "Mon", "Tue"]})
    assert "which may be chance beside the 75.0% of all rows" in worst_sentence(unsure)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("urgent", "--slice-pattern urgent: write it as NAME=REGEX"),
        ("=x", "write it as NAME=REGEX"),
        ("urgent=a(b", "--slice-pattern urgent: 'a(b' is no regular expression: missing ), unterminated subpattern at position 2"),
        ("q=[", "--slice-pattern q: '[' is no regular expression: unterminated character set at position 1"),
    ],
)
def test_a_bad_pattern_is_named_with_its_place(pair: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        checked_patterns([pair])
    with pytest.raises(InputError, match="two patterns called 'a'"):
        checked_patterns(["a=x", "a=y"])


def test_binary_figures_are_those_of_the_second_label() -> None:
    labels = LabelSpace(("no", "yes"), "binary")
    found = assessment_of([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]], [0, 0, 1, 1], labels=labels)
    # Of four pairs of a yes and a no, three are in order; precision at each yes found is 1/1 and 2/3.
    assert found.metrics["roc_auc"] == pytest.approx(0.75)
    assert found.metrics["pr_auc"] == pytest.approx((1 + 2 / 3) / 2)
    assert found.metrics["brier"] == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
    assert found.confusion.tolist() == [[2, 0], [1, 1]]
    assert found.confusions == [("yes", "no", 1)]
    assert [(item.place, item.labels, item.answer, round(item.score, 2)) for item in found.mistakes] == [
        ("line 4", ("yes",), ("no",), 0.65)
    ]


def test_areas_of_several_classes_are_means_over_those_that_have_any() -> None:
    labels = LabelSpace(("a", "b", "c"), "multiclass")
    found = assessment_of([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]], [0, 1, 0], labels=labels)
    assert found.per_class["a"]["roc_auc"] == 1.0
    assert "roc_auc" not in found.per_class["c"]
    assert found.metrics["roc_auc_macro"] == pytest.approx((1.0 + 1.0) / 2)
    one_class = assessment_of([[0.8, 0.2]] * 2, [0, 0], labels=LabelSpace(("a", "b"), "binary"))
    assert "roc_auc" not in one_class.metrics


def test_the_surest_mistakes_come_first_and_of_several_labels_the_surest_wrong_one() -> None:
    labels = LabelSpace(("a", "b"), "multilabel")
    found = assessment_of([[0.9, 0.1], [0.7, 0.6], [0.1, 0.05]], [[1, 0], [0, 0], [0, 1]], labels=labels)
    assert [(item.place, item.label, round(item.score, 2), item.labels, item.answer) for item in found.mistakes] == [
        ("line 4", "b", 0.95, ("b",), ()),
        ("line 3", "a", 0.7, (), ("a", "b")),
    ]
    assert found.num_mistakes == 2
    assert found.confusion.tolist() == [[1, 0, 1, 1], [0, 1, 1, 1]]
    assert found.metrics["roc_auc_macro"] == pytest.approx((1.0 + 0.0) / 2)


@pytest.mark.parametrize(
    ("num_labels", "plots"),
    [
        (2, {"confusion", "per_class_f1", "slices", "reliability", "confidence", "roc", "precision_recall"}),
        (40, {"confusion", "per_class_f1", "slices", "reliability", "confidence"}),
    ],
)
@pytest.mark.slow
def test_the_report_is_whole(num_labels: int, plots: set[str], reports: Callable[[int], tuple[Assessment, Path]]) -> None:
    from matplotlib.image import imread

    assessment, page = reports(num_labels)
    assert [path.name for path in page.parent.parent.iterdir()] == ["report"]
    assert {path.stem for path in page.parent.glob("*.png")} == plots
    for path in page.parent.glob("*.png"):
        assert float(imread(path)[..., :3].std()) > 0.01, path
    figures = json.loads((page.parent / "report.json").read_text(encoding="utf-8"))
    assert figures["metrics"] == assessment.metrics
    assert (figures["model"], figures["version"], figures["num_rows"]) == ("desk", 3, 200)
    assert figures["behaviour"]["num_passed"] == 1
    assert np.sum(figures["confusion"]) == 200
    source = page.read_text(encoding="utf-8")
    assert "1 of 2 behaviour tests passed, 1 failed: capitals." in source
    assert "&lt;b&gt;text&lt;/b&gt; &amp; " in source
    assert "<b>" not in source
    assert "<script" not in source


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any, folder: Path) -> None:
        (folder / "half.png").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("manta_jobs.reporting.evaluation.report.picture_of", full)
    with pytest.raises(RunError, match="could not be written \\(No space left on device\\)"):
        write_report(drawn(2, num_rows=20), tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path: Path) -> None:
    check_target(tmp_path / "new" / "deep")
    check_target(tmp_path)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="the folder is not empty; give a new or empty one"):
        check_target(tmp_path)
    with pytest.raises(InputError, match=r"cannot be written, because of .*mine\.txt"):
        check_target(tmp_path / "mine.txt" / "below")


@pytest.mark.page
@pytest.mark.parametrize(("num_labels", "width"), [(2, 1280), (40, 400)])
def test_a_browser_shows_every_plot_and_asks_for_nothing(
    num_labels: int, width: int, reports: Callable[[int], tuple[Assessment, Path]]
) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    _, report = reports(num_labels)
    requested: list[str] = []
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900}, java_script_enabled=True)
        page.on("request", lambda request: requested.append(request.url))
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(report.as_uri())
        sizes = page.evaluate("[...document.images].map((image) => [image.alt, image.naturalWidth, image.naturalHeight])")
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        links = page.evaluate("[...document.querySelectorAll('nav a')].every((link) => document.querySelector(link.hash))")
        browser.close()
    assert len(sizes) == len(list(report.parent.glob("*.png"))) == (7 if num_labels == 2 else 5)
    assert all(alt and wide > 0 and high > 0 for alt, wide, high in sizes)
    assert overflow <= 0
    assert links
    assert faults == []
    assert [url for url in requested if not url.startswith(("data:", report.as_uri()))] == []


@pytest.fixture(scope="module")
def desk(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    """A finished model of random weights whose config names a behaviour suite beside it."""
    import torch

    from manta.config import ModelConfig
    from manta.model.encoder import build_model, load_tokenizer

    folder = tmp_path_factory.mktemp("desk")
    test = {"name": "plain", "kind": "minimum_functionality", "label": "billing", "texts": ["the {card|money} is late"]}
    (folder / "behaviour.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    labels = LabelSpace(("account", "billing", "delivery"), "multiclass")
    config = ModelConfig(pretrained=str(tiny_model), max_length=16)
    torch.manual_seed(0)
    model = build_model(config, labels)
    facts = {"name": "desk", "num_texts": 1, "max_length": 16, "metrics": {}, "examples": ["hello"], "data_hash": "0" * 64}
    facts |= {
        "config": {"data": {"behaviour": str(folder / "behaviour.yaml"), "labels": {"parcel": "delivery", "hi": None}}},
        "run": "desk-1",
        "pretrained": "tiny",
    }
    weights = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    return write_artifact(
        folder / "model", weights=weights, model_config=model.config, tokenizer=load_tokenizer(config), labels=labels, facts=facts
    )


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["manta", "evaluate", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, ["--slice", "contry"], "rows.csv: no column 'contry' (--slice); did you mean country?"),
        (ROWS, ["--slice-pattern", "late=("], "--slice-pattern late: '(' is no regular expression"),
        (ROWS + "hello,returns,FR\n", [], "rows.csv, line 5: the label 'returns' never occurs in the training rows"),
        ("text,label,country\n", [], "rows.csv: no rows"),
        (ROWS, ["--behaviour", "none.yaml"], "none.yaml: no such behaviour suite"),
        (ROWS, ["--text", "text", "--text", "country"], "reads single texts"),
        (ROWS, ["--out", "{folder}"], "the folder is not empty; give a new or empty one"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    rows: str,
    options: list[str],
    message: str,
    desk: ModelArtifact,
    tmp_path: Path,
    own_storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "rows.csv"
    data.write_text(rows, encoding="utf-8")
    options = [option.replace("{folder}", str(tmp_path)) for option in options]
    assert run(monkeypatch, str(desk.path), str(data), *options) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == [data]
    assert not own_storage.exists()


def test_a_jsonl_row_may_lack_a_slice_column_but_not_all_of_them(
    desk: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from manta.config import DataConfig
    from manta.data import load_labelled

    path = tmp_path / "rows.jsonl"
    lines = [{"text": "a b", "label": "billing", "country": "FR"}, {"text": "c", "label": "delivery"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = DataConfig(train=str(path))
    split = load_labelled(str(path), config, labels=desk.manifest.label_space, columns=["country"])
    assert split.columns == {"country": ["FR", None]}
    assert split.places == ["line 1", "line 2"]
    with pytest.raises(InputError, match=r"no row has the field 'city' \(--slice\)"):
        load_labelled(str(path), config, labels=desk.manifest.label_space, columns=["city"])


def test_a_parquet_file_gives_slice_columns_and_a_sample_its_test_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from manta.config import DataConfig
    from manta.data import load_labelled

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"label": ["no", "yes"], "stars": [1, 5], "text": ["bad", "good"]}), path)
    labels = LabelSpace(("no", "yes"), "binary")
    split = load_labelled(str(path), DataConfig(train=str(path)), labels=labels, columns=["stars", "label"])
    assert (split.texts, split.targets.tolist()) == (["bad", "good"], [0, 1])
    assert split.columns == {"stars": [1, 5], "label": ["no", "yes"]}
    reviews = LabelSpace(("negative", "positive"), "binary")
    assert len(load_labelled("sample:reviews", DataConfig(train="sample:reviews"), labels=reviews)) == 184


def test_evaluating_writes_a_report_and_answers_in_json(
    ray_cluster: None,
    desk: ModelArtifact,
    tmp_path: Path,
    own_storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "rows.csv"
    data.write_text(ROWS.replace("late,delivery", "late,parcel") + "hello,hi,FR\n", encoding="utf-8")
    out = tmp_path / "out" / "report"
    options = ["--slice", "country", "--slice-pattern", r"where=^where\b", "--out", str(out), "--json"]
    assert run(monkeypatch, str(desk.path), str(data), *options) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert (answer["model"], answer["version"], answer["num_rows"]) == ("desk", None, 3)
    assert answer["page"] == str(out / "report.html")
    assert {part["name"]: part["num_rows"] for part in answer["slices"] if part["group"] != "length"} == {
        "FR": 2,
        "DE": 1,
        "where": 1,
    }
    assert (answer["latency"]["num_texts"], answer["latency"]["device"] != "") == (3, True)
    assert answer["behaviour"]["tests"][0]["num_cases"] == 2
    assert (out / "report.html").is_file()
    assert not own_storage.exists()
    assert f"Report: {out / 'report.html'}" in printed.err
    assert "behaviour test" in printed.err
    assert "labels: 1 row of 'parcel' counts as 'delivery'; 1 row of 'hi' left out." in " ".join(printed.err.split())

    from manta.inference.predictor import Predictor

    texts = ["my parcel is late", "the invoice card", "where is my parcel"]
    labels = [prediction.label for prediction in Predictor(desk, device="cpu").predict(texts)]
    right = np.mean([mine == theirs for mine, theirs in zip(labels, ["delivery", "billing", "delivery"], strict=True)])
    assert answer["metrics"]["accuracy"] == pytest.approx(float(right))
