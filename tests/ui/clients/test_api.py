"""The page's side of the API, against the API itself on a real socket."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta_ui.classify.row_answers import ROWS_A_REQUEST, answer_rows, chunks
from manta_ui.classify.snippets import as_curl, as_python
from manta_ui.clients.api import ApiError, ServeClient
from manta_ui.clients.api_watch import ApiWatch

from ...serve.live_api import live_api
from ...serve.untrained import artifact_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
LABELS = LabelSpace.from_labels(["account", "billing", "delivery"])
TEXTS = ["the parcel is late", "my password", 'it\'s "charged" $twice `now`']
SETTINGS = {"max_texts": 40, "max_queued_texts": 300, "max_characters": 200}


@dataclass(frozen=True)
class Live:
    """A running API and what it answers with."""

    url: str
    predictor: Predictor


@pytest.fixture(scope="module")
def live(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("client")
    experiment = {"name": "desk", "data": {"train": "rows.csv"}}
    artifact = artifact_of(tiny_model, folder / "model", labels=LABELS, config=experiment)
    with live_api(folder / "model", folder / "storage", log=folder / "log", settings=SETTINGS | {"feedback": True}) as (_, url):
        yield Live(url, Predictor(artifact, device="cpu"))


@pytest.fixture(scope="module")
def api(live: Live) -> ServeClient:
    return ServeClient(live.url)


def test_a_model_is_described(api: ServeClient) -> None:
    model = api.model()
    assert (model.name, model.version, model.task, model.num_texts) == ("desk", 1, "multiclass", 1)
    assert model.labels == LABELS.names
    assert model.examples == (("the parcel is late",),)
    assert (model.takes_feedback, model.candidate, model.is_multilabel) == (True, None, False)
    assert api.model(version=1) == model


def test_answers_are_the_predictors_with_version_and_time(api: ServeClient, live: Live) -> None:
    for text, expected in zip(TEXTS, live.predictor.predict(TEXTS), strict=True):
        answer = api.classify(text)
        assert answer.scores == pytest.approx(expected.scores, abs=1e-5)
        assert (answer.labels, answer.uncertain, answer.version) == ([expected.label], expected.uncertain, 1)
        assert answer.latency_s > 0


def test_the_words_of_an_explanation_are_those_of_the_text(api: ServeClient) -> None:
    explanation = api.explain(TEXTS[0], version=1)
    assert [TEXTS[0][word.start : word.end] for word in explanation.words] == TEXTS[0].split()
    assert explanation.label == api.classify(TEXTS[0]).labels[0]


def test_a_refusal_keeps_the_apis_words_its_status_and_its_field(api: ServeClient) -> None:
    with pytest.raises(ApiError, match="200 characters") as caught:
        api.classify_all([("short",), ("long " * 50,)])
    assert (caught.value.status, caught.value.field) == (422, "texts.1")
    with pytest.raises(ApiError, match="single texts"):
        api.classify("one", "two")


def test_feedback_is_kept_once_and_summed_up(api: ServeClient) -> None:
    assert api.say(("late again",), answer="billing", correction="delivery", version=1)
    assert not api.say(("late again",), answer="billing", correction="delivery", version=1)
    found = api.feedback()
    assert (found.count, found.since_champion, found.corrected, found.by_label) == (1, 1, 1, {"delivery": 1})
    assert found.experiment["data"]["feedback"].endswith("feedback/desk/feedback.sqlite")


def test_many_rows_are_each_answered_once_in_their_order(api: ServeClient, live: Live) -> None:
    # More than this API takes in a request, so that requests are halved, and among them rows that it refuses.
    rows = [(f"{TEXTS[number % 3]} {number}",) for number in range(300)]
    rows[7], rows[150], rows[200], rows[210] = (" \u200b",), ("long " * 50,), ("half \ud83d",), ("",)
    faults = {210: "line 211: not valid JSON"}
    answers = [answer for some in answer_rows(api, rows, version=1, faults=faults) for answer in some]
    assert len(answers) == 300
    assert answers[7].problem == "The row has no text."
    assert "200 characters" in str(answers[150].problem)
    assert answers[200].problem == "The text holds half of a surrogate pair, which is no character."
    assert answers[210].problem == "Line 211: not valid JSON."
    fine = [index for index in range(300) if index not in (7, 150, 200, 210)]
    for index, expected in zip(fine, live.predictor.predict([rows[index][0] for index in fine]), strict=True):
        assert answers[index].labels == expected.labels
        assert answers[index].score == pytest.approx(expected.score, abs=1e-5)
        assert answers[index].problem is None


def test_requests_are_neither_too_long_nor_too_many() -> None:
    rows = [("x" * 150_000,), *[("short",)] * 300, ("x" * 150_000,), ("x" * 300_000,)]
    found = list(chunks(rows))
    assert [row for chunk in found for row in chunk] == rows
    assert max(map(len, found)) == ROWS_A_REQUEST
    assert all(len(chunk) == 1 or sum(len(row[0]) for row in chunk) <= 200_000 for chunk in found)
    assert list(chunks([])) == []


@pytest.mark.parametrize("text", TEXTS)
def test_the_snippets_ask_the_same(live: Live, text: str) -> None:
    expected = repr(live.predictor.predict([text])[0].label)
    curl = subprocess.run(["sh", "-c", as_curl((text,), url=live.url, needs_key=False)], capture_output=True, text=True, check=True)
    assert f'"label":"{expected[1:-1]}"' in curl.stdout
    program = as_python((text,), url=live.url, needs_key=False)
    python = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"'label': {expected}" in python.stdout


def test_snippets_name_the_key_and_do_not_hold_it() -> None:
    assert 'Authorization: Bearer $MANTA_API_KEY"' in as_curl(("a", "b"), url="http://x", needs_key=True)
    assert '"Bearer " + os.environ["MANTA_API_KEY"]' in as_python(("a", "b"), url="http://x", needs_key=True)
    compile(as_python(("a", "b"), url="http://x", needs_key=True), "snippet", "exec")


def test_no_api_is_one_clear_sentence_and_is_seen() -> None:
    gone = ServeClient("http://127.0.0.1:9/")
    with pytest.raises(ApiError, match=r"No model answers at http://127\.0\.0\.1:9\. Start it with: manta serve"):
        gone.model()
    seen = ApiWatch(gone).look()
    assert seen.model is None
    assert "No model answers" in str(seen.problem)


def test_the_watch_sees_the_model(api: ServeClient) -> None:
    assert ApiWatch(api).look().model == api.model()


def test_something_else_at_the_address_is_told(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split()[5]
            with pytest.raises(ApiError, match="not as Manta's API does"):
                ServeClient(f"http://127.0.0.1:{port}").model()
        finally:
            server.kill()
