"""Hosts on this machine: network namespaces with an address each, on one bridge; any of them can be cut off from the others."""

from __future__ import annotations

import itertools
import os
import string
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

NETWORK = "10.213.77"
LETTERS = itertools.cycle(string.ascii_lowercase)


class Hosts:
    """So many hosts for as long as it is entered. This machine is on their network, too."""

    def __init__(self, count: int) -> None:
        self._tag = f"m{os.getpid() % 100_000}{next(LETTERS)}"  # what is on a host may keep it, and its cable, a little longer
        self.names = [f"{self._tag}-{index}" for index in range(count)]
        self.addresses = [f"{NETWORK}.{index + 1}" for index in range(count)]
        self._undo = ExitStack()

    @property
    def prefixes(self) -> list[list[str]]:
        """The words in front of a command that run it on each host."""
        return [["ip", "netns", "exec", name] for name in self.names]

    def __enter__(self) -> Hosts:
        bridge = f"{self._tag}b"
        with ExitStack() as undo:
            undo.callback(_ip, "link", "delete", bridge)
            _ip("link", "add", bridge, "type", "bridge")
            _ip("address", "add", f"{NETWORK}.254/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
            for name, address in zip(self.names, self.addresses, strict=True):
                _ip("netns", "add", name)
                undo.callback(_ip, "netns", "delete", name)  # its cable goes with it
                _ip("link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
                _ip("link", "set", f"v{name}", "master", bridge, "up")
                _ip("-netns", name, "address", "add", f"{address}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _ip("-netns", name, "link", "set", device, "up")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._undo.close()

    def cut_off(self, index: int) -> None:
        """Lose every packet to and from a host; what runs on it goes on."""
        _ip("link", "set", f"v{self.names[index]}", "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
