"""The systems of `quality.py`, each run in a fresh process on rows that `quality_cases.write_case` has written.

Manta gets an experiment with the name, the two files and their columns, and nothing else but the seed: what it makes of that is
what is measured. Its reports have changed over time, so whatever a report does not say is left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from machine import environment
from quality_peers import FIGURES, TRAINERS
from systems import SystemFailedError, finished

EMBEDDERS = ("frozen", "setfit")
"""Run in the peers' own environment."""
MANTA: dict[str, tuple[str, list[str]]] = {
    "manta": ("train", []),
    "manta-full": ("train", ["train.method=full"]),
    "manta-tuned": ("tune", []),
    "bad-start": ("train", ["train.learning_rate=1e-3", "model.dropout=0"]),
}
"""The verb, and what is set. `bad-start` shows what tuning is worth to those who begin with a poor choice."""
SYSTEMS = ("tf-idf", *EMBEDDERS, *TRAINERS, "plain-loop", *MANTA)
DEFAULT_SYSTEMS = tuple(system for system in SYSTEMS if system not in ("manta-full", "bad-start"))
SETFIT_MOST_ROWS = 32
"""Rows of a class up to which SetFit runs: its pairs grow with the square."""
COMPONENTS = ("platform", "jobs", "serve", "ui")
PROBE = """
import importlib.metadata, importlib.util, json
names = ("torch", "transformers", "deepspeed", "ray", "scikit-learn")
print(json.dumps([importlib.util.find_spec("manta").origin, {name: importlib.metadata.version(name) for name in names}]))
"""


@dataclass(frozen=True)
class Interpreters:
    """The interpreters of Manta and of the peers that have an environment of their own."""

    manta: str | None = None
    """Of another environment, to which this one's search path means nothing; None for this one."""
    checkout: Path | None = None
    """The Manta to run, where it is not the one that the interpreter finds by itself."""
    peers: str | None = None

    @property
    def python(self) -> str:
        """The interpreter that runs Manta."""
        return self.manta or sys.executable

    def variables(self) -> dict[str, str]:
        """Manta's environment: no number of threads is set, as on a machine where nobody has heard of it."""
        variables = {key: value for key, value in environment(1).items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        variables.pop("RAY_ADDRESS", None)
        if self.manta or self.checkout:
            variables.pop("PYTHONPATH", None)
        if self.checkout:
            variables["PYTHONPATH"] = os.pathsep.join(str(self.checkout.resolve() / name) for name in COMPONENTS)
        return variables

    def manta_facts(self) -> dict[str, Any]:
        """Return the revision of Manta, and the versions of the libraries below it."""
        done = subprocess.run([self.python, "-c", PROBE], check=True, stdout=subprocess.PIPE, text=True, env=self.variables())
        origin, versions = json.loads(done.stdout)
        return {"revision": revision_of(Path(origin).parent.parent.parent), "versions": versions}


def revision_of(checkout: Path) -> str:
    """The commit of a checkout, with `-dirty` where its components differ from it; a new line of results is no difference."""
    git = ["git", "-C", str(checkout)]
    named = subprocess.run([*git, "describe", "--always", "--tags"], check=False, capture_output=True, text=True)
    if named.returncode != 0:
        return "unknown"
    changed = subprocess.run([*git, "status", "--porcelain", "--", *COMPONENTS], check=False, capture_output=True, text=True).stdout
    return named.stdout.strip() + ("-dirty" if changed.strip() else "")


def why_skipped(system: str, *, rows_per_class: int, interpreters: Interpreters) -> str | None:
    """Return the reason why a system does not run on a case, as the end of a sentence; None if it runs."""
    if system == "setfit" and rows_per_class > SETFIT_MOST_ROWS:
        return f"a class has {rows_per_class} rows; it runs with at most {SETFIT_MOST_ROWS}, as its pairs grow with the square"
    if system in EMBEDDERS and interpreters.peers is None:
        return "it needs --peers-python, the interpreter of the peers' own environment"
    return None


def run_system(
    system: str, folder: Path, *, seed: int, num_threads: int, encoder: str, interpreters: Interpreters
) -> dict[str, Any]:
    """One system's figures on the rows in `folder`, and the seconds of its whole command.

    Raises:
        SystemFailedError: its process failed.
    """
    if system in MANTA:
        return run_manta(system, folder, seed=seed, interpreters=interpreters)
    (folder / "task.json").write_text(json.dumps({"encoder": encoder, "seed": seed}), encoding="utf-8")
    script, variables = Path(__file__).with_name("quality_peers.py"), environment(num_threads)
    python = sys.executable
    if system in EMBEDDERS:
        python = interpreters.peers or python
        variables.pop("PYTHONPATH", None)
    _, wall_s = finished([python, str(script), system, str(folder)], variables)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return rounded({name: result.pop(name) for name in FIGURES} | {"wall_s": wall_s}) | result


def run_manta(system: str, folder: Path, *, seed: int, interpreters: Interpreters) -> dict[str, Any]:
    """`manta train` or `manta tune` as it comes."""
    verb, settings = MANTA[system]
    data = {"train": "train.jsonl", "test": "test.jsonl", "text": "text", "label": "label"}
    experiment = folder / "experiment.yaml"
    experiment.write_text(yaml.safe_dump({"name": "quality", "data": data}), encoding="utf-8")
    overrides = [part for setting in [*settings, f"train.seed={seed}"] for part in ("--set", setting)]
    command = [interpreters.python, "-m", "manta.cli", verb, str(experiment), "--json", *overrides]
    output, wall_s = finished(command, interpreters.variables() | {"MANTA_STORAGE": str(folder / "storage")})
    try:
        answer = json.loads(output)
    except ValueError:
        raise SystemFailedError(f"no JSON came out, but: {output[-300:]!r}") from None
    report = json.loads(Path(answer["report"]).read_text(encoding="utf-8"))
    metrics = {name: float(answer["metrics"][name]) for name in ("accuracy", "f1_macro")}
    facts = manta_figures(report)
    if verb == "tune":
        facts |= {name: answer.get(name) for name in ("num_trials", "best_values")}
    return rounded(metrics | {"train_s": facts.pop("train_s"), "wall_s": wall_s}) | facts


def manta_figures(report: dict[str, Any]) -> dict[str, Any]:
    """A run's training figures from its report; None for those that the report lacks."""
    history: list[dict[str, Any]] = report.get("history") or []
    train = (report.get("config") or {}).get("train") or {}
    num_rows = report.get("num_rows") or (report.get("baseline") or {}).get("num_rows") or {}
    kept = report.get("best_epoch")
    epochs_s = [epoch_seconds(epoch, num_rows=num_rows.get("train")) for epoch in history]
    seconds = [value for value in epochs_s if value is not None]
    is_known = bool(seconds) and len(seconds) == len(history)
    folds_s = report.get("folds_s")  # of a cross-validation, which comes before
    before_s = float(folds_s or 0.0)
    train_s = before_s + sum(seconds) if is_known else None
    methods = report.get("methods")
    rungs = (methods or {}).get("rungs") or []
    if any(rung["method"] != "full" for rung in rungs):
        train_s = sum(float(rung["seconds"]) for rung in rungs)
    kept_s = None
    if is_known and kept is not None:
        numbered = zip(history, seconds, strict=True)
        kept_s = before_s + sum(value for epoch, value in numbered if int(epoch.get("epoch", 0)) <= int(kept))
    return {
        "train_s": train_s,
        "folds_s": folds_s,
        "kept_s": None if kept_s is None else round(kept_s, 2),
        "kept_share": None if kept_s is None or not train_s else round(kept_s / train_s, 4),
        "num_epochs": len(history) or None,
        "kept_epoch": kept,
        "num_validation_rows": num_rows.get("validation"),
        "learning_rate": train.get("learning_rate"),
        "zero_stage": (report.get("distribution") or {}).get("zero_stage", train.get("zero_stage")),
        "methods": methods,
    }


def epoch_seconds(epoch: dict[str, Any], *, num_rows: int | None) -> float | None:
    """Seconds that an epoch's steps took."""
    if epoch.get("train_s") is not None:
        return float(epoch["train_s"])
    if num_rows is None or not epoch.get("examples_per_s"):
        return None
    return num_rows / float(epoch["examples_per_s"])


def rounded(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """Seconds to hundredths, figures to a millionth: the file is read by people, too."""
    digits = {name: 2 if name.endswith("_s") else 6 for name in figures}
    return {name: None if value is None else round(float(value), digits[name]) for name, value in figures.items()}
