"""Updates of a real engine at each ZeRO stage: the learning rate of each step, and gradients that are not finite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from manta.config.file import write_config
from manta.labels import LabelSpace
from manta.model.loss import ClassificationLoss
from manta_jobs.training.checkpoints import WEIGHTS_FILE, TrainingState, write_checkpoint
from manta_jobs.training.engine.build import full_weights
from manta_jobs.training.engine.optimizer_state import gather_master_weights, gather_moments, restore
from manta_jobs.training.engine.updates import Updates
from manta_jobs.training.engine.zero import scaler_state

from ..conftest import experiment, ran_without_cluster
from ..processes import in_processes
from .engines import STAGES, engine_of, rows_of

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

NUM_STEPS = 10
BAD_STEP = 1
FP16_STEPS = 6


def updates_of(engine: DeepSpeedEngine) -> Updates:
    return Updates(engine, rate=lambda step: 1 - step / NUM_STEPS, max_grad_norm=1.0)


def step(engine: DeepSpeedEngine, updates: Updates, number: int, *, factor: float = 1.0) -> None:
    """One optimizer step, as the training loop makes it; the last worker's loss is multiplied by `factor`."""
    updates.set_rate(number)
    loss = engine(rows_of(dist.get_rank(), number))
    engine.backward(loss * (factor if dist.get_rank() == dist.get_world_size() - 1 else 1.0))
    updates.reduce()
    updates.make()
    updates.count(loss.detach())


def weights_of(engine: DeepSpeedEngine) -> torch.Tensor:
    with full_weights(engine) as weights:
        return torch.cat([weights[name].detach().float().flatten() for name in sorted(weights)]).clone()


def with_a_bad_step(rank: int, folder: str) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        for stage in STAGES:
            engine = engine_of(stage, precision=precision)
            updates = updates_of(engine)
            facts: dict[str, Any] = {"rates": [], "norms": []}
            for number in range(4):
                before, moments = weights_of(engine), gather_moments(engine) if number else {}
                step(engine, updates, number, factor=float("nan") if number == BAD_STEP else 1.0)
                facts["rates"].append(engine.get_lr()[0])
                facts["norms"].append(updates.grad_norm)
                if number == BAD_STEP:
                    after = gather_moments(engine)
                    facts["kept"] = (
                        torch.equal(before, weights_of(engine)),
                        all(torch.equal(moments[name], after[name]) for name in moments),
                    )
                    facts["in_row"] = updates.counts[3].item()
            facts["counts"], facts["weights"] = updates.counts.clone(), weights_of(engine)
            found[precision, stage] = facts
            engine.destroy()
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_step_without_finite_gradients_changes_nothing_at_any_stage_and_is_counted(tmp_path: Path) -> None:
    left, right = in_processes(with_a_bad_step, tmp_path, num_workers=2)
    for precision in ("fp32", "bf16"):
        for stage in STAGES:
            name, facts = f"{precision}, ZeRO {stage}", left[precision, stage]
            assert facts["kept"] == (True, True), name
            assert facts["weights"].isfinite().all(), name
            assert torch.equal(facts["weights"], right[precision, stage]["weights"]), name
            loss_sum, num_counted, skipped, in_row = facts["counts"].tolist()
            assert (num_counted, skipped, in_row, facts["in_row"]) == (3, 1, 0, 1), name
            assert 0 < loss_sum < 100, name
            assert facts["rates"] == pytest.approx([1e-2 * (1 - number / NUM_STEPS) for number in range(4)]), name
            norms = torch.tensor(facts["norms"])
            assert norms.isfinite().tolist() == [True, False, True, True], name
            torch.testing.assert_close(facts["weights"], left[precision, 0]["weights"], rtol=0, atol=1e-6, msg=name)


def resumed_in_fp16(rank: int, folder: str) -> None:
    """Train past a skipped step; then again from a checkpoint after it, with another engine."""
    found = {}
    for stage in STAGES:
        engine = engine_of(stage, precision="fp16")
        updates = updates_of(engine)
        for number in range(FP16_STEPS):
            if number == FP16_STEPS // 2:
                state = TrainingState(step=number, skipped_steps=int(updates.counts[2]), scaler=scaler_state(engine))
                masters, moments = gather_master_weights(engine), gather_moments(engine)
                checkpoint = write_checkpoint(Path(folder) / f"zero-{stage}", vars(state), weights=masters, moments=moments)
            step(engine, updates, number, factor=float("inf") if number == BAD_STEP else 1.0)
        again = engine_of(stage, precision="fp16", weights=load_file(checkpoint / WEIGHTS_FILE))
        restore(again, checkpoint, state)
        updates = updates_of(again)
        for number in range(state.step, FP16_STEPS):
            step(again, updates, number)
        found[stage] = {
            "skipped": state.skipped_steps,
            "weights": (weights_of(engine), weights_of(again)),
            "rates": (engine.get_lr(), again.get_lr()),
            "scalers": (scaler_state(engine), scaler_state(again)),
        }
        engine.destroy()
        again.destroy()
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_fp16_resumes_exactly_after_a_skipped_step(tmp_path: Path) -> None:
    (found,) = in_processes(resumed_in_fp16, tmp_path, num_workers=1)
    for stage in STAGES:
        facts = found[stage]
        assert facts["skipped"] == 1, f"ZeRO {stage}"
        assert facts["rates"][0] == facts["rates"][1], f"ZeRO {stage}"
        assert facts["scalers"][0] == facts["scalers"][1], f"ZeRO {stage}"
        assert torch.equal(*facts["weights"]), f"ZeRO {stage}"


def first_step_skipped(rank: int, folder: str) -> None:
    found = {}
    for stage in STAGES:
        engine = engine_of(stage)
        step(engine, updates_of(engine), 0, factor=float("nan"))
        found[stage] = sum(moment.abs().sum().item() for moment in gather_moments(engine).values())
        engine.destroy()
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_checkpoint_before_the_first_update_has_moments_of_zero(tmp_path: Path) -> None:
    (found,) = in_processes(first_step_skipped, tmp_path, num_workers=1)
    assert found == dict.fromkeys(STAGES, 0.0)


@pytest.mark.parametrize("task", ["multiclass", "binary"])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_of_a_row_that_is_wholly_right_has_finite_gradients(task: str, gamma: float) -> None:
    labels = LabelSpace(("a", "b"), task)  # type: ignore[arg-type]
    logits = torch.tensor([[200.0, -200.0], [1.0, 2.0]])[:, : 2 if task == "multiclass" else 1].requires_grad_()
    targets = torch.tensor([0, 1]) if task == "multiclass" else torch.tensor([1, 0])
    loss = ClassificationLoss(labels, class_weights=None, smoothing=0.0, focal_gamma=gamma)(logits, targets)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1].abs().sum() > 0


DIVERGING = """
import json, sys
from pathlib import Path

from manta.config.file import load_config
from manta.console import people_console
from manta.errors import RunError
from manta_jobs.runs.train import train

try:
    train(load_config(Path(sys.argv[1])), console=people_console())
except RunError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_run_of_skipped_steps_ends_with_a_sentence(two_classes: Path, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    write_config(experiment(two_classes, tiny_model, num_workers=1, learning_rate=1e30), path)
    done = ran_without_cluster("-c", DIVERGING, str(path), folder=tmp_path)
    said = json.loads(done.stdout.splitlines()[-1])
    assert "the gradients of " in said
    assert "steps in a row were not finite, up to step" in said
    assert "lower train.learning_rate" in said
