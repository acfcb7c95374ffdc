"""Bars, tables and lines that rich draws for a terminal, as the output of a notebook's cell."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.progress import Progress

from manta.console import people_table
from manta.notebook import HEIGHT, SHOW_EVERY_S, WIDTH, CellOutput


def console_showing(shown: list[str]) -> Console:
    return Console(
        file=CellOutput(shown.append), force_terminal=True, color_system=None, soft_wrap=True, width=WIDTH, height=HEIGHT
    )


def test_a_bar_changes_in_place_and_lines_stay_above_it() -> None:
    shown: list[str] = []
    console = console_showing(shown)
    console.print("[green]Data:[/] 240 rows")
    with Progress(console=console, auto_refresh=False) as bars:
        task = bars.add_task("epoch 1", total=3)
        for step in range(3):
            bars.update(task, advance=1, refresh=True)
            bars.console.print(f"step {step}")
    console.file.show()  # type: ignore[attr-defined]
    lines = shown[-1].splitlines()
    assert lines[:4] == ["Data: 240 rows", "step 0", "step 1", "step 2"]
    assert len(lines) == 5
    assert lines[4].startswith("epoch 1 ━")
    assert "100%" in lines[4]


def test_a_table_takes_the_place_of_the_one_before() -> None:
    shown: list[str] = []
    console = console_showing(shown)
    with Live(console=console, auto_refresh=False) as live:
        for names in (["t1"], ["t1", "t2"], ["t3"]):
            table = people_table("trial")
            for name in names:
                table.add_row(name)
            live.update(table, refresh=True)
    console.file.show()  # type: ignore[attr-defined]
    assert ("t3" in shown[-1], "t1" in shown[-1], shown[-1].count("trial")) == (True, False, 1)


def test_many_lines_are_shown_together_and_the_last_one_soon() -> None:
    shown: list[str] = []
    console = console_showing(shown)
    for number in range(200):
        console.print(number)
    time.sleep(SHOW_EVERY_S * 3)
    assert shown[-1].splitlines() == [str(number) for number in range(200)]
    assert len(shown) < 100
