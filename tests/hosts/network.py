"""A network of its own: one bridge, a cable to every host, addresses nobody else uses.

The bridge lives in the operator's namespace, which has no way out: nothing of the machine's own
network is changed, and no packet can leave.
"""

import ipaddress
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from dpa.errors import UserError

OPERATOR = "operator"
BRIDGE = "bridge"
NETWORKS = tuple(IPv4Network(f"10.{second}.{third}.0/24")
                 for second in (83, 147, 211) for third in range(256))  # fmt: skip


@dataclass(frozen=True)
class AddressPlan:
    """Who has which address.

    Parameters
    ----------
    network : IPv4Network
    hosts : tuple of str
        Names; the operator is not one of them.
    """

    network: IPv4Network
    hosts: tuple[str, ...]

    @property
    def operator(self) -> IPv4Address:
        """The operator's, also the hosts' way out, which leads nowhere."""
        return self.network[1]

    def of(self, name: str) -> IPv4Address:
        """The address of `name`."""
        return self.operator if name == OPERATOR else self.network[10 + self.hosts.index(name)]

    def interface(self, name: str) -> str:
        """The address of `name` with the length of the network's prefix."""
        return f"{self.of(name)}/{self.network.prefixlen}"

    def table(self) -> str:
        """Lines for ``/etc/hosts``."""
        named = {OPERATOR: self.operator, **{host: self.of(host) for host in self.hosts}}
        return "127.0.0.1 localhost\n" + "".join(f"{at} {name}\n" for name, at in named.items())


def plan_addresses(hosts: Sequence[str], taken: Iterable[IPv4Network]) -> AddressPlan:
    """Addresses of a private network that overlaps none of those `taken`.

    Raises
    ------
    UserError
        All are taken.
    """
    used = [network for network in taken if network.prefixlen]  # a default route takes nothing
    for network in NETWORKS:
        if not any(network.overlaps(other) for other in used):
            return AddressPlan(network, tuple(hosts))
    raise UserError("no private network is free", "look at 'ip route' of this machine")


def taken_networks() -> list[IPv4Network]:
    """Networks that this machine has an address in, or a route to."""
    return read_taken(_told("addr"), _told("route", "show", "table", "all"))


def read_taken(
    links: Iterable[dict[str, Any]], routes: Iterable[dict[str, Any]]
) -> list[IPv4Network]:
    """Networks in what ``ip -json`` says of addresses and routes."""
    written = [f"{a['local']}/{a['prefixlen']}" for link in links for a in link["addr_info"]]
    written += [route["dst"] for route in routes if route.get("dst", "default") != "default"]
    return [ipaddress.ip_network(text, strict=False) for text in written]  # type: ignore[misc]


def _told(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run(["ip", "-json", "-4", *words], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return [each for each in found if each]


def build_bridge(operator: int, plan: AddressPlan) -> None:
    """The bridge, in the network namespace of process `operator`."""
    _ip(operator, "link", "set", "lo", "up")
    _ip(operator, "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    _ip(operator, "addr", "add", plan.interface(OPERATOR), "dev", BRIDGE)
    _ip(operator, "link", "set", BRIDGE, "up")


def plug_in(operator: int, host: int, name: str, plan: AddressPlan) -> None:
    """A cable from the bridge to the network namespace of process `host`."""
    cable = cable_of(name, plan)
    _ip(operator, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(host))
    _ip(operator, "link", "set", cable, "master", BRIDGE, "up")
    _ip(host, "link", "set", "lo", "up")
    _ip(host, "addr", "add", plan.interface(name), "dev", "eth0")
    _ip(host, "link", "set", "eth0", "up")
    # leads nowhere; Ray finds its own address by it
    _ip(host, "route", "add", "default", "via", str(plan.operator))


def unplug(operator: int, name: str, plan: AddressPlan) -> None:
    """Pull the cable of `name`: its peers hear nothing, not even that it ended."""
    _ip(operator, "link", "del", cable_of(name, plan))


def cable_of(name: str, plan: AddressPlan) -> str:
    """The bridge's end of the cable of `name`."""
    return f"to{plan.hosts.index(name)}"


def _ip(process: int, *words: str) -> None:
    command = ["nsenter", f"--net=/proc/{process}/ns/net", "ip", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"ip {' '.join(words)}: {done.stderr.strip()}", "run it as root, on Linux")
