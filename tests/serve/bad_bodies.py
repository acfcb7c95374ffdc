"""Requests that no caller should send, made from a seed: what each kind looks like, and sending many of them at once."""

from __future__ import annotations

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

VALID = {
    "/v1/classify": {"texts": ["where is my parcel", "charged twice"], "top_k": 2, "explain": False},
    "/v1/feedback": {"text": "my parcel", "answer": "billing", "correction": "delivery", "version": 1},
}
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True)
class BadRequest:
    """One request. Unless it `may_be_valid`, an answer that is not 4xx is wrong."""

    kind: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    chunked: bool = False
    may_be_valid: bool = False


def value(generator: random.Random, *, depth: int = 0) -> Any:
    """Any JSON value."""
    simple = [None, True, -1, 0, 1.5, 10**30, "", " ", "a", "\0", "\u200b", "\ud800", "é" * 30, [], {}]
    if depth < 3 and generator.random() < 0.4:
        inner = [value(generator, depth=depth + 1) for _ in range(generator.randint(0, 4))]
        return inner if generator.random() < 0.5 else {f"key{number}": item for number, item in enumerate(inner)}
    return generator.choice(simple)


def wrong_types(generator: random.Random, path: str) -> bytes:
    name = generator.choice(list(VALID[path]))
    return json.dumps(VALID[path] | {name: value(generator)}).encode()


def mutated(generator: random.Random, path: str) -> bytes:
    body = bytearray(json.dumps(VALID[path]).encode())
    for _ in range(generator.randint(1, 6)):
        position = generator.randrange(len(body))
        match generator.randrange(3):
            case 0:
                body[position] = generator.randrange(256)
            case 1:
                del body[position : position + generator.randint(1, 8)]
            case _:
                body[position:position] = generator.choice([b"\0", b"\\", b'"', b"[", b"}", b"\xff", b"\\ud83d", b"1e999"])
    return bytes(body)


def deep(generator: random.Random, path: str) -> bytes:
    depth = generator.choice([250, 5_000, 100_000])
    opening, closing = generator.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'{"texts":[', b"]}")])
    return (opening * depth + b"1" + closing * depth * generator.randint(0, 1))[: 1024**2]


def with_text(generator: random.Random, path: str, text: bytes) -> bytes:
    """A body whose text is these bytes of JSON."""
    if path == "/v1/feedback":
        return b'{"answer": "billing", "correction": "delivery", "version": 1, "text": ' + text + b"}"
    return b'{"texts": ["fine", ' + text + b"]}" if generator.random() < 0.5 else b'{"text": ' + text + b"}"


def number_out_of_range(generator: random.Random, path: str) -> bytes:
    name = "top_k" if path == "/v1/classify" else "version"
    number = generator.choice(["NaN", "-Infinity", "1e999", "0", "-3", "1" * 5000, "1.5", '"2"', "[2]", "0x1", "01"])
    return (
        json.dumps({key: item for key, item in VALID[path].items() if key != name})[:-1].encode()
        + f', "{name}": {number}}}'.encode()
    )


def other_encoding(generator: random.Random, path: str) -> bytes:
    return json.dumps(VALID[path] | {"text": "é"}, ensure_ascii=False).encode(
        generator.choice(["utf-16", "utf-32", "latin-1", "utf-8-sig"])
    )


def unknown_fields(generator: random.Random, path: str) -> bytes:
    return json.dumps(VALID[path] | {f"field{number}": number for number in range(generator.choice([1, 3000, 50_000]))}).encode()


SURROGATES = [rb'"\ud800"', rb'"a\udc00b"', rb'"\ud83d\ud83d"', b'"\xed\xa0\x80"', rb'"\ud83d\u0041"', rb'"\ud83"']
KINDS: dict[str, Callable[[random.Random, str], bytes]] = {
    "broken": lambda generator, path: json.dumps(VALID[path]).encode()[: generator.randint(0, 40)],
    "noise": lambda generator, path: generator.randbytes(generator.randint(1, 3000)),
    "nul": lambda generator, path: with_text(
        generator, path, generator.choice([b'"a\0b"', b'"\\u0000"', b'"a\\u0000b"', b'\0"a"'])
    ),
    "surrogate": lambda generator, path: with_text(generator, path, generator.choice(SURROGATES)),
    "utf-8": lambda generator, path: with_text(
        generator, path, generator.choice([b'"\xff"', b'"\xc0\x80"', b'"\xf5\x80\x80\x80"'])
    ),
    "blank": lambda generator, path: with_text(generator, path, generator.choice([b'""', b'" \\n\\t"', b'"\\u3000"'])),
    "long": lambda generator, path: with_text(generator, path, b'"' + b"x " * generator.randint(10_001, 100_000) + b'"'),
    "number": number_out_of_range,
    "deep": deep,
    "encoding": other_encoding,
    "unknown": unknown_fields,
    "many": lambda generator, path: json.dumps({"texts": ["x"] * generator.choice([257, 10_000])}).encode(),
}


def bad_requests(count: int, *, seed: int) -> Iterator[BadRequest]:
    """Requests of every kind; one in a hundred has 10 MB."""
    generator = random.Random(seed)
    for _ in range(count):
        path = generator.choice(list(VALID))
        draw = generator.random()
        chunked = generator.random() < 0.2
        if draw < 0.01:
            yield BadRequest("10 MB", path, b'{"texts": ["' + b"x" * 10_000_000, chunked=chunked)
        elif draw < 0.05:
            kind = generator.choice(
                ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", ";", ""]
            )
            yield BadRequest("content type", path, json.dumps(VALID[path]).encode(), {"Content-Type": kind}, chunked)
        elif draw < 0.25:
            yield BadRequest("types", path, wrong_types(generator, path), chunked=chunked, may_be_valid=True)
        elif draw < 0.5:
            yield BadRequest("mutated", path, mutated(generator, path), chunked=chunked, may_be_valid=True)
        else:
            kind = generator.choice(list(KINDS))
            yield BadRequest(kind, path, KINDS[kind](generator, path), chunked=chunked)


def send_all(url: str, requests: Iterable[BadRequest], *, num_threads: int = 8) -> tuple[Counter[int], list[str]]:
    """Return the number of answers by status, and the faults of wrong answers."""
    with httpx.Client(base_url=url, timeout=30.0) as client, ThreadPoolExecutor(num_threads) as pool:
        answers = list(pool.map(lambda request: _sent(client, request), requests))
    return Counter(status for status, _ in answers), [fault for _, fault in answers if fault]


def _sent(client: httpx.Client, request: BadRequest) -> tuple[int, str]:
    positions = range(0, len(request.body), CHUNK_BYTES)
    chunks = (request.body[position : position + CHUNK_BYTES] for position in positions)
    response = client.post(request.path, content=chunks if request.chunked else request.body, headers=request.headers)
    shown = f"{request.kind} {request.path} {request.body[:120]!r}: {response.status_code} {response.text[:200]}"
    if response.status_code == 200:
        return 200, "" if request.may_be_valid else shown
    if not 400 <= response.status_code < 500:
        return response.status_code, shown
    problem = response.json()["error"]
    return response.status_code, "" if problem["code"] and problem["message"] else shown
