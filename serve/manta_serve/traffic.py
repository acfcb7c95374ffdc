"""Which version a request meets: a share of the traffic by key, the same for the same key.

All of it is functions of the key alone, so that every replica decides alike without asking the others.
"""

from __future__ import annotations

import hashlib


def candidate_answers(key: str, *, percent: float, version: int) -> bool:
    """Whether the candidate answers requests of this key.

    A key that meets it at 10% also does at 20%. Another version has another share of the keys, so that it is not always the same
    people who try what is new.
    """
    return share_of(f"{version}:{key}") < percent


def share_of(key: str) -> float:
    """Where a key lies between 0 and 100: evenly spread, and always the same."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100
