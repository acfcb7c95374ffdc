"""The most memory that `manta predict` has resident, with few rows and with ten times as many: `predict.py --flat-memory`."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from machine import environment

NUM_ROWS = (20_000, 200_000)
EVERY_S = 0.2
MAX_GROWTH = 0.1


def flat_memory(folder: Path, texts: list[str], *, num_threads: int, console: Console) -> list[dict[str, Any]]:
    """Both runs, printed, and their figures in the benchmarks' JSON form."""
    model = small_model(folder / "model")
    table = Table(title="Peak resident memory in MiB", title_justify="left")
    for heading in ("rows", "driver", "worker", "all processes"):
        table.add_column(heading, justify="right")
    results: list[dict[str, Any]] = []
    peaks: list[dict[str, float]] = []
    for num_rows in NUM_ROWS:
        source = folder / f"{num_rows}.csv"
        with source.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("id", "text"), *zip(range(num_rows), itertools.cycle(texts), strict=False)])
        command = [
            sys.executable,
            "-m",
            "manta.cli",
            "predict",
            str(model),
            str(source),
            "--out",
            str(folder / f"{num_rows}.out.csv"),
        ]
        peak = peak_mib(command, environment(num_threads))
        peaks.append(peak)
        table.add_row(f"{num_rows:,}", *(f"{value:.0f}" for value in peak.values()))
        case = f"{num_rows} rows"
        results += [
            {"system": "manta", "case": case, "metric": f"peak_{who}", "value": value, "unit": "MiB"} for who, value in peak.items()
        ]
    console.print(table)
    growth = {who: peaks[1][who] / peaks[0][who] - 1 for who in ("driver", "worker")}
    is_flat = all(value <= MAX_GROWTH for value in growth.values())
    words = ", ".join(f"{who} {value:+.1%}" for who, value in growth.items())
    console.print(f"From {NUM_ROWS[0]:,} to {NUM_ROWS[1]:,} rows: {words} ({'flat' if is_flat else 'not flat'})")
    return results


def peak_mib(command: list[str], variables: dict[str, str]) -> dict[str, float]:
    """The most that each kind of process of a command had resident, looked at five times a second."""
    variables.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = {"driver": 0.0, "worker": 0.0, "all": 0.0}
    while process.poll() is None:
        now = {"driver": 0.0, "worker": 0.0, "all": 0.0}
        for member in members(process.pid):
            try:
                mib, name = member.memory_info().rss / 2**20, " ".join(member.cmdline())
            except psutil.Error:
                continue
            kind = "driver" if member.pid == process.pid else "worker" if "MapWorker" in name else "other"
            now["all"] += mib
            if kind != "other":
                now[kind] = max(now[kind], mib)
        peak = {who: max(value, now[who]) for who, value in peak.items()}
        time.sleep(EVERY_S)
    if process.returncode:
        raise RuntimeError(process.stderr.read() if process.stderr else "")
    return peak


def members(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def small_model(target: Path) -> Path:
    """A finished model with two narrow layers and random weights, whose tokenizer is the embedded encoder's."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from manta.config import ModelConfig
    from manta.inference.artifact_writing import write_artifact
    from manta.labels import LabelSpace
    from manta.model.encoder import load_tokenizer

    tokenizer = load_tokenizer(ModelConfig(pretrained="embedded"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=3,
    )
    module = BertForSequenceClassification(config)
    facts = {"max_length": 64, "metrics": {}, "examples": [], "data_hash": "", "config": {}, "run": "", "pretrained": "random"}
    write_artifact(
        target,
        weights={name: tensor.contiguous() for name, tensor in module.state_dict().items()},
        model_config=config,
        tokenizer=tokenizer,
        labels=LabelSpace(("a", "b", "c"), "multiclass"),
        facts={"name": "small", **facts},
    )
    return target
