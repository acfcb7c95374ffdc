"""The machine of a benchmark, and the highest speed at which its cores (or its GPU) multiply matrices.

`python benchmarks/machine.py THREADS` prints the yardstick as JSON: each measurement has a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "ray", "datasets")
LOW_PRECISION_FLAGS = ("avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
NUM_MATMULS = 10
CPU_SIZE, GPU_SIZE = 2048, 8192


def use_cores(num_threads: int | None) -> int:
    """Keep this process and those it starts on `num_threads` cores (all of them unless given); how many that is."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:num_threads])
    return len(os.sched_getaffinity(0))


def environment(num_threads: int, *, num_gpus: int = 1) -> dict[str, str]:
    """The environment of a measured process: its threads, at most `num_gpus` of the visible GPUs, and no network."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible is not None else [str(index) for index in range(num_gpus)]
    return os.environ | {
        "OMP_NUM_THREADS": str(num_threads),
        "MKL_NUM_THREADS": str(num_threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        "CUDA_VISIBLE_DEVICES": ",".join(gpus[:num_gpus]),
    }


def machine_facts(num_threads: int) -> dict[str, Any]:
    """Return the facts that a reader needs to compare the figures with those of another machine."""
    return {
        "cpu": cpu_name(),
        "cores": num_threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def compact_facts(num_threads: int) -> dict[str, Any]:
    """The same for a file that has them on every line: the processor, and what it computes quickly in low precision."""
    words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return {"cpu": cpu_name(), "cores": num_threads, "flags": [flag for flag in LOW_PRECISION_FLAGS if flag in words]}


def cpu_name() -> str:
    """The processor's name as the kernel tells it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measured_matmul(num_threads: int) -> dict[str, Any]:
    """`matmul` in a fresh process: its `gflop_per_s`, `device` and `dtype`."""
    command = [sys.executable, __file__, str(num_threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment(num_threads))
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def matmul(num_threads: int) -> dict[str, Any]:
    """The best of several large square products (n^3 multiply-adds), in bfloat16 where the hardware computes in it."""
    import torch

    from manta_jobs.training.engine.build import computes_bf16

    torch.set_num_threads(num_threads)
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if computes_bf16() else torch.float32
    size = GPU_SIZE if on_gpu else CPU_SIZE
    left, right = (torch.randn(size, size, device="cuda" if on_gpu else "cpu", dtype=dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(NUM_MATMULS + 1):  # the first one only warms up: it is never the best
        started = time.perf_counter()
        left @ right
        synchronize()
        best_s = min(best_s, time.perf_counter() - started)
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    return {"gflop_per_s": 2 * size**3 / best_s / 1e9, "device": device, "dtype": str(dtype).removeprefix("torch.")}


def synchronize() -> None:
    """Wait for the GPU, if there is one, so that the clock sees its work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(matmul(int(sys.argv[1]))))
