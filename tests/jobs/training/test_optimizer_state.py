"""A worker reads only its part of the moments when it resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from manta_jobs.training.engine.optimizer_state import read_part
from manta_jobs.training.engine.zero import Fragment

if TYPE_CHECKING:
    from pathlib import Path


class Counted:
    """An open file of safetensors that counts the numbers read from it."""

    def __init__(self, file: Any) -> None:
        self._file, self.num_read = file, 0

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._counted(self._file.get_tensor(name))

    def get_slice(self, name: str) -> Any:
        part = self._file.get_slice(name)
        counted = self._counted

        class Slice:
            def __getitem__(self, rows: slice) -> torch.Tensor:
                return counted(part[rows])

        return Slice()

    def _counted(self, tensor: torch.Tensor) -> torch.Tensor:
        self.num_read += tensor.numel()
        return tensor


@pytest.mark.parametrize(
    ("shape", "start", "length", "most_read"),
    [
        ((100, 7), 0, 700, 700),
        ((100, 7), 345, 20, 28),
        ((100, 7), 350, 7, 7),
        ((100, 7), 699, 1, 7),
        ((13,), 4, 5, 5),
        ((4, 3, 2), 7, 9, 12),
        ((), 0, 1, 1),
    ],
)
def test_a_part_is_read_without_the_rest(tmp_path: Path, shape: tuple[int, ...], start: int, length: int, most_read: int) -> None:
    whole = torch.randn(shape)
    save_file({"weight": whole}, tmp_path / "file.safetensors")
    part = Fragment("weight", torch.Size(shape), start, length, flat=whole, offset=0)
    with safe_open(tmp_path / "file.safetensors", framework="pt") as opened:
        file = Counted(opened)
        found = read_part(file, "weight", part)
    assert torch.equal(found, whole.reshape(-1)[start : start + length])
    assert file.num_read <= most_read
