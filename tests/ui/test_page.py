"""What the page shows, without a browser: answers, refusals and an API that is down."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from manta_ui.client import ApiError, ServeClient
from manta_ui.page import classify_text, describe_model, heading_html, note_html


class Api(BaseHTTPRequestHandler):
    """Answers as the Serve API does, so that the client's side of the contract is tested alone."""

    def do_GET(self) -> None:
        model = {"name": "<b>desk</b>", "version": 3, "labels": ["a", "b"], "metrics": {"accuracy": 0.75}, "examples": ["try me"]}
        self._answer(200, model)

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["texts"][0]
        if text == "refuse":
            self._answer(422, {"error": {"code": "invalid_request", "message": "Too long."}})
            return
        scores = {"a": 0.4, "b": 0.3} if text == "unsure" else {"a": 0.9, "b": 0.1}
        prediction = {"label": "a", "score": scores["a"], "scores": scores, "uncertain": text == "unsure"}
        self._answer(200, {"model": {"name": "desk", "version": 3}, "predictions": [prediction]})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep quiet."""


@pytest.fixture(scope="module")
def client() -> Iterator[ServeClient]:
    server = HTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield ServeClient(f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()


def test_an_answer_shows_label_scores_version_and_time(client: ServeClient) -> None:
    scores, note = classify_text(client, "my text")
    assert scores == {"a": 0.9, "b": 0.1}
    assert "a, 90% (version 3," in note
    assert " ms)" in note


def test_an_uncertain_answer_says_so(client: ServeClient) -> None:
    _, note = classify_text(client, "unsure")
    assert "Not sure" in note


def test_a_refusal_is_shown_in_the_apis_words(client: ServeClient) -> None:
    scores, note = classify_text(client, "refuse")
    assert scores is None
    assert "Too long." in note
    assert "manta-error" in note


def test_blank_text_asks_for_one(client: ServeClient) -> None:
    assert "Type a text first." in classify_text(client, "  ")[1]


def test_heading_and_examples_come_from_the_model(client: ServeClient) -> None:
    heading, note, *examples = describe_model(client)
    assert "version 3: 2 labels, test accuracy 75.0%" in heading
    assert "&lt;b&gt;desk&lt;/b&gt;" in heading
    assert "manta-error" not in note
    assert [button.value for button in examples if button.visible] == ["try me"]


def test_no_api_is_one_clear_sentence() -> None:
    gone = ServeClient("http://127.0.0.1:9")
    with pytest.raises(ApiError, match="manta serve"):
        gone.model()
    assert "No model answers at http://127.0.0.1:9" in classify_text(gone, "text")[1]
    assert "No model answers" in describe_model(gone)[1]


def test_everything_shown_is_escaped() -> None:
    assert "<script>" not in note_html("<script>alert(1)</script>")
    assert heading_html(None).startswith("<h1>")
