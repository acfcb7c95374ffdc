"""A tied command ends with its starter, however that ends, and takes its own processes with it."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from manta.cluster.tied import start_tied, stop_tied

TREE = """
import os, signal, subprocess, sys, time
if {is_stubborn}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
STARTER = """
import subprocess, sys, threading, time
from manta.cluster.tied import start_tied
def start():  # a parent-death signal would come at the end of this thread
    global process
    process = start_tied([sys.executable, "-c", sys.argv[1]], stops_within_s=1.0, stdout=subprocess.PIPE)
thread = threading.Thread(target=start)
thread.start()
thread.join()
print(process.stdout.readline().decode(), flush=True)
time.sleep(600)
"""


def started(line: str) -> list[psutil.Process]:
    """The processes that a tree names, which all run."""
    found = [psutil.Process(int(number)) for number in line.split()]
    assert all(process.is_running() for process in found)
    return found


def assert_gone(tree: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(tree, timeout=30)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("is_stubborn", [False, True])
def test_it_ends_with_a_starter_that_is_killed(is_stubborn: bool) -> None:
    command = [sys.executable, "-c", STARTER, TREE.format(is_stubborn=is_stubborn)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        tree = started(starter.stdout.readline())
        starter.kill()
    assert_gone(tree)


@pytest.mark.parametrize("is_stubborn", [False, True])
def test_it_is_stopped_with_its_group(is_stubborn: bool) -> None:
    command = [sys.executable, "-c", TREE.format(is_stubborn=is_stubborn)]
    process = start_tied(command, stops_within_s=1.0, stdout=subprocess.PIPE)
    assert process.stdout is not None
    tree = started(process.stdout.readline().decode())
    stop_tied(process, stops_within_s=1.0)
    assert process.poll() is not None
    assert_gone(tree)
    process.stdout.close()


def test_one_that_ends_by_itself_is_seen() -> None:
    process = start_tied([sys.executable, "-c", "raise SystemExit(3)"], stops_within_s=1.0)
    assert process.wait(30) == 3
    stop_tied(process, stops_within_s=1.0)
