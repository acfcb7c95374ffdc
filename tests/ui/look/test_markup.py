"""HTML of the page: its content, without any markup that a person wrote."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace

from manta_ui.classify.answer_views import answer_html, in_short
from manta_ui.classify.batch_views import Filter, distribution_html, table_page_html
from manta_ui.classify.compare_views import agreement_html, compared_page_html, metrics_html, side_by_side_html
from manta_ui.classify.row_answers import RowAnswer
from manta_ui.clients.api import Answer, Explanation, ModelInfo, Word
from manta_ui.clients.api_watch import Seen
from manta_ui.look.markup import bars_html, explanation_html, note_html, percent, text_buttons_html
from manta_ui.tabs.page import heading_html, status_html

EVIL = '<script>alert(1)</script> **bold** "quoted" <img src=x onerror=alert(2)>'


def model_of(**changed: object) -> ModelInfo:
    facts = {
        "name": "desk",
        "version": 3,
        "task": "multiclass",
        "num_texts": 1,
        "labels": ("a", "b"),
        "metrics": {"accuracy": 0.75, "f1_micro": 0.8},
        "examples": (("try me",),),
        "uncertain_below": 0.63,
        "target_precision": 0.95,
        "precision": 0.957,
        "coverage": 0.91,
        "guarantee": None,
        "set_coverage": None,
        "takes_feedback": True,
        "candidate": None,
        "created": "2026-01-01T00:00:00+00:00",
    }
    return ModelInfo(**(facts | changed))  # type: ignore[arg-type]  # names of its fields


def answer_of(*labels: str, uncertain: bool = False, scores: dict[str, float] | None = None) -> Answer:
    return Answer(
        labels=list(labels), scores=scores or {"a": 0.9, "b": 0.1}, uncertain=uncertain, label_set=[], version=3, latency_s=0.0123
    )


def words_of(markup: str) -> str:
    """The text of some HTML."""
    return " ".join(re.sub(r"<[^>]*>", " ", markup).split())


def test_an_answer_shows_label_scores_version_and_time() -> None:
    assert words_of(answer_html(answer_of("a"), model_of())) == "a 90% a 90% b 10% version 3 · 12 ms"


def test_an_answer_to_a_text_out_of_scope_says_so_and_how_often_that_is_said() -> None:
    answer = replace(answer_of("a", uncertain=True), is_out_of_scope=True)
    shown = words_of(answer_html(answer, model_of(scope_loss=0.02)))
    assert shown.startswith("Not sure The text is unlike all training texts, so perhaps no label fits it. About 2% of texts that")


def test_an_uncertain_answer_says_what_it_takes_to_be_sure_and_how_often_that_is() -> None:
    shown = words_of(answer_html(answer_of("a", uncertain=True), model_of()))
    assert shown.startswith(
        "Not sure Perhaps a. The model is less than 63% sure. That threshold was chosen on the validation rows, so that 95% of the "
        "answers above it are right. On the test rows, 91% of the answers are above it, and 96% of those are right."
    )
    plain = answer_html(answer_of("a", uncertain=True), model_of(target_precision=None))
    assert "No label is more likely than not." in plain
    guaranteed = answer_html(answer_of("a", uncertain=True), model_of(guarantee=0.9))
    assert "so that 95% of the answers above it are right with a probability of 90%. On the test rows" in guaranteed
    none = answer_html(answer_of("a", uncertain=True), model_of(target_precision=None, guarantee=0.9))
    assert "No threshold keeps the model&#x27;s guarantee, so every answer is uncertain." in none
    several = answer_html(answer_of("a", uncertain=True), model_of(task="multilabel", coverage=None))
    assert "less than 63% sure of all labels together. That threshold" in several


def test_a_label_set_is_shown_with_its_coverage_and_escaped() -> None:
    answer = dataclasses.replace(answer_of("a"), label_set=["a", EVIL])
    shown = answer_html(answer, model_of(set_coverage=0.95))
    assert "Label set (right for 95% of texts): a, &lt;script&gt;" in shown
    assert EVIL not in shown
    assert "Label set" not in answer_html(answer_of("a"), model_of())


def test_several_labels_or_none_apply() -> None:
    assert words_of(answer_html(answer_of("a", "b"), model_of(task="multilabel"))).startswith("a 90% b 10%")
    assert words_of(answer_html(answer_of(), model_of(task="multilabel"))).startswith("No label applies")
    assert [in_short(answer_of("a", "b")), in_short(answer_of()), in_short(answer_of("a", uncertain=True))] == [
        "a 90%, b 10%",
        "no label",
        "not sure",
    ]


def test_only_the_most_probable_labels_have_bars() -> None:
    shown = words_of(bars_html({f"label {number}": 0.05 for number in range(20)}, applied=[], most=10))
    assert "label 9 5%" in shown
    assert "label 10" not in shown
    assert shown.endswith("and 10 less probable labels")


def test_shares_are_certain_only_where_they_are() -> None:
    assert [percent(share) for share in (0, 0.001, 0.05, 0.996, 1)] == ["0%", "<1%", "5%", ">99%", "100%"]


def test_heading_and_status_tell_of_the_model() -> None:
    assert "desk version 3: 2 labels, test accuracy 75.0%" in heading_html(Seen(model=model_of()))
    assert "test micro F1 80.0%" in heading_html(Seen(model=model_of(task="multilabel")))
    assert "no model answers" in heading_html(Seen(problem="gone"))
    assert "gone What you typed stays here" in words_of(status_html(Seen(problem="gone")))
    assert words_of(status_html(Seen(model=model_of()))) == ""


def test_an_explanation_keeps_the_text_and_marks_words() -> None:
    words = [Word(part=0, start=0, end=3, attribution=2.0), Word(part=0, start=4, end=8, attribution=-1.0)]
    shown = explanation_html(("the late <b>", "other"), Explanation(label="a", words=words, complete=False))
    assert '<span class="manta-for" style="--share:1.00" title="+2.00 for">the</span> ' in shown
    assert '<span class="manta-against" style="--share:0.50" title="-1.00 against">late</span> &lt;b&gt;</p>' in shown
    assert '<p class="manta-words">other</p>' in shown
    assert "do not quite add up" in shown


ROWS = [("one",), ("two",), ("three",)]
ANSWERS = [RowAnswer(("a",), 0.9), RowAnswer(("b",), 0.4, uncertain=True), RowAnswer(problem="The row has no text.")]


def test_filters_let_rows_through() -> None:
    def rows(**chosen: object) -> list[bool]:
        return [Filter(**chosen).lets(answer) for answer in ANSWERS]  # type: ignore[arg-type]  # names of its fields

    assert rows() == [True, True, True]
    assert rows(label="a") == [True, False, False]
    assert rows(uncertain_only=True) == [False, True, False]
    assert rows(least=0.5) == [True, False, False]
    assert rows(most=0.5) == [False, True, False]


def test_a_table_has_pages_and_says_which() -> None:
    many, answers = [(f"text {number}",) for number in range(120)], [RowAnswer(("a",), 0.5)] * 120
    assert "Rows 51 to 100 of 120, page 2 of 3" in table_page_html(many, answers, Filter(), page=2)
    assert "Rows 101 to 120 of 120, page 3 of 3" in table_page_html(many, answers, Filter(), page=9)
    assert "No row passes these filters." in table_page_html(many, answers, Filter(label="b"), page=1)
    assert "The row has no text." in table_page_html(ROWS, ANSWERS, Filter(), page=1)


def test_a_table_says_why_an_answer_is_uncertain() -> None:
    foreign = RowAnswer(("a",), 0.9, uncertain=True, is_out_of_scope=True)
    shown = words_of(table_page_html(ROWS, [ANSWERS[0], ANSWERS[1], foreign], Filter(), page=1))
    assert "one a 0.900 yes 2 two b 0.400 not sure 3 three a 0.900 no, unlike all training texts" in shown


def test_the_distribution_counts_labels_and_what_is_not_sure() -> None:
    shown = words_of(distribution_html(ANSWERS))
    assert "a 1 (33%), 0 not sure" in shown
    assert "b 1 (33%), 1 not sure" in shown


def test_two_versions_are_compared_disagreements_first() -> None:
    other = [RowAnswer(("a",), 0.8), RowAnswer(("a",), 0.7), RowAnswer(problem="The row has no text.")]
    figures = words_of(agreement_html(ANSWERS, other, versions=(1, 2)))
    assert figures == "50% of the rows get the same label 1 disagreements 1 not sure in version 1 0 not sure in version 2"
    body = compared_page_html(ROWS, ANSWERS, other, versions=(1, 2), page=1).partition("<tbody>")[2]
    assert body.index("two") < body.index("one")
    assert "The versions disagree." in side_by_side_html((answer_of("a"), model_of()), (answer_of("b"), model_of(version=4)))
    assert "Both versions agree." in side_by_side_html((answer_of("a"), model_of()), (answer_of("a"), model_of(version=4)))
    assert "accuracy 0.7500 0.8000 +0.0500" in words_of(metrics_html(model_of(), model_of(version=4, metrics={"accuracy": 0.8})))


def test_nothing_that_people_or_models_say_is_markup() -> None:
    answer = answer_of(EVIL, scores={EVIL: 0.9})
    model, row = model_of(labels=(EVIL,)), RowAnswer((EVIL,), 0.9)
    explanation = Explanation(label=EVIL, words=[Word(part=0, start=0, end=8, attribution=1.0)], complete=True)
    shown = [
        note_html(EVIL),
        answer_html(answer, model),
        answer_html(answer_of(EVIL, uncertain=True, scores={EVIL: 0.3}), model),
        explanation_html((EVIL, EVIL), explanation),
        text_buttons_html([(EVIL, EVIL)], captions=[EVIL]),
        heading_html(Seen(model=model_of(name=EVIL))),
        status_html(Seen(problem=EVIL)),
        distribution_html([row]),
        table_page_html([(EVIL,)], [row], Filter(), page=1),
        table_page_html([(EVIL,)], [RowAnswer(problem=EVIL)], Filter(), page=1),
        side_by_side_html((answer, model), (answer, model)),
        compared_page_html([(EVIL,)], [row], [row], versions=(1, 2), page=1),
        metrics_html(model_of(metrics={EVIL: 1.0}), model),
    ]
    for markup in shown:
        assert "alert(1)" in markup
        assert "<script" not in markup
        assert "<img" not in markup
        assert '"quoted"' not in markup
