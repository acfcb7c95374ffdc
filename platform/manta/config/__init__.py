"""The whole run in one frozen, typed config: `ExperimentConfig`. One YAML file holds it.

The settings are in `sections.py`. Reading the YAML, `--set` and the wording of errors are in `file.py`.
"""

from manta.config.experiment import ExperimentConfig
from manta.config.names import field_names, nearest, section_type, set_by_name
from manta.config.sections import (
    DataConfig,
    GateConfig,
    LoraSettings,
    MetricName,
    ModelConfig,
    Range,
    RegistryConfig,
    Section,
    ServeConfig,
    TaskName,
    TrafficConfig,
    TrainConfig,
)

__all__ = [
    "DataConfig",
    "ExperimentConfig",
    "GateConfig",
    "LoraSettings",
    "MetricName",
    "ModelConfig",
    "Range",
    "RegistryConfig",
    "Section",
    "ServeConfig",
    "TaskName",
    "TrafficConfig",
    "TrainConfig",
    "field_names",
    "nearest",
    "section_type",
    "set_by_name",
]
