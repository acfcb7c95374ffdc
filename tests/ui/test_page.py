"""What the page shows, without a browser: answers, refusals and an API that is down."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import gradio as gr
import pytest

from manta_ui.client import ApiError, ServeClient
from manta_ui.page import build_page, classify_text, describe_model, example_at, heading_html, note_html


class Api(BaseHTTPRequestHandler):
    """Answers as the Serve API does, so that the client's side of the contract is tested alone."""

    def do_GET(self) -> None:
        model = {
            "name": "<b>desk</b>",
            "version": 3,
            "task": "binary",
            "num_texts": 1,
            "labels": ["a", "b"],
            "metrics": {"accuracy": 0.75, "f1_micro": 0.75},
            "abstain": {"below": 0.5, "target_precision": None, "precision": None, "coverage": None},
            "examples": ["try me"],
        }
        if "calibrated" in self.path:
            model["abstain"] = {"below": 0.63, "target_precision": 0.95, "precision": 0.957, "coverage": 0.91}
        if self.path.startswith("/pairs"):
            model |= {"task": "multilabel", "num_texts": 2, "examples": [["try", "me"], ["and", "me"]]}
            model["metrics"] = {"accuracy": 0.5, "f1_micro": 0.8}
        self._answer(200, model)

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["texts"][0]
        if text == "refuse":
            self._answer(422, {"error": {"code": "invalid_request", "message": "Too long."}})
            return
        scores = {"a": 0.4, "b": 0.3} if text == "unsure" else {"a": 0.9, "b": 0.1}
        labels = {"both": ["a", "b"], "one": ["a"]}.get(text[1], []) if isinstance(text, list) else ["a"]
        prediction = {
            "labels": labels,
            "label": "a",
            "score": scores["a"],
            "scores": scores,
            "uncertain": text in ("unsure", ["unsure", "uncertain"]),
        }
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
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def client(address: str) -> ServeClient:
    return ServeClient(address)


@pytest.fixture(scope="module")
def pairs(address: str) -> ServeClient:
    """In front of a multilabel model of text pairs."""
    return ServeClient(f"{address}pairs")


def test_an_answer_shows_label_scores_version_and_time(client: ServeClient) -> None:
    scores, note = classify_text(client, "my text")
    assert scores == {"a": 0.9, "b": 0.1}
    assert "a, 90% (version 3," in note
    assert " ms)" in note


def test_an_uncertain_answer_says_so(client: ServeClient) -> None:
    _, note = classify_text(client, "unsure")
    assert "Not sure: no label is more likely than not (version 3," in note


def test_an_uncertain_answer_of_a_calibrated_model_says_what_it_takes_to_be_sure(address: str) -> None:
    _, note = classify_text(ServeClient(f"{address}calibrated"), "unsure")
    assert "Not sure: perhaps a, 40%; for 95% right answers, this model has to be 63% sure (version 3," in note
    _, note = classify_text(ServeClient(f"{address}pairs/calibrated"), "unsure", "uncertain")
    assert "for 95% right answers, this model has to be 63% sure of all labels together (version 3," in note


def test_a_refusal_is_shown_in_the_apis_words(client: ServeClient) -> None:
    scores, note = classify_text(client, "refuse")
    assert scores is None
    assert "Too long." in note
    assert "manta-error" in note


def test_blank_text_asks_for_one(client: ServeClient) -> None:
    assert "Type a text first." in classify_text(client, "  ")[1]


def test_heading_and_examples_come_from_the_model(client: ServeClient) -> None:
    heading, note, second, bars, example_texts, *examples = describe_model(client)
    assert "version 3: 2 labels, test accuracy 75.0%" in heading
    assert "&lt;b&gt;desk&lt;/b&gt;" in heading
    assert "manta-error" not in note
    assert [button.value for button in examples if button.visible] == ["try me"]
    assert not second.visible
    assert bars.show_heading
    assert example_at(0, example_texts) == ("try me", "")


def test_a_model_of_pairs_has_a_second_box_and_examples_of_two_texts(pairs: ServeClient) -> None:
    heading, _, second, bars, example_texts, *examples = describe_model(pairs)
    assert "2 labels, test micro F1 80.0%" in heading
    assert second.visible
    assert not bars.show_heading
    assert [button.value for button in examples if button.visible] == ["try — me", "and — me"]
    assert example_at(1, example_texts) == ("and", "me")


def test_both_texts_are_asked_about_and_the_labels_that_apply_are_named(pairs: ServeClient) -> None:
    assert "2 labels apply: a 90%, b 10% (version 3," in classify_text(pairs, "left", "both")[1]
    assert "No label applies (version 3," in classify_text(pairs, "left", "none")[1]
    assert "a, 90% (version 3," in classify_text(pairs, "left", "one")[1]


def test_the_page_is_built_with_both_boxes(pairs: ServeClient) -> None:
    boxes = [block for block in build_page(pairs).blocks.values() if isinstance(block, gr.Textbox)]
    assert [(box.label, box.visible) for box in boxes] == [("Text", True), ("Second text", False)]


def test_no_api_is_one_clear_sentence() -> None:
    gone = ServeClient("http://127.0.0.1:9")
    with pytest.raises(ApiError, match="manta serve"):
        gone.model()
    assert "No model answers at http://127.0.0.1:9" in classify_text(gone, "text")[1]
    assert "No model answers" in describe_model(gone)[1]


def test_everything_shown_is_escaped() -> None:
    assert "<script>" not in note_html("<script>alert(1)</script>")
    assert heading_html(None).startswith("<h1>")
