"""The sections of a config: the meaning, default and bounds of each setting.

The text under a field is its explanation. `manta schema` and error messages print it.
"""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator

from manta.config.label_names import fault_of
from manta.config.yaml_model import YamlModel, read_as

MetricName = Literal["accuracy", "f1_macro", "f1_micro", "f1_weighted", "precision_macro", "recall_macro", "loss"]
Method = Literal["linear", "contrastive", "full"]
TaskName = Literal["auto", "binary", "multiclass", "multilabel"]
# Keys of DeepSpeed's JSON that our own settings decide. `train.deepspeed` may set the others.
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
    "communication_data_type": "train.gradient_exchange",
}
ZERO_KEYS = {
    "stage": "train.zero_stage",
    "offload_optimizer": "train.offload_optimizer",
    "offload_param": "train.offload_parameters",
    "cpu_offload": "train.offload_optimizer",
}
NO_ENCODINGS_OF_FILES = {
    "idna",
    "punycode",
    "undefined",
    "unicode-escape",
    "unicode_escape",
    "raw-unicode-escape",
    "raw_unicode_escape",
}
AUTO_VALIDATION_FRACTION = 0.1
EXPONENT = re.compile(r"[+-]?[0-9]+[eE][+-]?[0-9]+")
NAME = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


def not_blank(value: str | None) -> str | None:
    """Refuse a location of blanks only, which would stand for a folder."""
    if value is not None and not value.strip():
        raise ValueError("it is empty; give a value, or leave the setting out")
    return value


class Section(YamlModel):
    """Base of every part of the config: frozen, no unknown keys, each field explained."""

    model_config = ConfigDict(allow_inf_nan=False)


class DataConfig(Section):
    """The source of labeled texts, and their split."""

    train: str
    """Training rows: a .csv, .tsv, .jsonl, .json or .parquet file (text may be gzipped: .csv.gz), a folder with train.*,
    validation.* and test.*, a URL (s3://, gs://, …), a dataset on the Hugging Face hub (hf://owner/name[:config]) or bundled rows
    (sample:support, sample:reviews). Relative paths are relative to the YAML file."""
    validation: str | None = None
    """Rows that compare trials and calibrate the probabilities. Without them, `validation_fraction` applies."""
    test: str | None = None
    """Rows that are read once, at the very end. Without them, `test_fraction` of the training rows is set aside."""
    feedback: str | None = None
    """Further training rows: the file in which a service stores feedback on its answers (`serve.feedback`), or that of
    `manta data suggest`, whose rows without a label are left out. They are added after
    validation and test rows were set aside. If a text is in both, the label of the feedback counts."""
    corrections: str | None = None
    """A file of decisions about labels (labels.jsonl), as people make them after `manta data check`. They are applied when rows are
    read, in every split. The files of the rows stay as they are."""
    text: str | int | tuple[str | int, str | int] = "text"
    """The text column: its name, or its position (from 0) if `header` is false. A dotted name such as data.body is a field inside
    an object of JSON or Parquet. For text pairs, a list of two columns, such as [premise, hypothesis]."""
    label: str | int = "label"
    """The label column: its name, or its position (from 0). Labels may be words or integers."""
    label_separator: Annotated[str, Field(min_length=1)] = "|"
    """Separator of the labels in one field if `model.task` is multilabel, such as billing|urgent. An empty field means that no
    label applies. JSONL, Parquet and hub rows may hold lists instead."""
    normalize_labels: bool = False
    """True if labels that only look different (by case, blanks, invisible characters, Unicode form, or as 0 and 0.0) are merged
    into their most frequent spelling. False: they stay apart, and the run warns of them."""
    labels: dict[str, str | None] | None = None
    """New names of labels, such as {refund: billing, spam: null}. Labels with the same new name are merged, rows of a label with
    null are left out. Of several labels a row, only this one is left out. The files of the rows stay as they are."""
    long_texts: Literal["cut", "windows"] = "cut"
    """Part that is read of a text with more than `model.max_length` tokens. `cut`: its start. `windows`: all of it, in windows that
    overlap by a quarter; the text's logits are the mean of theirs. Each epoch of a fine-tuning reads the next window of a text. An
    answer takes as many times as long as its text has windows."""
    header: bool = True
    """True if the first line of CSV and TSV files names the columns."""
    delimiter: Annotated[str, Field(min_length=1)] = "auto"
    """The character between the fields of CSV and TSV files, such as ";". `auto` is the comma (in TSV the tab). In CSV it is
    also the semicolon, tab or vertical bar if the text and label columns are found only with it; the run says so."""
    encoding: Annotated[str, Field(min_length=1)] = "auto"
    """The encoding of text files, such as latin-1. `auto` is UTF-8, UTF-16 if the file starts with a byte order mark, or
    Windows-1252 if the bytes are not UTF-8 and its letters make words; the run says so."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    """Share of the training rows (between 0 and 1) that is set aside, class by class, if no validation rows are given. A class with
    too few rows stays in training, and the run names it. `auto` is a tenth. Below 500 training rows, or below 2,000 with fewer
    than 15 per label, `auto` sets none aside: the model is cross-validated, and then trained on all rows."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training rows (between 0 and 1) that is set aside, class by class, if no test rows are given."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of these splits. It is separate from `train.seed`, so that runs with other seeds use the same splits."""
    behaviour: str | None = None
    """A YAML file with behaviour tests, which `manta evaluate` and the gate run. Bundled samples have their own. A relative path is
    relative to the YAML file."""

    @field_validator("train", "validation", "test", "feedback", "corrections", "behaviour")
    @classmethod
    def _no_blank(cls, value: str | None) -> str | None:
        return not_blank(value)

    @field_validator("text", mode="before")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) != 2:
            raise ValueError(f"data.text lists {len(value)} columns; give one column, or exactly two for text pairs")
        return value

    @field_validator("labels")
    @classmethod
    def _consistent_names(cls, value: dict[str, str | None] | None) -> dict[str, str | None] | None:
        if value and (fault := fault_of(value)):
            raise ValueError(fault)
        return value

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        if value != "auto" and (len(value) != 1 or value in '"\r\n'):
            raise ValueError(f'data.delimiter is {value!r}; give one character, such as ; (a tab is "\\t"), or auto')
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            name = codecs.lookup(value if value != "auto" else "utf-8").name
            "".encode(name)
            if name in NO_ENCODINGS_OF_FILES:
                raise LookupError
        except (LookupError, UnicodeError):
            raise ValueError(f"data.encoding is {value!r}, which is unknown; give one such as utf-8, latin-1 or utf-16") from None
        return value

    @model_validator(mode="after")
    def _columns(self) -> DataConfig:
        columns = self.text_columns
        if self.label in columns:
            raise ValueError(f"data.text and data.label both name the column {self.label!r}; they must differ")
        if len(set(columns)) < len(columns):
            raise ValueError(f"data.text names the column {columns[0]!r} twice; a text pair needs two columns")
        if len(columns) == 2 and self.long_texts == "windows":
            raise ValueError("data.long_texts windows is for single texts, and data.text names a pair; use cut")
        if not self.header and any(isinstance(column, str) for column in (*columns, self.label)):
            raise ValueError("data.header is false, so data.text and data.label must be positions such as 0 and 1")
        if self.validation_share + self.test_fraction >= 1:
            raise ValueError("data.validation_fraction and data.test_fraction together leave no rows to train on")
        return self

    @property
    def validation_share(self) -> float:
        """The share of the training rows that is set aside for validation, if any is."""
        return AUTO_VALIDATION_FRACTION if self.validation_fraction == "auto" else self.validation_fraction

    @property
    def text_columns(self) -> tuple[str | int, ...]:
        """The one text column, or the two of a text pair."""
        return self.text if isinstance(self.text, tuple) else (self.text,)


class LoraSettings(Section):
    """Low-rank adapters (Hu et al., 2021, https://arxiv.org/abs/2106.09685): small added matrices learn, the encoder is frozen."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the added matrices. A higher rank can learn more, and overfits sooner."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of the adapters."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get adapters, such as [query, value]. `all-linear` takes all linear layers of the encoder."""


class ModelConfig(Section):
    """The pretrained encoder, its task, and its protection from overfitting."""

    pretrained: str = "embedded"
    """A model id on the Hugging Face hub, a folder in its format, or `embedded`: the offline all-MiniLM-L6-v2
    of the [demo] extra (22.7 M parameters, English)."""
    task: TaskName = "auto"
    """Kind of classification. `binary` has one logit and a sigmoid, `multiclass` a softmax over the classes, `multilabel` a sigmoid
    for each label, so that several or none may apply. `auto` is multilabel for lists of labels, else decides by the number of
    labels."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of every dropout of the encoder and its head. Raise it if the model overfits the training rows."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Maximum number of tokens per text, special tokens included. Longer texts are cut, unless `data.long_texts` is windows. Time
    and memory grow with it."""
    freeze_embeddings: bool = False
    """True if the embeddings stay as pretrained. They are half of a small encoder: less to overfit, less to compute."""
    freeze_layers: Annotated[int, Field(ge=0)] = 0
    """Number of first layers that stay as pretrained. The embeddings below them then stay, too."""
    lora: LoraSettings | None = None
    """Adapters instead of full fine-tuning, such as {rank: 8}. They are merged into the finished model. null: all weights learn."""

    @field_validator("pretrained")
    @classmethod
    def _no_blank(cls, value: str) -> str | None:
        return not_blank(value)

    @model_validator(mode="after")
    def _lora_freezes_already(self) -> ModelConfig:
        if self.lora is not None and (self.freeze_embeddings or self.freeze_layers):
            name = "freeze_embeddings" if self.freeze_embeddings else "freeze_layers"
            raise ValueError(f"model.lora freezes the whole encoder, so model.{name} has no effect; remove one of them")
        return self


class TrainConfig(Section):
    """Settings of the fine-tuning."""

    method: Method | Literal["auto"] = "auto"
    """`full` fine-tunes all of the encoder that learns. `linear` leaves it frozen and fits a logistic regression to its embeddings,
    in seconds. `contrastive` first adapts the encoder so that texts of one label have similar embeddings. `auto` tries two of them
    if rows per label are few, and keeps one by held-out rows. A search always takes `full`."""
    num_workers: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = 1
    """Number of Ray Train workers, one process each; on GPUs, one GPU each. [min, max] takes as many in this range as the cluster
    has, and goes on with fewer if a node is lost."""
    use_gpu: bool | Literal["auto"] = "auto"
    """True if each worker takes a GPU. `auto` takes GPUs if the cluster has any, or is known to start nodes with GPUs."""
    cpus_per_worker: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """CPU cores, and thus threads, of each worker. `auto` divides the cores among the workers, or takes 1 beside a GPU."""
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Peak learning rate of AdamW. Tune it first: with too high a rate the encoder forgets its pretraining, with too low a rate it
    never fits. `auto` depends on the encoder's width, the number of classes and the number of steps."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor by which each layer below the head learns slower than the one above it. 1 is the same rate for all, 0.9 is usual."""
    num_epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Passes over the training rows. The model after the last one is kept. `auto`: the fewer rows, the more passes."""
    early_stopping: Annotated[int, Field(ge=1)] | None = None
    """Number of epochs in a row without a better validation `metric` after which training stops. The best epoch is then kept. null:
    train all epochs and keep the last. With fewer than 200 validation rows, the best epoch is a matter of chance."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows of one optimizer step over all workers together, so that results do not depend on the number of workers."""
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Rows of one micro-batch, which a worker computes at a time. Gradients are accumulated until `batch_size` is complete. `auto`
    takes the largest that fits into memory."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay. Biases and norms have none."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up: a linear or cosine fall to zero, or constant."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of all steps in which the learning rate rises to its peak."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Maximum global norm of the gradients. Larger gradients are scaled down to it."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over all labels. The model becomes less confident and often better calibrated."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Weight of each label's rows in the loss: `balanced` (more for rare labels), or a weight for every label by name."""
    focal_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Exponent of the focal loss (Lin et al., 2017, https://arxiv.org/abs/1708.02002), in which rows that are already right count
    less. 0 is off, 2 is usual."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of matrix products; weights and sums stay float32. `auto` is bf16 if the GPUs or CPUs of all workers are faster in
    it, else fp32. fp16 scales its loss."""
    gradient_exchange: Literal["fp32", "bf16"] = "fp32"
    """Precision in which gradients travel between workers, the same at every ZeRO stage. bf16 halves the bytes and rounds each
    worker's gradient to 8 bits; take it if the network is the limit. At ZeRO 3, parameters travel in it, too."""
    gradient_checkpointing: bool = False
    """True if activations are computed again in the backward pass: far less memory, about a third more time."""
    zero_stage: Literal[0, 1, 2, 3, "auto"] = "auto"
    """ZeRO stage. What DeepSpeed splits over the workers depends on it: 0 nothing, 1 optimizer state, 2 also gradients, 3 also
    parameters. `auto` splits no more than is needed to fit each worker's memory, and nothing on one worker. Set a number for the
    same stage everywhere."""
    offload_optimizer: bool = False
    """True if the optimizer state is kept in the machine's memory instead of the GPU's (ZeRO 1 to 3)."""
    offload_parameters: bool = False
    """True if parameters that are not in use are kept in the machine's memory, too (ZeRO 3)."""
    deepspeed: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies defaults
    """More of DeepSpeed's JSON (https://www.deepspeed.ai/docs/config-json). Keys that a setting above decides are refused."""
    metric: MetricName = "accuracy"
    """Validation metric that compares trials, and epochs with `early_stopping` (`loss`: lower is better). In a multilabel task,
    `accuracy` counts rows with every label right, and `f1_micro` pools all labels; in other tasks the two are equal."""
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between checkpoints within an epoch. A checkpoint is also written after every epoch."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Minutes between checkpoints within an epoch. An interruption costs at most this much training time."""
    cost_per_hour: Annotated[float, Field(gt=0)] | None = None
    """Price of one worker for an hour, in any currency. If it is set, `manta preflight` estimates the cost of a run."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Number of losses of workers or nodes after which training still goes on from the last checkpoint. Preemptions of nodes do not
    count."""
    hang_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Minutes that a worker waits for the others in an exchange. Then they count as lost, and the run goes on from its last
    checkpoint."""
    deterministic: bool = False
    """True if GPUs compute with deterministic algorithms only, so that a resumed run on the same kind of GPUs ends with the same
    weights to the last bit. It costs speed. CPUs always do."""
    tensorboard: bool = False
    """True if TensorBoard's event files are also written. `tensorboard --logdir` on the run's folder shows them."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the new head, the order of the rows and dropout."""

    @field_validator("class_weights", mode="before")
    @classmethod
    def _labels_by_name(cls, value: Any) -> Any:
        wrong = next((key for key in value if not isinstance(key, str)), None) if isinstance(value, dict) else None
        if wrong is not None:
            raise ValueError(f"YAML reads a label as {read_as(wrong)}; give the labels' names as in the data, and quote this one")
        return value

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
        """The smallest number of workers with which training goes on."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """The largest number of workers."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate as a number, after `auto` is resolved.

        Raises:
            ValueError: it is still `auto`.
        """
        if self.learning_rate == "auto":
            raise ValueError("train.learning_rate is still auto; starting_point.resolved replaces it once the data is known")
        return self.learning_rate

    @property
    def planned_epochs(self) -> int:
        """The number of epochs, after `auto` is resolved.

        Raises:
            ValueError: it is still `auto`.
        """
        if self.num_epochs == "auto":
            raise ValueError("train.num_epochs is still auto; starting_point.resolved replaces it once the data is known")
        return self.num_epochs

    @property
    def lowest_zero_stage(self) -> Literal[0, 1, 3]:
        """The stage that `auto` begins with: 0, or the lowest stage that supports the chosen offloading."""
        if self.offload_parameters:
            return 3
        return 1 if self.offload_optimizer else 0

    @property
    def chosen_zero_stage(self) -> int:
        """The ZeRO stage as a number, after the workers have resolved `auto`.

        Raises:
            ValueError: it is still `auto`.
        """
        if self.zero_stage == "auto":
            raise ValueError("train.zero_stage is still auto; the workers replace it once they know their memory")
        return self.zero_stage

    @property
    def metric_mode(self) -> Literal["min", "max"]:
        """The direction of a better `metric`: `min` if lower is better, else `max`."""
        return "min" if self.metric == "loss" else "max"


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


class GateConfig(Section):
    """Conditions under which a version replaces the champion, with both measured on the same test rows."""

    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Smallest gain in `train.metric` over the champion (0.01 is one point). 0 accepts any statistically significant gain."""
    equal_margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """With --allow-equal: the largest acceptable loss in `train.metric`. The gate must rule out a larger one."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Confidence level of the gate's tests. With a higher level, fewer equal models pass by luck, but also fewer better ones."""
    max_class_drop: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest loss of recall of any class. Only a statistically significant loss counts, so a class with fewer
    than five test rows never refuses a version."""
    max_behaviour_rise: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest rise in the failure rate of any behaviour test; 0.05 is five more of 100 cases. Only a statistically significant
    rise counts, so a test with fewer than five cases never refuses a version."""
    max_ece_increase: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Largest rise in the expected calibration error. With a higher error, probabilities are further from the truth."""
    max_latency_ratio: Annotated[float, Field(gt=0)] = 1.5
    """Largest ratio of the median latency for one text to the champion's."""
    max_size_ratio: Annotated[float, Field(gt=0)] = 2.0
    """Largest ratio of the size of the weights to that of the champion's."""


class RegistryConfig(Section):
    """Settings of the registry, which keeps finished models."""

    model: Annotated[str, NAME] | None = None
    """Name of the registered model; the config's `name` unless given. Letters, digits, dots, dashes and underscores."""
    promote: bool = True
    """True if a new version becomes the champion, which is the served version: the first at once, a later one if it passes the
    gate. False: it stays the candidate until `manta models promote`."""
    gate: GateConfig = GateConfig()
    """Conditions under which a candidate replaces the champion."""
    target_precision: Annotated[float, Field(gt=0, lt=1)] | None = 0.95
    """Wanted share of right answers (between 0 and 1) among answers not marked as uncertain. The confidence threshold for it is
    chosen on the validation rows. A higher target leaves more rows uncertain. null: an answer below 0.5 is uncertain."""
    guarantee: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Probability with which `target_precision` holds for new rows like the validation rows. 0.9 leaves more rows uncertain than
    null, with which the target is reached on average only."""
    set_coverage: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Share of new rows whose label set holds the right label; each answer then has such a set, of one label or several. Not for
    tasks with several labels a row. null: no sets."""
    fast_formats: bool = True
    """True if a finished model also gets faster inference formats for CPUs, computed by OpenVINO. They are used only if they
    answer as well as the safetensors on the test rows."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_name(cls, value: Any) -> Any:
        """Read the config of a run of an earlier version, which calls `fast_formats` `onnx`."""
        if isinstance(value, dict) and "onnx" in value and "fast_formats" in value:
            raise ValueError(
                "registry.onnx is the earlier name of registry.fast_formats, which is given, too; remove registry.onnx"
            )
        if not isinstance(value, dict) or "onnx" not in value:
            return value
        return {("fast_formats" if name == "onnx" else name): item for name, item in value.items()}

    @model_validator(mode="after")
    def _guarantee_has_a_target(self) -> RegistryConfig:
        if self.guarantee is not None and self.target_precision is None:
            raise ValueError("guarantee needs a target_precision, which it then guarantees")
        return self


class TrafficConfig(Section):
    """The traffic split between champion and candidate."""

    candidate: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Percentage of requests that the candidate answers instead of the champion. The same `Manta-Key` gets the same version."""
    shadow: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Percentage of the champion's answers that the candidate also computes, if there is time. Its answers are only compared."""


HostName = Annotated[str, StringConstraints(pattern=r"^(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)$")]
"""A host name, a name's ending such as *.example.com, or `*`."""


class ServeConfig(Section):
    """Address, limits and traffic of the API that serves the champion."""

    host: str = "127.0.0.1"
    """Address the API listens on. The default is reachable from this machine only; any other address requires API keys."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the API."""
    num_replicas: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = 1
    """Number of replicas, the processes that hold the model and answer. [min, max] follows the load; a min of 0 keeps none while
    there are no requests."""
    models: tuple[Annotated[str, NAME], ...] = ()
    """Further registered models of the same service, at /v1/models/NAME/classify. The experiment's own model comes first and
    answers at /v1/classify, too. The other settings of `serve` apply to each model, the limits to all of them together."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1024**2
    """Largest request body in bytes; a larger one is refused (413)."""
    max_texts: Annotated[int, Field(ge=1)] = 256
    """Maximum number of texts or pairs in one request."""
    max_characters: Annotated[int, Field(ge=1)] = 20_000
    """Maximum number of characters in one text."""
    max_queued_texts: Annotated[int, Field(ge=1)] = 1024
    """Number of texts that may wait for a replica. Beyond it, requests are refused (429) and told when to retry."""
    deadline_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds after which a request without an answer is given up (504)."""
    traffic: TrafficConfig = TrafficConfig()
    """The traffic split between champion and candidate."""
    extra_versions: Annotated[int, Field(ge=0)] = 2
    """Number of versions besides champion and candidate that are loaded when a request asks for one. Each needs memory."""
    cached_answers: Annotated[int, Field(ge=0)] = 0
    """Number of texts whose answers each replica keeps in memory, so that they are not computed again; 0: none. The least recently
    asked text makes room. It pays where texts repeat. Only hashes of texts are kept, but a quick answer tells a client that the
    text was asked before."""
    feedback: bool = False
    """True if POST /v1/feedback stores texts, answers and corrections, which `data.train` reads like other rows. Unless it is set,
    `manta serve` stores them if only this machine reaches it (profile laptop)."""
    feedback_max_bytes: Annotated[int, Field(ge=100 * 1024)] = 100 * 1024**2
    """Maximum number of bytes of stored feedback; beyond it, feedback is refused."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Number of requests that each API key may send per minute (429 beyond it). null: no limit."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Names under which clients reach the API besides this machine's own, such as api.example.com or *.example.com, without a port.
    Requests for other names are refused (421). `*` allows all."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages, such as https://desk.example.com, whose scripts may read answers. Empty: none."""
    log_requests: bool = False
    """True if every request is logged, which costs some throughput. False: only the service's own failures are logged."""
    log_texts: bool = False
    """True if these log lines hold the users' texts."""

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
        """The smallest number of replicas; with 0, none runs while there are no requests."""
        return self.num_replicas if isinstance(self.num_replicas, int) else self.num_replicas[0]

    @property
    def max_replicas(self) -> int:
        """The largest number of replicas."""
        return self.num_replicas if isinstance(self.num_replicas, int) else self.num_replicas[1]
