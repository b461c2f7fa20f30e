"""Whether the nodes reach each other on the ports that Ray was told to use.

Where nothing listens yet, a listener of our own stands in, so that a closed firewall is told from
a program that is not there.
"""

import json
import select
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dpa.hosts import _reach
from dpa.hosts.cluster_file import ClusterFile
from dpa.hosts.node import end
from dpa.hosts.problem import Problem, ProblemFound
from dpa.hosts.ssh import Ssh

SSH_PORT: Final = 22  # of the workers, for the head
ANSWER_SECONDS: Final = 30.0
_PROGRAM: Final = Path(_reach.__file__).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Listener:
    """Listeners of our own on one machine."""

    host: str
    process: "subprocess.Popen[str]"
    taken: tuple[int, ...]


def check_ports(ssh: Ssh, cluster: ClusterFile, runs: bool) -> list[Problem]:
    """Try every named port between every two nodes.

    Parameters
    ----------
    runs : bool
        Whether Ray runs by now, so that ports may be taken.

    Raises
    ------
    ProblemFound
        When a machine cannot be asked.
    """
    if len(cluster.hosts) < 2:
        return []
    ports = {host: named_ports(cluster, host) for host in cluster.hosts}
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        listeners = list(pool.map(lambda host: _listen(ssh, host, ports[host]), cluster.hosts))
        for listener in listeners:
            stack.callback(end, listener.process)
        found = [] if runs else [p for listener in listeners for p in _taken(listener)]
        targets = {host: _targets(cluster, host, ports) for host in cluster.hosts}
        answers = pool.map(lambda host: _connect(ssh, host, targets[host]), cluster.hosts)
        for host, failed in zip(cluster.hosts, answers, strict=True):
            found += [_unreachable(host, *each) for each in failed]
    return found


def named_ports(cluster: ClusterFile, host: str) -> tuple[int, ...]:
    """Ports of a node that the others must reach."""
    return tuple(sorted(set(cluster.ports(head=host == cluster.head).values())))


def _targets(
    cluster: ClusterFile, host: str, ports: dict[str, tuple[int, ...]]
) -> list[tuple[str, int]]:
    others = [(other, port) for other in cluster.hosts if other != host for port in ports[other]]
    if host == cluster.head and not cluster.proxy:
        others += [(worker, SSH_PORT) for worker in cluster.workers]
    return others


def _listen(ssh: Ssh, host: str, ports: tuple[int, ...]) -> Listener:
    process = ssh.open(host, "python3", "-c", _PROGRAM, "listen", json.dumps(ports))
    assert process.stdout is not None
    assert process.stderr is not None
    ready = select.select([process.stdout], [], [], ANSWER_SECONDS)[0]
    line = process.stdout.readline() if ready else ""
    if not line:
        process.terminate()
        said = process.stderr.read()
        end(process)
        raise ProblemFound(ssh.explain(host, said))
    return Listener(host, process, tuple(json.loads(line)["taken"]))


def _connect(ssh: Ssh, host: str, targets: list[tuple[str, int]]) -> list[Any]:
    words = ("python3", "-c", _PROGRAM, "connect", json.dumps(targets))
    done = ssh.run(host, *words, seconds=ANSWER_SECONDS + len(targets))
    if done.code != 0:
        last = (done.err.strip().splitlines() or [f"code {done.code}"])[-1]
        raise ProblemFound(
            Problem(host, "python", f"its python3 does not answer: {last}", "install Python 3.11")
        )
    failed: list[Any] = json.loads(done.out)
    return failed


def _taken(listener: Listener) -> list[Problem]:
    return [
        Problem(
            listener.host,
            "port-taken",
            f"another program listens on port {port}, which Ray is to have",
            f"see which (ss -tlnp 'sport = :{port}') and end it, or give Ray another port",
        )
        for port in listener.taken
    ]


def _unreachable(host: str, other: str, port: int, reason: str) -> Problem:
    return Problem(
        host,
        "port-closed",
        f"cannot reach port {port} of {other} ({reason})",
        f"open it between the nodes; docs/security.md has the rules for a firewall on {other}",
    )
