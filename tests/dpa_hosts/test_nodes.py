"""Nodes asked over ssh say what they are; ports between them are tried for real."""

import dataclasses
import json
import shutil
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from dpa.clock import FixedClock, SystemClock
from dpa.hosts.checks import check_before, check_clock, check_versions
from dpa.hosts.cluster_file import ClusterFile, read_cluster_file
from dpa.hosts.node import Node, ask, ask_all
from dpa.hosts.problem import Problem
from dpa.hosts.reach import check_ports
from dpa.hosts.source import source_of
from tests.dpa_hosts.conftest import SshNode, SshWorld, free_port

REPOSITORY = Path(__file__).resolve().parents[2]


def cluster_of(world: SshWorld, folder: Path, head_start: str = "ray start") -> ClusterFile:
    """A cluster of the two nodes, whose source is one file."""
    (folder / "dpa").mkdir(parents=True)
    (folder / "dpa" / "a.py").write_text("a = 1\n", encoding="utf-8")
    head, *workers = [node.address for node in world.nodes]
    path = folder / "cluster.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "cluster_name": "two",
                "provider": {"type": "local", "head_ip": head, "worker_ips": workers},
                "auth": {"ssh_user": "me"},
                "file_mounts": {"~/dpa-source/dpa": "dpa"},
                "head_start_ray_commands": [head_start],
                "worker_start_ray_commands": ["ray start --address=$RAY_HEAD_IP:6379"],
            }
        ),
        encoding="utf-8",
    )
    return read_cluster_file(path)


def install(node: SshNode, cluster: ClusterFile, python: str = "3.11.7", ray: str = "") -> None:
    """What an installation leaves on a node."""
    root = node.home / "dpa-source"
    shutil.rmtree(root, ignore_errors=True)
    source = source_of(cluster)
    shutil.copytree(cluster.path.parent / "dpa", root / "dpa")
    (root / "shipped.json").write_text(json.dumps(source.stamp()), encoding="utf-8")
    packages = root / ".venv" / "lib" / "python3" / "site-packages"
    (packages / f"ray-{ray or source.ray}.dist-info").mkdir(parents=True)
    (root / ".venv" / "pyvenv.cfg").write_text(f"home = /usr\nversion = {python}\n", "utf-8")


def nodes_of(answers: dict[str, Node | Problem]) -> list[Node]:
    assert not [answer for answer in answers.values() if isinstance(answer, Problem)], answers
    return [answer for answer in answers.values() if isinstance(answer, Node)]


def test_a_bare_machine_is_told_from_an_installed_one(world: SshWorld, tmp_path: Path) -> None:
    cluster = cluster_of(world, tmp_path / "here")
    first, second = world.nodes
    shutil.rmtree(second.home / "dpa-source", ignore_errors=True)
    install(first, cluster)
    nodes = nodes_of(ask_all(world.ssh(), cluster, SystemClock()))
    assert [node.host for node in nodes] == [first.address, second.address]
    assert nodes[0].source == source_of(cluster).source
    assert nodes[0].venv_python == "3.11.7"
    found = check_versions(nodes, source_of(cluster), "again")
    assert [(problem.host, problem.kind) for problem in found] == [
        (second.address, "not-installed"),
        (second.address, "python-version"),
    ] or [problem.kind for problem in found] == ["not-installed"]


def test_nodes_that_differ_are_found(world: SshWorld, tmp_path: Path) -> None:
    cluster = cluster_of(world, tmp_path / "here")
    install(world.nodes[0], cluster)
    install(world.nodes[1], cluster, ray="2.50.0")
    (world.nodes[1].home / "dpa-source" / "dpa" / "a.py").write_text("a = 2\n", encoding="utf-8")
    nodes = nodes_of(ask_all(world.ssh(), cluster, SystemClock()))
    found = check_versions(nodes, source_of(cluster), "again")
    assert [(problem.host, problem.kind) for problem in found] == [
        (world.nodes[1].address, "ray-version"),
        (world.nodes[1].address, "source"),
    ]
    assert "was changed there" in found[1].what
    (cluster.path.parent / "dpa" / "a.py").write_text("a = 3\n", encoding="utf-8")
    install(world.nodes[1], cluster)
    found = check_versions(
        nodes_of(ask_all(world.ssh(), cluster, SystemClock())), source_of(cluster), "again"
    )
    assert [problem.host for problem in found] == [world.nodes[0].address]


def test_a_clock_that_is_off_is_measured(world: SshWorld, tmp_path: Path) -> None:
    """The operator's clock is moved, which is the same to the question as the node's."""
    cluster = cluster_of(world, tmp_path / "here")
    address = world.nodes[0].address
    good = ask(world.ssh(), cluster, address, SystemClock())
    assert check_clock(good) == []
    moved = FixedClock(SystemClock().now() - timedelta(seconds=3600))
    node = ask(world.ssh(), cluster, address, moved)
    assert node.ahead_seconds == pytest.approx(3600, abs=30)
    assert [problem.kind for problem in check_clock(node)] == ["clock"]


@pytest.mark.parametrize("program", ["rsync", "make", "python3"])
def test_a_program_that_a_command_over_ssh_does_not_find(
    world: SshWorld, tmp_path: Path, program: str
) -> None:
    cluster = cluster_of(world, tmp_path / "here")
    tool = world.nodes[0].tools / program
    target = tool.readlink()
    tool.unlink()
    try:
        answer = ask_all(world.ssh(), cluster, SystemClock())[world.nodes[0].address]
    finally:
        tool.symlink_to(target)
    if isinstance(answer, Problem):
        assert program == "python3"
        assert answer.what == "has no python3"
    else:
        assert [found.kind for found in check_before(answer, is_head=True)] == [f"no-{program}"]


def test_a_machine_that_does_not_answer_keeps_the_others_answers(
    world: SshWorld, tmp_path: Path
) -> None:
    cluster = cluster_of(world, tmp_path / "here")
    other = dataclasses.replace(cluster, workers=("127.0.0.9",))
    answers = ask_all(world.ssh(), other, SystemClock())
    assert isinstance(answers[world.nodes[0].address], Node)
    missing = answers["127.0.0.9"]
    assert isinstance(missing, Problem)
    assert missing.kind == "ssh-refused"


def test_ports_that_can_be_reached_and_one_that_another_program_has(
    world: SshWorld, tmp_path: Path
) -> None:
    port = free_port("0.0.0.0")
    cluster = cluster_of(world, tmp_path / "here", f"ray start --head --port={port}")
    cluster = dataclasses.replace(cluster, proxy="unused: no port 22 is tried")
    assert check_ports(world.ssh(), cluster, runs=False) == []
    with socket.create_server(("0.0.0.0", port)):
        found = check_ports(world.ssh(), cluster, runs=False)
        assert [problem.kind for problem in found] == ["port-taken"]
        assert check_ports(world.ssh(), cluster, runs=True) == []


def test_a_port_that_cannot_be_reached_is_named_with_both_ends(
    world: SshWorld, tmp_path: Path
) -> None:
    """Something has the port on the loopback's first address only: closed on the others."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = cluster_of(world, tmp_path / "here", f"ray start --head --port={port}")
        cluster = dataclasses.replace(cluster, proxy="unused: no port 22 is tried")
        found = check_ports(world.ssh(), cluster, runs=True)
    assert [(problem.host, problem.kind) for problem in found] == [
        (world.nodes[1].address, "port-closed")
    ]
    assert f"port {port} of {world.nodes[0].address} (connection refused)" in found[0].what
