"""What fine-tuning brings on a data set: `make bench`, or `python benchmarks/accuracy.py`.

For each data set, on the same rows of its splits and with the embedded encoder, test accuracy of

- `tf-idf`    word and word-pair weights with logistic regression, as the preflight fits it
- `bad-start` `manta train` with learning rate 1e-3 and no dropout
- `defaults`  `manta train` as it comes
- `tuned`     `manta train` with the `best.yaml` of one `manta tune`, which chose on the validation rows

The last three are trained once a seed; printed are mean and standard deviation over the seeds. `--json FILE` writes every
figure as soon as it is known.

    python benchmarks/accuracy.py --seeds 1 --trials 0                          # the bundled rows, no tuning
    python benchmarks/accuracy.py --case sample:support --case DIR --rows 1000
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from figures import write_results
from machine import machine_facts, use_cores
from manta.baseline import fit_baseline
from manta.config_file import load_config
from manta.data import load_dataset
from systems import SystemFailedError, run_verb
from workload import drawn_rows, load_rows, write_splits

BAD_START = ["train.learning_rate=1e-3", "model.dropout=0"]


def write_experiment(source: str, folder: Path, *, num_rows: int) -> tuple[str, Path]:
    """A data set's name and its experiment; of a folder `num_rows` training rows, drawn by a fixed seed (0: all)."""
    name, data = source.removeprefix("sample:"), {"train": source}
    if name == source:
        name = Path(source).name + (f"-{num_rows}" if num_rows else "")
        data = write_splits(drawn_rows(load_rows(source), num_rows=num_rows, num_eval_rows=0), folder)
    experiment = folder / "experiment.yaml"
    experiment.write_text(yaml.safe_dump({"name": name, "data": data, "train": {"zero_stage": 0}}), encoding="utf-8")
    return name, experiment


class Figures:
    """Test accuracies by case and system, printed and written to the file, if there is one, as they come."""

    def __init__(self, target: Path | None, *, num_threads: int, console: Console) -> None:
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._target, self._machine, self._console = target, machine_facts(num_threads), console

    def add(self, case: str, system: str, value: float) -> None:
        """Note one accuracy."""
        self.values[case][system].append(value)
        self._console.print(f"{case:12} {system:10} {value:.4f}")
        if self._target:
            results = [
                {"system": system, "case": case, "metric": "accuracy", "value": statistics.mean(values), "values": values}
                for case, systems in self.values.items()
                for system, values in systems.items()
            ]
            write_results(self._target, self._machine, [{**row, "unit": "fraction"} for row in results])


def measure(source: str, folder: Path, found: Figures, *, arguments: argparse.Namespace, num_threads: int) -> None:
    """All systems on one data set, in a folder of its own."""
    name, experiment = write_experiment(source, folder, num_rows=arguments.rows)
    storage = folder / "storage"
    found.add(name, "tf-idf", fit_baseline(load_dataset(load_config(experiment).data)).test["accuracy"])
    starts = {"defaults": (experiment, []), "bad-start": (experiment, BAD_START)}
    if arguments.trials:
        trials = [f"tune.budget.num_trials={arguments.trials}"]
        searched, _ = run_verb("tune", experiment, trials, storage=storage, num_threads=num_threads)
        starts["tuned"] = (Path(searched["best_config"]), [])
    for system, (start, settings) in starts.items():
        for seed in range(arguments.seeds):
            overrides = [*settings, f"train.seed={seed}"]
            answer, _ = run_verb("train", start, overrides, storage=storage, num_threads=num_threads)
            found.add(name, system, float(answer["metrics"]["accuracy"]))


def show(found: Figures, console: Console) -> None:
    """Print a row for each case and system."""
    table = Table(title="Test accuracy", title_justify="left")
    for heading in ("data", "system", "mean", "± over seeds", "each"):
        table.add_column(heading, justify="right" if heading in ("mean", "± over seeds") else "left")
    for case, systems in found.values.items():
        for system, values in systems.items():
            spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
            table.add_row(case, system, f"{statistics.mean(values):.4f}", spread, " ".join(f"{value:.4f}" for value in values))
    console.print(table)


def main() -> None:
    """Measure and print; write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help="sample:NAME or a folder of rows, again for more (both samples)")
    parser.add_argument("--rows", type=int, default=0, help="training rows of a folder, drawn by a fixed seed (all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each way to train (%(default)s)")
    parser.add_argument("--trials", type=int, default=8, help="trials of the search; 0 leaves it out (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    console, num_threads = Console(width=120), use_cores(None)
    found = Figures(arguments.json, num_threads=num_threads, console=console)
    try:
        for source in arguments.case or ["sample:support", "sample:reviews"]:
            with tempfile.TemporaryDirectory() as folder:
                measure(source, Path(folder), found, arguments=arguments, num_threads=num_threads)
    except SystemFailedError as error:
        sys.exit(str(error))
    show(found, console)


if __name__ == "__main__":
    main()
