"""The traffic split: the request key decides which version answers, always in the same way.

The functions depend on their arguments alone, so that every replica decides alike without asking the others.
"""

from __future__ import annotations

import hashlib


def candidate_answers(key: str, *, percent: float, version: int) -> bool:
    """Tell whether the candidate answers requests of this key.

    A key that gets the candidate at 10% also gets it at 20%. Each version has a different share of the keys, so that a new
    version does not always reach the same people first.
    """
    return share_of(f"{version}:{key}") < percent


def share_of(key: str) -> float:
    """Return the position of a key between 0 and 100: evenly spread, and always the same for a key."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100
