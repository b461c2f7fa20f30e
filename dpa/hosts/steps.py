"""Up, status and down: what is done in which order."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dpa.clock import Clock
from dpa.errors import ConfigError
from dpa.hosts.checks import (
    check_before,
    check_clock,
    check_here,
    check_pythons,
    check_running,
    check_token,
    check_versions,
    fingerprint_of,
)
from dpa.hosts.cluster_file import SOURCE, ClusterFile
from dpa.hosts.jobs import lasting_actors, list_jobs, live_nodes, running_jobs
from dpa.hosts.node import Node, ask_all
from dpa.hosts.problem import HostError, Problem, ProblemFound
from dpa.hosts.ray_commands import environment, run_with_log, write_private
from dpa.hosts.reach import check_ports
from dpa.hosts.source import Source
from dpa.hosts.ssh import Ssh, write_guard
from dpa.hosts.token import read_token, token_path
from dpa.hosts.tunnel import tunnel

STOP_SECONDS: Final = 90.0
STARTED: Final = "started.yaml"  # as of the last start that went to its end
JOIN_SECONDS: Final = 900.0  # workers install after the head is up
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Site:
    """A cluster, and what of it is kept on this machine.

    Parameters
    ----------
    cluster : ClusterFile
    folder : Path
        Host keys, rendered file and logs.
    ssh : Ssh, optional
        None with a cloud, whose addresses Ray alone knows.
    source : Source
    clock : Clock
    """

    cluster: ClusterFile
    folder: Path
    ssh: Ssh | None
    source: Source
    clock: Clock

    @property
    def rendered(self) -> Path:
        """The file that Ray is given."""
        return self.folder / "cluster.yaml"

    @property
    def environ(self) -> dict[str, str]:
        """Of Ray's commands; host keys are checked where this machine has seen them."""
        guard = None
        if self.ssh is not None:
            guard = write_guard(self.folder / "bin", self.ssh.known_hosts)
        return environment(self.cluster, guard, os.environ)

    @property
    def again(self) -> str:
        """The command that brings the cluster up."""
        return f"dpa cluster up {self.cluster.path.name}"


@dataclass
class State:
    """What was found.

    Parameters
    ----------
    nodes : dict of Node
        Those that answered, by address.
    problems : list of Problem
    alive : list of str, optional
        Addresses that the head counts; none when it does not answer.
    jobs : list of str
        Jobs that have not ended, and what outlives its job: a trader, Serve.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    alive: list[str] | None = None
    jobs: list[str] = field(default_factory=list)

    @property
    def is_up(self) -> bool:
        """Whether a head answers."""
        return self.alive is not None


def ask_nodes(site: Site, told: Callable[[str, Node | Problem], None] | None = None) -> State:
    """Ask every machine that is named in the file."""
    state = State()
    if site.ssh is None:
        return state
    for host, answer in ask_all(site.ssh, site.cluster, site.clock, told).items():
        if isinstance(answer, Problem):
            state.problems.append(answer)
        else:
            state.nodes[host] = answer
    return state


def ask_head(site: Site, state: State) -> None:
    """Ask the head which nodes are alive and which jobs run, through a tunnel."""
    head = state.nodes.get(site.cluster.head)
    if site.ssh is not None and (head is None or "gcs_server" not in head.running):
        return
    if site.ssh is None and not site.rendered.exists():
        raise HostError("this machine has not started the cluster", site.again)
    try:
        with tunnel(site.cluster, site.rendered, site.ssh, site.environ, site.clock) as url:
            token = read_token()
            state.alive = live_nodes(url, token)
            state.jobs = [*lasting_actors(url, token), *running_jobs(list_jobs(url, token))]
    except (HostError, ConfigError, ProblemFound) as e:
        problem = getattr(e, "problem", None)
        found = problem or Problem(site.cluster.head, "head", e.what, e.cure)
        state.problems.append(found)


def status(site: Site, most_skew_seconds: float) -> State:
    """Everything about a cluster, with what is wrong."""
    state = ask_nodes(site)
    ask_head(site, state)
    nodes = list(state.nodes.values())
    fingerprint = fingerprint_of(token_path())
    for node in nodes:
        state.problems += check_clock(node, most_skew_seconds) + check_token(node, fingerprint)
    if nodes:
        state.problems += check_running(state.nodes, site.cluster.head, state.alive)
        state.problems += check_versions(nodes, site.source, site.again)
    return state


def check_machines(site: Site, most_skew_seconds: float, tell: Tell) -> State:
    """All checks before a start; nothing is changed."""
    state = State(problems=check_here())
    if site.ssh is None or state.problems:
        return state

    def told(host: str, answer: Node | Problem) -> None:
        words = f"no: {answer.what}" if isinstance(answer, Problem) else _node_words(answer)
        tell(f"  {host}  {words}")

    tell(f"asking {len(site.cluster.hosts)} machines")
    asked = ask_nodes(site, told)
    state.nodes, state.problems = asked.nodes, asked.problems
    for host, node in state.nodes.items():
        state.problems += check_before(node, host == site.cluster.head, most_skew_seconds)
    state.problems += check_pythons(state.nodes.values())
    if not state.problems and len(site.cluster.hosts) > 1:
        tell("trying the ports between them")
        runs = any(node.running for node in state.nodes.values())
        try:
            state.problems += check_ports(site.ssh, site.cluster, runs)
        except ProblemFound as e:
            state.problems.append(e.problem)
    return state


def differences(site: Site, state: State, text: str) -> list[Problem]:
    """Why a running cluster is not the one that the file asks for.

    Parameters
    ----------
    text : str
        What Ray would be given now.
    """
    nodes = list(state.nodes.values())
    if read_or_empty(site.folder / STARTED) != text:
        what = "the cluster was not started from here with the file as it is now"
        return [Problem("", "file", what, site.again)]
    found = check_running(state.nodes, site.cluster.head, state.alive)
    found += check_versions(nodes, site.source, site.again)
    for node in nodes:
        found += check_token(node, fingerprint_of(token_path()))
    return found


def start(site: Site, tell: Tell, verbose: bool) -> None:
    """``ray up``."""
    words = ["ray", "up", "--yes", "--no-config-cache", "--log-color", "false", str(site.rendered)]
    (site.folder / STARTED).unlink(missing_ok=True)
    run_with_log(words, site.environ, site.folder / "up.log", tell, verbose)


def remember(site: Site, text: str) -> None:
    """Keep what the cluster was started with, once all of it runs."""
    write_private(site.folder / STARTED, text)


def read_or_empty(path: Path) -> str:
    """A file's text; empty when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def await_workers(site: Site, seconds: float, tell: Tell) -> None:
    """Wait until the head counts every machine of the file as alive.

    Raises
    ------
    HostError
        Naming the machines that never joined, and what the head says about them.
    """
    if site.ssh is None:
        return
    wanted, seen = set(site.cluster.hosts), set[str]()
    begun = site.clock.elapsed()
    with tunnel(site.cluster, site.rendered, site.ssh, site.environ, site.clock) as url:
        token = read_token()
        while not wanted <= seen:
            for host in sorted(set(live_nodes(url, token)) - seen):
                seen.add(host)
                tell(f"  {host} has joined ({len(seen)} of {len(wanted)})")
            if wanted <= seen:
                return
            waited = site.clock.elapsed() - begun
            for host in sorted(wanted - seen):
                said = complaint_of_head(site, host)
                if said or waited > seconds:
                    raise never_joined(site, host, sorted(seen - wanted), waited, said)
            site.ssh.run(site.cluster.head, "sleep", "3", seconds=60.0)


# What the head's autoscaler writes when it gives up on a worker, and its reason above.
_COMPLAINT: Final = """
tac /tmp/ray/session_latest/logs/monitor.out 2>/dev/null | sed 's/\\x1b\\[[0-9;]*m//g' |
  sed -n "/NodeUpdater: $1: .*failed/,\\$p" |
  grep -E -m 1 '^[A-Za-z.]*(Exception|Error): |rror: |denied|refused|timed out' || true
"""


def complaint_of_head(site: Site, host: str) -> str:
    """Why the head has given a worker up; empty while it has not."""
    assert site.ssh is not None
    words = ("bash", "-c", _COMPLAINT, "bash", host)
    try:
        said = site.ssh.run(site.cluster.head, *words, seconds=60.0).out.strip()
    except ProblemFound:
        return ""
    return said[:300]


def never_joined(
    site: Site, host: str, unknown: Sequence[str], waited: float, said: str
) -> HostError:
    """A worker that did not join, with all that can be told about it."""
    what = f"{host}: has not joined, {waited:.0f} s after the head was up"
    if said:
        what += f"; the head has given it up: {said}"
    if unknown:
        what += f" (but {', '.join(unknown)} did: name machines by the address that Ray takes)"
    return HostError(
        what,
        f"the same command again tries again; the head's log: ssh {site.cluster.user}@"
        f"{site.cluster.head} less -R /tmp/ray/session_latest/logs/monitor.out",
    )


def down(site: Site, tell: Tell, verbose: bool) -> list[Problem]:
    """``ray down``, then Ray on every machine that ``ray down`` left running.

    The head goes first, since it would start its workers again.
    """
    problems = []
    rendered = site.rendered if site.rendered.exists() else site.cluster.path
    (site.folder / STARTED).unlink(missing_ok=True)
    words = ["ray", "down", "--yes", "--log-color", "false", str(rendered)]
    try:
        run_with_log(words, site.environ, site.folder / "down.log", tell, verbose)
    except HostError as e:
        problems.append(Problem(site.cluster.head, "down", e.what, e.cure))
    if site.ssh is None:
        return problems
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(lambda host: stop_host(site, host, tell), site.cluster.hosts):
            problems += found
    if all(problem.kind == "down" for problem in problems):
        return []  # `ray down` complained, and Ray runs nowhere by now all the same
    return problems


def stop_host(site: Site, host: str, tell: Tell) -> list[Problem]:
    """``ray stop`` on a machine, by force at last; nothing where dpa was never installed."""
    assert site.ssh is not None
    ray = f"{SOURCE.replace('~', '$HOME')}.venv/bin/ray"
    command = f'[ ! -x "{ray}" ] || "{ray}" stop --grace-period 20 || "{ray}" stop --force'
    try:
        done = site.ssh.run(host, "bash", "-c", command, seconds=STOP_SECONDS)
    except ProblemFound as e:
        return [e.problem]
    if done.code != 0:
        last = (done.err.strip().splitlines() or [f"code {done.code}"])[-1]
        by_hand = f"by hand: ssh {site.cluster.user}@{host} dpa-source/.venv/bin/ray stop --force"
        return [Problem(host, "stop", f"Ray could not be stopped: {last}", by_hand)]
    tell(f"  {host}  stopped")
    return []


def as_json(site: Site, state: State) -> dict[str, Any]:
    """A status for programs."""
    return {
        "cluster": site.cluster.name,
        "up": state.is_up,
        "alive": state.alive,
        "jobs": state.jobs,
        "source": {key: v for key, v in site.source.stamp().items() if key != "files"},
        "nodes": {host: node_json(node) for host, node in state.nodes.items()},
        "problems": [
            {"host": p.host, "kind": p.kind, "what": p.what, "cure": p.cure} for p in state.problems
        ],
    }


def node_json(node: Node) -> dict[str, Any]:
    """One node for programs; its token's fingerprint stays here."""
    stamp: Mapping[str, Any] = node.stamp or {}
    return {
        "python": node.venv_python or node.python,
        "ray": node.ray,
        "dpa": stamp.get("version"),
        "commit": stamp.get("commit"),
        "changed": stamp.get("changed"),
        "source": node.source,
        "running": sorted(node.running),
        "ahead_seconds": round(node.ahead_seconds, 3),
        "doubt_seconds": round(node.doubt_seconds, 3),
        "token_mode": node.token_mode,
        "free_gigabytes": node.free_gigabytes,
    }


def _node_words(node: Node) -> str:
    return (
        f"Python {node.python}, clock {node.ahead_seconds:+.2f} s, {node.free_gigabytes:g} GB free"
    )
