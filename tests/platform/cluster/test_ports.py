import socket
from collections.abc import Iterator

import pytest

from manta.cluster.ports import check_port, free_ports
from manta.errors import InputError


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])  # noqa: S104  # the point is that someone else listens everywhere
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((request.param, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_refused(taken: int) -> None:
    with pytest.raises(InputError, match=rf"^127\.0\.0\.1:{taken} cannot be listened on \(.+\); choose another with --port\.$"):
        check_port("127.0.0.1", taken)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_free_port_is_left_free(host: str) -> None:
    port = free_ports(1)[0]
    check_port(host, port)
    with socket.socket() as listener:
        listener.bind((host, port))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InputError, match=r"^192\.0\.2\.1:\d+ cannot be listened on"):
        check_port("192.0.2.1", free_ports(1)[0])
