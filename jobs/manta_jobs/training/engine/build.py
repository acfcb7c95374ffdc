"""The DeepSpeed engine around the model: ZeRO partitioning, precision, optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from manta.model.adapt import parameter_groups
from manta_jobs.training.engine.memory import LIVE_BUCKETS, bucket_size
from manta_jobs.training.engine.zero import exchange_in, import_deepspeed, stay_at_lowest_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deepspeed import DeepSpeedEngine

    from manta.config import TrainConfig
    from manta.model.loss import TrainedClassifier

Precision = Literal["fp32", "bf16", "fp16"]


def resolve_precision(config: TrainConfig) -> Precision:
    """Return the configured precision. For `auto`: bfloat16 if this worker's hardware computes in it, else float32."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if computes_bf16() else "fp32"


def agreed_precision(config: TrainConfig, *, before: Precision | None = None) -> Precision:
    """Return one precision for all workers: float32 if their own choices differ. All workers must call it together.

    For `auto`, a training that resumes keeps the precision that it had `before`.
    """
    if config.precision == "auto" and before is not None:
        return before
    found: list[Precision] = ["fp32"] * dist.get_world_size()
    dist.all_gather_object(found, resolve_precision(config))
    return found[0] if len(set(found)) == 1 else "fp32"


def computes_bf16() -> bool:
    """Tell whether this process's hardware trains faster in bfloat16 than in float32.

    GPUs with bfloat16 do, and CPUs with AMX. Of CPUs that have `avx512_bf16` only, those of AMD do (an EPYC trains 1.5 times as
    fast), those of Intel do not (a Xeon takes 1.5 times as long). It is not timed: on a busy machine the choice would differ from
    one run to the next, and the trained weights with it.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and "AMD" in str(has.get("cpu_name", ""))))


def deepspeed_config(config: TrainConfig, *, num_learning: int, micro_batch_size: int, num_micro: int) -> dict[str, Any]:
    """Return the engine's JSON (https://www.deepspeed.ai/docs/config-json), with the user's own additions merged in.

    In bf16, weights, sums and the optimizer stay in float32 and matrices are multiplied in bfloat16, as torch's autocast does. This
    is the same at every ZeRO stage. In fp16 it holds for ZeRO 0 only. The other stages use DeepSpeed's own fp16, in which all
    workers agree on the loss scale. `num_learning` is the number of parameters that learn.
    """
    precision = resolve_precision(config)
    on_gpu = torch.cuda.is_available()
    # Contiguous gradients help a GPU's allocator; on a CPU they are only one more copy.
    zero: dict[str, Any] = {"stage": config.chosen_zero_stage, "overlap_comm": on_gpu, "contiguous_gradients": on_gpu}
    bucket = bucket_size(config, num_learning)
    if on_gpu:
        zero["reduce_bucket_size"] = bucket
    if config.chosen_zero_stage == 3:
        # By default an encoder's parameters all stay gathered, as they are fewer than a billion: nothing would be saved.
        zero |= {"stage3_prefetch_bucket_size": bucket, "stage3_max_reuse_distance": bucket}
        zero["stage3_max_live_parameters"] = LIVE_BUCKETS * bucket
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if config.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    document: dict[str, Any] = {
        # The most rows of one pass. The loss weights smaller passes, see `batches.Share`.
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": num_micro,
        "gradient_clipping": config.max_grad_norm if config.chosen_zero_stage else 0.0,  # at ZeRO 0, `updates` clips
        "zero_optimization": zero,
        "communication_data_type": config.gradient_exchange,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW; DeepSpeed's would be compiled when training starts
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if precision == "fp16" and config.chosen_zero_stage > 0:
        document["fp16"] = {"enabled": True}
    elif precision != "fp32":
        # DeepSpeed would send the gradients of these modules in the type that they multiply in, see `zero.exchange_in`.
        dtype = "bfloat16" if precision == "bf16" else "float16"
        document["torch_autocast"] = {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}
    return _merged(document, config.deepspeed)


def build_engine(model: TrainedClassifier, config: TrainConfig, *, micro_batch_size: int, num_micro: int) -> DeepSpeedEngine:
    """Wrap the model for distributed training with AdamW (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101).

    `updates.Updates` sets the learning rate of each step and makes its update.
    """
    deepspeed = import_deepspeed()
    groups = parameter_groups(
        model.model, learning_rate=config.peak_learning_rate, layer_decay=config.layer_decay, weight_decay=config.weight_decay
    )
    for group in groups:
        group["initial_lr"] = group["lr"]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    exchange_in(config.gradient_exchange, learning)
    num_learning = sum(parameter.numel() for parameter in learning)
    engine: DeepSpeedEngine
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=config.peak_learning_rate, fused=True),
        config=deepspeed_config(config, num_learning=num_learning, micro_batch_size=micro_batch_size, num_micro=num_micro),
    )
    stay_at_lowest_scale(engine)
    return engine


def schedule(config: TrainConfig, *, num_steps: int) -> Callable[[int], float]:
    """Return a function from a step to its share of the peak learning rate: warm-up steps first, then `train.schedule`."""
    warmup = round(num_steps * config.warmup_fraction)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        left = max(0.0, (num_steps - step) / max(1, num_steps - warmup))
        if config.schedule == "constant":
            return 1.0
        return left if config.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2

    return factor


@contextmanager
def full_weights(engine: DeepSpeedEngine) -> Iterator[dict[str, torch.Tensor]]:
    """Give every worker all weights as whole tensors while the body runs; ZeRO 3 gathers them first.

    All workers must enter it together.
    """
    model: torch.nn.Module = engine.module.model
    if engine.zero_optimization_stage() < 3:
        yield model.state_dict()
    else:
        deepspeed = import_deepspeed()
        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            yield model.state_dict()


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return both documents merged. `TrainConfig` ensures that they do not contradict each other."""
    merged = dict(ours)
    for key, value in theirs.items():
        merged[key] = _merged(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged
