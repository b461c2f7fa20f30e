"""The level of trading of an account, kept in one small file that outlives everything else.

Anyone may make it more severe at any time, from any process; only a named person makes it less
severe, and only what that person saw. What cannot be read is HALTED.

Who writes holds a lock, but a halt waits for it no longer than a second: then it goes into a file
of its own beside the other one, which no writer of the other one can replace. Trading is halted
while that file is there; only a resume by somebody who saw it takes it away.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path

from dpa.clock import Clock
from dpa.errors import HaltError, TransientError, UserError

LOCK_TRIES, LOCK_PAUSE_SECONDS = 100, 0.01
_MOST_BYTES = 65536
_MARK_DIGITS = 12


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


_Stat = tuple[int, int, int, int]
_NEVER_SET = SwitchState(Level.RUNNING, mark="never set")
_LOST = SwitchState(Level.HALTED, "dpa", "the file of the switch is gone", mark="gone")


class Switch:
    """The file.

    Parameters
    ----------
    path : Path
        Made when it is first set, mode 0600, with a ``.made`` file beside it that tells a file
        never made (RUNNING) from one that was lost (HALTED), a ``.lock`` for those who write, and a
        ``.halted`` of a halt that could not wait for it.
    clock : Clock
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._made = path.with_name(path.name + ".made")
        self._beside = path.with_name(path.name + ".halted")
        self._known: tuple[_Stat | None, ...] = ()  # of the files, when they were read last
        self._cached = self._state = _NEVER_SET
        self._read = self._was_there = False
        self._here: SwitchState | None = None  # a halt that could not be written
        self._mutex = threading.Lock()

    def read(self) -> SwitchState:
        """What it says now; never raises.

        One ``stat`` where nothing changed: cheap enough to ask before every send.
        """
        with self._mutex:
            state = self._now()
            self._state, self._read = state, True
            return state

    @property
    def level(self) -> Level:
        """``read().level``."""
        return self.read().level

    def pause(self, by: str, why: str) -> SwitchState:
        """At least PAUSED; returns what holds now.

        Raises
        ------
        TransientError
            Another process holds the switch for longer than a second.
        HaltError
            The file cannot be written; trading is halted then, as in :meth:`halt`.
        """
        return self._raise_to(Level.PAUSED, by, why)

    def flatten(self, by: str, why: str) -> SwitchState:
        """At least FLATTENING; returns what holds now and raises as :meth:`pause`."""
        return self._raise_to(Level.FLATTENING, by, why)

    def halt(self, by: str, why: str) -> SwitchState:
        """HALTED; the first halt keeps its reason. It waits for nobody for longer than a second.

        Raises
        ------
        HaltError
            The file could not be written. It was removed, which halts everybody; or, where even
            that was not possible, only this object is halted: the words say which.
        """
        return self._raise_to(Level.HALTED, by, why)

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
            Nobody is named, nothing was looked at, or the switch changed since it was seen.
        TransientError
            Another process holds the switch.
        """
        if not by.strip() or not why.strip():
            raise UserError("a resume without a name or a reason", "say who resumes, and why")
        mark = seen.mark if isinstance(seen, SwitchState) else seen
        if mark is None:
            if not self._read:
                raise UserError("a resume of something nobody looked at", "read the switch first")
            mark = self._state.mark
        try:
            with self._locked():
                if not self._resume(self._new(Level.RUNNING, by, why), mark):
                    now = self._fresh()
                    raise UserError(
                        f"the switch is {now.level.name} by now ({now.by}: {now.why})",
                        "look again, and resume what you see",
                    )
        except OSError as e:
            raise HaltError(
                f"{self.path}: cannot be written ({e.strerror}); it stays {self.level.name}",
                "mend the disk, then resume",
            ) from e
        return self.read()

    def _resume(self, running: SwitchState, over: str) -> bool:
        """Put RUNNING in the place of what has the mark `over`; False: it is something else.

        A halt beside the file goes into the file first, so that it holds all the while.
        """
        if self._fresh().mark != over:
            return False
        if self._beside.exists():
            halted = replace(self._content(self._beside), level=Level.HALTED)
            if not self._write(halted, over) or not self._take_away(halted):
                return False
            over = self._fresh().mark
        if not self._write(running, over):
            return False
        self._here = None
        return self._fresh().level is Level.RUNNING  # a halt may have come beside it

    def _take_away(self, seen: SwitchState) -> bool:
        """Remove the halt beside the file, where it is the one that was seen."""
        aside = self._beside.with_name(f".{self._beside.name}.{secrets.token_hex(8)}")
        os.rename(self._beside, aside)
        try:
            if self._content(aside).mark == seen.mark:
                return True
            with contextlib.suppress(FileExistsError):  # another one yet is there: it halts
                os.link(aside, self._beside)
            return False
        finally:
            aside.unlink(missing_ok=True)

    def _raise_to(self, level: Level, by: str, why: str) -> SwitchState:
        try:
            with self._locked(must=level is not Level.HALTED) as alone:
                if not alone:
                    self._put(self._new(level, by, why), self._beside)
                    return self.read()
                now = self._fresh()
                while now.level < level and not self._write(self._new(level, by, why), now.mark):
                    now = self._fresh()
        except OSError as e:
            self._fail(self._new(Level.HALTED, by, why), e)
        return self.read()

    def _fail(self, halted: SwitchState, error: OSError) -> None:
        self._here = replace(halted, mark="not written")
        try:
            self._made.touch(mode=0o600)
            self.path.unlink(missing_ok=True)
        except OSError:
            pass
        if self._look().level is Level.HALTED:
            raise HaltError(
                f"{self.path}: cannot be written ({error.strerror}); halted all the same",
                "mend the disk, then resume",
            ) from error
        raise HaltError(
            f"{self.path}: cannot be written ({error.strerror}); only this process is halted",
            "stop the trader's process, and cancel its orders at the broker",
        ) from error

    def _fresh(self) -> SwitchState:
        with self._mutex:
            self._known = ()
            return self._now()

    def _now(self) -> SwitchState:
        state = self._look()
        if self._here is None:
            return state
        return replace(self._here, mark=f"{self._here.mark} {state.mark}")

    def _look(self) -> SwitchState:
        """The state of the files; read again only where they are others."""
        try:
            known = _stat(self.path), _stat(self._beside)
        except OSError as e:
            return _unreadable(f"the switch cannot be looked at: {e.strerror}", b"")
        if known != self._known:
            state = self._missing() if known[0] is None else self._content(self.path)
            if known[1] is not None:
                state = _more_severe(state, self._content(self._beside))
            self._was_there = self._was_there or known[0] is not None
            self._cached, self._known = state, known if known[0] is not None else ()
        return self._cached

    def _missing(self) -> SwitchState:
        try:
            os.stat(self._made)
        except FileNotFoundError:
            return _LOST if self._was_there else _NEVER_SET
        except OSError as e:
            return _unreadable(f"the switch cannot be looked at: {e.strerror}", b"")
        return _LOST

    @staticmethod
    def _content(path: Path) -> SwitchState:
        try:
            with path.open("rb") as stream:
                text = stream.read(_MOST_BYTES)
        except OSError as e:
            return _unreadable(f"the switch cannot be read: {e.strerror}", b"")
        try:
            said = json.loads(text)
            since = datetime.fromisoformat(said["since"])
            state = SwitchState(Level[said["level"]], str(said["by"]), str(said["why"]), since)
        except (ValueError, KeyError, TypeError):
            return _unreadable("the file of the switch is damaged", text)
        return replace(state, mark=_mark(text))

    def _new(self, level: Level, by: str, why: str) -> SwitchState:
        return SwitchState(level, by, why, self._clock.now().astimezone(UTC))

    def _write(self, state: SwitchState, over: str) -> bool:
        """Put `state` in the place of the content marked `over`; False: it is another one."""
        return self._put(state, self.path, over)

    def _put(self, state: SwitchState, path: Path, over: str | None = None) -> bool:
        words = {
            "level": state.level.name,
            "by": state.by,
            "why": state.why,
            "since": state.since.isoformat() if state.since else "",
            "once": secrets.token_hex(8),  # so that no two contents have the same mark
        }
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(words, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if over is not None and self._fresh().mark != over:  # somebody was not alone
                return False
            self._made.touch(mode=0o600)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return True

    @contextlib.contextmanager
    def _locked(self, must: bool = True) -> Iterator[bool]:
        """One writer at a time; `must` not: after a second, go on all the same, and say so."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(self.path.name + ".lock")
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            alone = _lock(handle)
            if not alone and must:
                raise TransientError(
                    f"{self.path}: another process holds the switch", "try again in a moment"
                )
            yield alone
        finally:
            os.close(handle)


def _stat(path: Path) -> _Stat | None:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return None
    return there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns


def _more_severe(state: SwitchState, beside: SwitchState) -> SwitchState:
    """What holds of the file and of a halt beside it; its mark is of both."""
    kept = state if state.level is Level.HALTED else beside
    return replace(kept, level=Level.HALTED, mark=f"{state.mark} {beside.mark}")


def _lock(handle: int) -> bool:
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_SECONDS)
        else:
            return True
    return False


def _unreadable(why: str, text: bytes) -> SwitchState:
    return SwitchState(Level.HALTED, "dpa", why, mark=f"damaged {_mark(text)}")


def _mark(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:_MARK_DIGITS]
