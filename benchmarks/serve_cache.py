"""Measurement of what the cache of answers saves: `python benchmarks/serve_cache.py`.

`manta serve` with and without `serve.cached_answers`, one sentence a request over 32 connections from the same cores:

- `skewed`    a tenth of the texts makes half of the requests, the others come equally often
- `in turn`   all texts in turn, so that none is in the cache when it comes again: what the cache costs where nothing repeats

Measured are requests/s, the latency, and the server's processor time of a request, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from figures import write_results
from machine import machine_facts, use_cores
from predict import sentences, trained_model
from serve import cpu_s
from serve_load import Target, closed
from serve_systems import running

CONNECTIONS = 32
WARM_UP_S = 3.0


def main() -> int:
    """Measure and print; write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample:reviews", help="bundled rows, or a folder with train, dev and test (%(default)s)")
    parser.add_argument("--model", type=Path, help="a finished model's folder; else one is trained on 960 of the rows")
    parser.add_argument("--cached", type=int, default=400, help="texts that the cache keeps (%(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    console, num_threads = Console(width=130), use_cores(None)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or trained_model(arguments.data, folder, num_threads=num_threads, console=console)
        texts = sentences(arguments.data)
        for cached in (0, arguments.cached):
            own = folder / f"cached-{cached}"
            own.mkdir()
            rows += measured(model, texts, own, cached=cached, seconds=arguments.seconds, num_threads=num_threads)
    console.print(table(rows, num_texts=len(texts)))
    if arguments.json:
        write_results(arguments.json, machine_facts(num_threads), rows)
    return 0


def measured(
    model: Path, texts: list[str], folder: Path, *, cached: int, seconds: float, num_threads: int
) -> Iterator[dict[str, Any]]:
    """Yield the figures of both streams, on one server."""
    with running("manta", model, folder, num_threads=num_threads, settings={"cached_answers": cached}) as (server, target):
        for name, stream in (("skewed", skewed(texts)), ("in turn", itertools.cycle(texts))):
            closed(target, stream, connections=CONNECTIONS, seconds=WARM_UP_S)
            before, hits_before = cpu_s(server), found(target)
            load = closed(target, stream, connections=CONNECTIONS, seconds=seconds)
            used, hits = cpu_s(server) - before, found(target) - hits_before
            num_requests = load.requests_per_s * seconds
            yield {
                "stream": name,
                "cached": cached,
                "requests_per_s": load.requests_per_s,
                "p50_ms": load.p50_ms,
                "p99_ms": load.p99_ms,
                "server_cpu_ms": 1e3 * used / num_requests,
                "hits": hits / num_requests,
                "errors": load.num_errors,
            }


def skewed(texts: list[str]) -> Iterator[str]:
    """Yield texts without end: a tenth of them makes half of the stream."""
    generator = random.Random(0)
    shuffled = generator.sample(texts, len(texts))
    often, seldom = shuffled[: len(texts) // 10], shuffled[len(texts) // 10 :]
    while True:
        yield generator.choice(often if generator.random() < 0.5 else seldom)


def found(target: Target) -> float:
    """Return the number of texts that the cache has had so far."""
    request = urllib.request.Request(f"http://127.0.0.1:{target.port}/metrics", headers={"Authorization": f"Bearer {target.key}"})
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310  # our own http address
        counted = re.search(r'manta_cache_texts_total\{.*result="hit"\} (\S+)', response.read().decode())
    return float(counted.group(1)) if counted else 0.0


def table(rows: list[dict[str, Any]], *, num_texts: int) -> Table:
    """Return the table that people read."""
    made = Table(title=f"One of {num_texts} sentences a request, {CONNECTIONS} connections", title_justify="left")
    for heading in ("stream", "cached answers", "from the cache", "requests/s", "p50 ms", "p99 ms", "server's CPU ms", "errors"):
        made.add_column(heading, justify="left" if heading == "stream" else "right")
    for row in sorted(rows, key=lambda row: (row["stream"] != "skewed", row["cached"])):
        figures = [f"{row[key]:.1f}" for key in ("requests_per_s", "p50_ms", "p99_ms")] + [f"{row['server_cpu_ms']:.2f}"]
        made.add_row(row["stream"], str(row["cached"]), f"{row['hits']:.0%}", *figures, str(row["errors"]))
    return made


if __name__ == "__main__":
    raise SystemExit(main())
