"""Fixtures of all tests: a tiny encoder made on the spot, a small data set, and one Ray cluster for the session."""

from __future__ import annotations

import json
import logging
import os
import random
import secrets
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # a report waits for the next one: most of a tiny run's time
# No node of the tests' clusters is taken away: Ray Train need not start a process that watches for that.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
# Two threads of an operation wait for each other, which takes long where two test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a busy machine does not let answer, Ray takes for dead: a node (its driver, the test session, ends with it) and a proxy.
os.environ.setdefault("RAY_health_check_timeout_ms", "120000")
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")

WORDS = {
    "delivery": "parcel courier late van doorstep tracking package driver".split(),
    "billing": "charged invoice card refund money twice receipt price".split(),
    "account": "password login email locked profile code username reset".split(),
}
FILLER = "the a my is was please hello it and why now still today of".split()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by what they need: Ray's cluster fixture, or processes that are killed."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
        if "faults" in item.path.relative_to(config.rootpath).parts:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(autouse=True)
def own_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has its own storage and never sees the user's."""
    storage = tmp_path / "storage"
    monkeypatch.setenv("MANTA_STORAGE", str(storage))
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return storage


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny-bert"))


def write_tiny_model(folder: Path) -> Path:
    """Write a BERT of two narrow layers, random weights, and a tokenizer that knows the words of `rows_of`."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLER, *(word for words in WORDS.values() for word in words)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def rows_of(labels: list[str], count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Distinct (text, label) rows in which a word of the label stands among filler: easy to learn."""
    generator = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        label = labels[len(rows) % len(labels)]
        words = generator.choices(FILLER, k=generator.randint(2, 9)) + generator.sample(WORDS[label], 2)
        generator.shuffle(words)
        rows.setdefault(" ".join(words), label)
    return list(rows.items())


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Rows as a CSV file with a header."""
    path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 240 rows with three labels."""
    return write_csv(tmp_path_factory.mktemp("data") / "three.csv", rows_of(["delivery", "billing", "account"], 240))


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 160 rows with two labels."""
    return write_csv(tmp_path_factory.mktemp("data") / "two.csv", rows_of(["delivery", "billing"], 160, seed=1))


def sentence(topics: tuple[str, ...], generator: random.Random) -> str:
    """Two words of each topic among filler."""
    words = generator.choices(FILLER, k=generator.randint(1, 4))
    words += [word for topic in topics for word in generator.sample(WORDS[topic], 2)]
    generator.shuffle(words)
    return " ".join(words)


@pytest.fixture(scope="session")
def several_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 500 rows with any of three labels, or none, separated by semicolons."""
    generator = random.Random(0)
    rows: dict[str, str] = {}
    while len(rows) < 500:
        topics = tuple(topic for topic in WORDS if generator.random() < 0.4)
        rows.setdefault(sentence(topics, generator), ";".join(topics))
    return write_csv(tmp_path_factory.mktemp("data") / "several.csv", list(rows.items()))


@pytest.fixture(scope="session")
def text_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 300 pairs `before` and `after`.

    The label is the topic of `after`; `before` has a topic at random, so its words mislead as often as not.
    """
    generator = random.Random(0)
    topics = ("delivery", "billing")
    rows: dict[tuple[str, str], str] = {}
    while len(rows) < 300:
        label = topics[len(rows) % 2]
        rows.setdefault((sentence((generator.choice(topics),), generator), sentence((label,), generator)), label)
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    lines = [{"before": before, "after": after, "label": label} for (before, after), label in rows.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def two_classes_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 2,000 rows with two labels: enough steps to interrupt."""
    return write_csv(tmp_path_factory.mktemp("data") / "large.csv", rows_of(["delivery", "billing"], 2000, seed=2))


@pytest.fixture(scope="session")
def listens_to_ctrl_c() -> Callable[[], None]:
    """For a started process's `preexec_fn`: where the tests run in the background, SIGINT is ignored and that is inherited."""

    def restore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return restore


@pytest.fixture(scope="session")
def object_store() -> Iterator[dict[str, str]]:
    """A server that speaks S3, as the variables that lead to it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or it prints every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()


@pytest.fixture
def bucket(object_store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, which this process can reach."""
    import boto3

    for name, value in object_store.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{secrets.token_hex(4)}"
    boto3.resource("s3", endpoint_url=object_store["AWS_ENDPOINT_URL"]).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def node_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the mirrors of the session cluster's nodes: not that of the tests, as if these were on another node."""
    return tmp_path_factory.mktemp("node") / "cache"


@pytest.fixture(scope="session")
def ray_cluster(object_store: dict[str, str], node_cache: Path) -> Iterator[None]:
    """The one Ray cluster of the test session; more logical CPUs than cores, so that two workers always fit."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**object_store, "MANTA_CACHE": str(node_cache)}.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def serve_port(ray_cluster: None) -> Iterator[int]:
    """Port of Ray Serve. It is started once, because a driver may go on asking a controller that was shut down.

    Who runs an application deletes it at the end.
    """
    from ray import serve
    from ray.serve.config import HTTPOptions

    from manta.cluster.ports import free_ports

    port = free_ports(1)[0]
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    yield port
    serve.shutdown()
