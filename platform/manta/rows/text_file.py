"""A file of text as a stream of UTF-8, whatever its encoding and compression, and its lines with their places."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from manta.errors import InputError
from manta.rows.contents import check_contents, looks_western
from manta.storage.urls import open_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
Kind = Literal["csv", "tsv", "jsonl", "parquet", "json"]
KINDS: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".ndjson": "jsonl",
    ".json": "json",
}
GZIP = ".gz"
MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
"""Marks at the start of a file, and the encodings that they announce. The first that fits counts."""
NAMES = {"utf-8": "UTF-8", "cp1252": "Windows-1252", "utf-16": "UTF-16", "utf-32": "UTF-32"}
NOT_IN_CP1252 = frozenset(b"\x81\x8d\x8f\x90\x9d\x00")
"""Bytes without a character in Windows-1252, and the null byte, which no text has."""
BUFFER_BYTES = 2**20
ADVICE = "save the file as UTF-8"


class TooLargeError(Exception):
    """Error: a stream gave more bytes than the caller allows."""


class _NotThisEncodingError(Exception):
    """Error: the bytes are of another encoding. The message is the place and the byte."""


def kind_of(name: str) -> Kind | None:
    """Return the kind of a file by the ending of its name, which `.gz` may follow for text; None if it is unknown."""
    lower = name.lower()
    plain = lower.removesuffix(GZIP)
    kind = next((kind for ending, kind in KINDS.items() if plain.endswith(ending)), None)
    return None if kind == "parquet" and plain != lower else kind


@dataclass(frozen=True)
class TextFile:
    """A file of text and its encoding."""

    url: str
    """Path or URL."""
    encoding: str = "utf-8"

    @property
    def is_plain(self) -> bool:
        """True if the file's own bytes are the stream, so that parts of it can be read."""
        return self.encoding == "utf-8" and not self.url.lower().endswith(GZIP)

    @property
    def remark(self) -> str:
        """The phrase that says how the file is read; empty for UTF-8."""
        return "" if self.encoding == "utf-8" else f"as {NAMES.get(self.encoding, self.encoding)}"

    def open(self, *, most_bytes: int | None = None) -> io.BufferedReader:
        """Open the file as a stream of UTF-8. It may start with a byte-order mark.

        Raises:
            OSError: the file cannot be opened. Reading may raise it too, or `TooLargeError` after `most_bytes`.
        """
        filesystem, path = open_filesystem(self.url)
        return io.BufferedReader(_Utf8Stream(self, filesystem.open(path, "rb"), most_bytes), BUFFER_BYTES)


class _Utf8Stream(io.RawIOBase):
    def __init__(self, text: TextFile, file: Any, most_bytes: int | None) -> None:
        self._file = file
        self._source = gzip.GzipFile(fileobj=file) if text.url.lower().endswith(GZIP) else file
        self._encoding = text.encoding
        self._decoder = None if text.encoding == "utf-8" else codecs.getincrementaldecoder(text.encoding)()
        self._left = most_bytes
        self._ready = b""
        self._num_lines = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            content = self._read(len(buffer))
            self._ready = content if self._decoder is None else self._transcoded(content, self._decoder)
            if not content:
                break
        taken = self._ready[: len(buffer)]
        self._ready = self._ready[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def _read(self, size: int) -> bytes:
        try:
            content: bytes = self._source.read(size)
        except (EOFError, zlib.error) as error:
            raise OSError(f"not a complete gzip file: {error}") from None
        if self._left is not None:
            self._left -= len(content)
            if self._left < 0:
                raise TooLargeError
        return content

    def _transcoded(self, content: bytes, decoder: codecs.IncrementalDecoder) -> bytes:
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise _not_this(error, self._encoding, num_lines=self._num_lines) from None
        except UnicodeError:  # of UTF-16 and UTF-32, whose mark says in which order bytes stand
            name = self._encoding
            missing = (
                f"line 1: the mark of {NAMES.get(name, name)} at the start is missing (without one it is {name}-le or {name}-be)"
            )
            raise _NotThisEncodingError(missing) from None
        self._num_lines += text.count("\n")
        return text.encode()

    def close(self) -> None:
        self._file.close()
        super().close()


class Tape:
    """The lines of a stream of UTF-8, with counts of the bytes and lines read.

    JSON lines end with a line feed only, so `newline` is one for them. The lines of CSV may also end with a carriage return.
    """

    def __init__(self, stream: Any, *, newline: Literal["", "\n"], line: int = 0) -> None:
        self._text = io.TextIOWrapper(stream, encoding="utf-8", newline=newline)
        self.offset = 0
        """Bytes read so far."""
        self.line = line
        """Lines read so far."""

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self._text:
                self.offset += len(text) if text.isascii() else len(text.encode())
                self.line += 1
                yield text.removeprefix("\ufeff") if self.line == 1 else text
        except UnicodeDecodeError as error:
            raise _not_this(error, "utf-8", num_lines=self.line) from None


def check_utf8(content: bytes) -> None:
    """Check a whole stream that was read at once, as iterating over a `Tape` does."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise _not_this(error, "utf-8", num_lines=0) from None


def _not_this(error: UnicodeDecodeError, encoding: str, *, num_lines: int) -> _NotThisEncodingError:
    """Return the error about a byte, `num_lines` lines after the start of what was decoded."""
    line = num_lines + 1 + error.object.count(b"\n", 0, error.start)
    return _NotThisEncodingError(f"line {line}: byte 0x{error.object[error.start]:02x} is not {NAMES.get(encoding, encoding)}")


def reading_notes(url: str, *remarks: str) -> tuple[str, ...]:
    """Return a sentence that says how a file is read; none if there is no remark."""
    said = [remark for remark in remarks if remark]
    return (f"{url} is read {' and '.join(said)}.",) if said else ()


def read_text(url: str, read: Callable[[TextFile], T], *, encoding: str = "auto", advice: str = ADVICE) -> T:
    """Return what `read` makes of a file. Its encoding is the given one, or with `auto` found.

    It is UTF-8, or what a mark at the start says. If the bytes are not UTF-8, it is Windows-1252 where that gives words of a
    western language; `read` is then called once more. `advice` ends the sentence about a file that is neither.

    Raises:
        InputError: the file cannot be decoded, or is no text; the message names the line.
        OSError: the file cannot be read.
    """
    check_contents(url)
    file = TextFile(url, _marked(url, advice) if encoding == "auto" else codecs.lookup(encoding).name)
    try:
        return read(file)
    except _NotThisEncodingError as error:
        if encoding != "auto" or file.encoding != "utf-8":
            raise InputError(f"{url}, {error}; {advice}.") from None
        _check_cp1252(url, fault=str(error), advice=advice)
        return read(TextFile(url, "cp1252"))


def _marked(url: str, advice: str) -> str:
    with TextFile(url).open() as stream:
        head = stream.read(4)
    for mark, name in MARKS:
        if head.startswith(mark):
            return name
    if len(head) == 4 and (head[0] == head[2] == 0 or head[1] == head[3] == 0):
        order = "be" if head[0] == 0 else "le"
        raise InputError(f"{url}: looks like UTF-16 (utf-16-{order}) without its mark at the start; {advice}.")
    return "utf-8"


def _check_cp1252(url: str, *, fault: str, advice: str) -> None:
    """Refuse a file that is not UTF-8 and may not be Windows-1252 either.

    That is one with bytes that Windows-1252 does not have, of which more than a few bytes are characters of UTF-8, or which read
    as Windows-1252 is no western language, such as Russian in Windows-1251 or Chinese in GBK.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    num_wrong = num_right = 0
    marked = Counter[bool]()
    with TextFile(url).open() as stream:
        for block in _blocks(stream):
            if not NOT_IN_CP1252.isdisjoint(block):
                raise InputError(f"{url}, {fault}; {advice}.")
            text = decoder.decode(block)
            marked += looks_western(block.decode("cp1252"))
            if not text.isascii():
                wrong = sum("\udc80" <= character <= "\udcff" for character in text)
                num_wrong += wrong
                num_right += sum(not character.isascii() for character in text) - wrong
    if num_right * 10 > num_wrong:
        raise InputError(f"{url}, {fault}, but other bytes of the file are; {advice}.")
    if marked[False] > marked[True]:
        raise InputError(f"{url}, {fault}, and as Windows-1252 the letters make no words; {advice}.")


def _blocks(stream: io.BufferedReader) -> Iterable[bytes]:
    while block := stream.read(BUFFER_BYTES):
        yield block
