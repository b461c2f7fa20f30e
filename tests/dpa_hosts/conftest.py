"""Nodes for tests: an ssh server each, on an address of the loopback, with a home of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dpa.hosts.ssh import Ssh

TOOLS = ("bash", "sh", "python3", "rsync", "make", "ssh", "cat", "grep", "sleep", "tail")
DEADLINE_SECONDS = 20.0
PATIENCE_SECONDS = 2


@dataclass
class SshNode:
    """One machine, as far as ssh can tell."""

    address: str
    port: int
    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def tools(self) -> Path:
        """The only folder of programs that a command over ssh finds."""
        return self.folder / "bin"

    def proxy(self) -> str:
        """How ssh gets to the port, which a cluster file cannot name."""
        return f"bash -c 'exec 3<>/dev/tcp/%h/{self.port}; cat <&3 & exec cat >&3'"


@dataclass
class SshWorld:
    """A key that the nodes let in, and the nodes."""

    folder: Path
    key: Path
    nodes: list[SshNode]

    def ssh(self, port: int | None = None, key: Path | None = None) -> Ssh:
        return Ssh(
            user=getpass.getuser(),
            key=str(key or self.key),
            proxy="",
            known_hosts=self.folder / "known_hosts",
            port=port if port is not None else self.nodes[0].port,
            connect_seconds=PATIENCE_SECONDS,
        )


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def free_port(*addresses: str) -> int:
    """A port free on all addresses."""
    with socket.socket() as probe:
        probe.bind((addresses[0], 0))
        return int(probe.getsockname()[1])


def start_node(folder: Path, address: str, port: int, key: Path) -> SshNode:
    program = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if program is None or shutil.which("ssh") is None:
        pytest.skip("needs sshd and ssh: apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root refuses to start without it
    (folder / "home").mkdir(parents=True)
    tools = folder / "bin"
    tools.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found is None:
            pytest.skip(f"needs {tool}")
        (tools / tool).symlink_to(os.path.realpath(sys.executable) if tool == "python3" else found)
    make_key(folder / "host_key")
    config = folder / "sshd_config"
    config.write_text(
        f"""ListenAddress {address}:{port}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {key}.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
SetEnv HOME={folder}/home PATH={tools}
""",
        encoding="utf-8",
    )
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(config)], stdout=subprocess.DEVNULL, stderr=log
        )
    return SshNode(address, port, folder, process)


def await_port(address: str, port: int) -> None:
    """Return once something listens."""
    begun = time.monotonic()
    while time.monotonic() - begun < DEADLINE_SECONDS:
        try:
            socket.create_connection((address, port), 1.0).close()
            return
        except OSError:
            continue
    pytest.fail(f"nothing listens on {address}:{port}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshWorld]:
    """Two nodes, 127.0.0.2 and 127.0.0.3, on one port."""
    folder = tmp_path_factory.mktemp("nodes")
    key = make_key(folder / "key")
    addresses = ("127.0.0.2", "127.0.0.3")
    port = free_port(*addresses)
    nodes = []
    try:
        for address in addresses:
            nodes.append(start_node(folder / address, address, port, key))
        for address in addresses:
            await_port(address, port)
        yield SshWorld(folder, key, nodes)
    finally:
        for node in nodes:
            node.process.terminate()
            node.process.wait()
