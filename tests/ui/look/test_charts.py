"""Charts and tables by themselves: where points stand, what is named, and that nothing in them can run."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from manta_ui.look.charts import HEIGHT, LEFT, TOP, WIDTH, Axis, Dot, Series, line_chart, number, scatter_chart
from manta_ui.look.tables import Cell, facts_html, figure_cell, table_html

EVIL = "<script>alert(1)</script>\"'&"


def parsed(markup: str) -> ET.Element:
    return ET.fromstring(markup)  # noqa: S314  # what we wrote ourselves


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("x", 0.0, 1.0), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Axis("x", 0.94, 4.18, whole=True), [1, 2, 3, 4]),
        (Axis("x", 9e-5, 1.1e-2, is_log=True), [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2]),
    ],
)
def test_ticks_are_round_numbers_within_the_axis(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


def test_a_log_axis_gives_equal_ratios_equal_room() -> None:
    axis = Axis.around("x", [1e-4, 1e-2], is_log=True)
    low, middle, high = (axis.share(value) for value in (1e-4, 1e-3, 1e-2))
    assert middle - low == pytest.approx(high - middle)
    assert 0 < low < high < 1


def test_an_axis_of_one_value_or_none_has_room() -> None:
    for values in ([3.0], [0.0], []):
        axis = Axis.around("x", values)
        assert axis.low < axis.high
        assert axis.ticks()
    assert Axis.around("x", [-1.0, 5.0], is_log=True).low > 0


def test_each_point_stands_where_it_belongs_and_is_named() -> None:
    axis = Axis("epoch", 0.0, 2.0)
    chart = parsed(line_chart("Loss", [Series("training", [(0, 0), (2, 2), (1, float("nan"))])], across=axis, up=axis))
    (circles,) = [chart.findall("svg/circle")]
    assert [(float(each.attrib["cx"]), float(each.attrib["cy"])) for each in circles] == [(LEFT, HEIGHT - 46), (WIDTH - 14, TOP)]
    assert circles[1].findtext("title") == "training: epoch 2, epoch 2"
    assert "training" in "".join(chart.find("ul").itertext())  # type: ignore[union-attr]


def test_series_differ_by_more_than_colour() -> None:
    axis = Axis("x", 0.0, 1.0)
    chart = parsed(line_chart("t", [Series(str(style), [(0, 0), (1, 1)], style=style) for style in range(3)], across=axis, up=axis))
    assert [len(chart.findall(f"svg/{kind}")) for kind in ("circle", "polygon")] == [2, 4]
    assert len({line.attrib["class"] for line in chart.findall("svg/polyline")}) == 3


def test_the_scatters_colours_go_from_low_to_high_and_the_best_has_a_ring() -> None:
    dots = [Dot(0.1, 0.1, 0.5, "low"), Dot(0.2, 0.2, 0.9, "high", is_best=True), Dot(0.3, 0.3, None, "none")]
    axis = Axis("x", 0.0, 1.0)
    chart = parsed(scatter_chart("t", dots, across=axis, up=axis, value_label="accuracy"))
    fills = {group.findtext("title"): group.findall("circle")[-1].attrib["fill"] for group in chart.findall("svg/g")}
    assert fills == {"low": "#482878", "high": "#b5de2b", "none": "none"}
    assert [len(group.findall("circle")) for group in chart.findall("svg/g")] == [1, 1, 2]


def test_nothing_in_a_chart_or_table_can_run() -> None:
    axis = Axis(EVIL, 0.0, 1.0)
    shown = [
        line_chart(EVIL, [Series(EVIL, [(0, 0), (1, 1)])], across=axis, up=axis),
        scatter_chart(EVIL, [Dot(0.5, 0.5, 1.0, EVIL)], across=axis, up=axis, value_label=EVIL),
        table_html(EVIL, [EVIL], [[Cell(EVIL, hint=EVIL)]], caption=EVIL),
        facts_html([(EVIL, EVIL)]),
    ]
    for markup in shown:
        assert "<script" not in markup
        assert EVIL in "".join(parsed(f"<div>{markup}</div>").itertext())


def test_cells_sort_by_their_number_and_the_marked_row_stands_out() -> None:
    rows = [[Cell("b"), figure_cell(0.25, digits=4)], [Cell("a"), figure_cell(None)]]
    table = parsed(table_html("t", ["name", "score"], rows, caption="two", marked=1))
    values = [cell.attrib.get("data-value") for cell in table.iter("td")]
    assert values == [None, "0.25", None, "-inf"]
    assert [row.attrib.get("class") for row in table.iter("tr")] == [None, None, "manta-marked"]
    assert all(head.find("button") is not None for head in table.iter("th"))


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0003, "3e-4"), (1.5e-5, "1.5e-5"), (0.12345, "0.1235"), (12, "12"), (-0.25, "-0.25")]
)
def test_figures_are_short(value: float, text: str) -> None:
    assert number(value) == text
    assert re.fullmatch(r"[-0-9.e]+", number(value))
