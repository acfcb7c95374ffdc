"""The environment that the profiles give Ray, and the settings that they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from manta.config import ServeConfig
from manta.errors import InputError
from manta.storage.folders import Storage
from manta_serve.access.keys import KeyStore
from manta_serve.running.profiles import ingress_of
from manta_serve.running.run import check_keys, with_feedback

if TYPE_CHECKING:
    from pathlib import Path


def test_one_replica_on_a_laptop_listens_itself_and_on_this_machine_only() -> None:
    ingress = ingress_of(ServeConfig(port=8000), "laptop")
    assert ingress.host == "127.0.0.1"
    assert ingress.environment["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] == "8000"
    assert ingress.environment["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] == "8001"
    assert ingress.proxy_port != 8000


@pytest.mark.parametrize("replicas", [2, [1, 2], [0, 1]])
def test_several_replicas_on_a_laptop_share_the_port_behind_rays_proxy(replicas: int | list[int]) -> None:
    ingress = ingress_of(ServeConfig.model_validate({"num_replicas": replicas}), "laptop")
    assert (ingress.host, ingress.proxy_port) == ("127.0.0.1", 8000)
    assert not any("DIRECT_INGRESS" in name for name in ingress.environment)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])  # noqa: S104
def test_the_laptop_profile_does_not_listen_beyond_this_machine(host: str) -> None:
    with pytest.raises(InputError, match="--profile production"):
        ingress_of(ServeConfig(host=host), "laptop")


def test_the_production_profile_says_that_it_listens_everywhere_and_asks_for_keys(tmp_path: Path) -> None:
    ingress = ingress_of(ServeConfig(), "production")
    assert (ingress.host, ingress.proxy_port) == ("0.0.0.0", 8000)  # noqa: S104
    assert ingress.environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    storage = Storage(tmp_path)
    with pytest.raises(InputError, match="manta keys create"):
        check_keys(ingress.host, storage)
    check_keys("127.0.0.1", storage)
    KeyStore(storage).create("desk")
    check_keys(ingress.host, storage)


def test_on_a_laptop_corrections_are_kept_unless_the_experiment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path)
    assert with_feedback(ServeConfig(), profile="laptop", storage=storage).feedback
    assert not with_feedback(ServeConfig(feedback=False), profile="laptop", storage=storage).feedback
    assert not with_feedback(ServeConfig(), profile="production", storage=storage).feedback
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert not with_feedback(ServeConfig(), profile="laptop", storage=storage).feedback
