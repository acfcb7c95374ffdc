"""The Ray Serve application. `manta serve` runs `build`, and so does `serve deploy serve/config.yaml`."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from manta.cluster.gpus import hide_unassigned_gpus
from manta.config import ServeConfig
from manta.storage.folders import Storage
from manta_serve.access.guard import guarded
from manta_serve.access.keys import KeyStore
from manta_serve.answering.service import Service
from manta_serve.answering.services import Services
from manta_serve.answering.shadow import Shadow
from manta_serve.api.metrics import families_of
from manta_serve.api.routes import create_api
from manta_serve.batching.answer_cache import AnswerCache
from manta_serve.batching.batcher import TextBatcher
from manta_serve.feedback import FeedbackStore
from manta_serve.monitoring.request_log import log_as_json
from manta_serve.monitoring.service_metrics import ServiceMetrics
from manta_serve.monitoring.traffic_sample import TrafficSample
from manta_serve.running.profiles import HA_PROXY
from manta_serve.versions.served_models import ServedModels

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from starlette.types import ASGIApp

    from manta_serve.monitoring.exposition import Family

DEPLOYMENT = "classifier"
TARGET_REQUESTS = 16
"""Requests that each replica should have in progress: enough to fill its batches."""
LOOK_BACK_S, UPSCALE_DELAY_S, DOWNSCALE_DELAY_S = 10.0, 10.0, 120.0
OTHER_REQUESTS = 100
"""Requests that a replica accepts beyond `max_queued_texts`, so that the batcher refuses before Ray queues requests unseen."""
SHUTDOWN_MARGIN_S = 10.0
SCRAPE_S = 2.0
"""Time limit for the other replicas' metrics: one that is starting or busy must not cost Prometheus all of them."""
logger = logging.getLogger(__name__)


class ServeArguments(BaseModel):
    """Arguments of the application."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str
    """Name of the registered model whose champion answers; `serve.models` names further ones."""
    storage: str | None = None
    """Folder of the registry, which every replica must reach. Default: $MANTA_STORAGE or ~/.manta."""
    num_cpus: Annotated[int, Field(ge=1)] = 1
    """CPU cores, and so threads, of each replica."""
    num_gpus: Annotated[float, Field(ge=0, le=1)] = 0
    """GPUs of each replica: 1, a part of one, or none."""
    serve: ServeConfig = ServeConfig()
    """The `serve` section of an experiment. Ray's options, not this section, set the address and port."""
    require_keys: bool = True
    """True if only clients with an API key are answered. Set it to False only if no other machine can reach the service."""


def build(args: ServeArguments) -> Application:
    """Build the application. The replica that holds the model answers HTTP itself."""
    return deployment(args).bind(args)


def deployment(args: ServeArguments) -> Any:
    """Return the only deployment, with its limits."""
    config = args.serve
    fixed = config.min_replicas == config.max_replicas
    return serve.deployment(
        _Replica,
        name=DEPLOYMENT,
        num_replicas=config.max_replicas if fixed else None,
        autoscaling_config=None if fixed else _autoscaling(config),
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
        max_ongoing_requests=config.max_queued_texts + OTHER_REQUESTS,
        graceful_shutdown_timeout_s=config.deadline_s + SHUTDOWN_MARGIN_S,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=LoggingConfig(enable_access_log=False),
    )


def _autoscaling(config: ServeConfig) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=config.min_replicas,
        initial_replicas=max(1, config.min_replicas),  # so that a model that does not load fails at the start
        max_replicas=config.max_replicas,
        target_ongoing_requests=TARGET_REQUESTS,
        look_back_period_s=LOOK_BACK_S,
        upscale_delay_s=UPSCALE_DELAY_S,
        downscale_delay_s=DOWNSCALE_DELAY_S,
    )


def asgi_app(
    services: Services,
    storage: Storage,
    *,
    require_keys: bool,
    of_all: Callable[[], Awaitable[Mapping[str, Sequence[Family]]]] | None = None,
) -> ASGIApp:
    """Return the API of one replica behind its guards. `of_all` is passed to `create_api`."""
    return guarded(
        create_api(*services, of_all=of_all),
        config=services.first.config,
        keys=KeyStore(storage) if require_keys else None,
        metrics=services.first.metrics,
        is_stopping=lambda: not services.ready,
        proxy_returns_id=True,
    )


def served(args: ServeArguments, storage: Storage) -> Services:
    """Return the services of one replica, with their models loaded and warm.

    Raises:
        InputError: no version of a model can answer.
        RunError: the registry cannot be reached.
    """
    config, metrics = args.serve, ServiceMetrics()
    batcher = TextBatcher(max_queued_texts=config.max_queued_texts, on_batch=metrics.batch)
    cache = AnswerCache(config.cached_answers) if config.cached_answers else None

    def service(name: str) -> Service:
        models = ServedModels(
            storage, name, traffic=config.traffic, extra_versions=config.extra_versions, together=config.max_replicas > 1
        )
        models.start()
        shadow = None
        if config.traffic.shadow:
            shadow = Shadow(models, percent=config.traffic.shadow, is_busy=lambda: batcher.num_queued_texts > 0)
        feedback = FeedbackStore(storage, name, max_bytes=config.feedback_max_bytes) if config.feedback else None
        sample = TrafficSample() if config.sample_texts else None
        return Service(
            models, batcher, config=config, metrics=metrics, shadow=shadow, cache=cache, feedback=feedback, sample=sample
        )

    return Services(*map(service, dict.fromkeys((args.model, *config.models))))


async def with_others(name: str, own: list[Family], ask_all: Callable[[], Awaitable[Sequence[Any]]]) -> dict[str, list[Family]]:
    """Return the metrics of every replica by name: this one's, and those that the others report.

    If a replica does not answer in time, Ray returns nothing at all. Then the result has this replica's metrics only, and the next
    scrape includes the others again.
    """
    try:
        results = await ask_all()
    except Exception:  # any error of Ray about replicas that are starting, busy or dead
        logger.warning("the other replicas did not tell their figures", exc_info=True)
        results = []
    found = {name: own}
    for result in results:
        if isinstance(result, BaseException):
            logger.warning("a replica did not tell its figures: %r", result)
        else:
            found.setdefault(*result)
    return found


@serve.ingress()
class _Replica:
    """One replica with its models. Ray sends it requests after its constructor returns, when every model is loaded and warm."""

    def __init__(self, args: ServeArguments) -> None:
        import torch

        hide_unassigned_gpus()
        torch.set_num_threads(args.num_cpus)
        log_as_json()
        self._storage = Storage.resolve(args.storage)
        self._require_keys = args.require_keys or os.environ.get(HA_PROXY) == "1"  # HAProxy listens on all interfaces
        self.services = served(args, self._storage)

    def __serve_build_asgi_app__(self) -> ASGIApp:  # Ray sets this name
        return asgi_app(self.services, self._storage, require_keys=self._require_keys, of_all=self._figures_of_all)

    def figures(self) -> tuple[str, list[Family]]:
        """Return the name of this replica and its metrics."""
        return serve.get_replica_context().replica_id.unique_id, families_of(self.services)

    async def _figures_of_all(self) -> dict[str, list[Family]]:
        context = serve.get_replica_context()
        handle = serve.get_deployment_handle(context.deployment, context.app_name)

        def ask_all() -> Awaitable[Sequence[Any]]:
            asked: Awaitable[Sequence[Any]] = handle.broadcast("figures").results_async(timeout_s=SCRAPE_S, return_exceptions=True)
            return asked

        return await with_others(*self.figures(), ask_all)

    def drain(self) -> None:
        """Report at /readyz that the replica is stopping, and keep answering."""
        self.services.drain()

    def __del__(self) -> None:
        self.services.close()
