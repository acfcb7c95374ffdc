"""The sections of a config: what each setting means, its default and its bounds.

The text under a field is its explanation: `manta schema` prints it, and so do error messages.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MetricName = Literal["accuracy", "f1_macro", "f1_micro", "f1_weighted", "precision_macro", "recall_macro", "loss"]
TaskName = Literal["auto", "binary", "multiclass", "multilabel"]
# What our own settings decide of DeepSpeed's JSON; `train.deepspeed` may say the rest.
DEEPSPEED_KEYS = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.micro_batch_size",
    "gradient_clipping": "train.max_grad_norm",
    "optimizer": "train.learning_rate and train.weight_decay",
    "scheduler": "train.schedule and train.warmup_fraction",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "torch_autocast": "train.precision",
    "amp": "train.precision",
}
ZERO_KEYS = {
    "stage": "train.zero_stage",
    "offload_optimizer": "train.offload_optimizer",
    "offload_param": "train.offload_parameters",
    "cpu_offload": "train.offload_optimizer",
}
AUTO_VALIDATION_FRACTION = 0.1
EXPONENT = re.compile(r"[+-]?[0-9]+[eE][+-]?[0-9]+")
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
    """Rows that compare trials and calibrate the probabilities. Without it, see `validation_fraction`."""
    test: str | None = None
    """Rows read once, at the very end. Without it, `test_fraction` of train is set aside."""
    feedback: str | None = None
    """Further training rows: the file in which a service keeps what people say about its answers (`serve.feedback`). They
    join the training rows once validation and test rows were set aside; where both have a text, the feedback counts."""
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
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    """Share of the training rows (between 0 and 1) set aside, class by class, when no validation rows are given. `auto` sets
    aside a tenth; where fewer than 500 rows are left for training, it sets none aside: a cross-validation takes their place,
    and the model is trained on all of them."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training rows (between 0 and 1) set aside, class by class, when no test rows are given."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of those splits. It is apart from `train.seed`, so that runs with other seeds see the same rows."""
    behaviour: str | None = None
    """A YAML file with behaviour tests, which `manta evaluate` and the gate run. Bundled samples bring their own.
    A relative path starts at the YAML file."""

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
        if self.validation_share + self.test_fraction >= 1:
            raise ValueError("data.validation_fraction and data.test_fraction together leave no rows to train on")
        return self

    @property
    def validation_share(self) -> float:
        """The share of the training rows that is set aside for validation, where any is."""
        return AUTO_VALIDATION_FRACTION if self.validation_fraction == "auto" else self.validation_fraction

    @property
    def text_columns(self) -> tuple[str | int, ...]:
        """The one text column, or the two of a text pair."""
        return self.text if isinstance(self.text, tuple) else (self.text,)


class LoraSettings(Section):
    """Low-rank adapters (Hu et al., 2021, https://arxiv.org/abs/2106.09685): the encoder stays as it is, small matrices learn."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the added matrices: more can learn more, and overfit sooner."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The adapters' output is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of the adapters."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get adapters, such as [query, value]; `all-linear` takes every one of the encoder's."""


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
    freeze_embeddings: bool = False
    """Whether the embeddings stay as pretrained. They are half of a small encoder: less to overfit, less to compute."""
    freeze_layers: Annotated[int, Field(ge=0)] = 0
    """How many of the first layers stay as pretrained; the embeddings below them then do, too."""
    lora: LoraSettings | None = None
    """Adapters instead of full fine-tuning, such as {rank: 8}; they are merged into the finished model. None: all weights learn."""

    @model_validator(mode="after")
    def _lora_freezes_already(self) -> ModelConfig:
        if self.lora is not None and (self.freeze_embeddings or self.freeze_layers):
            name = "freeze_embeddings" if self.freeze_embeddings else "freeze_layers"
            raise ValueError(f"model.lora freezes the whole encoder, so model.{name} says nothing; remove one of them")
        return self


class TrainConfig(Section):
    """How the encoder is fine-tuned."""

    num_workers: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = 1
    """Ray Train workers, one process each; on GPUs, one GPU each. [min, max] takes what the cluster has between the two,
    and goes on with fewer when a node is lost."""
    use_gpu: bool | Literal["auto"] = "auto"
    """Whether each worker takes a GPU. `auto` does when the cluster has any, or is known to start nodes with some."""
    cpus_per_worker: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """CPU cores, and so threads, of each worker. `auto` shares the cores out, or takes 1 beside a GPU."""
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Peak learning rate of AdamW. The first thing to tune: too high forgets the pretrained encoder, too low never fits.
    `auto` goes by the encoder's width, the number of classes and of steps."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer below the head learns this much slower than the one above it; 1 is the same rate for all, 0.9 is usual."""
    num_epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Passes over the training rows. The model after the last one is kept. `auto`: the fewer rows, the more."""
    early_stopping: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many epochs in a row without a better validation `metric`, and keep the best epoch. None: train all
    epochs and keep the last. With fewer than 200 validation rows, the best epoch is a matter of chance."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows of one optimizer step over all workers together, so results do not depend on how many there are."""
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Rows a worker computes at a time; gradients are accumulated until `batch_size` is complete. `auto` takes the most
    that fits into memory."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay; biases and norms have none."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after the warm-up: falling to zero in a line or a cosine, or staying."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of all steps in which the learning rate climbs to its peak."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this global norm when they exceed it."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread evenly over all labels: less confident, often better calibrated."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = None
    """What a row of each label counts in the loss: `balanced` (rare labels more), or a weight for every label by name."""
    focal_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Focal loss (Lin et al., 2017, https://arxiv.org/abs/1708.02002): rows already right count less. 0 is off, 2 usual."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """What matrices are multiplied in; weights and sums stay float32. `auto` is bf16 where all workers' GPUs or CPUs compute in
    it, else fp32. fp16 scales its loss."""
    gradient_checkpointing: bool = False
    """Whether activations are computed anew in the backward pass: far less memory, about a third more time."""
    zero_stage: Literal[0, 1, 2, 3, "auto"] = "auto"
    """What DeepSpeed splits over the workers: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters. `auto` splits
    no more than it takes to fit each worker's memory, and nothing on one worker. Set a number for the same stage everywhere."""
    offload_optimizer: bool = False
    """Whether the optimizer state lives in the machine's memory instead of the GPU's (ZeRO 1 to 3)."""
    offload_parameters: bool = False
    """Whether parameters do, too, while they are not needed (ZeRO 3)."""
    deepspeed: dict[str, Any] = {}
    """More of DeepSpeed's JSON (https://www.deepspeed.ai/docs/config-json), merged in. What a setting above decides is refused."""
    metric: MetricName = "accuracy"
    """The validation metric that compares trials, and epochs under `early_stopping` (`loss`: lower is better). Where several labels
    may apply, `accuracy` counts the rows whose labels are all right, and `f1_micro` pools all labels; else the two are equal."""
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between checkpoints within an epoch. One is written after every epoch in any case."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Minutes between checkpoints within an epoch, which is what an interruption can cost at most."""
    cost_per_hour: Annotated[float, Field(gt=0)] | None = None
    """Price of one worker for an hour, in any currency; `manta preflight` then says what a run will cost."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often lost workers or nodes are replaced and training goes on from the last checkpoint. Preemptions do not count."""
    tensorboard: bool = False
    """Whether TensorBoard's event files are written, too; `tensorboard --logdir` on the run's folder shows them."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the new head, the order of the rows and dropout."""

    @model_validator(mode="after")
    def _workers(self) -> TrainConfig:
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"train.num_workers [{self.min_workers}, {self.max_workers}] is reversed; the smaller number comes first"
            )
        if self.batch_size < self.max_workers:
            raise ValueError(
                f"train.batch_size {self.batch_size} leaves some of the {self.max_workers} workers without a row; "
                f"set it to {self.max_workers} or more"
            )
        return self

    @model_validator(mode="after")
    def _offload(self) -> TrainConfig:
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("train.offload_optimizer needs train.zero_stage 1, 2 or 3, not 0")
        if self.offload_parameters and self.zero_stage not in (3, "auto"):
            raise ValueError(f"train.offload_parameters needs train.zero_stage 3, not {self.zero_stage}")
        return self

    @model_validator(mode="after")
    def _no_second_opinion(self) -> TrainConfig:
        for name, settings in DEEPSPEED_KEYS.items():
            if name in self.deepspeed:
                raise ValueError(f"train.deepspeed: {name} contradicts {settings}; set that one instead")
        zero = self.deepspeed.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError("train.deepspeed: zero_optimization must be a mapping, as in DeepSpeed's JSON")
        for name, setting in ZERO_KEYS.items():
            if name in zero:
                raise ValueError(f"train.deepspeed: zero_optimization.{name} contradicts {setting}; set that one instead")
        return self

    @property
    def min_workers(self) -> int:
        """The fewest workers training goes on with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """The most workers training uses."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate as a number, which it is in every run that was prepared.

        Raises:
            ValueError: it is still `auto`.
        """
        if self.learning_rate == "auto":
            raise ValueError("train.learning_rate is still auto; starting_point.resolved replaces it once the data is known")
        return self.learning_rate

    @property
    def planned_epochs(self) -> int:
        """The number of epochs as a number, which it is in every run that was prepared.

        Raises:
            ValueError: it is still `auto`.
        """
        if self.num_epochs == "auto":
            raise ValueError("train.num_epochs is still auto; starting_point.resolved replaces it once the data is known")
        return self.num_epochs

    @property
    def lowest_zero_stage(self) -> Literal[0, 1, 3]:
        """The stage that `auto` begins with: 0, or the first that can offload what is to be offloaded."""
        if self.offload_parameters:
            return 3
        return 1 if self.offload_optimizer else 0

    @property
    def chosen_zero_stage(self) -> int:
        """The ZeRO stage as a number, which it is on workers that have begun to train.

        Raises:
            ValueError: it is still `auto`.
        """
        if self.zero_stage == "auto":
            raise ValueError("train.zero_stage is still auto; the workers replace it once they know their memory")
        return self.zero_stage

    @property
    def metric_mode(self) -> Literal["min", "max"]:
        """Whether a better value of `metric` is a lower or a higher one."""
        return "min" if self.metric == "loss" else "max"


class Range(Section):
    """The values one searched field may take: exactly one of the four kinds."""

    loguniform: tuple[float, float] | None = None
    """[low, high], drawn uniformly over the exponent: for learning rates and other scales. Both above 0."""
    uniform: tuple[float, float] | None = None
    """[low, high], drawn uniformly."""
    randint: tuple[int, int] | None = None
    """[low, high], whole numbers drawn uniformly, both bounds included."""
    choice: list[Any] | None = None
    """A list of values to draw from."""

    @field_validator("choice", mode="before")
    @classmethod
    def _numbers(cls, values: Any) -> Any:
        """YAML reads 3e-5, without a dot, as text."""
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
        """The name of the one kind that was given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest value; None for a choice."""
        return self.loguniform or self.uniform or self.randint

    @property
    def extremes(self) -> list[Any]:
        """Values that fit their field only if all values do: both bounds, or every choice."""
        return list(self.bounds or self.choice or [])


class TuneBudget(Section):
    """When the search ends: at the first of these limits. What finished by then is kept, the rest is reported as not run."""

    num_trials: Annotated[int, Field(ge=1)] = 8
    """Trials in all. The first is the config as it stands; the others are drawn from `space`."""
    wall_clock_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds from the command to the end of training; trials still running then are evaluated as they are."""
    worker_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours of all workers together, counted from when they are asked for."""


class TuneConfirm(Section):
    """The best trials, and the first, are trained again with other seeds, as one lucky seed makes no winner.

    The best mean wins if it leads the first trial's by more than one standard error; else the config as it stands stays.
    """

    top_k: Annotated[int, Field(ge=1)] = 2
    """How many of the best trials; the first one, the config as it stands, comes with them if it is none of these."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Seeds each of them is trained again with; none of them is `train.seed`."""


class TuneConfig(Section):
    """What the search varies, and what it may cost."""

    space: dict[str, Range] | None = None
    """Searched settings of `model` and `train` by their dotted name, such as
    train.learning_rate: {loguniform: [1.0e-5, 5.0e-4]}. None: learning rate and dropout, around where `auto` starts."""
    budget: TuneBudget = TuneBudget()
    """When the search ends."""
    search: Literal["random", "grid", "optuna"] = "random"
    """How values are drawn: at random, every combination of `choice` lists, or by what did well so far (Optuna's TPE)."""
    scheduler: Literal["asha", "none"] = "asha"
    """`asha` stops trials that fall behind: only the best third of them goes on after each rung of epochs. `none` runs every
    trial to its end."""
    confirm: TuneConfirm | None = TuneConfirm()
    """Whether the best trials are trained again with other seeds before one wins; null takes the best trial as it is."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draws, so that the same search can be repeated."""

    @field_validator("space")
    @classmethod
    def _something(cls, space: dict[str, Range] | None) -> dict[str, Range] | None:
        if space is not None and not space:
            raise ValueError("tune.space is empty; name a setting to search, or leave it out to search the default ones")
        return space

    @property
    def searched(self) -> dict[str, Range]:
        """The space, which every run that was prepared has.

        Raises:
            ValueError: it is still the default.
        """
        if self.space is None:
            raise ValueError("tune.space is still the default; starting_point.resolved fills it once the data is known")
        return self.space


class GateConfig(Section):
    """What a version must show beside the champion, on the same test rows, to take its place."""

    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The least gain in `train.metric` over the champion (0.01 is one point). 0 accepts any statistically significant gain."""
    equal_margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """With --allow-equal: the largest loss of `train.metric` that must be ruled out."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Confidence level of the gate's tests. A higher level lets fewer models pass by luck, and fewer that are a little better."""
    max_class_drop: Annotated[float, Field(ge=0, le=1)] = 0.05
    """How much recall any class may lose. Only a loss that is no chance counts: fewer than five rows never veto."""
    max_behaviour_rise: Annotated[float, Field(ge=0, le=1)] = 0.05
    """How much the failure rate of any behaviour test may rise; 0.05 is five more of 100 cases."""
    max_ece_increase: Annotated[float, Field(ge=0, le=1)] = 0.02
    """How much the expected calibration error may grow; probabilities are then further from the truth."""
    max_latency_ratio: Annotated[float, Field(gt=0)] = 1.5
    """How many times as long as the champion it may take for one text (the median)."""
    max_size_ratio: Annotated[float, Field(gt=0)] = 2.0
    """How many times as large as the champion's its weights may be."""


class RegistryConfig(Section):
    """Where finished models are remembered."""

    model: Annotated[str, NAME] | None = None
    """Name of the registered model; `name` unless given. Letters, digits, dots, dashes and underscores."""
    promote: bool = True
    """Whether a new version becomes the champion, which is the one that is served: the first at once, a later one if it
    passes the gate. False: it stays the candidate until `manta models promote`."""
    gate: GateConfig = GateConfig()
    """What it must show beside the champion."""
    target_precision: Annotated[float, Field(gt=0, lt=1)] | None = 0.95
    """Share of right answers (between 0 and 1) that answers not marked as uncertain are to have. The confidence it takes is
    chosen on the validation rows: a higher target leaves more rows uncertain. None: uncertain is what is less likely than not."""
    onnx: bool = True
    """Whether a finished model gets ONNX forms, which answer faster on CPUs; they are used only where they answer alike."""


class TrafficConfig(Section):
    """What the alias `candidate` sees of the traffic."""

    candidate: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Percent of the requests that the candidate answers in the champion's place. Who sends the same key stays with one."""
    shadow: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Percent of the champion's answers that the candidate computes as well, when there is time. Its answers are compared and
    sent to no one."""


class ServeConfig(Section):
    """Where the champion answers, and what it accepts."""

    host: str = "127.0.0.1"
    """Address the API listens on. The default is reachable from this machine only; any other one asks for API keys."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the API."""
    num_replicas: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = 1
    """Processes that hold the model and answer. [min, max] follows the load; a min of 0 keeps none while nobody asks."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1024**2
    """Largest body of a request; a larger one is refused (413)."""
    max_texts: Annotated[int, Field(ge=1)] = 256
    """Most texts or pairs of one request."""
    max_characters: Annotated[int, Field(ge=1)] = 20_000
    """Most characters of one text."""
    max_queued_texts: Annotated[int, Field(ge=1)] = 1024
    """Texts that may wait for a replica; beyond it requests are refused (429) and told when to come again."""
    deadline_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds after which a request that has no answer yet is given up (504)."""
    traffic: TrafficConfig = TrafficConfig()
    """What the candidate sees of the traffic."""
    extra_versions: Annotated[int, Field(ge=0)] = 2
    """Versions beside champion and candidate that are loaded when a request asks for one by its number; each needs memory."""
    feedback: bool = False
    """Whether POST /v1/feedback keeps texts, answers and corrections, which `data.train` reads like other rows."""
    feedback_max_bytes: Annotated[int, Field(ge=1024)] = 100 * 1024**2
    """Most that is kept of them; beyond it feedback is refused."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Requests that each API key may send in a minute (429 beyond it). None: no limit."""
    cors_origins: tuple[str, ...] = ()
    """Web pages' origins, such as https://desk.example.com, whose scripts may read answers. Empty: none."""
    log_requests: bool = False
    """Whether every request is a line of the log, which costs some throughput; else only those that fail by our fault."""
    log_texts: bool = False
    """Whether these lines hold what users sent."""

    @model_validator(mode="after")
    def _bounds(self) -> ServeConfig:
        if self.min_replicas > self.max_replicas:
            low, high = self.min_replicas, self.max_replicas
            raise ValueError(f"serve.num_replicas [{low}, {high}] is reversed; the smaller number comes first")
        if self.max_queued_texts < self.max_texts:
            raise ValueError(
                f"serve.max_queued_texts {self.max_queued_texts} leaves no room for a request of serve.max_texts {self.max_texts}; "
                f"set it to {self.max_texts} or more"
            )
        return self

    @property
    def min_replicas(self) -> int:
        """The fewest replicas; 0 lets all of them go while nobody asks."""
        return self.num_replicas if isinstance(self.num_replicas, int) else self.num_replicas[0]

    @property
    def max_replicas(self) -> int:
        """The most replicas."""
        return self.num_replicas if isinstance(self.num_replicas, int) else self.num_replicas[1]
