"""The level of trading of an account, kept in one small file that outlives everything else.

Anyone may make it more severe at any time, from any process; only a named person makes it less
severe, and only what that person saw. What cannot be read is HALTED.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from pathlib import Path

from dpa.clock import Clock

LOCK_SECONDS = 1.0


class Level(IntEnum):
    """How much trading may do; a higher number is more severe."""

    RUNNING = 0
    PAUSED = 1  # no new risk
    FLATTENING = 2  # everything is being closed
    HALTED = 3  # nothing but cancels


@dataclass(frozen=True)
class SwitchState:
    """What the file says.

    Parameters
    ----------
    level : Level
    by, why : str
        Who set it, and the reason.
    since : datetime, optional
        When, UTC; None: never set, or not to be read.
    mark : str
        Of this very content; a resume names the one that was seen.
    """

    level: Level
    by: str = ""
    why: str = ""
    since: datetime | None = None
    mark: str = ""


class Switch:
    """The file.

    Parameters
    ----------
    path : Path
        Made when it is first set, mode 0600, with a ``.made`` file beside it that tells a file
        never made (RUNNING) from one that was lost (HALTED).
    clock : Clock
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        raise NotImplementedError

    def read(self) -> SwitchState:
        """What it says now; never raises. One ``stat`` where nothing changed: cheap enough to
        ask before every send."""
        raise NotImplementedError

    @property
    def level(self) -> Level:
        """``read().level``."""
        return self.read().level

    def pause(self, by: str, why: str) -> SwitchState:
        """At least PAUSED; returns what holds now."""
        raise NotImplementedError

    def flatten(self, by: str, why: str) -> SwitchState:
        """At least FLATTENING."""
        raise NotImplementedError

    def halt(self, by: str, why: str) -> SwitchState:
        """HALTED. Where the file cannot be written it is removed, which halts as well.

        Raises
        ------
        HaltError
            Neither was possible: this object is halted all the same, other processes are not.
        """
        raise NotImplementedError

    def resume(self, by: str, why: str, seen: SwitchState | str | None = None) -> SwitchState:
        """RUNNING again, by a named person.

        Parameters
        ----------
        by, why : str
            Not empty.
        seen : SwitchState or str, optional
            What the person looked at, or its mark; None: what this object read last. Something
            else in the file by now means that a later halt would be overwritten: refused.

        Raises
        ------
        UserError
            Nobody is named, or the switch changed since it was seen.
        """
        raise NotImplementedError
