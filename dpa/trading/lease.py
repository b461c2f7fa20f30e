"""One trader an account: a lock on this machine, and a number that fences off whoever lost it."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dpa.clock import Clock
from dpa.trading.journal import Journal


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Parameters
    ----------
    name, host : str
    pid, token : int
    renewed_at : datetime
        UTC.
    """

    name: str
    host: str
    pid: int
    token: int
    renewed_at: datetime


class Lease:
    """The right to trade an account.

    A holder that died on this machine is followed at once (the operating system drops its lock).
    One that lives but was silent for `seconds` loses its place: the token in the journal is
    raised, and from then on its journal refuses it every write, and so everything it would send.

    Parameters
    ----------
    path : Path
        Lock file, on a disk of this machine, beside the journal.
    clock : Clock
    seconds : float
        Silence after which a holder may be followed.
    """

    def __init__(self, path: Path, clock: Clock, seconds: float = 15.0) -> None:
        raise NotImplementedError

    def take(self, journal: Journal, name: str) -> int:
        """Become the holder; returns the token, above every one before.

        Raises
        ------
        HaltError
            Another holder is alive; says who, where and since when.
        """
        raise NotImplementedError

    def renew(self) -> None:
        """Show that the holder is alive; a file written at most every third of `seconds`.

        Raises
        ------
        HaltError
            The lease was lost: send nothing any more.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Give it up; nothing happens where it was lost."""
        raise NotImplementedError

    @property
    def held(self) -> bool:
        """Whether this object holds it still, as far as the lock file says."""
        raise NotImplementedError

    @property
    def token(self) -> int:
        """The token, 0 before :meth:`take`."""
        raise NotImplementedError

    @classmethod
    def holder(cls, path: Path) -> Holder | None:
        """Who holds it by the file, alive or not; None where nobody ever did."""
        raise NotImplementedError
