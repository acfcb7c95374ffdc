"""`SharedActor`: the handle of an actor that the driver and its workers share."""

from __future__ import annotations

import copy
import threading
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class SharedActor:
    """Handle that starts an actor on the driver's node and calls it. The actor's data survives the loss of any other node.

    Without a cluster, the actor is an object of this process, for its threads. They get copies, as other processes would.
    """

    def __init__(self, kind: type, *arguments: Any, max_concurrency: int | None = None, **settings: Any) -> None:
        self._actor: Any
        if not ray.is_initialized():
            self._actor, self._lock = kind(*arguments, **settings), threading.Lock()
            return
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {} if max_concurrency is None else {"max_concurrency": max_concurrency}
        self._actor = ray.remote(num_cpus=0, scheduling_strategy=here, **options)(kind).remote(*arguments, **settings)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method and wait for its result."""
        function = getattr(self._actor, method)
        if isinstance(self._actor, ray.actor.ActorHandle):
            return ray.get(function.remote(*arguments))
        with self._lock:
            return copy.deepcopy(function(*arguments))

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method without waiting for it."""
        if isinstance(self._actor, ray.actor.ActorHandle):
            getattr(self._actor, method).remote(*arguments)
        else:
            self.ask(method, *arguments)

    def ask_or(self, default: Any, method: str, *arguments: Any) -> Any:
        """Call a method like `ask`; return `default` while the cluster is being stopped."""
        try:
            return self.ask(method, *arguments)
        except ray.exceptions.RayError:
            return default
