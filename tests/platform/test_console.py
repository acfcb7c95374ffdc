import json

import pytest

from manta.console import people_console, print_result


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
