"""Speed and memory of a service over a long time: `python benchmarks/soak.py --data DIR --model ARTIFACT --minutes 30`.

`manta serve` (laptop profile, one replica) is first asked as fast as it answers, over 32 connections for 10 s. Then it is sent 70%
of that for the time given, at even intervals, and its memory is read from /metrics every few seconds. Memory of the first and the
last fifth of the time, without the first minute, must differ by less than 3%, and nothing may fail.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console

from figures import write_results
from machine import machine_facts, use_cores
from manta.errors import InputError
from predict import sentences, trained_model
from serve_load import Load, Target, steady, wrk
from serve_systems import of_manta, running

CONNECTIONS = 32
LOAD_SHARE = 0.7
MOST_GROWTH = 0.03
WARM_UP_S = 60.0
LOOK_S = 5.0


def main() -> int:
    """Measure and print; 1 if it did not stay as it was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample:reviews", help="bundled rows, or a folder with train, dev and test (%(default)s)")
    parser.add_argument("--model", type=Path, help="a finished model's folder; else one is trained on 960 of the rows")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the load (%(default)s)")
    parser.add_argument("--system", choices=["manta", "manta-int8"], default="manta", help="which format answers (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    console, num_threads = Console(width=130), use_cores(None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or trained_model(arguments.data, folder, num_threads=num_threads, console=console)
        weights = of_manta(model, arguments.system, folder / "model")
        texts = sentences(arguments.data)
        with running(arguments.system, weights, folder, num_threads=num_threads) as (_, target):
            capacity = wrk(target, texts, connections=CONNECTIONS, seconds=10, folder=folder).requests_per_s
            load, memory, num_blind = soaked(target, texts, rate=LOAD_SHARE * capacity, seconds=60 * arguments.minutes)
    growth = growth_of(memory)
    is_met = growth < MOST_GROWTH and load.num_errors == 0 and num_blind == 0
    console.print(
        f"{arguments.minutes:g} min at {load.requests_per_s:.1f} of {capacity:.1f} requests/s: {load.num_errors} errors, "
        f"{num_blind} of {len(memory) + num_blind} looks at /metrics failed, p50 "
        f"{load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms, memory {memory[0][1] / 2**20:.0f} to {memory[-1][1] / 2**20:.0f} MiB, "
        f"growth {growth:+.2%} (target: under {MOST_GROWTH:.0%}, no errors): {'met' if is_met else 'not met'}"
    )
    if arguments.json:
        values = [("requests_per_s", load.requests_per_s, "requests/s"), ("p99_ms", load.p99_ms, "ms")]
        values += [("errors", load.num_errors, "requests"), ("memory_growth", growth, "share")]
        write_results(arguments.json, machine_facts(num_threads), results(arguments.system, arguments.minutes, values))
    return 0 if is_met else 1


def soaked(target: Target, texts: list[str], *, rate: float, seconds: float) -> tuple[Load, list[tuple[float, float]], int]:
    """Return the clients' results, the replica's memory in bytes by seconds since the start, and the number of failed readings."""
    num_blind = 0
    memory: list[tuple[float, float]] = []
    ended = threading.Event()
    started = time.monotonic()

    def look() -> None:
        nonlocal num_blind
        while not ended.wait(LOOK_S):
            try:
                memory.append((time.monotonic() - started, memory_of(target)))
            except OSError:  # an answer that is no 200, too
                num_blind += 1

    watching = threading.Thread(target=look)
    watching.start()
    try:
        load = steady(target, texts, connections=CONNECTIONS, rate=rate, seconds=seconds)
    finally:
        ended.set()
        watching.join()
    return load, memory, num_blind


def memory_of(target: Target) -> float:
    """Resident bytes of the replica."""
    with urllib.request.urlopen(f"http://127.0.0.1:{target.port}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith("manta_memory_bytes{")).rsplit(" ", 1)[1])


def growth_of(memory: list[tuple[float, float]]) -> float:
    """Return the growth of memory from the first fifth to the last, as a share, after a warm-up (half of a short run)."""
    warm_up_s = min(WARM_UP_S, memory[-1][0] / 2)
    values = [size for at, size in memory if at >= warm_up_s]
    part = max(1, len(values) // 5)
    return statistics.mean(values[-part:]) / statistics.mean(values[:part]) - 1


def results(system: str, minutes: float, values: list[tuple[str, float, str]]) -> list[dict[str, Any]]:
    """The figures in the benchmarks' JSON form."""
    return [
        {"system": system, "case": f"soak-{minutes:g}min", "metric": metric, "value": value, "unit": unit}
        for metric, value, unit in values
    ]


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(str(error))
