"""Ports to listen on."""

from __future__ import annotations

import socket

from manta.errors import InputError


def check_port(host: str, port: int) -> None:
    """Refuse a port that something else listens on.

    Raises:
        InputError: it is taken, or the host is not an address of this machine.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"{host}:{port} cannot be listened on ({error.strerror}); choose another with --port.") from None
