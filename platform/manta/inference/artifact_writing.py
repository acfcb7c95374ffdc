"""Writing an artifact's folder, and adding to one: each function returns the artifact as it is then on disk."""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.inference.artifact import CARD_FILE, MANIFEST_FILE, Manifest, ModelArtifact, file_sha256
from manta.inference.formats import FORMAT_FILES, WEIGHTS_FILE, InferenceFormat
from manta.inference.golden import GOLDEN_FILE, GoldenPredictions
from manta.inference.scope import SCOPE_FILE, References, Scope
from manta.storage.folders import disk_errors, write_atomically, written_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from manta.inference.answer_profile import AnswerProfile
    from manta.inference.calibration import Calibration
    from manta.inference.estimated_accuracy import AnswerSums
    from manta.labels import LabelSpace
    from manta.model.pooled import PooledClassifier

RECORDED_PACKAGES = ("manta-platform", "torch", "transformers", "tokenizers", "deepspeed", "ray")


def write_artifact(
    target: Path,
    *,
    weights: dict[str, torch.Tensor],
    model_config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    labels: LabelSpace,
    facts: dict[str, Any],
) -> ModelArtifact:
    """Write the artifact's folder from a fine-tuned model's complete weights.

    A binary head of one logit becomes its exact two-logit equivalent (see `manta.model.encoder.two_logit_head`). `facts` are the
    fields of `Manifest` that are not derived here.

    Raises:
        FileExistsError: `target` exists and is not an empty folder.
        RunError: the disk is full or cannot be written; nothing is left of the folder.
    """
    from safetensors.torch import save_file

    from manta.model.encoder import two_logit_head

    def model_files(folder: Path) -> None:
        tensors = two_logit_head(weights, model_config) if labels.task == "binary" else weights
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        _plain_config(model_config, labels).save_pretrained(folder)

    return _written(target, model_files, tokenizer=tokenizer, labels=labels, facts=facts)


def write_linear_artifact(
    target: Path, *, model: PooledClassifier, tokenizer: PreTrainedTokenizerBase, labels: LabelSpace, facts: dict[str, Any]
) -> ModelArtifact:
    """Write the artifact's folder from a linear model, in the layout of `manta.model.pooled`; otherwise as `write_artifact`."""
    from manta.model.pooled import write_pooled

    def model_files(folder: Path) -> None:
        write_pooled(model, folder, max_length=facts["max_length"])

    return _written(target, model_files, tokenizer=tokenizer, labels=labels, facts=facts)


def _written(
    target: Path,
    model_files: Callable[[Path], None],
    *,
    tokenizer: PreTrainedTokenizerBase,
    labels: LabelSpace,
    facts: dict[str, Any],
) -> ModelArtifact:
    with written_folder(target) as partial:
        model_files(partial)
        tokenizer.save_pretrained(partial)
        files = {str(file.relative_to(partial)): file_sha256(file) for file in sorted(partial.rglob("*")) if file.is_file()}
        manifest = Manifest(
            task=labels.task,
            labels=list(labels.names),
            versions=package_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files=files,
            **facts,
        )
        (partial / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return ModelArtifact(target, manifest)


def with_metrics(artifact: ModelArtifact, metrics: dict[str, float]) -> ModelArtifact:
    """Add metrics to the manifest on disk, and return the updated artifact."""
    return _rewritten(artifact, {"metrics": artifact.manifest.metrics | metrics})


def with_golden(artifact: ModelArtifact, golden: GoldenPredictions) -> ModelArtifact:
    """Add golden predictions to the artifact on disk, and return the updated artifact."""
    with disk_errors(artifact.path):
        write_atomically(artifact.path / GOLDEN_FILE, golden.model_dump_json() + "\n")
    return _rewritten(artifact, {"files": artifact.manifest.files | _hashes(artifact.path, [GOLDEN_FILE])})


def with_calibration(
    artifact: ModelArtifact,
    calibration: Calibration,
    *,
    thresholds: Iterable[float] | None = None,
    answers: AnswerProfile | None = None,
    sums: AnswerSums | None = None,
) -> ModelArtifact:
    """Add the calibration and, for a multilabel task, each label's threshold to the manifest on disk; return the updated artifact.

    The profile of the answers and the sums over them stay as they are unless `answers` and `sums` are given.
    """
    chosen = None if thresholds is None else [float(value) for value in thresholds]
    facts = {"calibration": calibration, "thresholds": chosen, "answers": answers or artifact.manifest.answers}
    return _rewritten(artifact, facts | {"answer_sums": sums or artifact.manifest.answer_sums})


def with_scope(artifact: ModelArtifact, scope: Scope, references: References | None = None) -> ModelArtifact:
    """Add the scope to the manifest on disk, and the references to the folder if they are given; return the updated artifact."""
    if references is not None:
        with disk_errors(artifact.path):
            references.save(artifact.path)
    return _rewritten(artifact, {"scope": scope, "files": artifact.manifest.files | _hashes(artifact.path, [SCOPE_FILE])})


def with_formats(artifact: ModelArtifact, formats: Iterable[InferenceFormat], *, folder: Path) -> ModelArtifact:
    """Add inference formats to the manifest, move the files of accepted ones in from `folder`, and return the artifact."""
    records = tuple(formats)
    names = sorted({file for item in records if item.accepted for file in FORMAT_FILES[item.name]})
    with disk_errors(artifact.path):
        for name in names:
            (folder / name).replace(artifact.path / name)
    files = artifact.manifest.files | _hashes(artifact.path, names)
    return _rewritten(artifact, {"formats": artifact.manifest.formats + records, "files": files})


def with_card(artifact: ModelArtifact, text: str) -> ModelArtifact:
    """Write the model card into the artifact on disk, in place of an earlier one, and return the updated artifact."""
    # The manifest lists the card only at the end, so that `recover` detects a card that an interruption left.
    listed = {name: digest for name, digest in artifact.manifest.files.items() if name != CARD_FILE}
    without = _rewritten(artifact, {"files": listed}) if CARD_FILE in artifact.manifest.files else artifact
    with disk_errors(artifact.path):
        write_atomically(artifact.path / CARD_FILE, text)
    return _rewritten(without, {"files": listed | _hashes(artifact.path, [CARD_FILE])})


def _hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: file_sha256(folder / name) for name in names}


def _rewritten(artifact: ModelArtifact, facts: dict[str, Any]) -> ModelArtifact:
    manifest = Manifest.model_validate(artifact.manifest.model_dump() | facts)
    with disk_errors(artifact.path):
        write_atomically(artifact.path / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")
    return ModelArtifact(artifact.path, manifest)


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that affect a result."""
    found: dict[str, str] = {}
    for name in RECORDED_PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _plain_config(config: PretrainedConfig, labels: LabelSpace) -> PretrainedConfig:
    """Return the config for plain `transformers`: label names, and a softmax over all labels or a sigmoid of each."""
    plain = type(config).from_dict(config.to_dict())
    plain.num_labels = len(labels.names)
    plain.id2label = dict(enumerate(labels.names))
    plain.label2id = {name: index for index, name in enumerate(labels.names)}
    plain.problem_type = "multi_label_classification" if labels.task == "multilabel" else "single_label_classification"
    architectures = _classification_architecture(config)
    if architectures:
        plain.architectures = [architectures]
    return plain


def _classification_architecture(config: PretrainedConfig) -> str | None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    name = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(config.model_type)
    return str(name) if name else None
