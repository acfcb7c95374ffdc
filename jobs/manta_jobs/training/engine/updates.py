"""The optimizer's updates: learning rate, clipping, and the same treatment of gradients that are not finite at every ZeRO stage.

An update whose gradients hold an infinity or no number is skipped: weights and moments stay as they are. The learning rate depends
on the step's number alone, so skipped steps do not shift it. ZeRO 1 to 3 skip by themselves. At ZeRO 0 the gradients are clipped
here, and AdamW's fused kernel skips the update on the device (`found_inf`, as torch's `GradScaler` uses it). Counts stay on the
device, too, so that no step waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from manta_jobs.training.engine.cpu_speedups import average_gradients, reduces_itself

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepspeed import DeepSpeedEngine

MOST_SKIPPED = 20
"""Steps in a row with gradients that are not finite, from which on the run ends. fp16 needs up to 17 to lower its first loss scale
to 1."""


class Updates:
    """Updates of one engine, and a count of those that were skipped."""

    def __init__(self, engine: DeepSpeedEngine, *, rate: Callable[[int], float], max_grad_norm: float) -> None:
        """Take the learning rate's share of its peak at each step as `rate`."""
        self._engine, self._rate, self._max_norm = engine, rate, max_grad_norm
        self._whole = list(engine.module.parameters()) if engine.zero_optimization_stage() == 0 else []
        self._reduces_itself = reduces_itself(engine)
        self._norm = torch.zeros((), device=engine.device)
        self.counts = torch.zeros(4, dtype=torch.float64, device=engine.device)
        """Since the last `reset`: the sum of the losses of steps that were not skipped, and their number; the number of
        skipped steps. Last, the number of skipped steps in a row up to now."""

    def set_rate(self, step: int) -> None:
        """Set the learning rate of an optimizer step, by its number from 0."""
        factor = self._rate(step)
        for group in self._engine.basic_optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def reduce(self) -> None:
        """Average the gradients over the workers where DeepSpeed does not. Call it after each backward pass."""
        if self._reduces_itself and self._engine.is_gradient_accumulation_boundary():
            average_gradients(self._whole)

    def make(self) -> None:
        """Update the weights if the global batch is complete. Call it after each `reduce`."""
        if self._whole and self._engine.is_gradient_accumulation_boundary():
            self._clip()
        self._engine.step()

    def count(self, loss: torch.Tensor) -> None:
        """Count a step and its loss. The loss of a skipped step does not count."""
        skipped = self._skipped()
        self.counts[0] += torch.where(skipped, 0.0, loss)
        self.counts[1] += ~skipped
        self.counts[2:] += skipped
        self.counts[3] *= skipped

    def reset(self) -> None:
        """Count losses and steps from zero again, but keep the number of skipped steps in a row."""
        self.counts[:3].zero_()

    @property
    def grad_norm(self) -> float:
        """The global norm of the last gradients, before clipping. Reading it waits for the device."""
        return float(self._norm if self._whole else self._engine.get_global_grad_norm())

    def _clip(self) -> None:
        scaler, optimizer = self._engine.torch_autocast_z0_gradscaler, self._engine.basic_optimizer
        if scaler is not None:
            scaler.unscale_(optimizer)  # it then skips by itself
        self._norm = torch.nn.utils.clip_grad_norm_(self._whole, self._max_norm)
        if scaler is None:
            optimizer.found_inf = (~self._norm.isfinite()).float()

    def _skipped(self) -> torch.Tensor:
        """Return whether the last step was skipped, on the device, the same on all workers."""
        if self._whole:
            return ~self._norm.isfinite()
        return torch.full((), self._engine.optimizer.overflow, device=self._engine.device)
