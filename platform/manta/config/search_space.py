"""Checks of `tune.space`: `check_space` refuses a space that cannot be searched, before anything starts.

The settings of `model` and `train` can be searched, except those that are the same for all trials. Any value that a range can draw
must fit its field and the rest of the config.
"""

from __future__ import annotations

import copy
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from manta.config.names import field_names, nearest, section_type, set_by_name
from manta.config.sections.section import Section
from manta.config.sections.tune import Range

if TYPE_CHECKING:
    from manta.config.sections.tune import TuneConfig

READ_ONCE = {"model.pretrained", "model.task", "model.max_length"}
"""Settings for reading and tokenizing the texts, which happens once for all trials."""
NO_PROPERTY_OF_A_MODEL = {
    *("train.method", "train.num_workers", "train.use_gpu", "train.cpus_per_worker"),
    *("train.checkpoint_steps", "train.checkpoint_minutes", "train.max_failures", "train.cost_per_hour", "train.tensorboard"),
}
MEASURE = "train.metric"
LUCK = "train.seed"
RESOLVED_BEFORE = {"train.learning_rate", "train.num_epochs"}
"""Settings whose `auto` becomes a number before the search begins, see `starting_point`."""


def check_space(config: Section, *, tune: TuneConfig, document: dict[str, Any]) -> None:
    """Refuse a space that cannot be searched as `tune.search` says.

    `config` is the whole config, `tune` its section and `document` the config as plain data.

    Raises:
        ValueError: one sentence that names the field and what to do.
    """
    space, search = tune.space, tune.search
    if search == "grid" and space is None:
        raise ValueError(
            "tune.search: grid tries every combination of choice lists, and the default space has none; "
            "set tune.space, such as train.learning_rate: {choice: [1.0e-4, 3.0e-4]}, or tune.search: random"
        )
    for name, values in (space or {}).items():
        _check_name(name, config)
        _check_kind(_annotation(name, type(config)), name, values)
        _check_values(name, values, type(config), document)
        if search == "grid" and values.choice is None:
            raise ValueError(
                f"tune.space: tune.search grid tries every value of choice lists, but {name} has {values.kind}; "
                "list its values as choice: […], or set tune.search to random"
            )


def searchable(name: str) -> bool:
    """Tell whether a setting, given by its dotted name, can be searched."""
    return name.startswith(("model.", "train.")) and name not in NO_PROPERTY_OF_A_MODEL | READ_ONCE | {MEASURE, LUCK}


def _check_name(name: str, config: Section) -> None:
    names = field_names(type(config))
    if name not in names:
        raise ValueError(f"tune.space: {name} is not a setting; {nearest(name, [known for known in names if searchable(known)])}")
    if name in READ_ONCE:
        raise ValueError(
            f"tune.space: {name} cannot be searched, because texts are read and tokenised once for all trials; "
            f"remove it and run manta tune once for each value, with --set {name}=…"
        )
    if name == MEASURE:
        raise ValueError(f"tune.space: trials are compared by {name}, so it must be the same for all; remove it")
    if name == LUCK:
        raise ValueError(
            f"tune.space: {name} cannot be searched, because the best seed would only be a lucky one; remove it: tune.confirm "
            "trains the best trials again with other seeds"
        )
    if not searchable(name):
        raise ValueError(
            f"tune.space: {name} cannot be searched; remove it: settings of model and train can be searched, "
            "except those about workers, devices and checkpoints"
        )
    section: Any = config
    for depth, part in enumerate(name.split(".")[:-1], start=1):
        section = getattr(section, part)
        if section is None:
            above = ".".join(name.split(".")[:depth])
            raise ValueError(f"tune.space: {name} is searched, but {above} is off; turn it on with {above}: {{}}")


def _check_kind(annotation: Any, name: str, values: Range) -> None:
    """Check that the field can hold the values that a range of this kind draws."""
    if values.bounds is None:
        if "auto" in (values.choice or []) and name in RESOLVED_BEFORE:
            raise ValueError(f"tune.space: {name} can be searched by numbers only; remove auto from choice")
        return
    kinds = _kinds(annotation)
    low, high = values.bounds
    if float in kinds:
        return
    if int not in kinds:
        raise ValueError(f"tune.space: {name} is not a number, so {values.kind} cannot draw it; list its values as choice: […]")
    if values.randint is None:
        whole = f"randint: [{round(low)}, {round(high)}]" if round(low) < round(high) else "choice: […]"
        raise ValueError(f"tune.space: {name} is a whole number, which {values.kind} cannot draw; write {whole}")


def _check_values(name: str, values: Range, kind: type[Section], document: dict[str, Any]) -> None:
    """Check that the values fit their field and the rest of the config, by building the config of such a trial."""
    untuned = {section: settings for section, settings in document.items() if section != "tune"}
    for value in values.extremes:
        changed = copy.deepcopy(untuned)
        set_by_name(changed, name, value, section=kind)
        try:
            kind.model_validate(changed)
        except ValidationError as error:
            first = error.errors()[0]
            cause = first.get("ctx", {}).get("error")
            if cause is not None:
                raise ValueError(f"tune.space: with {name} {value!r}, {cause}") from None
            problem = first["msg"][0].lower() + first["msg"][1:]
            raise ValueError(f"tune.space: {name} cannot be {value!r}: {problem}; change its {values.kind}") from None


def _annotation(name: str, kind: type[Section]) -> Any:
    section = kind
    *parts, last = name.split(".")
    for part in parts:
        inner = section_type(section.model_fields[part].annotation)
        assert inner is not None  # noqa: S101  # `name` is one of `field_names`
        section = inner
    return section.model_fields[last].annotation


def _kinds(annotation: Any) -> list[Any]:
    """Return the types that a field accepts; for a literal, the types of its values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [type(value) for value in get_args(annotation)] if origin is Literal else [annotation]
