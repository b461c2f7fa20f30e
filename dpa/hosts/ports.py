"""Every port that a cluster listens on, who may reach it, and the firewall that says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Reach = Literal["operator", "cluster", "prometheus", "nobody"]
REACH_WORDS: Final[dict[Reach, str]] = {
    "operator": "you, and the head",
    "cluster": "the nodes",
    "prometheus": "your Prometheus",
    "nobody": "nobody but the node itself",
}


@dataclass(frozen=True)
class Port:
    """A port, or a range of them.

    Parameters
    ----------
    first, last : int
    what : str
        Who listens.
    bound : str
        ``all`` interfaces, the ``node``'s address, or ``loopback``.
    guard : str
        What a stranger who can reach it is asked for.
    reach : str
        Who should be able to reach it.
    head_only : bool
    ray : bool
        Whether Ray opens it, on a node that does nothing.
    """

    first: int
    last: int
    what: str
    bound: str
    guard: str
    reach: Reach
    head_only: bool = False
    ray: bool = True

    @property
    def words(self) -> str:
        """The numbers, as a page or a firewall writes them."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


def _one(number: int, what: str, bound: str, guard: str, reach: Reach, **more: bool) -> Port:
    return Port(number, number, what, bound, guard, reach, **more)


TOKEN: Final = "token"
OPEN: Final = "nothing"
PORTS: Final = (
    _one(22, "sshd", "all", "ssh key", "operator", ray=False),
    _one(2049, "NFS, where the shared folder is one", "all", OPEN, "cluster", ray=False),
    _one(6379, "GCS, the register of the cluster", "all", TOKEN, "cluster", head_only=True),
    _one(8000, "Ray Serve, where something is served", "loopback",
         "token to change; to read, too, beyond loopback", "nobody", head_only=True, ray=False),
    _one(8076, "object manager", "all", TOKEN, "cluster"),
    _one(8077, "node manager", "all", TOKEN, "cluster"),
    _one(8078, "metrics of the node", "all", OPEN, "prometheus"),
    _one(8079, "runtime environments", "node", TOKEN, "cluster"),
    _one(8265, "dashboard and job submission", "loopback",
         "token, but for its static page", "nobody", head_only=True),
    _one(10001, "Ray Client", "node", TOKEN, "nobody", head_only=True),
    Port(10002, 10999, "workers and drivers", "all", TOKEN, "cluster"),
    _one(44217, "metrics of the autoscaler", "all", OPEN, "prometheus", head_only=True),
    _one(44227, "metrics of the dashboard", "all", OPEN, "prometheus", head_only=True),
    _one(52365, "dashboard agent, HTTP", "node", TOKEN, "cluster"),
    _one(52366, "dashboard agent, gRPC", "all", TOKEN, "cluster"),
)  # fmt: skip


def port_of(number: int) -> Port | None:
    """The row of a port; none when it is not documented."""
    return next((port for port in PORTS if number in port), None)


def port_table() -> str:
    """The table of docs/security.md."""
    header = "| port | who listens | bound to | asks for | let in | on |\n|---|---|---|---|---|---|"
    rows = [
        f"| {port.words} | {port.what} | {port.bound} | {port.guard} | "
        f"{REACH_WORDS[port.reach]} | {'head' if port.head_only else 'all'} |"
        for port in PORTS
    ]
    return "\n".join([header, *rows])


def firewall(nodes: Sequence[str], operator: str, prometheus: str) -> str:
    """Rules of nftables for every node; the same file on all.

    Parameters
    ----------
    nodes : sequence of str
        Addresses of all nodes.
    operator, prometheus : str
        An address, or a network, of each.
    """
    cluster = [port.words for port in PORTS if port.reach == "cluster"]
    metrics = [port.words for port in PORTS if port.reach == "prometheus"]
    return f"""table inet dpa
delete table inet dpa
table inet dpa {{
  set nodes {{ type ipv4_addr; flags interval; elements = {{ {", ".join(nodes)} }} }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state established,related accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    ip saddr {operator} tcp dport 22 accept
    ip saddr @nodes tcp dport {{ 22, {", ".join(cluster)} }} accept
    ip saddr {prometheus} tcp dport {{ {", ".join(metrics)} }} accept
  }}
}}
"""
