import pytest
import torch

from manta.config import TrainConfig
from manta_jobs.engine import deepspeed_config, linear_schedule, parameter_groups


def test_biases_and_norms_have_no_weight_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Embedding(5, 3))
    decayed, plain = parameter_groups(model, weight_decay=0.3)
    assert decayed["weight_decay"] == 0.3
    assert {tuple(parameter.shape) for parameter in decayed["params"]} == {(3, 4), (5, 3)}
    assert plain["weight_decay"] == 0.0
    assert len(plain["params"]) == 3


def test_learning_rate_climbs_over_the_warm_up_and_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = linear_schedule(optimizer, num_steps=20, warmup_fraction=0.2)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] > 0
    assert rates[:5] == sorted(rates[:5])
    assert max(rates) == rates[4] == 2.0
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_engine_gets_the_settings_of_the_config(stage: int) -> None:
    config = TrainConfig(zero_stage=stage, batch_size=30, max_grad_norm=0.7)
    document = deepspeed_config(config, world_size=4)
    assert document["zero_optimization"]["stage"] == stage
    assert document["gradient_clipping"] == 0.7
    assert document["train_micro_batch_size_per_gpu"] == 8
