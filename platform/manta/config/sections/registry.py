"""The section `registry`, with the conditions of the gate."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from manta.config.sections.section import NAME, Section


class GateConfig(Section):
    """Conditions under which a version replaces the champion, with both measured on the same test rows."""

    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Smallest gain in `train.metric` over the champion (0.01 is one point). 0 accepts any statistically significant gain."""
    equal_margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """With --allow-equal: the largest acceptable loss in `train.metric`. The gate must rule out a larger one."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Confidence level of the gate's tests. With a higher level, fewer equal models pass by luck, but also fewer better ones."""
    max_class_drop: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest loss of recall of any class. Only a statistically significant loss counts, so a class with fewer
    than five test rows never refuses a version."""
    max_behaviour_rise: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest rise in the failure rate of any behaviour test; 0.05 is five more of 100 cases. Only a statistically significant
    rise counts, by template: a test with fewer than five templates never refuses a version. A row of the data is one, too."""
    max_ece_increase: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Largest rise in the expected calibration error. With a higher error, probabilities are further from the truth."""
    max_latency_ratio: Annotated[float, Field(gt=0)] = 1.5
    """Largest ratio of the median latency for one text to the champion's."""
    max_size_ratio: Annotated[float, Field(gt=0)] = 2.0
    """Largest ratio of the size of the weights to that of the champion's."""


class RegistryConfig(Section):
    """Settings of the registry, which keeps finished models."""

    model: Annotated[str, NAME] | None = None
    """Name of the registered model; the config's `name` unless given. Letters, digits, dots, dashes and underscores."""
    promote: bool = True
    """True if a new version becomes the champion, which is the served version: the first at once, a later one if it passes the
    gate. False: it stays the candidate until `manta models promote`."""
    gate: GateConfig = GateConfig()
    """Conditions under which a candidate replaces the champion."""
    target_precision: Annotated[float, Field(gt=0, lt=1)] | None = 0.95
    """Wanted share of right answers (between 0 and 1) among answers not marked as uncertain. The confidence threshold for it is
    chosen on the validation rows. A higher target leaves more rows uncertain. null: an answer below 0.5 is uncertain."""
    guarantee: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Probability with which `target_precision` holds for new rows like the validation rows. 0.9 leaves more rows uncertain than
    null, with which the target is reached on average only."""
    set_coverage: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Share of new rows whose label set holds the right label; each answer then has such a set, of one label or several. Not for
    tasks with several labels a row. null: no sets."""
    scope_loss: Annotated[float, Field(gt=0, lt=0.5)] | None = 0.02
    """Share of texts like the validation rows that may be marked as out of scope, so that others are, which are unlike all training
    rows. A higher share also catches texts that are less unlike. null: no text is marked."""
    fast_formats: bool = True
    """True if a finished model also gets faster inference formats for CPUs, computed by OpenVINO. They are used only if they
    answer as well as the safetensors on the test rows."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_name(cls, value: Any) -> Any:
        """Read the config of a run of an earlier version, which calls `fast_formats` `onnx`."""
        if isinstance(value, dict) and "onnx" in value and "fast_formats" in value:
            raise ValueError(
                "registry.onnx is the earlier name of registry.fast_formats, which is given, too; remove registry.onnx"
            )
        if not isinstance(value, dict) or "onnx" not in value:
            return value
        return {("fast_formats" if name == "onnx" else name): item for name, item in value.items()}

    @model_validator(mode="after")
    def _guarantee_has_a_target(self) -> RegistryConfig:
        if self.guarantee is not None and self.target_precision is None:
            raise ValueError("guarantee needs a target_precision, which it then guarantees")
        return self
