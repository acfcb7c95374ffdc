import json
import time
from io import StringIO

import pytest
from rich.console import Console

from manta import console as module
from manta.console import StatusLines, fitted, people_console, people_table, print_result, working


def test_people_read_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    people_console().print("a sentence")
    assert capsys.readouterr() == ("", "a sentence\n")


def test_programs_read_one_json_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"label": "Grüße", "lines": "a\nb"}, as_json=True)
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    assert json.loads(out) == {"label": "Grüße", "lines": "a\nb"}


def test_without_json_stdout_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"label": "a"}, as_json=False)
    assert capsys.readouterr() == ("", "")


def shown_at(width: int, *, expendable: tuple[str, ...]) -> str:
    table = people_table("job", "status", "started")
    table.add_row("support-desk-tune-20261123-142207-51c0", "SUCCEEDED", "2026-11-23 14:22:07")
    console = Console(file=StringIO(), width=width, soft_wrap=True)
    console.print(fitted(table, console, expendable=expendable))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_table_leaves_out_columns_before_it_breaks_a_name() -> None:
    name, time = "support-desk-tune-20261123-142207-51c0", "2026-11-23 14:22:07"
    assert (name in shown_at(80, expendable=("started",)), time in shown_at(80, expendable=("started",))) == (True, True)
    narrow = shown_at(60, expendable=("started",))
    assert (name in narrow, "SUCCEEDED" in narrow, "started" in narrow) == (True, True, False)


def test_a_name_that_does_not_fit_wraps_whole() -> None:
    shown = shown_at(40, expendable=())
    cells = [line.split("\u2502")[1].strip() for line in shown.splitlines() if line.startswith("\u2502")]
    assert "".join(cells) == "support-desk-tune-20261123-142207-51c0"
    assert "…" not in shown


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the usual pace, and no lines of other tests."""
    for name, value in {"FIRST_LINE_AFTER_S": 0.3, "LINE_EVERY_S": 1.0, "LOOK_EVERY_S": 0.02}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "STATUS_LINES", StatusLines())


def lines_of(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_long_work_says_what_it_does_and_short_work_is_quiet(quick: None) -> None:
    console = Console(file=StringIO(), width=80)
    with working(console, "Counting"):
        pass
    assert lines_of(console) == []
    with working(console, "Reading [rows].csv"):
        time.sleep(0.6)
    with working(console, "Checking"):  # within the pace of the line before
        time.sleep(0.5)
    assert lines_of(console) == ["Reading [rows].csv …"]
    with working(console, "Checking"):
        time.sleep(0.6)
    assert lines_of(console) == ["Reading [rows].csv …", "Checking …"]


def test_it_ends_when_there_is_something_else_to_see(quick: None) -> None:
    console = Console(file=StringIO(), width=80)
    with working(console, "Waiting", until=lambda: True):
        time.sleep(0.6)
    assert lines_of(console) == []


def test_a_terminal_shows_one_spinner_at_a_time(quick: None) -> None:
    console = Console(file=StringIO(), width=80, force_terminal=True)
    with working(console, "Outer"), working(console, "Inner"):
        time.sleep(0.3)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("Outer" in shown, "Inner" in shown, "Outer …" in shown) == (True, False, False)
    with pytest.raises(ValueError, match="spoiled"), working(console, "Spoiled"):
        raise ValueError("spoiled")
    with working(console, "Next"):
        time.sleep(0.2)
    assert "Next" in console.file.getvalue()  # type: ignore[attr-defined]
