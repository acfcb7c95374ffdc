import json
from io import StringIO

import pytest
from rich.console import Console

from manta.console import fitted, people_console, people_table, print_result


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
