"""`Section`: what all parts of the config have in common."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from manta.config.yaml_model import YamlModel

NAME = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


def not_blank(value: str | None) -> str | None:
    """Refuse a location of blanks only, which would stand for a folder."""
    if value is not None and not value.strip():
        raise ValueError("it is empty; give a value, or leave the setting out")
    return value


class Section(YamlModel):
    """Base of every part of the config: frozen, no unknown keys, each field explained."""

    model_config = ConfigDict(allow_inf_nan=False)
