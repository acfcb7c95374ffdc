from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from manta_jobs.training.engine.cpu_speedups import bernoulli_, install_quick_dropout

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def installed() -> Iterator[None]:
    library = install_quick_dropout()
    yield
    library._destroy()


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_each_value_is_one_with_the_given_probability(p: float) -> None:
    drawn = bernoulli_(torch.empty(1000, 1000), p)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert drawn.mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / drawn.numel()) ** 0.5)
    for axis in (0, 1):  # no row or column is favoured
        assert drawn.mean(dim=axis).std().item() == pytest.approx((p * (1 - p) / 1000) ** 0.5, abs=0.002)


def test_the_seed_decides_and_calls_differ() -> None:
    def draw(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [bernoulli_(torch.empty(50, 3), 0.5) for _ in range(2)]

    (first, second), (again, _), (other, _) = draw(1), draw(1), draw(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_odd_shapes_and_types_are_filled() -> None:
    assert bernoulli_(torch.empty(0, 4), 0.5).shape == (0, 4)
    transposed = torch.zeros(6, 4).t()
    assert bernoulli_(transposed, 1.0) is transposed
    assert transposed.sum() == 24
    assert bernoulli_(torch.empty(8, dtype=torch.bfloat16), 1.0).sum() == 8


def test_modules_and_attention_drop_by_it(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dropped = torch.nn.Dropout(0.3).train()(torch.ones(400, 500))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert dropped.max().item() == pytest.approx(1 / 0.7)
    torch.manual_seed(0)
    assert torch.equal(dropped, bernoulli_(torch.empty(400, 500), 0.7) / 0.7)
    query = torch.randn(2, 2, 8, 4)
    attended = [torch.nn.functional.scaled_dot_product_attention(query, query, query, dropout_p=rate) for rate in (0.0, 0.5)]
    assert not torch.allclose(*attended)
