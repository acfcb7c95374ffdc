"""Memory of the driver, and its seconds, while it reads, checks, splits and tokenizes many rows.

    python benchmarks/rows.py --rows 1000000 10000000           # about 140 MB of CSV for each million rows, removed afterwards
    python benchmarks/rows.py --rows 1000000 --format parquet

The rows are random words: on average 128 bytes a row, 20 labels, two rows in a thousand the same as an earlier one. The steps are
those of `manta preflight` without the timed probe, and of `manta train` up to its first worker. Each case has a process of its own,
whose memory is read from `/proc` 20 times a second. Anonymous memory is what the process itself holds; mapped pages are those of
files. Both count from what the process has after the same steps on the bundled sample.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVERY_S = 0.05
BLOCK_ROWS = 100_000
NUM_LABELS, NUM_WORDS, WORDS_A_ROW = 20, 20_000, 17
SHARE_TWICE = 0.002
KINDS = {"RssAnon": "anonymous", "RssFile": "mapped"}


def main() -> None:
    """Measure every number of rows, print the table and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000], help="(%(default)s)")
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet"), default="csv", help="(%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the rows are written (the system's folder for temporary files)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--untokenized", action="store_true", help="stop before the texts are tokenized")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        take_steps(arguments.measure, tokenizes=not arguments.untokenized)
        return
    results: list[dict[str, Any]] = []
    table = Table(title="The driver, above the same steps on the bundled sample", title_justify="left")
    for heading in ("rows", "step", "s", "s of CPU", "anonymous MB", "mapped MB"):
        table.add_column(heading, justify="right")
    for num_rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            path = Path(name) / f"rows.{arguments.format}"
            write_rows(path, num_rows)
            found = measured(path, ["--untokenized"] if arguments.untokenized else [])
        for step, figures in found.items():
            table.add_row(f"{num_rows:,}", step, *(f"{value:,.1f}" for value in figures.values()))
            results.append({"rows": num_rows, "format": arguments.format, "step": step, **figures})
    Console(width=130).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def write_rows(path: Path, num_rows: int) -> None:
    """Write random rows in blocks."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            for texts, labels in blocks(num_rows):
                rows = zip(texts, labels, strict=True)
                file.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        return
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    new = pa.csv.CSVWriter if path.suffix == ".csv" else pa.parquet.ParquetWriter
    with new(str(path), schema) as writer:
        for texts, labels in blocks(num_rows):
            writer.write(pa.table([texts, labels], schema=schema))


def blocks(num_rows: int) -> Iterator[tuple[list[str], list[str]]]:
    """Yield texts and labels. A label has words that others have less often, so there is something to learn."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, size)) for size in rng.integers(3, 10, NUM_WORDS)])
    before: tuple[list[str], list[str]] | None = None
    for start in range(0, num_rows, BLOCK_ROWS):
        size = min(BLOCK_ROWS, num_rows - start)
        labels = rng.integers(0, NUM_LABELS, size)
        chosen = rng.integers(0, NUM_WORDS, (size, WORDS_A_ROW))
        chosen[:, 0] = labels * 100 + rng.integers(0, 100, size)
        texts, names = [" ".join(row) for row in words[chosen]], [f"label {label}" for label in labels]
        if before is not None:
            for row in range(int(size * SHARE_TWICE)):
                texts[row], names[row] = before[0][-row - 1], before[1][-row - 1]
        before = texts, names
        yield texts, names


def measured(path: Path, options: list[str]) -> dict[str, dict[str, float]]:
    """Return seconds and the most memory, in MB above the sample's, of each step in a fresh process."""
    variables = os.environ | {"MANTA_STORAGE": str(path.parent / "storage"), "HF_HUB_OFFLINE": "1"}
    variables.pop("RAY_ADDRESS", None)
    command = [sys.executable, __file__, "--measure", str(path), *options]
    said = path.parent / "steps"
    said.touch()
    process = subprocess.Popen(command, env=variables)
    peak, at_sample = dict.fromkeys(KINDS.values(), 0.0), dict.fromkeys(KINDS.values(), 0.0)
    found: dict[str, dict[str, float]] = {}
    num_seen = 0
    while process.poll() is None:
        time.sleep(EVERY_S)
        now = resident_mb(process.pid)
        peak = {kind: max(value, now.get(kind, 0.0)) for kind, value in peak.items()}
        lines = said.read_text().splitlines()
        for step, *seconds in map(str.split, lines[num_seen:]):
            if step == "sample":
                at_sample = now
            else:
                above = {kind: value - at_sample[kind] for kind, value in peak.items()}
                found[step] = dict(zip(("s", "cpu_s"), map(float, seconds), strict=True)) | above
            peak = now
        num_seen = len(lines)
    if process.returncode:
        raise RuntimeError(f"the measured process ended with {process.returncode}")
    return found


def resident_mb(pid: int) -> dict[str, float]:
    """Return the anonymous and the mapped resident memory of a process; empty if it is over."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines)
    return {kind: int(fields[name].split()[0]) * 1024 / 1e6 for name, kind in KINDS.items() if name in fields}


def take_steps(path: Path, *, tokenizes: bool) -> None:
    """Take all steps on the bundled sample, then on the rows, and tell when each is over."""
    clock = Clock(path.parent / "steps")
    take("sample:support", path.parent / "sample", tokenizes=tokenizes, tell=lambda _: None)
    clock.tell("sample")
    take(str(path), path.parent / "run", tokenizes=tokenizes, tell=clock.tell)


def take(data: str, folder: Path, *, tokenizes: bool, tell: Callable[[str], None]) -> None:
    """Take the steps of a run on some rows."""
    from manta.config import ExperimentConfig
    from manta.storage.folders import RunFolder
    from manta_jobs.cluster.connection import coming_cluster
    from manta_jobs.preflight.run import examine, load_inputs
    from manta_jobs.runs.prepare import tokenized

    config = ExperimentConfig.model_validate({"name": "rows", "data": {"train": data}, "model": {"pretrained": "embedded"}})
    inputs = load_inputs(config)
    tell("read")
    cluster = coming_cluster(None, train=inputs.config.train, storage=inputs.storage.root)
    examine(inputs, cluster=cluster, searches=False).refuse()
    tell("examined")
    if tokenizes:
        run = RunFolder(folder)
        run.data.mkdir(parents=True)
        print(inputs.dataset.content_hash, flush=True)
        tell("hashed")
        tokenized(inputs.dataset, run, config=inputs.config, tokenizer=inputs.tokenizer)
        tell("tokenized")


class Clock:
    """The seconds of each step, written to a file that the measuring process reads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._started = time.monotonic(), time.process_time()

    def tell(self, step: str) -> None:
        """Write the seconds since the step before, of time and of the CPU."""
        now = time.monotonic(), time.process_time()
        with self._file.open("a") as file:
            file.write(f"{step} {now[0] - self._started[0]:.2f} {now[1] - self._started[1]:.2f}\n")
        time.sleep(4 * EVERY_S)
        self._started = time.monotonic(), time.process_time()


if __name__ == "__main__":
    main()
