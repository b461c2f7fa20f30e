"""What must hold before a cluster is started, and while it runs."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from dpa.hosts.node import Node
from dpa.hosts.problem import Problem
from dpa.hosts.source import Source

OLDEST_PYTHON: Final = (3, 11)
LEAST_GIGABYTES: Final = 8.0  # an environment with torch and its CUDA libraries
# Time services keep machines within a tenth of a second of each other; beyond this none works.
# Quotes and decisions stamped on one node are judged on another by an age of 5 s at most
# (trading.quote_seconds, trading.decision_seconds), of which two clocks must not eat half.
MOST_SKEW_SECONDS: Final = 2.0
_NEEDED: Final = {
    "rsync": "Debian: apt-get install rsync",
    "make": "Debian: apt-get install make",
}


def check_here() -> list[Problem]:
    """What this machine lacks."""
    return [
        Problem("", f"no-{name}", f"there is no {name} on this machine", _apt(package))
        for name, package in (("ssh", "openssh-client"), ("rsync", "rsync"))
        if shutil.which(name) is None
    ]


def check_before(
    node: Node, is_head: bool, most_skew_seconds: float = MOST_SKEW_SECONDS
) -> list[Problem]:
    """What a machine lacks to become a node."""
    found = []
    for program, cure in _NEEDED.items():
        if program not in node.programs:
            what = f"has no {program}"
            found.append(Problem(node.host, f"no-{program}", what, cure))
    if is_head and "ssh" not in node.programs:
        what = "has no ssh, with which the head starts the workers"
        found.append(Problem(node.host, "no-ssh", what, _apt("openssh-client")))
    if node.python is None or _minor(node.python) < OLDEST_PYTHON:
        what = f"has Python {node.python or 'of no version that answers'}"
        found.append(Problem(node.host, "python", what, "install Python 3.11 or newer with venv"))
    if node.ray is None and node.free_gigabytes < LEAST_GIGABYTES:
        what = f"has {node.free_gigabytes:g} GB free in the home folder"
        cure = f"make {LEAST_GIGABYTES:g} GB free: the installation needs them"
        found.append(Problem(node.host, "disk", what, cure))
    return found + check_clock(node, most_skew_seconds)


def check_clock(node: Node, most_skew_seconds: float = MOST_SKEW_SECONDS) -> list[Problem]:
    """Whether its clock and ours agree, as far as can be told."""
    if abs(node.ahead_seconds) - node.doubt_seconds <= most_skew_seconds:
        return []
    way = "ahead of" if node.ahead_seconds > 0 else "behind"
    return [
        Problem(
            node.host,
            "clock",
            f"its clock is {abs(node.ahead_seconds):.1f} s {way} this machine's, "
            f"{most_skew_seconds:g} s are allowed",
            "let a time service set both (Debian: apt-get install chrony)",
        )
    ]


def check_versions(nodes: Sequence[Node], source: Source, again: str) -> list[Problem]:
    """What differs between the nodes, and between them and this machine.

    Parameters
    ----------
    nodes : sequence of Node
        Those that answered.
    source : Source
        What this machine would ship.
    again : str
        The command that ships it.
    """
    cure = f"ship it again: {again}"
    found = []
    for node in nodes:
        if node.ray is None:
            what = "dpa is not installed there"
            found.append(Problem(node.host, "not-installed", what, f"install it: {again}"))
            continue
        if node.ray != source.ray:
            what = f"has Ray {node.ray}, this machine {source.ray}"
            found.append(Problem(node.host, "ray-version", what, cure))
        if node.source != source.source:
            found.append(Problem(node.host, "source", _difference(node, source), cure))
    return found + check_pythons(nodes)


def check_pythons(nodes: Iterable[Node]) -> list[Problem]:
    """Nodes whose Python differs from most: objects do not travel between minor versions."""
    versions = {node.host: node.venv_python or node.python for node in nodes}
    minors = {host: _minor(version) for host, version in versions.items() if version}
    if len(set(minors.values())) < 2:
        return []
    common = Counter(minors.values()).most_common(1)[0][0]
    usual = ".".join(map(str, common))
    return [
        Problem(
            host,
            "python-version",
            f"has Python {versions[host]}, the other nodes {usual}",
            f"install Python {usual} there, delete ~/dpa-source/.venv, and ship again",
        )
        for host, minor in minors.items()
        if minor != common
    ]


def check_token(node: Node, fingerprint: str | None) -> list[Problem]:
    """Whether Ray's token there is ours, and a secret."""
    found = []
    if node.token_mode is not None and int(node.token_mode, 8) & 0o077:
        what = f"others may read its token (mode {node.token_mode})"
        found.append(Problem(node.host, "token-mode", what, "chmod 600 ~/.ray/auth_token there"))
    if fingerprint is not None and node.token_fingerprint not in (None, fingerprint):
        what = "holds another token than this machine"
        cure = "start the cluster again, which brings this machine's"
        found.append(Problem(node.host, "token", what, cure))
    return found


def fingerprint_of(token: Path) -> str | None:
    """As a node tells it; none without a file."""
    try:
        content = token.read_bytes().strip()
    except OSError:
        return None
    return hashlib.sha256(b"dpa " + content).hexdigest()[:16]


def check_running(
    nodes: Mapping[str, Node], head: str, alive: Iterable[str] | None
) -> list[Problem]:
    """Nodes on which Ray does not run, or whose Ray the head does not count.

    Parameters
    ----------
    alive : iterable of str, optional
        Addresses the head counts as alive; absent: the head was not asked.
    """
    found = []
    counted = None if alive is None else set(alive)
    for host, node in nodes.items():
        needed = {"raylet", "gcs_server"} if host == head else {"raylet"}
        if not needed <= node.running:
            found.append(Problem(host, "stopped", "Ray does not run there", "start the cluster"))
        elif counted is not None and host not in counted:
            what = "Ray runs there, but the head does not count it as a node"
            cure = (
                "it may have joined under another address or lost the head: see "
                "/tmp/ray/session_latest/logs/raylet.out there"
            )
            found.append(Problem(host, "not-joined", what, cure))
    return found


def _difference(node: Node, source: Source) -> str:
    there = (node.stamp or {}).get("source")
    if node.source is None:
        return "there is no source of dpa"
    if there is None:
        return f"its source {node.source[:8]} was not shipped by this command"
    if there != node.source:
        return f"its source was changed there since it was shipped ({there[:8]})"
    return f"has source {there[:8]}, this machine {source.source[:8]}"


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _apt(package: str) -> str:
    return f"Debian: apt-get install {package}"
