"""The queue of the tab Correct: its order, what is said about rows, and how a row is shown."""

from __future__ import annotations

from dataclasses import replace

from manta_ui.classify.row_answers import RowAnswer
from manta_ui.classify.row_files import RowFile
from manta_ui.clients.api import Answer, SampledText
from manta_ui.labels.review_queue import NUM_RANDOM, Classified, Queue, Sampled
from manta_ui.labels.review_views import labels_on_keys, last_html, queue_html

from ..look.test_markup import model_of

EVIL = "<img src=x onerror=alert(1)>"
ANSWERS = [
    RowAnswer(("a",), 0.9),
    RowAnswer(("b",), 0.4, uncertain=True),
    RowAnswer(problem="The row has no text."),
    RowAnswer(("a",), 0.3, uncertain=True),
]
ANSWER = Answer(labels=["a"], scores={"a": 0.6, "b": 0.4}, uncertain=True, label_set=[], version=3, latency_s=0.01)


def queue() -> Queue:
    texts = [(EVIL,), ("two",), ("",), ("four",)]
    file = RowFile("rows.csv", ("text",), [{"text": text} for (text,) in texts])
    return Queue.of(Classified(file.name, texts, ANSWERS, model_of(), file, seconds=1.0))


def test_the_least_sure_row_comes_first_and_a_row_without_an_answer_never() -> None:
    found = queue()
    assert found.order == (3, 1, 0)
    assert (found.row, found.moved(1).row, found.moved(-1).row, found.moved(9).row) == (3, 1, 3, None)
    assert (found.turned_to(0).row, found.turned_to(2).row) == (0, 3)


def test_a_judgment_is_kept_and_the_next_row_shown() -> None:
    heard = queue().heard(3, "b")
    assert (heard.said, heard.row) == ({3: "b"}, 1)
    assert "kept as b" in queue_html(heard.moved(-1), ANSWER)
    assert "1 of 3 rows of rows.csv were judged" in last_html(heard.moved(9))


def test_each_label_has_a_key_and_of_many_the_most_probable() -> None:
    many = [f"label {index}" for index in range(20)]
    scores = dict.fromkeys(reversed(many), 0.05)
    assert labels_on_keys(["b", "a"], ANSWER) == ["b", "a"]
    assert labels_on_keys(many, replace(ANSWER, scores=scores)) == list(reversed(many))[:9]


def test_texts_are_shown_as_text() -> None:
    shown = queue_html(queue().turned_to(0), ANSWER)
    assert EVIL not in shown
    assert "&lt;img" in shown


def sampled(*corrections: str | None) -> Sampled:
    """Texts that are less sure one by one, with what people said of the first ones."""
    known = [replace(ANSWER, scores={"a": 0.9 - index / 100, "b": 0.1 + index / 100}, uncertain=False) for index in range(40)]
    said = [*corrections, *[None] * (40 - len(corrections))]
    rows = [SampledText((f"text {index}",), answer, said[index]) for index, answer in enumerate(known)]
    return Sampled.of(rows, model=model_of())


def test_random_texts_keep_their_order_and_begin_where_nobody_has_judged() -> None:
    found = Queue.at_random(sampled("a", "b", None, "a"))
    assert found.order == tuple(range(NUM_RANDOM))
    assert (found.row, found.num_right) == (2, 2)
    assert found.said == {0: "a", 1: "b", 3: "a"}


def test_of_a_sample_the_least_sure_texts_without_a_judgment_come_first() -> None:
    found = Queue.of(sampled("a", "b"))
    assert found.order == tuple(range(39, 1, -1))
    assert not found.is_random


def test_judgments_on_random_texts_tell_the_accuracy_with_an_interval() -> None:
    found = Queue.at_random(sampled())
    assert "none judged" in queue_html(found, ANSWER)
    for index in range(NUM_RANDOM):
        found = found.heard(index, "a" if index < 27 else "b")
    # Wilson's interval of 27 of 30
    assert "27 of 30 were right: an accuracy between 74% and 97%, with 95% confidence." in last_html(found)


def test_a_sample_with_nothing_left_to_judge_has_no_row() -> None:
    assert Queue.at_random(sampled(*["a"] * 40)).row is None
    assert Queue.of(sampled(*["a"] * 40)).row is None
