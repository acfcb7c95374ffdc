"""Feedback: what is kept, that `data.train` reads it, and what is refused."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from manta.config import DataConfig
from manta.data.dataset import load_dataset
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.storage.folders import Storage
from manta_serve.api import create_api
from manta_serve.feedback import Conflict, Feedback, FeedbackFullError, FeedbackStore
from manta_serve.served_model import ServedModel

from .untrained import artifact_of, service_of

AWKWARD = ['say "hello"', "a\\b", "línea\u2028two", "first\nsecond", '{"text": "nested", "label": ', "\U0001f600", "tab\there"]


def store_in(folder: Path, *, max_bytes: int = 1 << 20) -> FeedbackStore:
    return FeedbackStore(Storage(folder), "desk", max_bytes=max_bytes)


def said(text: Any, correction: Any, *, answer: Any = "billing") -> Feedback:
    return Feedback(text, answer, correction, 3)


def rows(store: FeedbackStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.path.read_text(encoding="utf-8").split("\n")[:-1]]


def api_of(tiny_model: Path, folder: Path, *, labels: LabelSpace, on: bool = True, **changed: Any) -> TestClient:
    model = ServedModel(
        Predictor(artifact_of(tiny_model, folder / "model", labels=labels, **changed), device="cpu"), name="desk", version=3
    )
    return TestClient(create_api(service_of(model, feedback=on), feedback=store_in(folder) if on else None))


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
    before = store.path.read_bytes()
    assert not any(store.add(said(text, "delivery", answer="account")) for text in texts)
    assert store.path.read_bytes() == before
    for text in texts:
        assert store.add(said(text, "billing"))
        assert not store.add(said(text, "billing"))
    assert [(row["text"], row["label"]) for row in rows(store)] == [(text, "billing") for text in texts]
    assert store.add(said(("my parcel", "x"), "delivery"))
    assert store.add(said(("my parcel", "y"), "delivery"))
    assert len(rows(store)) == len(texts) + 2


def test_a_half_written_line_is_taken_out(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add(said("whole", "delivery"))
    with store.path.open("ab") as file:
        file.write(b'{"text": "cut sh')
    assert store.add(said("next", "delivery"))
    assert [row["text"] for row in rows(store)] == ["whole", "next"]
    store.path.write_bytes(b'{"text": "all of it')
    assert store.add(said("next", "delivery"))
    assert [row["text"] for row in rows(store)] == ["next"]


def test_there_is_a_bound_and_a_changed_mind_needs_no_more_room(tmp_path: Path) -> None:
    store = store_in(tmp_path, max_bytes=1024)
    for number in range(9):  # of 110 bytes
        store.add(said(f"text {number}", "delivery"))
    with pytest.raises(FeedbackFullError, match="1024 bytes are kept at most"):
        store.add(said("text 9", "delivery"))
    assert store.path.stat().st_size <= 1024
    assert store.add(said("text 0", "billings"))
    assert len(rows(store)) == 9


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
        ({"comment": "x"}, "comment"),
    ]:
        response = client.post("/v1/feedback", json=body | changed)
        assert (response.status_code, response.json()["error"]["field"]) == (422, field)
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
    with store.path.open("a") as file:  # one of before the model was made, and one that is being written
        file.write(
            json.dumps({"text": "old", "label": "billing", "answer": "billing", "version": 1, "at": "2020-01-01T00:00:00+00:00"})
        )
        file.write('\n{"text": "ha')
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
