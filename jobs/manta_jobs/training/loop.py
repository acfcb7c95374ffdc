"""`Training`: the training loop, and the steps that it calls."""

from __future__ import annotations

import math
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from manta.evaluation.metrics import METRIC_NAMES, classification_metrics
from manta.model.encoder import keeps_head
from manta.model.loss import TrainedClassifier
from manta_jobs.training.batches import Pass, WorkerRows, num_micro_batches
from manta_jobs.training.checkpoints import TrainingState, checkpoint_name, epochs_without_gain, kept_epoch
from manta_jobs.training.distribution import WorkRecord, agreed_hash
from manta_jobs.training.engine import memory
from manta_jobs.training.engine.build import agreed_precision, build_engine, full_weights, schedule
from manta_jobs.training.engine.gpu_speedups import read_no_masks
from manta_jobs.training.engine.optimizer_state import Saver, restore
from manta_jobs.training.engine.updates import MOST_SKIPPED, Updates
from manta_jobs.training.engine.zero import end
from manta_jobs.training.progress import Part, RunProgress, StepReporter
from manta_jobs.training.start.classifier import build_classifier
from manta_jobs.training.start.new_head import fit_head, layer_to_fit
from manta_jobs.training.start.seeds import compute_deterministically, seed_step
from manta_jobs.training.start.worker_setup import WorkerSetup, agreed_checkpoint, on_this_node
from manta_jobs.training.validation import all_logits, steps_of_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deepspeed import DeepSpeedEngine

    from manta.labels import Floats

EPOCH_FIELDS = (
    *METRIC_NAMES,
    *("epoch", "step", "skipped_steps", "train_loss", "examples_per_s", "learning_rate", "dropout", "weights_sha256", "checkpoint"),
)
LOG_EVERY_STEPS = 10
POINTS_PER_EPOCH = 20
PREEMPTION_LOOK_EVERY_S = 5.0
NO_CUDA = (
    "The workers have a GPU each as Ray counts, but torch sees none there: they train on CPUs. Does the node have torch for CUDA?"
)


class Training:
    """One worker's part of a training: its rows, its engine and its progress."""

    def __init__(
        self, setup: WorkerSetup, *, ends_at: float = math.inf, fold: int | None = None, held_out: Floats | None = None
    ) -> None:
        """Build the pretrained model, or restore it from the newest checkpoint, and wrap it for distributed training.

        A `fold` of a cross-validation trains on the rows of the other folds, is evaluated on its own rows and writes no checkpoint.
        The training that follows uses all rows; its metrics are computed from `held_out`, see `cross_validate`.
        """
        self.ends_at, self.fold, self.held_out = ends_at, fold, held_out
        self.setup = setup = on_this_node(setup)
        torch.set_num_threads(setup.num_threads)
        compute_deterministically(setup.config.train.deterministic)
        # Ray returns a GPU if the node declares one, even if torch cannot use it.
        self.device = ray.train.torch.get_device() if torch.cuda.is_available() else torch.device("cpu")
        if self.device.type == "cuda":
            read_no_masks()
        found = agreed_checkpoint(Path(setup.checkpoints)) if fold is None else None
        self.state = found[1] if found else TrainingState()
        self.state.precision = agreed_precision(setup.config.train, before=self.state.precision)
        self.config = setup.config.train.model_copy(update={"precision": self.state.precision})
        self.rows = WorkerRows(
            Path(setup.data_folder), self.config, folds=setup.folds, fold=fold, pad_id=setup.pad_id, device=self.device
        )
        with memory.exhaustion_named(1):  # no rows are computed yet
            self._build_engine(found[0] if found else None)
        self.saver = Saver(Path(setup.checkpoints))
        self.record = WorkRecord(self.device)
        self.looked_at = time.monotonic()
        self.out_of_time = False
        self.log_every = max(1, min(LOG_EVERY_STEPS, self.rows.batches.num_steps // POINTS_PER_EPOCH))
        self.reporter = StepReporter(
            setup.board,
            setup.run_name,
            state=self.state,
            num_steps=self.num_steps,
            part=self._part(),
            num_epochs=self.config.planned_epochs,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            micro_batch_size=self.micro_batch_size,
        )
        if dist.get_rank() == 0 and self.device.type == "cpu" and ray.is_initialized() and ray.get_gpu_ids():
            setup.board.say(setup.run_name, NO_CUDA)

    def say_zero_stage(self) -> None:
        """Tell the user which ZeRO stage several workers chose and why. Say nothing if it was configured or resumed."""
        world_size = dist.get_world_size()
        if dist.get_rank() == 0 and world_size > 1 and self.stage_reason:
            self.setup.board.say(
                self.setup.run_name,
                f"The {world_size} workers train at ZeRO {self.config.chosen_zero_stage} (auto: {self.stage_reason}).",
            )

    def run(self, *, report: Callable[[dict[str, Any]], bool]) -> None:
        """Run the training loop. `report` takes each epoch's metrics and returns whether to continue, the same on all workers."""
        state, rank, world_size = self.state, dist.get_rank(), dist.get_world_size()
        with memory.exhaustion_named(self.micro_batch_size):
            while not state.finished:
                batches = self.rows.batches.epoch(state.epoch)[state.batch :]
                with closing(
                    self.rows.steps(batches, epoch=state.epoch, rank=rank, world_size=world_size, num_micro=self.num_micro)
                ) as steps:
                    for _ in batches:
                        self.train_step(steps)
                        self.look_up()
                        if self.out_of_time:
                            break
                metrics = self.finish_epoch()
                if not report(metrics):
                    break
        self.saver.wait()

    def train_step(self, steps: Iterator[list[Pass]]) -> None:
        """Make the next optimizer step: forward and backward on this worker's rows of a global batch, then AdamW's update."""
        started, watch = time.perf_counter(), self.record.watch
        seed_step(self.config.seed, step=self.state.step, rank=dist.get_rank())
        self.updates.set_rate(self.state.step)
        mean_loss = torch.zeros((), device=self.device)
        with watch("data"):
            passes = next(steps)
        for part in passes:
            with watch("data"):
                inputs, targets = self.rows.on_device(part)
            with watch("forward"):
                loss = self.engine(labels=targets, **inputs)["loss"] * part.share.weight
            with watch("backward"):
                self.engine.backward(loss)
            mean_loss += loss.detach() / self.num_micro
            self.record.micro_batch(self.engine, num_rows=len(part.share.rows) if part.share.weight else 0)
            with watch("backward"):
                self.updates.reduce()
            with watch("step"):
                self.updates.make()
        self.updates.count(mean_loss)
        self.state.step += 1
        self.state.batch += 1
        took_s = time.perf_counter() - started
        self.state.train_s += took_s
        self.record.step(self.engine, seconds=took_s)

    def look_up(self) -> None:
        """Agree on the mean loss and report progress every few steps, and save a checkpoint if one is due.

        A checkpoint is also due when the node is about to be taken away, or the workers are about to become more.
        """
        due = self.config.checkpoint_steps is not None and self.state.batch % self.config.checkpoint_steps == 0
        if due or self.state.batch % self.log_every == 0 or self.state.batch == self.rows.batches.num_steps:
            now = time.monotonic()
            wishes = (
                self.saver.age_s > 60 * self.config.checkpoint_minutes,
                now - self.looked_at > PREEMPTION_LOOK_EVERY_S,
                now > self.ends_at,
                self._is_resize_near(now),
            )
            loss, due_by_time, look, is_over, resize = self._agree([float(wish) for wish in wishes])
            self.out_of_time = bool(is_over)
            self.reporter.step(
                self.state,
                loss=loss,
                learning_rate=max(self.engine.get_lr()),
                grad_norm=self.updates.grad_norm,
                batch_size=self.config.batch_size,
            )
            due = due or bool(due_by_time)
            if look:
                self.looked_at = now
                due = due or ray.train.get_preemption_info() is not None
            if resize:
                self.save_for_good()
                if dist.get_rank() == 0:
                    self.setup.board.checkpoint_done(self.setup.run_name)
                due = False
        if due and self.state.batch < self.rows.batches.num_steps:
            self.save()

    def _is_resize_near(self, now: float) -> bool:
        """Tell whether Ray is about to restart this run with another number of workers; worker 0 looks every few seconds."""
        is_elastic = self.config.min_workers < self.config.max_workers
        may_look = is_elastic and dist.get_rank() == 0 and now - self.looked_at > PREEMPTION_LOOK_EVERY_S
        return may_look and self.setup.board.is_checkpoint_wanted(self.setup.run_name)

    def finish_epoch(self) -> dict[str, Any]:
        """Evaluate, record the metrics, save, and return the metrics. All workers must have the same weights."""
        state = self.state
        self.reporter.evaluating(state)
        with self.record.watch("evaluation"):
            self.logits = self._validation_logits()
            scores = classification_metrics(self.logits, self.rows.validation.targets, labels=self.setup.labels)
        weights_hash = ""
        if self.fold is None:
            with full_weights(self.engine) as weights:
                weights_hash = agreed_hash(weights)
        metrics: dict[str, Any] = {
            **scores,
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": state.loss_sum / (state.batch - self._skipped_in_epoch()),
            "examples_per_s": len(self.rows.train) * state.batch / self.rows.batches.num_steps / state.train_s,
            "learning_rate": self.config.peak_learning_rate,
            "skipped_steps": state.skipped_steps,
            "dropout": self.dropout,
            "weights_sha256": weights_hash,
            "checkpoint": str(Path(self.setup.checkpoints) / checkpoint_name(state.step)),
        }
        state.history.append(metrics)
        kept = kept_epoch(state.history, self.config)
        state.best_step = kept["step"]
        state.epoch, state.batch, state.loss_sum, state.train_s = state.epoch + 1, 0, 0.0, 0.0
        patience = self.config.early_stopping if self.fold is None else None
        is_patient = patience is None or epochs_without_gain(state.history, self.config) < patience
        state.finished = state.epoch == self.config.planned_epochs or not is_patient or self.out_of_time
        state.distribution = self._distribution(weights_hash) if self.fold is None else None
        if state.finished:
            self.save_for_good()
        elif self.config.early_stopping is not None or self.saver.is_cheap():  # with early stopping, any epoch may be kept
            self.save()
        self.reporter.epoch_done(metrics)
        return metrics

    def save(self) -> None:
        """Begin to write a checkpoint. A fold writes none, because training it again is quick."""
        if self.fold is None:
            with self.record.watch("checkpoint"):
                self.saver.save(self.engine, self.state)

    def save_for_good(self) -> None:
        """Save the current state and wait until it is on disk. All workers must call it together."""
        if not self.saver.has_saved(self.state):
            self.save()
        self.saver.wait()

    def close(self) -> None:
        """Release the engine and its memory, so that another run can use this process."""
        with suppress(OSError):
            self.saver.wait()
        end(self.engine)

    def _build_engine(self, checkpoint: Path | None) -> None:
        """Build the engine at the ZeRO stage and micro-batch size that fit all workers' memory; restore a checkpoint if given."""
        world_size = dist.get_world_size()
        model, self.dropout = build_classifier(self.setup, self.config, self.rows.train.targets, checkpoint=checkpoint)
        model.to(self.device)
        room = self._room(model)
        zero_stage, self.stage_reason = memory.agreed_zero_stage(self.config, room, before=self.state)
        self.config = self.config.model_copy(update={"zero_stage": zero_stage})
        limit = self.setup.board.micro_batch_limit(self.setup.run_name)
        self.micro_batch_size = memory.agreed_micro_batch_size(
            self.config, room, zero_stage=zero_stage, before=self.state, limit=limit
        )
        self.state.world_size, self.state.zero_stage = world_size, zero_stage
        self.state.micro_batch_size = self.micro_batch_size
        self.num_micro = num_micro_batches(self.config.batch_size, world_size=world_size, micro_batch_size=self.micro_batch_size)
        self.num_steps = self.rows.batches.num_steps * self.config.planned_epochs
        if checkpoint is None and not keeps_head(self.setup.config.model, self.setup.labels):
            self._fit_head(model)
        self.engine: DeepSpeedEngine = build_engine(
            model,
            self.config,
            micro_batch_size=self.micro_batch_size,
            num_micro=self.num_micro,
        )
        if checkpoint is not None:
            if not self.state.finished:
                restore(self.engine, checkpoint, self.state)
            self.state.resumed.append(self.state.step)
        rate = schedule(self.config, num_steps=self.num_steps)
        self.updates = Updates(self.engine, rate=rate, max_grad_norm=self.config.max_grad_norm)
        self.engine.train()  # turns dropout on: pretrained models load with it off

    def _fit_head(self, model: TrainedClassifier) -> None:
        """Fit the new head to the features of the pretrained encoder, if rows suffice, before both are fine-tuned."""
        setup, part, train = self.setup, self._part(), self.rows.train
        layer = layer_to_fit(model.model, num_rows=len(train) if setup.folds is None else len(setup.folds))
        if layer is None:
            return
        if dist.get_rank() == 0:
            begun = RunProgress(part.num_steps, part.num_steps_before, f"{part.name}fitting the head", dist.get_world_size())
            setup.board.started(setup.run_name, begun, after_step=0)
        fit_head(model.model, layer, train, labels=setup.labels, config=self.config, pad_id=setup.pad_id)

    def _room(self, model: TrainedClassifier) -> memory.Room:
        inputs, targets = self.rows.load_longest()
        model.train()
        return memory.measured_room(
            model,
            row=memory.bytes_per_row(model, inputs, targets),
            device=self.device,
            world_size=dist.get_world_size(),
            workers_here=ray.train.get_context().get_local_world_size(),
        )

    def _part(self) -> Part:
        """Return the position of this training among the folds of a cross-validation and the final training."""
        if self.setup.folds is None:
            return Part(num_steps=self.num_steps)
        steps = steps_of_parts(self.setup.folds, batch_size=self.config.batch_size, num_epochs=self.config.planned_epochs)
        index = len(steps) - 1 if self.fold is None else self.fold
        name = "" if self.fold is None else f"fold {self.fold + 1} of {len(steps) - 1}, "
        return Part(name, num_steps_before=sum(steps[:index]), num_steps=sum(steps))

    def _validation_logits(self) -> Floats:
        """Return logits `(rows, outputs)` after the epoch under way; after a cross-validation, the held-out ones."""
        if self.held_out is not None:
            logits: Floats = self.held_out[min(self.state.epoch, len(self.held_out) - 1)]
            return logits
        return all_logits(self.engine, self.rows.validation, pad_id=self.setup.pad_id)

    def _agree(self, wishes: list[float]) -> tuple[float | None, ...]:
        """Return the mean loss over all workers since the last call, and the sum of each wish over all workers.

        The loss is None if all steps were skipped. A sum above 0 means that some worker has the wish.

        Raises:
            ArithmeticError: too many steps in a row were skipped.
        """
        shared = torch.cat([self.updates.counts, torch.tensor(wishes, dtype=torch.float64, device=self.device)])
        dist.all_reduce(shared)
        loss_sum, count, skipped, in_row, *wanted = (shared / dist.get_world_size()).tolist()
        self.updates.reset()
        self._note_skipped(int(skipped), in_row=int(in_row))
        self.state.loss_sum += loss_sum
        return (loss_sum / count if count else None, *wanted)

    def _note_skipped(self, new: int, *, in_row: int) -> None:
        """Count steps that were skipped, tell the user of the first, and end the run if there are too many in a row."""
        state, precision = self.state, self.config.precision
        is_first = new > 0 and state.skipped_steps == 0
        state.skipped_steps += new
        if in_row >= min(MOST_SKIPPED, self.rows.batches.num_steps):
            other = "take train.precision: bf16 or fp32" if precision == "fp16" else "train.focal_gamma, if it is set"
            raise ArithmeticError(
                f"the gradients of {in_row} steps in a row were not finite, up to step {state.step}; "
                f"lower train.learning_rate, or {other}"
            )
        if is_first and precision != "fp16" and dist.get_rank() == 0:  # fp16 finds its loss scale this way
            self.setup.board.say(
                self.setup.run_name,
                f"Gradients that are not finite up to step {state.step}: such steps are skipped, and `skipped_steps` counts them.",
            )

    def _skipped_in_epoch(self) -> int:
        before = self.state.history[-1].get("skipped_steps", 0) if self.state.history else 0
        return self.state.skipped_steps - int(before)

    def _distribution(self, last_hash: str) -> dict[str, Any]:
        """Return the section `distribution` of `report.json`. All workers must call it together."""
        return self.record.report(self.engine, last_hash=last_hash) | {
            "resumed_at_steps": self.state.resumed,
            "precision": self.config.precision,
            "micro_batch_size": self.micro_batch_size,
            "micro_batches_per_step": self.num_micro,
        }
