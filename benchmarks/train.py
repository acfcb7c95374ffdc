"""Training speed beside its peers, in one call: `make bench-train`, or `python benchmarks/train.py`.

Each system gets the same rows, settings and cores, trains in a process of its own, one after another, and keeps its best epoch:

- `hf-trainer` Hugging Face Trainer with its defaults, `hf-trainer-grouped` with `train_sampling_strategy="group_by_length"`,
  `hf-trainer-grouped-bf16` with `bf16=True`, too;
- `plain-torch` a plain loop over Manta's batches, in Manta's precision: Manta without Ray Train and DeepSpeed;
- `manta` as it comes, with one worker: stage, precision and threads are what it chooses; `manta-fp32` in float32, as Trainer's
  defaults are; `manta-zero-0` and `manta-zero-2` at these stages; `manta-2-workers-zero-0` and `manta-2-workers-zero-2` with two
  workers that share the cores.

Speeds are those of the training steps, the first ones included, without loading, evaluating and saving; `whole run` is a command's
time from start to saved (for Manta: registered) model and test metrics. With a GPU, all train on it in bfloat16.

    python benchmarks/train.py                                  # 960 rows of sample:support, 1 epoch
    python benchmarks/train.py --data DIR --repeats 3 --json training.json --set train.learning_rate=5e-5
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from figures import Measured, figures, ratio, result_rows, systems_table, write_results
from machine import machine_facts, measured_matmul, use_cores
from manta.errors import InputError
from systems import MANTA, SYSTEMS, Run, SystemFailedError, run_system, visible_gpus
from workload import Workload, load_rows, write_workload


@dataclass(frozen=True)
class Comparison:
    """One system's examples/s against another's."""

    name: str
    system: str
    against: str
    target: float | None = None
    """At least so many times as fast; None where the ratio is only shown."""


COMPARISONS = (
    Comparison("Trainer with its defaults", "manta", "hf-trainer", 2.0),
    Comparison("Trainer grouping by length", "manta", "hf-trainer-grouped", 1.2),
    Comparison("Trainer with its defaults, both in float32", "manta-fp32", "hf-trainer"),
    Comparison("Trainer grouping by length, both in float32", "manta-fp32", "hf-trainer-grouped"),
    Comparison("Trainer grouping by length, both in bfloat16", "manta", "hf-trainer-grouped-bf16"),
    Comparison("plain loop (DeepSpeed costs at most 10%)", "manta", "plain-torch", 0.9),
    Comparison("2 workers against 1, ZeRO 0", "manta-2-workers-zero-0", "manta-zero-0", 0.8),
    Comparison("2 workers with ZeRO 2 against 1 with ZeRO 0", "manta-2-workers-zero-2", "manta-zero-0", 0.65),
    Comparison("2 workers against 1, ZeRO 2", "manta-2-workers-zero-2", "manta-zero-2"),
    Comparison("ZeRO 2 against ZeRO 0, 1 worker", "manta-zero-2", "manta-zero-0"),
)


def main() -> int:
    """Measure, print the tables and write the figures if asked to; 1 if a system failed."""
    arguments = parsed_arguments()
    console = Console(width=150)
    num_threads = use_cores(arguments.threads)
    systems = usable_systems(arguments.systems, console)
    case = Path(arguments.data).name.removeprefix("sample:")
    overrides = [f"train.num_epochs={arguments.epochs}", *arguments.set]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload = write_workload(
            load_rows(arguments.data),
            folder,
            case=case,
            overrides=overrides,
            num_rows=arguments.rows,
            num_eval_rows=arguments.eval_rows,
        )
        runs, products, failed = measure(systems, workload, arguments.repeats, num_threads, folder, console)
    matmul = max(product["gflop_per_s"] for product in products)
    measured = {system: figures(values, workload, matmul_gflop_per_s=matmul) for system, values in runs.items() if values}
    console.print(systems_table(measured, workload, products=products))
    compared = compared_systems(measured)
    if compared:
        console.print(comparison_table(compared))
    if arguments.json:
        results = [row for system, values in measured.items() for row in result_rows(system, case, values)]
        results += result_rows("matmul", case, {"gflop_per_s": [product["gflop_per_s"] for product in products]})
        machine = machine_facts(num_threads) | {"device": products[0]["device"], "matmul_dtype": products[0]["dtype"]}
        settings = {"rows": workload.num_rows, "repeats": arguments.repeats, "settings": overrides}
        results += [comparison_row(item, value, case) for item, value in compared]
        write_results(arguments.json, machine | settings, results)
    return 1 if failed else 0


def parsed_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample:support", help="bundled rows, or a folder with train, dev and test (%(default)s)")
    parser.add_argument("--rows", type=int, default=960, help="training rows, drawn by a fixed seed; 0: all (%(default)s)")
    parser.add_argument("--eval-rows", type=int, default=0, help="validation and test rows, each; 0: all (%(default)s)")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the training rows (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting, as for manta train")
    parser.add_argument("--systems", type=lambda text: text.split(","), default=list(SYSTEMS), help=",".join(SYSTEMS))
    parser.add_argument("--repeats", type=int, default=1, help="runs of each system, in turn (%(default)s)")
    parser.add_argument("--threads", type=int, help="cores to use; all unless given")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.systems) - set(SYSTEMS))
    if unknown:
        parser.error(f"no such system: {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    return arguments


def usable_systems(systems: list[str], console: Console) -> list[str]:
    """Without those that need more GPUs than there are: on GPUs, a worker takes one each."""
    num_gpus = visible_gpus()
    usable = [system for system in systems if not num_gpus or MANTA.get(system, (1, {}))[0] <= num_gpus]
    for system in sorted(set(systems) - set(usable)):
        console.print(f"{system} is left out: its workers take a GPU each, and there is {num_gpus}.")
    return usable


def measure(
    systems: list[str], workload: Workload, repeats: int, num_threads: int, folder: Path, console: Console
) -> tuple[dict[str, list[Run]], list[dict[str, Any]], set[str]]:
    """Runs of each system, the matmuls before each round, and the systems that failed.

    Systems take turns, every other round backwards, so that a machine that slows down slows all of them alike.
    """
    runs: dict[str, list[Run]] = {system: [] for system in systems}
    products: list[dict[str, Any]] = []
    failed: set[str] = set()
    for turn in range(repeats):
        products.append(measured_matmul(num_threads))
        for system in systems if turn % 2 == 0 else systems[::-1]:
            try:
                run = run_system(system, workload, num_threads=num_threads, folder=folder)
            except SystemFailedError as error:
                console.print(f"{system} failed:\n{error}", markup=False)
                failed.add(system)
                continue
            runs[system].append(run)
            console.print(f"{system:24} run {turn + 1}: {run.examples_per_s:.1f} examples/s, whole run {run.whole_run_s:.1f} s")
    return runs, products, failed


def compared_systems(measured: Measured) -> list[tuple[Comparison, float]]:
    """The comparisons of which both systems were measured, with their ratios."""
    found = [(comparison, ratio(measured, comparison.system, comparison.against)) for comparison in COMPARISONS]
    return [(comparison, value) for comparison, value in found if value is not None]


def comparison_table(compared: list[tuple[Comparison, float]]) -> Table:
    """Each comparison beside its target."""
    table = Table(title="Training speed against", title_justify="left")
    for heading in ("", "system", "against", "times its examples/s", "cost", "target", ""):
        table.add_column(heading)
    for item, value in compared:
        cost = f"{1 - value:.1%}" if value < 1 else ""
        goal, verdict = ("", "") if item.target is None else (f"at least {item.target:g}", met(item.target, value))
        table.add_row(item.name, item.system, item.against, f"{value:.3f}", cost, goal, verdict)
    return table


def met(target: float, value: float) -> str:
    """The verdict on a ratio, unrounded."""
    return "met" if value >= target else "not met"


def comparison_row(item: Comparison, value: float, case: str) -> dict[str, Any]:
    """A comparison in the benchmarks' JSON form."""
    metric = f"examples_per_s_against_{item.against}"
    row: dict[str, Any] = {"system": item.system, "case": case, "metric": metric, "value": value, "unit": "times"}
    return row if item.target is None else row | {"target": item.target, "verdict": met(item.target, value)}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(str(error))
