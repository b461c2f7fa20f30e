"""The kill switch from outside: it needs no trader, no cluster and no journal.

The durable switch is halted first, so that a trader that lives sends nothing more and none that
starts will; then every order is cancelled through a connection of its own; then it is looked
whether they are gone. Nothing that goes wrong on the way keeps the next step from being tried.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from dpa.clock import Clock
from dpa.errors import DpaError, HaltError
from dpa.trading.broker import Broker, OrderSaid
from dpa.trading.switch import Switch

log = logging.getLogger("dpa.trading")
PAUSE_SECONDS = 0.5
CANCELS = 3  # asked for again while something is open
ALONE_SECONDS = 5.0  # for a trader that lives to cancel by itself, where the broker was not told


@dataclass(frozen=True)
class Killed:
    """What a kill did.

    Parameters
    ----------
    seconds : float
        From the request to the last cancel handed over.
    cancels : int
        Messages sent, the one that cancels everything included.
    waiting : int
        Cancels that wait for their turn at the broker.
    working : tuple of str
        Refs of orders, of anybody, that the broker still had open when asked afterwards; before,
        where it gave no answer.
    verified : bool
        The broker gave a complete answer, and nothing was open.
    problems : tuple of str
        What went wrong on the way, in words.
    """

    seconds: float
    cancels: int
    waiting: int
    working: tuple[str, ...]
    verified: bool
    problems: tuple[str, ...] = ()


async def kill(
    switch: Switch,
    connect: Callable[[], Awaitable[Broker]],
    clock: Clock,
    sleep: Callable[[float], Awaitable[None]],
    by: str,
    why: str,
    seconds: float = 30.0,
    is_ours: Callable[[OrderSaid], bool] = lambda word: True,
) -> Killed:
    """Halt the switch, cancel everything at the broker, and wait until it is gone.

    Parameters
    ----------
    switch : Switch
    connect : callable
        A connected broker; its client id is not the trader's, so that both can be connected.
    clock : Clock
    sleep : callable
    by, why : str
        Who asked, and the reason.
    seconds : float
        How long to look whether orders are gone; less where nothing could be cancelled, and no
        longer than orders of ours are open where the broker lets only those be cancelled.
    is_ours : callable
        Whether an open order can be ours.
    """
    began = clock.elapsed()
    problems: list[str] = []
    try:
        switch.halt(by, why)
    except HaltError as e:
        log.critical("the switch cannot be halted: %s", e)
        problems.append(f"the switch cannot be halted: {e}")
    broker = await _connected(connect, problems)
    if broker is None:
        return Killed(clock.elapsed() - began, 0, 0, (), False, tuple(problems))
    sent, tried, at = 0, 0, began
    while True:
        if tried < CANCELS:
            tried += 1
            if await _cancel_all(broker, problems):
                sent, at = sent + 1, clock.elapsed()
        found = await _open(broker)
        if found == () or (found and not sent and not any(map(is_ours, found))):
            break
        passed = clock.elapsed() - began
        if passed >= seconds or (not sent and tried >= CANCELS and passed >= ALONE_SECONDS):
            break
        await sleep(PAUSE_SECONDS)
    if found is None:
        problems.append("the broker did not tell which orders are open")
    problems = list(dict.fromkeys(problems))
    return Killed(at - began, sent, 0, _refs(found or ()), found == (), tuple(problems))


async def _connected(
    connect: Callable[[], Awaitable[Broker]], problems: list[str]
) -> Broker | None:
    try:
        return await connect()
    except DpaError as e:
        log.critical("no connection to cancel through: %s", e)
        problems.append(f"no connection to cancel through: {e}")
        return None


async def _cancel_all(broker: Broker, problems: list[str]) -> bool:
    try:
        await broker.cancel_all()
    except DpaError as e:
        log.critical("cancel of everything: %s", e)
        problems.append(f"the broker was not told to cancel: {e}")
        return False
    return True


async def open_orders(broker: Broker) -> tuple[str, ...] | None:
    """Return refs of all orders open at a broker; None where it does not tell everything."""
    found = await _open(broker)
    return None if found is None else _refs(found)


def _refs(words: Iterable[OrderSaid]) -> tuple[str, ...]:
    return tuple(word.ref or f"order {word.perm_id}" for word in words)


async def _open(broker: Broker) -> tuple[OrderSaid, ...] | None:
    try:
        snapshot = await broker.snapshot()
    except DpaError:
        return None
    return snapshot.open_orders if snapshot.complete else None
