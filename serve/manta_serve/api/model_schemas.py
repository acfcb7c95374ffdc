"""Schemas of what /v1/model and /v1/models say of the models that answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field

from manta.texts import NumTexts, Text
from manta_serve.api.comparison import ComparisonAnswer

if TYPE_CHECKING:
    from manta.inference.artifact import Manifest
    from manta_serve.answering.service import Service
    from manta_serve.versions.loader import Refusal
    from manta_serve.versions.served_model import ServedModel


class Abstention(BaseModel):
    """The confidence below which an answer is uncertain, and the resulting precision and coverage."""

    below: Annotated[
        float,
        Field(
            description="The probability that the answer is right below which it is uncertain: of the most probable label, or "
            "for a multilabel model the product over all labels."
        ),
    ]
    target_precision: Annotated[
        float | None, Field(description="Share of right answers that the others were to have; null where none was chosen for one.")
    ]
    guarantee: Annotated[
        float | None, Field(description="Probability with which the others have that share; null: they have it on average.")
    ] = None
    precision: Annotated[float | None, Field(description="Share of right answers that the others have on the test rows.")]
    coverage: Annotated[float | None, Field(description="Share of the test rows that are answered and not uncertain.")]

    @classmethod
    def of(cls, manifest: Manifest) -> Abstention:
        """Return the figures of a model's calibration."""
        calibration = manifest.calibration
        chosen = calibration is not None and calibration.abstain_below is not None
        figures = calibration.test if calibration is not None else None
        return cls(
            below=min(1.0, manifest.uncertain_below),
            target_precision=calibration.target_precision if calibration is not None and chosen else None,
            guarantee=calibration.guarantee if calibration is not None else None,
            precision=figures.precision if figures else None,
            coverage=figures.coverage if figures else None,
        )


class LabelSets(BaseModel):
    """Coverage and size of the label sets of the answers."""

    coverage: Annotated[float, Field(description="Share of sets that were to hold it.")]
    test_coverage: Annotated[float | None, Field(description="Share of sets that hold it on the test rows.")]
    test_size: Annotated[float | None, Field(description="Mean number of labels in a set on the test rows.")]

    @classmethod
    def of(cls, manifest: Manifest) -> LabelSets | None:
        """Return the figures of a model's label sets; None if it has none."""
        calibration = manifest.calibration
        if calibration is None or calibration.set_coverage is None or calibration.set_above is None:
            return None
        figures = calibration.test
        return cls(
            coverage=calibration.set_coverage,
            test_coverage=figures.set_coverage if figures else None,
            test_size=figures.set_size if figures else None,
        )


class ScopeAnswer(BaseModel):
    """Shares of in-scope texts that are marked as out of scope."""

    loss: Annotated[float, Field(description="Share of such texts that may be marked, by the setting.")]
    test_loss: Annotated[float | None, Field(description="Share of the test rows that are marked.")]

    @classmethod
    def of(cls, manifest: Manifest) -> ScopeAnswer | None:
        """Return the figures of a model's scope; None if it has none."""
        scope = manifest.scope
        return None if scope is None else cls(loss=scope.loss, test_loss=scope.test_loss)


class RefusalAnswer(BaseModel):
    """A version that the registry asks for but that was refused."""

    version: int
    reason: str
    at: Annotated[str, Field(description="When it was tried, in UTC.")]

    @classmethod
    def of(cls, refusal: Refusal) -> RefusalAnswer:
        """Return a refusal in this schema."""
        return cls(version=refusal.version, reason=refusal.reason, at=refusal.at)


class ModelAnswer(BaseModel):
    """A version, by default the champion, and the other versions that the service knows."""

    name: str
    version: int
    task: Annotated[str, Field(description="binary, multiclass or multilabel.")]
    num_texts: Annotated[NumTexts, Field(description="1 where it reads single texts, 2 where it reads pairs.")]
    labels: list[str]
    thresholds: Annotated[
        list[float] | None, Field(description="The probability from which each of `labels` applies, for a multilabel model.")
    ]
    metrics: dict[str, float]
    abstain: Abstention
    sets: Annotated[LabelSets | None, Field(description="The label sets of the answers; null for a model without them.")]
    scope: Annotated[ScopeAnswer | None, Field(description="Texts out of scope; null for a model that marks none.")]
    examples: Annotated[list[Text], Field(description="A few texts or pairs to try, from the test rows.")]
    created: str
    feedback: Annotated[bool, Field(description="Whether POST /v1/feedback keeps what it is told.")]
    sample_texts: Annotated[bool, Field(description="Whether GET /v1/feedback/texts has a sample of the latest texts.")]
    candidate: Annotated[int | None, Field(description="The version that is tried on a share of the requests; null where none is.")]
    loaded: Annotated[list[int], Field(description="Versions in memory, which `Manta-Version` gets without waiting.")]
    refused: Annotated[list[RefusalAnswer], Field(description="Versions that were to answer and could not.")]
    comparison: Annotated[ComparisonAnswer | None, Field(description="Champion and candidate; null where there is no candidate.")]

    @classmethod
    def of(cls, service: Service, *, described: ServedModel | None) -> ModelAnswer:
        """Describe the champion, or the version `described`, by its manifest, and list the other versions."""
        models = service.models
        current, candidate = described or models.current, models.candidate
        manifest = current.manifest
        return cls(
            name=manifest.name,
            version=current.version,
            candidate=None if candidate is None else candidate.version,
            loaded=[model.version for model in models.loaded],
            refused=[RefusalAnswer.of(refusal) for refusal in models.refused],
            comparison=None if candidate is None else ComparisonAnswer.of(service, candidate),
            task=manifest.task,
            num_texts=manifest.num_texts,
            labels=manifest.labels,
            thresholds=list(manifest.label_space.applied_thresholds) if manifest.task == "multilabel" else None,
            metrics=manifest.metrics,
            abstain=Abstention.of(manifest),
            sets=LabelSets.of(manifest),
            scope=ScopeAnswer.of(manifest),
            examples=manifest.examples,
            created=manifest.created,
            feedback=service.feedback is not None,
            sample_texts=service.sample is not None,
        )


class ModelSummary(BaseModel):
    """A model that answers here, and its version that answers now."""

    name: str
    version: int
    task: Annotated[str, Field(description="binary, multiclass or multilabel.")]
    num_texts: Annotated[NumTexts, Field(description="1 where it reads single texts, 2 where it reads pairs.")]
    labels: list[str]

    @classmethod
    def of(cls, service: Service) -> ModelSummary:
        """Describe the champion of a service."""
        model = service.models.current
        manifest = model.manifest
        return cls(name=model.name, version=model.version, task=manifest.task, num_texts=manifest.num_texts, labels=manifest.labels)


class ModelsAnswer(BaseModel):
    """The models that answer here."""

    models: Annotated[list[ModelSummary], Field(description="The first one answers where a path names none.")]
