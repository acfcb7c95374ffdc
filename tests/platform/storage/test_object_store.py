"""Mirrors of a real S3 server, and of fsspec's store in memory; another node is another $MANTA_CACHE."""

from __future__ import annotations

import os
import secrets
import urllib.request
from typing import TYPE_CHECKING

import pytest
from pyarrow import fs

from manta.errors import InputError, RunError
from manta.storage import object_store
from manta.storage.object_store import check, discard, fetch, here, mirror_of, names, shown, store, url_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

LARGE = bytes(object_store.SMALL_BYTES + 1)


@pytest.fixture(params=["s3", "memory"])
def url(request: pytest.FixtureRequest) -> str:
    """A place in a store in which there is nothing."""
    if request.param == "memory":
        return f"memory://{secrets.token_hex(4)}/manta"
    return f"{request.getfixturevalue('bucket')}/manta"


@pytest.fixture
def on_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Go to a node by its name."""

    def go(name: str) -> None:
        monkeypatch.setenv("MANTA_CACHE", str(tmp_path / name))

    go("first")
    return go


def written(folder: Path, **files: bytes) -> Path:
    """The folder with such files; in their names, `__` is a folder."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def held(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_one_node_stores_another_fetches(url: str, on_node: Callable[[str], None]) -> None:
    folder = written(mirror_of(url) / "run", a=b"1", data__rows=LARGE)
    store(folder)
    store(written(folder, a=b"22", late=b"3") / "late")
    on_node("second")
    assert names(folder) == ["a", "data", "late"]
    there = fetch(folder)
    assert there == here(folder) == mirror_of(f"{url}/run") != folder
    assert held(there) == {"a": b"1", "data/rows": LARGE, "late": b"3"}
    assert fetch(folder / "data" / "rows").read_bytes() == LARGE

    # What is gone from the store goes here, too, but for what is left alone.
    written(there, of_workers__a=b"4", stray=b"5")
    discard(folder / "data")
    fetch(folder, without=("of_workers",))
    assert held(there) == {"a": b"1", "late": b"3", "of_workers/a": b"4"}
    assert names(mirror_of(url) / "nothing") == []
    discard(folder)
    assert names(folder) == []
    assert not there.exists()


def test_only_what_has_changed_travels(url: str, on_node: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    upload, download = object_store._upload, object_store._download
    monkeypatch.setattr(object_store, "_upload", lambda file, url: (moved.append(f"up {file.name}"), upload(file, url)))
    monkeypatch.setattr(object_store, "_download", lambda *args: (moved.append(f"down {args[2].name}"), download(*args)))
    folder = written(mirror_of(url), large=LARGE, other=LARGE, state=b"1")
    store(folder)
    assert moved == ["up large", "up other", "up state"]
    store(folder)
    written(folder, other=LARGE[::-1])
    store(folder, without=("state",))
    assert moved[3:] == ["up other"] if url.startswith("s3") else moved[3:]  # memory tells no times that would say so
    moved.clear()
    on_node("second")
    fetch(folder)
    assert moved == ["down large", "down other", "down state"]
    fetch(folder)
    if url.startswith("s3"):
        assert moved[3:] == ["down state"]  # it is small


def test_what_makes_others_count_is_put_last(url: str, on_node: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[str] = []
    monkeypatch.setattr(object_store, "_upload", lambda file, url: put.append(url))
    names = ["report.json", "steps.jsonl", "run.json", "artifact/manta.json", "artifact/model.safetensors", "artifact/vocab.txt"]
    folder = mirror_of(url)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    store(folder)
    assert put[3:] == [f"{url}/{name}" for name in ("artifact/manta.json", "run.json", "report.json")]


def test_an_upload_that_is_cut_short_is_no_object(bucket: str, on_node: Callable[[str], None]) -> None:
    folder = written(mirror_of(bucket), whole=b"1")
    store(folder)
    system, place = fs.FileSystem.from_uri(bucket)
    stream = system.open_output_stream(f"{place}/half")
    stream.write(b"2")
    assert names(folder) == ["whole"]
    stream.close()


def test_a_transfer_that_fails_is_tried_again(url: str, on_node: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "PAUSES_S", (0.0, 0.0))
    upload, failures = object_store._upload, [OSError("busy"), OSError("still\nbusy")]

    def fail_first(file: Path, url: str) -> None:
        if failures:
            raise failures.pop()
        upload(file, url)

    monkeypatch.setattr(object_store, "_upload", fail_first)
    folder = written(mirror_of(url), a=b"1")
    store(folder)
    assert names(folder) == ["a"]
    failures += [OSError(f"busy {number}") for number in range(3)]
    with pytest.raises(RunError, match=rf"^{url}/b cannot be written \(busy 0\)\.$"):
        store(written(folder, b=b"2") / "b")


def test_a_folder_in_no_mirror_is_left_alone(tmp_path: Path) -> None:
    folder = written(tmp_path / "shared", a=b"1")
    store(folder)
    assert fetch(folder) == here(folder) == folder
    assert (url_of(folder), shown(folder), names(folder)) == (None, str(folder), ["a"])
    discard(folder / "a")
    discard(folder / "b")
    assert names(folder) == []
    discard(folder)
    assert names(folder) == []


def test_a_path_says_what_it_mirrors(on_node: Callable[[str], None]) -> None:
    path = mirror_of("s3://bucket//some folder/") / "run"
    assert url_of(path) == shown(path) == "s3://bucket/some folder/run"
    on_node("second")
    assert here(path) == mirror_of("s3://bucket/some folder") / "run" != path
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://", "s3:// names no place in a bucket; write it as s3://bucket/folder."),
        ("s3://bucket/../other", "names no place in a bucket"),
        ("s3://bucket?region=x", "names no place in a bucket"),
        ("s3://key:secret@bucket", "a URL must not hold a password"),
    ],
)
def test_a_url_that_is_no_place_is_refused(url: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        mirror_of(url)
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)


def refusal(url: str) -> str:
    with pytest.raises(InputError) as caught:
        check(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_store_that_can_be_written_is_left_as_it_was(url: str) -> None:
    check(url)
    assert names(mirror_of(url)) == []


def test_what_is_wrong_with_a_store_is_one_sentence(
    bucket: str, object_store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(f"{bucket}-not/x") == (
        f"storage: {bucket}-not/x cannot be written (AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation: The "
        "specified bucket does not exist); check the bucket, the credentials and, unless it is the cloud's own, AWS_ENDPOINT_URL."
    )
    assert "storage: oss://bucket: this kind of URL needs another package (Install ossfs" in refusal("oss://bucket/x")
    assert refusal("foo://bucket/x") == "storage: foo://bucket: not a path or URL that can be read (Protocol not known: foo)."
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "Could not connect to server" in refusal("s3://nobody-answers/x")


def test_wrong_credentials_are_one_sentence(bucket: str) -> None:
    def let_in(num_requests: str) -> None:
        url, headers = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, data=num_requests.encode(), headers=headers)).close()

    let_in("0")
    try:
        assert "cannot be written (AWS Error INVALID_ACCESS_KEY_ID" in refusal(f"{bucket}/x")
    finally:
        let_in("inf")
