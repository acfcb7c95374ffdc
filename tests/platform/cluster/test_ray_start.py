"""The token file before a start of Ray, and the sentence if the start fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from manta.cluster.ray_start import keep_token_private, starting_ray
from manta.errors import InputError, RunError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_token_is_made_for_its_owner_only_and_kept(home: Path) -> None:
    keep_token_private()
    token = home / ".ray" / "auth_token"
    made = token.read_text()
    assert (token.stat().st_mode & 0o777, len(made)) == (0o600, 64)
    keep_token_private()
    assert token.read_text() == made
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


def test_a_token_that_ray_has_made_is_closed_to_others(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("made by ray")
    token.chmod(0o644)
    keep_token_private()
    assert (token.read_text(), token.stat().st_mode & 0o777) == ("made by ray", 0o600)


def test_a_token_from_the_environment_needs_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    keep_token_private()
    assert list(home.iterdir()) == []


def test_what_goes_wrong_while_ray_starts_is_one_sentence(home: Path) -> None:
    with (
        pytest.raises(
            RunError, match=r"^Ray did not start on this machine \(Exception: The current node timed out\); .*RAY_ADDRESS"
        ),
        starting_ray(None),
    ):
        raise Exception("The current node timed out")
    with (
        pytest.raises(RunError, match=r"^no Ray cluster answers at head:6379 \(ConnectionError: refused\)\.$"),
        starting_ray("head:6379"),
    ):
        raise ConnectionError("refused")
    with pytest.raises(InputError, match=r"^mine$"), starting_ray(None):
        raise InputError("mine")
