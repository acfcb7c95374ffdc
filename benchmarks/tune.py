"""Overhead of a search, and savings of early stopping: `make bench-tune`, or `python benchmarks/tune.py`.

Overhead: the same trials, one after another with all cores, searched by

- `ray-tune-documented` a Tune function that builds a `TorchTrainer` with `TuneReportCallback` for every trial, as Ray documents it
  (https://docs.ray.io/en/latest/train/user-guides/hyperparameter-optimization.html), around Manta's own worker loop;
- `manta` `manta tune`'s worker pools.

A trial's overhead is the time from the end of the trial before it (the first: from the start) to its own end, less what its
workers spent on training steps and validation. With `--search`, 12 trials on `support` with ASHA and then without.

    python benchmarks/tune.py                                   # 4 trials of 320 rows and 1 epoch: some minutes
    python benchmarks/tune.py --search --json tuning.json       # and both searches: about an hour on two cores
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

import yaml
from rich.console import Console
from rich.table import Table

from figures import write_results
from machine import environment, machine_facts, use_cores
from systems import run_verb
from workload import load_rows, write_workload

if TYPE_CHECKING:
    from manta.config import ExperimentConfig

PHASES = ("data", "forward", "backward", "step", "evaluation")
NUM_SEARCHED = 12
TARGETS = {"overhead_s_per_trial": 8.0, "search_time_share": 0.45}


def main() -> None:
    """Measure and print; write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4, help="trials of the overhead's searches (%(default)s)")
    parser.add_argument("--rows", type=int, default=320, help="their training rows (%(default)s)")
    parser.add_argument("--search", action="store_true", help="also search on support, with ASHA and without")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting of the searches on support")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--documented", type=Path, nargs=2, help=argparse.SUPPRESS)  # this script as the peer's own process
    arguments = parser.parse_args()
    if arguments.documented:
        documented_search(*arguments.documented)
        return
    console, num_threads = Console(width=130), use_cores(None)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        results += overheads(Path(name), arguments, num_threads=num_threads, console=console)
        if arguments.search:
            results += searches(Path(name), arguments.set, num_threads=num_threads, console=console)
    if arguments.json:
        write_results(arguments.json, machine_facts(num_threads), results)


def overheads(folder: Path, arguments: argparse.Namespace, *, num_threads: int, console: Console) -> list[dict[str, Any]]:
    """Both ways of searching, in a process of their own each."""
    overrides = ["train.num_epochs=1", "tune.scheduler=none", "tune.confirm=null"]
    overrides += [f"tune.budget.num_trials={arguments.trials}", f"train.cpus_per_worker={num_threads}", "train.learning_rate=1e-4"]
    workload = write_workload(
        load_rows("sample:support"), folder, case="support", overrides=overrides, num_rows=arguments.rows, num_eval_rows=64
    )
    console.print(f"{arguments.trials} trials of {workload.num_rows} rows and 1 epoch, one at a time with {num_threads} threads")
    measured: dict[str, list[float]] = {}
    environ = environment(num_threads)
    target = folder / "documented.json"
    command = [sys.executable, __file__, "--documented", str(workload.experiment), str(target)]
    subprocess.run(command, check=True, env=environ | {"MANTA_STORAGE": str(folder / "documented")}, capture_output=True)
    measured["ray-tune-documented"] = overheads_of(json.loads(target.read_text(encoding="utf-8")))
    answer, _ = run_verb("tune", workload.experiment, [], storage=folder / "manta", num_threads=num_threads)
    measured["manta"] = overheads_of(trials_of(Path(answer["best_config"]).parent))
    table = Table(title="Seconds of overhead, trial by trial", title_justify="left")
    table.add_column("system")
    for number in range(arguments.trials):
        table.add_column(str(number + 1), justify="right")
    table.add_column("mean from the second on", justify="right")
    results: list[dict[str, Any]] = []
    for system, values in measured.items():
        mean = sum(values[1:]) / max(1, len(values) - 1)
        table.add_row(system, *(f"{value:.1f}" for value in values), f"{mean:.1f}")
        results.append(
            {"system": system, "case": "support", "metric": "overhead_s_per_trial", "value": mean, "values": values, "unit": "s"}
        )
    console.print(table)
    return results


def overheads_of(trials: list[dict[str, float]]) -> list[float]:
    """From when each trial ended and how long it trained, in the order they ended."""
    before = 0.0
    overhead: list[float] = []
    for trial in sorted(trials, key=lambda trial: trial["ended_s"]):
        overhead.append(trial["ended_s"] - before - trial["trained_s"])
        before = trial["ended_s"]
    return overhead


def trials_of(run: Path) -> list[dict[str, float]]:
    """Return the end of each trial of a finished search, and the seconds that its workers trained and validated."""
    from manta_jobs.tuning.journal import Journal

    trials = Journal(run / "trials.jsonl").trials
    return [{"ended_s": float(trial.ended_s or 0), "trained_s": trained_s(run / "trials" / name)} for name, trial in trials.items()]


def trained_s(checkpoints: Path) -> float:
    """Seconds that worker 0 spent on steps and validation, from a trial's last checkpoint."""
    states = sorted(checkpoints.glob("step-*/state.json"))
    seconds = json.loads(states[-1].read_text(encoding="utf-8"))["state"]["distribution"]["workers"][0]["seconds"]
    return float(sum(seconds[phase] for phase in PHASES))


def searches(folder: Path, settings: list[str], *, num_threads: int, console: Console) -> list[dict[str, Any]]:
    """The same 12 trials with ASHA and without: how long, and which won."""
    experiment = folder / "support.yaml"
    experiment.write_text("name: support\ndata: {train: sample:support}\n", encoding="utf-8")
    common = [f"tune.budget.num_trials={NUM_SEARCHED}", "tune.confirm=null", *settings]
    table = Table(title=f"{NUM_SEARCHED} trials on support", title_justify="left")
    for heading in ("scheduler", "seconds", "epochs", "best validation accuracy", "test accuracy"):
        table.add_column(heading, justify="right")
    seconds: dict[str, float] = {}
    results: list[dict[str, Any]] = []
    for scheduler in ("asha", "none"):
        overrides = [*common, f"tune.scheduler={scheduler}"]
        answer, seconds[scheduler] = run_verb("tune", experiment, overrides, storage=folder / scheduler, num_threads=num_threads)
        trials = yaml.safe_load((Path(answer["best_config"]).parent / "trials.yaml").read_text(encoding="utf-8"))["trials"]
        figures = {"validation_accuracy": max(trial["score"] for trial in trials), "accuracy": answer["metrics"]["accuracy"]}
        num_epochs = sum(len(trial["epochs"]) for trial in trials)
        table.add_row(scheduler, f"{seconds[scheduler]:.0f}", str(num_epochs), *(f"{value:.4f}" for value in figures.values()))
        for metric, value in ({"search_s": seconds[scheduler]} | figures).items():
            unit = "s" if metric == "search_s" else "fraction"
            results.append({"system": f"manta-{scheduler}", "case": "support", "metric": metric, "value": value, "unit": unit})
    console.print(table)
    share = seconds["asha"] / seconds["none"]
    console.print(f"ASHA took {share:.2f} of the time of all trials in full (target: at most {TARGETS['search_time_share']})")
    return [*results, {"system": "manta", "case": "support", "metric": "search_time_share", "value": share, "unit": "fraction"}]


def documented_search(experiment: Path, target: Path) -> None:
    """The documented pattern: every trial starts workers of its own."""
    import ray
    from ray import tune as ray_tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from manta.config.file import load_config
    from manta.console import people_console
    from manta_jobs.runs.prepare import prepare
    from manta_jobs.training.progress import Board
    from manta_jobs.training.start.worker_setup import WorkerSetup
    from manta_jobs.training.worker import train_worker
    from manta_jobs.tuning.samplers import make_sampler

    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    prepared = prepare(load_config(experiment), verb="tune", console=people_console())
    config: ExperimentConfig = prepared.config
    num_cpus = int(config.train.cpus_per_worker)
    # One more logical CPU than the workers take: Tune's function holds a small part of one.
    ray.init(address="local", num_cpus=num_cpus + 1, include_dashboard=False, log_to_driver=False)
    board, folder = Board(), prepared.folder.path
    ended: dict[str, float] = {}

    def trial(values: dict[str, Any]) -> None:
        name = str(values.pop("trial"))
        setup = WorkerSetup(
            config=config.with_values(values),
            labels=prepared.data.labels,
            data_folder=str(prepared.data.folder),
            checkpoints=str(folder / "trials" / name),
            pad_id=prepared.data.pad_id,
            num_threads=num_cpus,
            board=board,
            run_name=name,
        )
        TorchTrainer(
            train_worker,
            train_loop_config={"setup": setup},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": num_cpus}),
            run_config=RunConfig(name=name, storage_path=str(folder / "ray"), callbacks=[TuneReportCallback()]),
        ).fit()

    class Clock(ray_tune.Callback):  # type: ignore[misc]  # Ray's class is untyped
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ended[str(trial.config["trial"])] = time.perf_counter() - started

    sampler, num_trials = make_sampler(config, config.tune.searched), config.tune.budget.num_trials
    points = [{**(sampler.sample(number) or {}), "trial": f"trial-{number}"} for number in range(num_trials)]
    started = time.perf_counter()
    ray_tune.Tuner(
        ray_tune.with_resources(trial, {"CPU": 0.01}),
        param_space=dict.fromkeys(points[0]),
        tune_config=ray_tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=num_trials,
            search_alg=ray_tune.search.BasicVariantGenerator(points_to_evaluate=points, max_concurrent=1),
        ),
        run_config=ray_tune.RunConfig(name="tune", storage_path=str(folder / "ray"), verbose=0, callbacks=[Clock()]),
    ).fit()
    ray.shutdown()
    figures = [{"ended_s": at_s, "trained_s": trained_s(folder / "trials" / name)} for name, at_s in ended.items()]
    target.write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
