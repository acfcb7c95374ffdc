"""The config of one run as a whole."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from manta.config.names import set_by_name
from manta.config.search_space import check_space
from manta.config.sections import NAME, DataConfig, ModelConfig, RegistryConfig, Section, ServeConfig, TrainConfig, TuneConfig


class ExperimentConfig(Section):
    """One run, from rows to a served model."""

    name: Annotated[str, NAME]
    """What the run is called; also the registered model's name unless registry.model says otherwise.
    Letters, digits, dots, dashes and underscores."""
    data: DataConfig
    """Where labelled texts come from."""
    model: ModelConfig = ModelConfig()
    """Which pretrained encoder is adapted."""
    train: TrainConfig = TrainConfig()
    """How it is fine-tuned."""
    tune: TuneConfig = TuneConfig()
    """What `manta tune` searches."""
    registry: RegistryConfig = RegistryConfig()
    """Where finished models are remembered."""
    serve: ServeConfig = ServeConfig()
    """Where the champion answers."""
    storage: str | None = None
    """Folder of runs, artifacts and the registry, which all nodes share, or s3://bucket/folder, gs://… for an object store, which
    needs MLFLOW_TRACKING_URI for the registry; $MANTA_STORAGE or ~/.manta unless given."""

    @model_validator(mode="after")
    def _searchable(self) -> ExperimentConfig:
        check_space(self, tune=self.tune, document=self.document())
        return self

    @property
    def registered_name(self) -> str:
        """The name that versions of this run's model are registered under."""
        return self.registry.model or self.name

    def with_values(self, values: dict[str, Any]) -> ExperimentConfig:
        """A copy with fields replaced by dotted name, such as `{"train.learning_rate": 3e-5}`, checked anew.

        Raises:
            pydantic.ValidationError: a value does not fit its field.
            ValueError: a name is not a field.
        """
        document = self.document()
        for name, value in values.items():
            set_by_name(document, name, value, section=ExperimentConfig)
        if any(name.startswith("tune.") for name in values):
            return ExperimentConfig.model_validate(document)
        # The space was checked against the config it stands in; a value drawn from it need not go with all the others in it.
        del document["tune"]
        return ExperimentConfig.model_validate(document).model_copy(update={"tune": self.tune})

    def document(self) -> dict[str, Any]:
        """The config as plain data, every setting included, from which the same config is made again."""
        document = self.model_dump(mode="json", exclude_none=True)
        if self.tune.confirm is None:
            document["tune"]["confirm"] = None  # left out, it would be the default
        return document
