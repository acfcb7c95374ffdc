"""A registry on a tracking server, also with an object store."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from manta.cluster.ports import free_ports
from manta.errors import InputError, RunError
from manta.inference.artifact import ModelArtifact
from manta.inference.formats import WEIGHTS_FILE
from manta.inference.predictor import Predictor
from manta.registry.models import CANDIDATE, CHAMPION, ModelRegistry
from manta.storage.folders import Storage

from .registered import formats_made, refused, register, register_at_once, rows_of_test
from .test_tracking import mlflow_server

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_a_server_that_is_down_is_one_sentence(artifact: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    registry = ModelRegistry(Storage(tmp_path / "storage"))
    started = time.monotonic()
    with pytest.raises(RunError, match=rf"^the registry at {address} does not answer \(Connection refused\)\.$"):
        registry.versions()
    with pytest.raises(RunError, match=rf"^the model is finished and lies in {artifact.path}, but could not be registered"):
        registry.register(artifact, run_id="0" * 32)
    assert time.monotonic() - started < 60


@pytest.mark.server
@pytest.mark.timeout(300)
def test_a_server_keeps_versions_rows_and_decisions(
    tmp_path: Path, make_artifact: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_artifact(tmp_path / "artifact", name="desk").artifact
    with mlflow_server(tmp_path / "server", free_ports(1)[0]) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert register_at_once(tmp_path / "first", artifact) == [1, 2]
        storage = Storage(tmp_path / "second")  # another machine
        registry = ModelRegistry(storage)
        third = register(registry, storage, artifact, promote=True, frozen=rows_of_test())
        assert (third.version, third.aliases) == (3, (CHAMPION,))
        assert [item.version for item in registry.versions("desk")] == [3, 2, 1]
        assert registry.with_alias("desk", CANDIDATE) is None
        rows = registry.files.frozen_rows(third)
        assert rows is not None
        assert rows.texts == rows_of_test().texts
        fetched = registry.files.fetch(third)
        assert fetched.manifest == artifact.manifest
        weights = fetched.path / WEIGHTS_FILE
        weights.write_bytes(b"")  # what was kept is damaged: fetched anew
        assert registry.files.fetch(third).path == fetched.path
        elsewhere = Storage(tmp_path / "third")
        ModelRegistry(elsewhere).files.fetch(third)
        registry.add_formats(third, formats_made(artifact))
        for place in (registry, ModelRegistry(elsewhere)):  # also where it was kept without them
            joined = place.files.fetch(third)
            assert [item.accepted for item in joined.manifest.formats] == [True, True]
            assert Predictor(joined, device="cpu", format="openvino-int8").predict(["my parcel"])
        assert len(registry.decisions("desk")) == 6

        assert "no version 9" in refused(registry, "desk", version=9)
        assert "known models: desk" in refused(registry, "nothing")
        with pytest.raises(InputError, match="desk@3 is the champion"):
            registry.delete(third)
        first = registry.get("desk", version=1)
        registry.delete(first)
        assert [item.version for item in registry.versions("desk")] == [3, 2]
        assert not registry.files.exist(first)
        second = registry.get("desk", version=2)
        assert registry.files.exist(second)
        for folder in (tmp_path / "server" / "artifacts").rglob(second.run_id):
            shutil.rmtree(folder)
        with pytest.raises(InputError, match=r"desk version 2: .* is gone from the store"):
            registry.files.fetch(second)
        assert [item.version for item in registry.versions("desk")] == [3, 2]


@pytest.mark.server
@pytest.mark.timeout(300)
def test_a_server_may_keep_the_files_in_an_object_store(
    tmp_path: Path, make_artifact: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, store_port = free_ports(2)
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=store_port, verbose=False)  # a server that speaks S3
    store.start()
    endpoint = f"http://127.0.0.1:{store_port}"
    known = {"AWS_ACCESS_KEY_ID": "of-the-server", "AWS_SECRET_ACCESS_KEY": "alone", "AWS_DEFAULT_REGION": "eu-central-1"}
    bucket = boto3.resource(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    ).create_bucket(Bucket="models")
    artifact = make_artifact(tmp_path / "artifact", name="desk").artifact
    server = mlflow_server(tmp_path / "server", port, artifacts="s3://models/manta", MLFLOW_S3_ENDPOINT_URL=endpoint, **known)
    try:
        with server as address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            storage = Storage(tmp_path / "here")
            version = register(ModelRegistry(storage), storage, artifact, promote=True, frozen=rows_of_test())
            kept = {thing.key.rpartition("/")[2]: thing.size for thing in bucket.objects.all()}
            assert kept[WEIGHTS_FILE] == (artifact.path / WEIGHTS_FILE).stat().st_size
            elsewhere = ModelRegistry(Storage(tmp_path / "elsewhere"))
            assert elsewhere.files.fetch(version).manifest == artifact.manifest
            rows = elsewhere.files.frozen_rows(version)
            assert rows is not None
            assert rows.texts == rows_of_test().texts
    finally:
        store.stop()
