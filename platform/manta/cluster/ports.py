"""Ports to listen on."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import ExitStack

from manta.errors import InputError


def check_port(host: str, port: int) -> None:
    """Refuse a port that is in use.

    Raises:
        InputError: the port is taken, or the host is not an address of this machine.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"{host}:{port} cannot be listened on ({error.strerror}); choose another with --port.") from None


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Return different ports of an address of this machine that are free now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def is_loopback(host: str) -> bool:
    """Tell whether an address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
