"""What fine-tuning brings on a data set: `make bench`, or `python benchmarks/accuracy.py`.

For each data set, on the same rows of its splits and with the embedded encoder, test accuracy of

- `tf-idf`    word and word-pair weights with logistic regression, as the preflight fits it
- `bad-start` `manta train` with learning rate 1e-3 and no dropout
- `defaults`  `manta train` as it comes
- `tuned`     `manta train` with the `best.yaml` of one `manta tune`, which chose on the validation rows

The last three are trained once a seed; printed are mean and standard deviation over the seeds. `--json FILE` writes every
figure as soon as it is known.

    python benchmarks/accuracy.py --seeds 1 --trials 0                          # the bundled rows, no tuning: some minutes
    python benchmarks/accuracy.py --case sample:support --case DIR --rows 1000  # an hour on two cores
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from figures import write_results
from machine import machine_facts, use_cores
from manta.baseline import fit_baseline
from manta.config import DataConfig
from manta.data import load_dataset
from manta.data.dataset import SPLITS, TextDataset
from workload import drawn_rows, load_rows

BAD_START = {"train.learning_rate": 1e-3, "model.dropout": 0.0}


def write_experiment(source: str, folder: Path, *, num_rows: int) -> tuple[str, Path, TextDataset]:
    """A data set's name, its experiment, and its rows; of a folder `num_rows` training rows, drawn by a fixed seed (0: all)."""
    dataset = load_rows(source)
    name = source.removeprefix("sample:")
    if name != source:
        data = {"train": source}
    else:
        name = Path(source).name + (f"-{num_rows}" if num_rows else "")
        drawn = drawn_rows(dataset, num_rows=num_rows, num_eval_rows=0)
        names = dataset.labels.names
        data = {}
        for split in SPLITS:
            rows = zip(drawn[split].texts, drawn[split].targets.tolist(), strict=True)
            lines = [json.dumps({"text": text, "label": names[label]}) + "\n" for text, label in rows]
            data[split] = str(folder / f"{name}-{split}.jsonl")
            Path(data[split]).write_text("".join(lines), encoding="utf-8")
        dataset = load_dataset(DataConfig.model_validate(data))
    experiment = folder / f"{name}.yaml"
    experiment.write_text(yaml.safe_dump({"name": name, "data": data, "train": {"zero_stage": 0}}), encoding="utf-8")
    return name, experiment, dataset


def manta(verb: str, experiment: Path, settings: dict[str, Any], *, storage: Path) -> dict[str, Any]:
    """A verb's JSON, by the command line as people run it."""
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "manta.cli", verb, str(experiment), "--json", *overrides]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"MANTA_STORAGE": str(storage)}
    ).stdout
    answer: dict[str, Any] = json.loads(output)
    return answer


class Figures:
    """Test accuracies by case and system, written to the file, if there is one, with each that comes."""

    def __init__(self, target: Path | None, *, num_threads: int) -> None:
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._target, self._machine = target, machine_facts(num_threads)

    def add(self, case: str, system: str, value: float) -> None:
        """Note one accuracy."""
        self.values[case][system].append(value)
        if self._target:
            results = [
                {"system": system, "case": case, "metric": "accuracy", "value": statistics.mean(values), "values": values}
                for case, systems in self.values.items()
                for system, values in systems.items()
            ]
            write_results(self._target, self._machine, [{**row, "unit": "fraction"} for row in results])


def measure(source: str, folder: Path, found: Figures, *, arguments: argparse.Namespace) -> None:
    """All systems on one data set."""
    name, experiment, dataset = write_experiment(source, folder, num_rows=arguments.rows)
    found.add(name, "tf-idf", fit_baseline(dataset).test["accuracy"])
    starts = {"defaults": (experiment, {}), "bad-start": (experiment, BAD_START)}
    if arguments.trials:
        search = {"tune.budget.num_trials": arguments.trials, "tune.confirm": "null"}
        starts["tuned"] = (Path(manta("tune", experiment, search, storage=folder / "storage")["best_config"]), {})
    for system, (start, settings) in starts.items():
        for seed in range(arguments.seeds):
            answer = manta("train", start, settings | {"train.seed": seed}, storage=folder / "storage")
            found.add(name, system, float(answer["metrics"]["accuracy"]))


def show(found: Figures) -> None:
    """Print a row for each case and system."""
    table = Table(title="Test accuracy", title_justify="left")
    for heading in ("data", "system", "mean", "± over seeds", "each"):
        table.add_column(heading, justify="right" if heading in ("mean", "± over seeds") else "left")
    for case, systems in found.values.items():
        for system, values in systems.items():
            spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
            table.add_row(case, system, f"{statistics.mean(values):.4f}", spread, " ".join(f"{value:.4f}" for value in values))
    Console(width=120).print(table)


def main() -> None:
    """Measure and print; write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help="sample:NAME or a folder of rows, again for more (both samples)")
    parser.add_argument("--rows", type=int, default=0, help="training rows of a folder, drawn by a fixed seed (all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each way to train (%(default)s)")
    parser.add_argument("--trials", type=int, default=8, help="trials of the search; 0 leaves it out (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    found = Figures(arguments.json, num_threads=use_cores(None))
    with tempfile.TemporaryDirectory() as folder:
        for source in arguments.case or ["sample:support", "sample:reviews"]:
            measure(source, Path(folder), found, arguments=arguments)
    show(found)


if __name__ == "__main__":
    main()
