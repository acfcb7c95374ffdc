"""Duration of a login."""

from __future__ import annotations

from manta_ui.access.sessions import SESSION_S, Sessions


def test_a_session_ends_by_itself_and_with_its_user() -> None:
    now, users = [0.0], {"ann", "bob"}
    sessions = Sessions(users.__contains__, clock=lambda: now[0])
    sessions["a"], sessions["b"] = "ann", "bob"
    assert (sessions.get("a"), sessions.get("b"), sessions.get("c"), sessions.get(None)) == ("ann", "bob", None, None)
    users.remove("bob")
    assert sessions.get("b") is None
    now[0] = SESSION_S - 1
    assert sessions.get("a") == "ann"
    now[0] = SESSION_S
    assert sessions.get("a") is None
    sessions["c"] = "ann"
    assert dict(sessions) == {"c": "ann"}  # nothing of the others is kept
