"""`manta predict`: input from a URL, and rows that workers on a cluster share."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from manta.console import people_console
from manta.errors import InputError
from manta.inference.predictor import Predictor
from manta_jobs.batch_prediction import predict
from manta_jobs.batch_prediction.locate import locate
from manta_jobs.batch_prediction.workers import Pool, fit_pool

from ..conftest import ran_without_cluster
from .predictions import NUM_ROWS, input_rows, predict_here, rows_in, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class RangeServer(BaseHTTPRequestHandler):
    """A web server that sends a file, and parts of it only if the test allows that."""

    content = b""
    sends_parts = True

    def do_HEAD(self) -> None:
        self._headers(len(self.content))

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        body = self.content
        if asked and self.sends_parts:
            first, last = asked.removeprefix("bytes=").split("-")
            body = body[int(first) : int(last) + 1 if last else None]
        self._headers(len(body))
        self.wfile.write(body)

    def _headers(self, length: int) -> None:
        self.send_response(206 if self.headers.get("Range") and self.sends_parts else 200)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"1"')
        if self.sends_parts:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def web() -> Iterator[Callable[..., str]]:
    """Serve bytes under a name; with `sends_parts=False` as simple servers do."""
    server = HTTPServer(("127.0.0.1", 0), RangeServer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def serve(content: bytes, name: str, *, sends_parts: bool = True) -> str:
        RangeServer.content, RangeServer.sends_parts = content, sends_parts
        return f"http://127.0.0.1:{server.server_address[1]}/{name}"

    yield serve
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet"])
def test_a_url_is_read_in_parts(
    name: str, web: Callable[..., str], predictor: Predictor, small_chunks: None, tmp_path: Path
) -> None:
    content = write_rows(tmp_path / name, input_rows()).read_bytes()
    url = web(content, name)
    assert locate(url)[1][0].signs["ETag"] == '"1"'
    predict_here(url, tmp_path / "out.jsonl", predictor)
    assert [row["id"] for row in rows_in(tmp_path / "out.jsonl")] == [str(number) for number in range(NUM_ROWS)]
    with pytest.raises(InputError, match=r"cannot be read in parts \(.*\); download it and give the file"):
        locate(web(content, name, sends_parts=False))


NODE = {"CPU": 8.0, "memory": 64e9}


@pytest.mark.parametrize(
    ("nodes", "num_chunks", "weights_bytes", "pool"),
    [
        ([NODE], 100, 90e6, Pool(8, 1, 0)),
        ([NODE], 1, 90e6, Pool(1, 8, 0)),
        ([NODE], 3, 90e6, Pool(3, 2, 0)),
        ([NODE], 100, 2e9, Pool(4, 2, 0)),  # 32 GB for workers of 5 GB each: no more than six
        ([NODE], 100, 200e9, Pool(1, 8, 0)),
        ([NODE, {"CPU": 4.0}, {}], 100, 90e6, Pool(12, 1, 0)),
        ([NODE, NODE | {"GPU": 2.0}], 100, 90e6, Pool(2, 1, 1)),
        ([NODE | {"GPU": 4.0}], 1, 90e6, Pool(1, 1, 1)),
    ],
)
def test_workers_are_one_a_gpu_or_one_a_core_if_they_fit(
    nodes: list[dict[str, float]], num_chunks: int, weights_bytes: float, pool: Pool
) -> None:
    assert fit_pool(nodes, num_chunks=num_chunks, weights_bytes=int(weights_bytes)) == pool


def test_csv_goes_to_json_lines_over_ray(
    ray_cluster: None, predictor: Predictor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = input_rows(40)
    rows[7]["text"] = " "
    source, out = write_rows(tmp_path / "in.csv", rows), tmp_path / "out.jsonl"
    model = predictor.artifact
    result = predict(str(model.path), str(source), out=out, text_columns=["text"], overwrite=False, console=people_console())
    answers = rows_in(out)
    assert [row["id"] for row in answers] == [row["id"] for row in rows]
    assert [row["error"] for row in answers if row["error"]] == ["the text is empty"]
    good = [row for row in answers if row["error"] is None]
    wanted = predictor.predict([row["text"] for row in good])
    assert [row["score"] for row in good] == pytest.approx([prediction.score for prediction in wanted], abs=1e-6)
    assert (result.num_rows, result.num_errors, sum(result.labels.values())) == (40, 1, 39)
    assert result.model_version.startswith("desk@sha256:")
    said = capfd.readouterr()
    assert said.out == ""
    assert "core_worker" not in said.err


def test_chunks_of_parquet_are_shared_among_workers(
    ray_cluster: None, predictor: Predictor, small_chunks: None, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.parquet", input_rows(14))  # one row group, two chunks
    out = tmp_path / "out.parquet"
    predict_here(source, tmp_path / "alone.parquet", predictor)
    result = predict(
        str(predictor.artifact.path), str(source), out=out, text_columns=["text"], overwrite=False, console=people_console()
    )
    assert result.num_rows == 14
    there, here = pq.read_table(out), pq.read_table(tmp_path / "alone.parquet")
    assert there.schema.equals(here.schema)
    assert there.drop_columns(["model_version", "score"]).equals(here.drop_columns(["model_version", "score"]))
    assert there.column("score").to_pylist() == pytest.approx(here.column("score").to_pylist(), abs=1e-6)


def test_few_rows_need_no_cluster(predictor: Predictor, tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.csv", input_rows(20)), tmp_path / "out.csv"
    arguments = (str(predictor.artifact.path), str(source), "--out", str(out))
    ran_without_cluster("-m", "manta.cli", "predict", *arguments, folder=tmp_path)
    wanted = predictor.predict([row["text"] for row in input_rows(20)])
    answers = rows_in(out)
    assert [row["label"] for row in answers] == [prediction.label for prediction in wanted]
    assert [float(row["score"]) for row in answers] == pytest.approx([prediction.score for prediction in wanted], abs=1e-6)
