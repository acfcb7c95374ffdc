"""The config of a whole run, frozen and typed: `ExperimentConfig`. One YAML file holds it.

`sections/` has the settings. `file.py` reads the YAML and `--set`, and words the error messages.
"""

from manta.config.experiment import ExperimentConfig
from manta.config.names import field_names, nearest, section_type, set_by_name
from manta.config.sections.data import DataConfig
from manta.config.sections.model import LoraSettings, ModelConfig, TaskName
from manta.config.sections.registry import GateConfig, RegistryConfig
from manta.config.sections.section import Section
from manta.config.sections.serve import ServeConfig, TrafficConfig
from manta.config.sections.train import Method, MetricName, TrainConfig
from manta.config.sections.tune import Range

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
