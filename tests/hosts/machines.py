"""The hosts together: made, plugged in, killed, and cleaned away whatever happened."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from dpa.errors import UserError
from tests.hosts.host import SOURCE, Host, Layout, make_key, missing_programs, wait_for_port
from tests.hosts.network import (
    OPERATOR,
    AddressPlan,
    build_bridge,
    plan_addresses,
    plug_in,
    taken_networks,
    unplug,
)

ROOT = Path("/var/tmp/dpa-hosts")
MOUNTS = Path("/proc/self/mountinfo")
LOCK, STATE = "lock", "state.json"
REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ("dpa", "tune", "serve", "Makefile", "pyproject.toml", "constraints.txt", "README.md",
         "LICENSE", "cluster-onprem.yaml")  # fmt: skip


@dataclass
class Machines:
    """An operator and hosts, for the length of a ``with``.

    Parameters
    ----------
    names : sequence of str
        Of the hosts; the first is the head.
    root : Path
        Where runs have their folders.
    keep : bool
        Leave the folder, for a look at the logs; the hosts go all the same.
    """

    names: Sequence[str]
    root: Path = ROOT
    keep: bool = False
    plan: AddressPlan = field(init=False)
    hosts: dict[str, Host] = field(init=False, default_factory=dict)
    folder: Path = field(init=False)
    _lock: int = field(init=False, default=-1)

    def __enter__(self) -> "Machines":
        check_machine()
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = Path(tempfile.mkdtemp(prefix="run.", dir=self.root))
        self._lock = lock(self.folder)
        try:
            self.plan = plan_addresses(self.names, taken_networks())
            self.shared.mkdir()
            make_key(self.key)
            for name in (OPERATOR, *self.names):
                layout = Layout(self.folder / name, self.shared, REPOSITORY, Path(sys.prefix))
                host = Host(name, self.plan.of(name), layout, name == OPERATOR)
                host.prepare(self.key, self.plan.table())
                self.hosts[name] = host
            copy_source(self.operator.layout.home / SOURCE)
            self.boot(OPERATOR)
            for name in self.names:
                self.boot(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def shared(self) -> Path:
        """The folder that every host sees at ``/srv/dpa``."""
        return self.folder / "shared"

    @property
    def key(self) -> Path:
        """Logs in everywhere; made for this run."""
        return self.folder / "key"

    @property
    def operator(self) -> Host:
        """Who gives the commands."""
        return self.hosts[OPERATOR]

    @property
    def head(self) -> Host:
        """The first of the hosts."""
        return self.hosts[self.names[0]]

    def boot(self, name: str) -> None:
        """Start a host, new or killed, and plug it in."""
        host = self.hosts[name]
        host.boot()
        if host.is_operator:
            build_bridge(host.pid, self.plan)
        else:
            plug_in(self.operator.pid, host.pid, name, self.plan)
        self._write_state()
        host.go()
        if not host.is_operator:
            wait_for_port(host, self.operator)

    def kill(self, name: str) -> None:
        """The end of a machine: the cable first, so that nobody is told, then every process."""
        unplug(self.operator.pid, name, self.plan)
        self.hosts[name].kill()
        self._write_state()

    def close(self) -> None:
        """End every host, the operator and with it the bridge last; remove the folder."""
        with uninterrupted():
            for host in reversed(list(self.hosts.values())):
                host.kill()
            if not self.keep:
                remove(self.folder)
            os.close(self._lock)

    def _write_state(self) -> None:
        pids = {name: [host.pid, started(host.pid)] for name, host in self.hosts.items()
                if host.pid}  # fmt: skip
        (self.folder / STATE).write_text(json.dumps(pids), encoding="utf-8")


def copy_source(folder: Path) -> None:
    """The checkout as the operator has it: what is edited meanwhile does not reach the hosts."""
    folder.mkdir(parents=True)
    for name in PARTS:
        if (REPOSITORY / name).is_dir():
            without = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, folder / name, ignore=without)
        else:
            shutil.copy2(REPOSITORY / name, folder / name)


def check_machine() -> None:
    """Linux, root, and the programs.

    Raises
    ------
    UserError
        Says what is missing.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise UserError("hosts of one's own need Linux and root", "sudo make cluster-test")
    if missing := missing_programs():
        raise UserError(
            f"{', '.join(missing)}: not on this machine",
            "on Debian or Ubuntu: apt-get install openssh-server rsync iproute2 util-linux",
        )


# runs that ended badly


def clean(root: Path = ROOT) -> list[Path]:
    """End and remove what runs left that are over; their folders. Running ones are left alone."""
    found = []
    for folder in sorted(root.glob("run.*")) if root.is_dir() else ():
        try:
            handle = lock(folder)
        except UserError:
            continue
        with uninterrupted():
            end_recorded(folder)
            remove(folder)
        os.close(handle)
        found.append(folder)
    return found


def lock(folder: Path) -> int:
    """Hold `folder` as that of a living run; the handle.

    Raises
    ------
    UserError
        It is another's.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(handle)
        raise UserError(f"{folder}: a run is alive there", "let it end, or stop it") from e
    return handle


def end_recorded(folder: Path) -> None:
    """SIGKILL to the first processes of hosts that `folder` names, if they are still the same."""
    try:
        recorded = json.loads((folder / STATE).read_text(encoding="utf-8"))
        hosts = [(int(pid), int(begun)) for pid, begun in recorded.values()]
    except (OSError, ValueError, TypeError, AttributeError):
        return
    for pid, begun in hosts:
        if started(pid) == begun:
            os.kill(pid, signal.SIGKILL)


def started(pid: int) -> int:
    """When a process began, in ticks since boot; 0: there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def remove(folder: Path) -> None:
    """Remove the folder of a run, and the root when it was the last.

    Raises
    ------
    UserError
        Something is mounted below it, so that a removal would reach into another folder.
    """
    mounts = MOUNTS.read_text(encoding="utf-8")
    if below := [line.split()[4] for line in mounts.splitlines()
                 if Path(line.split()[4]).is_relative_to(folder)]:  # fmt: skip
        raise UserError(f"{below[0]}: is mounted", f"umount it, then remove {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is over: a second one does not stop the cleaning."""
    kinds = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, kinds)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
