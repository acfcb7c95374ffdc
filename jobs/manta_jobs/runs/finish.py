"""The steps after training: make an artifact of the kept checkpoint, evaluate it on the test rows, register and report it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.behaviour.run import find_suite
from manta.console import working
from manta.data.dataset import NUM_FOLDS
from manta.inference.artifact import MANIFEST_FILE, ModelArtifact
from manta.inference.artifact_writing import with_card, with_metrics, write_artifact, write_linear_artifact
from manta.model.encoder import load_model_config, load_tokenizer
from manta.model.pooled import PooledClassifier, linear_layer, load_encoder
from manta.registry.frozen_rows import FrozenRows
from manta.registry.model_card import model_card
from manta.registry.models import ModelRegistry
from manta.storage.object_store import discard, fetch, shown
from manta_jobs.data.doubts import held_out_suspects
from manta_jobs.packaging.averaging import WeightAverage, read_average
from manta_jobs.packaging.calibrate import with_test_figures
from manta_jobs.packaging.diagnosis import Fit, assess_fit, baseline_comparison, compared_with_one_worker, guessing_loss
from manta_jobs.packaging.formats import make_formats_on_cluster
from manta_jobs.packaging.golden import record_golden_on_cluster
from manta_jobs.packaging.held_out import calibrated_with_scope
from manta_jobs.packaging.outputs_on_cluster import outputs_on_cluster
from manta_jobs.packaging.scope import with_test_loss
from manta_jobs.packaging.weights import plain_weights
from manta_jobs.preflight.run import kept_preflight, usual_values
from manta_jobs.registry.promotion import settle
from manta_jobs.reporting.curves import write_curves
from manta_jobs.runs.evaluate import evaluation_of
from manta_jobs.runs.methods import held_out_metrics
from manta_jobs.runs.results import TrainedModel
from manta_jobs.training.checkpoints import kept_epoch
from manta_jobs.training.few_rows.contrastive import CONTRASTIVE_FOLDER, load_adapted
from manta_jobs.training.few_rows.linear import LINEAR_FOLDER
from manta_jobs.training.tracking import CURVES_FILE, RunRecord
from manta_jobs.training.validation import held_out_logits, read_logits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from manta.config import ExperimentConfig, Method
    from manta.labels import Floats
    from manta_jobs.runs.methods import Outcome
    from manta_jobs.runs.prepare import PreparedRun
    from manta_jobs.training.checkpoints import TrainingState
    from manta_jobs.training.few_rows.linear import LinearModel

NUM_EXAMPLES = 8


def finish(
    prepared: PreparedRun,
    config: ExperimentConfig,
    *,
    outcome: Outcome,
    record: RunRecord,
    console: Console,
    started: float,
    formats: bool,
) -> TrainedModel:
    """Turn the kept model into an artifact, read the test split once, register, and write the report.

    With `formats`, the registered version also gets its faster inference formats.
    """
    dataset, linear, trained = prepared.dataset, outcome.kept_linear, outcome.trained
    validation_logits: Floats | None
    if trained is not None:
        record.catch_up(trained.history)
        artifact, validation_logits = fine_tuned_artifact(prepared, config, trained, average=outcome.average)
    elif linear is not None:
        held_out = held_out_metrics(linear, dataset)
        record.catch_up([{"epoch": 1, **held_out}] if held_out else [])
        artifact = linear_artifact(prepared, config, linear, method=outcome.method, held_out=held_out)
        validation_logits = linear.logits
    else:
        raise ValueError("a run without a model cannot be finished")
    embeddings = None if linear is None or trained is not None else embeddings_of_run(prepared, method=outcome.method)
    artifact = calibrated_with_scope(
        artifact, dataset, logits=validation_logits, embeddings=embeddings, config=config.registry, console=console
    )
    outputs = outputs_on_cluster(artifact, dataset.test, console=console)
    logits = outputs[:, : len(artifact.manifest.labels)]
    artifact = with_test_loss(artifact, outputs)
    artifact = record_golden_on_cluster(artifact, dataset.test, logits=logits, console=console)
    evaluation = evaluation_of(logits, dataset.test, labels=artifact.manifest.label_space)
    artifact = with_metrics(artifact, evaluation.metrics)
    if artifact.manifest.calibration is not None:
        artifact = with_test_figures(artifact, logits, dataset.test.targets)
    artifact = with_card(artifact, model_card(artifact, num_rows=dataset.num_rows))
    before = kept_preflight(prepared.folder)
    fit = None if trained is None else fit_of(prepared, config, trained, artifact=artifact, before=before)
    history = [] if trained is None else trained.history
    with working(console, "Drawing the curves and registering the model"):
        if fit is not None:
            write_curves(
                history, record.steps, prepared.folder.path / CURVES_FILE, title=prepared.folder.name, best_epoch=fit.best_epoch
            )
        registry = ModelRegistry(prepared.storage)
        version = registry.version_of_run(artifact.manifest.name, prepared.folder.name) or registry.register(
            artifact, run_id=record.run_id, frozen=frozen_rows(prepared)
        )
    # A first version needs no comparison and serves at once; a later one is compared in the formats that it will serve in.
    promotion = None if registry.with_alias(version.name, "champion") else settle(registry, version, config, artifact=artifact)
    console.print(f"{version} is registered{' and can be served' if promotion and promotion.promoted else ''}.")
    if formats:
        artifact = make_formats_on_cluster(
            artifact, dataset.test, logits=logits, training_texts=dataset.train.texts, console=console
        )
        registry.add_formats(version, artifact)
    if promotion is None:
        with working(console, "Comparing with the champion"):
            promotion = settle(registry, version, config, artifact=artifact)
    version = registry.get(version.name, version=version.version)
    facts: dict[str, Any] = {}
    if trained is not None:
        facts = compared_with_one_worker(trained.distribution or {}, artifact.manifest, storage=prepared.storage)
    suspects = None if outcome.linear is None or not dataset.has_held_out else held_out_suspects(outcome.linear.logits, dataset)
    wall_s = time.monotonic() - started
    prepared.folder.write_report(
        {
            "run": prepared.folder.name,
            "model": version.name,
            "version": version.version,
            "promotion": promotion.to_dict(),
            **outcome.to_dict(prepared),
            "metrics": artifact.manifest.metrics,
            "labels": artifact.manifest.labels,
            "task": artifact.manifest.task,
            "per_class": evaluation.per_class,
            "confusion": evaluation.confusion.tolist(),
            "reliability": [asdict(part) for part in evaluation.reliability],
            "calibration": artifact.manifest.model_dump(mode="json", include={"calibration"})["calibration"],
            "baseline": before.get("baseline"),
            "preflight": {name: before[name] for name in ("checks", "memory") if name in before},
            "chosen": prepared.folder.read_facts().get("chosen", ""),
            "num_rows": dataset.num_rows,
            "corrections": None if dataset.corrections is None else asdict(dataset.corrections),
            "label_suspects": None if suspects is None else asdict(suspects),
            "num_folds": 0 if dataset.folds is None or not dataset.has_held_out else NUM_FOLDS,
            "folds_s": 0.0 if trained is None else round(trained.folds_s, 1),
            "best_epoch": None if fit is None else fit.best_epoch,
            "fit": None if fit is None else asdict(fit),
            "history": history,
            "distribution": facts,
            "data_hash": artifact.manifest.data_hash,
            "config": artifact.manifest.config,
            "wall_s": round(wall_s, 1),
            "artifact": shown(artifact.path),
        }
    )
    return TrainedModel(
        run=prepared.folder,
        config=config,
        artifact=artifact,
        version=version,
        promotion=promotion,
        outcome=outcome,
        history=history,
        fit=fit,
        distribution=facts,
        preflight=before,
        num_test_rows=len(dataset.test),
        wall_s=wall_s,
        suspects=suspects,
    )


def fit_of(
    prepared: PreparedRun, config: ExperimentConfig, trained: TrainingState, *, artifact: ModelArtifact, before: dict[str, Any]
) -> Fit:
    """Return the diagnosis of a fine-tuning. `before` is what `preflight.json` says."""
    dataset = prepared.dataset
    compared = baseline_comparison(before, artifact.manifest.metrics, metric=config.train.metric)
    return assess_fit(
        trained.history,
        config,
        best_epoch=int(kept_epoch(trained.history, config.train)["epoch"]),
        guess_loss=guessing_loss(dataset.class_counts("train").values(), num_rows=len(dataset.train), task=dataset.labels.task),
        usual=usual_values(config, dataset=dataset, encoder=load_model_config(config.model, dataset.labels)),
        num_train_rows=len(dataset.train),
        loses=compared is not None and not compared.is_beaten and not compared.is_perfect,
    )


def frozen_rows(prepared: PreparedRun) -> FrozenRows:
    """Return the run's test rows and behaviour tests, on which later versions will be compared with this one."""
    suite = find_suite(prepared.config.data.model_dump())
    return FrozenRows.of(prepared.dataset, suite=None if suite is None else suite.read_text(encoding="utf-8"))


def fine_tuned_artifact(
    prepared: PreparedRun, config: ExperimentConfig, trained: TrainingState, *, average: WeightAverage | None
) -> tuple[ModelArtifact, Floats | None]:
    """Return the artifact of a fine-tuning, and its logits of the training rows if these were cross-validated.

    For a kept average of several runs, these logits are those of the best of them, as their folds had no average.
    """
    kept = kept_epoch(trained.history, config.train)
    artifact = kept_artifact(prepared, config, kept=kept, average=average)
    if prepared.dataset.folds is None:
        return artifact, None
    return artifact, held_out_logits(fetch(Path(kept["checkpoint"]).parent), num_epochs=int(kept["epoch"]))


def kept_artifact(
    prepared: PreparedRun, config: ExperimentConfig, *, kept: dict[str, Any], average: WeightAverage | None = None
) -> ModelArtifact:
    """Return the artifact of the kept epoch's checkpoint, or of the kept average of several runs.

    Write it unless an interrupted run has already written it.
    """
    found = written_before(prepared)
    if found is not None:
        return found
    if average is not None and average.is_kept:
        weights = read_average(prepared.folder.path)
    else:
        weights = plain_weights(fetch(Path(kept["checkpoint"])), config, prepared.data)
    return write_artifact(
        prepared.folder.artifact,
        weights=weights,
        model_config=load_model_config(config.model, prepared.data.labels),
        tokenizer=load_tokenizer(config.model),
        labels=prepared.data.labels,
        facts=facts_of(prepared, config, method="full", held_out=kept if average is None else average.held_out(kept)),
    )


def linear_artifact(
    prepared: PreparedRun, config: ExperimentConfig, linear: LinearModel, *, method: Method, held_out: Mapping[str, Any]
) -> ModelArtifact:
    """Return the artifact of a linear model. Write it unless an interrupted run has already written it."""
    found = written_before(prepared)
    if found is not None:
        return found
    labels, folder = prepared.data.labels, prepared.folder.path / CONTRASTIVE_FOLDER
    encoder = load_adapted(config.model, folder) if method == "contrastive" else load_encoder(config.model)
    return write_linear_artifact(
        prepared.folder.artifact,
        model=PooledClassifier(encoder, linear_layer(linear.regression, is_binary=labels.task == "binary")),
        tokenizer=load_tokenizer(config.model),
        labels=labels,
        facts=facts_of(prepared, config, method=method, held_out=held_out),
    )


def embeddings_of_run(prepared: PreparedRun, *, method: Method) -> tuple[Floats, Floats] | None:
    """Return the embeddings of the training and the validation rows that a linear model was fitted to, `(rows, hidden)` each.

    The method `contrastive` embeds by its adapted encoder. None if the files are gone.
    """
    folder = prepared.folder.path / (CONTRASTIVE_FOLDER if method == "contrastive" else LINEAR_FOLDER)
    train = read_logits(folder / "train.npy")
    validation = train if prepared.dataset.folds is not None else read_logits(folder / "validation.npy")
    return None if train is None or validation is None else (train, validation)


def written_before(prepared: PreparedRun) -> ModelArtifact | None:
    """Return the artifact that an interrupted run has already written; None without one."""
    if (prepared.folder.artifact / MANIFEST_FILE).exists():
        return ModelArtifact.recover(prepared.folder.artifact)
    discard(prepared.folder.artifact)  # parts that a lost driver had put into an object store
    return None


def facts_of(prepared: PreparedRun, config: ExperimentConfig, *, method: Method, held_out: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the manifest about the run. `held_out` are the metrics on rows that the model was not trained on."""
    return {
        "name": config.registered_name,
        "method": method,
        "num_texts": len(config.data.text_columns),
        "max_length": config.model.max_length,
        "long_texts": config.data.long_texts,
        "metrics": {f"validation_{key}": float(held_out[key]) for key in ("accuracy", "f1_macro", "loss") if held_out},
        "examples": prepared.dataset.test.texts[:NUM_EXAMPLES],
        "data_hash": prepared.dataset.content_hash,
        "config": config.document(),
        "run": prepared.folder.name,
        "pretrained": config.model.pretrained,
    }
