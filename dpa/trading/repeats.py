"""Trouble that goes on is told at once, then seldom, and once more when it is over.

What a step raises may be raised again a second later, and again. Each *different* trouble is told
when it is first met; the same one again after a minute, then after pauses that double up to an
hour, each time with how often it was met; and when it has not been met for a minute, that it is
over.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
QUIET = timedelta(minutes=1)  # without it, until it is over
MOST = 100  # different ones kept in mind; the oldest are forgotten, and told anew


@dataclass
class Repeated:
    """How often something was met, and when it is told next.

    Parameters
    ----------
    times : int
    first, last : datetime
        When it was met.
    tell_at : datetime
        The same again is told from then on.
    pause : timedelta
        After the telling before.
    """

    times: int
    first: datetime
    last: datetime
    tell_at: datetime
    pause: timedelta


class Repeats:
    """Keeps in mind what was told; the words of a trouble are what tells it from others."""

    def __init__(self) -> None:
        self._met: dict[str, Repeated] = {}

    def met(self, words: str, now: datetime) -> int:
        """It is there, at `now`; how often it was met by now where it is to be told, else 0."""
        known = self._met.get(words)
        if known is None:
            while len(self._met) >= MOST:
                del self._met[next(iter(self._met))]
            self._met[words] = Repeated(1, now, now, now + FIRST_PAUSE, FIRST_PAUSE)
            return 1
        known.times += 1
        known.last = now
        if now < known.tell_at:
            return 0
        known.pause = min(2 * known.pause, LONGEST_PAUSE)
        known.tell_at = now + known.pause
        return known.times

    def over(self, now: datetime) -> tuple[tuple[str, Repeated], ...]:
        """What has not been met for a minute; each once."""
        found = tuple((w, r) for w, r in self._met.items() if now - r.last >= QUIET)
        for words, _ in found:
            del self._met[words]
        return found
