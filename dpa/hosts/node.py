"""What a node is, as it says itself, and how far its clock is from ours."""

import json
import select
import shlex
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dpa.clock import Clock
from dpa.hosts import _probe
from dpa.hosts.cluster_file import SOURCE, ClusterFile
from dpa.hosts.problem import Problem, ProblemFound
from dpa.hosts.source import excluded_of
from dpa.hosts.ssh import Ssh, hung

PROGRAMS: Final = ("rsync", "make", "ssh")
ANSWER_SECONDS: Final = 60.0
_EXCHANGES: Final = 3  # of the time; the quickest is believed
_END_SECONDS: Final = 10.0
_NOT_FOUND: Final = 127


@dataclass(frozen=True)
class Node:
    """What a node is.

    Parameters
    ----------
    host : str
    python : str, optional
        The Python that an installation would take.
    programs : frozenset of str
        Of :data:`PROGRAMS`, those that a command over ssh finds.
    free_gigabytes : float
        In the home folder.
    venv_python, ray : str, optional
        Versions in the virtual environment; none: not installed yet.
    stamp : mapping, optional
        What :meth:`dpa.hosts.source.Source.stamp` wrote; none: nothing shipped yet.
    source : str, optional
        Hash of the source that lies there now.
    running : frozenset of str
        Of ``raylet`` and ``gcs_server``, those that run.
    token_mode, token_fingerprint : str, optional
    ahead_seconds : float
        Its clock less ours; negative when it is behind.
    doubt_seconds : float
        Half of the time the question was under way.
    """

    host: str
    python: str | None
    programs: frozenset[str]
    free_gigabytes: float
    venv_python: str | None
    ray: str | None
    stamp: Mapping[str, Any] | None
    source: str | None
    running: frozenset[str]
    token_mode: str | None
    token_fingerprint: str | None
    ahead_seconds: float
    doubt_seconds: float


def ask_all(
    ssh: Ssh,
    cluster: ClusterFile,
    clock: Clock,
    told: Callable[[str, Node | Problem], None] | None = None,
) -> dict[str, Node | Problem]:
    """Ask every machine of a file, all at once.

    Parameters
    ----------
    told : callable, optional
        Called with each answer as it comes.
    """

    def one(host: str) -> Node | Problem:
        try:
            answer: Node | Problem = ask(ssh, cluster, host, clock)
        except ProblemFound as e:
            answer = e.problem
        if told is not None:
            told(host, answer)
        return answer

    with ThreadPoolExecutor(16) as pool:
        return dict(zip(cluster.hosts, pool.map(one, cluster.hosts), strict=True))


def ask(ssh: Ssh, cluster: ClusterFile, host: str, clock: Clock) -> Node:
    """Ask one machine.

    Parameters
    ----------
    clock : Clock
        Ours, with which the node's is compared.

    Raises
    ------
    ProblemFound
        When it cannot be reached, or has no Python that answers.
    """
    wanted = {
        "root": SOURCE.rstrip("/"),
        "entries": sorted(cluster.source_mounts),
        "excluded": excluded_of(cluster),
        "programs": PROGRAMS,
    }
    program = Path(_probe.__file__).read_text(encoding="utf-8")
    process = ssh.open(host, "python3", "-c", program, json.dumps(wanted))
    try:
        said = json.loads(_line(process, ssh, host))
        ahead, doubt = min(
            (_exchange(process, ssh, host, clock) for _ in range(_EXCHANGES)),
            key=lambda pair: pair[1],
        )
    finally:
        end(process)
    environment, token = said["environment"], said["token"] or {}
    return Node(
        host=host,
        python=said["python"],
        programs=frozenset(said["programs"]),
        free_gigabytes=said["free_gigabytes"],
        venv_python=environment["python"],
        ray=environment["ray"],
        stamp=said["stamp"],
        source=said["source"],
        running=frozenset(said["ray"]),
        token_mode=token.get("mode"),
        token_fingerprint=token.get("fingerprint"),
        ahead_seconds=ahead,
        doubt_seconds=doubt,
    )


def end(process: "subprocess.Popen[str]") -> None:
    """End a conversation; what runs there ends with its input."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
    process.stdout.close()
    process.stderr.close()


def _exchange(
    process: "subprocess.Popen[str]", ssh: Ssh, host: str, clock: Clock
) -> tuple[float, float]:
    """Seconds the node is ahead, and half of the time that asking took."""
    assert process.stdin is not None
    sent = clock.now().timestamp()
    process.stdin.write("\n")
    process.stdin.flush()
    there = float(_line(process, ssh, host))
    came = clock.now().timestamp()
    return there - (sent + came) / 2, (came - sent) / 2


def _line(process: "subprocess.Popen[str]", ssh: Ssh, host: str) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    if not select.select([process.stdout], [], [], ANSWER_SECONDS)[0]:
        raise ProblemFound(hung(host, ("python3",), ANSWER_SECONDS))
    line = process.stdout.readline()
    if line:
        return line
    said, code = process.stderr.read(), process.wait()
    if code == _NOT_FOUND:
        raise ProblemFound(
            Problem(host, "python", "has no python3", "install Python 3.11 or newer with venv")
        )
    if code == 255:
        raise ProblemFound(ssh.explain(host, said))
    last = (said.strip().splitlines() or [f"code {code}"])[-1]
    raise ProblemFound(
        Problem(
            host,
            "python",
            f"its python3 does not answer: {last}",
            f"try it: {shlex.join(['ssh', f'{ssh.user}@{host}', 'python3', '--version'])}",
        )
    )
