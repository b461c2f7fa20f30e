"""A command on another machine through ssh; every way it can fail has a name and a cure."""

import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dpa.errors import ConfigError
from dpa.hosts.cluster_file import ClusterFile
from dpa.hosts.problem import Problem, ProblemFound

CONNECT_SECONDS: Final = 10
_FAILED: Final = 255  # ssh's own exit code

# What ssh says, the word for it, what that means, the cure. First match wins.
_SAID: Final = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed",
        "ssh-host-key",
        "its ssh host key is not the one seen before: another machine answers, or it was "
        "installed anew",
        "if that is so: ssh-keygen -f {known_hosts} -R {entry}",
    ),
    (
        r"Permission denied",
        "ssh-key",
        "refuses the key {key} of user {user}",
        "append the key's .pub file to ~{user}/.ssh/authorized_keys there; auth in the cluster "
        "file names user and key",
    ),
    (
        r"UNPROTECTED PRIVATE KEY|bad permissions",
        "ssh-key-file",
        "ssh does not use {key}: others may read it",
        "chmod 600 {key}",
    ),
    (
        r"Identity file .* not accessible",
        "ssh-key-file",
        "there is no key {key} on this machine",
        "make it with ssh-keygen, or name another one in auth.ssh_private_key",
    ),
    (
        r"Connection refused",
        "ssh-refused",
        "nothing answers ssh there",
        "start its ssh server (Debian: apt-get install openssh-server), or check the address",
    ),
    (
        r"timed out|Operation timed out",
        "ssh-timeout",
        "no answer to ssh within {seconds} s",
        "check the address, that the machine is on, and that firewalls let port 22 through",
    ),
    (
        r"Could not resolve hostname",
        "ssh-name",
        "this machine does not know the name",
        "check the spelling, or give an address",
    ),
    (
        r"No route to host|Network is unreachable",
        "ssh-route",
        "there is no way to it from here",
        "check the address, that the machine is on, and the network between",
    ),
    (
        r"Connection (closed|reset)|kex_exchange|Broken pipe|not responding",
        "ssh-lost",
        "the ssh connection was cut",
        "try again; if it stays so, see the log of its ssh server",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What a command said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Ssh:
    """How the machines of a cluster are reached.

    Parameters
    ----------
    user, key, proxy : str
        As in the cluster file; a key or proxy may be empty.
    known_hosts : Path
        Where host keys are kept. A machine met for the first time is believed and remembered; one
        whose key is another than before is refused. The user's own file counts too.
    port : int, optional
        Absent: what ssh's own configuration says, else 22.
    connect_seconds : int
        Patience until a machine answers.
    """

    user: str
    key: str
    proxy: str
    known_hosts: Path
    port: int | None = None
    connect_seconds: int = CONNECT_SECONDS

    def options(self) -> list[str]:
        """Options of ssh, without program and machine."""
        files = f'"{self.known_hosts}" ~/.ssh/known_hosts'
        said = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": files,
            "ConnectTimeout": str(self.connect_seconds),
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "LogLevel": "ERROR",
        }
        if self.key:
            said["IdentitiesOnly"] = "yes"
        if self.proxy:
            said["ProxyCommand"] = self.proxy
        options = [word for name, value in said.items() for word in ("-o", f"{name}={value}")]
        if self.key:
            options += ["-i", str(Path(self.key).expanduser())]
        return options + (["-p", str(self.port)] if self.port is not None else [])

    def command(self, host: str, *words: str, flags: Sequence[str] = ()) -> list[str]:
        """The command line that runs `words` on a machine."""
        remote = [shlex.join(words)] if words else []
        return ["ssh", *self.options(), *flags, f"{self.user}@{host}", *remote]

    def run(self, host: str, *words: str, seconds: float, given: str = "") -> Outcome:
        """Run `words` on a machine.

        Raises
        ------
        ProblemFound
            When the machine cannot be reached, or does not end within `seconds`.
        """
        try:
            done = subprocess.run(
                self.command(host, *words),
                input=given,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise ProblemFound(hung(host, words, seconds)) from e
        if done.returncode == _FAILED:
            raise ProblemFound(self.explain(host, done.stderr))
        return Outcome(done.returncode, done.stdout, done.stderr)

    def open(self, host: str, *words: str, flags: Sequence[str] = ()) -> "subprocess.Popen[str]":
        """Start `words` on a machine, and talk to it through pipes."""
        return subprocess.Popen(
            self.command(host, *words, flags=flags),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us, who end it
        )

    def explain(self, host: str, said: str) -> Problem:
        """What ssh means by its complaint."""
        key = self.key or "(ssh's own choice)"
        entry = host if self.port in (None, 22) else f"[{host}]:{self.port}"
        fill = {
            "user": self.user,
            "key": key,
            "seconds": self.connect_seconds,
            "known_hosts": shlex.quote(str(self.known_hosts)),
            "entry": shlex.quote(entry),
        }
        for pattern, kind, what, cure in _SAID:
            if re.search(pattern, said):
                return Problem(host, kind, what.format(**fill), cure.format(**fill))
        last = (said.strip().splitlines() or ["no reason given"])[-1]
        by_hand = shlex.join(["ssh", f"{self.user}@{host}"])
        return Problem(host, "ssh", f"ssh failed: {last}", f"see what it says by hand: {by_hand}")


def ssh_of(cluster: ClusterFile, folder: Path) -> Ssh:
    """How the machines of a file are reached; host keys are kept in `folder`.

    Raises
    ------
    ConfigError
        When the key that the file names is missing.
    """
    if shutil.which("ssh") is None:
        raise ConfigError(
            "there is no ssh on this machine", "Debian: apt-get install openssh-client"
        )
    if cluster.key and not Path(cluster.key).expanduser().is_file():
        raise ConfigError(
            f"{cluster.path}: auth.ssh_private_key {cluster.key} does not exist",
            "make one with ssh-keygen -t ed25519, or name the one you have",
        )
    return Ssh(cluster.user, cluster.key, cluster.proxy, folder / "known_hosts")


def write_guard(folder: Path, known_hosts: Path) -> Path:
    """A folder to put first on PATH: its ``ssh`` checks host keys, which Ray's calls switch off.

    The first value of an option is the one ssh takes, so what stands here wins over Ray's.
    """
    real = shutil.which("ssh", path=_without(folder, os.environ.get("PATH", os.defpath)))
    if real is None:
        raise ConfigError(
            "there is no ssh on this machine", "Debian: apt-get install openssh-client"
        )
    folder.mkdir(parents=True, exist_ok=True)
    words = [
        real,
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        f'UserKnownHostsFile="{known_hosts}" ~/.ssh/known_hosts',
        "-o",
        "BatchMode=yes",
    ]
    draft = folder / f".ssh.{os.getpid()}.{threading.get_ident()}"
    draft.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    draft.chmod(0o700)
    draft.replace(folder / "ssh")  # whole at any moment: Ray may be calling the one before
    return folder


def guarded_path(folder: Path, environ: Mapping[str, str]) -> str:
    """PATH with the guard of `folder` first."""
    return os.pathsep.join([str(folder), environ.get("PATH", os.defpath)])


def hung(host: str, words: Sequence[str], seconds: float) -> Problem:
    """A command that did not end."""
    return Problem(
        host,
        "hung",
        f"'{words[0]}' has not ended within {seconds:g} s",
        "log in and see what the machine is busy with",
    )


def _without(folder: Path, path: str) -> str:
    return os.pathsep.join(part for part in path.split(os.pathsep) if part != str(folder))
