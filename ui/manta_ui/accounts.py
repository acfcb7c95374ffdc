"""Who may log in to the page, and who of them may promote."""

from __future__ import annotations


class Accounts:
    """The people of one file."""

    def may_promote(self, user: str) -> bool:
        """Whether this person may change which version answers."""
        return False
