"""Cost of each further worker, measured on one to four local workers, and the calculated speed of 8, 64 and 512 GPUs.

Measured here, on real runs of `manta train` at ZeRO 2 and one `manta tune`: bytes of gradients, size of checkpoints and what they
take, reading and ordering rows, the time to the first steps, and what a trial costs beside training. Calculated from them by
`cluster_model.py`, with the assumptions that are printed: examples/s of BERT-base and BERT-large, by network, and what limits them.

    python benchmarks/scale.py --json scale.json                # about ten minutes on two cores
    python benchmarks/scale.py --utilisation 0.45               # as `benchmarks/gpu.py` measured it on your GPUs
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cluster_model import BERT_BASE, BERT_LARGE, FLOAT32, GPUS_PER_NODE, Encoder, Hardware, Measured, Step, step
from figures import write_results
from machine import environment, machine_facts, use_cores
from manta_jobs.training.batches import TrainingBatches
from systems import run_verb, visible_gpus
from tune import overheads_of, trials_of
from workload import Workload, load_rows, write_workload

NUM_ROWS = 320
PLANNED_ROWS = 1_000_000
SIZES = (8, 64, 512)
NETWORKS_GBIT = (25, 100, 400)
NUM_TOKENS = 128
ROWS_PER_STEP = 4096
"""The global batch that is divided among the GPUs; the other case gives every GPU `ROWS_PER_GPU`."""
ROWS_PER_GPU = 32
# NVIDIA H100 SXM, dense bfloat16, HBM3 and NVLink each way: https://www.nvidia.com/en-us/data-center/h100/
FLOP_PER_S, MEMORY_BYTES_PER_S, INSIDE_BYTES_PER_S = 989e12, 3.35e12, 450e9


def main() -> None:
    """Measure, calculate and print; write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4, help="the most local workers (%(default)s)")
    parser.add_argument(
        "--utilisation", type=float, default=0.35, help="share of the GPUs' peak that training reaches (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    console, num_threads = Console(width=130), use_cores(None)
    with tempfile.TemporaryDirectory() as name:
        workload = write_workload(
            load_rows("sample:support"),
            Path(name),
            case="support",
            overrides=["train.num_epochs=1", "train.zero_stage=2", "train.checkpoint_steps=4", "registry.fast_formats=false"],
            num_rows=NUM_ROWS,
            num_eval_rows=64,
        )
        on_gpus = visible_gpus() >= arguments.workers  # else all on CPUs, so that the runs can be compared
        runs = [local_run(workload, count, on_gpus=on_gpus, folder=Path(name)) for count in range(1, arguments.workers + 1)]
        measured = measured_parts(runs, trial_overhead_s=trial_overhead(workload, Path(name), num_threads=num_threads))
    console.print(local_table(runs))
    for line in parts_lines(measured):
        console.print(line)
    results = local_results(runs)
    for encoder in (BERT_BASE, BERT_LARGE):
        table, rows = predicted(encoder, measured, utilisation=arguments.utilisation)
        console.print(table)
        results += rows
    if arguments.json:
        write_results(arguments.json, machine_facts(num_threads), results)


def local_run(workload: Workload, num_workers: int, *, on_gpus: bool, folder: Path) -> dict[str, Any]:
    """One run of `manta train` with so many workers of one thread: what its report says, and when its first steps were there."""
    storage = folder / f"{num_workers}-workers"
    settings = {"train.num_workers": num_workers, "train.cpus_per_worker": 1}
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "manta.cli", "train", str(workload.experiment), "--json", *sets]
    variables = environment(1, num_gpus=num_workers if on_gpus else 0) | {"MANTA_STORAGE": str(storage)}
    variables.pop("RAY_ADDRESS", None)
    started = time.perf_counter()
    with (folder / f"{num_workers}.json").open("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, env=variables)
        while not next(storage.glob("runs/*/steps.jsonl"), None) and process.poll() is None:
            time.sleep(0.05)
        startup_s = time.perf_counter() - started
        if process.wait() != 0:
            sys.exit(f"manta train failed with {num_workers} workers: {' '.join(command)}")
        output.seek(0)
        report = json.loads(Path(json.load(output)["report"]).read_text(encoding="utf-8"))
    (size,) = {sum(file.stat().st_size for file in path.iterdir()) for path in storage.glob("runs/*/checkpoints/step-*[!0]")} or {0}
    return {"num_workers": num_workers, "startup_s": startup_s, "report": report, "weights_bytes": size}


def trial_overhead(workload: Workload, folder: Path, *, num_threads: int) -> float:
    """Seconds that a trial takes beside its training, from the second on."""
    overrides = ["tune.scheduler=none", "tune.confirm=null", "tune.budget.num_trials=4", "train.learning_rate=1e-4"]
    answer, _ = run_verb("tune", workload.experiment, overrides, storage=folder / "search", num_threads=num_threads)
    values = overheads_of(trials_of(Path(answer["best_config"]).parent))
    return sum(values[1:]) / (len(values) - 1)


def measured_parts(runs: list[dict[str, Any]], *, trial_overhead_s: float) -> Measured:
    """Return the parts of the cluster model: the start from the run with the most workers, all else from that with one."""
    alone = runs[0]["report"]["distribution"]["workers"][0]  # with a core of its own, as on a cluster
    held = alone["bytes"]
    lengths = np.random.default_rng(0).integers(4, NUM_TOKENS, PLANNED_ROWS)
    started = time.perf_counter()
    TrainingBatches(lengths, ROWS_PER_GPU, 0).epoch(0)
    plan_s = time.perf_counter() - started
    return Measured(
        gradient_bytes_per_parameter=FLOAT32 * held["gradients"] / held["parameters"],
        checkpoint_bytes_per_parameter=FLOAT32 * (1 + held["optimizer"] / held["parameters"]),
        data_s_per_row=alone["seconds"]["data"] / NUM_ROWS,
        plan_s_per_row=plan_s / PLANNED_ROWS,
        startup_s=runs[-1]["startup_s"],
        trial_overhead_s=trial_overhead_s,
    )


def local_table(runs: list[dict[str, Any]]) -> Table:
    """Return the measurements for each number of local workers."""
    table = Table(title="Local workers of one thread, ZeRO 2", title_justify="left")
    for heading in (
        "workers",
        "to first steps s",
        "examples/s",
        "gradients MB",
        "optimizer MB",
        "exchange and step s",
        "checkpoints s",
    ):
        table.add_column(heading, justify="right")
    for run in runs:
        facts = run["report"]["distribution"]
        worker = facts["workers"][0]
        table.add_row(
            str(run["num_workers"]),
            f"{run['startup_s']:.1f}",
            f"{facts['examples_per_s']:.1f}",
            f"{worker['bytes']['gradients'] / 1e6:.1f}",
            f"{worker['bytes']['optimizer'] / 1e6:.1f}",
            f"{worker['seconds']['step']:.2f}",
            f"{worker['seconds']['checkpoint']:.2f}",
        )
    return table


def parts_lines(measured: Measured) -> list[str]:
    """The measured parts in words."""
    gradients, checkpoint = measured.gradient_bytes_per_parameter, measured.checkpoint_bytes_per_parameter
    data_us, plan_s = 1e6 * measured.data_s_per_row, PLANNED_ROWS * measured.plan_s_per_row
    return [
        f"{gradients:.2f} bytes of gradients and {checkpoint:.2f} bytes of checkpoint for a parameter that learns",
        f"{data_us:.1f} µs to read and pad a row; {plan_s:.2f} s to order {PLANNED_ROWS:,} rows",
        f"{measured.startup_s:.1f} s from the command to the first steps; {measured.trial_overhead_s:.1f} s a trial besides",
    ]


def predicted(encoder: Encoder, measured: Measured, *, utilisation: float) -> tuple[Table, list[dict[str, Any]]]:
    """Examples/s by number of GPUs and network, for a batch that is divided and for one that grows."""
    assumed = f"nodes of 8 H100 at {utilisation:.0%} of {FLOP_PER_S / 1e12:.0f} TFLOP/s (assumed)"
    title = f"{encoder.name}, {NUM_TOKENS} tokens a row, ZeRO 2, {assumed}"
    table = Table(title=title, title_justify="left")
    for heading in ("batch", "network", "GPUs", "rows a GPU", "step ms", "examples/s", "efficiency", "bottleneck"):
        table.add_column(heading, justify="left" if heading in ("batch", "bottleneck") else "right")
    results: list[dict[str, Any]] = []
    for case, rows in (("divided", None), ("growing", ROWS_PER_GPU)):
        for num_gpus, gbit in itertools.product(SIZES, NETWORKS_GBIT):
            if num_gpus == GPUS_PER_NODE and gbit != NETWORKS_GBIT[0]:
                continue  # the network between nodes makes no difference to one
            hardware = Hardware(FLOP_PER_S, utilisation, MEMORY_BYTES_PER_S, INSIDE_BYTES_PER_S, gbit * 1e9 / 8)
            per_gpu = ROWS_PER_STEP / num_gpus if rows is None else rows
            found = step(encoder, hardware, measured, num_gpus=num_gpus, rows_per_gpu=per_gpu, num_tokens=NUM_TOKENS)
            table.add_row(*row_of(found, case=case, gbit=gbit, num_gpus=num_gpus, rows_per_gpu=per_gpu))
            name = f"{encoder.name}, {case}, {num_gpus} GPUs, {gbit} Gbit/s"
            speed = num_gpus * per_gpu / found.total
            results.append(
                {"system": "manta", "case": name, "metric": "predicted_examples_per_s", "value": speed, "unit": "examples/s"}
            )
    return table, results


def row_of(found: Step, *, case: str, gbit: int, num_gpus: int, rows_per_gpu: float) -> tuple[str, ...]:
    """One line of the table of predictions."""
    return (
        case,
        f"{gbit} Gbit/s" if num_gpus > GPUS_PER_NODE else "inside a node",
        str(num_gpus),
        f"{rows_per_gpu:g}",
        f"{1e3 * found.total:.1f}",
        f"{num_gpus * rows_per_gpu / found.total:,.0f}",
        f"{found.compute / found.total:.0%}",
        found.bottleneck,
    )


def local_results(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measured figures in the benchmarks' JSON form."""
    rows = []
    for run in runs:
        facts = run["report"]["distribution"]
        values = {"examples_per_s": (facts["examples_per_s"], "examples/s"), "startup_s": (run["startup_s"], "s")}
        values["gradient_bytes"] = (facts["workers"][0]["bytes"]["gradients"], "bytes")
        rows += [
            {"system": "manta", "case": f"{run['num_workers']} workers", "metric": metric, "value": value, "unit": unit}
            for metric, (value, unit) in values.items()
        ]
    return rows


if __name__ == "__main__":
    main()
