"""The methods of a run: the linear model, fine-tuning, and with `train.method: auto` the better of the two."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from manta.evaluation.metrics import classification_metrics
from manta_jobs.cluster.connection import OneNode, fit_workers, interruptible, present_cluster
from manta_jobs.cluster.waiting import look_while_waiting
from manta_jobs.training.checkpoints import CHECKPOINTS, kept_epoch
from manta_jobs.training.choice import Lead, Rival, read_lead
from manta_jobs.training.linear import LINEAR_FOLDER, LinearModel, LinearSetup, train_linear
from manta_jobs.training.progress import Board, shown_progress
from manta_jobs.training.trainer import fit, run_trainer, workers_phrase

if TYPE_CHECKING:
    from rich.console import Console

    from manta_jobs.packaging.averaging import WeightAverage
    from manta_jobs.runs.prepare import PreparedRun
    from manta_jobs.training.checkpoints import TrainingState

SHOWN = ("accuracy", "f1_macro", "loss")


@dataclass(frozen=True)
class Rung:
    """One method with its figures on rows that it was not trained on: the validation rows, or cross-validated training rows."""

    method: Literal["linear", "full"]
    metrics: dict[str, float]
    """Of fine-tuning that was spared after some folds, only the accuracy on their rows."""
    num_rows: int
    seconds: float
    """Seconds of this command that it took; a resumed run only reads what is on disk."""
    kept: bool

    def sentence(self) -> str:
        """Return the figures in one line."""
        figures = [f"accuracy {self.metrics['accuracy']:.4f}"]
        if "loss" in self.metrics:
            figures += [f"macro F1 {self.metrics['f1_macro']:.4f}", f"loss {self.metrics['loss']:.4f}"]
        return f"Method {self.method}: {', '.join(figures)} on {self.num_rows:,} held-out rows, in {self.seconds:.0f} s"


@dataclass(frozen=True)
class Outcome:
    """Result of the methods of a run. At least one of the two models is there."""

    linear: LinearModel | None = None
    trained: TrainingState | None = None
    """The finished fine-tuning; None if there was none, or if it was spared."""
    lead: Lead | None = None
    """Comparison of both methods; None unless both were tried."""
    full_s: float = 0.0
    average: WeightAverage | None = None
    """Mean of the weights of a search's best runs, of which `trained` is one; None unless it was tried."""

    @property
    def method(self) -> Literal["linear", "full"]:
        """The method whose model is kept."""
        return "linear" if self.trained is None or (self.lead is not None and self.lead.is_enough) else "full"

    @property
    def kept_linear(self) -> LinearModel | None:
        """The linear model, if it is kept."""
        return self.linear if self.method == "linear" else None

    @property
    def kept_trained(self) -> TrainingState | None:
        """The fine-tuning, if its model is kept."""
        return self.trained if self.method == "full" else None

    def rungs(self, prepared: PreparedRun) -> list[Rung]:
        """Return the methods in their order."""
        dataset, found = prepared.dataset, []
        if self.linear is not None:
            scores = classification_metrics(self.linear.logits, dataset.validation.targets, labels=dataset.labels)
            figures = {name: scores[name] for name in SHOWN}
            found.append(Rung("linear", figures, len(dataset.validation), self.linear.seconds, self.method == "linear"))
        if self.trained is not None:
            epoch = kept_epoch(self.trained.history, prepared.config.train)
            figures = {name: float(epoch[name]) for name in SHOWN}
            found.append(Rung("full", figures, len(dataset.validation), self.full_s, self.method == "full"))
        elif self.lead is not None:
            accuracy = self.lead.full_right / self.lead.num_rows
            found.append(Rung("full", {"accuracy": accuracy}, self.lead.num_rows, self.full_s, kept=False))
        return found

    def sentence(self) -> str:
        """Return which method is kept, and why; empty if there was no choice."""
        if self.lead is None:
            return ""
        lead = self.lead
        counts = f"linear has {lead.linear_right:,} of {lead.num_rows:,} held-out rows right, full {lead.full_right:,}"
        if self.method == "linear":
            spared = "" if self.trained is not None else ", so the rest of the fine-tuning was spared"
            which = f"a lead of {lead.errors:.1f} standard errors" if lead.errors > 0 else "no more than chance gives"
            return f"Kept: linear. {counts[0].upper()}{counts[1:]}: {which}{spared}."
        return f"Kept: full. {counts[0].upper()}{counts[1:]}: a lead of {-lead.errors:.1f} standard errors."

    def to_dict(self, prepared: PreparedRun) -> dict[str, Any]:
        """Return the entries of `report.json` about the methods."""
        lead = None if self.lead is None else asdict(self.lead) | {"errors": round(self.lead.errors, 3)}
        rungs = [asdict(rung) | {"seconds": round(rung.seconds, 1)} for rung in self.rungs(prepared)]
        linear = self.kept_linear
        strength = None if linear is None else linear.strength
        return {
            "method": self.method,
            "methods": {"rungs": rungs, "lead": lead, "strength": strength, "why": self.sentence()},
            "average": None if self.average is None else self.average.to_dict(),
        }


def run_methods(prepared: PreparedRun, *, board: Board, console: Console, resume_command: str) -> Outcome:
    """Train a prepared run by the methods that its config asks for, each from where an interrupted run left it."""
    method = prepared.config.train.method
    linear = None if method == "full" else run_linear(prepared, console=console)
    if method == "linear":
        outcome = Outcome(linear=linear)
        show(outcome, prepared, console)
        return outcome
    started = time.monotonic()
    trained = run_full(prepared, linear, board=board, console=console, resume_command=resume_command)
    full_s = time.monotonic() - started
    lead = None if linear is None else read_lead(prepared.folder.path / CHECKPOINTS)
    outcome = Outcome(linear, trained, lead, full_s)
    if linear is not None:
        show(outcome, prepared, console)
    return outcome


def show(outcome: Outcome, prepared: PreparedRun, console: Console) -> None:
    """Print a line for each method, and last which one is kept and why, if there was a choice."""
    for line in (*(rung.sentence() for rung in outcome.rungs(prepared)), outcome.sentence()):
        if line:
            console.print(line, markup=False)


def run_linear(prepared: PreparedRun, *, console: Console) -> LinearModel:
    """Embed the rows and fit the regression on one node."""
    board = Board()
    node = OneNode(on_cpu=prepared.config.train.use_gpu is False)
    folder = prepared.folder.path / LINEAR_FOLDER
    setup = LinearSetup(prepared.config, prepared.data, folder, node.num_threads, board)
    with shown_progress(board, console, num_epochs=1):
        return interruptible(lambda: node.run(train_linear, setup), console=console)


def run_full(
    prepared: PreparedRun, linear: LinearModel | None, *, board: Board, console: Console, resume_command: str
) -> TrainingState | None:
    """Fine-tune; return None if the linear model was found to be better before the end."""
    config, dataset = prepared.config, prepared.dataset
    cluster = present_cluster(config.train)
    resources = fit_workers(config.train, cluster)
    rival = None if linear is None else Rival.of(linear.logits, dataset.validation.targets, labels=dataset.labels)
    folder = prepared.folder.path
    trainer = run_trainer(prepared.data, config, board=board, resources=resources, folder=folder, name=CHECKPOINTS, rival=rival)
    console.print(f"Training on {workers_phrase(config)}; if it is interrupted: {resume_command}")
    with shown_progress(board, console, num_epochs=config.train.planned_epochs):
        return interruptible(
            lambda: fit(trainer, folder / CHECKPOINTS),
            console=console,
            look=look_while_waiting(config.train, resources, cluster, console),
        )
