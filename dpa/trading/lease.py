"""One trader an account: a lock on this machine, and a number that fences off whoever lost it."""

import fcntl
import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from dpa.clock import Clock
from dpa.errors import HaltError, TransientError
from dpa.trading.journal import Journal

_MOST_BYTES = 4096
_CURE = "let one trader run an account: see 'dpa trade status', 'dpa trade stop'"


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Parameters
    ----------
    name, host : str
    pid, token : int
    renewed_at : datetime
        UTC.
    released : bool
        It gave the lease up itself.
    """

    name: str
    host: str
    pid: int
    token: int
    renewed_at: datetime
    released: bool = False

    def __str__(self) -> str:
        at = f"{self.renewed_at:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.name} (process {self.pid} on {self.host}, last heard of at {at})"


class Lease:
    """The right to trade an account.

    A holder that died on this machine is followed at once: the operating system drops its lock.
    One that lives but was silent for `seconds` loses its place: the token in the journal is
    raised, and from then on its journal refuses it every write, and so everything it would send.
    One on another machine, where a disk is shared, is waited for until it has been silent for so
    long, and refused to be followed as soon as it is heard of again.

    Parameters
    ----------
    path : Path
        Lock file, on a disk of this machine, beside the journal.
    clock : Clock
    seconds : float
        Silence after which a holder may be followed.
    """

    def __init__(self, path: Path, clock: Clock, seconds: float = 15.0) -> None:
        self.path = path
        self._clock = clock
        self._seconds = seconds
        self._handle: int | None = None
        self._mine: Holder | None = None
        self._elsewhere: Holder | None = None  # another machine's, as first seen
        self._written_at = 0.0

    def take(self, journal: Journal, name: str) -> int:
        """Become the holder; returns the token, above every one before.

        Raises
        ------
        HaltError
            Another holder is alive; says who, where and since when.
        TransientError
            Another machine's may be alive: it was heard of lately, but not since the first look.
        """
        if self._mine is not None:
            raise HaltError(f"{self.path}: held already by this very process")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = self._open_free()
        try:
            token = journal.take_over(name)
            now = self._clock.now().astimezone(UTC)
            mine = Holder(name, socket.gethostname(), os.getpid(), token, now)
            self._write(handle, mine)
        except BaseException:
            os.close(handle)
            raise
        self._handle, self._mine = handle, mine
        self._written_at = self._clock.elapsed()
        return token

    def renew(self) -> None:
        """Show that the holder is alive; written at most every third of `seconds`.

        Raises
        ------
        HaltError
            The lease was lost: send nothing any more.
        """
        if self._mine is None or self._handle is None or not self.held:
            raise HaltError(f"{self.path}: the lease was lost", "stop this trader")
        if self._clock.elapsed() - self._written_at < self._seconds / 3:
            return
        now = self._clock.now().astimezone(UTC)
        mine = Holder(self._mine.name, self._mine.host, self._mine.pid, self._mine.token, now)
        self._write(self._handle, mine)
        self._mine, self._written_at = mine, self._clock.elapsed()

    def release(self) -> None:
        """Give it up, so that another machine need not wait; nothing happens where it was lost."""
        handle, mine = self._handle, self._mine
        if handle is not None:
            if mine is not None and self.held:
                with suppress(OSError):  # others wait then until it is silent
                    self._write(handle, replace(mine, released=True))
            os.close(handle)
        self._handle, self._mine = None, None

    @property
    def held(self) -> bool:
        """Whether this object holds it still: the lock file is the one it locked."""
        return self._handle is not None and _same_file(self._handle, self.path)

    @property
    def token(self) -> int:
        """The token; 0: not held by this object."""
        return self._mine.token if self._mine else 0

    @classmethod
    def holder(cls, path: Path) -> Holder | None:
        """Who held it last by the file, alive or not; None where nobody can be read there."""
        try:
            said = json.loads(path.read_bytes()[:_MOST_BYTES])
            renewed_at = datetime.fromisoformat(said["renewed_at"])
            released = bool(said.get("released", False))
            return Holder(
                said["name"], said["host"], said["pid"], said["token"], renewed_at, released
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @classmethod
    def is_locked(cls, path: Path) -> bool:
        """Whether a living process of this machine holds it."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _locked(handle)
        finally:
            os.close(handle)

    def _open_free(self) -> int:
        """A handle of the lock file, locked; that of a silent holder is put aside first."""
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if _locked(handle):
                if not _same_file(handle, self.path):  # put aside by another one meanwhile
                    os.close(handle)
                    continue
                self._refuse_elsewhere(handle)
                return handle
            try:
                self._refuse_alive()
                if _same_file(handle, self.path):
                    os.replace(self.path, self.path.with_name(self.path.name + ".lost"))
            finally:
                os.close(handle)

    def _refuse_alive(self) -> None:
        there = Lease.holder(self.path)
        if there is None or not self._silent(there):
            if there is not None and there.host != socket.gethostname():
                self._doubt(there)
            said = there or "a process that wrote no name yet"
            raise HaltError(f"{self.path}: another trader is running, {said}", _CURE)

    def _refuse_elsewhere(self, handle: int) -> None:
        """The lock of another machine is not seen here; its file is, where a disk is shared."""
        there = Lease.holder(self.path)
        if there is None or there.host == socket.gethostname() or self._silent(there):
            self._elsewhere = None
            return
        os.close(handle)
        self._doubt(there)

    def _doubt(self, there: Holder) -> NoReturn:
        """Refuse for now, and for good once a holder elsewhere was heard of again."""
        first, self._elsewhere = self._elsewhere, there
        if first is not None and (first.token, first.renewed_at) != (there.token, there.renewed_at):
            raise HaltError(f"{self.path}: another trader is running, {there}", _CURE)
        raise TransientError(f"{self.path}: another trader may be running, {there}", _CURE)

    def _silent(self, holder: Holder) -> bool:
        silence = (self._clock.now() - holder.renewed_at).total_seconds()
        return holder.released or silence > self._seconds

    @staticmethod
    def _write(handle: int, holder: Holder) -> None:
        words = {
            "name": holder.name,
            "host": holder.host,
            "pid": holder.pid,
            "token": holder.token,
            "renewed_at": holder.renewed_at.isoformat(),
            "released": holder.released,
        }
        text = json.dumps(words).encode()
        os.pwrite(handle, text.ljust(os.fstat(handle).st_size), 0)  # in place: locks are of files


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        here, there = os.fstat(handle), path.stat()
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
