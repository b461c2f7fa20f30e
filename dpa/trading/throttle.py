"""Messages to a broker: never more than so many a second, cancels first, nothing waits for ever.

Nothing here sleeps or sends: who sends asks what may go at a moment, and when to ask again. That
way the same queue runs by the wall clock and in a replay.
"""

import heapq
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Priority(IntEnum):
    """What goes first."""

    CANCEL = 0
    REDUCE = 1
    ADD = 2
    LIMIT = 3


@dataclass(frozen=True)
class Waiting(Generic[Item]):
    """Something to be sent.

    Parameters
    ----------
    key : str
        What it is about; a later message with the same key and priority takes its place.
    priority : Priority
    since : datetime
    item
        What is sent; the queue does not look into it.
    """

    key: str
    priority: Priority
    since: datetime
    item: Item


class Throttle(Generic[Item]):
    """A bounded queue and a budget of messages.

    In no interval of a second more than `messages_per_second` are let go, whatever happened in
    the second before: stricter than a bucket that may be emptied and refilled within a second.
    Below one a second, one every ``1 / messages_per_second`` seconds.

    Parameters
    ----------
    messages_per_second : float
    queue_seconds : float
        What waits longer is given up; cancels never are.
    most : int
        Things that may wait; cancels always may.
    """

    def __init__(self, messages_per_second: float, queue_seconds: float, most: int) -> None:
        self._burst = max(1, int(messages_per_second))
        self._window = timedelta(seconds=self._burst / messages_per_second)
        self._age = timedelta(seconds=queue_seconds)
        self._most = most
        self._sent: deque[datetime] = deque()
        self._heap: list[tuple[int, int]] = []
        self._waiting: dict[int, Waiting[Item]] = {}
        self._tickets: dict[tuple[Priority, str], int] = {}
        self._ticket = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, key: str, priority: Priority, item: Item, now: datetime) -> bool:
        """Queue something; False where the queue is full."""
        ticket = self._tickets.get((priority, key))
        if ticket is not None:
            self._waiting[ticket] = Waiting(key, priority, self._waiting[ticket].since, item)
            return True
        if len(self._waiting) >= self._most and priority is not Priority.CANCEL:
            return False
        self._ticket += 1
        self._waiting[self._ticket] = Waiting(key, priority, now, item)
        self._tickets[priority, key] = self._ticket
        heapq.heappush(self._heap, (int(priority), self._ticket))
        return True

    def take(self, now: datetime, least: Priority = Priority.LIMIT) -> Waiting[Item] | None:
        """Return what goes next, its message counted as sent; none where nothing may go now.

        Parameters
        ----------
        now : datetime
        least : Priority
            Nothing less urgent is taken.
        """
        if not self._waiting:
            self._heap.clear()
            return None
        if self._full(now):
            return None
        while True:
            priority, ticket = self._heap[0]
            if ticket in self._waiting:
                if priority > least:
                    return None
                self.spend(now)
                heapq.heappop(self._heap)
                return self._remove(ticket)
            heapq.heappop(self._heap)

    def spend(self, now: datetime) -> None:
        """Count a message that goes around the queue."""
        self._sent.append(now)

    def expired(self, now: datetime) -> tuple[Waiting[Item], ...]:
        """Take out what has waited for too long."""
        late = [
            ticket
            for ticket, waiting in self._waiting.items()
            if waiting.priority is not Priority.CANCEL and now - waiting.since > self._age
        ]
        return tuple(self._remove(ticket) for ticket in late)

    def drop(self, key: str, priority: Priority | None = None) -> tuple[Waiting[Item], ...]:
        """Take out what waits about `key`; of one priority, or of all."""
        of = tuple(Priority) if priority is None else (priority,)
        tickets = [self._tickets[p, key] for p in of if (p, key) in self._tickets]
        return tuple(self._remove(ticket) for ticket in tickets)

    def holds(self, key: str, priority: Priority) -> bool:
        """Whether something waits about `key`."""
        return (priority, key) in self._tickets

    def next_at(self, now: datetime) -> datetime | None:
        """When to ask again; none where nothing waits."""
        if not self._waiting:
            return None
        return self._sent[0] + self._window if self._full(now) else now

    def _full(self, now: datetime) -> bool:
        if self._sent and now < self._sent[-1]:  # the clock was set back: count from here
            self._sent = deque([now] * len(self._sent))
        while self._sent and now - self._sent[0] >= self._window:
            self._sent.popleft()
        return len(self._sent) >= self._burst

    def _remove(self, ticket: int) -> Waiting[Item]:
        waiting = self._waiting.pop(ticket)
        del self._tickets[waiting.priority, waiting.key]
        return waiting
