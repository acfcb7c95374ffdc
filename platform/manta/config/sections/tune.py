"""The section `tune`, and the ranges of searched settings."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from manta.config.sections.section import Section

EXPONENT = re.compile(r"[+-]?[0-9]+[eE][+-]?[0-9]+")


class Range(Section):
    """The values that one searched setting may take: exactly one of the four kinds."""

    loguniform: tuple[float, float] | None = None
    """[low, high], drawn uniformly on a logarithmic scale, as for learning rates. Both must be above 0."""
    uniform: tuple[float, float] | None = None
    """[low, high], drawn uniformly."""
    randint: tuple[int, int] | None = None
    """[low, high], whole numbers drawn uniformly, both bounds included."""
    choice: list[Any] | None = None
    """A list of values to draw from."""

    @field_validator("choice", mode="before")
    @classmethod
    def _numbers(cls, values: Any) -> Any:
        """Convert numbers such as 3e-5, which YAML reads as text because they have no dot."""
        if not isinstance(values, list):
            return values
        return [float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value for value in values]

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        kinds = list(type(self).model_fields)
        if sum(getattr(self, name) is not None for name in kinds) != 1:
            raise ValueError(f"a searched field needs exactly one of {', '.join(kinds[:-1])} and {kinds[-1]}")
        if self.choice is not None and not self.choice:
            raise ValueError("choice is empty; list at least one value")
        bounds = self.bounds
        if bounds is not None and bounds[0] >= bounds[1]:
            raise ValueError(f"the range [{bounds[0]:g}, {bounds[1]:g}] is empty or reversed; the lower bound comes first")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"a loguniform range starts above 0, not at {self.loguniform[0]:g}")
        return self

    @property
    def kind(self) -> str:
        """The name of the kind that is set."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest value; None for a choice."""
        return self.loguniform or self.uniform or self.randint

    @property
    def extremes(self) -> list[Any]:
        """The bounds, or every choice. If these values fit their field, all values of the range do."""
        return list(self.bounds or self.choice or [])


class TuneBudget(Section):
    """Limits of the search, which ends at the first one reached. Finished trials are kept, the others are reported as not run."""

    num_trials: Annotated[int, Field(ge=1)] = 8
    """Number of trials. The first one uses the config unchanged; the values of the others are drawn from `space`. `tune.confirm`
    adds runs after them: with its default and three trials or more, up to 9."""
    wall_clock_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds from the command to the end of training. Trials that are still running then are evaluated as they are."""
    worker_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours of all workers together, counted from the request for them."""


class TuneConfirm(Section):
    """A second training, with other seeds, of the best trials and the first, so that one lucky seed does not decide.

    The trial with the best mean wins if it leads the first trial's mean by more than one standard error. Otherwise the unchanged
    config wins.
    """

    top_k: Annotated[int, Field(ge=1)] = 2
    """Number of best trials to train again. The first trial (the unchanged config) is added if it is not among them."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Number of seeds with which each of them is trained again. `train.seed` is not among them."""


class TuneConfig(Section):
    """The searched settings, the sampler and the limits of a search."""

    space: dict[str, Range] | None = None
    """Searched settings of `model` and `train` by their dotted name, such as train.learning_rate: {loguniform: [1.0e-5, 5.0e-4]}.
    null: the learning rate, around the value of `auto`, and the dropout."""
    budget: TuneBudget = TuneBudget()
    """Limits of the search."""
    search: Literal["random", "grid", "optuna"] = "random"
    """Sampler of the values: `random`, `grid` (every combination of `choice` lists) or `optuna` (TPE, guided by past trials)."""
    scheduler: Literal["asha", "none"] = "asha"
    """Early stopping of trials. `asha` stops trials that fall behind: only the best third goes on after each rung of epochs. `none`
    runs every trial to its end."""
    confirm: TuneConfirm | None = TuneConfirm()
    """A second training of the best trials with other seeds, before one wins. It adds up to (top_k + 1) * seeds runs, 9 with the
    defaults. null takes the best trial without it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampler, so that the same search can be repeated."""

    @field_validator("space")
    @classmethod
    def _something(cls, space: dict[str, Range] | None) -> dict[str, Range] | None:
        if space is not None and not space:
            raise ValueError("tune.space is empty; name a setting to search, or leave it out to search the default ones")
        return space

    @property
    def searched(self) -> dict[str, Range]:
        """The search space, after the default is resolved.

        Raises:
            ValueError: it is still the default.
        """
        if self.space is None:
            raise ValueError("tune.space is still the default; starting_point.resolved fills it once the data is known")
        return self.space
