"""Records of CSV and TSV, and their writer: fields may be quoted, and a text that holds the delimiter or a line break must be."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from manta.errors import InputError
from manta.rows.columns import twice_named
from manta.rows.text_file import Kind, Tape, TextFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?,*\s*', re.IGNORECASE)
"""The line with which Excel names the delimiter, in front of the header."""
BLANK_AND_QUOTE = re.compile(r'\s+"')
ENDING = "\r\n"
HEAD_LINES = 100
"""Lines among which the first record ends."""


@dataclass(frozen=True)
class Heading:
    """The delimiter of a file and the names of its columns."""

    delimiter: str
    names: tuple[str, ...]
    """The fields of the first record; those of a header without empty ones at its end."""
    has_separator_line: bool = False
    has_header: bool = True
    """True if the first record names the columns."""
    is_found: bool = False
    """True if the delimiter is not the one that the file's ending promises."""

    @property
    def remark(self) -> str:
        """The phrase that says how the file is read; empty if its delimiter is the usual one, and no line `sep=` names it."""
        return (
            f"with {DELIMITERS.get(self.delimiter, repr(self.delimiter))} between the fields"
            if self.is_found or self.has_separator_line
            else ""
        )


class Record(NamedTuple):
    """One record, and where it stands."""

    fields: list[str]
    line: int
    start: int
    """Its first byte in the stream of UTF-8."""
    end: int
    fault: str | None
    """Reason why the fields are not those of the columns; None for most."""


def find_heading(
    file: TextFile,
    kind: Kind,
    *,
    fits: Callable[[list[str]], bool],
    delimiter: str = "auto",
    has_header: bool = True,
) -> Heading:
    """Return the heading of a file.

    With `auto`, the delimiter is that of a line `sep=`, else the usual one of the kind. Where the first record, split at the usual
    one, does not fit, another delimiter is taken if it is the only one with which it fits.

    Raises:
        InputError: two columns have the same name.
    """
    with file.open() as stream:
        lines = list(islice(Tape(stream, newline=""), HEAD_LINES))
    usual = "\t" if kind == "tsv" else ","
    match = SEPARATOR_LINE.fullmatch(lines[0]) if lines else None
    lines = lines[1:] if match else lines
    chosen = delimiter if delimiter != "auto" else match[1] if match else usual
    if delimiter == "auto" and not match and kind == "csv" and not fits(_first_record(lines, usual)):
        others = [other for other in DELIMITERS if other != usual and fits(_first_record(lines, other))]
        chosen = others[0] if len(others) == 1 else usual
    names = _first_record(lines, chosen)
    if has_header:
        while names and not names[-1].strip():
            names.pop()
        twice = twice_named(names)
        if twice is not None:
            fault = f"two columns are named {twice!r}; rename one" if twice else "two columns have no name; give each one"
            raise InputError(f"{file.url}, line {1 + bool(match)}: {fault}.")
    return Heading(chosen, tuple(names), bool(match), has_header, chosen != usual)


def _first_record(lines: Sequence[str], delimiter: str) -> list[str]:
    """Return the fields of the first record that is not blank. If it is broken, the reading of all records says so."""
    csv.field_size_limit(2**31 - 1)
    try:
        return next((fields for fields in csv.reader(lines, delimiter=delimiter) if fields), [])
    except csv.Error:
        return []


def delimited_records(tape: Tape, heading: Heading, *, url: str) -> Iterator[Record]:
    """Yield the records of a file below its header.

    Raises:
        InputError: the quotes are wrong; the message names the line.
    """
    lines = iter(tape)
    if heading.has_separator_line:
        next(lines, None)
    records = records_between(lines, tape, heading, url=url)
    if heading.has_header:
        next(records, None)
    yield from records


def records_between(lines: Iterable[str], tape: Tape, heading: Heading, *, url: str) -> Iterator[Record]:
    """Yield the records of some lines of `tape`. Empty lines are none."""
    csv.field_size_limit(2**31 - 1)
    width = len(heading.names)
    start, line = tape.offset, tape.line + 1
    is_over = False

    def until_over() -> Iterator[str]:
        nonlocal is_over
        yield from lines
        is_over = True

    # Much TSV is written without quoting. So text after a closing quote belongs to the field, as in pandas and in Excel.
    reader: Any = csv.reader(until_over(), delimiter=heading.delimiter, strict=heading.delimiter != "\t")
    try:
        for fields in reader:
            if is_over:
                raise csv.Error("a quote is never closed")
            if fields:
                fault = None
                if len(fields) > width:
                    fault = _surplus(fields, heading)
                    del fields[width:]
                yield Record(fields, line, start, tape.offset, fault)
            start, line = tape.offset, tape.line + 1
    except csv.Error as error:
        raise InputError(f"{url}, line {line}: not valid CSV ({_said(error)}); check the quotes.") from None


def _said(error: csv.Error) -> str:
    if "unexpected end" in str(error) or "never closed" in str(error):
        return "a quote is opened and never closed"
    if "expected after" in str(error):
        return 'text follows a closing quote; write a quote inside a field twice, such as "say ""yes"""'
    return str(error)


def missing_fields(record: Record, heading: Heading) -> str | None:
    """Return why a record that should have a field for each column has too few; None if it has enough."""
    found, wanted = len(record.fields), len(heading.names)
    return f"{found} field{'s' * (found > 1)} where the header has {wanted}; check the delimiters" if found < wanted else None


def _surplus(fields: list[str], heading: Heading) -> str | None:
    width = len(heading.names)
    if not any(field.strip() for field in fields[width:]):
        return None
    first = "header" if heading.has_header else "first row"
    count = f"{len(fields)} fields where the {first} has {width}"
    if any(BLANK_AND_QUOTE.match(field) for field in fields):
        return f"{count}; a quote must be the first sign of its field, without a blank before it"
    sign = {"\t": "a tab", ",": "a comma", ";": "a semicolon"}.get(heading.delimiter, repr(heading.delimiter))
    return f'{count}; quote a field that holds {sign}, such as "one{_shown(heading)}two"'


def _shown(heading: Heading) -> str:
    return "<tab>" if heading.delimiter == "\t" else f"{heading.delimiter} "


class _LineFeeds:
    """A file whose lines end with a line feed, for `csv.writer`, which quotes a carriage return only if its own lines have one."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> int:
        return self._file.write(f"{line.removesuffix(ENDING)}\n")


def csv_writer(file: TextIO, *, delimiter: str = ",") -> Any:
    """Return a `csv.writer` whose lines end with a line feed, and whose fields are quoted if they hold any kind of line break."""
    return csv.writer(_LineFeeds(file), delimiter=delimiter, lineterminator=ENDING)
