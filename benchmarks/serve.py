"""Speed of answering sentences over HTTP: `python benchmarks/serve.py --data DIR --model ARTIFACT`.

- `fastapi-pipeline`      FastAPI and a transformers pipeline
- `litserve`              LitServe with batching
- `ray-serve-documented`  an ingress and a model with `@serve.batch`, as Ray's guide has it
- `manta`                 `manta serve`, the laptop profile, in float32: the fastest of its accepted formats
- `manta-int8`            the same with eight-bit integers, if the model has that format and it was accepted
- `manta-production`, `manta-int8-production`  the same behind HAProxy, with an API key
- `forward-alone`, `forward-alone-int8`        the texts sorted by length, without a server: the ceiling
- `nothing-uvicorn`, `nothing-ray-serve`       an endpoint that does nothing; /healthz of Manta beside them

One server at a time, each in processes of its own, with the same weights and the same bytes: one sentence a request, sent by `wrk`
(`apt-get install wrk`) over 1, 8, 32 and 64 connections on the same cores. Measured are requests/s, the median and the 99th
percentile of the latency, and the cores that the server and everything it started kept busy. With `--mixed` every tenth text has
512 tokens, and what the short ones wait for is what counts; a client of our own tells them apart. Last comes which targets are met.

    python benchmarks/serve.py --data DIR --seconds 5 --connections 1,32     # some minutes
    python benchmarks/serve.py --data DIR --mixed --json serve.json
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from figures import write_results
from machine import machine_facts, use_cores
from manta.errors import InputError
from predict import sentences, trained_model
from serve_load import Load, Target, mixed, wrk
from serve_peers import PEERS
from serve_systems import FORMATS, MANTA, forward_alone, of_manta, running
from serve_targets import verdicts
from systems import SystemFailedError

CEILINGS = {"manta": "forward-alone", "manta-int8": "forward-alone-int8"}
SYSTEMS = [*CEILINGS.values(), *PEERS, *MANTA]
LONG_WORDS = 600


@dataclass(frozen=True)
class Measured:
    """One load on one server."""

    system: str
    case: str
    load: Load
    cores: float | None = None
    """Kept busy by the server."""


def main() -> int:
    """Measure and print; write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample:reviews", help="bundled rows, or a folder with train, dev and test (%(default)s)")
    parser.add_argument("--model", type=Path, help="a finished model's folder; else one is trained on 960 of the rows")
    parser.add_argument("--systems", type=lambda text: text.split(","), default=SYSTEMS, help=",".join(SYSTEMS))
    parser.add_argument("--connections", type=lambda text: [int(number) for number in text.split(",")], default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load (%(default)s)")
    parser.add_argument("--mixed", action="store_true", help="every tenth text has 512 tokens")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.systems) - set(SYSTEMS)):
        parser.error(f"no such system: {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    console, num_threads = Console(width=130), use_cores(None)
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or trained_model(arguments.data, folder, num_threads=num_threads, console=console)
        texts = sentences(arguments.data)
        for system in arguments.systems:
            own = folder / system
            own.mkdir()
            try:
                measured += measure(system, model, texts, own, arguments=arguments, num_threads=num_threads)
            except (SystemFailedError, FileNotFoundError) as error:
                console.print(f"{system} is left out: {error}", markup=False)
    console.print(table(measured))
    for line in verdicts({(item.system, item.case): item.load for item in measured}):
        console.print(line, markup=False, highlight=False)
    if arguments.json:
        write_results(arguments.json, machine_facts(num_threads), results(measured))
    return 0


def measure(
    system: str, model: Path, texts: list[str], folder: Path, *, arguments: argparse.Namespace, num_threads: int
) -> list[Measured]:
    """All loads on one system.

    Raises:
        SystemFailedError: it did not start, or the model has no such format.
    """
    name = system.removesuffix("-production")
    for manta, ceiling in CEILINGS.items():
        if system == ceiling:
            weights = of_manta(model, manta, folder / "model")
            rate = forward_alone(weights, texts, num_threads=num_threads)
            return [Measured(system, "sorted", Load(rate, 0.0, 0.0, 0))]
    if name in FORMATS:
        model = of_manta(model, name, folder / "model")
    found: list[Measured] = []
    with running(system, model, folder, num_threads=num_threads) as (server, target):
        wrk(target, texts, connections=8, seconds=3, folder=folder)  # warms up
        if name == "manta":
            nothing = Target(target.port, "/healthz", method="GET")
            found += [measured_by_wrk(f"{system}-healthz", server, nothing, [""], 32, arguments.seconds, folder)]
        for connections in arguments.connections:
            found.append(measured_by_wrk(system, server, target, texts, connections, arguments.seconds, folder))
        if arguments.mixed and not system.startswith("nothing"):
            loads = mixed(target, texts, long_text(texts), connections=32, seconds=2 * arguments.seconds)
            found += [Measured(system, f"mixed-{kind}", load) for kind, load in loads.items()]
    return found


def measured_by_wrk(
    system: str, server: psutil.Process, target: Target, texts: list[str], connections: int, seconds: float, folder: Path
) -> Measured:
    """One run of wrk, and the cores it kept busy."""
    before, started = cpu_s(server), time.perf_counter()
    load = wrk(target, texts, connections=connections, seconds=seconds, folder=folder)
    cores = (cpu_s(server) - before) / (time.perf_counter() - started)
    return Measured(system, str(connections), load, cores)


def cpu_s(server: psutil.Process) -> float:
    """Seconds of CPU time that a process and all it started have used."""
    total = 0.0
    for process in [server, *server.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def long_text(texts: list[str]) -> str:
    """More words than a model reads tokens."""
    words = " ".join(texts[:200]).split()
    return " ".join(words[:LONG_WORDS])


def table(measured: list[Measured]) -> Table:
    """Return the table that people read."""
    made = Table(title="One sentence a request, on the same cores", title_justify="left")
    for heading in ("system", "connections", "requests/s", "p50 ms", "p99 ms", "cores", "errors"):
        made.add_column(heading, justify="left" if heading == "system" else "right")
    for item in measured:
        load = item.load
        latency = (f"{load.p50_ms:.1f}", f"{load.p99_ms:.1f}") if load.p99_ms else ("", "")
        cores = "" if item.cores is None else f"{item.cores:.2f}"
        made.add_row(item.system, item.case, f"{load.requests_per_s:.1f}", *latency, cores, str(load.num_errors))
    return made


def results(measured: list[Measured]) -> list[dict[str, Any]]:
    """The figures in the benchmarks' JSON format."""
    found = []
    for item in measured:
        load = item.load
        values: list[tuple[str, float | None, str]] = [
            ("requests_per_s", load.requests_per_s, "requests/s"),
            ("p50_ms", load.p50_ms or None, "ms"),
            ("p99_ms", load.p99_ms or None, "ms"),
            ("cores", item.cores, "cores"),
            ("errors", load.num_errors, "requests"),
        ]
        found += [
            {"system": item.system, "case": item.case, "metric": metric, "value": value, "unit": unit}
            for metric, value, unit in values
            if value is not None
        ]
    return found


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(str(error))
