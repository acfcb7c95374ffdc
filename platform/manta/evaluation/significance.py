"""McNemar's test of two models on the same rows."""

from __future__ import annotations


def mcnemar(num_gained: int, num_lost: int) -> float:
    """Return the exact one-sided probability that chance alone gains at least as many rows and loses at most as many.

    Only the candidate has `num_gained` rows right, only the champion `num_lost`.
    """
    from scipy.special import bdtrc  # half a second to import

    return float(bdtrc(num_gained - 1, num_gained + num_lost, 0.5))  # the upper tail of a fair coin
