"""How requests reach the replicas: what Ray Serve is told, by environment variables that it reads when it is imported.

`laptop` listens on this machine only. With one replica there, nothing stands between a client and the process that holds the model:
Ray lets the replica listen itself ("direct ingress") and its proxy, which costs more than the model, gets a port that nobody asks.

`production` puts HAProxy in front of every node's replicas. It listens on all interfaces, whatever host is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from manta.cluster.ports import free_ports, is_loopback
from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manta.config import ServeConfig

ProfileName = Literal["laptop", "production"]
ALL_INTERFACES = "0.0.0.0"  # noqa: S104  # what HAProxy listens on
HA_PROXY = "RAY_SERVE_ENABLE_HA_PROXY"
THROUGHPUT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # It would take this away, without which only an event loop can call a replica; requests do not go that way.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
}
PROXY_START = {
    # Ray kills a proxy that is not up in five seconds and starts it anew; a busy machine never gets one up in that time.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
DRAIN_NOTICE_S = 5.0
"""How long a service of the production profile says that it is going before it goes; load balancers look every second or two."""
LAPTOP_NOTICE_S = 1.0
"""The same on this machine, where nobody looks: time to end connections that are in use with an answer."""


@dataclass(frozen=True)
class Ingress:
    """How requests come in."""

    host: str
    """What clients can reach: the address asked for, or every one."""
    proxy_port: int
    """The port of Ray's proxies."""
    environment: Mapping[str, str]
    """To be set before Ray is imported, here and where the cluster's nodes are started."""
    drain_notice_s: float = LAPTOP_NOTICE_S
    """Between saying that it is going and going."""


def ingress_of(config: ServeConfig, profile: ProfileName) -> Ingress:
    """What a profile means for a service.

    Raises:
        InputError: the laptop profile is asked to listen beyond this machine.
    """
    if profile == "production":
        environment = {HA_PROXY: "1", **PROXY_START, **THROUGHPUT}
        # Long enough for every HAProxy to have taken a replica out of its list.
        environment["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = f"{DRAIN_NOTICE_S:g}"
        return Ingress(ALL_INTERFACES, config.port, environment, drain_notice_s=DRAIN_NOTICE_S)
    if not is_loopback(config.host):
        raise InputError(
            f"serve.host {config.host} is reached from other machines, and the laptop profile is for this one; "
            "add --profile production, or leave the host out."
        )
    if config.max_replicas > 1 or config.min_replicas == 0:
        return Ingress(config.host, config.port, PROXY_START)
    environment = {
        **PROXY_START,
        **THROUGHPUT,
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(config.port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(config.port + 1),  # the first that is not taken
        # A replica that is replaced gets its port back at once.
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }
    return Ingress(config.host, free_ports(1, host=config.host)[0], environment)
