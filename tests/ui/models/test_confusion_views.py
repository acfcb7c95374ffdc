"""The confusion matrix: the labels that are confused come first, and each cell says in words what it counts."""

from __future__ import annotations

from manta_ui.models.confusion_views import by_confusion, confusion_html

COUNTS = [[9, 0, 0], [0, 5, 4], [0, 1, 8]]


def test_labels_with_most_wrong_answers_come_first() -> None:
    assert by_confusion(COUNTS) == [1, 2, 0]
    shown = confusion_html({"labels": ["a", "b", "c"], "confusion": COUNTS})
    assert shown.index('scope="row" title="b"') < shown.index('scope="row" title="c"') < shown.index('scope="row" title="a"')
    assert 'class="manta-wrong" style="--share:0.44" title="b → c: 4 of 9 rows">4<' in shown
    assert ">0<" not in shown


def test_many_labels_have_their_most_frequent_confusions_in_words() -> None:
    labels = [f"a_long_name_{index}" for index in range(12)]
    counts = [[10 if row == column else row if column == 0 else 0 for column in range(12)] for row in range(12)]
    counts[0][0] = 10
    table = confusion_html({"labels": labels, "confusion": counts}).partition("Most frequent confusions")[2]
    assert table.count("<tr") == 1 + 8
    assert table.index("a_<wbr/>long_<wbr/>name_11") < table.index("a_<wbr/>long_<wbr/>name_10")
    assert "Most frequent" not in confusion_html({"labels": ["a", "b"], "confusion": [[3, 1], [1, 3]]})
