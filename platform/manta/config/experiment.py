"""The config of one run as a whole."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import field_validator, model_validator

from manta.config.names import set_by_name
from manta.config.search_space import check_space
from manta.config.sections.data import DataConfig
from manta.config.sections.model import ModelConfig
from manta.config.sections.registry import RegistryConfig
from manta.config.sections.section import NAME, Section, not_blank
from manta.config.sections.serve import ServeConfig
from manta.config.sections.train import Method, TrainConfig
from manta.config.sections.tune import TuneConfig

ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/(?!/)")
"""The start of a URL that lacks a slash. A single letter would be a drive."""


ONLY_FULL: dict[str, Any] = {
    "model.lora": None,
    "train.early_stopping": None,
    "train.label_smoothing": 0.0,
    "train.focal_gamma": 0.0,
    "train.label_noise": "auto",
    "train.deepspeed": {},
}
"""Settings that only the method full reads, and that the other methods refuse, with the values that leave them unset."""


class ExperimentConfig(Section):
    """A run, from rows to a served model."""

    name: Annotated[str, NAME]
    """Name of the run, and of the registered model unless `registry.model` is set. Letters, digits, dots, dashes and
    underscores."""
    data: DataConfig
    """The source of labeled texts."""
    model: ModelConfig = ModelConfig()
    """The pretrained encoder that is adapted."""
    train: TrainConfig = TrainConfig()
    """Settings of the fine-tuning."""
    tune: TuneConfig = TuneConfig()
    """Settings of the search by `manta tune`."""
    registry: RegistryConfig = RegistryConfig()
    """Settings of the model registry."""
    serve: ServeConfig = ServeConfig()
    """Settings of the API that serves the champion."""
    storage: str | None = None
    """Folder of runs, artifacts and the registry, shared by all nodes; $MANTA_STORAGE or ~/.manta unless given. It may also be a
    place in an object store (s3://bucket/folder, gs://…). The registry then needs MLFLOW_TRACKING_URI."""

    @field_validator("storage")
    @classmethod
    def _a_place(cls, value: str | None) -> str | None:
        if value is not None and (match := ONE_SLASH.match(value)):
            raise ValueError(f"storage {value!r} has one slash after the colon; write {match[1]}//{value[match.end() :]}")
        return not_blank(value)

    @model_validator(mode="after")
    def _searchable(self) -> ExperimentConfig:
        check_space(self, tune=self.tune, document=self.document())
        return self

    @model_validator(mode="after")
    def _only_full_fine_tunes(self) -> ExperimentConfig:
        if self.train.method in {"linear", "contrastive"}:
            for name, unset in ONLY_FULL.items():
                section, setting = name.split(".")
                if getattr(getattr(self, section), setting) not in (unset, 0):
                    raise ValueError(f"{name} has no effect with train.method {self.train.method}; remove one of the two")
        return self

    @property
    def registered_name(self) -> str:
        """The name under which versions of this run's model are registered."""
        return self.registry.model or self.name

    def with_values(self, values: dict[str, Any]) -> ExperimentConfig:
        """Return a checked copy with fields replaced by dotted name, such as `{"train.learning_rate": 3e-5}`.

        Raises:
            pydantic.ValidationError: a value does not fit its field.
            ValueError: a name is not a field.
        """
        document = self.document()
        for name, value in values.items():
            set_by_name(document, name, value, section=ExperimentConfig)
        if any(name.startswith("tune.") for name in values):
            return ExperimentConfig.model_validate(document)
        # The space was checked against the original config. A drawn value need not fit the other values in the space.
        del document["tune"]
        return ExperimentConfig.model_validate(document).model_copy(update={"tune": self.tune})

    def with_method(self, method: Method) -> ExperimentConfig:
        """Return a copy with another `train.method`, without the settings that have no effect on it."""
        return self.with_values({"train.method": method} | ({} if method == "full" else ONLY_FULL))

    def document(self) -> dict[str, Any]:
        """Return the config as plain data with every setting, from which the same config can be built again."""
        document = self.model_dump(mode="json", exclude_none=True)
        if self.tune.confirm is None:
            document["tune"]["confirm"] = None  # if it were left out, the default would apply
        return document
