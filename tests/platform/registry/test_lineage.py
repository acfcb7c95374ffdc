"""The code that made a version, and the line of champions."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from manta.registry.decisions import Decision, line_of_champions
from manta.registry.lineage import code_version

if TYPE_CHECKING:
    pass


def test_the_code_is_known_by_its_commit_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-C", str(tmp_path))
        return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "train.py").write_text("1")
    git("add", "train.py")
    git("commit", "--quiet", "-m", "first")
    monkeypatch.chdir(tmp_path)
    found = code_version()
    assert (found["git_commit"], found["git_dirty"], found["git_folder"]) == (git("rev-parse", "HEAD"), "false", tmp_path.name)
    assert found["package_version"]
    (tmp_path / "train.py").write_text("2")
    assert code_version()["git_dirty"] == "true"
    monkeypatch.setenv("PATH", "")
    assert set(code_version()) == {"package_version"}


@pytest.mark.parametrize(
    ("actions", "line"),
    [
        ([], []),
        ([("first", 1), ("refused", 2), ("promoted", 3)], [1, 3]),
        ([("first", 1), ("promoted", 2), ("forced", 3), ("rolled back", 2)], [1, 2]),
        ([("first", 1), ("promoted", 2), ("forced", 3), ("rolled back", 1)], [1]),
        ([("first", 1), ("promoted", 2), ("promoted", 1), ("rolled back", 2), ("rolled back", 1)], [1]),
    ],
)
def test_the_line_of_champions_follows_the_log(actions: list[tuple[Any, int]], line: list[int]) -> None:
    assert line_of_champions([Decision(action=action, version=version) for action, version in actions]) == line


def test_a_champion_that_the_log_did_not_see_is_in_the_line() -> None:
    assert line_of_champions([Decision(action="promoted", version=5, previous=4)]) == [4, 5]
