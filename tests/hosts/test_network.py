"""Addresses of the hosts: unique, private, and nobody else's."""

from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.errors import UserError
from tests.hosts.network import NETWORKS, OPERATOR, plan_addresses, read_taken

HOSTS = ("head", "worker1", "worker2")
networks = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(10 << 24, (11 << 24) - 1),
    st.integers(14, 32),
)


@given(st.lists(networks, max_size=8))
def test_a_network_is_private_and_overlaps_none_that_is_taken(taken: list[IPv4Network]) -> None:
    plan = plan_addresses(HOSTS, taken)
    assert plan.network.is_private
    assert not any(plan.network.overlaps(other) for other in taken)
    everybody = [plan.of(name) for name in (OPERATOR, *HOSTS)]
    assert len(set(everybody)) == len(everybody)
    assert all(address in plan.network for address in everybody)


def test_a_default_route_takes_nothing() -> None:
    assert plan_addresses(HOSTS, [IPv4Network("0.0.0.0/0")]).network == NETWORKS[0]


def test_no_free_network_is_said() -> None:
    with pytest.raises(UserError, match="no private network is free"):
        plan_addresses(HOSTS, [IPv4Network("10.0.0.0/8")])


def test_taken_networks_are_read_from_addresses_and_routes() -> None:
    links: list[dict[str, Any]] = [
        {"addr_info": [{"local": "10.83.0.7", "prefixlen": 24}]},
        {"addr_info": []},
    ]
    routes = [{"dst": "default"}, {"dst": "10.83.1.0/25"}, {"dst": "10.83.2.1"}, {}]
    taken = read_taken(links, routes)
    assert [str(network) for network in taken] == ["10.83.0.0/24", "10.83.1.0/25", "10.83.2.1/32"]
    assert str(plan_addresses(HOSTS, taken).network) == "10.83.3.0/24"


def test_every_host_is_in_the_table_of_names() -> None:
    plan = plan_addresses(HOSTS, [])
    lines = {name: at for at, name in map(str.split, plan.table().splitlines())}
    assert lines == {"localhost": "127.0.0.1",
                     **{name: str(plan.of(name)) for name in (OPERATOR, *HOSTS)}}  # fmt: skip
