"""Untrained models of the tiny encoder, for tests of serving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from manta.config import ModelConfig, ServeConfig
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import write_artifact
from manta.model.encoder import build_model, load_model_config, load_tokenizer
from manta_serve.answering.service import Service
from manta_serve.batching.answer_cache import AnswerCache
from manta_serve.batching.batcher import TextBatcher
from manta_serve.monitoring.service_metrics import ServiceMetrics
from manta_serve.monitoring.traffic_sample import TrafficSample

if TYPE_CHECKING:
    from pathlib import Path

    from manta.labels import LabelSpace
    from manta_serve.versions.loader import Refusal
    from manta_serve.versions.served_model import ServedModel


def artifact_of(tiny_model: Path, folder: Path, *, labels: LabelSpace, seed: int = 3, **changed: Any) -> ModelArtifact:
    """A finished model with random weights in a new folder."""
    config = ModelConfig(pretrained=str(tiny_model), max_length=48)
    torch.manual_seed(seed)
    facts: dict[str, Any] = {
        "name": "desk",
        "max_length": 48,
        "metrics": {"accuracy": 0.5},
        "examples": ["the parcel is late"],
        "data_hash": "",
        "config": {},
        "run": folder.name,
        "pretrained": "tiny",
    }
    return write_artifact(
        folder,
        weights=build_model(config, labels).state_dict(),
        model_config=load_model_config(config, labels),
        tokenizer=load_tokenizer(config),
        labels=labels,
        facts=facts | changed,
    )


class OneModel:
    """Models of a service with one version, and perhaps a candidate that answers requests for its number."""

    def __init__(self, model: ServedModel, candidate: ServedModel | None = None) -> None:
        self.current = model
        self.candidate = candidate
        self.refused: list[Refusal] = []

    @property
    def loaded(self) -> list[ServedModel]:
        return [self.current] if self.candidate is None else [self.current, self.candidate]

    async def choose(self, *, request_key: str | None, version: int | None) -> ServedModel:
        return self.candidate if self.candidate is not None and version == self.candidate.version else self.current

    def exists(self, version: int) -> bool:
        return version in {model.version for model in self.loaded}

    def stop(self) -> None:
        pass


def service_of(model: ServedModel, *, candidate: ServedModel | None = None, **settings: Any) -> Service:
    """A service that answers with one model."""
    config = ServeConfig.model_validate(settings)
    metrics = ServiceMetrics()
    batcher = TextBatcher(max_queued_texts=config.max_queued_texts, on_batch=metrics.batch)
    cache = AnswerCache(config.cached_answers) if config.cached_answers else None
    sample = TrafficSample() if config.sample_texts else None
    return Service(OneModel(model, candidate), batcher, config=config, metrics=metrics, cache=cache, sample=sample)
