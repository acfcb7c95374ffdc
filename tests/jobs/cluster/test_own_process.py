"""A function in a process of its own: its result, its errors, and the loss of the process."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from manta_jobs.cluster.connection import OneNode
from manta_jobs.cluster.own_process import ProcessLostError, run_in_own_process


def test_it_works_and_its_error_is_raised_here(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("rows")
    run_in_own_process(shutil.copy, source, target)
    assert target.read_text() == "rows"
    with pytest.raises(json.JSONDecodeError, match="Expecting"):
        run_in_own_process(json.loads, "{")


def test_what_it_prints_is_no_answer() -> None:
    run_in_own_process(print, "words")
    run_in_own_process(os.write, 1, b"words")  # as a library in C++ prints


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_lost_process_is_an_error(number: signal.Signals) -> None:
    with pytest.raises(ProcessLostError, match=f"signal {number.name}"):
        run_in_own_process(signal.raise_signal, number)
    with pytest.raises(ProcessLostError, match=number.name):
        OneNode().run_apart(signal.raise_signal, number)


def test_a_process_that_is_lost_once_is_started_again(tmp_path: Path) -> None:
    """Renaming a folder works once, as its second name is then taken: the first process ends after it, the second has the error."""
    (tmp_path / "first").mkdir()
    with pytest.raises(FileNotFoundError):
        OneNode().run_apart(exec, f"import os; os.rename({str(tmp_path / 'first')!r}, {str(tmp_path / 'second')!r}); os._exit(3)")
    assert (tmp_path / "second").is_dir()
