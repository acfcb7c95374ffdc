"""Speed of classifying the rows of a file: `make bench-predict`, or `python benchmarks/predict.py`.

- `transformers-pipeline` a `text-classification` pipeline over the rows, 32 a batch
- `ray-data-plain`        Ray Data with a pool of such pipelines, one a core, as Ray's guide to batch inference has it
- `manta`                 `manta predict` with the safetensors, float32
- `manta-int8`            `manta predict` with static 8-bit integers, if the model has that format and it was accepted

All read the same CSV, use the same cores, write a CSV, and run the same weights, each in a process of its own. The rows are the
sentences of the data, again and again; a sentence comes back after thousands of others, so no system gains by having seen it.
Measured are rows/s from the first row that goes to a loaded model to the last answer, which the targets are about, and the wall
time of the whole command, starting, loading and writing included, whose ratio stands beside. Labels and scores are compared with
the pipeline's.

With `--flat-memory` instead: the most memory that the driver and a worker of `manta predict` ever had, with 20,000 rows and with
200,000, of a model so small that the rows are what counts.

    python benchmarks/predict.py --data DIR --rows 2000           # some minutes
    python benchmarks/predict.py --data DIR --json predict.json   # 20,000 rows
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from figures import write_results
from machine import environment, machine_facts, use_cores
from manta.errors import InputError
from manta.inference.formats import FORMAT_FILES
from predict_memory import flat_memory
from predict_peers import PEERS
from systems import SystemFailedError, finished
from workload import load_rows, write_workload

BASELINE = "transformers-pipeline"
FORMATS: dict[str, tuple[str, ...]] = {"manta": (), "manta-int8": ("openvino-int8",)}
SYSTEMS = [*PEERS, *FORMATS]
TARGETS = {"manta": 1.5, "manta-int8": 2.4}
UNITS = {"rows_per_s": "rows/s", "whole_s": "s", "same_label": "fraction", "max_score_difference": "probability"}
Answers = list[tuple[str, str, float]]
"""Text, label and score of each row."""


@dataclass(frozen=True)
class Run:
    """Result of one system."""

    rows_per_s: float
    """After its models were loaded."""
    whole_s: float
    """Of the command, from its start to its end."""
    answers: Answers


def main() -> int:
    """Measure and print; write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample:reviews", help="bundled rows, or a folder with train, dev and test (%(default)s)")
    parser.add_argument("--rows", type=int, default=20_000, help="rows to classify (%(default)s)")
    parser.add_argument("--model", type=Path, help="a finished model's folder; else one is trained on 960 of the rows")
    parser.add_argument(
        "--systems", type=lambda text: text.split(","), default=[*PEERS, *FORMATS], help=",".join([*PEERS, *FORMATS])
    )
    parser.add_argument("--flat-memory", action="store_true", help="measure memory with 20,000 and 200,000 rows instead")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.systems) - set(SYSTEMS))
    if unknown:
        parser.error(f"no such system: {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    console, num_threads = Console(width=130), use_cores(None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.flat_memory:
            results = flat_memory(folder, sentences(arguments.data), num_threads=num_threads, console=console)
        else:
            results = speeds(folder, arguments, num_threads=num_threads, console=console)
    if arguments.json:
        write_results(arguments.json, machine_facts(num_threads), results)
    return 0


def sentences(data: str) -> list[str]:
    """Every different text of the data, in its order."""
    dataset = load_rows(data)
    return list(dict.fromkeys(text for split in (dataset.train, dataset.validation, dataset.test) for text in split.texts))


def speeds(folder: Path, arguments: argparse.Namespace, *, num_threads: int, console: Console) -> list[dict[str, Any]]:
    """One run of each system."""
    model = arguments.model or trained_model(arguments.data, folder, num_threads=num_threads, console=console)
    source, case = folder / "rows.csv", f"{Path(arguments.data).name.removeprefix('sample:')}-{arguments.rows}"
    write_rows(source, sentences(arguments.data), arguments.rows)
    runs: dict[str, Run] = {}
    for system in arguments.systems:
        own = folder / system
        own.mkdir()
        try:
            weights = with_formats(model, FORMATS[system], own / "model") if system in FORMATS else model
            runs[system] = run_system(system, weights, source, own, num_rows=arguments.rows, num_threads=num_threads)
        except SystemFailedError as error:
            console.print(f"{system} is left out: {error}", markup=False)
            continue
        run = runs[system]
        console.print(f"{system:24} {run.rows_per_s:7.1f} rows/s, whole command {run.whole_s:.1f} s")
    return reported(runs, case, console)


def trained_model(data: str, folder: Path, *, num_threads: int, console: Console) -> Path:
    """A short `manta train` on the data: its speed is any model's, but its answers are no coin tosses."""
    overrides = ["train.num_epochs=1", "train.learning_rate=2e-4"]
    training = folder / "training"
    training.mkdir()
    dataset = load_rows(data)
    workload = write_workload(dataset, training, case="reviews", overrides=overrides, num_rows=960, num_eval_rows=256)
    console.print("Training a model on 960 rows")
    command = [sys.executable, "-m", "manta.cli", "train", str(workload.experiment), "--json"]
    variables = environment(num_threads) | {"MANTA_STORAGE": str(training)}
    variables.pop("RAY_ADDRESS", None)
    return Path(json.loads(finished(command, variables)[0])["artifact"])


def with_formats(model: Path, names: Collection[str], target: Path) -> Path:
    """A copy of a model folder that has these inference formats only, besides the safetensors.

    Raises:
        SystemFailedError: the model has none of them, or they were refused.
    """
    shutil.copytree(model, target)
    manifest = json.loads((model / "manta.json").read_text(encoding="utf-8"))
    records = manifest.get("formats", [])
    kept = [record for record in records if record["name"] in names and record["accepted"]]
    if names and not kept:
        reasons = [f"{record['name']} was refused: {record['reason']}" for record in records if record["name"] in names]
        raise SystemFailedError("; ".join(reasons) or f"the model {manifest['name']} has no format {' or '.join(names)}.")
    files = {record["name"]: FORMAT_FILES[record["name"]] for record in records}
    needed = {file for record in kept for file in files[record["name"]]}
    for file in {file for some in files.values() for file in some} - needed:
        if manifest["files"].pop(file, None) is not None:
            (target / file).unlink()
    manifest["formats"] = kept
    (target / "manta.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return target


def write_rows(path: Path, texts: list[str], num_rows: int) -> None:
    """A CSV with an id and a text a row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows(zip(range(num_rows), itertools.cycle(texts), strict=False))


def run_system(system: str, model: Path, source: Path, folder: Path, *, num_rows: int, num_threads: int) -> Run:
    """Classify the rows once.

    Raises:
        SystemFailedError: its process failed, or rows are missing.
    """
    out, variables = folder / "out.csv", environment(num_threads)
    variables.pop("RAY_ADDRESS", None)
    if system in FORMATS:
        command = [sys.executable, "-m", "manta.cli", "predict", str(model), str(source), "--out", str(out), "--json"]
    else:
        script = Path(__file__).with_name("predict_peers.py")
        command = [sys.executable, str(script), system, str(model), str(source), str(out), str(num_threads)]
    output, whole_s = finished(command, variables)
    answer = json.loads(output.strip().splitlines()[-1])
    with out.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["id"]))
    if [int(row["id"]) for row in rows] != list(range(num_rows)):
        raise SystemFailedError(f"{len(rows)} rows came out where {num_rows} went in.")
    answers = [(row["text"], row["label"], float(row["score"])) for row in rows]
    return Run(answer.get("rows_per_s") or num_rows / answer["seconds"], whole_s, answers)


def reported(runs: dict[str, Run], case: str, console: Console) -> list[dict[str, Any]]:
    """Print the table, and give the figures in the benchmarks' JSON format."""
    table = Table(title=f"{case}: ratios are to {BASELINE}", title_justify="left")
    for heading in ("system", "rows/s", "ratio", "target", "whole s", "ratio", "same label", "largest score difference"):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    results: list[dict[str, Any]] = []
    baseline = runs.get(BASELINE)
    for system, run in runs.items():
        metrics = {"rows_per_s": run.rows_per_s, "whole_s": run.whole_s}
        cells = [f"{run.rows_per_s:.1f}", "", "", f"{run.whole_s:.1f}", "", "", ""]
        if baseline is not None:
            ratio, whole_ratio = run.rows_per_s / baseline.rows_per_s, baseline.whole_s / run.whole_s
            pairs = list(zip(run.answers, baseline.answers, strict=True))
            metrics["same_label"] = sum(mine[1] == theirs[1] for mine, theirs in pairs) / len(pairs)
            metrics["max_score_difference"] = max(abs(mine[2] - theirs[2]) for mine, theirs in pairs if mine[1] == theirs[1])
            goal = TARGETS.get(system)
            verdict = "" if goal is None else f"{goal:g}: {'met' if ratio >= goal else 'not met'}"
            cells = [cells[0], f"{ratio:.2f}", verdict, cells[3], f"{whole_ratio:.2f}"]
            cells += [f"{metrics['same_label']:.2%}", f"{metrics['max_score_difference']:.1e}"]
            for metric, value in (("rows_per_s", ratio), ("whole", whole_ratio)):
                name = f"{metric}_against_{BASELINE}"
                results.append({"system": system, "case": case, "metric": name, "value": value, "unit": "times"})
        table.add_row(system, *cells)
        results += [{"system": system, "case": case, "metric": k, "value": v, "unit": UNITS[k]} for k, v in metrics.items()]
    console.print(table)
    return results


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(str(error))
