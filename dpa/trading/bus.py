"""The bus: events go to handlers, and no handler can hurt another or the one who publishes."""

import asyncio
import inspect
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpa.clock import Clock
from dpa.trading.events import Alert, Event, Severity

log = logging.getLogger("dpa.trading")
Handler = Callable[[Any], Awaitable[None] | None]


@dataclass(eq=False)
class _Subscription:
    name: str
    handler: Handler
    kinds: tuple[type, ...]
    on_order_path: bool
    waits: bool  # whether it is a coroutine function
    waiting: deque[Event] = field(default_factory=deque)
    task: "asyncio.Task[None] | None" = None


class Bus:
    """Hands every event to every handler that asked for its kind.

    Plain handlers are called at once, in the order in which they subscribed. A handler that is a
    coroutine function gets its events one at a time, in order, in a task of its own; of those
    that wait for it the oldest are dropped when there are too many, and counted.

    Parameters
    ----------
    clock : Clock
        Dates the alerts about handlers.
    halt : callable, optional
        Called with words when a handler of the order path raises or loses an event: trading
        stops, since nobody knows what it missed.
    most_waiting : int
        Events that may wait for one coroutine handler.

    Notes
    -----
    :meth:`publish` never raises and never waits. An event that a handler publishes while another
    is handed out follows after it, so that all handlers see the same order. A handler that raises
    is counted in `failures` and reported as an :class:`~dpa.trading.events.Alert`.
    """

    def __init__(
        self, clock: Clock, halt: Callable[[str], None] | None = None, most_waiting: int = 10_000
    ) -> None:
        self._clock, self._halt, self._most_waiting = clock, halt, most_waiting
        self._subscriptions: list[_Subscription] = []
        self._ahead: deque[Event] = deque()
        self._handing_out = False
        self.published = 0
        self.failures: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def subscribe(
        self,
        handler: Handler,
        kinds: Sequence[type] = (),
        *,
        name: str = "",
        on_order_path: bool = False,
    ) -> Callable[[], None]:
        """Hand events to `handler` from now on.

        Parameters
        ----------
        handler : callable
            Takes an event; may be a coroutine function.
        kinds : sequence of type
            Of the events wanted; none: all.
        name : str
            In reports; the handler's own where none is given.
        on_order_path : bool
            Trading halts when it raises or loses an event.

        Returns
        -------
        callable
            Ends the subscription.
        """
        named = name or getattr(handler, "__qualname__", type(handler).__name__)
        waits = inspect.iscoroutinefunction(handler)
        subscription = _Subscription(named, handler, tuple(kinds), on_order_path, waits)
        self._subscriptions.append(subscription)

        def end() -> None:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
            subscription.waiting.clear()

        return end

    def publish(self, event: Event) -> None:
        """Hand an event out; returns when all plain handlers have had it."""
        self._ahead.append(event)
        if self._handing_out:
            return
        self._handing_out = True
        try:
            while self._ahead:
                self._hand_out(self._ahead.popleft())
        finally:
            self._handing_out = False

    def _hand_out(self, event: Event) -> None:
        self.published += 1
        for subscription in tuple(self._subscriptions):
            if subscription.kinds and not isinstance(event, subscription.kinds):
                continue
            if subscription.waits:
                self._enqueue(subscription, event)
            else:
                try:
                    subscription.handler(event)
                except Exception as e:  # a foreign handler: reported, and the others go on
                    self._failed(subscription, event, e)

    def _enqueue(self, subscription: _Subscription, event: Event) -> None:
        if len(subscription.waiting) >= self._most_waiting:
            subscription.waiting.popleft()
            self._dropped(subscription, event)
        subscription.waiting.append(event)
        if subscription.task is None or subscription.task.done():
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # no loop runs: drain() hands them out
                return
            subscription.task = loop.create_task(self._work(subscription))

    async def _work(self, subscription: _Subscription) -> None:
        while subscription.waiting:
            event = subscription.waiting.popleft()
            try:
                found = subscription.handler(event)
                if found is not None:
                    await found
            except Exception as e:  # a foreign handler: reported, and its next events go on
                self._failed(subscription, event, e)

    async def drain(self) -> None:
        """Wait until coroutine handlers have had all there is, and what they published of it."""
        while busy := [s for s in self._subscriptions if s.waiting or _works(s)]:
            for subscription in busy:
                task = subscription.task
                if task is None or task.done():
                    task = subscription.task = asyncio.create_task(self._work(subscription))
                await task

    def _failed(self, subscription: _Subscription, event: Event, error: Exception) -> None:
        self.failures[subscription.name] += 1
        log.error("handler %s failed on %s", subscription.name, _kind(event), exc_info=error)
        what = f"{subscription.name} failed on {_kind(event)}: {type(error).__name__}: {error}"
        self._report(subscription, "handler-failed", what, event)

    def _dropped(self, subscription: _Subscription, event: Event) -> None:
        self.dropped[subscription.name] += 1
        if self.dropped[subscription.name] == 1:
            what = f"{subscription.name} is too slow: events are dropped"
            self._report(subscription, "handler-slow", what, event)

    def _report(self, subscription: _Subscription, kind: str, what: str, event: Event) -> None:
        if subscription.on_order_path and self._halt is not None:
            try:
                self._halt(what)
            except Exception:  # publishing never raises; the state that cannot be written halts
                log.critical("trading could not be halted: %s", what, exc_info=True)
        if not isinstance(event, Alert):  # an alert about an alert would never end
            severe = Severity.CRITICAL if subscription.on_order_path else Severity.WARNING
            facts = {"handler": subscription.name}
            self.publish(Alert(self._clock.now(), severe, kind, what, facts))


def _works(subscription: _Subscription) -> bool:
    return subscription.task is not None and not subscription.task.done()


def _kind(event: Event) -> str:
    return type(event).__name__
