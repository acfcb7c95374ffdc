"""The section `train`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from manta.config.sections.section import Section
from manta.config.yaml_model import read_as

MetricName = Literal["accuracy", "f1_macro", "f1_micro", "f1_weighted", "precision_macro", "recall_macro", "loss"]
Method = Literal["linear", "contrastive", "full"]
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
    label_noise: Annotated[float, Field(ge=0, lt=0.5)] | Literal["auto"] = "auto"
    """Share of the training labels that are wrong. The loss allows for it, so that the model does not learn them (Patrini et al.,
    2017, https://arxiv.org/abs/1609.03683). `auto` estimates the share with the TF-IDF baseline. It is 0 unless the 95% interval
    of the estimate lies above 2%."""
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
    """Seed of the order of the rows and of dropout."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_setting(cls, value: Any) -> Any:
        """Read the config of a run of an earlier version, which has `gce_q` with its default, 0."""
        if not isinstance(value, dict) or "gce_q" not in value:
            return value
        if value["gce_q"]:
            raise ValueError("train.gce_q is gone; remove it, as train.label_noise allows for wrong labels by itself")
        return {name: setting for name, setting in value.items() if name != "gce_q"}

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
    def _one_loss(self) -> TrainConfig:
        if self.label_smoothing and self.noise_share:
            raise ValueError(
                "train.label_smoothing and train.label_noise both keep the model from learning each label; set one of them"
            )
        if self.focal_gamma and self.noise_share:
            raise ValueError(
                "train.focal_gamma makes rows count more that the model gets wrong, and train.label_noise makes them count less; "
                "remove one of the two"
            )
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
    def noise_share(self) -> float:
        """`label_noise` as the loss needs it: a number, which is 0 until `auto` is resolved."""
        return 0.0 if self.label_noise == "auto" else self.label_noise

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
