"""Turns to send: never more than so many messages in any second, the urgent ones first."""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from enum import IntEnum

from dpa.clock import Clock
from dpa.errors import TransientError

_NAP_SECONDS = 5.0  # then the clock is read again: a simulated one may have run ahead
_LEAST_SECONDS = 1e-6  # less may not move a simulated clock at all
Sleep = Callable[[float], Awaitable[None]]


class Urgency(IntEnum):
    """Who goes first; equal ones go in the order they came."""

    CANCEL = 0
    ORDER = 1
    QUESTION = 2
    DATA = 3


class Pace:
    """At most `most` turns in any window of `seconds`.

    Unlike the client library's own limiter, nothing that waits here is ever lost without a word:
    when the connection goes, whoever waits is told that nothing was sent.

    Parameters
    ----------
    most : int
        Turns in a window; 0: no limit.
    clock : Clock
    sleep : callable
        ``await sleep(seconds)``.
    seconds : float
        Length of the window.
    """

    def __init__(
        self, most: int, clock: Clock, sleep: Sleep = asyncio.sleep, seconds: float = 1.0
    ) -> None:
        self._most = most
        self._clock = clock
        self._sleep = sleep
        self._seconds = seconds
        self._taken: deque[float] = deque()
        self._not_before = float("-inf")
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._number = itertools.count()
        self._pump: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return len(self._waiting)

    def _wait_seconds(self) -> float:
        """Until a turn is free."""
        now = self._clock.elapsed()
        while self._taken and now >= self._taken[0] + self._seconds:
            self._taken.popleft()
        if now < self._not_before:
            return self._not_before - now
        if not self._most or len(self._taken) < self._most:
            return 0.0
        return self._taken[0] + self._seconds - now

    async def turn(self, urgency: Urgency) -> None:
        """Come back when it may be sent.

        Raises
        ------
        TransientError
            The connection went while waiting; nothing was sent.
        """
        if not self._waiting and self._wait_seconds() <= 0:
            self._taken.append(self._clock.elapsed())
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._number), future))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        await future

    async def _run(self) -> None:
        while self._waiting:
            seconds = self._wait_seconds()
            if seconds > 0:
                await self._sleep(min(max(seconds, _LEAST_SECONDS), _NAP_SECONDS))
                continue
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                self._taken.append(self._clock.elapsed())
                future.set_result(None)

    def pause(self, seconds: float) -> None:
        """No turns for a while: whoever reads has said that it was too much."""
        self._not_before = self._clock.elapsed() + seconds

    def break_off(self, why: str) -> None:
        """Tell all who wait that nothing was sent, and forget what was taken."""
        waiting, self._waiting = self._waiting, []
        self._taken.clear()
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(TransientError(f"not sent: {why}"))
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None
