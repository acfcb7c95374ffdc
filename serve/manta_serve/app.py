"""The Ray Serve application. `build(args)` is what `serve run manta_serve.app:build model=support` calls, and `manta serve` too."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from manta.storage import Storage
from manta_serve.api import create_api
from manta_serve.classifier import Classifier
from manta_serve.follow import ChampionFollower


class ServeArguments(BaseModel):
    """What the application is built from."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str
    """Name of the registered model; its champion answers, whichever that is at the time."""
    storage: str | None = None
    """Folder of the registry; $MANTA_STORAGE or ~/.manta unless given."""
    num_replicas: Annotated[int, Field(ge=1)] = 1
    """Processes that answer."""
    num_cpus: Annotated[int, Field(ge=1)] = 1
    """Cores, and so threads, of each of them."""


def build(args: ServeArguments) -> Application:
    """The application: HTTP ends in the replica that holds the model."""

    @serve.deployment(
        name="classifier",
        num_replicas=args.num_replicas,
        ray_actor_options={"num_cpus": args.num_cpus},
        logging_config=LoggingConfig(enable_access_log=False),
    )
    @serve.ingress(create_api(_classifier_of_this_replica))
    class ClassifierDeployment:
        def __init__(self, arguments: ServeArguments) -> None:
            import torch

            torch.set_num_threads(arguments.num_cpus)
            self.follower = ChampionFollower(Storage.resolve(arguments.storage), arguments.model)
            self.follower.start()

    return ClassifierDeployment.bind(args)  # type: ignore[attr-defined]


def _classifier_of_this_replica() -> Classifier:
    follower: ChampionFollower = serve.get_replica_context().servable_object.follower
    return follower.current
