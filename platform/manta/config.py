"""The whole run in one frozen, typed config: `ExperimentConfig`. One YAML file holds it.

The text under a field is its explanation: `manta schema` prints it, and so do error messages.
Reading the YAML, `--set` and the wording of errors are in `config_file.py`.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MetricName = Literal["accuracy", "f1_macro", "f1_micro", "f1_weighted", "precision_macro", "recall_macro", "loss"]
TaskName = Literal["auto", "binary", "multiclass", "multilabel"]
NAME = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class Section(BaseModel):
    """What every part of the config has in common: frozen, no unknown keys, each field explained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class DataConfig(Section):
    """Where labelled texts come from and how they are split."""

    train: str
    """Training rows: a .csv, .tsv, .jsonl or .parquet file, a folder holding train.*, validation.* and test.*,
    a URL (s3://, gs://, …), a dataset on the Hugging Face hub (hf://owner/name[:config]) or bundled rows
    (sample:support, sample:reviews). Relative paths start at the YAML file."""
    validation: str | None = None
    """Rows that choose the best epoch and trial. Without it, `validation_fraction` of train is set aside."""
    test: str | None = None
    """Rows read once, at the very end. Without it, `test_fraction` of train is set aside."""
    text: str | int | tuple[str | int, str | int] = "text"
    """The text column: its name, or its position (from 0) where `header` is false. A list of two columns, such as
    [premise, hypothesis], for text pairs."""
    label: str | int = "label"
    """The label column: its name, or its position (from 0). Labels may be words or integers."""
    label_separator: Annotated[str, Field(min_length=1)] = "|"
    """What stands between the labels of one field when `model.task` is multilabel, such as billing|urgent. An empty
    field means that no label applies. JSONL, Parquet and hub rows may hold lists instead."""
    header: bool = True
    """Whether the first line of CSV and TSV files names the columns."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training rows (between 0 and 1) set aside, class by class, when no validation rows are given."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training rows (between 0 and 1) set aside, class by class, when no test rows are given."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of those splits. It is apart from `train.seed`, so that runs with other seeds see the same rows."""

    @field_validator("text", mode="before")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) != 2:
            raise ValueError(f"data.text lists {len(value)} columns; give one column, or exactly two for text pairs")
        return value

    @model_validator(mode="after")
    def _columns(self) -> DataConfig:
        columns = self.text_columns
        if self.label in columns:
            raise ValueError(f"data.text and data.label both name the column {self.label!r}; they must differ")
        if len(set(columns)) < len(columns):
            raise ValueError(f"data.text names the column {columns[0]!r} twice; a text pair needs two columns")
        if not self.header and any(isinstance(column, str) for column in (*columns, self.label)):
            raise ValueError("data.header is false, so data.text and data.label must be positions such as 0 and 1")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("data.validation_fraction and data.test_fraction together leave no rows to train on")
        return self

    @property
    def text_columns(self) -> tuple[str | int, ...]:
        """The one text column, or the two of a text pair."""
        return self.text if isinstance(self.text, tuple) else (self.text,)


class ModelConfig(Section):
    """Which pretrained encoder is adapted, and how it is kept from overfitting."""

    pretrained: str = "embedded"
    """A model id on the Hugging Face hub, a folder in its format, or `embedded`: the offline all-MiniLM-L6-v2
    of the [demo] extra (22.7 M parameters, English)."""
    task: TaskName = "auto"
    """`binary` has one logit and a sigmoid, `multiclass` a softmax over the classes, `multilabel` a sigmoid for each
    label, so that several or none may apply. `auto` goes by the number of labels, and is multilabel for lists of labels."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of every dropout of the encoder and its head. Raise it when the training score leaves validation behind."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens per text, special tokens included; longer texts are cut. Time and memory grow with it."""


class TrainConfig(Section):
    """How the encoder is fine-tuned."""

    num_workers: Annotated[int, Field(ge=1)] = 1
    """Ray Train workers, one process each; on GPUs, one GPU each."""
    use_gpu: bool | Literal["auto"] = "auto"
    """Whether each worker takes a GPU. `auto` does when the cluster has any."""
    cpus_per_worker: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """CPU cores, and so threads, of each worker. `auto` shares the cores out, or takes 1 beside a GPU."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate of AdamW. The first thing to tune: too high forgets the pretrained encoder, too low never fits."""
    num_epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the training rows. The best epoch by `metric` is kept."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows of one optimizer step over all workers together, so results do not depend on how many there are."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay; biases and norms have none."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of all steps in which the learning rate climbs to its peak, before it falls linearly to zero."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this global norm when they exceed it."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed splits over the workers: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters."""
    metric: MetricName = "accuracy"
    """The validation metric that chooses the best epoch and the best trial (`loss`: lower is better). Where several labels
    may apply, `accuracy` counts the rows whose labels are all right, and `f1_micro` pools all labels; else the two are equal."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the new head, the order of the rows and dropout."""

    @model_validator(mode="after")
    def _rows_for_every_worker(self) -> TrainConfig:
        if self.batch_size < self.num_workers:
            raise ValueError(
                f"train.batch_size {self.batch_size} leaves some of the {self.num_workers} workers without a row; "
                f"set it to {self.num_workers} or more"
            )
        return self

    @property
    def metric_mode(self) -> Literal["min", "max"]:
        """Whether a better value of `metric` is a lower or a higher one."""
        return "min" if self.metric == "loss" else "max"


class Range(Section):
    """The values one searched field may take: exactly one of the three kinds."""

    loguniform: tuple[float, float] | None = None
    """[low, high], drawn uniformly over the exponent: for learning rates and other scales. Both above 0."""
    uniform: tuple[float, float] | None = None
    """[low, high], drawn uniformly."""
    choice: list[Any] | None = None
    """A list of values to draw from."""

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        given = [name for name in ("loguniform", "uniform", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("a searched field needs exactly one of loguniform, uniform and choice")
        if self.choice is not None and not self.choice:
            raise ValueError("choice is empty; list at least one value")
        bounds = self.loguniform or self.uniform
        if bounds is not None and bounds[0] >= bounds[1]:
            raise ValueError(f"the range [{bounds[0]:g}, {bounds[1]:g}] is empty or reversed; the lower bound comes first")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"a loguniform range starts above 0, not at {self.loguniform[0]:g}")
        return self


class TuneBudget(Section):
    """When the search ends."""

    num_trials: Annotated[int, Field(ge=1)] = 8
    """Trials in all. The first is the config as it stands; the others are drawn from `space`."""


class TuneConfig(Section):
    """What the search varies, and what it may cost."""

    space: dict[str, Range] = {
        "train.learning_rate": Range(loguniform=(3e-5, 1e-3)),
        "model.dropout": Range(uniform=(0.0, 0.4)),
    }
    """Searched fields by their dotted name, such as train.learning_rate: {loguniform: [1.0e-5, 5.0e-4]}."""
    budget: TuneBudget = TuneBudget()
    """When the search ends."""
    scheduler: Literal["asha", "none"] = "asha"
    """`asha` stops trials that fall behind after an epoch; `none` runs every trial to its end."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draws, so that the same search can be repeated."""


class RegistryConfig(Section):
    """Where finished models are remembered."""

    model: Annotated[str, NAME] | None = None
    """Name of the registered model; `name` unless given. Letters, digits, dots, dashes and underscores."""
    promote: bool = True
    """Whether a new version becomes the champion, which is the one that is served."""


class ServeConfig(Section):
    """Where the champion answers."""

    host: str = "127.0.0.1"
    """Address the API listens on. The default is reachable from this machine only."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the API."""
    num_replicas: Annotated[int, Field(ge=1)] = 1
    """Processes that hold the model and answer."""


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
    """Folder of runs, artifacts and the registry; $MANTA_STORAGE or ~/.manta unless given. All workers must reach it."""

    @model_validator(mode="after")
    def _searchable(self) -> ExperimentConfig:
        for name, values in self.tune.space.items():
            bounds = values.loguniform or values.uniform
            # Between the bounds, too: a whole number cannot be drawn from a range.
            examples = values.choice or [*bounds, bounds[0] + 0.377 * (bounds[1] - bounds[0])] if bounds else values.choice
            for example in examples or []:
                self._replaced({name: example}, validate_space=False)
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
        return self._replaced(values, validate_space=True)

    def _replaced(self, values: dict[str, Any], *, validate_space: bool) -> ExperimentConfig:
        document = self.model_dump(mode="json", exclude_none=True)
        if not validate_space:
            document["tune"]["space"] = {}
        for name, value in values.items():
            set_by_name(document, name, value)
        return ExperimentConfig.model_validate(document)


def field_names(section: type[BaseModel] = ExperimentConfig, prefix: str = "") -> list[str]:
    """Every setting's dotted name, in the order of the YAML."""
    names: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            names += field_names(inner, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def set_by_name(document: dict[str, Any], name: str, value: Any) -> None:
    """Set one field of a config document in place, by its dotted name.

    Raises:
        ValueError: no such setting; the message names the nearest ones.
    """
    if name not in field_names() and not name.startswith("tune.space"):
        raise ValueError(f"{name} is not a setting; {nearest(name, field_names())}")
    head, *rest = name.split(".", 2 if name.startswith("tune.space.") else -1)
    target = document
    for part in rest:
        inner = target.setdefault(head, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{name}: {head} is a value, not a section")
        target, head = inner, part
    target[head] = copy.deepcopy(value)


def nearest(name: str, allowed: list[str]) -> str:
    """The hint behind an unknown name: the closest allowed one, or all of them."""
    import difflib

    leaf = name.rsplit(".", 1)[-1]
    close = [full for full in allowed if full.rsplit(".", 1)[-1] == leaf] or difflib.get_close_matches(name, allowed, n=1)
    return f"did you mean {close[0]}?" if close else f"known ones are {', '.join(allowed)}"
