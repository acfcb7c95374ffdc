"""Classification of many rows through the API, in requests of limited size. Each row is answered once, all by one version."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta.texts import is_empty, text_fault
from manta_ui.clients.api import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from manta_ui.clients.api import Answer, ServeClient, Text

ROWS_A_REQUEST = 128
CHARACTERS_A_REQUEST = 200_000
"""Far below the API's default limit of 1 MiB, even if each character takes four bytes."""
REQUESTS_AT_ONCE = 2
"""One request is computed while the next one is in transit."""
MOST_WAITS = 20
LONGEST_WAIT_S = 60.0
BUSY, UNAVAILABLE = 429, 503
REFUSED, TOO_LARGE, TOO_SLOW = 422, 413, 504


@dataclass(frozen=True)
class RowAnswer:
    """Result for one row."""

    labels: tuple[str, ...] = ()
    score: float | None = None
    """Probability of the most probable label."""
    uncertain: bool = False
    is_out_of_scope: bool = False
    """True if the answer is uncertain because its text is unlike all training rows."""
    problem: str | None = None
    """The reason why it has no answer, as a sentence."""

    @classmethod
    def of(cls, answer: Answer) -> RowAnswer:
        """Return the parts of an answer that a table shows."""
        return cls(tuple(answer.labels), next(iter(answer.scores.values()), None), answer.uncertain, answer.is_out_of_scope)

    @property
    def said(self) -> str:
        """The labels in a few words; empty if there is no answer."""
        return "" if self.problem else ", ".join(self.labels) or "no label"


def answer_rows(
    api: ServeClient, rows: Sequence[Text], *, version: int, faults: Mapping[int, str] | None = None
) -> Iterator[list[RowAnswer]]:
    """Yield the answers of a version, some at a time, in the order of the rows. If the caller stops iterating, the requests stop.

    `faults` are the reasons why rows could not be read, by index. Such rows are not sent.

    Raises:
        ApiError: the API does not answer any more, or does not have this version.
    """
    waiting: deque[Future[list[RowAnswer]]] = deque()
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    try:
        start = 0
        for chunk in chunks(rows):
            found = {
                index: RowAnswer(problem=problem)
                for index, row in enumerate(chunk)
                if (problem := _problem(row, (faults or {}).get(start + index)))
            }
            start += len(chunk)
            waiting.append(pool.submit(_answered, api, chunk, version, found))
            if len(waiting) > REQUESTS_AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def chunks(rows: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """Yield the rows in their order, as many at a time as one request may hold."""
    start, characters = 0, 0
    for index, row in enumerate(rows):
        length = sum(map(len, row))
        if index - start == ROWS_A_REQUEST or (index > start and characters + length > CHARACTERS_A_REQUEST):
            yield rows[start:index]
            start, characters = index, 0
        characters += length
    if start < len(rows):
        yield rows[start:]


def _problem(row: Text, fault: str | None) -> str | None:
    """Return why a row is not sent, as a sentence; None if it is."""
    if fault is not None:
        return f"{fault[:1].upper()}{fault[1:]}."
    if any(map(is_empty, row)):
        return "The row has no text."
    wrong = next((found for found in map(text_fault, row) if found is not None), None)
    return wrong and f"The text {wrong}."


def _answered(api: ServeClient, rows: Sequence[Text], version: int, found: dict[int, RowAnswer]) -> list[RowAnswer]:
    """Return the answers to the rows of one request. `found` has those of rows that are not sent.

    A row that the API refuses gets its error, and the others are sent again.
    """
    while left := [index for index in range(len(rows)) if index not in found]:
        try:
            answers = _patiently(api, [rows[index] for index in left], version)
        except ApiError as error:
            refused = _refused_row(error)
            if refused is not None and refused < len(left):
                found[left[refused]] = RowAnswer(problem=str(error))
                continue
            if len(left) > 1 and error.status in (REFUSED, TOO_LARGE, TOO_SLOW):  # this API accepts fewer rows at a time
                half = len(left) // 2
                for part in (left[:half], left[half:]):
                    found |= dict(zip(part, _answered(api, [rows[index] for index in part], version, {}), strict=True))
                continue
            raise
        found |= dict(zip(left, answers, strict=True))
    return [found[index] for index in range(len(rows))]


def _patiently(api: ServeClient, rows: Sequence[Text], version: int) -> list[RowAnswer]:
    """Return the answers. While the API is busy, wait as it asks and try again, MOST_WAITS times in all."""
    for _ in range(MOST_WAITS):
        try:
            answers = api.classify_all(rows, version=version, top_k=1)
        except ApiError as error:
            if error.status not in (BUSY, UNAVAILABLE):
                raise
            busy = error
            time.sleep(min(error.retry_after_s or 1.0, LONGEST_WAIT_S))
        else:
            return [RowAnswer.of(answer) for answer in answers]
    raise busy


def _refused_row(error: ApiError) -> int | None:
    """Return the index of the refused text; None if the error is not about one text."""
    name, _, number = (error.field or "").partition(".")
    number = number.partition(".")[0]
    return int(number) if error.status == REFUSED and name == "texts" and number.isdecimal() else None
