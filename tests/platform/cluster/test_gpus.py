"""Processes of Ray see only the GPUs that Ray has assigned to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from manta.cluster.gpus import VISIBLE, hide_unassigned_gpus

ON_TWO_GPUS = """
import json, os
import ray
from manta.cluster.gpus import VISIBLE, hide_unassigned_gpus

ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)

def seen():
    hide_unassigned_gpus()
    return os.environ.get(VISIBLE)

tasks = [ray.remote(num_cpus=1, num_gpus=count)(seen) for count in (0, 1, 2)]
print(json.dumps([ray.get(task.remote()) for task in tasks]))
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_task_sees_the_gpus_that_it_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_GPUS], env=os.environ | {VISIBLE: "0,1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    none, one, two = json.loads(done.stdout)
    assert none == ""
    assert one in {"0", "1"}
    assert sorted(two.split(",")) == ["0", "1"]


def test_a_process_outside_of_ray_keeps_what_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    hide_unassigned_gpus()
    assert os.environ[VISIBLE] == "0,1"
