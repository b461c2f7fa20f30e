"""Each way in which ssh fails has its own words and cure, shown with a real ssh server."""

import dataclasses
import getpass
import os
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from dpa.hosts.problem import Problem, ProblemFound
from dpa.hosts.ssh import Ssh, guarded_path, write_guard
from tests.dpa_hosts.conftest import SshWorld, free_port, make_key


def failure(ssh: Ssh, host: str) -> Problem:
    with pytest.raises(ProblemFound) as caught:
        ssh.run(host, "cat", seconds=20.0)
    return caught.value.problem


def test_a_command_runs_with_its_words_as_they_are(world: SshWorld) -> None:
    words = ["bash", "-c", 'printf "%s|" "$@"', "bash", "a b", "$HOME", "it's", '"']
    done = world.ssh().run("127.0.0.2", *words, seconds=20.0)
    assert done.out == "a b|$HOME|it's|\"|"
    assert world.ssh().run("127.0.0.2", "cat", seconds=20.0, given="back").out == "back"
    assert world.ssh().run("127.0.0.2", "bash", "-c", "exit 3", seconds=20.0).code == 3


def test_nothing_listens(world: SshWorld) -> None:
    found = failure(world.ssh(port=free_port("127.0.0.2")), "127.0.0.2")
    assert found.kind == "ssh-refused"
    assert "start its ssh server" in found.cure


def test_nobody_answers(world: SshWorld) -> None:
    with socket.create_server(("127.0.0.2", 0)) as silent:
        found = failure(world.ssh(port=silent.getsockname()[1]), "127.0.0.2")
    assert found.kind == "ssh-timeout"
    assert "within 2 s" in found.what


def test_another_key_is_refused(world: SshWorld, tmp_path: Path) -> None:
    found = failure(world.ssh(key=make_key(tmp_path / "other")), "127.0.0.2")
    assert found.kind == "ssh-key"
    assert str(tmp_path / "other") in found.what
    assert "authorized_keys" in found.cure


def test_a_key_that_others_can_read(world: SshWorld, tmp_path: Path) -> None:
    key = make_key(tmp_path / "open")
    key.chmod(0o644)
    found = failure(world.ssh(key=key), "127.0.0.2")
    assert found.kind in ("ssh-key-file", "ssh-key")
    assert "open" in found.what


def other_host(world: SshWorld, tmp_path: Path) -> Ssh:
    """As if the node had shown another host key before."""
    ssh = dataclasses.replace(world.ssh(), known_hosts=tmp_path / "known hosts")
    public = make_key(tmp_path / "seen").with_suffix(".pub").read_text(encoding="ascii")
    entry = f"[127.0.0.2]:{ssh.port} {public}"
    ssh.known_hosts.write_text(entry, encoding="ascii")
    return ssh


def test_another_host_key_than_before_is_refused_until_its_cure_is_run(
    world: SshWorld, tmp_path: Path
) -> None:
    ssh = other_host(world, tmp_path)
    found = failure(ssh, "127.0.0.2")
    assert found.kind == "ssh-host-key"
    cure = found.cure.partition(": ")[2]
    subprocess.run(shlex.split(cure), check=True, capture_output=True)
    assert ssh.run("127.0.0.2", "cat", seconds=20.0).code == 0


def test_a_name_nobody_knows(world: SshWorld) -> None:
    assert failure(world.ssh(), "no-such-machine.invalid").kind == "ssh-name"


def test_a_command_that_does_not_end(world: SshWorld) -> None:
    with pytest.raises(ProblemFound, match="has not ended within 1 s"):
        world.ssh().run("127.0.0.2", "sleep", "60", seconds=1.0)


def test_the_guard_makes_calls_that_switch_host_keys_off_check_them(
    world: SshWorld, tmp_path: Path
) -> None:
    """Ray calls ssh with StrictHostKeyChecking=no; through the guard it is refused all the same."""
    good, bad = world.ssh(), other_host(world, tmp_path)
    good.run("127.0.0.2", "cat", seconds=20.0)  # its key is known from here on
    codes = {}
    for name, ssh in (("good", good), ("bad", bad)):
        guard = write_guard(tmp_path / name, ssh.known_hosts)
        words = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        words += ["-i", str(ssh.key), "-p", str(ssh.port), f"{getpass.getuser()}@127.0.0.2", "cat"]
        done = subprocess.run(
            words,
            env={**os.environ, "PATH": guarded_path(guard, os.environ)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        codes[name] = done.returncode
    assert codes == {"good": 0, "bad": 255}


def test_the_guard_is_whole_while_another_command_writes_it(tmp_path: Path) -> None:
    """A script that is cut short does nothing, and says that it succeeded."""
    guard = write_guard(tmp_path / "bin", tmp_path / "known_hosts")
    with (guard / "ssh").open(encoding="utf-8") as called:
        write_guard(guard, tmp_path / "others")
        assert str(tmp_path / "known_hosts") in called.read(), "it was changed under its reader"
    assert str(tmp_path / "others") in (guard / "ssh").read_text(encoding="utf-8")
    assert [path.name for path in guard.iterdir()] == ["ssh"]
