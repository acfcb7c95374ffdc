"""Confidence interval of a share, such as an accuracy (Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953)."""

from __future__ import annotations

import math

NORMAL_95 = 1.959964


def wilson_interval(num_right: int, num_rows: int) -> tuple[float, float]:
    """Return the 95% confidence interval of a share, from `num_right` of `num_rows`; 0 to 1 for no rows."""
    if num_rows == 0:
        return 0.0, 1.0
    share, square = num_right / num_rows, NORMAL_95**2
    middle = (share + square / (2 * num_rows)) / (1 + square / num_rows)
    reach = math.sqrt(share * (1 - share) / num_rows + square / (4 * num_rows**2)) * NORMAL_95 / (1 + square / num_rows)
    # Rounding would put a bound of 0 or 1 a little inside, and slices without a mistake below the share of all rows.
    return 0.0 if num_right == 0 else middle - reach, 1.0 if num_right == num_rows else middle + reach
