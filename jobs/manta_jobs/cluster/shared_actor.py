"""`SharedActor`: the handle of an actor that the driver and its workers share."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class SharedActor:
    """Handle that starts an actor on the driver's node and calls it. The actor's data survives the loss of any other node."""

    def __init__(self, kind: type, *arguments: Any, max_concurrency: int | None = None, **settings: Any) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {} if max_concurrency is None else {"max_concurrency": max_concurrency}
        self._actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here, **options)(kind).remote(*arguments, **settings)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method and wait for its result."""
        return ray.get(getattr(self._actor, method).remote(*arguments))

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method without waiting for it."""
        getattr(self._actor, method).remote(*arguments)

    def ask_or(self, default: Any, method: str, *arguments: Any) -> Any:
        """Call a method like `ask`; return `default` while the cluster is being stopped."""
        try:
            return self.ask(method, *arguments)
        except ray.exceptions.RayError:
            return default
