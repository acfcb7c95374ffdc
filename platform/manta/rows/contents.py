"""Checks of a text file's bytes for another kind of file, and for characters beyond western languages."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath

from manta.errors import InputError
from manta.storage.urls import open_filesystem

GZIP_START, PARQUET_START = b"\x1f\x8b", b"PAR1"
STARTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run git lfs pull"),
    (GZIP_START, "is compressed with gzip; let its name end in .gz, such as rows.csv.gz"),
    (b"PK\x03\x04", "is a zip archive or an Excel workbook; unpack it, or save the sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook; save the sheet as CSV in UTF-8"),
    (PARQUET_START, "is a Parquet file; let its name end in .parquet"),
    (b"SQLite format 3", "is an SQLite database; write its rows into a CSV file"),
    (b"BZh", "is compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it, or compress it with gzip"),
    (b"%PDF-", "is a PDF; write its rows into a CSV file"),
)
"""Bytes with which files of other kinds start, and what to do with such a file."""
WEB_PAGES = (b"<!doctype html", b"<html")
START_BYTES = 64

LETTERS = "À-ÖØ-öø-ÿŠŽŸŒšžœƒ"
SIGNS = "¢£¤¥¦§¨©ª¬\xad®¯°±²³´µ¶¸¹º¼½¾×÷"
ODD = re.compile(
    rf"(?P<run>[{LETTERS}{SIGNS}]{{3,}})"  # letters of another alphabet stand side by side
    rf"|[Ýý]|(?<=[A-Za-z{LETTERS}])þ"  # seldom in Icelandic, often in Turkish as Windows-1254 has it
    r"|(?<=[a-z])[À-ÖØ-ÞŠŽŸŒ]"  # a capital within a word
    rf"|[¢¤¥¦§¨¬¯±²³¶¸¹¼½¾×÷](?=[A-Za-z@{LETTERS}])"  # a sign before a word, and one within a word
    rf"|(?<=[A-Za-z{LETTERS}])[¹³¿]"
    rf"|(?<=[A-Za-z{LETTERS}])[£‚„†‡ˆ‰‹›˜](?=[A-Za-z{LETTERS}])"
)
NON_ASCII = re.compile(r"[^\x00-\x7f]")


def check_contents(url: str) -> None:
    """Refuse a file that starts like one of another kind, such as a workbook or a compressed file.

    Raises:
        InputError: the message says what it is.
        OSError: it cannot be read.
    """
    filesystem, path = open_filesystem(url)
    with filesystem.open(path, "rb") as file:
        head: bytes = file.read(START_BYTES)
    if head.lstrip().lower().startswith(WEB_PAGES):
        raise InputError(f"{url}: is a web page (HTML), not the file itself; fetch it again, logged in if need be.")
    own = {".gz": GZIP_START, ".parquet": PARQUET_START}.get(PurePosixPath(url.lower()).suffix)
    for start, what in STARTS:
        if head.startswith(start) and start != own:
            raise InputError(f"{url}: {what}.")


def looks_western(text: str) -> Counter[bool]:
    """Return how many characters beyond ASCII stand as in words of western languages (True), and how many do not (False)."""
    odd = sum(len(match[0]) for match in ODD.finditer(text))
    return Counter({False: odd, True: len(NON_ASCII.findall(text)) - odd})
