"""Seconds of `manta train` by phase and by process: `python benchmarks/startup.py`.

Runs the command as a user types it, from the shell's exec to its exit, and prints

- the phases that people see, with seconds: those between two phases are the command's own work;
- every process that it started, with its first and last second and the CPU seconds that it used. This process adopts the orphans of
  the command, so that none is missed; a process that lived for less than a tenth of a second does not show.

A picture shows the same over time. Run it on a quiet machine: CPU seconds hold beside other work, wall seconds do not.

    python benchmarks/startup.py                                # 960 rows of sample:support, 1 epoch, 1 worker
    python benchmarks/startup.py --workers 2 --png startup.png --cold
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from machine import environment, use_cores
from workload import load_rows, write_workload

LOOK_EVERY_S = 0.1
PR_SET_CHILD_SUBREAPER = 36
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
ROLES = (
    ("gcs_server", "Ray: control store"),
    ("raylet/raylet", "Ray: raylet"),
    ("log_monitor.py", "Ray: log monitor"),
    ("monitor.py", "Ray: autoscaler monitor"),
    ("dashboard/agent.py", "Ray: dashboard agent"),
    ("runtime_env/agent", "Ray: environment agent"),
    ("dashboard.py", "Ray: dashboard"),
)
DRIVER = """
import atexit, json, os, sys, time
import manta.console
from contextlib import contextmanager
started, phases, real = float(os.environ["STARTED"]), [], manta.console.working
@contextmanager
def working(console, message, **others):
    begin = time.time() - started
    try:
        with real(console, message, **others):
            yield
    finally:
        phases.append((message, begin, time.time() - started))
manta.console.working = working

def write():
    with open(os.environ["PHASES"], "w") as file:
        json.dump(phases, file)

atexit.register(write)
from manta.cli import command
sys.argv = ["manta", *sys.argv[1:]]
command()
"""
"""The command with a clock in its status lines."""


@dataclass
class Process:
    """One process of the command."""

    role: str
    first_s: float
    last_s: float = 0.0
    cpu_s: float = 0.0
    usage: list[tuple[float, float]] = field(default_factory=list)
    """Time and CPU seconds used until then."""


def main() -> int:
    """Run the command, print the tables and draw the picture if asked to."""
    arguments = parsed_arguments()
    console = Console(width=150)
    num_threads = use_cores(arguments.threads)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = ["train.num_epochs=1", f"train.num_workers={arguments.workers}"]
        load = load_rows(arguments.data)
        workload = write_workload(load, folder, case="startup", overrides=overrides, num_rows=arguments.rows)
        if arguments.cold:
            DROP_CACHES.write_text("1")
        command = [sys.executable, "-c", DRIVER, "train", str(workload.experiment), *(f"--set={item}" for item in arguments.set)]
        phases, processes, wall_s = followed(command, folder, num_threads)
    console.print(phase_table(phases, wall_s))
    console.print(process_table(processes))
    if arguments.png:
        draw(phases, processes, wall_s, arguments.png)
    return 0


def parsed_arguments() -> argparse.Namespace:
    """Return the command line's values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample:support", help="bundled rows, or a folder with train, dev and test (%(default)s)")
    parser.add_argument("--rows", type=int, default=960, help="training rows, drawn by a fixed seed; 0: all (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="training workers (%(default)s)")
    parser.add_argument("--threads", type=int, help="cores to use; all unless given")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting, as for manta train")
    parser.add_argument("--cold", action="store_true", help="empty the file cache first (needs root)")
    parser.add_argument("--png", type=Path, help="draw the picture into this file")
    return parser.parse_args()


Phase = tuple[str, float, float]


def followed(command: list[str], folder: Path, num_threads: int) -> tuple[list[Phase], list[Process], float]:
    """Run the command to the end of its last process.

    Return its phases, its processes and the seconds until it exited.
    """
    started, path = time.time(), folder / "phases.json"
    env = environment(num_threads) | {"STARTED": str(started), "PHASES": str(path), "MANTA_STORAGE": str(folder / "storage")}
    driver = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL)
    seen: dict[int, Process] = {}
    wall_s = None
    me = psutil.Process()
    while True:
        now = time.time() - started
        for process in me.children(recursive=True):
            look_at(process, seen, now, is_driver=process.pid == driver.pid)
        if wall_s is None and driver.poll() is not None:
            wall_s = now
        if wall_s is not None and not reaped():
            break
        time.sleep(LOOK_EVERY_S)
    if driver.returncode != 0:
        raise SystemExit(f"the command failed with exit code {driver.returncode}")
    return json.loads(path.read_text()), list(seen.values()), wall_s


def look_at(process: psutil.Process, seen: dict[int, Process], now: float, *, is_driver: bool) -> None:
    """Note what a process is and how much CPU time it has used."""
    try:
        with process.oneshot():
            times, words = process.cpu_times(), process.cmdline()
    except psutil.Error:
        return
    if not words:
        return
    entry = seen.setdefault(process.pid, Process("", now))
    entry.role = "the command" if is_driver else role_of(words)
    entry.last_s, entry.cpu_s = now, times.user + times.system
    entry.usage.append((now, entry.cpu_s))


def role_of(words: list[str]) -> str:
    """Return a name for a process's command line."""
    line = " ".join(words)
    if words[0].startswith("ray::"):
        return f"worker {words[0]}"
    return next((role for part, role in ROLES if part in line), f"{Path(words[0]).name} {' '.join(words[1:3])}"[:60])


def reaped() -> bool:
    """Collect the orphans that have ended; tell whether any is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def phase_table(phases: list[Phase], wall_s: float) -> Table:
    """Return the seconds of each phase and of what lies between them."""
    table = Table("from", "seconds", "phase", title=f"manta train: {wall_s:.1f} s from exec to exit", title_justify="left")
    at = 0.0
    for message, begin, end in sorted(phases, key=lambda phase: phase[1]):
        if begin - at > 0.05:
            table.add_row(f"{at:.1f}", f"{begin - at:.1f}", "(between)", style="dim")
        table.add_row(f"{begin:.1f}", f"{end - begin:.1f}", message)
        at = max(at, end)
    table.add_row(f"{at:.1f}", f"{wall_s - at:.1f}", "(to the exit)", style="dim")
    return table


def process_table(processes: list[Process]) -> Table:
    """Return the CPU seconds of each process; those below a tenth of a second are summed."""
    table = Table(
        "CPU s",
        "from",
        "to",
        "process",
        title=f"{sum(process.cpu_s for process in processes):.1f} CPU seconds",
        title_justify="left",
    )
    small: dict[str, float] = defaultdict(float)
    for process in sorted(processes, key=lambda process: process.first_s):
        if process.cpu_s < LOOK_EVERY_S:
            small["the rest"] += process.cpu_s
        else:
            table.add_row(f"{process.cpu_s:.1f}", f"{process.first_s:.1f}", f"{process.last_s:.1f}", process.role)
    for role, seconds in small.items():
        table.add_row(f"{seconds:.1f}", "", "", role)
    return table


def draw(phases: list[Phase], processes: list[Process], wall_s: float, path: Path) -> None:
    """Draw a bar for each phase, and below them each process as a band whose height is the cores that it uses."""
    import matplotlib.pyplot as plt
    import numpy as np

    ordered = sorted(phases, key=lambda phase: phase[1])
    shown = [process for process in sorted(processes, key=lambda process: process.first_s) if process.cpu_s >= 0.3]
    figure, axes = plt.subplots(figsize=(12, 1.0 + 0.22 * len(ordered) + 0.4 * len(shown)))
    for row, (message, begin, end) in enumerate(ordered):
        axes.barh(0.55 * row, end - begin, left=begin, height=0.4, color=f"C{row % 10}", alpha=0.7)
        is_late = end > 0.7 * wall_s
        place, side = (begin, "right") if is_late else (end, "left")
        axes.text(place, 0.55 * row, f"  {message}  ", fontsize=7, va="center", ha=side)
    first = 0.55 * len(ordered)
    for row, process in enumerate(shown):
        times, used = np.array(process.usage).T
        cores = np.diff(used, prepend=0.0) / np.diff(times, prepend=times[0] - LOOK_EVERY_S)
        base = first + row + 0.4
        axes.fill_between(times, base, base - 0.4 * np.clip(cores, 0, 2), step="pre", color="C0", linewidth=0)
        axes.hlines(base, process.first_s, process.last_s, color="C0", linewidth=0.8)
    axes.set_yticks(
        [first + row for row in range(len(shown))],
        [f"{process.role[:44]} ({process.cpu_s:.1f} s)" for process in shown],
        fontsize=7,
    )
    axes.set_ylim(first + len(shown) - 0.4, -0.5)
    axes.set_xlim(0, wall_s)
    axes.set_xlabel("seconds since the command was started")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
