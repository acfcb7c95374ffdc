import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manta.config import TrainConfig
from manta_jobs.training.engine import build as engine
from manta_jobs.training.engine.build import deepspeed_config, schedule
from manta_jobs.training.engine.zero import restore_scaler, scaler_state
from manta_jobs.training.start.seeds import compute_deterministically


def rates(num_steps: int, **settings: Any) -> list[float]:
    factor = schedule(TrainConfig(**settings), num_steps=num_steps)
    return [factor(step) for step in range(num_steps + 1)]


def test_linear_rate_climbs_over_the_warm_up_and_falls_to_zero() -> None:
    values = rates(20, warmup_fraction=0.2)
    assert values[0] > 0
    assert values[:5] == sorted(values[:5])
    assert max(values) == values[4] == 1.0
    assert values[4:] == sorted(values[4:], reverse=True)
    assert values[20] == 0.0
    assert values[12] == pytest.approx(0.5)


def test_cosine_rate_falls_slowly_at_first_and_to_zero() -> None:
    values = rates(20, schedule="cosine", warmup_fraction=0.2)
    assert values[4] == 1.0
    assert values[8] == pytest.approx((1 + 2**-0.5) / 2)
    assert values[12] == pytest.approx(0.5)
    assert values[20] == 0.0


def test_constant_rate_stays_after_the_warm_up() -> None:
    values = rates(20, schedule="constant", warmup_fraction=0.2)
    assert values[:4] == [0.2, 0.4, 0.6, 0.8]
    assert set(values[4:]) == {1.0}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_engine_gets_the_settings_of_the_config(stage: int) -> None:
    config = TrainConfig(zero_stage=stage, max_grad_norm=0.7, precision="bf16")
    document = deepspeed_config(config, num_learning=100, micro_batch_size=8, num_micro=4)
    assert document["zero_optimization"]["stage"] == stage
    assert document["gradient_clipping"] == (0.7 if stage else 0.0)  # at ZeRO 0, `updates` clips
    assert document["train_micro_batch_size_per_gpu"] == 8
    assert document["gradient_accumulation_steps"] == 4
    assert document["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}


def auto_dtype() -> str | None:
    """The type in which matrices are multiplied by default; None for float32."""
    document = deepspeed_config(TrainConfig(zero_stage=0), num_learning=100, micro_batch_size=8, num_micro=1)
    dtype: str | None = document.get("torch_autocast", {}).get("dtype")
    return dtype


@pytest.mark.parametrize(("supported", "dtype"), [(True, "bfloat16"), (False, None)])
def test_auto_precision_goes_by_the_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool, dtype: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # A GPU that only emulates bfloat16 is slower in it.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported or including_emulation)
    assert auto_dtype() == dtype


@pytest.mark.parametrize(
    ("has", "dtype"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bfloat16"),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, None),  # it has the instructions, and they are slow
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "bfloat16"),
        ({"avx512_f": True, "cpu_name": "AMD EPYC"}, None),
        ({}, None),
    ],
)
def test_auto_precision_goes_by_the_processor(monkeypatch: pytest.MonkeyPatch, has: dict[str, Any], dtype: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert auto_dtype() == dtype


def test_a_resumed_training_keeps_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "computes_bf16", lambda: False)
    monkeypatch.setattr(engine.dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(engine.dist, "all_gather_object", lambda found, mine: found.__setitem__(0, mine))
    assert engine.agreed_precision(TrainConfig(), before="bf16") == "bf16"
    assert engine.agreed_precision(TrainConfig(precision="fp32"), before="bf16") == "fp32"
    assert engine.agreed_precision(TrainConfig()) == "fp32"


@pytest.mark.parametrize(("others", "agreed"), [("bf16", "bf16"), ("fp32", "fp32")])
def test_workers_on_different_hardware_agree_on_what_all_can_do(monkeypatch: pytest.MonkeyPatch, others: str, agreed: str) -> None:
    def gather(found: list[Any], mine: Any) -> None:
        found[:] = [mine, others]

    monkeypatch.setattr(engine, "computes_bf16", lambda: True)
    monkeypatch.setattr(engine.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(engine.dist, "all_gather_object", gather)
    assert engine.agreed_precision(TrainConfig()) == agreed


class Scaler:
    """Stands where torch's scaler of fp16 does at ZeRO 0."""

    def __init__(self) -> None:
        self.state = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def test_the_loss_scale_is_taken_over_between_stages_that_keep_it_in_different_forms() -> None:
    whole: Any = SimpleNamespace(torch_autocast_z0_gradscaler=Scaler())
    split: Any = SimpleNamespace(
        torch_autocast_z0_gradscaler=None,
        fp16_enabled=lambda: True,
        optimizer=SimpleNamespace(loss_scaler=SimpleNamespace(cur_scale=65536.0, cur_iter=0)),
    )
    restore_scaler(whole, {"cur_scale": 256.0, "cur_iter": 9})
    assert scaler_state(whole) == {"scale": 256.0, "growth_factor": 2.0, "_growth_tracker": 0}
    restore_scaler(split, {"scale": 512.0, "growth_factor": 2.0, "_growth_tracker": 7})
    assert scaler_state(split) == {"cur_scale": 512.0, "cur_iter": 0}
    for engine_, state in (
        (whole, {"scale": 8.0, "growth_factor": 2.0, "_growth_tracker": 7}),
        (split, {"cur_scale": 8.0, "cur_iter": 9}),
    ):
        restore_scaler(engine_, state)
        assert scaler_state(engine_) == state


def test_the_engine_is_not_built_before_the_stage_is_chosen() -> None:
    with pytest.raises(ValueError, match=r"train\.zero_stage is still auto; the workers replace it"):
        deepspeed_config(TrainConfig(), num_learning=100, micro_batch_size=8, num_micro=1)


def test_offload_and_raw_settings_are_merged() -> None:
    raw = {"zero_optimization": {"reduce_bucket_size": 1000}, "comms_logger": {"enabled": True}}
    config = TrainConfig(zero_stage=3, offload_optimizer=True, offload_parameters=True, deepspeed=raw)
    document = deepspeed_config(config, num_learning=100, micro_batch_size=8, num_micro=1)
    assert document["zero_optimization"]["reduce_bucket_size"] == 1000
    assert document["zero_optimization"]["stage"] == 3
    assert document["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert document["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert document["comms_logger"] == {"enabled": True}


def test_deterministic_algorithms_are_used_for_the_run_that_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        compute_deterministically(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        compute_deterministically(False)  # the next trial in the same process
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
