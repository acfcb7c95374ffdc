"""The batch classifiers that `manta predict` is measured beside, each as its documentation sets it up.

`python benchmarks/predict_peers.py SYSTEM MODEL INPUT.csv OUT.csv THREADS` reads the column `text`, writes the rows with `label`
and `score`, and prints `{"seconds": …}`: from the first row that goes to a loaded model to the last answer.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

BATCH_SIZE = 32


def transformers_pipeline(model: str, source: str, out: str, num_threads: int) -> float:
    """A pipeline over a data set with a batch size (https://huggingface.co/docs/transformers/main_classes/pipelines)."""
    import datasets
    import torch
    from transformers import pipeline
    from transformers.pipelines.pt_utils import KeyDataset

    torch.set_num_threads(num_threads)
    datasets.disable_progress_bars()
    rows = datasets.load_dataset("csv", data_files=source, split="train", cache_dir=str(Path(out).parent / "datasets"))
    classify = pipeline("text-classification", model=model)
    with Path(out).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows.column_names, "label", "score"])
        writer.writeheader()
        started = time.perf_counter()
        for row, answer in zip(rows, classify(KeyDataset(rows, "text"), batch_size=BATCH_SIZE, truncation=True), strict=True):
            writer.writerow(row | answer)
    return time.perf_counter() - started


class PipelineActor:
    """The class of Ray's guide to batch inference: the model is loaded once, then called for each batch."""

    def __init__(self, model: str, folder: str) -> None:
        from transformers import pipeline

        self.classify = pipeline("text-classification", model=model)
        self.started = Path(folder) / "started"

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its answers."""
        if not self.started.exists():
            self.started.write_text(str(time.time()), encoding="utf-8")
        answers = self.classify(list(batch["text"]), batch_size=BATCH_SIZE, truncation=True)
        return batch | {name: [answer[name] for answer in answers] for name in ("label", "score")}


def ray_data_plain(model: str, source: str, out: str, num_threads: int) -> float:
    """Files in, a pool of actors with a core each, files out (https://docs.ray.io/en/latest/data/batch_inference.html)."""
    import ray

    # One logical CPU more than the actors take, or reading and writing would wait for them for ever.
    ray.init(address="local", num_cpus=num_threads + 1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    folder = Path(out).with_suffix("")
    folder.mkdir()
    rows = ray.data.read_csv(source, override_num_blocks=2 * num_threads)
    answered = rows.map_batches(
        PipelineActor,
        fn_constructor_args=(model, str(folder.parent)),
        compute=ray.data.ActorPoolStrategy(size=num_threads),
        num_cpus=1,
        batch_size=1024,
    )
    answered.write_csv(str(folder))
    seconds = time.time() - float((folder.parent / "started").read_text(encoding="utf-8"))
    ray.shutdown()
    with Path(out).open("w", encoding="utf-8") as joined:
        for number, file in enumerate(sorted(folder.glob("*.csv"))):
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            joined.writelines(lines[number > 0 :])
    return seconds


PEERS = {"transformers-pipeline": transformers_pipeline, "ray-data-plain": ray_data_plain}

if __name__ == "__main__":
    system, *paths, threads = sys.argv[1:]
    print(json.dumps({"seconds": PEERS[system](*paths, int(threads))}))
