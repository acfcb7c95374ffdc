"""From the runs of training systems to figures: the table that people read and the JSON that programs do."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rich.table import Table

from systems import Run
from workload import Workload

BASELINES = ("hf-trainer", "hf-trainer-grouped")
METRICS = {  # unit, heading, format
    "examples_per_s": ("examples/s", "examples/s", "{:.1f}"),
    "tokens_per_s": ("tokens/s", "tokens/s", "{:,.0f}"),
    "gflop_per_s": ("GFLOP/s", "model GFLOP/s", "{:,.1f}"),
    "matmul_share": ("fraction", "of matmul", "{:.0%}"),
    "whole_run_s": ("s", "whole run s", "{:.1f}"),
    "accuracy": ("fraction", "test accuracy", "{:.4f}"),
}
Measured = dict[str, dict[str, list[float]]]
"""By system and metric, one value a run."""


def figures(runs: list[Run], workload: Workload, *, matmul_gflop_per_s: float) -> dict[str, list[float]]:
    """Every metric's values, one a run."""
    examples = [run.examples_per_s for run in runs]
    gflop = [value * workload.gflop_per_example for value in examples]
    return {
        "examples_per_s": examples,
        "tokens_per_s": [value * workload.tokens_per_example for value in examples],
        "gflop_per_s": gflop,
        "matmul_share": [value / matmul_gflop_per_s for value in gflop],
        "whole_run_s": [run.whole_run_s for run in runs],
        "accuracy": [run.accuracy for run in runs],
    }


def ratio(measured: Measured, system: str, against: str) -> float | None:
    """Ratio of the examples/s of two systems, by medians; None if one of them was not measured."""
    if system not in measured or against not in measured:
        return None
    return statistics.median(measured[system]["examples_per_s"]) / statistics.median(measured[against]["examples_per_s"])


def systems_table(measured: Measured, workload: Workload, *, products: list[dict[str, Any]]) -> Table:
    """Every metric of every system: the median, and below it each run's value where there are several."""
    best = max(product["gflop_per_s"] for product in products)
    title = (
        f"{workload.case}: {workload.num_rows:,} rows of {workload.tokens_per_example:.1f} tokens on average, "
        f"{workload.gflop_per_example:.2f} model GFLOP each\n"
        f"matmul {best:,.0f} GFLOP/s ({products[0]['device']}, {products[0]['dtype']})"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("system")
    for heading in (*(heading for _, heading, _ in METRICS.values()), *(f"x {name}" for name in BASELINES)):
        table.add_column(heading, justify="right")
    for system, values in measured.items():
        cells = [shown(values[metric], form) for metric, (_, _, form) in METRICS.items()]
        ratios = [ratio(measured, system, baseline) for baseline in BASELINES]
        table.add_row(system, *cells, *("" if value is None else f"{value:.2f}" for value in ratios))
    return table


def shown(values: list[float], form: str) -> str:
    """The median, and every value where there are several."""
    median = form.format(statistics.median(values))
    return median if len(values) == 1 else "\n".join([median, *(f"({form.format(value)})" for value in values)])


def result_rows(system: str, case: str, measured: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The figures in the benchmarks' JSON form: the median of each metric, and every run's value."""
    return [
        {
            "system": system,
            "case": case,
            "metric": metric,
            "value": statistics.median(values),
            "unit": METRICS[metric][0],
            "values": values,
        }
        for metric, values in measured.items()
    ]


def write_results(path: Path, machine: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Write the benchmarks' common JSON."""
    path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8")
