"""The config of a whole run, frozen and typed: `ExperimentConfig`. One YAML file holds it.

`sections.py` has the settings. `file.py` reads the YAML and `--set`, and words the error messages.
"""

from manta.config.experiment import ExperimentConfig
from manta.config.names import field_names, nearest, section_type, set_by_name
from manta.config.sections import (
    DataConfig,
    GateConfig,
    LoraSettings,
    Method,
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
    "Method",
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
