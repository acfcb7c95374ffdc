"""Feedback: what is kept, that `data.train` reads it, and what is refused."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient

from manta.config import DataConfig
from manta.data.dataset import load_dataset
from manta.data.read import read_rows
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.storage.folders import Storage
from manta_serve.api.routes import create_api
from manta_serve.feedback import Conflict, Feedback, FeedbackFullError, FeedbackStore
from manta_serve.versions.served_model import ServedModel

from .untrained import artifact_of, service_of

AWKWARD = ['say "hello"', "a\\b", "línea\u2028two", "first\nsecond", '{"text": "nested", "label": ', "\U0001f600", "tab\there"]


ROOMY = 100 * 1024**2


def store_in(folder: Path, *, max_bytes: int = ROOMY) -> FeedbackStore:
    return FeedbackStore(Storage(folder), "desk", max_bytes=max_bytes)


def said(text: Any, correction: Any, *, answer: Any = "billing") -> Feedback:
    return Feedback(text, answer, correction, 3)


def rows(store: FeedbackStore) -> list[dict[str, Any]]:
    """The rows as training reads them."""
    names = ("answer", "version", "at")
    config = DataConfig(train=str(store.path))
    with closing(sqlite3.connect(store.path)) as database:
        pairs = database.execute("SELECT count(*) FROM feedback WHERE text LIKE '[%'").fetchone() != (0,)
    config = config.model_copy(update={"text": ("first", "second")}) if pairs else config
    found = read_rows(str(store.path), "train", config, columns=names)
    values = zip(found.texts, found.labels, *(found.columns[name] for name in names), strict=True)
    return [dict(zip(("text", "label", *names), value, strict=True)) for value in values]


def api_of(
    tiny_model: Path, folder: Path, *, labels: LabelSpace, on: bool = True, sampled: bool = False, **changed: Any
) -> TestClient:
    model = ServedModel(
        Predictor(artifact_of(tiny_model, folder / "model", labels=labels, **changed), device="cpu"), name="desk", version=3
    )
    service = service_of(model, feedback=on, sample_texts=sampled)
    service.feedback = store_in(folder) if on else None
    return TestClient(create_api(service))


@pytest.mark.parametrize("kind", ["single", "pair", "multilabel"])
def test_training_reads_what_was_kept(tmp_path: Path, kind: str) -> None:
    store = store_in(tmp_path)
    for number in range(20):
        for label in ("billing", "delivery"):
            text = f"{AWKWARD[number % len(AWKWARD)]} {number} {label}"
            if kind == "pair":
                store.add(said((text, "and more"), label))
            else:
                store.add(said(text, label if kind == "single" else [label, "urgent"] if number % 2 else []))
    columns: Any = ("first", "second") if kind == "pair" else "text"
    dataset = load_dataset(DataConfig(train=str(store.path), text=columns, validation_fraction=0.1), task="auto")
    splits = (dataset.train, dataset.validation, dataset.test)
    assert sum(len(split) for split in splits) == 40
    assert dataset.labels.names == (("billing", "delivery", "urgent") if kind == "multilabel" else ("billing", "delivery"))
    texts = [text for split in splits for text in split.texts]
    first = f"{AWKWARD[0]} 0 billing"
    assert ((first, "and more") if kind == "pair" else first) in texts


def test_the_last_word_on_a_text_counts_and_the_same_again_adds_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    texts = [*AWKWARD, "my parcel", "my parcel is late", "parcel"]
    assert all(store.add(said(text, "delivery")) for text in texts)
    before = rows(store)
    assert not any(store.add(said(text, "delivery", answer="account")) for text in texts)
    assert rows(store) == before
    for text in texts:
        assert store.add(said(text, "billing"))
        assert not store.add(said(text, "billing"))
    assert [(row["text"], row["label"]) for row in rows(store)] == [(text, "billing") for text in texts]


def test_the_order_of_a_pair_counts(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    pairs = [("my parcel", "x"), ("my parcel", "y"), ("y", "my parcel")]
    assert all(store.add(said(pair, "delivery")) for pair in pairs)
    assert [row["text"] for row in rows(store)] == pairs


def test_the_file_of_an_earlier_version_is_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_in(tmp_path)
    old = store.path.with_name("feedback.jsonl")
    old.parent.mkdir(parents=True)
    row = {"text": "old", "label": "billing", "answer": "account", "version": 1, "at": "2020-01-01T00:00:00+00:00"}
    lines = [json.dumps(row | changed) for changed in ({}, {"text": "two", "label": "delivery"}, {"text": 3}, {"at": "yesterday"})]
    old.write_text("\n".join([*lines, "{broken", "[]", '{"text": "cut sh']))
    assert [found["text"] for found in (store.add(said("new", "delivery")), rows(store))[1]] == ["old", "two", "new"]
    assert [record.args[1] for record in caplog.records if record.args] == [3, 4, 5, 6, 7]
    assert [path.name for path in sorted(old.parent.iterdir())] == ["feedback.jsonl.imported", "feedback.sqlite"]
    store.add(said("old", "delivery"))
    summary = store_in(tmp_path).summary(since=datetime(2021, 1, 1, tzinfo=UTC))
    assert (summary.count, summary.since, summary.corrected, summary.by_label) == (3, 2, 3, {"delivery": 3})


def test_there_is_a_bound_and_a_changed_mind_needs_no_more_room(tmp_path: Path) -> None:
    store = store_in(tmp_path, max_bytes=200 * 1024)

    def fill() -> None:
        for number in range(10_000):
            store.add(said(f"text {number} " + "x" * 1000, "delivery"))

    with pytest.raises(FeedbackFullError, match="204800 bytes are kept at most"):
        fill()
    number = len(rows(store))
    assert number > 50
    assert 150 * 1024 < store.path.stat().st_size <= 200 * 1024
    assert store.add(said("text 0 " + "x" * 1000, "billings"))
    assert len(rows(store)) == number


def test_only_the_owner_reads_the_database(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add(said("mine", "delivery"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in (store.path, store.path.parent)] == [0o600, 0o700]


def test_what_one_key_said_can_be_taken_back(tmp_path: Path) -> None:
    """By the line in docs/api.md."""
    store = store_in(tmp_path)
    for number in range(6):
        store.add(
            Feedback(f"Text {number // 2}{' ' * (number % 2)}", "billing", "delivery", 3, key_name="ada" if number % 3 else "bob")
        )
    guide = Path(__file__).parents[2] / "docs" / "api.md"
    (line,) = re.findall(r'feedback\.sqlite "(DELETE .*)"', guide.read_text(encoding="utf-8"))
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute(line)
    assert len(rows(store)) == 2
    summary = store.summary(since=datetime(2020, 1, 1, tzinfo=UTC))
    assert (summary.count, summary.corrected, summary.by_label, summary.duplicates) == (2, 2, {"delivery": 2}, 0)


def _add_until_killed(folder: Path) -> None:
    store, number = store_in(folder), 0
    while True:
        store.add(said(f"text {number}", "delivery"))
        number += 1
        print(number, flush=True)  # noqa: T201


def test_nothing_that_was_stored_is_lost_at_a_kill(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\nfrom pathlib import Path\n"
    code += f"from serve import test_feedback as tests\ntests._add_until_killed(Path({str(tmp_path)!r}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 200:
            pass
        process.kill()
        told = max([200, *(int(line) for line in process.stdout.read().split())])
    store = store_in(tmp_path)
    assert store.summary(since=datetime(2020, 1, 1, tzinfo=UTC)).count in (told, told + 1)
    assert len(rows(store)) in (told, told + 1)


@pytest.mark.slow
def test_a_summary_of_much_feedback_is_quick_and_small(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    old = store.path.with_name("feedback.jsonl")
    old.parent.mkdir(parents=True)
    row = {"label": "billing", "answer": "account", "version": 1, "at": "2020-01-01T00:00:00+00:00"}
    with old.open("w") as file:
        for number in range(100_000):
            file.write(json.dumps({"text": f"{number} " + "my parcel is late and nobody tells me " * 10, **row}) + "\n")
    assert old.stat().st_size > 40e6
    since = datetime(2019, 1, 1, tzinfo=UTC)
    assert store.summary(since=since).count == 100_000  # it has read the file
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    assert store.summary(since=since).since == 100_000
    assert time.perf_counter() - started < 0.5
    assert psutil.Process().memory_info().rss < before + 20e6


def _add(folder: Path, numbers: range) -> int:
    store = store_in(folder)
    return sum(store.add(said(f"text {number}", "delivery")) for number in numbers)


def test_processes_write_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        stored = list(pool.map(_add, [tmp_path] * 4, [range(60), range(30, 90), range(60), range(100)]))
    assert sum(stored) == 100
    assert sorted(row["text"] for row in rows(store_in(tmp_path))) == sorted(f"text {number}" for number in range(100))


def test_the_path_stores_and_refuses(tiny_model: Path, tmp_path: Path) -> None:
    client = api_of(tiny_model, tmp_path, labels=LabelSpace.from_labels(["account", "billing", "delivery"]))
    assert client.get("/v1/model").json()["feedback"] is True
    body = {"text": "my parcel", "answer": "billing", "correction": "delivery", "version": 3}
    assert client.post("/v1/feedback", json=body).json() == {"stored": True}
    assert client.post("/v1/feedback", json=body).json() == {"stored": False}
    (row,) = rows(store_in(tmp_path))
    assert {name: row[name] for name in ("text", "label", "answer", "version")} == {
        "text": "my parcel",
        "label": "delivery",
        "answer": "billing",
        "version": 3,
    }
    for changed, field in [
        ({"correction": "refund"}, "correction"),
        ({"answer": "refund"}, "answer"),
        ({"answer": 3}, "answer"),
        ({"answer": ["billing", *[3] * 1000]}, "answer.1"),
        ({"correction": ["delivery"]}, "correction"),
        ({"text": ["my", "parcel"]}, "text"),
        ({"text": " "}, "text"),
        ({"version": 0}, "version"),
        ({"version": 10**30}, "version"),
        ({"comment": "x"}, "comment"),
    ]:
        response = client.post("/v1/feedback", json=body | changed)
        assert (response.status_code, response.json()["error"]["field"]) == (422, field)
    unknown = client.post("/v1/feedback", json=body | {"version": 999})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_version")
    assert "999" in unknown.json()["error"]["message"]
    assert "account, billing, delivery" in client.post("/v1/feedback", json=body | {"answer": "x"}).json()["error"]["message"]
    assert len(rows(store_in(tmp_path))) == 1


def test_a_multilabel_model_takes_lists_in_its_order(tiny_model: Path, tmp_path: Path) -> None:
    client = api_of(tiny_model, tmp_path, labels=LabelSpace(("account", "billing"), "multilabel"))
    body = {"text": "my parcel", "answer": [], "correction": ["billing", "account", "billing"], "version": 3}
    assert client.post("/v1/feedback", json=body).json() == {"stored": True}
    assert rows(store_in(tmp_path))[0]["label"] == ["account", "billing"]
    refused = client.post("/v1/feedback", json=body | {"correction": "billing"})
    assert "give a list" in refused.json()["error"]["message"]


def test_the_summary_counts_what_was_said_and_finds_conflicts(tiny_model: Path, tmp_path: Path) -> None:
    labels = LabelSpace.from_labels(["account", "billing", "delivery"])
    client = api_of(tiny_model, tmp_path, labels=labels, config={"name": "desk", "data": {"train": "rows.csv"}})
    assert client.get("/v1/feedback").json()["count"] == 0
    for text, correction in [("My parcel", "delivery"), ("my  parcel", "account"), ("paid", "billing"), ("PAID", "billing")]:
        client.post("/v1/feedback", json={"text": text, "answer": "billing", "correction": correction, "version": 3})
    store = store_in(tmp_path)
    store.add(said("old", "billing"))
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute("UPDATE feedback SET at = '2020-01-01T00:00:00+00:00' WHERE text = '\"old\"'")
    assert client.get("/v1/feedback").json() == {
        "count": 5,
        "since_champion": 4,
        "corrected": 2,
        "by_label": {"account": 1, "billing": 3, "delivery": 1},
        "duplicates": 1,
        "conflicts": [{"text": "My parcel", "labels": ["delivery", "account"]}],
        "experiment": {"name": "desk", "data": {"train": "rows.csv", "feedback": str(store.path)}},
    }


def test_the_summary_of_pairs_and_lists(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add(said(("a", "B"), ["x", "y"], answer=["x"]))
    store.add(said(("A", "b"), ["x"], answer=["x"]))
    found = store.summary(since=datetime(2020, 1, 1, tzinfo=UTC))
    assert (found.count, found.corrected, found.by_label) == (2, 1, {"x": 2, "y": 1})
    assert found.conflicts == (Conflict(("a", "B"), (["x", "y"], ["x"])),)


def test_it_is_off_unless_turned_on(tiny_model: Path, tmp_path: Path) -> None:
    client = api_of(tiny_model, tmp_path, labels=LabelSpace.from_labels(["a", "b"]), on=False)
    response = client.post("/v1/feedback", json={"text": "x", "answer": "a", "correction": "b", "version": 1})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "feedback_off")
    assert client.get("/v1/feedback").status_code == 403
    assert client.get("/v1/model").json()["feedback"] is False
    assert not (tmp_path / "feedback").exists()


@pytest.mark.parametrize("kind", ["single", "pair", "multilabel"])
def test_a_sample_of_what_was_asked_waits_for_judgments(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    several, num_texts = kind == "multilabel", 2 if kind == "pair" else 1
    space = LabelSpace(("a", "b", "c"), "multilabel" if several else "multiclass")
    client = api_of(tiny_model, tmp_path, labels=space, sampled=True, num_texts=num_texts)
    assert client.get("/v1/model").json()["sample_texts"] is True
    assert client.get("/v1/feedback/texts").json() == {"model": {"name": "desk", "version": 3}, "num_answers": 0, "texts": []}
    texts: list[Any] = [f"text {number}" if num_texts == 1 else [f"first {number}", "second"] for number in range(5)]
    answers = client.post("/v1/classify", json={"texts": texts}).json()["predictions"]
    client.post("/v1/classify", json={"text": texts[0]})
    said_of: Any = ["b"] if several else "b"
    body = {"text": texts[1], "answer": ["a"] if several else "a", "correction": said_of, "version": 3}
    client.post("/v1/feedback", json=body)
    found = client.get("/v1/feedback/texts").json()
    assert found["num_answers"] == 6
    assert {json.dumps(item["text"]): item["prediction"] for item in found["texts"]} == {
        json.dumps(text): answer for text, answer in zip(texts, answers, strict=True)
    }
    assert len(found["texts"]) == 5
    assert [(item["text"], item["correction"]) for item in found["texts"] if "correction" in item] == [(texts[1], said_of)]


def test_no_text_is_kept_unless_that_is_turned_on(tiny_model: Path, tmp_path: Path) -> None:
    client = api_of(tiny_model, tmp_path, labels=LabelSpace.from_labels(["a", "b"]))
    client.post("/v1/classify", json={"text": "hello"})
    response = client.get("/v1/feedback/texts")
    assert (response.status_code, response.json()["error"]["code"]) == (403, "sample_off")
    assert "serve.sample_texts" in response.json()["error"]["message"]
    assert client.get("/v1/model").json()["sample_texts"] is False
