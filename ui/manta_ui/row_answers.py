"""Many rows through the API, in requests of a size that it takes: each row is answered once, all of them by one version."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta_ui.client import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from manta_ui.client import ServeClient, Text

ROWS_A_REQUEST = 128
CHARACTERS_A_REQUEST = 200_000
"""Far below the API's default of a MiB, also where each character takes four bytes."""
REQUESTS_AT_ONCE = 2
"""One is computed while the next one is on its way."""
MOST_WAITS = 20
LONGEST_WAIT_S = 60.0
BUSY, UNAVAILABLE = 429, 503
REFUSED, TOO_LARGE, TOO_SLOW = 422, 413, 504


@dataclass(frozen=True)
class RowAnswer:
    """What became of one row."""

    labels: tuple[str, ...] = ()
    score: float | None = None
    """Probability of the most probable label."""
    uncertain: bool = False
    problem: str | None = None
    """Why it has no answer, as a sentence."""

    @property
    def said(self) -> str:
        """The labels in a few words; empty where there is no answer."""
        return "" if self.problem else ", ".join(self.labels) or "no label"


def answer_rows(api: ServeClient, rows: Sequence[Text], *, version: int) -> Iterator[list[RowAnswer]]:
    """The answers of a version, some at a time, in the order of the rows. Who stops asking stops the requests.

    Raises:
        ApiError: the API does not answer any more, or does not have this version.
    """
    waiting: deque[Future[list[RowAnswer]]] = deque()
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    try:
        for chunk in chunks(rows):
            waiting.append(pool.submit(_answered, api, chunk, version))
            if len(waiting) > REQUESTS_AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def chunks(rows: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """The rows in their order, as many at a time as a request takes."""
    start, characters = 0, 0
    for index, row in enumerate(rows):
        length = sum(map(len, row))
        if index - start == ROWS_A_REQUEST or (index > start and characters + length > CHARACTERS_A_REQUEST):
            yield rows[start:index]
            start, characters = index, 0
        characters += length
    if start < len(rows):
        yield rows[start:]


def _answered(api: ServeClient, rows: Sequence[Text], version: int) -> list[RowAnswer]:
    """One request's worth of rows. A row that the API refuses has its problem, and the others are asked again without it."""
    found: dict[int, RowAnswer] = {
        index: RowAnswer(problem="The row has no text.") for index, row in enumerate(rows) if not all(part.strip() for part in row)
    }
    while left := [index for index in range(len(rows)) if index not in found]:
        try:
            answers = _patiently(api, [rows[index] for index in left], version)
        except ApiError as error:
            refused = _refused_row(error)
            if refused is not None and refused < len(left):
                found[left[refused]] = RowAnswer(problem=str(error))
                continue
            if len(left) > 1 and error.status in (REFUSED, TOO_LARGE, TOO_SLOW):  # this API takes fewer at a time
                half = len(left) // 2
                for part in (left[:half], left[half:]):
                    found |= dict(zip(part, _answered(api, [rows[index] for index in part], version), strict=True))
                continue
            raise
        found |= dict(zip(left, answers, strict=True))
    return [found[index] for index in range(len(rows))]


def _patiently(api: ServeClient, rows: Sequence[Text], version: int) -> list[RowAnswer]:
    """The answers, after as many tries as a busy API asks for."""
    for _ in range(MOST_WAITS):
        try:
            answers = api.classify_all(rows, version=version, top_k=1)
        except ApiError as error:
            if error.status not in (BUSY, UNAVAILABLE):
                raise
            busy = error
            time.sleep(min(error.retry_after_s or 1.0, LONGEST_WAIT_S))
        else:
            return [RowAnswer(tuple(item.labels), next(iter(item.scores.values()), None), item.uncertain) for item in answers]
    raise busy


def _refused_row(error: ApiError) -> int | None:
    """Which of the texts was refused, where it was one."""
    name, _, number = (error.field or "").partition(".")
    number = number.partition(".")[0]
    return int(number) if error.status == REFUSED and name == "texts" and number.isdecimal() else None
