"""A way from a port of this machine to the head's dashboard, which answers on its loopback only."""

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dpa.clock import Clock
from dpa.hosts.cluster_file import ClusterFile
from dpa.hosts.problem import HostError, ProblemFound
from dpa.hosts.ray_commands import end_group
from dpa.hosts.ssh import Ssh

DASHBOARD_PORT: Final = 8265
OPEN_SECONDS: Final = 40.0
_TRY_SECONDS: Final = 0.2


@contextmanager
def tunnel(
    cluster: ClusterFile,
    rendered: Path,
    ssh: Ssh | None,
    environ: Mapping[str, str],
    clock: Clock,
    remote_port: int = DASHBOARD_PORT,
) -> Iterator[str]:
    """Open the tunnel for the length of the block; yields the URL of this end.

    Parameters
    ----------
    rendered : Path
        The file that Ray was given, for clouds: there Ray knows address and key.
    ssh : Ssh, optional
        For machines of one's own.

    Raises
    ------
    HostError
        When it does not open.
    """
    port = free_port()
    if ssh is not None and cluster.is_local:
        forward = ("-N", "-o", "ExitOnForwardFailure=yes")
        way = ("-L", f"127.0.0.1:{port}:127.0.0.1:{remote_port}")
        words = ssh.command(cluster.head, flags=(*forward, *way))
    else:
        words = ["ray", "dashboard", "-p", str(port), "--remote-port", str(remote_port)]
        words.append(str(rendered))
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **environ},
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        _await(process, port, cluster, ssh, clock)
        yield f"http://127.0.0.1:{port}"
    finally:
        end_group(process)
        process.stderr.close()


def _await(
    process: "subprocess.Popen[str]",
    port: int,
    cluster: ClusterFile,
    ssh: Ssh | None,
    clock: Clock,
) -> None:
    begun = clock.elapsed()
    while clock.elapsed() - begun < OPEN_SECONDS:
        if answers(port):
            return
        try:
            process.wait(timeout=_TRY_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        assert process.stderr is not None
        said = process.stderr.read()
        if ssh is not None:
            raise ProblemFound(ssh.explain(cluster.head, said))
        last = (said.strip().splitlines() or ["no reason given"])[-1]
        raise HostError(f"the tunnel to the head ends: {last}", "is the cluster up?")
    raise HostError(f"the tunnel to the head has not opened within {OPEN_SECONDS:g} s", "try again")


def answers(port: int) -> bool:
    """Whether something listens on a port of the loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
