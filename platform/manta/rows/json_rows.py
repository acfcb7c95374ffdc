"""Rows of JSON: an object on each line, or an array of objects. What is wrong with a row is a phrase, never an exception."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from manta.errors import InputError
from manta.rows.text_file import Tape, check_utf8
from manta.texts import has_lone_surrogate

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

    from manta.rows.text_file import Kind, TextFile

DEEPEST = 64
"""Most arrays and objects within each other. Beyond that, neither JSON nor Parquet can be relied on to be written."""
MOST_DIGITS = 100
TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)
ITEM_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)
BLANKS = b" \t\r\n"


class JsonRecord(NamedTuple):
    """One row, and where it stands."""

    row: dict[str, Any] | str
    """The object, or a phrase that says what is wrong."""
    line: int
    start: int
    """Its first byte in the stream of UTF-8."""
    end: int


class _FaultError(ValueError):
    """Error: valid JSON that cannot be used. The message is the phrase about it."""


def json_row(content: str) -> dict[str, Any] | str:
    """Return the object in some JSON, or a phrase that says what is wrong with it."""
    if _is_too_deep(content):
        return f"not usable JSON (more than {DEEPEST} brackets within each other)"
    try:
        record = json.loads(content, object_pairs_hook=_object, parse_int=_integer, parse_constant=_nothing)
    except json.JSONDecodeError as error:
        return f"not valid JSON ({error.msg}, column {error.colno})"
    except _FaultError as error:
        return str(error)
    return record if isinstance(record, dict) else 'expected an object such as {"text": "…"}'


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _FaultError(f"the key {twice!r} stands twice in one object; remove one")
    if any(map(has_lone_surrogate, found)):
        raise _FaultError("a key holds half of a surrogate pair, which is no character")
    return found


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise _FaultError(f"not usable JSON (a number has more than {MOST_DIGITS} digits; if it is a text, quote it)")
    return int(digits)


def _nothing(_: str) -> None:
    """Read NaN and Infinity, which JSON does not have, as null."""


def _is_too_deep(content: str) -> bool:
    if content.count("[") + content.count("{") <= DEEPEST:
        return False
    depth = 0
    for token in TOKENS.finditer(content):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > DEEPEST:
            return True
    return False


def json_records(file: TextFile, kind: Kind, *, most_bytes: int | None = None) -> Iterator[JsonRecord]:
    """Yield the rows of a file: those of its lines, or for `.json` those of its array, which is held in memory.

    A file that ends in `.json` may hold JSON lines instead.

    Raises:
        InputError: the array is not closed, or something follows it.
    """
    with file.open(most_bytes=most_bytes) as stream:
        if kind == "json" and starts_array(stream):
            content = stream.read()
            check_utf8(content)
            yield from array_records(content, url=file.url)
        else:
            yield from line_records(Tape(stream, newline="\n"))


def starts_array(stream: io.BufferedReader) -> bool:
    """Tell whether a stream that was just opened starts with an array."""
    return stream.peek(1).removeprefix(b"\xef\xbb\xbf").lstrip(BLANKS)[:1] == b"["


def line_records(tape: Tape) -> Iterator[JsonRecord]:
    """Yield the rows of JSON lines. Blank lines are none."""
    start = tape.offset
    for line in tape:
        if line.strip():
            row = json_row(line)
            if tape.line == 1 and isinstance(row, str):
                row += _first_line_advice(line)
            yield JsonRecord(row, tape.line, start, tape.offset)
        start = tape.offset


def _first_line_advice(line: str) -> str:
    """Return what to do with a file whose first line starts a value of several lines, as the end of a sentence; else nothing."""
    if line.lstrip().startswith("["):
        return "; an array of objects belongs into a file that ends in .json"
    return "; write each object on one line, or all as one array" if line.strip() == "{" else ""


def array_records(content: bytes, *, url: str) -> Iterator[JsonRecord]:
    """Yield the items of an array.

    Raises:
        InputError: the array is not closed, or something follows it.
    """
    opening = content.index(b"[")
    line = 1 + content.count(b"\n", 0, opening)
    end = opening
    for record in item_records(content, start=opening + 1, line=line):
        yield record
        end = record.end
    rest = content[end + (end == opening) :].lstrip(BLANKS)
    if re.match(rb",\s*\]", rest):
        at = content.count(b"\n", 0, end) + 1
        raise InputError(f"{url}, line {at}: a comma follows the last object of the array; remove it.")
    if not rest.startswith(b"]"):
        raise InputError(f"{url}: the array is not closed; the file is cut, or a quote or bracket is missing.")
    if rest[1:].strip(BLANKS):
        raise InputError(f"{url}: something follows the array; give one array, or name JSON lines .jsonl.")


def item_records(content: bytes, *, start: int, line: int) -> Iterator[JsonRecord]:
    """Yield the items of an array from the byte `start` on, which stands in `line`, up to the end of the array or of the bytes."""
    depth, begin, counted = 0, start, start
    for token in ITEM_TOKENS.finditer(content, start):
        sign = token[0]
        if depth == 0 and sign in (b",", b"]"):
            item = content[begin : token.start()]
            if item.strip(BLANKS) or sign == b",":
                first = begin + len(item) - len(item.lstrip(BLANKS))
                line += content.count(b"\n", counted, first)
                counted = first
                yield JsonRecord(json_row(item.decode()), line, first, token.start())
            if sign == b"]":
                return
            begin = token.end()
        elif sign in (b"[", b"{"):
            depth += 1
        elif sign in (b"]", b"}"):
            depth -= 1
    item = content[begin:]
    if item.strip(BLANKS):
        first = begin + len(item) - len(item.lstrip(BLANKS))
        yield JsonRecord(json_row(item.decode()), line + content.count(b"\n", counted, first), first, len(content))


def json_line(row: dict[str, Any]) -> bytes:
    """Return a row as one line of JSON. Non-ASCII characters stay readable where UTF-8 can encode them."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(row).encode() + b"\n"
