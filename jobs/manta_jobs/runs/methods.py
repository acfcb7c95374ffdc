"""The methods of a run: a linear model and one on an adapted encoder, of which `train.method: auto` keeps one, or fine-tuning."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from manta.config.starting_point import methods_tried
from manta.evaluation.metrics import classification_metrics
from manta_jobs.cluster.connection import OneNode, fit_workers, interruptible, present_cluster
from manta_jobs.cluster.waiting import look_while_waiting
from manta_jobs.training.checkpoints import CHECKPOINTS, kept_epoch
from manta_jobs.training.choice import Lead, SearchLead
from manta_jobs.training.few_rows.contrastive import CONTRASTIVE_FOLDER, train_contrastive
from manta_jobs.training.few_rows.linear import LINEAR_FOLDER, LinearModel, LinearSetup, train_linear
from manta_jobs.training.progress import Board, shown_progress
from manta_jobs.training.trainer import fit, run_trainer, workers_phrase

if TYPE_CHECKING:
    from typing import Literal

    from rich.console import Console

    from manta.config import Method
    from manta.data import TextDataset
    from manta_jobs.packaging.averaging import WeightAverage
    from manta_jobs.runs.prepare import PreparedRun
    from manta_jobs.training.checkpoints import TrainingState

SHOWN = ("accuracy", "f1_macro", "loss")


@dataclass(frozen=True)
class Rung:
    """One method with its figures on rows that it was not trained on: the validation rows, or cross-validated training rows."""

    method: Method
    metrics: dict[str, float]
    """Empty if no row could be held out."""
    num_rows: int
    seconds: float
    """Seconds of this command that it took; a resumed run only reads what is on disk."""
    kept: bool
    num_names: int = 0
    """Number of label names that counted as training rows."""

    def sentence(self) -> str:
        """Return the figures in one line."""
        names = f", with the names of the {self.num_names:,} labels as rows" if self.num_names else ""
        if not self.metrics:
            lack = "no label has a second training row, so there is none to validate on, and its penalty is the usual one"
            return f"Method {self.method}: {lack}; in {self.seconds:.0f} s{names}"
        metrics = self.metrics
        figures = f"accuracy {metrics['accuracy']:.4f}, macro F1 {metrics['f1_macro']:.4f}, loss {metrics['loss']:.4f}"
        return f"Method {self.method}: {figures} on {self.num_rows:,} held-out rows, in {self.seconds:.0f} s{names}"


@dataclass(frozen=True)
class Outcome:
    """Result of the methods of a run: regressions, or a finished fine-tuning."""

    linear: LinearModel | None = None
    contrastive: LinearModel | None = None
    trained: TrainingState | None = None
    """The finished fine-tuning; None if there was none."""
    lead: Lead | None = None
    """Comparison of `linear` with `contrastive`; None unless both were tried."""
    full_s: float = 0.0
    average: WeightAverage | None = None
    """Mean of the weights of a search's best runs, of which `trained` is one; None unless it was tried."""
    searched: SearchLead | None = None
    """Comparison of a search's winner with the kept regression; None unless the search tried regressions, too."""

    @property
    def method(self) -> Method:
        """The method whose model is kept."""
        if self.trained is not None:
            return "full"
        return "linear" if self.contrastive is None or (self.lead is not None and self.lead.is_enough) else "contrastive"

    @property
    def kept_linear(self) -> LinearModel | None:
        """The regression on the embeddings of the frozen or the adapted encoder, if one is kept."""
        return {"linear": self.linear, "contrastive": self.contrastive}.get(self.method)

    def rungs(self, prepared: PreparedRun) -> list[Rung]:
        """Return the methods in their order."""
        dataset, found = prepared.dataset, list[Rung]()
        regressions: dict[Method, LinearModel | None] = {"linear": self.linear, "contrastive": self.contrastive}
        for method, model in regressions.items():
            if model is not None:
                scores = held_out_metrics(model, dataset)
                figures = {name: scores[name] for name in SHOWN if scores}
                rung = Rung(method, figures, len(model.logits), model.seconds, self.method == method, model.num_names)
                found.append(rung)
        if self.trained is not None:
            epoch = kept_epoch(self.trained.history, prepared.config.train)
            figures = {name: float(epoch[name]) for name in SHOWN}
            found.append(Rung("full", figures, len(dataset.validation), self.full_s, kept=True))
        return found

    def sentence(self) -> str:
        """Return which method is kept, and why; empty if there was no choice."""
        if self.searched is not None:
            return self.searched.sentence()
        if self.lead is None:
            return ""
        lead = self.lead
        counts = (
            f"Linear has {lead.linear_right:,} of {lead.num_rows:,} held-out rows right, contrastive {lead.contrastive_right:,}"
        )
        errors = lead.errors if self.method == "linear" else -lead.errors
        which = f"a lead of {errors:.1f} standard errors" if errors > 0 else "no more than chance gives"
        return f"Kept: {self.method}. {counts}: {which}."

    def to_dict(self, prepared: PreparedRun) -> dict[str, Any]:
        """Return the entries of `report.json` about the methods."""
        lead = None if self.lead is None else asdict(self.lead) | {"errors": round(self.lead.errors, 3)}
        searched = None if self.searched is None else self.searched.to_dict()
        rungs = [asdict(rung) | {"seconds": round(rung.seconds, 1)} for rung in self.rungs(prepared)]
        linear = self.kept_linear
        strength = None if linear is None else linear.strength
        return {
            "method": self.method,
            "methods": {"rungs": rungs, "lead": lead, "search": searched, "strength": strength, "why": self.sentence()},
            "average": None if self.average is None else self.average.to_dict(),
        }


def held_out_metrics(model: LinearModel, dataset: TextDataset) -> dict[str, float]:
    """Return the metrics of a regression on rows that it was not fitted to; empty if there are none."""
    if not dataset.has_held_out:
        return {}
    return classification_metrics(model.logits, dataset.validation.targets, labels=dataset.labels)


def run_methods(prepared: PreparedRun, *, board: Board, console: Console, resume_command: str) -> Outcome:
    """Train a prepared run by the methods that its config asks for, each from where an interrupted run left it."""
    tried = methods_tried(prepared.config.train.method)
    linear = run_regression(prepared, "linear", console=console) if "linear" in tried else None
    contrastive = run_regression(prepared, "contrastive", console=console) if "contrastive" in tried else None
    if "full" in tried:
        started = time.monotonic()
        trained = run_full(prepared, board=board, console=console, resume_command=resume_command)
        return Outcome(trained=trained, full_s=time.monotonic() - started)
    lead = None
    if linear is not None and contrastive is not None:
        held_out = prepared.dataset.validation.targets
        lead = Lead.of(linear.logits, contrastive.logits, held_out, labels=prepared.dataset.labels)
    outcome = Outcome(linear, contrastive, lead=lead)
    show(outcome, prepared, console)
    return outcome


def show(outcome: Outcome, prepared: PreparedRun, console: Console) -> None:
    """Print a line for each method, and last which one is kept and why, if there was a choice."""
    for line in (*(rung.sentence() for rung in outcome.rungs(prepared)), outcome.sentence()):
        if line:
            console.print(line, markup=False)


def run_regression(prepared: PreparedRun, method: Literal["linear", "contrastive"], *, console: Console) -> LinearModel:
    """Embed the rows, by an adapted encoder or not, and fit the regression on one node."""
    board = Board()
    node = OneNode(on_cpu=prepared.config.train.use_gpu is False)
    name, train = (LINEAR_FOLDER, train_linear) if method == "linear" else (CONTRASTIVE_FOLDER, train_contrastive)
    setup = LinearSetup(prepared.config, prepared.data, prepared.folder.path / name, node.num_threads, board)
    with shown_progress(board, console, num_epochs=1):
        return interruptible(lambda: node.run(train, setup), console=console)


def run_full(prepared: PreparedRun, *, board: Board, console: Console, resume_command: str) -> TrainingState:
    """Fine-tune the encoder on the run's workers, and return the state of its last checkpoint."""
    config = prepared.config
    cluster = present_cluster(config.train)
    resources = fit_workers(config.train, cluster)
    folder = prepared.folder.path
    trainer = run_trainer(prepared.data, config, board=board, resources=resources, folder=folder, name=CHECKPOINTS)
    console.print(f"Training on {workers_phrase(config)}; if it is interrupted: {resume_command}")
    with shown_progress(board, console, num_epochs=config.train.planned_epochs):
        return interruptible(
            lambda: fit(trainer, folder / CHECKPOINTS),
            console=console,
            look=look_while_waiting(config.train, resources, cluster, console),
        )
