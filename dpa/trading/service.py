"""A trader without Ray: everything it holds, built from settings, run, asked and told.

All that must outlive it is in ``STORAGE/trading``: the journal, the switch, the lease, and how it
was started. A trader that was killed is built again from these and goes on where it was.
"""

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from dpa.clock import SystemClock
from dpa.errors import DpaError, HaltError, TransientError, UserError
from dpa.telemetry.meters import Meters
from dpa.trading.broker import Broker
from dpa.trading.cash import difference_words
from dpa.trading.holding import NAME, Holding, Sleep
from dpa.trading.kill import Killed, kill
from dpa.trading.lease import Lease
from dpa.trading.meters import TradingMeters
from dpa.trading.own_connection import may_be_ours, own_connection
from dpa.trading.places import Places, Start
from dpa.trading.status import Seen
from dpa.trading.switch import Switch

WIND_UP_SECONDS, WIND_UP_PAUSE = 20.0, 0.1  # to cancel what works when it ends
KILL_SECONDS = 5.0  # to look whether orders are gone; less than a page waits for an answer
FIRST_RETRY, LONGEST_RETRY = 0.5, 30.0  # seconds between attempts to begin; doubled each time
LOOK_SECONDS = 5.0  # between readings of the status for metrics
log = logging.getLogger("dpa.trading")


class TradingService:
    """Builds a trader, runs it, answers for it.

    Parameters
    ----------
    start : Start
        How it was told to trade.
    sleep : callable
        Waits so many seconds by the wall clock.
    uniform : callable
        A random number between two.
    steps : callable, optional
        Handed to the journal; for tests that crash there.
    meters : Meters, optional
        Counts what is done; the status is read for it every `LOOK_SECONDS` by the wall clock.

    Attributes
    ----------
    state : str
        ``starting``, ``waiting`` (for the broker or the decision service; tried again),
        ``trading``, ``ended`` (a replay is over), ``refused`` (nobody may trade here) or
        ``stopped``.
    why : str
        Of the state.
    """

    def __init__(
        self,
        start: Start,
        *,
        sleep: Sleep = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        steps: Callable[[str], None] | None = None,
        meters: Meters | None = None,
    ) -> None:
        self.start, self.places = start, Places(start.storage)
        self.state, self.why = "starting", ""
        self.settled = asyncio.Event()  # the first attempt to begin is over
        self._sleep, self._uniform, self._steps = sleep, uniform, steps
        self._wall = SystemClock()
        self._stop, self._cancels = asyncio.Event(), True
        self._seen = Seen()
        self._trader: Holding | None = None
        self._lease = Lease(self.places.lease, self._wall, start.settings.trading.lease_seconds)
        self._began = self._wall.now()
        self._meters = None if meters is None else TradingMeters(meters, self._wall)

    # running

    async def run(self) -> None:
        """Begin, trade until it is over or stopped, and let everything go.

        Never raises but when it is cancelled: what went wrong is its state.
        """
        looking = None if self._meters is None else asyncio.create_task(self._look(self._meters))
        try:
            await self._run()
        except (HaltError, TransientError) as e:  # such as who keeps time, and has gone
            self._refuse(str(e))
        except Exception as e:  # the edge of the process: surfaced, and trading halts
            log.exception("the trader failed")
            with contextlib.suppress(HaltError):
                Switch(self.places.switch, self._wall).halt(NAME, f"{type(e).__name__}: {e}")
            self._refuse(f"{type(e).__name__}: {e}")
        finally:
            self.settled.set()
            if looking is not None and self._meters is not None:
                looking.cancel()
                self._look_once(self._meters)

    async def _look(self, meters: TradingMeters) -> None:
        while True:
            self._look_once(meters)
            await asyncio.sleep(LOOK_SECONDS)

    def _look_once(self, meters: TradingMeters) -> None:
        try:
            engine = None if self._trader is None else self._trader.engine
            meters.look(self.status(), engine is not None and engine.in_session)
        except Exception:  # what is looked at may be half made or gone: trading goes on
            log.debug("the status could not be read for metrics", exc_info=True)

    def _refuse(self, why: str) -> None:
        log.critical("the trader ends: %s", why)
        self.state, self.why = "refused", why

    async def _run(self) -> None:
        trader = await self._begin()
        if trader is None:
            self.state = "stopped"
            return
        self._trader = trader
        renewing = asyncio.create_task(self._renew())
        try:
            self.state, self.why = "trading", ""
            self.settled.set()
            loop = asyncio.create_task(trader.run(self._stop))
            await asyncio.wait({loop, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if renewing.done() and not loop.done():
                loop.cancel()
                await asyncio.gather(loop, return_exceptions=True)
                renewing.result()
            loop.result()
            if self._stop.is_set() and self._cancels:
                await self._wind_up(trader)
            await trader.bus.drain()
            self.state = "stopped" if self._stop.is_set() else "ended"
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            self._seen.last = self._status()
            self._trader = None
            await trader.close()
            self._lease.release()

    async def _begin(self) -> "Holding | None":
        """A trader that is connected and reconciled; none when it was stopped before."""
        wait, warned = FIRST_RETRY, ""
        while not self._stop.is_set():
            trader = Holding(
                self.start, self._wall, self._seen, self._sleep, self._uniform, self._meters
            )
            try:
                await trader.open(self._lease, self._steps)
                return trader
            except TransientError as e:
                await trader.close()
                self.state, self.why = "waiting", str(e)
            except UserError as e:  # of the decision service: away, or not ready
                await trader.close()
                if not _passes(e):
                    raise HaltError(e.what, e.cure) from e
                self.state, self.why = "waiting", str(e)
            except BaseException:
                await trader.close()
                self._lease.release()
                raise
            self._lease.release()
            if warned != self.why:
                log.warning("not trading yet: %s", self.why)
                warned = self.why
            self.settled.set()
            await _first(self._sleep(self._uniform(0.5 * wait, wait)), self._stop.wait())
            wait = min(2 * wait, LONGEST_RETRY)
        return None

    async def _renew(self) -> None:
        """Show that we live; ends with an error when our place was lost."""
        while True:
            self._lease.renew()
            await self._sleep(self.start.settings.trading.lease_seconds / 3)

    # asking and telling

    def status(self) -> dict[str, Any]:
        """What it is about, for JSON; see :func:`dpa.trading.status.status_of`."""
        return self._status()

    def _status(self) -> dict[str, Any]:
        switch = Switch(self.places.switch, self._wall).read()
        trader = self._trader
        found: dict[str, Any] = {
            "running": True,
            "state": self.state,
            "why": self.why,
            "pid": os.getpid(),
            "since": self._began.isoformat(),
            "level": switch.level.name,
            "level_by": switch.by,
            "level_why": switch.why,
            "level_since": switch.since.isoformat() if switch.since else None,
            "level_mark": switch.mark,
            "lease": {
                "holder": str(Lease.holder(self.places.lease) or ""),
                "token": self._lease.token,
            },
        }
        if trader is None or trader.dealer is None:
            kept = self._seen.last or {}
            return {**_nothing(self.start), **kept, **found}
        known = trader.status()
        differences = (*trader.dealer.breaks, *trader.dealer.suspected)
        found["differences"] = [str(difference) for difference in differences]
        if known.get("cash_difference"):
            found["differences"].append(f"cash: {difference_words(known['cash_difference'])}")
        return {**_nothing(self.start), **found, **known}

    async def command(
        self, name: str, by: str, why: str, seen: str | None = None
    ) -> dict[str, Any]:
        """Do what a person says; the status after it.

        Parameters
        ----------
        name : {"pause", "resume", "flatten", "kill", "stop", "adopt"}
        by, why : str
        seen : str, optional
            Mark of the level that is resumed from, or at which books are adopted; those two need
            it.

        Raises
        ------
        UserError
            A resume or an adoption without a name, or after something else than what was seen.
        """
        trader = self._trader
        clock = self._wall if trader is None else trader.clock
        switch = Switch(self.places.switch, clock)
        if name == "kill":
            return await self._kill(by, why)
        if name in ("resume", "adopt") and not seen:
            raise UserError(f"{name}: nobody said what was seen", "name the level_mark of a status")
        if name == "resume":
            switch.resume(by, why, seen)
        elif name == "adopt":
            await self._adopt(by, why, switch.read().mark == seen)
        elif name == "pause":
            switch.pause(by, why)
        elif name == "flatten":
            switch.flatten(by, why)
        elif name == "stop":
            await self.stop()
        else:
            raise UserError(f"no command {name!r}", "pause, resume, flatten, stop, kill or adopt")
        if trader is not None and trader.engine is not None:
            trader.engine.wake.set()
        return self.status()

    async def _adopt(self, by: str, why: str, is_seen: bool) -> None:
        """Take over what the broker holds; trading stays halted until it is resumed, too."""
        trader = self._trader
        if trader is None or trader.dealer is None:
            raise UserError("no trader is connected to a broker", "start it, and look again")
        if not is_seen:
            raise UserError("the level changed since it was seen", "look again, then adopt")
        found = await trader.dealer.adopt(by, why)
        if not found.clean:
            left = "; ".join(str(b) for b in (*found.breaks, *found.suspected))
            raise UserError(f"the books still differ: {left or 'not all was told'}", "adopt again")

    async def _kill(self, by: str, why: str) -> dict[str, Any]:
        """Through the trader's connection; through one of its own where that verifies nothing."""
        trader, killed = self._trader, None
        if trader is not None and trader.dealer is not None:
            killed = await trader.dealer.kill(by, why)
        if killed is None or not killed.verified:
            killed = await self._kill_directly(by, why)
        return {**self.status(), "killed": asdict(killed)}

    async def _kill_directly(self, by: str, why: str) -> Killed:
        """As ``dpa kill`` does: what an earlier trader left at the broker is there all the same."""
        settings, opened = self.start.settings, list[Broker]()

        async def connect() -> Broker:
            opened.append(await own_connection(settings, self.places, self._wall))
            return opened[0]

        switch = Switch(self.places.switch, self._wall)
        try:
            return await kill(
                *(switch, connect, self._wall, self._sleep, by, why, KILL_SECONDS),
                may_be_ours(settings),
            )
        finally:
            for broker in opened:
                await broker.close()

    async def stop(self, cancel: bool = True) -> None:
        """End: nothing new from now on, then cancel what works; positions stay."""
        self._cancels = cancel
        self._stop.set()

    async def _wind_up(self, trader: "Holding") -> None:
        """Cancel until no order of ours is left, or it has taken too long."""
        dealer = trader.dealer
        if dealer is None:
            return
        until = self._wall.elapsed() + WIND_UP_SECONDS
        while dealer.live_orders and self._wall.elapsed() < until:
            try:
                await dealer.cancel_all()
                await dealer.beat(trader.clock.now(), trader.feed.quotes())
            except DpaError as e:
                log.warning("orders could not be cancelled: %s", e)
                break
            await self._sleep(WIND_UP_PAUSE)
        if dealer.live_orders:
            self.why = f"{len(dealer.live_orders)} orders were still working; see 'dpa kill'"
            log.critical("the trader ends, and %s", self.why)


def _nothing(start: Start) -> dict[str, Any]:
    return {
        "broker": start.settings.trading.broker,
        "account": None,
        "connected": False,
        "virtual": start.keeper is not None or start.replay is not None,
        "positions": [],
        "orders": [],
        "limits": [],
        "refusals": [],
        "differences": [],
        "alerts": [],
    }


def _passes(error: UserError) -> bool:
    """Whether waiting may help."""
    from dpa.errors import ClusterUnavailable
    from dpa.serving.types import RequestError

    return isinstance(error, ClusterUnavailable) or (
        isinstance(error, RequestError) and error.status == 503
    )


async def _first(*waits: Awaitable[Any]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
