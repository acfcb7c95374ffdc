"""The path of requests to the replicas, configured by environment variables that Ray Serve reads when it is imported.

`laptop` listens on this machine only. With one replica, nothing stands between a client and the process that holds the model: Ray
lets the replica listen itself ("direct ingress"). Ray's proxy, which costs more than the model, gets a port that is not used.

`production` puts HAProxy in front of every node's replicas. It listens on all interfaces, regardless of the configured host. On a
cluster of several nodes, the replicas do so, too, because the other nodes' HAProxys must reach them.
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
ALL_INTERFACES = "0.0.0.0"  # noqa: S104  # HAProxy listens on it
HA_PROXY = "RAY_SERVE_ENABLE_HA_PROXY"
BOUNDED = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "manta_serve.running.request_heads.install"}
THROUGHPUT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # The option above would turn this off. Without it, only an event loop can call a replica; requests do not use it.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
}
PROXY_START = {
    # By default, Ray restarts a proxy that is not up within five seconds, which a busy machine never manages.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
DRAIN_NOTICE_S = 5.0
"""Seconds for which a production service reports not ready before it stops; load balancers check every second or two."""
LAPTOP_NOTICE_S = 1.0
"""The same for the laptop profile, which has no load balancer: time to end open connections with an answer."""
PRODUCTION = {
    HA_PROXY: "1",
    **BOUNDED,
    **PROXY_START,
    **THROUGHPUT,
    # Long enough for every HAProxy to remove a replica from its list.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{DRAIN_NOTICE_S:g}",
}
"""Variables of the production profile on every node."""


@dataclass(frozen=True)
class Ingress:
    """Entry point of requests."""

    host: str
    """Address that clients reach: the configured one, or all interfaces."""
    proxy_port: int
    """The port of Ray's proxies."""
    environment: Mapping[str, str]
    """Variables to set before Ray is imported, here and where the cluster's nodes are started."""
    drain_notice_s: float = LAPTOP_NOTICE_S
    """Seconds between reporting not ready and stopping."""


def ingress_of(config: ServeConfig, profile: ProfileName) -> Ingress:
    """Return the entry point that a profile gives a service.

    Raises:
        InputError: the laptop profile would have to listen beyond this machine.
    """
    if profile == "production":
        environment = PRODUCTION | {"RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_ports(1)[0])}
        return Ingress(ALL_INTERFACES, config.port, environment, drain_notice_s=DRAIN_NOTICE_S)
    if not is_loopback(config.host):
        raise InputError(
            f"serve.host {config.host} is reached from other machines, and the laptop profile is for this one; "
            "add --profile production, or leave the host out."
        )
    if config.max_replicas > 1 or config.min_replicas == 0:
        return Ingress(config.host, config.port, BOUNDED | PROXY_START)
    environment = {
        **BOUNDED,
        **PROXY_START,
        **THROUGHPUT,
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(config.port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(config.port + 1),  # Ray takes the first free port
        # Without its port, or a model that loads, it would be started three times, which takes minutes.
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1",
        # A replica that is replaced gets its port back at once.
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }
    return Ingress(config.host, free_ports(1, host=config.host)[0], environment)
