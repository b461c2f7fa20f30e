"""A machine that is not there: namespaces with their own processes, network, files and sshd."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from dpa.errors import DpaError

PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "mount", "sshd", "ssh", "ssh-keygen", "rsync")
SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USER = "root"
SHARED = Path("/srv/dpa")
SOURCE = "dpa-source"
SHM = "600m"
BOOT_SECONDS = 120.0
LOOK_SECONDS = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Layout:
    """Folders of a host, outside of it.

    Parameters
    ----------
    folder : Path
        Of this host.
    shared : Path
        What every host sees at ``/srv/dpa``; plays the part of NFS.
    repository, environment : Path
        The checkout and its virtual environment. A host sees the environment, with changes of its
        own; at the place of the checkout it finds what was shipped to it, and the operator a copy.
    """

    folder: Path
    shared: Path
    repository: Path
    environment: Path

    @property
    def home(self) -> Path:
        """The home folder."""
        return self.folder / "home"

    @property
    def ssh(self) -> Path:
        """Configuration and host key of sshd."""
        return self.folder / "ssh"


def missing_programs() -> list[str]:
    """Programs that are needed and not there."""
    return [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]


def boot_script(layout: Layout, name: str, home: Path, is_operator: bool) -> str:
    """What the first process of a host runs: private files, then sshd.

    The order matters: what is shown is opened before what hides it.
    """
    q = shlex.quote
    folder, environment = q(str(layout.folder)), q(str(layout.environment))
    lines = [
        "set -e",
        "mount --make-rprivate /",
        f"hostname {q(name)}",
        f"mount --bind {folder}/hosts /etc/hosts",
        "mount -t tmpfs tmpfs /srv",
        f"mkdir -p {q(str(SHARED))}",
        f"mount --bind {q(str(layout.shared))} {q(str(SHARED))}",
        f"mount -t tmpfs -o size={SHM} tmpfs /dev/shm",
    ]
    base = Path(sys.base_prefix)
    if base.is_relative_to(home):
        below = q(str(layout.home / base.relative_to(home)))
        lines += [f"mkdir -p {below}", f"mount --bind {q(str(base))} {below}"]
    source, repository = f"{q(str(home))}/{SOURCE}", q(str(layout.repository))
    venv = f"{q(str(layout.home))}/{SOURCE}/.venv"
    lines += [
        f"mkdir -p {venv} {folder}/changed {folder}/scratch",
        f"mount -t overlay overlay {venv}"
        f" -o lowerdir={environment},upperdir={folder}/changed,workdir={folder}/scratch",
        f"touch {venv}/.installed-sample",  # 'make install' has nothing to download
    ]
    lines += [
        f"mount --rbind {q(str(layout.home))} {q(str(home))}",
        "mount -t tmpfs tmpfs /run",
        "mkdir -p /run/sshd",
        f"exec 4>>{folder}/sshd.log",
        f"mount --bind {folder}/ssh /mnt",
        f"mount --bind {folder}/tmp /tmp",
        f"mkdir -p {repository} && mount --rbind {source} {repository}",
        f"cd {q(str(home))}",
        "echo up",
        "read -r _",
        "exec /usr/sbin/sshd -D -e -f /mnt/sshd_config 2>&4 </dev/null >/dev/null"
        if not is_operator
        else "exec sleep infinity </dev/null >/dev/null",
    ]
    return "\n".join(lines) + "\n"


def sshd_config(address: IPv4Address) -> str:
    """Keys only, on one address, without any file of the machine's own sshd."""
    return "\n".join(
        (
            f"ListenAddress {address}",
            "Port 22",
            "HostKey /mnt/host_key",
            "AuthorizedKeysFile /mnt/authorized_keys",
            "PidFile none",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "MaxStartups 50",
            "ClientAliveInterval 5",
            "ClientAliveCountMax 2",
            "MaxSessions 50",
            "Subsystem sftp internal-sftp",
            "",
        )
    )


@dataclass
class Host:
    """One host.

    Parameters
    ----------
    name : str
    address : IPv4Address
    layout : Layout
    is_operator : bool
        Has no sshd, and gives the commands.
    """

    name: str
    address: IPv4Address
    layout: Layout
    is_operator: bool = False
    _started: "subprocess.Popen[str] | None" = field(default=None, repr=False)
    pid: int = 0

    def prepare(self, key: Path, table: str) -> None:
        """Files of a new host; `key` may log in."""
        home, ssh = self.layout.home, self.layout.ssh
        for folder in (home / ".ssh", ssh, self.layout.folder / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        (self.layout.folder / "tmp").chmod(0o1777)
        for folder in (home, home / ".ssh", ssh):
            folder.chmod(0o700)
        (self.layout.folder / "hosts").write_text(table, encoding="utf-8")
        (ssh / "sshd_config").write_text(sshd_config(self.address), encoding="utf-8")
        (ssh / "authorized_keys").write_text(public(key), encoding="utf-8")
        make_key(ssh / "host_key")
        shutil.copy(key, home / ".ssh" / "key")
        (home / ".ssh" / "key").chmod(0o600)

    def boot(self) -> None:
        """Start the namespaces; they wait for :meth:`go`, and end with this process."""
        script = boot_script(self.layout, self.name, Path.home(), self.is_operator)
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--mount",
                   "--uts", "--ipc", "--fork", "--kill-child=KILL", "--mount-proc",
                   "bash", "-c", script]  # fmt: skip
        log = (self.layout.folder / "boot.log").open("a", encoding="utf-8")
        with log:
            self._started = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment(), start_new_session=True,
            )  # fmt: skip
        assert self._started.stdout is not None
        if self._started.stdout.readline().strip() != "up":
            said = (self.layout.folder / "boot.log").read_text(encoding="utf-8").strip()
            raise DpaError(f"{self.name} does not boot: {said}", "run it as root, on Linux")
        [self.pid] = children(self._started.pid)

    def go(self) -> None:
        """The network is there: let sshd start."""
        assert self._started is not None
        assert self._started.stdin is not None
        self._started.stdin.write("go\n")
        self._started.stdin.flush()

    @property
    def lives(self) -> bool:
        """Whether it has been started and not killed."""
        return self._started is not None and self._started.poll() is None

    def command(self, *words: str, env: Mapping[str, str] | None = None) -> list[str]:
        """`words` as a command to be run inside."""
        named = [f"{name}={value}" for name, value in {**environment(), **(env or {})}.items()]
        where = Path.home() if not self.is_operator else self.layout.repository
        return ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid",
                "env", "-i", f"--chdir={where}", *named, *words]  # fmt: skip

    def run(
        self, *words: str, seconds: float = 120.0, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside, and wait for it.

        Raises
        ------
        DpaError
            It took too long, or failed; with its last lines.
        """
        done = self.attempt(*words, seconds=seconds, env=env)
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines()[-25:]
            raise DpaError(
                f"{shlex.join(words)[:300]} on {self.name} ended with {done.returncode}:\n"
                + "\n".join(lines)
            )
        return done

    def attempt(
        self, *words: str, seconds: float = 120.0, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """As :meth:`run`, whatever it ends with."""
        try:
            return subprocess.run(
                self.command(*words, env=env), capture_output=True, text=True, check=False,
                timeout=seconds, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as e:
            raise DpaError(f"{shlex.join(words)[:300]} on {self.name}: no end after {seconds:g} s")\
                from e  # fmt: skip

    def start(
        self, *words: str, log: Path, env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a command inside, its output in `log`."""
        with log.open("ab") as out:
            return subprocess.Popen(
                self.command(*words, env=env), stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL to the first process, and so to all of them."""
        if self._started is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._started.wait(2.0)
        self._started.kill()
        self._started.wait()
        for stream in (self._started.stdin, self._started.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._started, self.pid = None, 0

    def cpu_seconds(self) -> float:
        """Processor time of everything that lives there, and of what ended and was waited for."""
        return sum(map(_cpu_seconds, members(self.pid))) if self.pid else 0.0

    def titles(self) -> list[str]:
        """What the processes that live there call themselves."""
        return [title for pid in members(self.pid) if (title := _title(pid))] if self.pid else []

    def runs(self, beginning: str) -> int:
        """How many processes live there whose titles begin so."""
        return sum(title.startswith(beginning) for title in self.titles())

    def memory_mib(self) -> float:
        """Proportional memory of everything that lives there."""
        return sum(map(_memory_kib, members(self.pid))) / 1024 if self.pid else 0.0


def environment() -> dict[str, str]:
    """Variables of a new host: nothing of ours."""
    return {"HOME": str(Path.home()), "USER": USER, "LOGNAME": USER, "PATH": SBIN,
            "LANG": "C.UTF-8", "TERM": "dumb"}  # fmt: skip


def make_key(path: Path) -> None:
    """A key without a passphrase, unless it is there."""
    if not path.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dpa-hosts", "-f", str(path)],
            check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip


def public(key: Path) -> str:
    """The public half of `key`."""
    return key.with_name(key.name + ".pub").read_text(encoding="utf-8")


def children(pid: int) -> list[int]:
    """Processes started by `pid`."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]


def members(first: int) -> list[int]:
    """Processes in the namespace of processes that `first` is in, as this machine numbers them."""
    wanted = _namespace(first)
    return [pid for pid in _all_processes() if wanted and _namespace(pid) == wanted]


def _all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _cpu_seconds(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return sum(map(int, text.rpartition(")")[2].split()[11:15])) / TICKS


def _title(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return words.replace(b"\0", b" ").decode("utf-8", "replace").strip()


def _memory_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def wait_for_port(host: Host, seen_from: Host, port: int = 22, address: str = "") -> None:
    """Until `port` of `host`, at its address or another, accepts a connection."""
    until = time.monotonic() + BOOT_SECONDS
    where = (address or str(host.address), port)
    code = f"import socket; socket.create_connection({where!r}, 2).close()"
    while time.monotonic() < until:
        if not seen_from.attempt(sys.executable, "-c", code, seconds=10.0).returncode:
            return
        time.sleep(LOOK_SECONDS)
    raise DpaError(f"{host.name}: port {port} does not answer", f"see {host.layout.folder}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a command that was started inside a host."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
