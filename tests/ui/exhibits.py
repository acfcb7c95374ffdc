"""A page with everything that its tabs can show, in front of tiny models of 2, 12 or 80 labels with long names."""

from __future__ import annotations

import http.server
import json
import math
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from manta.cluster.job import MARK
from manta.config import ExperimentConfig
from manta.evaluation.metrics import classification_metrics, confusion_counts
from manta.inference.predictor import Predictor
from manta.label_check.suspects import CHECKS, SUSPECTS_FILE, Neighbor, Place, Suspect, Suspects
from manta.labels import LabelSpace
from manta.registry.decisions import Decision
from manta.registry.gate import GateLine
from manta.registry.models import ModelRegistry
from manta.registry.tracking import Point, RunTracker, epoch_points
from manta.storage.folders import Storage
from manta_jobs.runs.tune import write_trials
from manta_jobs.tuning.journal import Confirmation, Trial

from ..conftest import FILLER, WORDS
from ..jobs.registered import register, split_of, train_tiny
from ..serve.live_api import live_api
from .visits import page_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from manta.registry.versions import RegisteredVersion

    from ..jobs.registered import Rows, Trained

SUBJECTS = (
    *("card payment", "cash withdrawal", "direct debit", "top-up by bank transfer", "exchange rate", "account verification"),
    *("virtual card", "contactless", "standing order", "Rechtsschutzversicherungsbestätigung"),
)
TROUBLES = (
    *("not recognised", "charged twice", "still pending after several days", "fee charged unexpectedly"),
    *("declined", "reverted by the merchant", "wrong_amount_received", "other question"),
)
NAMES = [f"{subject}: {trouble}" for trouble in TROUBLES for subject in SUBJECTS]
"""80 names of labels; the first 12 have one trouble in common, as labels that are confused do."""
SETTINGS = ("learning_rate", "dropout", "num_epochs", "batch_size")
NUM_TRIALS, NUM_EPOCHS = 14, 8
STEPS = {2: 12, 12: 90, 80: 120}
HOUR_MS = 3_600_000
LOG = "\n".join(
    [
        "Read 4,812 rows with 12 labels from /shared/rows/messages-of-this-year.csv in 0.8 s.",
        "Search: 14 trials of at most 8 epochs; then up to 6 confirming runs",
        *(f"trial-{number:03d}: done after 8 epochs, validation accuracy 0.8{number}12; ETA 12 min" for number in range(1, 7)),
        "trial-007 epoch 3 of 8: 40/120 steps, loss 0.8123, 118 examples/s, ETA 11 min",
    ]
)
CARD = """---
language: en
---
# desk

Gives a text one of the labels below. It was made from 480 rows.

| metric | value |
| --- | --- |
| accuracy | 0.8611 |
| macro F1 | 0.8540 |
"""


@dataclass(frozen=True)
class Behind:
    """The services behind a page."""

    storage: Storage
    api: str
    cluster: str
    labels: list[str]
    texts: list[str]
    """Texts that the model has not seen."""


@dataclass(frozen=True)
class Exhibit:
    """A page that runs, and what a visitor brings along."""

    url: str
    api: str
    labels: list[str]
    texts: list[str]


@contextmanager
def exhibit(folder: Path, *, num_labels: int, encoder: Path) -> Iterator[Exhibit]:
    """A page with a champion, a candidate, a search, jobs and feedback."""
    with (
        behind(folder, num_labels=num_labels, encoder=encoder) as found,
        page_process(found.storage.root, log=folder / "page.log", api=found.api, options=("--address", found.cluster)) as url,
    ):
        yield Exhibit(url, found.api, found.labels, found.texts)


@contextmanager
def behind(folder: Path, *, num_labels: int, encoder: Path) -> Iterator[Behind]:
    """The services of such a page, and its registry."""
    labels = LabelSpace(tuple(sorted(NAMES[:num_labels])), "multiclass")
    rows = rows_for(labels.names, (24 if num_labels < 80 else 12) * num_labels)
    held_out = rows_for(labels.names, 12 * num_labels, seed=1)
    storage = Storage(folder / "storage")
    settings = {"train": {"learning_rate": 3e-3, "num_epochs": NUM_EPOCHS}}
    made = []
    for name, steps in (("first", STEPS[num_labels]), ("second", 2 * STEPS[num_labels])):
        trained = train_tiny(folder / name, rows=rows, test=held_out, steps=steps, model=encoder, settings=settings, labels=labels)
        version = register(storage, trained, name="desk")
        record_version(storage, folder, trained, version, held_out, labels)
        made.append(trained.artifact.path)
    record_decisions(storage)
    record_search(storage, folder)
    record_check(storage, held_out[:40], list(labels.names))
    kept = {"feedback": True, "sample_texts": True}
    with (
        live_api(made[0], storage.root, candidate=made[1], settings=kept, log=folder / "api.log") as (_, api),
        recorded_cluster() as cluster,
    ):
        yield Behind(storage, api, cluster, list(labels.names), [text for text, _ in held_out])


def record_check(storage: Storage, rows: Rows, labels: list[str]) -> None:
    """Record a check of labels, as `manta data check` writes it. Each row has another label than is proposed."""

    def place(index: int) -> Place:
        return Place("/shared/rows/messages-of-this-year.csv", "line", index + 2, "test")

    near = [Neighbor(text, label, 0.8, place(index)) for index, (text, label) in enumerate(rows)]
    suspects = tuple(
        Suspect(
            text, label, labels[index % len(labels) - 1], 0.9, 0.04, 0.04, ("label", "duplicate"), place(index), tuple(near[:5])
        )
        for index, (text, label) in enumerate(rows)
    )
    file = storage.root / CHECKS / "messages-20260131-120000-a1b2" / SUSPECTS_FILE
    file.parent.mkdir(parents=True)
    Suspects(suspects, tuple(labels), "messages.csv", storage.root / "labels.jsonl").write(file)


def rows_for(labels: tuple[str, ...] | list[str], count: int, *, seed: int = 0) -> Rows:
    """Rows in which two words stand for a label, and sometimes a word for another one."""
    generator = random.Random(seed)
    words = [word for topic in WORDS.values() for word in topic]
    pairs = list(combinations(words, 2))
    generator_of_pairs = random.Random(3)
    generator_of_pairs.shuffle(pairs)
    found: dict[str, str] = {}
    while len(found) < count:
        index = len(found) % len(labels)
        parts = [
            *pairs[index],
            *generator.choices(FILLER, k=generator.randint(2, 14)),
            *generator.sample(words, generator.randint(0, 2)),
        ]
        generator.shuffle(parts)
        found.setdefault(" ".join(parts), labels[index])
    return list(found.items())


def record_version(
    storage: Storage, folder: Path, trained: Trained, version: RegisteredVersion, rows: Rows, labels: LabelSpace
) -> None:
    """Record a model's figures, its report with the confusions, and its card, as a run does."""
    split = split_of(rows, labels)
    logits = Predictor(trained.artifact, device="cpu").logits(split.texts)
    metrics = classification_metrics(logits, split.targets, labels=labels)
    history = [
        {"epoch": epoch, "train_loss": 2.2 * 0.6**epoch, "loss": 2.3 * 0.68**epoch + 0.01 * epoch**1.6, "accuracy": 1 - 0.7**epoch}
        for epoch in range(1, NUM_EPOCHS + 1)
    ]
    report = {
        "labels": list(labels.names),
        "task": labels.task,
        "confusion": confusion_counts(labels.probabilities(logits), split.targets, labels=labels).tolist(),
        "reliability": [{"num_decisions": 20, "confidence": 0.3 + 0.1 * part, "accuracy": 0.26 + 0.1 * part} for part in range(7)],
        "history": history,
        "best_epoch": 6,
        "artifact": str(trained.artifact.path),
    }
    path = folder / "report.json"
    path.write_text(json.dumps(report))
    tracker = RunTracker(storage)
    tracker.start("", experiment="desk", config={}, resume_id=version.run_id)
    tracker.add([Point(f"final_{name}", value, 0) for name, value in metrics.items()])
    tracker.log_files(path)
    (folder / "README.md").write_text(CARD)
    tracker.log_files(folder / "README.md", "model")
    tracker.finish("FINISHED")


def record_decisions(storage: Storage) -> None:
    """Version 1 is the champion; the gate has refused version 2."""
    registry = ModelRegistry(storage)
    champion = registry.get("desk", version=1)
    registry.record("desk", Decision(action="first", version=1, by="ann"))
    registry.set_champion(champion)
    lines = (
        GateLine(
            name="accuracy",
            champion=0.861,
            candidate=0.874,
            bound="> +0.00 points, not by chance",
            passed=False,
            sentence="The candidate is right on 1.3 points more rows, which may be chance.",
        ),
        GateLine(
            name=f"recall of {NAMES[0]}",
            champion=0.9,
            candidate=0.92,
            bound="at most 5 points lower",
            passed=True,
            sentence="No label is found less often.",
        ),
    )
    why = "not better beyond chance"
    registry.record("desk", Decision(action="refused", version=2, previous=1, by="ann", why=why, figures=lines))


def record_search(storage: Storage, folder: Path) -> None:
    """A finished search of NUM_TRIALS trials, some of which stopped early and one failed."""
    generator = random.Random(0)
    name = "desk-tune-20260101-120000-abcd"
    search = RunTracker(storage)
    search.start(name, experiment="desk", config={"name": "desk", "train": {"metric": "accuracy", "num_epochs": NUM_EPOCHS}})
    trials = []
    for number in range(1, NUM_TRIALS + 1):
        rate, dropout = 10 ** generator.uniform(-5, -2.5), round(generator.uniform(0, 0.4), 2)
        best = 0.93 - 0.12 * abs(-3.6 - math.log10(rate)) - 0.2 * abs(dropout - 0.1)
        length = 0 if number == 7 else NUM_EPOCHS if best > 0.75 else generator.randint(1, 4)
        history = [epoch_of(epoch, best=best, generator=generator) for epoch in range(1, length + 1)]
        values = {"train.learning_rate": rate, "model.dropout": dropout, "train.batch_size": generator.choice([16, 32])}
        trials.append(Trial(f"trial-{number:03d}", values, "done", history=history))
        tracker = RunTracker(storage)
        tracker.start(f"{name}-{trials[-1].name}", experiment="desk", config=values, parent_id=search.run_id)
        tracker.add(epoch_points(history, steps_per_epoch=10))
        tracker.flush()
        error = "the loss became NaN in epoch 1; a lower learning rate helps" if not history else None
        tracker.finish("FAILED" if error else "FINISHED" if length == NUM_EPOCHS else "KILLED", error=error)
    ranked = sorted((trial for trial in trials if trial.history), key=lambda trial: -trial.history[-1]["accuracy"])
    config = ExperimentConfig.model_validate({"name": "desk", "data": {"train": "sample:support"}})
    confirmed = [
        Confirmation(trial, [Trial(f"{trial.name}-seed-{seed}", {}) for seed in (1, 2)], [score, score - 0.02])
        for trial, score in ((ranked[1], 0.9), (ranked[0], 0.88))
    ]
    write_trials(ranked, confirmed, folder / "trials.yaml", config=config)
    (folder / "best.yaml").write_text("name: desk\ndata:\n  train: sample:support\ntrain:\n  learning_rate: 0.00024\n")
    for file in ("best.yaml", "trials.yaml"):
        search.log_files(folder / file)
    search.finish("FINISHED")


def epoch_of(epoch: int, *, best: float, generator: random.Random) -> dict[str, float]:
    """One epoch of a trial that nears its best accuracy."""
    share = best * (1 - 0.55**epoch) + generator.uniform(-0.01, 0.01)
    return {"epoch": epoch, "train_loss": 2 * 0.6**epoch, "loss": 2 * (1.05 - share), "accuracy": share, "f1_macro": share - 0.02}


@contextmanager
def recorded_cluster() -> Iterator[str]:
    """The address of a server that answers as Ray's Jobs API, with a running, a finished and a failed job."""
    now_ms = int(time.time() * 1000)
    done = {"result": {"model": "desk", "version": 2, "artifact": "/shared/manta/runs/desk-train-20260101-100000-aaaa/artifact"}}
    problem = "line 17: 3 fields where the header has 2; check the delimiters."
    failed = {"error": f"data.train: /shared/rows/messages-of-last-year.csv, {problem}"}
    kinds = {
        "desk-tune-20260101-120000-abcd": ("RUNNING", "tune", 0.4, LOG),
        "desk-train-20260101-100000-aaaa": ("SUCCEEDED", "train", 2.0, f"{LOG}\n{MARK}{json.dumps(done)}"),
        "desk-train-20251231-100000-bbbb": ("FAILED", "train", 26.0, f"{LOG}\n{MARK}{json.dumps(failed)}"),
    }
    entries = [
        {
            "submission_id": name,
            "status": status,
            "metadata": {"manta_verb": verb, "manta_user": "ann"},
            "start_time": now_ms - int(hours * HOUR_MS),
            **({} if status == "RUNNING" else {"end_time": now_ms - int((hours - 0.3) * HOUR_MS)}),
        }
        for name, (status, verb, hours, _) in kinds.items()
    ]

    class Cluster(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.strip("/").split("/")
            content: Any = {"ray_version": "2.60.0"} if parts[-1] == "version" else entries
            if parts[-1] == "logs":
                content = {"logs": kinds[parts[-2]][3]}
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
