"""Training in the command's own process: one worker and no cluster, by Ray Train's local mode."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from ray.train import RunConfig, ScalingConfig
from safetensors.torch import load_file, save_file

from manta.config.file import write_config
from manta.console import people_console
from manta.errors import RunError
from manta.model.adapt import is_unread
from manta_jobs.runs.train import train
from manta_jobs.training.engine.memory import OutOfMemory
from manta_jobs.training.progress import Board
from manta_jobs.training.ray_train import LeanTrainer
from manta_jobs.training.recovery import Recovery
from manta_jobs.training.trainer import fit_here

from ..conftest import experiment, ran_without_cluster

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TWO_RUNS = """
import json, sys
from pathlib import Path

import ray

from manta.config.file import load_config
from manta.console import people_console
from manta.errors import RunError
from manta_jobs.runs.train import train

config = load_config(Path(sys.argv[1]))
runs = [train(config, console=people_console()) for _ in range(2)]
assert not ray.is_initialized()
found = [json.loads((run.run.path / "report.json").read_text()) for run in runs]
print(json.dumps([{"history": each["history"], "version": each["version"], "metrics": each["metrics"]} for each in found]))
"""


@pytest.mark.timeout(400)
def test_one_process_trains_what_a_worker_of_a_cluster_trains_and_can_do_so_again(
    ray_cluster: None, two_classes: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = experiment(two_classes, tiny_model, num_workers=1, deterministic=True)
    path = tmp_path / "experiment.yaml"
    write_config(config, path)
    done = ran_without_cluster("-c", TWO_RUNS, str(path), folder=tmp_path)
    assert "INFO" not in done.stderr  # the libraries' own logs
    assert "it/s" not in done.stderr  # and their bars
    runs: list[dict[str, Any]] = json.loads(done.stdout)
    on_cluster = train(config, console=people_console())
    hashes = [epoch["weights_sha256"] for epoch in on_cluster.history]
    for number, run in enumerate(runs, start=1):
        assert run["version"] == number
        assert [epoch["weights_sha256"] for epoch in run["history"]] == hashes
        assert run["metrics"]["accuracy"] == on_cluster.artifact.manifest.metrics["accuracy"]


def test_a_new_head_is_fitted_before_training_and_one_that_the_checkpoint_brings_stays(
    two_classes: Path, tiny_model: Path, tmp_path: Path
) -> None:
    still: dict[str, Any] = {"num_workers": 1, "num_epochs": 1, "learning_rate": 1e-30, "precision": "fp32"}  # changes no weight
    encoder = shutil.copytree(tiny_model, tmp_path / "encoder")
    drawn = load_file(encoder / "model.safetensors")  # so small an encoder gives all texts much the same features
    spread = {name: values * 8 if values.ndim == 2 else values for name, values in drawn.items()}
    save_file(spread, encoder / "model.safetensors", metadata={"format": "pt"})
    fitted = train(experiment(two_classes, encoder, **still), console=people_console()).artifact.path
    weights = load_file(fitted / "model.safetensors")
    assert weights["classifier.weight"].abs().max() > 1  # as drawn, they are about 0.02
    weights["classifier.bias"] = torch.tensor([0.0, 7.0])
    changed = shutil.copytree(fitted, tmp_path / "changed")
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    again = train(experiment(two_classes, changed, **still), console=people_console()).artifact.path
    assert load_file(again / "model.safetensors")["classifier.bias"].tolist() == [0.0, 7.0]


@pytest.mark.parametrize(
    ("kind", "further"), [("Esm", {"mask_token_id": 4}), ("BigBird", {}), ("RoFormer", {"embedding_size": 32})]
)
def test_an_encoder_with_a_part_that_no_gradient_reaches_is_trained_and_keeps_it(
    kind: str, further: dict[str, Any], two_classes: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_model, folder)
    bert = json.loads((folder / "config.json").read_text())
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    settings = {name: bert[name] for name in sizes} | {"pad_token_id": 0, "max_position_embeddings": 64} | further
    model = transformers.AutoModel.from_config(getattr(transformers, f"{kind}Config")(**settings))
    model.save_pretrained(folder)
    done = train(experiment(two_classes, folder, num_workers=1, num_epochs=1), console=people_console())
    before, after = (load_file(path / "model.safetensors") for path in (folder, done.artifact.path))
    prefix = {"Esm": "esm.", "BigBird": "bert.", "RoFormer": "roformer."}[kind]
    unread = [name for name in before if is_unread(prefix + name, model.config.model_type)]
    assert unread != []
    assert [name for name in unread if not torch.equal(before[name], after[prefix + name])] == []
    assert not torch.equal(before["embeddings.word_embeddings.weight"], after[f"{prefix}embeddings.word_embeddings.weight"])


def local_trainer(loop: Callable[[dict[str, Any]], None], recovery: Recovery) -> LeanTrainer:
    return LeanTrainer(
        loop, train_loop_config={}, scaling_config=ScalingConfig(num_workers=0), run_config=RunConfig(callbacks=[recovery])
    )


def test_a_process_that_runs_out_of_memory_goes_on_with_half_the_rows() -> None:
    board = Board()
    limits: list[int | None] = []

    def loop(arguments: dict[str, Any]) -> None:
        limits.append(board.micro_batch_limit("run"))
        if len(limits) == 1:
            raise OutOfMemory(16)

    fit_here(local_trainer(loop, Recovery(board, "run", max_failures=0)))
    assert limits == [None, 8]
    (message,) = board.snapshot()["run"].messages
    assert message.startswith("Worker 0 ran out of memory with 16 rows at a time; going on")


def test_an_error_of_the_process_itself_is_the_runs() -> None:
    def loop(arguments: dict[str, Any]) -> None:
        raise ValueError("the rows are odd")

    with pytest.raises(RunError, match="training failed on worker 0: ValueError: the rows are odd"):
        fit_here(local_trainer(loop, Recovery(Board(), "run", max_failures=3)))
