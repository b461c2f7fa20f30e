"""When what happens at the venue: its clock, and what is due."""

import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from dpa.clock import Clock

Action = Callable[[], None]


class VenueClock:
    """Time at the venue: it stands still between events, or runs with another clock.

    Parameters
    ----------
    moment : datetime
        Where it begins, time zone attached.
    source : Clock, optional
        Runs it; None: nothing moves it but :meth:`set`.
    speed : float
        Seconds here in a second of `source`.
    """

    def __init__(self, moment: datetime, source: Clock | None = None, speed: float = 0.0) -> None:
        self._start = self._moment = moment.astimezone(UTC)
        self._source, self.speed = source, speed
        self._anchor = source.elapsed() if source else 0.0

    def set(self, moment: datetime) -> None:
        """Move to a moment; never backwards, also where it has run past it already."""
        self._moment = max(moment, self.now())
        if self._source:
            self._anchor = self._source.elapsed()

    def now(self) -> datetime:
        """The moment, UTC."""
        if self._source is None or self.speed == 0.0:
            return self._moment
        passed = (self._source.elapsed() - self._anchor) * self.speed
        return self._moment + timedelta(seconds=passed)

    def elapsed(self) -> float:
        """Seconds since it began."""
        return (self.now() - self._start).total_seconds()


class Turn(IntEnum):
    """What comes first of what happens at the same moment."""

    OPEN = 0
    STEP = 1
    TIMER = 2
    CLOSE = 3


class Agenda:
    """Actions by moment; those of one moment by turn, then in the order they were written down."""

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, Turn, int, Action]] = []
        self._count = itertools.count()

    def add(self, moment: datetime, action: Action, turn: Turn = Turn.TIMER) -> None:
        """Write down an action."""
        heapq.heappush(self._heap, (moment, turn, next(self._count), action))

    @property
    def next_moment(self) -> datetime | None:
        """When something is due; None: nothing ever is."""
        return self._heap[0][0] if self._heap else None

    def run(self, moment: datetime) -> int:
        """Do all that is due at or before a moment, also what it leads to; how much it was."""
        done = 0
        while self._heap and self._heap[0][0] <= moment:
            action = heapq.heappop(self._heap)[-1]
            action()
            done += 1
        return done

    def clear(self) -> None:
        """Forget everything."""
        self._heap.clear()
