"""Progress of a job, as read from its output."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from manta.cluster.connections import Connection
from manta.cluster.jobs_api import Job, JobsApi
from manta.errors import InputError
from manta_ui.jobs.cluster_jobs import ClusterJobs
from manta_ui.jobs.logs import JobLog, read_log
from manta_ui.jobs.progress import progress_of
from manta_ui.jobs.views import job_html, jobs_html, log_html, outcome
from manta_ui.look.markup import capitalized
from manta_ui.models.promotions import promotion_job

SEARCH = "Search: 6 trials, at most 2 min 00 s, then up to 2 confirming runs (the best trials again with other seeds)"


def job(status: str = "RUNNING", *, verb: str = "train", message: str = "") -> Job:
    return Job(f"far-{verb}-1", status, message, verb, 1_000, None if status in {"PENDING", "RUNNING"} else 66_000)


@pytest.mark.parametrize(
    ("lines", "words", "share"),
    [
        ([], "is starting", None),
        (["Data: 720 train rows", "epoch 1 of 3: 30/90 steps, ETA 2 s"], "trains: epoch 1, 30 of 90 steps, ETA 2 s", 1 / 3),
        (["validating epoch 2 of 3: 60/90 steps, ETA 1 s"], "trains: validating epoch 2, 60 of 90 steps, ETA 1 s", 2 / 3),
        (["epoch 2/4: training loss 1.0, validation loss 1.0"], "trains: 2 of 4 epochs", 0.5),
        ([SEARCH, "trial-001: epoch 1, validation accuracy 0.3444"], "searches: 0 of 8 trials", 0.0),
        (
            [SEARCH, "trial-001: done; ETA after the first steps", "trial-002: failed (a NaN; alas); ETA 2 min 54 s"],
            "searches: 2 of 8 trials, ETA 2 min 54 s",
            0.25,
        ),
    ],
)
def test_progress_is_read_from_the_log(lines: list[str], words: str, share: float | None) -> None:
    found = progress_of(job(), lines)
    assert found.words == words
    assert found.share == (None if share is None else pytest.approx(share))


def test_a_log_is_taken_apart() -> None:
    log = read_log('\x1b[33mone\x1b[0m\n\nMANTA-JOB {"result": {"model": "far"}}\ntwo\nMANTA-JOB {"resu')
    assert log == JobLog(("one", "two"), {"model": "far"}, None)
    assert read_log('MANTA-JOB {"error": "no rows"}').error == "no rows"


def test_of_a_long_log_the_end_is_shown_and_how_much_was_before() -> None:
    log = read_log("".join(f"line {number}\n" for number in range(700)))
    assert len(log.lines) == 700
    shown = log_html(log)
    assert "… 200 lines before\nline 200\n" in shown
    assert "line 699" in shown
    assert log.end().end() == log.end()


def test_what_came_of_a_job_is_told() -> None:
    done = JobLog((), {"model": "far", "version": 3, "artifact": "/shared/artifact"}, None)
    assert outcome(job("SUCCEEDED"), done) == "far@3, on the cluster in /shared/artifact"
    assert outcome(job("RUNNING"), done) == ""
    assert outcome(job("FAILED", message="Traceback\n  boom\n"), JobLog((), None, None)) == "boom"
    assert outcome(job("FAILED"), JobLog((), None, "no rows")) == "no rows"
    refused = JobLog((), {"model": "far", "version": 2, "promoted": False, "action": "refused"}, None)
    assert outcome(job("SUCCEEDED", verb="promote"), refused) == "far@2 is not promoted"


def test_logs_and_sentences_are_shown_as_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    log = JobLog((evil,), None, evil)
    shown = [
        log_html(log),
        job_html(job("FAILED"), log, progress_of(job("FAILED"), [])),
        jobs_html([job("FAILED")], {}, chosen=None),
    ]
    shown.append(jobs_html([job("FAILED")], {job("FAILED").id: log}, chosen=None))
    assert all("<img" not in markup for markup in shown)
    assert "&lt;img" in shown[0]
    assert "is done" in job_html(job("SUCCEEDED"), log, progress_of(job("SUCCEEDED"), []))


def test_no_cluster_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"no cluster answers at http://127.0.0.1:9 \(Connection refused\); is it up") as found:
        ClusterJobs(lambda: JobsApi(Connection("http://127.0.0.1:9", None))).jobs()
    assert capitalized(str(found.value)).startswith("No cluster answers")


def test_who_started_a_job_is_sent_logged_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    received: list[dict[str, object]] = []

    class Cluster(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer([{"submission_id": "x", "status": "RUNNING", "metadata": received[0]["metadata"]}] if received else {})

        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer({})

        def answer(self, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster) as server, caplog.at_level("INFO", "manta.page"):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        jobs = ClusterJobs(lambda: JobsApi(Connection(f"http://127.0.0.1:{server.server_port}", None)))
        order = promotion_job("promote", "desk", 2, registry={}, user="ann")
        jobs.send(order, user="ann")
        (found,) = jobs.jobs()
        server.shutdown()
    assert f"ann started {order.id}" in caplog.text
    assert found.user == "ann"
    assert ">ann<" in jobs_html([found], {}, chosen=None)
